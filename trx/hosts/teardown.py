"""Ends a channel from any thread, however far its opening has got."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class Closed(Exception):
    """Raised in a thread that is still opening what another thread has closed."""

    def __init__(self) -> None:
        super().__init__("the connection was given up")


class Teardown:
    """What has to be undone at the end, in the order in which it was done.

    This order, rather than its reverse, lets the first connection go first: what is tunnelled through it then ends by
    itself, instead of trying to say goodbye through a tunnel that may be stuck.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._undo: list[Callable[[], None]] = []
        self._over = threading.Event()

    @property
    def closed(self) -> bool:
        return self._over.is_set()

    def pause(self, seconds: float) -> None:
        """Waits.

        Raises:
            Closed: If it has been closed before or meanwhile.
        """
        if self._over.wait(seconds):
            raise Closed

    def add(self, undo: Callable[[], None]) -> None:
        """Has `undo` called by `close`; at once if it has been closed already.

        Raises:
            Closed: If it has been closed already.
        """
        with self._lock:
            if not self.closed:
                self._undo.append(undo)
                return
        undo()
        raise Closed

    def close(self) -> None:
        """Undoes everything. When it returns, everything is undone, even where another thread is doing it."""
        with self._closing:
            with self._lock:
                self._over.set()
                pending, self._undo = self._undo, []
            with ExitStack() as steps:  # goes on after an error; takes the last one first
                for undo in reversed(pending):
                    steps.callback(undo)

    def wait_for(self, function: Callable[[], T], timeout: float) -> T:
        """Calls `function`, which nothing can interrupt, in a thread of its own, and stops waiting when closed.

        Raises:
            TimeoutError: Where it takes longer than `timeout` seconds; the thread is left to itself then.
            Closed: If it has been closed before or meanwhile.
        """
        future: Future[T] = Future()

        def settle() -> None:
            try:
                result = function()
            except BaseException as error:
                _fail(future, error)
            else:
                with suppress(InvalidStateError):
                    future.set_result(result)

        give_up = partial(_fail, future, Closed())
        self.add(give_up)
        threading.Thread(target=settle, name="trx-wait", daemon=True).start()
        try:
            return future.result(max(timeout, 0.0))
        except FutureTimeout:
            raise TimeoutError(f"no answer within {timeout:g} s") from None
        finally:
            with self._lock, suppress(ValueError):
                self._undo.remove(give_up)


def _fail(future: Future[T], error: BaseException) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
