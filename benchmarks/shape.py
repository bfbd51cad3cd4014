"""What a row of the table is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from benchmarks.bench import Bench

Sample = Mapping[str, float]
"""What one measurement found, by the name of the series. Most contestants have one series, of their own name."""

Medians = Mapping[str, float]
"""Of a row, by the name of the series."""


@dataclass(frozen=True)
class Contestant:
    """Somebody who does the row's work.

    Attributes:
        name: In the table.
        measure: Does the work once.
        peer: Whose environment it needs; None: only that of trx.
        rounds: In how many of the row's rounds it takes part, at the most: for the very slow.
    """

    name: str
    measure: Callable[[], Sample]
    peer: str | None = None
    rounds: int = 1_000_000


@dataclass(frozen=True)
class Aim:
    """What trx must reach.

    Attributes:
        text: In the table.
        measured: Finds the number in the row's medians; KeyError where a series is missing.
        sense: Whether the number may be at the most, or must be at the least, `limit`.
        unit: Of the number; "×" for ratios.
    """

    text: str
    measured: Callable[[Medians], float]
    sense: Literal["≤", "≥"]
    limit: float
    unit: str

    def met(self, number: float) -> bool:
        return number <= self.limit if self.sense == "≤" else number >= self.limit


def at_most(limit: float, unit: str, series: str = "trx") -> Aim:
    """`series` is at most `limit`."""
    return Aim(f"{series} ≤ {limit:g} {unit}", lambda medians: medians[series], "≤", limit, unit)


def at_most_times(factor: float, than: str, series: str = "trx") -> Aim:
    """`series` is at most `factor` times as much as `than`."""
    text = f"{series} ≤ {factor:g} × {than}"
    return Aim(text, lambda medians: medians[series] / medians[than], "≤", factor, "×")


def at_least_times(factor: float, than: str, series: str = "trx") -> Aim:
    """`series` is at least `factor` times as much as `than`: for rates."""
    text = f"{series} ≥ {factor:g} × {than}"
    return Aim(text, lambda medians: medians[series] / medians[than], "≥", factor, "×")


def faster(factor: float, than: str, series: str = "trx") -> Aim:
    """`series` takes `factor` times less than `than`."""
    text = f"{series} {factor:g} × faster than {than}"
    return Aim(text, lambda medians: medians[than] / medians[series], "≥", factor, "×")


def at_most_more(limit: float, unit: str, than: str, series: str = "trx") -> Aim:
    """`series` is at most `limit` more than `than`."""
    text = f"{series} ≤ {than} + {limit:g} {unit}"
    return Aim(text, lambda medians: medians[series] - medians[than], "≤", limit, unit)


@dataclass(frozen=True)
class Row:
    """One kind of work, done by several contestants in turns.

    Attributes:
        name: By which it is chosen (`make bench ROWS=name`).
        title: In the table.
        unit: Of all series, but those named in `units`.
        aims: What trx must reach.
        contestants: Makes everything ready, and takes it away in the end.
        rounds: How often each contestant is measured.
        quick_rounds: The same, for a quick look.
        units: Units of the other series.
        fewer_is_better: Or whether the numbers are rates.
        floor: Series that are not products but what the machine needs in any case.
        compared: The series of trx that is compared with them.
        note: What else a reader should know.
        if_missed: Why, should an aim be missed: only what a floor of the row shows.
    """

    name: str
    title: str
    unit: str
    aims: Sequence[Aim]
    contestants: Callable[[Bench], AbstractContextManager[Sequence[Contestant]]]
    rounds: int = 7
    quick_rounds: int = 2
    units: Mapping[str, str] = field(default_factory=dict)
    fewer_is_better: bool = True
    floor: frozenset[str] = frozenset()
    compared: str = "trx"
    note: str = ""
    if_missed: str = ""
