"""A thread that does one thing after the other, and can be passed over where it is stuck."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

PATIENCE = 30.0
"""Seconds without any progress after which a writer is not waited for, once only its work is waited for."""


@dataclass(frozen=True, eq=False)
class _Step:
    """One thing to do.

    Attributes:
        call: Does it. Must not raise.
        size: Bytes of output that it deals with.
        taken: Called when it is done, or will not be.
    """

    call: Callable[[], None]
    size: int
    taken: Callable[[], None]


class Writer:
    """Does steps in the order in which they were put, in a thread of its own.

    A step may block: the steps behind it wait. When it is given up, they are dropped, and so is whatever is put until
    the step that blocks returns after all.

    Args:
        name: Of the thread.
        progress: A number that changes while a long step gets on.
        stuck: Called, from the thread that gives up, when it does.
    """

    def __init__(self, name: str, progress: Callable[[], int], stuck: Callable[[], None]) -> None:
        self._progress = progress
        self._stuck = stuck
        self._changed = threading.Condition()
        self._steps: deque[_Step] = deque()  # the first is under way
        self._done = 0
        self._seen: tuple[int, int] | None = None  # how far it had got when it was last looked at
        self._since = 0.0  # since when it is waited for to get on from there
        self._given_up = False
        self._closed = False
        self._lost = 0
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def put(self, call: Callable[[], None], size: int, taken: Callable[[], None]) -> None:
        """Queues a step; never blocks."""
        with self._changed:
            queued = not (self._given_up or self._closed)
            if queued:
                self._steps.append(_Step(call, size, taken))
                self._changed.notify_all()
            else:
                self._lost += size
        if not queued:
            taken()

    def watch(self, now: float, hurry: bool) -> None:
        """Gives up a writer that has made no progress for `PATIENCE` seconds, all of them in a hurry.

        Args:
            now: Seconds, on any monotonic clock.
            hurry: Whether somebody waits for nothing but what is queued.
        """
        with self._changed:
            at = (self._done, self._progress()) if self._steps and hurry else None
            if at is None or at != self._seen:
                self._seen, self._since = at, now
            dropped = self._drop() if now - self._since >= PATIENCE else ()
        self._let_go(dropped)

    def give_up(self) -> None:
        """Drops all that is queued, the step that is under way included."""
        with self._changed:
            dropped = self._drop()
        self._let_go(dropped)

    def take_lost(self) -> int:
        """How many bytes were dropped since the last call."""
        with self._changed:
            lost, self._lost = self._lost, 0
        return lost

    def close(self) -> None:
        """The thread ends when all that is queued is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Waits until it is closed and all is done or given up; False where `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed and not self._steps, max(0.0, timeout))

    def _work(self) -> None:
        while (step := self._next()) is not None:
            step.call()
            if self._is_counted(step):
                step.taken()

    def _drop(self) -> tuple[_Step, ...]:
        dropped = tuple(self._steps)
        self._steps.clear()
        self._changed.notify_all()
        self._given_up |= bool(dropped)
        self._lost += sum(step.size for step in dropped)
        return dropped

    def _let_go(self, dropped: tuple[_Step, ...]) -> None:
        if dropped:
            self._stuck()
        for step in dropped:
            step.taken()

    def _next(self) -> _Step | None:
        with self._changed:
            self._changed.wait_for(lambda: self._steps or self._closed)
            return self._steps[0] if self._steps else None

    def _is_counted(self, step: _Step) -> bool:
        """Notes that a step is done; False where it was given up meanwhile."""
        with self._changed:
            self._done += 1
            self._given_up = False
            if not self._steps or self._steps[0] is not step:
                return False
            self._steps.popleft()
            self._changed.notify_all()
            return True
