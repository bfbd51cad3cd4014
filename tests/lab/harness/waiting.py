"""The one place of the lab that polls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Calls ``predicate`` until it answers something true, and returns that.

    Args:
        predicate: A cheap question without side effects.
        timeout: Seconds after which to give up.
        what: What is being waited for, for the error message.

    Raises:
        TimeoutError: The time is over and the last answer was still false.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return answer
