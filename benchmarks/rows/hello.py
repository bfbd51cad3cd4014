"""Agents on 64 hosts, beside nothing but the SSH connections to them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.bench import Bench, at_launcher, cold, lab
from benchmarks.shape import Contestant, Row, Sample, at_most_times

_HOSTS, _QUICK_HOSTS = 64, 16
_THREADS = 16
_ZMQ = "import msgspec, zmq"  # what an agent decodes its orders with, and speaks through
_FORKSERVER = 'import subprocess, sys; subprocess.run([sys.executable, "-c", "pass"])'
_FLOORS = {
    "SSH, python -c pass": "pass",
    "SSH, import msgspec and zmq": _ZMQ,
    "the same, and a forkserver": f"{_ZMQ}; {_FORKSERVER}",  # begun before all else, as torch takes longest
}


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    with lab(_QUICK_HOSTS if bench.quick else _HOSTS) as hosts:
        settings = {"hostnames": hosts.names, "ssh_config": str(hosts.ssh_config), "asleep": _torch_asleep(bench)}
        start = at_launcher(hosts)

        def launch(name: str, argv: list[str]) -> Sample:
            return {name: cold(argv, start)["seconds"]}

        def starting(name: str, code: str) -> Contestant:
            command = f"{bench.python(None)} -c '{code}'"
            argv = bench.argv("ssh_session", settings={**settings, "threads": _THREADS, "command": command})
            return Contestant(name, lambda: launch(name, argv))

        bare = bench.argv("ssh_session", settings={**settings, "threads": _THREADS})
        yield [
            Contestant("trx", lambda: launch("trx", bench.argv("hello_session", settings=settings))),
            Contestant("bare SSH", lambda: launch("bare SSH", bare)),
            *(starting(name, code) for name, code in _FLOORS.items()),
        ]


def _torch_asleep(bench: Bench) -> str:
    """A directory with a module in torch's place: an import that costs nothing, for ever, with torch's own version."""
    folder = bench.scratch / "asleep" / "torch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import time\n\ntime.sleep(1_000_000)\n")
    (folder / "version.py").write_text(f"__version__ = {importlib.metadata.version('torch')!r}\n")
    return str(folder.parent)


ROWS = [
    Row(
        name="hello",
        title=f"{_HOSTS} lab hosts, until all agents have said hello",
        unit="s",
        aims=[at_most_times(2.5, "bare SSH")],
        contestants=_contestants,
        rounds=5,
        quick_rounds=1,
        floor=frozenset({"bare SSH", *_FLOORS}),
        note="all on this machine's cores; torch is asleep there, since each real host imports it on its own",
        if_missed=(
            "an agent speaks through zmq, in msgspec, and has torch imported by a process of its own meanwhile: on so "
            "few cores no hello can come before the last floor"
        ),
    )
]
