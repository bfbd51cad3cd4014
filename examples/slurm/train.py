"""Fits a line on all hosts of a Slurm allocation, and saves the weights when Slurm warns that the time is nearly up.

Submit it from its own directory, with the environment active in which trx is installed: sbatch train.sbatch
"""

from __future__ import annotations

import os
import signal
from types import FrameType

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trx

STEPS = 200


def train(checkpoint: str) -> tuple[float, float]:
    """Returns slope and offset; runs on every worker."""
    warned: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        warned.append(number)

    signal.signal(signal.SIGUSR1, remember)  # of #SBATCH --signal

    torch.manual_seed(0)
    gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if dist.get_backend() == "nccl" else None
    model = DistributedDataParallel(nn.Linear(1, 1).to(gpu))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    torch.manual_seed(dist.get_rank())  # each worker has data of its own
    for _ in range(STEPS):
        x = torch.rand(64, 1, device=gpu)
        loss = nn.functional.mse_loss(model(x), 3 * x + 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if warned and dist.get_rank() == 0:
            torch.save(model.module.state_dict(), checkpoint)
            warned.clear()
    return model.module.weight.item(), model.module.bias.item()


if __name__ == "__main__":
    result = trx.launch(train, ("weights.pt",), hostnames="slurm", workers_per_host="slurm")
    print(f"{len(result)} workers on {', '.join(result.by_hostnames())}")
    print("slope {:.1f}, offset {:.1f}".format(*result.rank(0)))
