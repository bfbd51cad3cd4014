"""Hosts × workers → ranks, environments, orders."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trx.plan import Host, assign, choose_backend, is_local, make_hosts
from trx_agent.protocol.messages import Door, Hello

DOOR = Door("10.0.0.1", 4001)
TORCHRUN = {
    *["RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"],
    *["WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"],
    *["MASTER_ADDR", "MASTER_PORT"],
    *["TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"],
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
}


def hello(workers: int, gpus: int = 0) -> Hello:
    return Hello(workers, gpus, 4, (), 1)


def hosts(*names: str) -> tuple[Host, ...]:
    return make_hosts(names, ["auto"] * len(names))


# ---- hosts ----------------------------------------------------------------------------------------------------------


def test_hosts_keep_their_order_names_and_workers() -> None:
    first, second = make_hosts(["node1", "fe80::2"], [8, "gpu"])
    assert first == Host(0, "node1", "node1", 8, False)
    assert second == Host(1, "fe80::2", "fe80::2", "gpu", False)


def test_a_host_that_is_named_twice_is_two_agents_with_labels_of_their_own() -> None:
    assert [host.label for host in hosts("a", "b", "a", "a")] == ["a", "b", "a#2", "a#3"]
    assert [host.hostname for host in hosts("a", "b", "a", "a")] == ["a", "b", "a", "a"]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "this-very-host"])
def test_this_machine_is_local(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "this-very-host")
    assert is_local(name)
    assert make_hosts([name], [1])[0].local


@pytest.mark.parametrize("name", ["node1", "10.0.0.1", "fe80::1%eth0", "localhost.example.org", "this", "127.0.0"])
def test_other_machines_are_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "this-very-host")
    assert not is_local(name)


# ---- ranks and environments -----------------------------------------------------------------------------------------


def test_workers_see_what_those_of_torchrun_see() -> None:
    _, second = assign(hosts("a", "b"), [hello(2), hello(3)], DOOR, "run-7")
    assert [worker.rank for worker in second.workers] == [2, 3, 4]
    assert set(second.environments[1]) == TORCHRUN
    assert second.environments[1] == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "1",
        "ROLE_RANK": "3",
        "ROLE_NAME": "default",
        "WORLD_SIZE": "5",
        "LOCAL_WORLD_SIZE": "3",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_WORLD_SIZE": "5",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "4001",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": "run-7",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }


def test_agents_of_one_host_share_out_its_gpus() -> None:
    assignments = assign(hosts("a", "b", "a", "a"), [hello(2), hello(4), hello(3), hello(1)], DOOR, "run")
    assert [each.first_gpu for each in assignments] == [0, 0, 2, 5]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_ranks_go_up_host_by_host_without_a_gap(counts: list[int]) -> None:
    names = [f"n{index}" for index in range(len(counts))]
    assignments = assign(hosts(*names), [hello(count) for count in counts], DOOR, "run")
    assert [each.host.hostname for each in assignments] == names
    workers = [worker for each in assignments for worker in each.workers]
    assert [worker.rank for worker in workers] == list(range(sum(counts)))
    for each, count in zip(assignments, counts, strict=True):
        assert [worker.local_rank for worker in each.workers] == list(range(count))
        for worker, environment in zip(each.workers, each.environments, strict=True):
            assert worker.host is each.host
            assert environment["RANK"] == str(worker.rank)
            assert environment["LOCAL_RANK"] == str(worker.local_rank)
            assert environment["WORLD_SIZE"] == str(sum(counts))
            assert environment["LOCAL_WORLD_SIZE"] == str(count)
            assert all(isinstance(value, str) for value in environment.values())


# ---- the backend ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "hellos", "backend"),
    [
        (["a"], [hello(2, gpus=2)], "nccl"),
        (["a"], [hello(1, gpus=2)], "nccl"),
        (["a"], [hello(3, gpus=2)], "gloo"),
        (["a", "b"], [hello(2, gpus=2), hello(2, gpus=0)], "gloo"),
        (["a", "b"], [hello(2, gpus=2), hello(4, gpus=4)], "nccl"),
        (["a", "a"], [hello(1, gpus=2), hello(1, gpus=2)], "nccl"),
        (["a", "a"], [hello(2, gpus=2), hello(1, gpus=2)], "gloo"),
    ],
)
def test_auto_is_nccl_where_every_worker_has_a_gpu_of_its_own(
    names: list[str], hellos: list[Hello], backend: str
) -> None:
    assert choose_backend("auto", hosts(*names), hellos) == backend


@pytest.mark.parametrize(("asked", "got"), [("gloo", "gloo"), ("cpu:gloo,cuda:nccl", "cpu:gloo,cuda:nccl"), (None, "")])
def test_a_backend_that_was_named_is_taken(asked: str | None, got: str) -> None:
    assert choose_backend(asked, hosts("a"), [hello(1, gpus=1)]) == got
