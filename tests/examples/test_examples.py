"""Each example, run as a user runs it, by what it leaves: the values that its launch returned, its output, its logs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

fsdp_without_a_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() or hasattr(torch.cpu.Stream, "record_event")),
    reason="fully_shard of this version of torch needs a GPU",
)

RUN = """
import cloudpickle, runpy, sys
path, *names = sys.argv[1:]
sys.argv, sys.path[0] = [path], path.rpartition("/")[0]
variables = runpy.run_path(path, run_name="__main__")
with open("left", "wb") as file:
    cloudpickle.dump([variables[name] for name in names], file)
"""
"""Python's own way to run a script, except that some of its variables are kept."""


@dataclass
class Left:
    """What is left of an example.

    Attributes:
        variables: Of the script, those that were asked for.
        output: What it printed.
        logs: The files of its last launch, by name.
    """

    variables: list[Any]
    output: str
    logs: dict[str, str]


def run(directory: Path, name: str, *variables: str) -> Left:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "agent")]),
        "TRX_LOG_DIR": str(directory / "logs"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", RUN, str(EXAMPLES / f"{name}.py"), *variables]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    launches = sorted((directory / "logs").iterdir())  # none is left of those that printed nothing
    logs = {path.name: path.read_text() for path in launches[-1].iterdir()} if launches else {}
    return Left(pickle.loads((directory / "left").read_bytes()), done.stdout, logs)


def assert_equal(tensors: list[torch.Tensor]) -> None:
    assert all(torch.equal(tensor, tensors[0]) for tensor in tensors)


def test_every_example_is_tested_and_listed_in_the_readme() -> None:
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    assert [name for name in names if f"test_{name}" not in globals()] == []
    readme = (ROOT / "README.md").read_text()
    assert [path.name for path in EXAMPLES.iterdir() if path.is_file() and f"examples/{path.name}" not in readme] == []


def test_train_then_test(tmp_path: Path) -> None:
    left = run(tmp_path, "train_then_test")

    assert float(left.output.rpartition(":")[2].strip(" %\n")) > 95


def test_ddp(tmp_path: Path) -> None:
    left = run(tmp_path, "ddp", "result", "WANTED")
    result, wanted = left.variables

    assert [(trained.rank, trained.world_size) for trained in result] == [(0, 2), (1, 2)]
    assert [trained.samples for trained in result] == [512, 512]
    assert_equal([trained.weights for trained in result])
    torch.testing.assert_close(result.rank(0).weights, wanted, atol=0.01, rtol=0)
    assert all(trained.losses[-1] < trained.losses[0] / 100 for trained in result)
    assert "epoch 0: loss" in left.logs["localhost[0].log"]
    assert "epoch" not in left.logs.get("localhost[1].log", "")


@fsdp_without_a_gpu
def test_fsdp(tmp_path: Path) -> None:
    (result,) = run(tmp_path, "fsdp", "result").variables

    assert len(result) == 2
    whole = result.rank(0).parameters
    assert sum(trained.here for trained in result) == whole
    assert all(0.4 < trained.here / whole < 0.6 for trained in result)
    assert sum(weight.numel() for weight in result.rank(0).weights.values()) == whole
    assert all(trained.losses[-1] < 0.5 < 4 < trained.losses[0] for trained in result)


@fsdp_without_a_gpu
def test_checkpoint(tmp_path: Path) -> None:
    saved, loaded = run(tmp_path, "checkpoint", "saved", "loaded").variables

    assert (saved.world_size, loaded.world_size) == (2, 3)
    assert saved.ended_with.keys() == loaded.begun_with.keys()
    for name, weight in saved.ended_with.items():
        assert not torch.equal(weight, saved.begun_with[name])
        assert_equal([weight, loaded.begun_with[name]])
    assert (saved.updates, loaded.updates) == (20, 40)  # the optimiser's state went on as well
    assert loaded.losses[-1] < loaded.losses[0] < saved.losses[-1] < saved.losses[0]


@pytest.mark.heavy
def test_hf_accelerate(tmp_path: Path) -> None:
    left = run(tmp_path, "hf_accelerate", "result", "WANTED")
    result, wanted = left.variables

    assert [(trained.processes, trained.is_main) for trained in result] == [(2, True), (2, False)]
    assert [trained.batches for trained in result] == [16, 16]  # of 32 of the whole
    assert_equal([trained.weights for trained in result])
    torch.testing.assert_close(result.rank(0).weights, wanted, atol=0.01, rtol=0)
    assert result.rank(0).losses == result.rank(1).losses
    assert result.rank(0).losses[-1] < result.rank(0).losses[0] / 100
    assert "epoch 0: loss" in left.logs["localhost[0].log"]
    assert "epoch" not in left.logs.get("localhost[1].log", "")


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_hf_trainer(tmp_path: Path) -> None:
    left = run(tmp_path, "hf_trainer", "result", "saved")
    result, saved = left.variables

    assert [(trained.world_size, trained.is_main) for trained in result] == [(2, True), (2, False)]
    assert len({trained.weights for trained in result}) == 1
    assert saved == pytest.approx(result.rank(0).weights)
    assert result.rank(0).losses[-1] < 1.5 < 3 < result.rank(0).losses[0]
    assert "'loss'" in left.logs["localhost[0].log"]
    assert "'loss'" not in left.logs.get("localhost[1].log", "")


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_lightning_trainer(tmp_path: Path) -> None:
    result, wanted = run(tmp_path, "lightning_trainer", "result", "WANTED").variables

    assert {trained.environment for trained in result} == {"TorchElasticEnvironment"}
    assert [(trained.world_size, trained.global_rank) for trained in result] == [(2, 0), (2, 1)]
    assert [trained.batches for trained in result] == [16, 16]  # of 32 of the whole
    assert [trained.is_main for trained in result] == [True, False]
    assert_equal([trained.weights for trained in result])
    torch.testing.assert_close(result.rank(0).weights, wanted, atol=0.01, rtol=0)
    assert result.rank(0).losses[-1] < result.rank(0).losses[0] / 100


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_deepspeed_zero(tmp_path: Path) -> None:
    result, wanted = run(tmp_path, "deepspeed_zero", "result", "WANTED").variables

    assert [(trained.world_size, trained.stage) for trained in result] == [(2, 2), (2, 2)]
    assert [trained.here for trained in result] == [wanted.numel() // 2] * 2
    assert_equal([trained.weights for trained in result])
    torch.testing.assert_close(result.rank(0).weights, wanted, atol=0.1, rtol=0)
    assert all(trained.losses[-1] < trained.losses[0] / 100 for trained in result)
