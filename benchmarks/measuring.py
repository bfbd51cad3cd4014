"""Measures rows: contestants in turns, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import os
import statistics
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.shape import Contestant, Row

_LONGEST_REASON = 300


@dataclass
class Series:
    """All that was measured of one thing.

    Attributes:
        unit: Of the values.
        values: In the order in which they were measured.
    """

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return min(self.values), max(self.values)


@dataclass
class Measured:
    """A row with its numbers.

    Attributes:
        row: What was measured.
        series: By name.
        missing: Contestants that could not take part, and why.
        failures: How often a contestant failed, and its last error.
        load: The machine's load average before and after.
        quick: Whether this was only a look: few rounds, and smaller work than the title says.
        machine: What the numbers depend on, the date among it; the same for all rows of one run of the benchmarks.
    """

    row: Row
    series: dict[str, Series] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    load: tuple[float, float] = (0.0, 0.0)
    quick: bool = False
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def medians(self) -> dict[str, float]:
        return {name: series.median for name, series in self.series.items()}


def measure(row: Row, bench: Bench) -> Measured:
    """Measures a row; a contestant that fails is counted, and the others go on."""
    measured = Measured(row, quick=bench.quick)
    before = os.getloadavg()[0]
    try:
        with row.contestants(bench) as contestants:
            present = [each for each in contestants if _is_here(each, measured)]
            for number in range(row.quick_rounds if bench.quick else row.rounds):
                _one_round(number, present, measured)
    except peers.Missing as missing:
        measured.missing["all"] = str(missing)
    except Exception as error:
        traceback.print_exc()
        measured.missing["all"] = _words(error)
    measured.load = before, os.getloadavg()[0]
    return measured


def _is_here(contestant: Contestant, measured: Measured) -> bool:
    if contestant.peer is None:
        return True
    try:
        peers.install(contestant.peer)
    except peers.Missing as missing:
        measured.missing[contestant.name] = str(missing)
        return False
    return True


def _one_round(number: int, contestants: Sequence[Contestant], measured: Measured) -> None:
    """Each contestant once; who begins changes from round to round."""
    first = number % len(contestants) if contestants else 0
    for contestant in [*contestants[first:], *contestants[:first]]:
        if number < contestant.rounds:
            _one_sample(contestant, measured)


def _one_sample(contestant: Contestant, measured: Measured) -> None:
    row = measured.row
    try:
        sample = contestant.measure()
    except Exception as error:
        times = measured.failures.get(contestant.name, (0, ""))[0] + 1
        measured.failures[contestant.name] = times, _words(error)
        print(f"  {contestant.name} failed: {error}", flush=True)
        return
    for name, value in sample.items():
        series = measured.series.setdefault(name, Series(row.units.get(name, row.unit)))
        series.values.append(value)
    print("  " + ", ".join(f"{name} {value:.4g}" for name, value in sample.items()), flush=True)


def _words(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1][:_LONGEST_REASON]
