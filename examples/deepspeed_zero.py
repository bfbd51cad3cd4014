"""DeepSpeed: ZeRO stage 2, by which every worker holds a part of the gradients and of the optimiser's state.

`python examples/deepspeed_zero.py` runs on this machine,
`python examples/deepspeed_zero.py node1 node2` on all GPUs of these hosts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import trx

STEPS = 80
BATCH = 32  # of one worker
WANTED = torch.arange(32.0).reshape(1, 32) / 32  # the weights that are to be found


@dataclass
class Trained:
    world_size: int
    stage: int
    here: int  # weights whose optimiser's state this worker holds
    losses: list[float]
    weights: Tensor


def train(steps: int) -> Trained:
    """Runs on every worker: DeepSpeed takes the process group that is there already."""
    if not torch.cuda.is_available():  # else it compiles collectives of its own for CPUs, which takes half a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    model = nn.Linear(32, 1, bias=False)
    engine, _, _, _ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": BATCH,
            "optimizer": {
                "type": "Adam",
                "params": {"lr": 0.05, "torch_adam": True},
            },  # torch's own
            "zero_optimization": {"stage": 2},
        },
    )

    torch.manual_seed(dist.get_rank())  # other data on each worker
    losses = []
    for _ in range(steps):
        inputs = torch.randn(BATCH, 32, device=engine.device)
        loss = mse_loss(engine(inputs), inputs @ WANTED.T.to(engine.device))
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())

    moments = engine.optimizer.state_dict()["base_optimizer_state"]
    here = sum(state["exp_avg"].numel() for state in moments["state"].values())
    return Trained(engine.world_size, engine.zero_optimization_stage(), here, losses, model.weight.detach().cpu())


if __name__ == "__main__":
    hosts = sys.argv[1:]
    result = trx.launch(
        train,
        func_args=(STEPS,),
        hostnames=hosts or ["localhost"],
        workers_per_host="auto" if hosts else 2,
        preload=["deepspeed"],  # imported once on each host, instead of by every worker
    )
    for rank, trained in enumerate(result):
        print(f"rank {rank} held the moments of {trained.here} of {trained.weights.numel()} weights")
    losses = result.rank(0).losses
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")
