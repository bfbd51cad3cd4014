"""The lab: hosts, the switch between them, and the launcher.

    with Lab(4) as lab:
        lab.sh(["ssh", "-F", lab.ssh_config, "node3", "hostname"])
        lab["node2"].cut()
        result = lab.script("import trx ...")
        lab.heal()

    this Python process ──lifelines──► switch        a bridge and its filter, in a network namespace of its own
                                       launcher      own network, mounts, name; where `sh`, `popen`, `script` run
                                       node1..nodeN  own network, mounts, name, PIDs; each with a real sshd

The real machine's interfaces, routes, firewall and home directories are not touched. Everything ends with this Python
process, however that ends; files that a killed process left are removed by the next lab.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from . import leaks
from .cgroups import CgroupRoots
from .directory import make_directory
from .filesystem import FileSystem, file_system
from .host import Host, HostOptions, boot
from .launcher import Launcher
from .leaks import Leftover
from .machine import Machine, network_batch
from .sshfiles import Family, make_key, ssh_config, write_known_hosts, write_sshd_files
from .switch import Switch, mac, port_name

_LAUNCHER_INDEX = 254
# The kernel's neighbour tables, one for all namespaces, hold 1024 entries; permanent ones do not count.
_MOST_HOSTS_THAT_RESOLVE = 16


class Lab:
    """N hosts, node1 to nodeN, and a launcher.

    Args:
        n: Number of hosts.
        fs: "shared": one file system for all, as with NFS, but for /tmp, /dev/shm and /run. "cow": a private
            copy-on-write root for each host and the launcher.
        keep: Directories that hosts and launcher must have, though they lie below /tmp or on a file system of their
            own. The interpreter, its environment and the checkout are found without that.
        exchange: Directories that the launcher shares with the caller, such as `tmp_path`; with fs="shared", the hosts
            do too.
        options: What is special about some hosts, by name.
        family: Which addresses the hosts' names have in /etc/hosts and ssh_config.
        tmp_size: Size of each machine's /tmp.
        shm_size: Size of each machine's /dev/shm.
        cow_size: How much each machine may write with fs="cow".

    Attributes:
        launcher: The launcher, as a machine.
        directory: The lab's directory; the hosts see it only if fs="shared".
        ssh_config: Path of the launcher's SSH configuration.
        known_hosts: Path of the launcher's known host keys.
    """

    def __init__(
        self,
        n: int,
        *,
        fs: FileSystem = "shared",
        keep: Iterable[str | Path] = (),
        exchange: Iterable[str | Path] = (),
        options: Mapping[str, HostOptions] | None = None,
        family: Family = "ipv4",
        tmp_size: str = "1g",
        shm_size: str = "1g",
        cow_size: str = "2g",
    ) -> None:
        if not 0 < n < _LAUNCHER_INDEX:
            raise ValueError(f"a lab has 1 to {_LAUNCHER_INDEX - 1} hosts, not {n}")
        self.fs = fs
        self._family = family
        self._sizes = {"TMP_SIZE": tmp_size, "SHM_SIZE": shm_size, "COW_SIZE": cow_size}
        self._keep = [Path(path).resolve() for path in keep]
        self._exchange = [Path(path).resolve() for path in exchange]
        self._count = n
        self._options = dict(options or {})
        self._numbers = itertools.count(1)
        self._roots = CgroupRoots.find()
        self._ipv6 = Path("/proc/sys/net/ipv6").exists()
        self.directory, self._alive = make_directory(self._roots)
        self.ssh_config = self.directory / "ssh_config"
        self.known_hosts = self.directory / "known_hosts"

    # -- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Lab:
        self._switch = Switch(self.directory / "switch.log", str((self._roots.freezer or Path("/")) / self.id))
        self.launcher = Launcher(self._switch, self.directory / "launcher", _LAUNCHER_INDEX, "launcher")
        self._hosts: dict[str, Host] = {}
        try:
            self._make_hosts()
            self._write_files()
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def id(self) -> str:
        """A name that no other lab on this machine has."""
        return self.directory.name

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def __len__(self) -> int:
        return self._count

    @property
    def names(self) -> list[str]:
        """The hosts' names."""
        return list(self._hosts)

    # -- the launcher -----------------------------------------------------------------------------------------------

    def sh_argv(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The command line by which the real machine runs ``argv`` at the launcher."""
        return self.launcher.argv(argv)

    def sh(
        self, argv: Sequence[str | os.PathLike[str]], *, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command at the launcher to its end."""
        return self.launcher.run(argv, check=check, timeout=timeout)

    def popen(
        self, argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Starts a command at the launcher, its output and errors in one pipe."""
        return self.launcher.popen(argv, env=env)

    def script_file(self, source: str) -> Path:
        """Writes a Python script where the launcher sees it, in a directory of its own."""
        path = self.directory / "scripts" / str(next(self._numbers)) / "script.py"
        path.parent.mkdir(parents=True)
        path.write_text(source)
        return path

    def script(
        self,
        script: str | Path,
        *args: str,
        python: str | Path = sys.executable,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a Python script, given as its source or its path, at the launcher: see `Launcher.script`."""
        path = script if isinstance(script, Path) else self.script_file(script)
        return self.launcher.script(path, *args, python=python, env=env, cwd=cwd, timeout=timeout)

    def write_ssh_config(self, extra: str) -> Path:
        """Writes a further SSH configuration: ``extra`` stanzas, which win, before those of `ssh_config`."""
        path = self.directory / f"ssh_config.{next(self._numbers)}"
        path.write_text(ssh_config(self.directory, self, self._family, extra))
        return path

    # -- faults and traces ------------------------------------------------------------------------------------------

    def partition(self, one: Iterable[Machine], other: Iterable[Machine]) -> None:
        """Drops all traffic between two groups of machines, silently. Ended by `heal`."""
        a, b = (", ".join(f'"{port_name(machine.index)}"' for machine in side) for side in (one, other))
        self._switch.add_rules(f"iifname {{ {x} }} oifname {{ {y} }} drop" for x, y in ((a, b), (b, a)))

    def heal(self) -> None:
        """Ends all faults of all machines."""
        self._switch.clear_rules()
        for machine in self._machines():
            machine.heal()
        if self._switch.is_disturbed:
            for machine in self._machines():
                machine.forget_neighbours()
            self._switch.is_disturbed = False

    def reset(self) -> None:
        """Heals, ends what `popen` started and what else runs at the launcher, reboots each host that is not clean."""
        self.heal()
        for machine in self._machines():
            machine.end_commands()
        self.launcher.kill_strays()
        for host in self:
            if not host.settle(within=2.0):
                host.power_off()
                host.power_on()
        self.snapshot()

    def snapshot(self) -> None:
        """Remembers the files of all machines: see `Machine.snapshot`."""
        for machine in self._machines():
            machine.snapshot()

    def leftovers(self, cookie: str | None = None, within: float = 5.0) -> list[Leftover]:
        """What does not belong to idle machines: see `Machine.leftovers`.

        Args:
            cookie: Also every process of the real machine with this text in its environment or command line.
            within: Seconds to wait for the last of it to go, on each machine.
        """
        found = [leftover for machine in self._machines() for leftover in machine.leftovers(within)]
        strays = [] if cookie is None else leaks.pids_with(cookie)
        return found + [Leftover("anywhere", "process", leaks.describe(pid)) for pid in strays]

    def _machines(self) -> list[Machine]:
        return [self.launcher, *self]

    # -- up and down ------------------------------------------------------------------------------------------------

    def _make_hosts(self) -> None:
        for index in range(1, self._count + 1):
            options = self._options.pop(f"node{index}", HostOptions())
            directory = self.directory / "hosts" / f"node{index}"
            self._hosts[directory.name] = Host(self._switch, directory, index, options, self._roots, self.id)
        if self._options:
            raise ValueError(f"options for hosts that do not exist: {', '.join(self._options)}")

    def _write_files(self) -> None:
        client_key = make_key(self.directory / "client_key", "lab")
        for machine in self._machines():
            gateway = None if machine is self.launcher else self.launcher
            machine.write_files(
                {
                    "hosts": self._hosts_file(machine),
                    "hostname": f"{machine.name}\n",
                    "bashrc": machine.options.bashrc if isinstance(machine, Host) else "",
                    "passwd": _passwd(machine.options.login_shell if isinstance(machine, Host) else ""),
                    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
                    "network": network_batch(machine, gateway, self._neighbours(), self._ipv6),
                }
            )
        for host in self:
            write_sshd_files(host, client_key)
        write_known_hosts(self.directory, self)
        self.ssh_config.write_text(ssh_config(self.directory, self, self._family, extra=""))

    def _hosts_file(self, reader: Machine) -> str:
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
        for machine in self._machines():
            address = machine.ip6 if self._family == "ipv6" else machine.ip
            if machine is reader and isinstance(reader, Host) and reader.options.own_name_is_loopback:
                address = "127.0.1.1"
            lines.append(f"{address} {machine.name}")
        return "".join(f"{line}\n" for line in lines)

    def _neighbours(self) -> list[str]:
        if self._count <= _MOST_HOSTS_THAT_RESOLVE:
            return []
        return [
            f"neigh replace {address} lladdr {mac(machine.index)} nud permanent dev eth0"
            for machine in self._machines()
            for address in ((machine.ip, machine.ip6) if self._ipv6 else (machine.ip,))
        ]

    def _start(self) -> None:
        self._switch.start()
        self.launcher.spawn({**self._sizes, **file_system(self.fs, self._keep, [self.directory, *self._exchange])})
        self._switch.plug([(_LAUNCHER_INDEX, self.launcher.await_socket())])
        self.launcher.start()
        exchange = self._exchange if self.fs == "shared" else []
        boot(self, self._switch, {**self._sizes, **file_system(self.fs, self._keep, exchange)})

    def _stop(self) -> None:
        with ExitStack() as steps:  # the last one first, and all of them
            steps.callback(self._alive.close)
            steps.callback(shutil.rmtree, self.directory)
            for host in self:
                steps.callback(host.remove)
            steps.callback(self._switch.stop)
            for machine in self._machines():
                steps.callback(machine.end_commands)
            steps.callback(self.launcher.stop)
            for host in self:
                steps.callback(host.stop)


def _passwd(shell: str) -> str:
    """The real machine's users; root with a login shell of its own, where one is given."""
    users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    return "".join(":".join([*user[:6], shell if shell and user[0] == "root" else user[6]]) + "\n" for user in users)
