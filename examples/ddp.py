"""Plain DistributedDataParallel: every worker learns from its own share of the data, and all have the same weights.

`python examples/ddp.py` runs on this machine,
`python examples/ddp.py node1 node2` on all GPUs of these hosts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import trx

EPOCHS = 6
WANTED = torch.tensor([[1.0, -2.0, 3.0, -4.0]])  # the weights that are to be found


@dataclass
class Trained:
    rank: int
    world_size: int
    samples: int  # that this worker has seen in an epoch
    losses: list[float]  # of each epoch
    weights: Tensor


def train(epochs: int) -> Trained:
    """Runs on every worker, in a process group that is there already."""
    device = "cuda" if torch.cuda.is_available() else "cpu"  # trx has made this worker's own GPU the current one

    inputs = torch.randn(1024, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(inputs, inputs @ WANTED.T)
    sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(data)  # knows rank and world size by itself
    batches = DataLoader(data, batch_size=32, sampler=sampler)

    model = DistributedDataParallel(nn.Linear(4, 1).to(device))  # starts everywhere from the weights of rank 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    losses = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for x, y in batches:
            loss = mse_loss(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()  # averages the gradients of all workers
            optimizer.step()
        losses.append(loss.item())
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: loss {loss.item():.2g}")

    weights = model.module.weight.detach().cpu()
    return Trained(dist.get_rank(), dist.get_world_size(), len(sampler), losses, weights)


if __name__ == "__main__":
    hosts = sys.argv[1:]
    result = trx.launch(
        train,
        func_args=(EPOCHS,),
        hostnames=hosts or ["localhost"],
        workers_per_host="auto" if hosts else 2,
    )
    print("found", result.rank(0).weights.tolist(), "with", len(result), "workers")
