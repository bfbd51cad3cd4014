"""How a program speaks with the driver (`benchmarks/session.py`): a line with JSON for each line that it reads."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

MARK = "\x1ebench "

_driver = os.fdopen(os.dup(1), "w")


def settings() -> dict[str, Any]:
    """What the driver wants of this program; its own output goes to the file "terminal", where there is one."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    if "terminal" in found:
        os.dup2(os.open(found["terminal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
    return found


def answer(**numbers: float) -> None:
    """Tells the driver what was measured."""
    _driver.write(f"{MARK}{json.dumps(numbers)}\n")
    _driver.flush()


def serve(work: Callable[[], dict[str, float]]) -> None:
    """Says that all is ready, then works once for each line, until there is none."""
    answer()
    for _ in sys.stdin:
        answer(**work())
