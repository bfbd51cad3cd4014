"""The processes of a launch on a machine of the lab, as the real machine numbers them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..harness import Machine
from ..harness.leaks import inner_pid

_COOKIE = b"TRX_LAUNCH="


@dataclass(frozen=True)
class Family:
    """The line of trx's own processes on one host; `runner` is None between runs."""

    guardian: int
    agent: int
    forkserver: int
    runner: int | None
    cookie: str


def find_family(machine: Machine) -> Family | None:
    """That of the newest launch there; None where its forkserver is not yet, or no longer, there."""
    marked = _marked(machine)
    tops = [pid for pid in marked if _parent(pid) not in marked and b"trx_agent.forkserver" in _read(pid, "cmdline")]
    for forkserver in sorted(tops, key=_age):
        agent = _parent(forkserver)
        guardian = _parent(agent) if agent else None
        # Where they are ending, the forkserver may be somebody else's child by now.
        if not agent or not guardian or not (_is_agent(agent) and _is_agent(guardian)):
            continue
        runner = min((pid for pid in marked if _parent(pid) == forkserver), default=None)
        return Family(guardian, agent, forkserver, runner, marked[forkserver])
    return None


def of_runs(machine: Machine) -> list[str]:
    """Processes that should not be there between runs: all below the agent but one forkserver."""
    marked = _marked(machine)
    tops = [pid for pid in marked if _parent(pid) not in marked and b"trx_agent.forkserver" in _read(pid, "cmdline")]
    return [_described(pid) for pid in marked if pid not in tops]


def all_of(machine: Machine) -> list[str]:
    """Every process of any launch there, guardians and agents too; works also while nobody can reach the machine."""
    return [_described(pid) for pid in machine.pids() if _COOKIE in _read(pid, "environ") or _is_agent(pid)]


def outer_pid(machine: Machine, inner: int) -> int | None:
    """The number that the real machine gives to a process, where it still lives."""
    return next((pid for pid in machine.pids() if inner_pid(pid) == inner), None)


def _marked(machine: Machine) -> dict[int, str]:
    """Processes that carry a launch's cookie, with it."""
    found = {}
    for pid in machine.pids():
        words = _read(pid, "environ").split(b"\0")
        for word in words:
            if word.startswith(_COOKIE):
                found[pid] = word.decode()
    return found


def _is_agent(pid: int) -> bool:
    """Or a guardian, or what is still to become one."""
    return b"FileIO(0); exec(f.readline())" in _read(pid, "cmdline")


def _read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _parent(pid: int) -> int | None:
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).ppid())
    return None


def _age(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        return -float(psutil.Process(pid).create_time())
    return 0.0


def _described(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return f"pid {pid}, child of {process.ppid()}, {process.status()}: {' '.join(process.cmdline())[:120]}"
    return f"pid {pid}"
