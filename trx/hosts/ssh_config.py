"""Reads ssh configuration files: the given one, or else the user's and the system's."""

from __future__ import annotations

import functools
import glob
import io
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SETTING = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.+)")
_DEEPEST_INCLUDE = 16

_WITHOUT_VALUE = frozenset({"canonical", "final"})
_WITH_VALUE = frozenset({"exec", "host", "originalhost", "user", "localuser"})
"""Criteria of `Match`, beside "all"."""


class BadConfiguration(Exception):
    """Raised where the ssh configuration, or a hostname, cannot be understood."""


def read(config_file: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """The text of each configuration file that counts, the most important first, with its `Include`s in place.

    Raises:
        BadConfiguration: Where `config_file` was given and cannot be read.
    """
    user = Path("~/.ssh").expanduser()
    if config_file is not None:
        path = Path(config_file).expanduser()
        try:
            return (_inline(path, user),)
        except OSError as error:
            raise BadConfiguration(f"the ssh configuration {path} cannot be read: {error.strerror}") from error
    texts = []
    for path, base in ((user / "config", user), (Path("/etc/ssh/ssh_config"), Path("/etc/ssh"))):
        if path.is_file() and os.access(path, os.R_OK):
            texts.append(_inline(path, base))
    return tuple(texts)


def _inline(path: Path, base: Path, depth: int = 0) -> str:
    """`path` with its `Include`d files in place (paramiko ignores them)."""
    lines = []
    section = "Host *"
    for line in path.read_text(errors="replace").splitlines():
        setting = _SETTING.match(line)
        keyword = setting.group(1).lower() if setting else ""
        if setting and keyword == "include":
            if depth == _DEEPEST_INCLUDE:
                raise BadConfiguration(f"the ssh configuration {path} includes too many levels of files")
            for pattern in shlex.split(setting.group(2)):
                for included in sorted(glob.glob(str(base / Path(pattern).expanduser()))):
                    lines.append(_inline(Path(included), base, depth + 1))
            lines.append(section)
            continue
        if keyword in ("host", "match"):
            line = _match_line(setting.group(2), path) if setting and keyword == "match" else line
            section = line
        lines.append(line)
    return "\n".join(lines)


def _match_line(criteria: str, path: Path) -> str:
    """A `Match` line as paramiko reads it, which takes other spellings for criteria that every host meets.

    Raises:
        BadConfiguration: Where ssh would refuse the line too, or trx cannot tell whether it is about a host.
    """
    where = f"the ssh configuration {path} has the line 'Match {criteria}'"
    try:
        words = shlex.split(criteria, comments=True)
    except ValueError as error:
        raise BadConfiguration(f"{where}, which cannot be read: {error}") from None
    found: list[str] = []
    criteria_before = 0
    while words:
        name, equals, value = words.pop(0).partition("=")
        negated, kind = name.startswith("!"), name.removeprefix("!").lower()
        if kind == "all" and not equals:
            if words or criteria_before > 1:
                raise BadConfiguration(f"{where}: 'all' stands alone, or after 'canonical' or 'final'")
            # Behind another criterion it says nothing, and paramiko refuses it there. No name matches the negation.
            return "Match " + ("!originalhost *" if negated else " ".join(found) or "all")
        criteria_before += 1
        if kind in _WITHOUT_VALUE and not equals:
            found.append(name.lower())
        elif kind in _WITH_VALUE and (value or words):
            found += [("!" if negated else "") + kind, shlex.quote(value or words.pop(0))]
        elif kind in _WITH_VALUE:
            raise BadConfiguration(f"{where}, where {name!r} has no value")
        else:
            raise BadConfiguration(f"{where}, and trx does not know the criterion {name!r}")
    if not found:
        raise BadConfiguration(f"{where}, which has no criterion")
    return "Match " + " ".join(found)


@functools.lru_cache(maxsize=8)
def parse(texts: tuple[str, ...]) -> Any:
    """A `paramiko.SSHConfig` of these texts, of which the first to set an option wins.

    Raises:
        BadConfiguration: Where one of them cannot be understood.
    """
    import paramiko

    config = paramiko.SSHConfig()
    try:
        for text in texts:
            config.parse(io.StringIO(text))
    except paramiko.SSHException as error:
        raise BadConfiguration(f"the ssh configuration cannot be understood: {error}") from error
    return config


def expand(value: str, tokens: Mapping[str, str]) -> str:
    """Replaces `%h` and the like by `tokens`, and a leading `~` by the home directory."""
    replaced = re.sub("%(.)", lambda found: tokens.get(found.group(1), found.group(0)), value)
    return os.path.expanduser(replaced)


def seconds(value: str) -> float | None:
    """`ConnectTimeout` and its like: "5", "90s", "1m30s"; None for "none" and whatever else is no time."""
    if not re.fullmatch(r"(\d+[smhdw]?)+", value.lower()):
        return None
    units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    parts = re.findall(r"(\d+)([smhdw]?)", value.lower())
    return float(sum(int(number) * units[unit] for number, unit in parts))
