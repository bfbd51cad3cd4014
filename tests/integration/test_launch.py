"""The main job on localhost: who runs, in which group, and what is refused before anything starts."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist

import trx

from .helpers import is_alive, on_rank, rank, travels_by_value

travels_by_value(__name__)

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def who() -> tuple[int, int, int, int]:
    return tuple(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK"))  # type: ignore[return-value]


def summed_ranks() -> int:
    total = torch.tensor([dist.get_rank() + 1])
    dist.all_reduce(total)
    return int(total)


def backend_of_the_group() -> str | None:
    return dist.get_backend() if dist.is_initialized() else None


# ---- results --------------------------------------------------------------------------------------------------------


def test_results_come_in_rank_order_even_if_rank_0_is_last(workers: trx.Launcher) -> None:
    def later_for_lower_ranks() -> int:
        time.sleep(0.2 * (1 - rank()))
        return rank()

    result = workers.run(later_for_lower_ranks)

    assert list(result) == [0, 1]
    assert result.by_ranks() == [0, 1]
    assert len(result) == 2


def test_result_of_one_worker_is_found_by_rank_and_by_host(workers: trx.Launcher) -> None:
    result = workers.run(who)

    assert result.rank(1) == (1, 1, 2, 0)
    assert result.index("localhost", 1) == (1, 1, 2, 0)
    assert result.by_hostnames() == {"localhost": [(0, 0, 2, 0), (1, 1, 2, 0)]}
    with pytest.raises(IndexError):
        result.rank(2)
    with pytest.raises(IndexError):
        result.index("localhost", 2)
    with pytest.raises(KeyError):
        result.index("elsewhere", 0)


def test_host_named_twice_is_two_agents_in_one_group_and_nothing_of_either_is_lost() -> None:
    def work() -> tuple[tuple[int, int, int, int], int, int]:
        return who(), summed_ranks(), os.getppid()

    result = trx.launch(work, hostnames=["localhost", "localhost"], workers_per_host=2, backend="gloo")

    assert [identity for identity, _, _ in result] == [(0, 0, 4, 0), (1, 1, 4, 0), (2, 0, 4, 1), (3, 1, 4, 1)]
    assert [total for _, total, _ in result] == [10] * 4
    assert len({parent for _, _, parent in result}) == 2
    assert len(result.by_hostnames()["localhost"]) == 4
    assert result.index("localhost", 3)[0] == (3, 1, 4, 1)


def test_workers_per_host_may_differ_from_host_to_host() -> None:
    result = trx.launch(who, hostnames=["localhost", "localhost"], workers_per_host=[1, 2], backend=None)

    assert list(result) == [(0, 0, 3, 0), (1, 0, 3, 1), (2, 1, 3, 1)]


def test_addresses_of_loopback_are_this_machine() -> None:
    result = trx.launch(who, hostnames=["127.0.0.1"], workers_per_host=1, backend=None)

    assert result.index("127.0.0.1", 0) == (0, 0, 1, 0)


# ---- how many workers -----------------------------------------------------------------------------------------------


@pytest.fixture
def two_cpus() -> Iterator[int]:
    """Restricts this process, and so agents on localhost, to two CPUs at the most."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:2])
    yield len(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("word", ["auto", "cpu"])
def test_without_gpus_there_is_a_worker_for_each_cpu_that_may_be_used(word: str, two_cpus: int) -> None:
    settings: Any = {"hostnames": ["localhost"], "workers_per_host": word, "extra_env_vars": NO_GPU}

    result = trx.launch(who, backend=None, **settings)

    assert len(result) == two_cpus


def test_gpu_workers_where_there_is_no_gpu_name_every_such_host() -> None:
    hosts: Any = {"hostnames": ["localhost", "localhost"], "workers_per_host": ["gpu", "gpu"]}

    with pytest.raises(trx.AgentFailedError, match="localhost, counting its GPUs: it has no GPU") as caught:
        trx.launch(who, extra_env_vars=NO_GPU, **hosts)

    assert caught.value.hostname == "localhost"
    assert [failure.hostname for failure in caught.value.failures] == ["localhost", "localhost#2"]


# ---- the process group ----------------------------------------------------------------------------------------------


def test_backend_by_name_gives_a_group_that_works(group: trx.Launcher) -> None:
    assert list(group.run(backend_of_the_group)) == ["gloo", "gloo"]
    assert list(group.run(summed_ranks)) == [3, 3]


def test_backend_auto_is_gloo_without_gpus() -> None:
    result = trx.launch(backend_of_the_group, hostnames=["localhost"], workers_per_host=1, extra_env_vars=NO_GPU)

    assert list(result) == ["gloo"]


def test_backend_none_leaves_the_group_to_the_function(workers: trx.Launcher) -> None:
    assert list(workers.run(backend_of_the_group)) == [None, None]


@pytest.mark.parametrize("attempt", ["first run", "second run"])
def test_users_own_init_process_group_works_in_every_run(workers: trx.Launcher, attempt: str) -> None:
    def own_group() -> tuple[int, int]:
        dist.init_process_group("gloo", init_method="env://")
        return summed_ranks(), dist.get_world_size()

    assert list(workers.run(own_group)) == [(3, 2), (3, 2)]


def test_group_may_be_destroyed_by_the_function(group: trx.Launcher) -> None:
    def destroy() -> bool:
        dist.destroy_process_group()
        return dist.is_initialized()

    assert list(group.run(destroy)) == [False, False]


def test_timeout_is_that_of_the_group() -> None:
    def timeout() -> timedelta:
        told: timedelta = dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout  # type: ignore[union-attr]
        return told

    with trx.Launcher(["localhost"], 2, backend="gloo", timeout=1.5, grace_period=1.0) as launcher:
        assert list(launcher.run(timeout)) == [timedelta(seconds=1.5)] * 2
        with pytest.raises(RuntimeError, match="1500ms") as caught:
            launcher.run(on_rank(0, dist.barrier))
        assert isinstance(caught.value, trx.WorkerFailedError)


def test_store_of_the_group_is_there_until_the_last_worker_has_ended(tmp_path: Path) -> None:
    """As with torchrun, whose agent keeps it. It is served on the first host, where rank 0 may have long returned."""

    def work() -> str:
        store = dist.distributed_c10d._get_default_store()
        if rank() == 0:
            (tmp_path / "pid").write_text(str(os.getpid()))
            store.set("from rank 0", "done")
            return ""
        store.wait(["from rank 0"])
        pid = int((tmp_path / "pid").read_text())
        while is_alive(pid):
            time.sleep(0.01)
        for number in range(20):
            store.set("late", str(number))
            time.sleep(0.05)
        return store.get("late").decode()

    result = trx.launch(work, hostnames=["localhost"] * 2, workers_per_host=1, backend="gloo")

    assert list(result) == ["", "19"]


# ---- what torchrun gives --------------------------------------------------------------------------------------------

TORCHRUN_GIVES = [
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "ROLE_NAME",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_ERROR_FILE",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "OMP_NUM_THREADS",
]


def test_workers_have_every_variable_that_torchrun_gives(workers: trx.Launcher) -> None:
    def variables() -> dict[str, str | None]:
        return {name: os.environ.get(name) for name in TORCHRUN_GIVES}

    for number, seen in enumerate(workers.run(variables)):
        assert None not in seen.values()
        assert seen["RANK"] == seen["ROLE_RANK"] == seen["LOCAL_RANK"] == str(number)
        assert seen["WORLD_SIZE"] == seen["ROLE_WORLD_SIZE"] == seen["LOCAL_WORLD_SIZE"] == "2"
        assert (seen["GROUP_RANK"], seen["GROUP_WORLD_SIZE"]) == ("0", "1")
        assert seen["TORCHELASTIC_USE_AGENT_STORE"] == "True"
        assert seen["OMP_NUM_THREADS"] == "1"


def test_torch_takes_the_launch_for_one_of_torchruns(workers: trx.Launcher) -> None:
    assert list(workers.run(dist.is_torchelastic_launched)) == [True, True]


def test_each_run_has_an_id_of_its_own(workers: trx.Launcher) -> None:
    first, second = (workers.run(lambda: os.environ["TORCHELASTIC_RUN_ID"]).by_ranks() for _ in range(2))

    assert len(set(first)) == len(set(second)) == 1
    assert first != second


# ---- hosts that cannot be used --------------------------------------------------------------------------------------


def test_interpreter_that_is_not_there_is_named() -> None:
    with pytest.raises(trx.AgentFailedError, match=re.escape("/no/such/python")) as caught:
        trx.launch(who, hostnames=["localhost"], workers_per_host=1, python="/no/such/python")

    assert caught.value.failures[0].stage == "starting Python"


def test_interpreter_that_ends_without_a_word_is_told_of() -> None:
    with pytest.raises(trx.AgentFailedError, match="localhost, starting Python: /bin/false ended with status 1"):
        trx.launch(who, hostnames=["localhost"], workers_per_host=1, python="/bin/false")


def test_working_directory_that_is_not_there_is_reported_for_all_hosts_at_once() -> None:
    with pytest.raises(trx.AgentFailedError, match="/no/such/directory: No such file") as caught:
        trx.launch(who, hostnames=["localhost", "localhost"], workers_per_host=1, cwd="/no/such/directory")

    assert [failure.hostname for failure in caught.value.failures] == ["localhost", "localhost#2"]
    assert {failure.stage for failure in caught.value.failures} == {"entering the working directory"}


def test_workers_run_in_the_directory_that_was_named(tmp_path: Path) -> None:
    result = trx.launch(os.getcwd, hostnames=["localhost"], workers_per_host=1, backend=None, cwd=tmp_path)

    assert result.rank(0) == str(tmp_path)


# ---- bad input ------------------------------------------------------------------------------------------------------


async def coroutine_function() -> None: ...


@pytest.mark.parametrize(
    ("func", "settings", "error", "words"),
    [
        (who, {"hostnames": []}, ValueError, "hostnames is empty"),
        (who, {"hostnames": 3}, TypeError, "must be a list of names"),
        (who, {"hostnames": ["node 1"]}, ValueError, "'node 1' cannot be the name of a host"),
        (who, {"hostnames": [""]}, ValueError, "'' cannot be the name of a host"),
        (who, {"hostnames": ["-oProxyCommand=x"]}, ValueError, "cannot be the name of a host"),
        (who, {"hostnames": [1]}, TypeError, "must be strings"),
        (who, {"workers_per_host": [1, 1]}, ValueError, "names 2 hosts, but there are 1"),
        (who, {"workers_per_host": 0}, ValueError, "at least 1, not 0"),
        (who, {"workers_per_host": -1}, ValueError, "at least 1, not -1"),
        (who, {"workers_per_host": 1.5}, TypeError, "must be a number"),
        (who, {"workers_per_host": "all"}, ValueError, "not 'all'"),
        (who, {"backend": "glue"}, ValueError, "torch knows no backend"),
        (who, {"timeout": 0}, ValueError, "more than 0 seconds"),
        (who, {"timeout": "long"}, TypeError, "number of seconds"),
        (who, {"env_file": "/no/such/file"}, FileNotFoundError, "env_file: there is no file '/no/such/file'"),
        (who, {"ssh_config_file": "/no/such/file"}, FileNotFoundError, "ssh_config_file: there is no file"),
        (who, {"extra_env_vars": "PATH"}, TypeError, "extra_env_vars must be a list"),
        (who, {"extra_env_vars": {"A=B": "1"}}, ValueError, "cannot be an environment variable"),
        (42, {}, TypeError, "must be a function"),
        (coroutine_function, {}, TypeError, "coroutine function"),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(
    func: Any, settings: dict[str, Any], error: type[Exception], words: str, log_base: Path
) -> None:
    before = psutil.Process().children(recursive=True)

    with pytest.raises(error, match=re.escape(words)):
        trx.launch(func, **{"hostnames": ["localhost"], "workers_per_host": 1, **settings})

    assert psutil.Process().children(recursive=True) == before
    assert not log_base.exists()


def test_function_that_cannot_be_pickled_is_refused_by_the_name_of_the_culprit(log_base: Path) -> None:
    generator = (number for number in range(3))

    def use_it() -> int:
        return next(generator)

    with pytest.raises(TypeError, match="the function → function use_it → closure variable generator"):
        trx.launch(use_it, hostnames=["localhost"], workers_per_host=1)

    assert not log_base.exists()


def test_argument_that_cannot_be_pickled_is_refused_by_its_name(log_base: Path) -> None:
    culprit = {"rows": [1, (number for number in range(3))]}

    with pytest.raises(TypeError, match=re.escape("argument 'data' → ['rows'] → [1]")):
        trx.launch(print, func_kwargs={"data": culprit}, hostnames=["localhost"], workers_per_host=1)

    assert not log_base.exists()
