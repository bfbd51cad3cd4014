"""Agents on 64 hosts, beside nothing but the SSH connections to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.bench import Bench, at_launcher, cold, lab
from benchmarks.shape import Contestant, Row, Sample, at_most_times

_HOSTS, _QUICK_HOSTS = 64, 16
_THREADS = 16


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    with lab(_QUICK_HOSTS if bench.quick else _HOSTS) as hosts:
        settings = {"hostnames": hosts.names, "ssh_config": str(hosts.ssh_config)}
        start = at_launcher(hosts)

        def launch(name: str, argv: list[str]) -> Sample:
            return {name: cold(argv, start)["seconds"]}

        bare = bench.argv("ssh_session", settings={**settings, "threads": _THREADS})
        command = f"{bench.python(None)} -c pass"
        starting = bench.argv("ssh_session", settings={**settings, "threads": _THREADS, "command": command})
        yield [
            Contestant("trx", lambda: launch("trx", bench.argv("hello_session", settings=settings))),
            Contestant("bare SSH", lambda: launch("bare SSH", bare)),
            Contestant("SSH, python -c pass", lambda: launch("SSH, python -c pass", starting)),
        ]


ROWS = [
    Row(
        name="hello",
        title=f"{_HOSTS} lab hosts, until all agents have said hello",
        unit="s",
        aims=[at_most_times(2.5, "bare SSH")],
        contestants=_contestants,
        rounds=5,
        quick_rounds=1,
        floor=frozenset({"bare SSH", "SSH, python -c pass"}),
        note="all on this machine's cores; torch is asleep there, since each real host imports it on its own",
    )
]
