"""`import trx`: what a user waits for before anything was asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.bench import Bench
from benchmarks.shape import Contestant, Row, Sample, at_most

_CODE = """
import sys, time
before = len(sys.modules)
began = time.perf_counter()
import {module}
print(time.perf_counter() - began, len(sys.modules) - before, int("torch" in sys.modules))
"""


def _import(python: str, module: str) -> tuple[float, float, float]:
    argv = [python, "-c", _CODE.format(module=module)]
    words = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    seconds, modules, torch = (float(word) for word in words)
    return seconds, modules, torch


def _measure_trx() -> Sample:
    seconds, modules, torch = _import(sys.executable, "trx")
    return {"trx": seconds, "trx: modules": modules, "trx: torch among them": torch}


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    torchrunx = str(bench.python("torchrunx"))
    yield [
        Contestant("trx", _measure_trx),
        Contestant("torchrunx", lambda: {"torchrunx": _import(torchrunx, "torchrunx")[0]}, peer="torchrunx"),
        Contestant("torch", lambda: {"torch": _import(sys.executable, "torch")[0]}),
    ]


ROWS = [
    Row(
        name="import",
        title="`import trx`",
        unit="s",
        aims=[at_most(0.15, "s"), at_most(0, "modules", "trx: torch among them")],
        contestants=_contestants,
        rounds=11,
        units={"trx: modules": "modules", "trx: torch among them": "modules"},
        floor=frozenset({"torch"}),
    )
]
