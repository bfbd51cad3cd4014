"""The mark of a process that imports modules only in order to load a function: `trx` within it refuses to launch.

It is a variable of the process: threads and forks of an import have it, and programs that are started do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_is_on = False


@contextmanager
def loading() -> Iterator[None]:
    """Marks this process until the block ends."""
    global _is_on
    _is_on = True
    try:
        yield
    finally:
        _is_on = False


def is_loading() -> bool:
    """Whether this process is within such a block."""
    return _is_on
