"""Ctrl-C for launches in other threads than the main one.

Python tells the main thread alone, and when that has ended of it, waits for all threads that are no daemons. A launch
in such a thread would go on, although the user has asked for the end.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

_LOOK = 0.25
"""Seconds between two looks at the main thread."""


def interruptible(future: Future[T]) -> T:
    """Waits for a result.

    Raises:
        KeyboardInterrupt: At Ctrl-C; in another thread than the main one, when that has ended of it.
    """
    while threading.current_thread() is not threading.main_thread() and not future.done():
        if _main_thread_was_interrupted():
            raise KeyboardInterrupt
        wait([future], _LOOK)
    return future.result()


def _main_thread_was_interrupted() -> bool:
    return not threading.main_thread().is_alive() and getattr(sys, "last_type", None) is KeyboardInterrupt
