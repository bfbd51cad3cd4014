"""What users of torchrunx do, one test for each use that its documentation names, with another import.

What differs, and why, is in `docs/guide/coming-from-torchrunx.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
import tyro
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trx as torchrunx
from tests.integration.helpers import alive, log_files, rank, run_script, travels_by_value

travels_by_value(__name__)

ROOT = Path(__file__).parents[2]

# ---- names ----------------------------------------------------------------------------------------------------------

NAMES_OF_0_4 = {
    *("hostnames", "workers_per_host", "ssh_config_file", "backend", "worker_timeout", "agent_timeout"),
    *("copy_env_vars", "extra_env_vars", "env_file", "run", "set_logging_handlers"),
    *("Launcher", "LaunchResult", "AgentFailedError", "WorkerFailedError", "DEFAULT_ENV_VARS_FOR_COPY"),
    *("add_torchrunx_argument_group", "launcher_from_args", "TorchrunxClusterEnvironment"),
    *("TORCHRUNX_LOG_DIR", "TORCHRUNX_LOG_LEVEL"),
}


def test_every_name_is_the_same_or_its_successor_is_in_the_guide() -> None:
    settings = {field.name for field in dataclasses.fields(torchrunx.Launcher)}
    ours = settings | {*dir(torchrunx), *dir(torchrunx.Launcher)}
    told = (ROOT / "docs/guide/coming-from-torchrunx.md").read_text()

    assert [name for name in NAMES_OF_0_4 - ours if f"`{name}`" not in told] == []


# ---- functions and what they return ---------------------------------------------------------------------------------


def test_rank_0_trains_and_returns_the_model(tmp_path: Path) -> None:
    def train() -> nn.Module | None:
        model = nn.Linear(10, 10)
        in_step = DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(in_step.parameters())
        in_step(torch.randn(5, 10)).square().mean().backward()
        optimizer.step()
        return model if int(os.environ["RANK"]) == 0 else None

    result = torchrunx.launch(func=train, hostnames=["localhost"], workers_per_host=2)

    model = result.rank(0)
    assert result.rank(1) is None
    assert isinstance(model, nn.Linear)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    assert model(torch.randn(5, 10)).shape == (5, 10)


def test_arguments_by_position_and_by_name() -> None:
    def scaled(number: int, *, factor: int) -> int:
        return number * factor + rank()

    result = torchrunx.launch(
        func=scaled, func_args=(10,), func_kwargs={"factor": 3}, hostnames=["localhost"], workers_per_host=2
    )

    assert result.by_ranks() == [30, 31]


def test_results_by_rank_by_host_and_all() -> None:
    def number() -> int:
        return rank() * 10

    result = torchrunx.launch(number, hostnames=["localhost", "127.0.0.1"], workers_per_host=2, backend=None)

    assert [result.rank(i) for i in range(4)] == [0, 10, 20, 30]
    assert result.index("localhost", 1) == 10
    assert result.index(hostname="127.0.0.1", local_rank=0) == 20
    assert result.by_hostnames() == {"localhost": [0, 10], "127.0.0.1": [20, 30]}
    assert result.by_ranks() == [0, 10, 20, 30]


def test_launcher_is_a_dataclass_that_runs_functions() -> None:
    def add(first: int, second: int = 0) -> int:
        return first + second + dist.get_world_size()

    launcher = torchrunx.Launcher(hostnames=["localhost"], workers_per_host=2, backend="gloo")

    assert launcher.run(add, 1, second=2).by_ranks() == [5, 5]
    assert dataclasses.replace(launcher, workers_per_host=1).run(add, 1).by_ranks() == [2]


def test_functions_of_the_script_with_its_globals(tmp_path: Path) -> None:
    out = run_script(
        tmp_path,
        """
import os
import trx as torchrunx

OFFSET = 5

def number():
    return OFFSET + int(os.environ["RANK"])

if __name__ == "__main__":
    print(torchrunx.launch(number, hostnames=["localhost"], workers_per_host=2).by_ranks())
