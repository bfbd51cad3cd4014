"""How many files the launcher may open at a time: as many as its hosts take, as long as a session lasts."""

from __future__ import annotations

import contextlib
import errno
import resource
import threading
from collections.abc import Iterator

_OF_LAUNCHER, _OF_A_HOST = 48, 4

_lock = threading.RLock()  # a session that is collected as garbage ends wherever the collector runs
_sessions: set[object] = set()
_usual: int | None = None
"""The limit that was there before it was raised."""


def _needed(hosts: int) -> int:
    return _OF_LAUNCHER + _OF_A_HOST * hosts


def check(hosts: int) -> None:
    """Raises OSError where this process cannot be allowed as many files as the connections to so many hosts take."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _needed(hosts)
    if most < needed:
        reason = f"this process may open only {most} files, and {hosts} hosts take {needed}: raise the limit"
        raise OSError(errno.EMFILE, f"{reason} (ulimit -n {needed})")


@contextlib.contextmanager
def allowed(hosts: int) -> Iterator[None]:
    """Raises the soft limit to what the connections take. The last session that ends takes it back."""
    global _usual
    session = object()
    with _lock:
        _sessions.add(session)
        soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < _needed(hosts):
            _usual = soft if _usual is None else _usual
            resource.setrlimit(resource.RLIMIT_NOFILE, (_needed(hosts), most))
    try:
        yield
    finally:
        with _lock:
            _sessions.remove(session)
            if _usual is not None and not _sessions:
                _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (min(_usual, most), most))
                _usual = None


def spare(child: int) -> None:
    """Gives a child that has just been started the usual limit: what uses select() relies on it."""
    usual = _usual
    if usual is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            _, most = resource.prlimit(child, resource.RLIMIT_NOFILE)
            resource.prlimit(child, resource.RLIMIT_NOFILE, (min(usual, most), most))
