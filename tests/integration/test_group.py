"""The process group that workers find initialised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import trx

from .helpers import travels_by_value

travels_by_value(__name__)

# Imported before the workers are forked. The last rank has told the others where it listens, and is slow to look where
# they do: for as long as nobody has left, or for a moment, where nobody can.
SLOW_JOINING = """
import os, time
from pathlib import Path
import torch.distributed as dist
from torch.distributed import distributed_c10d

def someone_has_left():
    return Path(os.environ["LEFT"], os.environ["TORCHELASTIC_RUN_ID"]).exists()

class SlowStore(dist.Store):
    def __init__(self, store):
        super().__init__()
        self.store, self.is_first = store, True

    def set(self, key, value):
        return self.store.set(key, value)

    def wait(self, keys, *timeout):
        return self.store.wait(keys, *timeout)

    def get(self, key):
        end = time.monotonic() + 0.7 * self.is_first
        while not someone_has_left() and time.monotonic() < end:
            time.sleep(0.01)
        self.is_first = False
        return self.store.get(key)

class Gloo(distributed_c10d.ProcessGroupGloo):
    def __init__(self, store, rank, size, **settings):
        self.store = SlowStore(store) if rank == size - 1 else store
        super().__init__(self.store, rank, size, **settings)

distributed_c10d.ProcessGroupGloo = Gloo
"""


def leave_at_once() -> str | None:
    import torch.distributed as dist

    dist.destroy_process_group()
    Path(os.environ["LEFT"], os.environ["TORCHELASTIC_RUN_ID"]).touch()
    return os.environ.get("TORCH_DIST_INIT_BARRIER")


@pytest.mark.timeout(120)
def test_ranks_that_are_done_at_once_do_not_disturb_those_that_still_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever leaves while others are still connecting looks to them like somebody who has failed.

    Which of two ranks connects to the other is a matter of chance, so not every run would show it.
    """
    (tmp_path / "slow_joining.py").write_text(SLOW_JOINING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    variables = {"LEFT": str(tmp_path)}
    with trx.Launcher(["localhost"], 4, backend="gloo", preload=["slow_joining"], extra_env_vars=variables) as launcher:
        for _ in range(8):
            assert launcher.run(leave_at_once).by_ranks() == [None] * 4


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch has CUDA")
def test_nccl_without_cuda_is_refused_in_words() -> None:
    with pytest.raises(RuntimeError, match=r'^backend "nccl" needs a torch with CUDA, and this is 2\.'):
        trx.launch(print, hostnames=["localhost"], workers_per_host=1, backend="nccl")
