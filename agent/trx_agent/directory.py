"""The launch's directory on a host, and what was left by launches whose guardian and agent were killed together."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "trx-"
_COOKIE = 16  # so much of it is in a directory's name; with all of it, paths of sockets could get too long
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{{_COOKIE}}}-\w+")
_PATIENCE = 4.0


def make(cookie: str) -> Path:
    """A private directory, which counts as minded for as long as this process lives, or one that it forks.

    Raises:
        OSError: Where there is no room.
    """
    made = Path(tempfile.mkdtemp(prefix=_PREFIX))
    _lock(made)  # before it has the name by which others would look whether anybody minds it
    return made.rename(made.with_name(f"{_PREFIX}{cookie[:_COOKIE]}-{made.name.removeprefix(_PREFIX)}"))


def find_abandoned() -> list[Path]:
    """Directories of launches which this user made on this machine, and which nobody minds."""
    return [directory for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*") if _is_abandoned(directory)]


def clear(abandoned: list[Path]) -> None:
    """Removes directories, and kills what their launches have left running, unless one of their agents lives on."""
    for directory in abandoned:
        cookie = directory.name.removeprefix(_PREFIX).partition("-")[0]
        siblings = directory.parent.glob(f"{_PREFIX}{cookie}-*")
        if all(_is_abandoned(sibling) for sibling in siblings):
            _kill_all_of(cookie)
        shutil.rmtree(directory, ignore_errors=True)


def _is_abandoned(directory: Path) -> bool:
    """Whether it is one of ours by name, owner and mode, and nobody holds its lock."""
    if not _NAME.fullmatch(directory.name) or (descriptor := _lock(directory)) is None:
        return False
    try:
        facts = os.fstat(descriptor)
        return facts.st_uid == os.getuid() and facts.st_mode & 0o777 == 0o700
    finally:
        os.close(descriptor)


def _lock(directory: Path) -> int | None:
    """Takes the lock; None where another process has it, or where it cannot be told (on some network file systems)."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _kill_all_of(cookie: str) -> None:
    end = time.monotonic() + _PATIENCE
    while (left := list(_all_of(cookie))) and time.monotonic() < end:  # more may be forked meanwhile
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _all_of(cookie: str) -> Iterator[int]:
    from trx_agent.environment import COOKIE
    from trx_agent.tree import has_ended

    mark = f"{COOKIE}={cookie}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (path / "environ").read_bytes().split(b"\0")
            if any(variable.startswith(mark) for variable in variables) and not has_ended(int(path.name)):
                yield int(path.name)
