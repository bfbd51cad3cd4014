"""How an agent is started on a host, and the Popen-shaped handle that the launcher keeps of it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from trx.errors import HostFailure
from trx.hosts import srun
from trx.hosts.channel import Channel
from trx.hosts.local import LocalChannel
from trx.plan import Host
from trx.slurm import Allocation, gpus_for_ssh

_FOR_THE_INTERPRETER = ("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
"""Variables without which the interpreter may not even start; all others reach the workers by the bootstrap."""

_STEP_TIMEOUT = 60.0


def make_channel(
    host: Host,
    *,
    python: str,
    environment: Mapping[str, str],
    ssh_config_file: str | os.PathLike[str] | None,
    timeout: float,
    lease: float,
    allocation: Allocation | None,
) -> Channel:
    """The way to a host: a step of the Slurm allocation, a child process on the launcher's own machine, or SSH."""
    needed = {name: value for name, value in environment.items() if name in _FOR_THE_INTERPRETER and "\n" not in value}
    if allocation and (node := allocation.node(host.hostname)):
        return srun.SrunChannel(
            host.label,
            node,
            allocation=allocation,
            local=host.local,
            python=python,
            environment=needed,
            timeout=min(timeout, _STEP_TIMEOUT),
        )
    if host.local:
        return LocalChannel(host.label, python=python, environment=needed)
    from trx.hosts.ssh import SSHChannel

    return SSHChannel(
        host.hostname,
        python=python,
        environment={**needed, **gpus_for_ssh(host.hostname)},
        config_file=ssh_config_file,
        timeout=min(timeout, 10.0),
        lease=lease,
    )


def explain_exit(host: Host, python: str, status: int | None, printed: str) -> HostFailure:
    """Why the interpreter ended before the agent could say a word."""
    from trx.hosts.diagnosis import exit_failure

    return srun.explain_exit(host.label, printed) or exit_failure(host.label, python, status, printed)
