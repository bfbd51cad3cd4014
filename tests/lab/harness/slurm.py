"""A real Slurm on the hosts of a lab: a controller and a login node at the launcher, a slurmd on each host.

    with Lab(4) as lab, Slurm(lab, gpus={"node1": 4, "node2": 1}) as slurm:
        slurm.run(["srun", "-N2", "hostname"])

No accounting, no cgroups, and timeouts short enough for tests. GPUs are fake: device files, which Slurm counts and
hands out by number, and which NVML knows nothing of. The daemons end with their machines.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping
from types import TracebackType

from .host import Host
from .lab import Lab
from .machine import Machine, Words
from .shell import LabError, find_tool
from .waiting import wait_until

_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "salloc", "scancel", "scontrol", "sinfo")

# CgroupPlugin: slurmd 22.05 wants a cgroup mount otherwise, even where nothing uses cgroups.
_CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"

_SLURM_CONF = """\
ClusterName=lab
SlurmctldHost={controller}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation=/run/slurm
SlurmdSpoolDir=/run/slurm
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=/run/slurm/slurmctld.log
SlurmdLogFile=/run/slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=5
KillWait={kill_wait}
OverTimeLimit=0
InactiveLimit=0
SchedulerParameters=batch_sched_delay=0,sched_interval=1,defer_batch
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""

_INSTALL = """\
mount -t tmpfs -o mode=755 slurm /etc/slurm
mount -t tmpfs -o mode=700 munge /etc/munge
cp "$1"/*.conf /etc/slurm
install -m 400 "$1/munge.key" /etc/munge
mkdir -p -m 755 /run/munge /run/slurm /run/fakegpu
for number in $(seq 0 $(($2 - 1))); do mknod -m 666 /run/fakegpu/nvidia$number c 1 3; done
munged --socket /run/munge/munge.socket.2 --key-file /etc/munge/munge.key --pid-file /run/munge/munged.pid \
    --log-file /run/munge/munged.log --seed-file /run/munge/munged.seed --num-threads 2 --force
"""


def slurm_unavailable() -> str | None:
    """Returns what this machine lacks for Slurm in a lab, in words; None if nothing."""
    missing = [program for program in _PROGRAMS if find_tool(program) is None]
    return f"Slurm in the lab needs programs that are not installed: {', '.join(missing)}" if missing else None


class Slurm:
    """A context manager; the launcher is the login node, and the controller's machine.

    Args:
        lab: With a shared file system.
        cpus: Of each host, as Slurm counts them.
        gpus: Fake ones, by host.
        kill_wait: Seconds between SIGTERM and SIGKILL at a time limit, and when a job is cancelled.
    """

    def __init__(self, lab: Lab, *, cpus: int = 8, gpus: Mapping[str, int] | None = None, kill_wait: int = 5) -> None:
        self._lab = lab
        self._gpus = dict(gpus or {})
        self._conf = lab.directory / "slurm"
        lines = [self._node_line(host, cpus) for host in lab]
        login = lab.launcher
        self._files = {
            "slurm.conf": _SLURM_CONF.format(
                controller=login.name, address=login.ip, kill_wait=kill_wait, nodes="\n".join(lines), names=_list(lab)
            ),
            "gres.conf": "".join(
                f"NodeName={name} Name=gpu File=/run/fakegpu/nvidia[0-{count - 1}]\n"
                for name, count in self._gpus.items()
            ),
            "cgroup.conf": _CGROUP_CONF,
            "munge.key": secrets.token_hex(64),
        }

    def _node_line(self, host: Host, cpus: int) -> str:
        gres = f" Gres=gpu:{self._gpus[host.name]}" if host.name in self._gpus else ""
        return f"NodeName={host.name} NodeAddr={host.ip} CPUs={cpus} RealMemory=4000{gres} State=UNKNOWN"

    def __enter__(self) -> Slurm:
        self._conf.mkdir(mode=0o700)
        for name, text in self._files.items():
            (self._conf / name).write_text(text)
        login = self._lab.launcher
        self._install(login)
        login.run(["slurmctld", "-c"])
        for host in self._lab:
            self.start(host)
        self.await_idle()
        for machine in (login, *self._lab):
            machine.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lab.launcher.run(["sh", "-c", "kill $(cat /run/slurm/slurmctld.pid /run/munge/munged.pid)"], check=False)

    def start(self, host: Host) -> None:
        """Brings a host into Slurm; also to be called when it was switched off and on again."""
        self._install(host)
        host.run(["slurmd"])

    def _install(self, machine: Machine) -> None:
        gpus = self._gpus.get(machine.name, 0)
        machine.run(["sh", "-e", "-c", _INSTALL, "sh", str(self._conf), str(gpus)])

    def run(
        self, argv: Words, *, env: Mapping[str, str] | None = None, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command at the login node."""
        return self._lab.launcher.run(argv, env=env, check=check, timeout=timeout)

    def states(self) -> dict[str, str]:
        """What Slurm says of each host."""
        lines = self.run(["sinfo", "-hN", "-o", "%N %T"], check=False).stdout.splitlines()
        return dict(line.split() for line in lines)

    def await_idle(self) -> None:
        """Waits until every host is up, and no job on it."""

        def idle() -> bool:
            states = self.states()
            return len(states) == len(self._lab) and set(states.values()) == {"idle"}

        try:
            wait_until(idle, 30, "all hosts are idle")
        except TimeoutError as error:
            raise LabError(f"{error}\n{self.states()}\n{self.logs()}") from None

    def logs(self) -> str:
        """The end of what the daemons say."""
        show = ["sh", "-c", "tail -n 20 /run/slurm/*.log /run/munge/munged.log"]
        return "\n".join(machine.run(show, check=False).stdout for machine in (self._lab.launcher, *self._lab))


def _list(lab: Lab) -> str:
    return ",".join(lab.names)
