"""Hosts × workers → ranks, environments, orders. Pure: no clock, no socket, no process."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trx.slurm import Allocation
from trx_agent.protocol.messages import Door, Hello

WorkersPerHost = int | str
"""A number, "auto" (GPUs, else CPUs), "gpu" or "cpu"; each host finds out what the latter three mean for itself."""


@dataclass(frozen=True)
class Host:
    """One agent that is to be started.

    Attributes:
        index: In the order of `hostnames`; torch's group rank.
        hostname: As the user named it.
        label: The same, numbered where a host is named twice ("node1", "node1#2"): unique within a launch.
        workers: How many workers, as the user said it.
        local: Whether it is the launcher's own machine.
    """

    index: int
    hostname: str
    label: str
    workers: WorkersPerHost
    local: bool


@dataclass(frozen=True)
class Worker:
    """One worker: who it is, and where."""

    rank: int
    local_rank: int
    host: Host


@dataclass(frozen=True)
class Assignment:
    """What one host's agent is told to run.

    Attributes:
        workers: In the order of their local ranks.
        environments: Of each of them: the variables that torchrun sets.
        first_gpu: Which of the host's GPUs local rank 0 has.
    """

    host: Host
    workers: tuple[Worker, ...]
    environments: tuple[dict[str, str], ...]
    first_gpu: int


def make_hosts(
    hostnames: Sequence[str], workers: Sequence[WorkersPerHost], allocation: Allocation | None = None
) -> tuple[Host, ...]:
    """The agents that are to be started.

    Args:
        hostnames: One for each.
        workers: How many each is to have.
        allocation: Whose hosts are reached by srun: which of them is the launcher's own machine, Slurm knows.
    """
    seen: Counter[str] = Counter()
    hosts = []
    for index, (hostname, count) in enumerate(zip(hostnames, workers, strict=True)):
        seen[hostname] += 1
        label = hostname if seen[hostname] == 1 else f"{hostname}#{seen[hostname]}"
        node = allocation.node(hostname) if allocation else None
        local = node == allocation.here if allocation and node else is_local(hostname)
        hosts.append(Host(index, hostname, label, count, local))
    return tuple(hosts)


def is_local(hostname: str) -> bool:
    """Whether a name means this very machine, for which no SSH is needed."""
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname in ("localhost", socket.gethostname())


def assign(hosts: Sequence[Host], hellos: Sequence[Hello], rendezvous: Door, run_id: str) -> tuple[Assignment, ...]:
    """Numbers the workers, host by host in the order of `hostnames`, and gives each its environment.

    Args:
        hosts: Of the launch.
        hellos: Of their agents, in the same order.
        rendezvous: Where the workers' store will listen.
        run_id: Unique for this run.
    """
    world_size = sum(hello.workers for hello in hellos)
    used_gpus: Counter[str] = Counter()
    assignments = []
    first = 0
    for host, hello in zip(hosts, hellos, strict=True):
        workers = tuple(Worker(first + local_rank, local_rank, host) for local_rank in range(hello.workers))
        environments = tuple(
            _environment(worker, hello.workers, world_size, len(hosts), rendezvous, run_id) for worker in workers
        )
        assignments.append(Assignment(host, workers, environments, used_gpus[host.hostname]))
        used_gpus[host.hostname] += hello.workers
        first += hello.workers
    return tuple(assignments)


def _environment(
    worker: Worker, local_world_size: int, world_size: int, hosts: int, rendezvous: Door, run_id: str
) -> dict[str, str]:
    variables = {
        "RANK": worker.rank,
        "LOCAL_RANK": worker.local_rank,
        "GROUP_RANK": worker.host.index,
        "ROLE_RANK": worker.rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": local_world_size,
        "GROUP_WORLD_SIZE": hosts,
        "ROLE_WORLD_SIZE": world_size,
        "ROLE_NAME": "default",
        "MASTER_ADDR": rendezvous.address,
        "MASTER_PORT": rendezvous.port,
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0,
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # the store is a process of its own: every rank is a client
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": 1,
    }
    return {name: str(value) for name, value in variables.items()}


def choose_backend(backend: str | None, hosts: Sequence[Host], hellos: Sequence[Hello]) -> str:
    """What "auto" means: nccl where every worker has a GPU of its own, else gloo. "" stands for no process group."""
    if backend != "auto":
        return backend or ""
    workers: Counter[str] = Counter()
    for host, hello in zip(hosts, hellos, strict=True):
        workers[host.hostname] += hello.workers
    enough = all(workers[host.hostname] <= hello.gpus for host, hello in zip(hosts, hellos, strict=True))
    return "nccl" if enough else "gloo"
