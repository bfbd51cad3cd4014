"""A large argument: sent once to a host, however many workers it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.bench import Bench, Sessions
from benchmarks.shape import Contestant, Row, Sample, at_most_times

_MEGABYTES, _QUICK_MEGABYTES = 512, 64


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    work = {"work": "received", "arguments": [_QUICK_MEGABYTES if bench.quick else _MEGABYTES]}
    one, eight = (bench.argv("trx_session", settings={**work, "workers": workers}) for workers in (1, 8))
    torchrunx = bench.argv("torchrunx_session", "torchrunx", settings={**work, "workers": 1})
    with Sessions() as sessions:

        def ask(name: str, argv: list[str]) -> Sample:
            return {name: sessions.ask(argv)["seconds"]}

        yield [
            Contestant("trx, 8 workers", lambda: ask("trx, 8 workers", eight)),
            Contestant("trx, 1 worker", lambda: ask("trx, 1 worker", one)),
            Contestant("torchrunx, 1 worker", lambda: ask("torchrunx, 1 worker", torchrunx), "torchrunx", 2),
        ]


ROWS = [
    Row(
        name="arguments",
        title=f"an argument of {_MEGABYTES} MB for local workers",
        unit="s",
        aims=[at_most_times(1.5, "trx, 1 worker", "trx, 8 workers")],
        contestants=_contestants,
    )
]
