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
import zlib
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "trx-"
_COOKIE = 16  # so much of it is in a directory's name; with all of it, paths of sockets could get too long
_MACHINE = f"{zlib.crc32(os.uname().nodename.encode()):08x}"
"""Keeps machines apart that share a file system: on some of those, a lock counts only on the machine that has it."""

_NAME = re.compile(rf"{_PREFIX}(?P<cookie>[0-9a-f]{{{_COOKIE}}})-{_MACHINE}-\w+")
_PATIENCE = 4.0


def make(cookie: str) -> Path:
    """A private directory, which counts as minded for as long as this process lives, or one that it forks.

    Raises:
        OSError: Where there is no room.
    """
    made = Path(tempfile.mkdtemp(prefix=_PREFIX))
    _lock(made)  # before it has the name by which others would look whether anybody minds it
    return made.rename(made.with_name(f"{_PREFIX}{cookie[:_COOKIE]}-{_MACHINE}-{made.name.removeprefix(_PREFIX)}"))


def find_abandoned() -> list[Path]:
    """Directories of launches which this user made on this machine, and which nobody minds."""
    return [directory for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*") if _is_abandoned(directory)]


def clear(abandoned: list[Path]) -> None:
    """Removes directories, and kills what their launches have left running, unless one of their agents lives on.

    A launch whose environment has come down to this process is spared: its workers have handed it on, to a job that
    they have submitted for example, and who has it is no stray.
    """
    from trx_agent.environment import COOKIE

    for directory in abandoned:
        named = _NAME.fullmatch(directory.name)
        assert named is not None
        cookie = named["cookie"]
        siblings = directory.parent.glob(f"{_PREFIX}{cookie}-{_MACHINE}-*")
        if all(_is_abandoned(sibling) for sibling in siblings) and not os.environ.get(COOKIE, "").startswith(cookie):
            _kill_all_with(f"{COOKIE}={cookie}".encode())
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


def _kill_all_with(beginning: bytes) -> None:
    end = time.monotonic() + _PATIENCE
    while sum(_kill_with(beginning, pid) for pid in _pids()) and time.monotonic() < end:
        pass  # more may have been forked meanwhile


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").glob("[0-9]*"))


def _kill_with(beginning: bytes, pid: int) -> bool:
    """Kills a process in whose environment there is such a variable; returns whether there was one."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as leaving:
        process = os.pidfd_open(pid)  # first, since the number may become another process's
        leaving.callback(os.close, process)
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if any(variable.startswith(beginning) for variable in variables):
            signal.pidfd_send_signal(process, signal.SIGKILL)
            return True
    return False
