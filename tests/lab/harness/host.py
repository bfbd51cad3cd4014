"""One host of the lab: namespaces with a real sshd in them, and the faults of a machine."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import leaks
from .cgroups import Cgroup, CgroupRoots
from .machine import Machine
from .shell import HARNESS, Keeper, LabError, find_tool
from .switch import Switch
from .waiting import wait_until

_SSH_PORT = 22
_NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")


@dataclass(frozen=True)
class HostOptions:
    """What is special about one host.

    Attributes:
        own_name_is_loopback: The host itself resolves its name to 127.0.1.1, as Debian's installer sets it up.
        host_key: How the launcher's known_hosts stands to the host's key: it has it, has another one, or has none.
        sshd_lines: Further lines of sshd_config; they come first, and sshd takes the first value of a keyword.
        bashrc: What root's shell executes at each SSH command. The real machine's own .bashrc is never executed: a
            host that is killed in the middle of it could leave locks behind in the shared home.
        login_shell: The path of root's; "" for that of the real machine.
    """

    own_name_is_loopback: bool = False
    host_key: Literal["known", "changed", "unknown"] = "known"
    sshd_lines: tuple[str, ...] = ()
    bashrc: str = ""
    login_shell: str = ""


class Host(Machine):
    """A host. Made, started and stopped by its `Lab`."""

    def __init__(
        self, switch: Switch, directory: Path, index: int, options: HostOptions, roots: CgroupRoots, lab_id: str
    ) -> None:
        super().__init__(switch, directory, index, f"node{index}")
        self.options = options
        self._cgroup = Cgroup(roots, f"{lab_id}.{self.name}")
        self._keeper: Keeper | None = None
        self._environment: Mapping[str, str] = {}
        self._frozen = False
        self._stopped: set[int] = set()
        self._has_limits = False

    # -- power ------------------------------------------------------------------------------------------------------

    def power_off(self) -> None:
        """Ends the host without a word: the cable goes first, so that no FIN or RST gets out."""
        self.link_down()
        self.stop()
        self._switch.unplug(self.index)

    def power_on(self) -> None:
        """Boots again: same name, addresses and host key; /tmp and /dev/shm (and the root, if private) are fresh."""
        boot([self], self._switch, self._environment)

    def stop(self) -> None:
        """Kills every process."""
        self._end_delayer()
        if self.pid is not None:
            self.thaw()
        if self._keeper is not None:
            self._keeper.kill()
        self._keeper = self.pid = None

    def remove(self) -> None:
        """Removes what `stop` leaves on the real machine, but for the directory."""
        self._cgroup.remove()

    def spawn(self, env: Mapping[str, str]) -> None:
        """Starts the host's init."""
        self._environment = env
        sshd = find_tool("sshd") or ""
        variables = {**env, "NAME": self.name, "DIR": str(self.directory), "HARNESS": str(HARNESS), "SSHD": sshd}
        command = f'{self._cgroup.join_command()} exec unshare "$@"'
        argv = ["/bin/sh", "-c", command, "sh", *_NAMESPACES, "/bin/sh", str(HARNESS / "init.sh")]
        self._keeper = Keeper(argv, self.directory / "init.log", variables)

    def await_socket(self) -> int:
        """Waits until the cable can be plugged in, and returns a PID in the network namespace."""
        assert self._keeper is not None
        self.pid = int(self._keeper.expect("pid"))
        return self.pid

    def plugged(self) -> None:
        """Tells the host that its cable is in."""
        assert self._keeper is not None
        self._link_is_up = True
        self._keeper.tell("go")

    def await_ready(self) -> None:
        """Waits until sshd accepts connections."""
        assert self._keeper is not None
        self._keeper.expect("ready")
        try:
            wait_until(lambda: _SSH_PORT in leaks.listening_ports(self._required_pid()), 10, f"{self.name}'s sshd")
        except TimeoutError as error:
            log = self.directory / "sshd.log"
            raise LabError(f"{error}\n{log.read_text() if log.exists() else 'no sshd.log'}") from None
        self._begin()

    # -- processes --------------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        return leaks.pids_sharing("pid", self._required_pid())

    def _entrance(self) -> list[str]:
        namespaces = ["-t", str(self._required_pid()), "-m", "-u", "-i", "-n", "-p", "-r"]
        # nsenter forks into the PID namespace: the death signal lets its child die with it.
        inside = ["setpriv", "--pdeathsig", "KILL"]
        return ["/bin/sh", "-c", f'{self._cgroup.join_command()} exec nsenter "$@"', "sh", *namespaces, *inside]

    def _stray_pids(self) -> list[int]:
        own = {1}
        for name in ("sshd", "lifeline"):
            with contextlib.suppress(OSError, ValueError):
                own.add(int(Path(f"/proc/{self.pid}/root/run/lab/{name}.pid").read_text()))
        return [pid for pid in self.pids() if pid not in self._own_pids and leaks.inner_pid(pid) not in {*own, None}]

    # -- faults -----------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stops every process at once; the kernel still acknowledges TCP and accepts connections."""
        if self._cgroup.can_freeze:
            self._cgroup.freeze(True)
        else:
            # Not init: unshare would stop with it, and the lifeline would not be watched.
            while new := {pid for pid in self.pids() if pid != self.pid} - self._stopped:
                _signal_all(new, signal.SIGSTOP)
                self._stopped |= new
        self._frozen = True

    def thaw(self) -> None:
        """Lets the host go on."""
        if self._frozen and self._cgroup.can_freeze:
            self._cgroup.freeze(False)
        _signal_all(self._stopped, signal.SIGCONT)
        self._stopped = set()
        self._frozen = False

    def mem_limit(self, limit: int | str | None) -> None:
        """Limits the memory, in bytes or as "64M": beyond it the kernel kills inside the host. None lifts it."""
        self._cgroup.limit_memory(limit)
        self._has_limits = True

    def oom_kills(self) -> int:
        """How many processes `mem_limit` has killed so far."""
        return self._cgroup.oom_kills()

    def cpu_limit(self, cpus: float | None) -> None:
        """Limits the CPU time, in cores: 0.1 is a tenth of one. None lifts it."""
        self._cgroup.limit_cpu(cpus)
        self._has_limits = True

    def heal(self) -> None:
        self.thaw()
        if self.pid is None:
            self.power_on()
        super().heal()
        if self._has_limits:
            for lift in (self._cgroup.limit_memory, self._cgroup.limit_cpu):
                with contextlib.suppress(LabError):
                    lift(None)
            self._has_limits = False


def boot(hosts: Iterable[Host], switch: Switch, env: Mapping[str, str]) -> None:
    """Starts hosts together; ``env`` describes their file systems to ``root.sh``."""
    hosts = list(hosts)
    for host in hosts:
        host.spawn(env)
    switch.plug([(host.index, host.await_socket()) for host in hosts])
    for host in hosts:
        host.plugged()
    for host in hosts:
        host.await_ready()
        host.await_carrier()
    switch.await_forwarding(host.index for host in hosts)


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
