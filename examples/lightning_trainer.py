"""Lightning: its `Trainer` takes workers of trx for those of torchrun, and so needs no plug-in.

`python examples/lightning_trainer.py` runs on this machine,
`python examples/lightning_trainer.py node1 node2` on all GPUs of these hosts.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

import trx

EPOCHS = 6
WANTED = torch.tensor([[1.0, -2.0, 3.0, -4.0]])  # the weights that are to be found


class Regression(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        inputs, outputs = batch
        loss = mse_loss(self.linear(inputs), outputs)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.losses.append(float(self.trainer.callback_metrics["loss"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


@dataclass
class Trained:
    environment: str  # what Lightning took trx for
    world_size: int
    global_rank: int
    is_main: bool
    batches: int  # that this worker has seen in an epoch
    losses: list[float]  # of each epoch, averaged over all workers
    weights: Tensor


def train(epochs: int) -> Trained:
    """Runs on every worker: an ordinary use of the trainer, which has to be told what there is of hosts and GPUs."""
    inputs = torch.randn(1024, 4, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(TensorDataset(inputs, inputs @ WANTED.T), batch_size=32, shuffle=True)
    model = Regression()
    trainer = L.Trainer(
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        num_nodes=int(os.environ["GROUP_WORLD_SIZE"]),
        strategy="ddp",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, batches)  # gives each worker its own share of the data

    return Trained(
        environment=type(trainer.strategy.cluster_environment).__name__,
        world_size=trainer.world_size,
        global_rank=trainer.global_rank,
        is_main=trainer.is_global_zero,
        batches=int(trainer.num_training_batches),
        losses=model.losses,
        weights=model.linear.weight.detach().cpu(),
    )


if __name__ == "__main__":
    hosts = sys.argv[1:]
    result = trx.launch(
        train,
        func_args=(EPOCHS,),
        hostnames=hosts or ["localhost"],
        workers_per_host="auto" if hosts else 2,
        preload=["lightning"],  # imported once on each host, instead of by every worker
    )
    print("found", result.rank(0).weights.tolist(), "with", len(result), "workers")
