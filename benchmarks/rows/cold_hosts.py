"""A cold launch on eight hosts, one worker each, that join a gloo group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.bench import Bench, at_launcher, cold, lab
from benchmarks.session import Popen
from benchmarks.shape import Contestant, Row, Sample, at_most_times


def _launch(name: str, argv: list[str], start: Popen) -> Sample:
    answer = cold(argv, start)
    return {name: answer["whole"], f"{name}: the call": answer["seconds"]}


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    with lab(8) as hosts:
        settings = {"cold": True, "workers": 1, "backend": "gloo", "hostnames": hosts.names}
        settings |= {"ssh_config": str(hosts.ssh_config)}
        start = at_launcher(hosts)
        trx, torchrunx = (
            bench.argv("trx_session", settings=settings),
            bench.argv("torchrunx_session", "torchrunx", settings=settings),
        )
        yield [
            Contestant("trx", lambda: _launch("trx", trx, start)),
            Contestant("torchrunx", lambda: _launch("torchrunx", torchrunx, start), peer="torchrunx"),
        ]


ROWS = [
    Row(
        name="cold_hosts",
        title="cold launch, 8 hosts × 1 worker, gloo",
        unit="s",
        aims=[at_most_times(0.45, "torchrunx")],
        contestants=_contestants,
        rounds=5,
        quick_rounds=1,
        note="hosts are namespaces with an sshd each, all on this machine's cores: each imports torch for itself",
    )
]
