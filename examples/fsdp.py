"""FSDP2: every worker holds a part of each parameter, of its gradient, and of the optimiser's state.

`python examples/fsdp.py` runs on this machine,
`python examples/fsdp.py node1 node2` on all GPUs of these hosts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy

import trx

STEPS = 30
WORDS, WIDTH = 64, 32


@dataclass
class Trained:
    parameters: int  # of the whole model
    here: int  # those of them that this worker holds
    losses: list[float]
    weights: dict[str, Any]  # whole, on rank 0; empty elsewhere


def language_model() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(WIDTH, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, num_layers=2)
    return nn.Sequential(nn.Embedding(WORDS, WIDTH), encoder, nn.Flatten(0, 1), nn.Linear(WIDTH, WORDS))


def train(steps: int) -> Trained:
    """Learns that each word is followed by the next in the dictionary."""
    device = "cuda" if torch.cuda.is_available() else "cpu"  # trx has made this worker's own GPU the current one
    mesh = init_device_mesh(device, (dist.get_world_size(),))

    torch.manual_seed(0)  # the same start on every worker
    model = language_model().to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for layer in [module for module in model.modules() if isinstance(module, nn.TransformerEncoderLayer)]:
        fully_shard(layer, mesh=mesh)  # gathered when it is its turn
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    torch.manual_seed(dist.get_rank())  # but other data
    losses = []
    for _ in range(steps):
        words = torch.randint(WORDS, (16, 8), device=device)
        loss = cross_entropy(model(words), (words.flatten() + 1) % WORDS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    here = sum(part.to_local().numel() for part in model.parameters() if isinstance(part, DTensor))
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return Trained(parameters, here, losses, weights)


if __name__ == "__main__":
    hosts = sys.argv[1:]
    result = trx.launch(
        train,
        func_args=(STEPS,),
        hostnames=hosts or ["localhost"],
        workers_per_host="auto" if hosts else 2,
    )
    for rank, trained in enumerate(result):
        print(f"rank {rank} held {trained.here:,} of {trained.parameters:,} parameters")
    losses = result.rank(0).losses
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")
