"""What a launch costs while its workers work: a sample of what an hour would show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.bench import Bench, Sessions
from benchmarks.shape import Contestant, Row, Sample, at_most

_SECONDS, _QUICK_SECONDS = 20.0, 3.0
_LIFE = 3600.0


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    argv = bench.argv("idle_session", settings={"seconds": _QUICK_SECONDS if bench.quick else _SECONDS, "life": _LIFE})
    with Sessions() as sessions:

        def watch() -> Sample:
            percents = sessions.ask(argv)
            hours = {f"trx, {name}: in an hour": percent / 100 * _LIFE for name, percent in percents.items()}
            return {f"trx, {name}": percent for name, percent in percents.items()} | hours

        yield [Contestant("trx", watch)]


ROWS = [
    Row(
        name="idle",
        title="an idle run, 2 local workers",
        unit="% of a core",
        aims=[at_most(0.5, "% of a core", "trx, launcher"), at_most(0.5, "% of a core", "trx, agent")],
        contestants=_contestants,
        rounds=3,
        quick_rounds=1,
        units={"trx, launcher: in an hour": "s", "trx, agent: in an hour": "s"},
        note=f"looked at for 3 × {_SECONDS:.0f} s; what that would be in an hour is worked out, not waited for",
    )
]
