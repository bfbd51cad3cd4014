"""What becomes of signals that warn the launcher, or ask it to end.

A run passes warnings on, and is stopped by SIGTERM. From the start of a session to its end warnings kill nobody: one
may well come between two runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are passed on to the workers; Slurm can be told to send one before a job's time is up."""

_kernels_handler = ctypes.pythonapi.PyOS_getsig
"""Python's own `getsignal` does not know what is set past it, as by `faulthandler.register`."""
_kernels_handler.argtypes, _kernels_handler.restype = [ctypes.c_int], ctypes.c_void_p

_outliving: set[object] = set()
_set_here: dict[signal.Signals, int | None] = {}
"""Where `_outlive` was set, with what the kernel has called for it since."""


def _outlive(*_: object) -> None:
    """A handler and not SIG_IGN, which programs that the user starts meanwhile would inherit."""


@contextlib.contextmanager
def outlived() -> Iterator[None]:
    """Has warnings kill nobody, where the user has no handlers of his own, and this is the main thread.

    Sessions may end in another order than they began in: the last one puts everything back.
    """
    session = object()
    _outliving.add(session)
    if _in_main_thread():
        for number in WARNINGS:
            if _is_default(number):
                signal.signal(number, _outlive)
                _set_here[number] = _kernels_handler(number)
    try:
        yield
    finally:
        _outliving.remove(session)
        if _in_main_thread() and not _outliving:
            for number in filter(_is_outlived, WARNINGS):
                signal.signal(number, signal.SIG_DFL)


class Heeded:
    """What has come while signals were heeded.

    Attributes:
        terminated: Whether it was SIGTERM.
    """

    terminated = False


@contextlib.contextmanager
def heeded(warn: Callable[[int], None], terminate: Callable[[], None]) -> Iterator[Heeded]:
    """Takes the warnings and SIGTERM, where the user has no handlers of his own, and this is the main thread.

    Args:
        warn: Called with the number of each warning.
        terminate: Called once, at the first SIGTERM.
    """
    heard = Heeded()

    def on_warning(number: int, _: FrameType | None) -> None:
        warn(number)

    def on_termination(*_: object) -> None:
        if not heard.terminated:
            heard.terminated = True
            terminate()

    ours: dict[signal.Signals, Callable[[int, FrameType | None], None]]
    ours = {**dict.fromkeys(WARNINGS, on_warning), signal.SIGTERM: on_termination}
    free = [number for number in ours if _in_main_thread() and (_is_default(number) or _is_outlived(number))]
    before = {number: signal.signal(number, ours[number]) for number in free}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_default(number: signal.Signals) -> bool:
    return _kernels_handler(number) is None


def _is_outlived(number: signal.Signals) -> bool:
    return signal.getsignal(number) is _outlive and _kernels_handler(number) == _set_here[number]


def end_by(number: signal.Signals) -> None:
    """Ends this process as if the signal had not been heeded."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
