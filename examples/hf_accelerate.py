"""Hugging Face Accelerate: its `Accelerator` finds the process group of trx, and brings model and data into it.

`python examples/hf_accelerate.py` runs on this machine,
`python examples/hf_accelerate.py node1 node2` on all GPUs of these hosts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

import trx

EPOCHS = 6
WANTED = torch.tensor([[1.0, -2.0, 3.0, -4.0]])  # the weights that are to be found


@dataclass
class Trained:
    processes: int
    is_main: bool
    batches: int  # that this worker has seen in an epoch
    losses: list[float]  # of each epoch, averaged over all workers
    weights: Tensor


def train(epochs: int) -> Trained:
    """Runs on every worker: an ordinary loop of Accelerate's."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())  # unasked, it trains alone where there is no GPU

    inputs = torch.randn(1024, 4, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(TensorDataset(inputs, inputs @ WANTED.T), batch_size=32, shuffle=True)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)

    losses = []
    for epoch in range(epochs):
        for x, y in batches:
            loss = mse_loss(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
        accelerator.print(f"epoch {epoch}: loss {losses[-1]:.2g}")  # on the main process only

    weights = accelerator.unwrap_model(model).weight.detach().cpu()
    return Trained(accelerator.num_processes, accelerator.is_main_process, len(batches), losses, weights)


if __name__ == "__main__":
    hosts = sys.argv[1:]
    result = trx.launch(
        train,
        func_args=(EPOCHS,),
        hostnames=hosts or ["localhost"],
        workers_per_host="auto" if hosts else 2,
        preload=["accelerate"],  # imported once on each host, instead of by every worker
    )
    print("found", result.rank(0).weights.tolist(), "with", len(result), "workers")
