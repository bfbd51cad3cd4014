"""Ending a tree of processes for good: politely first, then not, until nothing is left."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection
from pathlib import Path

import psutil

from trx_agent.linux import reap

UNKILLABLE = 2.0
"""Seconds after SIGKILL for which a process may go on; longer means that it hangs in the kernel (state D)."""

_FLAGS, _PENDING = 6, 28
"""Where these stand in a thread's `stat`, behind its name (proc(5)); the signals are its own ones."""

_ENDING = 0x4 | 0x400
"""PF_EXITING and PF_SIGNALED: a thread that has taken its SIGKILL has the second before it has the first."""


def descendants(root: int, spare: Collection[int] = ()) -> list[psutil.Process]:
    """The living processes below `root`, without those named in `spare` (whose own descendants do count)."""
    try:
        below = psutil.Process(root).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in below if process.pid not in spare and _alive(process)]


def has_ended(pid: int) -> bool:
    try:
        return not _alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def has_lost_its_head(pid: int) -> bool:
    """Whether the first thread of a process has ended, and others go on: its parent will not hear of it."""
    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):  # its parent may collect it at any moment
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return any(_goes_on(thread) for thread in Path(f"/proc/{pid}/task").glob("*/stat"))
    return False


def _goes_on(thread: Path) -> bool:
    """Whether a thread is not about to end. Those of a process that is killed take their time, the last one most."""
    try:
        fields = thread.read_text().rpartition(")")[2].split()
    except OSError:
        return False
    flags, pending = int(fields[_FLAGS]), int(fields[_PENDING])
    return not (flags & _ENDING or pending & 1 << signal.SIGKILL - 1)


def _alive(process: psutil.Process) -> bool:
    try:
        if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return True
        return bool(process.num_threads() > 1)  # only the first of its threads has ended
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process.send_signal(number)


class Felling:
    """The end of all processes below one. Pure bookkeeping around `descendants`: the caller's loop calls `step`.

    SIGTERM goes to `first` (the workers), which may want to save something; whatever outlives them gets its own SIGTERM
    then; all that is left at the deadline gets SIGKILL, again and again, since a process may fork while it is killed.

    Args:
        root: The process below which everything ends.
        spare: Pids that stay: trx's own processes.
        first: Pids to be ended before the others.
        asked: Pids that have had their SIGTERM already.
    """

    def __init__(
        self,
        root: int,
        spare: Collection[int],
        first: Collection[int],
        now: float,
        grace: float,
        asked: Collection[int] = (),
    ) -> None:
        self._root = root
        self._spare = frozenset(spare)
        self._first = frozenset(first)
        self._asked = set(asked)
        self.deadline = now + grace

    def hurry(self, deadline: float) -> None:
        self.deadline = min(self.deadline, deadline)

    def step(self, now: float) -> tuple[psutil.Process, ...] | None:
        """Signals whom it is time to signal.

        Returns:
            None where another step is needed; else what is left: nothing, or what cannot be killed.
        """
        alive = descendants(self._root, self._spare)
        if not alive:
            return ()
        if now >= self.deadline + UNKILLABLE:
            return tuple(alive)
        if now >= self.deadline:
            for process in alive:
                _signal(process, signal.SIGKILL)
            return None
        workers = [process for process in alive if process.pid in self._first]
        for process in workers or alive:
            if process.pid not in self._asked:
                self._asked.add(process.pid)
                _signal(process, signal.SIGTERM)
        return None


def describe(process: psutil.Process) -> str:
    try:
        return f"pid {process.pid} ({process.name()}, state {process.status()})"
    except psutil.NoSuchProcess:
        return f"pid {process.pid}"


def end_everything() -> None:
    """Kills all below this process, orphans that it has inherited too; what cannot be killed is not waited for."""
    felling = Felling(os.getpid(), (), (), time.monotonic(), grace=0.0)
    end = time.monotonic() + 2 * UNKILLABLE
    while felling.step(time.monotonic()) is None and time.monotonic() < end:
        select.select([], [], [], 0.01)
        reap()
