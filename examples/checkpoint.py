"""torch.distributed.checkpoint: two workers on each host train a model and save it in parts; three load it and go on.

`python examples/checkpoint.py` runs on this machine,
`python examples/checkpoint.py /shared/run1 node1 node2` on hosts that share a directory.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss

import trx

STEPS = 20
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class Trained:
    world_size: int
    begun_with: dict[str, Any]  # all weights, on rank 0; empty elsewhere
    ended_with: dict[str, Any]
    losses: list[float]
    updates: int  # that the optimiser has made, in earlier runs too


def train(directory: str, resume: bool, steps: int) -> Trained:
    """Trains a model of which every worker holds a part; begins, if it is to resume, with what the directory holds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"  # trx has made this worker's own GPU the current one
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 1)).to(device)
    fully_shard(model, mesh=init_device_mesh(device, (dist.get_world_size(),)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    if resume:
        weights, moments = get_state_dict(model, optimizer)
        dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=directory)  # each worker reads its new part
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    begun_with = get_model_state_dict(model, options=WHOLE)

    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).to(device)
    losses = []
    for _ in range(steps):
        loss = mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    if not resume:
        weights, moments = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=directory)  # each worker writes its part
    updates = int(optimizer.state_dict()["state"][0]["step"])
    return Trained(dist.get_world_size(), begun_with, get_model_state_dict(model, options=WHOLE), losses, updates)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        directory, hosts = (sys.argv[1], sys.argv[2:]) if sys.argv[1:] else (scratch, ["localhost"])
        saved = trx.launch(train, (directory, False, STEPS), hostnames=hosts, workers_per_host=2).rank(0)
        loaded = trx.launch(train, (directory, True, STEPS), hostnames=hosts, workers_per_host=3).rank(0)
    for trained in (saved, loaded):
        print(f"{trained.world_size} workers: loss {trained.losses[0]:.3f} → {trained.losses[-1]:.3f}")
