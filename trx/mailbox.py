"""How other threads have something done by the engine's thread, and wait for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class EngineClosed(OSError):
    """The engine has ended, or ends, and answers nobody any more."""


class Mailbox:
    """Steps for one thread, put there by others.

    Args:
        wake: Makes the thread look into its mailbox soon. Called from other threads.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._steps: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._awaited: set[Future[Any]] = set()
        self._closed = False

    def post(self, step: Callable[[], None]) -> None:
        """Has a step done, some time; not at all once the mailbox is closed."""
        self._steps.put(step)
        self._wake()

    def expect(self, future: Future[Any]) -> None:
        """Somebody waits for this future: it gets an exception where the mailbox is closed before it has a result."""
        self._awaited.add(future)
        future.add_done_callback(self._awaited.discard)
        if self._closed:
            self.close()

    def call(self, function: Callable[[], T]) -> T:
        """Has a function called, and returns what it returns.

        Raises:
            EngineClosed: Where nobody is there any more to call it.
        """
        future: Future[T] = Future()

        def step() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.post(step)
        self.expect(future)
        return future.result()

    def empty(self) -> None:
        """Does all steps. To be called by the one thread that owns the mailbox."""
        while True:
            try:
                step = self._steps.get_nowait()
            except Empty:
                return
            step()

    def close(self) -> None:
        """Nothing is done any more: whoever waits is told."""
        self._closed = True
        for future in list(self._awaited):
            if not future.done():
                future.set_exception(EngineClosed("the launch has ended"))
