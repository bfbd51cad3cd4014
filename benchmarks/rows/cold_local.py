"""A cold launch of two workers on this machine that join a gloo group."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.bench import Bench, cold
from benchmarks.session import ROOT, run
from benchmarks.shape import Contestant, Row, Sample, at_most_times

_SCRIPT = ROOT / "benchmarks" / "programs" / "gloo_script.py"
_PEERS = ("torchrunx", "ray", "monarch")


def _torchrun() -> list[str]:
    module = [sys.executable, "-m", "torch.distributed.run"]  # what `torchrun` is
    port = random.randrange(20000, 30000)
    return [*module, "--nproc-per-node", "2", "--master-port", str(port), str(_SCRIPT)]


def _launch(name: str, argv: list[str]) -> Sample:
    answer = cold(argv)
    return {name: answer["whole"], f"{name}: the call": answer["seconds"]}


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    settings = {"cold": True, "workers": 2, "backend": "gloo"}
    trx = bench.argv("trx_session", settings=settings)
    torchrunx, ray, monarch = (bench.argv(f"{peer}_session", peer, settings=settings) for peer in _PEERS)
    yield [
        Contestant("trx", lambda: _launch("trx", trx)),
        Contestant("torchrun", lambda: {"torchrun": run(_torchrun())}),
        Contestant("torchrunx", lambda: _launch("torchrunx", torchrunx), peer="torchrunx"),
        Contestant("Ray Train", lambda: _launch("Ray Train", ray), peer="ray", rounds=3),
        Contestant("Monarch", lambda: _launch("Monarch", monarch), peer="monarch", rounds=3),
        Contestant("import torch", lambda: {"import torch": run([sys.executable, "-c", "import torch"])}),
    ]


ROWS = [
    Row(
        name="cold_local",
        title="cold launch, 2 local workers, gloo",
        unit="s",
        aims=[at_most_times(1.0, "torchrun"), at_most_times(1.4, "import torch")],
        contestants=_contestants,
        rounds=9,
        floor=frozenset({"import torch"}),
        note="whole scripts, from the start of Python to its end; torchrun's script imports torch and joins the group",
    )
]
