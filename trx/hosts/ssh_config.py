"""Reads ssh configuration files: the given one, or else the user's and the system's."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SETTING = re.compile(r"(\w+)(?:\s*=\s*|\s+)(.+)")
_DEEPEST_INCLUDE = 16


class BadConfiguration(Exception):
    """Raised where the ssh configuration, or a hostname, cannot be understood.

    Args:
        reason: What is wrong, and where.
        advice: What to do about it.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


@dataclass(frozen=True)
class Setting:
    """One line of an ssh configuration.

    Attributes:
        keyword: In lower case.
        value: The rest of the line, as it is written.
        where: The file and the number of the line; it does not make two settings different.
        included: What an `Include` stands for: files, each of them an `Include` of its own lines.
    """

    keyword: str
    value: str
    where: str = field(default="", compare=False)
    included: tuple[Setting, ...] = ()


def read(config_file: str | os.PathLike[str] | None) -> tuple[Setting, ...]:
    """The configuration files that count, the most important first, each as an `Include` of its lines.

    Raises:
        BadConfiguration: Where `config_file` was given and cannot be read, or a line is no setting.
    """
    user = Path("~/.ssh").expanduser()
    if config_file is not None:
        path = Path(config_file).expanduser()
        try:
            return (_file(path, user),)
        except OSError as error:
            raise BadConfiguration(f"the ssh configuration {path} cannot be read: {error.strerror}") from error
    files = []
    for path, base in ((user / "config", user), (Path("/etc/ssh/ssh_config"), Path("/etc/ssh"))):
        if path.is_file() and os.access(path, os.R_OK):
            files.append(_file(path, base))
    return tuple(files)


def _file(path: Path, base: Path, depth: int = 0) -> Setting:
    """`path` with its `Include`d files in place (paramiko ignores them)."""
    lines = enumerate(path.read_text(errors="replace").splitlines(), 1)
    stripped = ((number, line.strip()) for number, line in lines)
    settings = (
        _setting(line, f"{path} line {number}", path, base, depth)
        for number, line in stripped
        if line and not line.startswith("#")
    )
    return Setting("include", str(path), included=tuple(settings))


def _setting(line: str, where: str, path: Path, base: Path, depth: int) -> Setting:
    found = _SETTING.fullmatch(line)
    if found is None:
        raise BadConfiguration(f"the ssh configuration cannot be understood: {where}: {line!r} has no value")
    keyword, value = found.group(1).lower(), found.group(2)
    if keyword != "include":
        return Setting(keyword, value, where)
    if depth == _DEEPEST_INCLUDE:
        raise BadConfiguration(f"the ssh configuration {path} includes too many levels of files")
    patterns = (str(base / Path(pattern).expanduser()) for pattern in shlex.split(value))
    names = (name for pattern in patterns for name in sorted(glob.glob(pattern)))
    return Setting(keyword, value, where, tuple(_file(Path(name), base, depth + 1) for name in names))


def parse(settings: Iterable[Setting]) -> Any:
    """A `paramiko.SSHConfig` of settings that count for any host, of which the first to set an option wins.

    Raises:
        BadConfiguration: Where one of them cannot be understood.
    """
    import paramiko

    try:
        return paramiko.SSHConfig.from_text("".join(f"{setting.keyword} {setting.value}\n" for setting in settings))
    except paramiko.SSHException as error:
        raise BadConfiguration(f"the ssh configuration cannot be understood: {error}") from error


def substitute(value: str, tokens: Mapping[str, str]) -> str:
    """Replaces `%h` and the like by `tokens`."""
    return re.sub("%(.)", lambda found: tokens.get(found.group(1), found.group(0)), value)


def expand(value: str, tokens: Mapping[str, str]) -> str:
    """Replaces `%h` and the like by `tokens`, and a leading `~` by the home directory."""
    return os.path.expanduser(substitute(value, tokens))


def seconds(value: str) -> float | None:
    """`ConnectTimeout` and its like: "5", "90s", "1m30s"; None for "none" and whatever else is no time."""
    if not re.fullmatch(r"(\d+[smhdw]?)+", value.lower()):
        return None
    units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    parts = re.findall(r"(\d+)([smhdw]?)", value.lower())
    return float(sum(int(number) * units[unit] for number, unit in parts))
