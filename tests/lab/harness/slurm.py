"""A real Slurm on the hosts of a lab: a controller and a login node at the launcher, a slurmd on each host.

    with Lab(4) as lab, Slurm(lab, gpus={"node1": 4, "node2": 1}) as slurm:
        slurm.run(["srun", "-N2", "hostname"])

No accounting, no cgroups, and timeouts short enough for tests. GPUs are fake: device files, which Slurm counts and
hands out by number, and which NVML knows nothing of. The daemons end with their machines.
"""

from __future__ import annotations

import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from . import leaks
from .host import Host
from .lab import Lab
from .machine import Machine, Words
from .shell import LabError, find_tool
from .waiting import wait_until

_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "salloc", "scancel", "scontrol", "sinfo")

_SLURMD_PORT = 6818

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
SlurmdTimeout=60
MessageTimeout=5
KillWait={kill_wait}
OverTimeLimit=0
InactiveLimit=0
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,defer_batch
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


class Job:
    """A program in an allocation of its own.

    Args:
        slurm: Which gave the allocation.
        job_id: Its number.
        directory: Where its output and its exit status are written.
        shell: The salloc that the allocation belongs to, if it is one of the kind.

    Attributes:
        id: Its number.
    """

    def __init__(self, slurm: Slurm, job_id: str, directory: Path, shell: subprocess.Popen[str] | None = None) -> None:
        self.id = job_id
        self._slurm = slurm
        self._directory = directory
        self._shell = shell

    def ends(self, status: int = 0, within: float = 60.0) -> str:
        """Waits for the end of the program, and returns what it printed."""
        path = self._directory / "status"
        try:
            wait_until(lambda: path.exists() and path.read_text().endswith("\n"), within, "the program has ended")
        except TimeoutError as error:
            raise LabError(f"{error}\n{self._printed()}\n{self._slurm.logs()}") from None
        if int(path.read_text()) != status:
            raise LabError(f"the program ended with status {path.read_text()}\n{self._printed()}")
        return self._printed()

    def process(self, word: str) -> int:
        """The only Python with this word on its command line, as the real machine numbers it."""
        machines: list[Machine] = [self._slurm.lab.launcher, *self._slurm.lab]
        told = {pid: leaks.describe(pid) for machine in machines for pid in machine.pids()}
        found = [pid for pid, words in told.items() if word in words and words.split()[1] == sys.executable]
        if len(found) != 1:
            raise LabError(f"there are {len(found)} processes with {word}: {told}")
        (pid,) = found
        return pid

    def leave(self) -> None:
        """Ends the shell of an salloc, which outlives the program, and with it the allocation."""
        assert self._shell is not None
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(20)

    def _printed(self) -> str:
        path = self._directory / "job.out"
        return path.read_text() if path.exists() else ""


class Slurm:
    """A context manager; the launcher is the login node, and the controller's machine.

    Args:
        lab: With a shared file system.
        cpus: Of each host, as Slurm counts them.
        gpus: Fake ones, by host.
        kill_wait: Seconds between SIGTERM and SIGKILL at a time limit, and when a job is cancelled.
    """

    def __init__(self, lab: Lab, *, cpus: int = 8, gpus: Mapping[str, int] | None = None, kill_wait: int = 3) -> None:
        self.lab = lab
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
        login = self.lab.launcher
        self._install(login)
        login.run(["slurmctld", "-c"])
        for host in self.lab:
            self.start(host)
        self.await_idle()
        login.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.lab.launcher.run(["sh", "-c", "kill $(cat /run/slurm/slurmctld.pid /run/munge/munged.pid)"], check=False)

    def start(self, host: Host) -> None:
        """Brings a host into Slurm; also to be called when it was switched off and on again."""
        self._install(host)
        host.run(["slurmd"])
        wait_until(lambda: _SLURMD_PORT in leaks.listening_ports(host.pids()[0]), 10, f"{host.name}'s slurmd")
        host.accept()

    def _install(self, machine: Machine) -> None:
        gpus = self._gpus.get(machine.name, 0)
        machine.run(["sh", "-e", "-c", _INSTALL, "sh", str(self._conf), str(gpus)])

    def run(
        self, argv: Words, *, env: Mapping[str, str] | None = None, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command at the login node."""
        return self.lab.launcher.run(argv, env=env, check=check, timeout=timeout)

    def sbatch(
        self, options: Sequence[str], words: Sequence[str], directory: Path, *, env: Mapping[str, str] | None = None
    ) -> Job:
        """Submits a batch script that runs a program, whose output and exit status go to files in a directory."""
        script = directory / "job.sh"
        script.write_text(_program(words, directory))
        submit = ["sbatch", "--parsable", "--output=/dev/null", f"--chdir={directory}", *options, str(script)]
        return Job(self, self.run(submit, env=env).stdout.strip(), directory)

    def salloc(
        self, options: Sequence[str], words: Sequence[str], directory: Path, *, env: Mapping[str, str] | None = None
    ) -> Job:
        """Runs a program at the login node, in an allocation that outlives it: until `Job.leave`."""
        script = directory / "job.sh"
        script.write_text(f"echo $SLURM_JOB_ID >job.id\n{_program(words, directory)}read line\n")
        command = ["salloc", "--quiet", *options, "sh", str(script)]
        shell = self.lab.launcher.popen(
            command, env=env, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        number = directory / "job.id"
        wait_until(lambda: number.exists() and number.read_text().endswith("\n"), 20, "the allocation is made")
        return Job(self, number.read_text().strip(), directory, shell)

    def cancel_all(self) -> None:
        """Ends all jobs."""
        self.run(["scancel", "--user=root"])

    def states(self) -> dict[str, str]:
        """What Slurm says of each host."""
        lines = self.run(["sinfo", "-hN", "-o", "%N %T"], check=False).stdout.splitlines()
        return dict(line.split() for line in lines)

    def await_idle(self) -> None:
        """Waits until every host is up, and no job on it."""

        def idle() -> bool:
            states = self.states()
            return len(states) == len(self.lab) and set(states.values()) == {"idle"}

        try:
            wait_until(idle, 30, "all hosts are idle")
        except TimeoutError as error:
            raise LabError(f"{error}\n{self.states()}\n{self.logs()}") from None

    def logs(self) -> str:
        """The end of what the daemons say."""
        show = ["sh", "-c", "tail -n 20 /run/slurm/*.log /run/munge/munged.log"]
        return "\n".join(machine.run(show, check=False).stdout for machine in (self.lab.launcher, *self.lab))


def _program(words: Sequence[str], directory: Path) -> str:
    # Slurm's SIGTERM is for this shell too, which outlives it to tell how the program ended.
    command = f"{shlex.join(words)} >{directory}/job.out 2>&1"
    return f"#!/bin/sh\ntrap : TERM\n{command}\necho $? >{directory}/status\n"


def _list(lab: Lab) -> str:
    return ",".join(lab.names)
