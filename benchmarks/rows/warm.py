"""Runs of a no-op in an open Launcher: what a second launch costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from benchmarks.bench import Bench, Sessions
from benchmarks.shape import Aim, Contestant, Row, Sample, at_most, faster


@contextmanager
def _contestants(bench: Bench, workers: int, backend: str | None) -> Iterator[Sequence[Contestant]]:
    settings: dict[str, object] = {"workers": workers, "backend": backend}
    with Sessions() as sessions:

        def ask(name: str, argv: list[str]) -> Sample:
            return {name: 1000 * sessions.ask(argv)["seconds"]}

        yield [
            Contestant("trx", partial(ask, "trx", bench.argv("trx_session", settings=settings))),
            Contestant("bare chain", partial(ask, "bare chain", bench.argv("bare_session", settings=settings))),
            *(_peer(bench, name, ask, settings) for name in _PEERS if backend or name != "ray"),
        ]


_PEERS = {"torchrunx": ("torchrunx", 3), "ray": ("Ray Train", 2), "monarch": ("Monarch", 5)}
_MANY = 8
_ROUNDS_OF_MANY = 2


def _peer(bench: Bench, name: str, ask: Callable[[str, list[str]], Sample], settings: dict[str, object]) -> Contestant:
    title, rounds = _PEERS[name]
    if settings["workers"] == _MANY:
        rounds = min(rounds, _ROUNDS_OF_MANY)
    return Contestant(title, partial(ask, title, bench.argv(f"{name}_session", name, settings=settings)), name, rounds)


def _row(workers: int, backend: str | None, milliseconds: float, *more: Aim) -> Row:
    return Row(
        name=f"warm_{workers}" + (f"_{backend}" if backend else ""),
        title=f"`run` of a no-op in an open `Launcher`, {workers} workers, {backend or 'no process group'}",
        unit="ms",
        aims=[at_most(milliseconds, "ms"), *more],
        contestants=partial(_contestants, workers=workers, backend=backend),
        rounds=31,
        quick_rounds=5,
        floor=frozenset({"bare chain"}),
    )


ROWS = [
    _row(2, None, 40, faster(50, "torchrunx")),
    _row(_MANY, None, 90),
    _row(2, "gloo", 80),
    _row(_MANY, "gloo", 220),
]
