"""Trains a small network on handwritten digits, on two agents of two workers each; then tests what came back.

Run it with `make demo`. To train on real hosts, put their names in `hostnames`: nothing else changes.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import trx

STEPS = 200
BATCH = 32  # of one worker
WANTED = 0.95


def digits(held_out: bool) -> tuple[Tensor, Tensor]:
    """Images of 8 × 8 pixels and what they show, 0 to 9: the 1,437 for training, or the 360 held out."""
    data = load_digits()
    images = torch.tensor(data.data / 16, dtype=torch.float32)
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = order[:360] if held_out else order[360:]
    return images[chosen], labels[chosen]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def train(steps: int) -> dict[str, Tensor]:
    """Runs on every worker. The process group is there already; each worker learns from its own share of the images."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    print(f"rank {rank} of {world_size}, local rank {os.environ['LOCAL_RANK']}")

    images, labels = digits(held_out=False)
    images, labels = images[rank::world_size], labels[rank::world_size]

    torch.manual_seed(rank)
    model = DistributedDataParallel(network())  # starts everywhere from the weights of rank 0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)

    with tqdm(range(steps), desc="training", disable=rank != 0) as progress:
        for _ in progress:
            batch = torch.randint(len(images), (BATCH,))
            loss = cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # averages the gradients of all workers
            optimizer.step()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)

    weights: dict[str, Tensor] = model.module.state_dict()
    return weights


def test(weights: dict[str, Tensor]) -> float:
    """The share of the held-out images that a network with these weights gets right."""
    model = network()
    model.load_state_dict(weights)
    images, labels = digits(held_out=True)
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    return float(right.float().mean())


def main() -> None:
    hostnames = ["localhost", "localhost"]  # a host that is named twice gets two agents
    weights = trx.launch(train, func_args=(STEPS,), hostnames=hostnames, workers_per_host=2).rank(0)
    accuracy = trx.launch(test, func_args=(weights,), hostnames=["localhost"], workers_per_host=1).rank(0)

    print(f"accuracy on held-out digits: {accuracy:.1%}")
    if accuracy <= WANTED:
        sys.exit(f"{WANTED:.0%} was wanted")


if __name__ == "__main__":
    main()
