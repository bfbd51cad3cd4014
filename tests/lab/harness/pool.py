"""Labs that several tests use one after the other."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .lab import Lab


class LabPool:
    """Keeps one lab for each way of making one.

    Args:
        exchange: A directory that every launcher shares with the tests.
    """

    def __init__(self, exchange: Path) -> None:
        self._exchange = exchange
        self._labs: dict[str, tuple[Lab, ExitStack]] = {}
        self._used: set[str] = set()

    def get(self, n: int = 4, **options: Any) -> Lab:
        """Returns a lab of n hosts without faults; ``options`` are those of `Lab`."""
        key = repr((n, sorted(options.items())))
        if key not in self._labs:
            stack = ExitStack()
            lab = stack.enter_context(Lab(n, exchange=[self._exchange], **options))
            self._labs[key] = lab, stack
        self._used.add(key)
        lab = self._labs[key][0]
        lab.snapshot()
        return lab

    def end_test(self) -> None:
        """Resets the labs used since the last call; closes one that cannot be."""
        while self._used:
            key = self._used.pop()
            lab, stack = self._labs[key]
            try:
                lab.reset()
            except BaseException:
                del self._labs[key]
                stack.close()
                raise

    def close(self) -> None:
        """Ends all labs."""
        while self._labs:
            _, (_, stack) = self._labs.popitem()
            stack.close()
