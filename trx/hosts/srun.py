"""Starts an agent on a host of the Slurm allocation, as the one task of a step of its own.

A step for each host, and not one step with a task on each: srun can hand the same stdin to all tasks or to one, but
every agent has keys of its own to read there; and the end of one host's srun is the end of that host, by name.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Mapping

from trx.errors import HostFailure
from trx.hosts import shell
from trx.hosts.channel import HostUnusable
from trx.hosts.child import Child, ChildChannel
from trx.slurm import Allocation, for_srun, granted_gpus

_STARTING = "starting a step by srun"
_BY_HAND = "does it work by hand? Try: srun --overlap hostname"
_TOO_OLD = 'trx needs the srun of Slurm 20.11 or later; or set start="ssh"'
_COMPLAINT = re.compile(r"srun: (?:error: (?P<error>.*)|(?P<old>unrecognized option .*))")


class SrunChannel(ChildChannel):
    """See `Channel`.

    Args:
        label: What people call this host.
        node: What Slurm calls it.
        allocation: That the node belongs to.
        local: Whether it is the launcher's own machine.
        python: Path of the interpreter there.
        environment: What the interpreter needs in its environment in order to start.
        timeout: How many seconds Slurm may take to start the step.
    """

    def __init__(
        self,
        label: str,
        node: str,
        *,
        allocation: Allocation,
        local: bool,
        python: str,
        environment: Mapping[str, str],
        timeout: float,
    ) -> None:
        self._label = label
        self._node = node
        self._allocation = allocation
        self._local = local
        self._prelude = shell.prelude(python, environment)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._closed = False

    def open(self) -> None:
        """See `Channel.open`."""
        try:
            gpus = granted_gpus(self._allocation.job_id)
            child = Child(step(self._allocation, self._node, gpus, self._timeout), for_srun(os.environ))
        except (OSError, RuntimeError) as error:
            raise HostUnusable(HostFailure(self._label, _STARTING, str(error))) from None
        with self._lock:
            self._child = child
            if self._closed:
                child.close()
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and says why
            child.write(self._prelude)

    def launcher_address(self) -> str:
        """See `Channel.launcher_address`: that by which this machine would send to the node."""
        if self._local:
            return "127.0.0.1"
        try:
            family, kind, _, _, address = socket.getaddrinfo(self._node, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                probe.connect(address)  # sends nothing
                return str(probe.getsockname()[0])
        except OSError as error:
            reason = f"it is not known how {self._node} reaches this machine: {error.strerror or error}"
            raise HostUnusable(HostFailure(self._label, "resolving its name", reason)) from None

    def forward(self, port: int) -> int:
        """See `Channel.forward`; srun has nothing of the kind."""
        reason = f"it cannot connect to the launcher, which is at {self.launcher_address()}"
        advice = 'let the hosts connect to this machine, start the program by sbatch, or set start="ssh"'
        raise HostUnusable(HostFailure(self._label, "connecting to the launcher", reason, advice))

    def close(self) -> None:
        """See `Channel.close`. The second time ends srun, which else waits for a lost host as long as Slurm does."""
        with self._lock:
            if self._child is not None:
                self._child.kill() if self._closed else self._child.close()
            self._closed = True


def step(allocation: Allocation, node: str, gpus: Mapping[str, tuple[int, ...]], timeout: float) -> tuple[str, ...]:
    """The words of an srun that gives a step all that the job has on a node, whatever else runs there.

    Args:
        allocation: That the node belongs to.
        node: Slurm's name of it.
        gpus: Of the job, by node, for those with any. Slurm has to be told: it takes the job's total for this one step,
            where the job asked for a total.
        timeout: Seconds after which srun gives up.
    """
    words = [
        "srun",
        f"--jobid={allocation.job_id}",
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={node}",
        "--cpu-bind=none",  # else the one task is bound to one CPU
        "--mpi=none",
        "--chdir=/",
        "--unbuffered",
        "--quiet",
        f"--immediate={max(2, round(timeout))}",
    ]
    if (component := allocation.hosts[node].component) is not None:
        words.append(f"--het-group={component}")
    if gpus:
        words.append(f"--gpus={len(gpus[node])}" if node in gpus else "--gres=none")
    return (*words, *shell.words())


def explain_exit(label: str, printed: str) -> HostFailure | None:
    """Why there was no step, if it was srun that failed."""
    complaints = [found for line in printed.splitlines() if (found := _COMPLAINT.match(line))]
    if not complaints:
        return None
    reason = "; ".join(complaint["error"] or complaint["old"] for complaint in complaints)
    advice = _TOO_OLD if any(complaint["old"] for complaint in complaints) else _BY_HAND
    return HostFailure(label, _STARTING, reason, advice)
