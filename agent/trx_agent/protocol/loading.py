"""The mark of a process that imports modules only in order to load a function: `trx` within it refuses to launch.

Threads and forks that such an import starts have the mark as long as the import goes on; programs that are started have
it not. It lies in shared memory, so that a fork sees when the import has ended: a pool that a module makes may launch
then.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_mark: mmap.mmap | None = None


@contextmanager
def loading() -> Iterator[None]:
    """Marks this process, and what is forked from it, until the block ends."""
    global _mark
    owner = os.getpid()
    mark = _mark = mmap.mmap(-1, 1)
    mark[0] = True
    try:
        yield
    finally:
        if os.getpid() == owner:
            mark[0] = False


def is_loading() -> bool:
    """Whether this process, or the one that it was forked from, is within such a block."""
    return _mark is not None and bool(_mark[0])