""",
    )

    assert out == "[5, 6]\n"


def test_train_on_many_then_test_on_one() -> None:
    """A launch cleans up after itself: the second finds nothing of the first."""

    def train() -> tuple[int, torch.Tensor]:
        weights = torch.full((4,), float(dist.get_rank()))
        dist.all_reduce(weights)
        return os.getpid(), weights

    def test(weights: torch.Tensor, pids: list[int]) -> tuple[float, int, list[int]]:
        return float(weights.mean()), dist.get_world_size(), alive(pids)

    trained = torchrunx.launch(train, hostnames=["localhost", "localhost"], workers_per_host=2)
    pids = [pid for pid, _ in trained]
    tested = torchrunx.launch(test, (trained.rank(0)[1], pids), hostnames=["localhost"], workers_per_host=1)

    assert tested.rank(0) == (6.0, 1, [])


# ---- how many workers -----------------------------------------------------------------------------------------------


def worlds() -> tuple[str, str]:
    return os.environ["LOCAL_WORLD_SIZE"], os.environ["WORLD_SIZE"]


def test_workers_of_each_host_by_a_list() -> None:
    result = torchrunx.launch(worlds, hostnames=["localhost", "127.0.0.1"], workers_per_host=[1, 2], backend=None)

    assert result.by_ranks() == [("1", "3"), ("2", "3"), ("2", "3")]


@pytest.fixture
def two_cpus() -> Iterator[int]:
    """Restricts this process, and so agents on localhost, to two CPUs at the most."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:2])
    yield len(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed)


def test_a_worker_for_each_cpu(two_cpus: int) -> None:
    assert len(torchrunx.Launcher(["localhost"], "cpu", backend=None).run(rank)) == two_cpus


def test_defaults_are_this_machine_with_a_worker_for_each_cpu_where_it_has_no_gpu(
    two_cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)

    result = torchrunx.launch(dist.get_backend, extra_env_vars={"CUDA_VISIBLE_DEVICES": ""})

    assert result.by_hostnames() == {"localhost": ["gloo"] * two_cpus}


def test_gpu_workers_are_refused_where_there_is_no_gpu() -> None:
    with pytest.raises(torchrunx.AgentFailedError, match="it has no GPU"):
        torchrunx.launch(
            rank, hostnames=["localhost"], workers_per_host="gpu", extra_env_vars={"CUDA_VISIBLE_DEVICES": ""}
        )


@pytest.mark.parametrize("setting", ["hostnames", "workers_per_host"])
def test_slurm_is_a_runtime_error_outside_an_allocation(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)

    settings: dict[str, Any] = {setting: "slurm"}
    with pytest.raises(RuntimeError, match="allocation"):
        torchrunx.launch(rank, **settings)


# ---- the environment ------------------------------------------------------------------------------------------------


def test_workers_know_who_they_are_by_their_environment() -> None:
    def who() -> list[str]:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        assert os.environ["MASTER_ADDR"]
        assert int(os.environ["MASTER_PORT"])
        return [os.environ[name] for name in names]

    result = torchrunx.launch(who, hostnames=["localhost"], workers_per_host=2, backend=None)

    assert result.by_ranks() == [["0", "0", "2", "2"], ["1", "1", "2", "2"]]


def test_variables_that_match_patterns_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at for each run, which is how it shows on the launcher's own machine."""

    def chosen() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith(("NCCL_", "MINE_", "OTHER"))}

    with torchrunx.Launcher(["localhost"], 1, backend=None, extra_env_vars=("MINE_*",)) as launcher:
        before = launcher.run(chosen).rank(0)
        for name in ("NCCL_DEBUG", "MINE_1", "OTHER"):  # by default, by the pattern, not at all
            monkeypatch.setenv(name, "set")
        after = launcher.run(chosen).rank(0)

    assert before == {}
    assert after == {"NCCL_DEBUG": "set", "MINE_1": "set"}


def test_variables_with_their_values() -> None:
    launcher = torchrunx.Launcher(["localhost"], 1, backend=None, extra_env_vars={"MINE": "for the workers"})

    assert launcher.run(os.getenv, "MINE").rank(0) == "for the workers"
    assert "MINE" not in os.environ


def test_env_file_is_sourced_by_a_shell(tmp_path: Path) -> None:
    file = tmp_path / "setup.sh"
    file.write_text("export DIRECTORY=/data/$(( 40 + 2 ))\n[ -d / ] && PLAIN=yes\n")

    result = torchrunx.launch(
        lambda: (os.environ["DIRECTORY"], os.environ["PLAIN"]),
        hostnames=["localhost"],
        workers_per_host=1,
        backend=None,
        env_file=file,
    )

    assert result.rank(0) == ("/data/42", "yes")


# ---- failures -------------------------------------------------------------------------------------------------------


class OutOfLuckError(Exception):
    pass


def test_launches_are_retried_in_a_loop(tmp_path: Path) -> None:
    def lucky_the_second_time(marker: Path) -> str:
        if rank() == 1 and not marker.exists():
            marker.touch()
            raise OutOfLuckError("at the first attempt")
        return "done"

    attempts = []
    for attempt in range(3):
        try:
            result = torchrunx.launch(
                lucky_the_second_time, (tmp_path / "tried",), hostnames=["localhost"], workers_per_host=2
            )
        except OutOfLuckError as error:
            attempts.append((attempt, str(error)))
        else:
            break

    assert attempts == [(0, "at the first attempt")]
    assert result.by_ranks() == ["done", "done"]


