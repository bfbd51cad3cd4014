"""Ray Train does the same: `TorchTrainer.fit`, as often as the driver asks; or once ("cold": true)."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time

from benchmarks.programs.talk import answer, serve, settings

os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

wanted = settings()


def nothing() -> None:
    """The work: the group is there already."""


def run() -> dict[str, float]:
    """Launches once; a cold launch starts Ray itself, too."""
    began = time.perf_counter()
    if not ray.is_initialized():
        ray.init(num_cpus=wanted["workers"] + 1, include_dashboard=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        trainer = TorchTrainer(
            nothing,
            torch_config=TorchConfig(backend=wanted["backend"]),
            scaling_config=ScalingConfig(num_workers=wanted["workers"], use_gpu=False),
            run_config=RunConfig(storage_path=directory),
        )
        trainer.fit()
    return {"seconds": time.perf_counter() - began}


if wanted.get("cold"):
    answer(**run())
    ray.shutdown()
    sys.exit()
run()
serve(run)
