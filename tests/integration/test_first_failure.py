"""Who is blamed where one rank's failure makes others fail."""

from __future__ import annotations

import pytest

import trx

from .helpers import travels_by_value

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
