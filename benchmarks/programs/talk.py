"""How a program speaks with the driver (`benchmarks/session.py`): a line with JSON for each line that it reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

MARK = "\x1ebench "


def settings() -> dict[str, Any]:
    """What the driver wants of this program."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def answer(**numbers: float) -> None:
    """Tells the driver what was measured."""
    sys.stdout.write(f"{MARK}{json.dumps(numbers)}\n")
    sys.stdout.flush()


def serve(work: Callable[[], dict[str, float]]) -> None:
    """Says that all is ready, then works once for each line, until there is none."""
    answer()
    for _ in sys.stdin:
        answer(**work())
