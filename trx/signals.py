"""What becomes of signals that warn the launcher, or ask it to end, while a run is on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are passed on to the workers; Slurm can be told to send one before a job's time is up."""


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
    if threading.current_thread() is not threading.main_thread():
        ours = {}
    free = {number: ours[number] for number in _free(ours)}
    for number, handler in free.items():
        signal.signal(number, handler)
    try:
        yield heard
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


def _free(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Those that nobody takes yet: by Python, or past it, as `faulthandler.register` does."""
    status = Path("/proc/self/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return [each for each in numbers if signal.getsignal(each) is signal.SIG_DFL and not caught >> (each - 1) & 1]


def end_by(number: signal.Signals) -> None:
    """Ends this process as if the signal had not been heeded."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