def test_killed_worker_is_a_worker_failed_error() -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(torchrunx.WorkerFailedError) as caught:
        torchrunx.launch(die, hostnames=["localhost"], workers_per_host=1, backend=None)

    assert caught.value.signal == signal.SIGKILL


def test_killed_agent_is_an_agent_failed_error() -> None:
    def kill_the_agent() -> None:
        parents = psutil.Process().parents()  # runner, forkserver, agent
        parents[2].kill()
        time.sleep(60)

    with pytest.raises(torchrunx.AgentFailedError) as caught:
        torchrunx.launch(kill_the_agent, hostnames=["localhost"], workers_per_host=1, backend=None)

    assert caught.value.hostname == "localhost"


# ---- logs -----------------------------------------------------------------------------------------------------------


def talk() -> None:
    print("printed by", rank())
    logging.getLogger("model").warning("warned by %d", rank())
    logging.getLogger("model").info("told by %d", rank())


def test_rank_0_is_shown_and_everybody_is_in_files(log_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torchrunx.launch(talk, hostnames=["localhost"], workers_per_host=2, backend=None)

    shown = capfd.readouterr().out
    assert "printed by 0" in shown
    assert "by 1" not in shown
    files = {name: path.read_text() for name, path in log_files(log_base).items()}
    for number in (0, 1):
        text = files[f"localhost[{number}].log"]
        assert f"printed by {number}" in text
        assert f"warned by {number}" in text
    assert (log_base / os.listdir(log_base)[0]).is_dir()


def test_log_files_can_be_turned_off_and_levels_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRX_LOG_DIR", "")
    monkeypatch.setenv("TRX_LOG_LEVEL", "WARNING")

    torchrunx.launch(talk, hostnames=["localhost"], workers_per_host=1, backend=None)

    assert list(tmp_path.iterdir()) == []
    shown = "".join(capfd.readouterr())
    assert "warned by 0" in shown
    assert "told by 0" not in shown


def test_handlers_made_by_a_function_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRX_LOG_DIR")
    monkeypatch.chdir(tmp_path)
    captured = io.StringIO()

    def handlers() -> list[logging.Handler]:
        filtered = logging.StreamHandler(captured)
        torchrunx.add_filter_to_handler(filtered, "localhost", 1, logging.WARNING)
        return [
            filtered,
            torchrunx.file_handler("localhost", 1, tmp_path / "one.log", logging.INFO),
            torchrunx.file_handler("localhost", None, tmp_path / "agent.log"),
            torchrunx.stream_handler("localhost", 0, logging.INFO),
        ]

    torchrunx.launch(talk, hostnames=["localhost"], workers_per_host=2, backend=None, log_handlers=handlers)

    text = (tmp_path / "one.log").read_text()
    assert "printed by 1" in text
    assert "told by 1" in text
    assert "by 0" not in text
    assert "warned by 1" in captured.getvalue()
    assert not {"printed by 1", "told by 1"} & set(captured.getvalue().splitlines())
    shown = capfd.readouterr().out
    assert "printed by 0" in shown
    assert "by 1" not in shown
    assert {path.name for path in tmp_path.iterdir()} <= {"one.log", "agent.log"}


def test_no_handlers_no_output(log_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torchrunx.launch(talk, hostnames=["localhost"], workers_per_host=1, backend=None, log_handlers=None)

    assert capfd.readouterr().out == ""
    assert not log_base.exists()


# ---- command lines --------------------------------------------------------------------------------------------------

OPTIONS = ["--hostnames", "localhost", "127.0.0.1", "--workers-per-host", "2", "--backend", "None"]


def test_tyro_makes_a_launcher() -> None:
    launcher = tyro.cli(torchrunx.Launcher, args=OPTIONS)

    assert launcher.run(rank).by_hostnames() == {"localhost": [0, 1], "127.0.0.1": [2, 3]}


def test_argparse_makes_a_launcher_beside_the_options_of_the_script() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int)
    torchrunx.add_argument_group(parser)

    arguments = parser.parse_args([*OPTIONS, "--steps", "7"])
    launcher = torchrunx.launcher_from_args(arguments)

    assert arguments.steps == 7
    assert launcher.run(rank).by_hostnames() == {"localhost": [0, 1], "127.0.0.1": [2, 3]}
