"""SIGKILL of a worker: how long until the launcher raises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from benchmarks.bench import Bench, Sessions
from benchmarks.shape import Contestant, Row, Sample, at_most


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    path = bench.scratch / "killed"
    settings = {"workers": 2, "work": "killed", "arguments": [str(path)]}
    with Sessions() as sessions:

        def ask(name: str, argv: list[str]) -> Sample:
            ended = sessions.ask(argv)["ended"]
            return {name: 1000 * (ended - float(path.read_text()))}

        torchrunx = bench.argv("torchrunx_session", "torchrunx", settings=settings)
        yield [
            Contestant("trx", partial(ask, "trx", bench.argv("trx_session", settings=settings))),
            Contestant("torchrunx", partial(ask, "torchrunx", torchrunx), "torchrunx", 5),
        ]


ROWS = [
    Row(
        name="killed",
        title="SIGKILL of a worker → exception in the launcher",
        unit="ms",
        aims=[at_most(60, "ms")],
        contestants=_contestants,
        rounds=21,
        quick_rounds=3,
        note="the other worker is busy",
    )
]
