"""Who is blamed where one rank's failure makes others fail."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import trx

from .helpers import is_alive, rank, travels_by_value, wait_until

travels_by_value(__name__)


def fail_amid_collectives(culprit: int) -> None:
    import torch
    import torch.distributed as dist

    for step in range(30):
        if step == 10 and dist.get_rank() == culprit:
            raise ValueError("mine", culprit)
        dist.all_reduce(torch.ones(1000))


@pytest.mark.timeout(120)
def test_the_rank_that_raised_is_blamed_and_not_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its peers lose their connections to it and raise as well, on other hosts too; they must not be heard first."""
    monkeypatch.setenv("TRX_LOG_DIR", "")
    with trx.Launcher(["localhost", "localhost"], 2) as launcher:
        for culprit in (0, 1, 2, 3) * 4:
            with pytest.raises(ValueError, match="mine") as caught:
                launcher.run(fail_amid_collectives, culprit)
            assert isinstance(caught.value, trx.WorkerFailedError)
            assert caught.value.rank == culprit


def lose_a_peer(told: Path) -> None:
    """Rank 1 raises because rank 0 has died, of which the runner, which is stopped, tells only a while later."""
    victim = told / "victim"
    if rank() == 0:
        (told / "part").write_text(str(os.getpid()))
        (told / "part").rename(victim)
        time.sleep(60)
    wait_until(victim.exists, "rank 0 is there")
    runner, pid = os.getppid(), int(victim.read_text())
    os.kill(runner, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "rank 0 is dead")
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(0.75)  # the agent knows what was raised; what is heard so much later is no news that was overtaken
        os.kill(runner, signal.SIGCONT)
        os._exit(0)
    raise ConnectionError("lost")


def test_a_death_that_is_still_to_be_told_is_blamed_before_what_was_raised_because_of_it(tmp_path: Path) -> None:
    with pytest.raises(trx.WorkerFailedError) as caught:
        trx.launch(lose_a_peer, (tmp_path,), hostnames=["localhost"], workers_per_host=2, backend=None, grace_period=2)

    assert (caught.value.rank, caught.value.signal) == (0, signal.SIGKILL)
    assert [failure.rank for failure in caught.value.failures] == [0, 1]
    assert "ConnectionError: lost" in caught.value.failures[1].summary
