"""The rows: each file has one or several, and whoever adds a file adds rows."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.shape import Row

ORDER = (
    "imports",
    "cold_local",
    "cold_hosts",
    "warm",
    "killed",
    "returned",
    "arguments",
    "lines",
    "hello",
    "agents",
    "idle",
)
"""Of files; others come after these."""


def all_rows() -> list[Row]:
    """In the order of the table."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    names.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [row for module in modules for row in module.ROWS]
