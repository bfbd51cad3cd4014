"""What hosts and the launcher have in common: an address, a way to run commands inside, a cable, and a leak check."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

from . import leaks
from .leaks import Leftover
from .shell import HARNESS, PATH, Keeper, LabError, batch, run
from .switch import Switch, port_name
from .waiting import wait_until

Words = Sequence["str | os.PathLike[str]"]

_WATCHED_DIRECTORIES = ("/dev/shm", "/tmp")
_DELAY_QUEUE = 77
# Losing ARP or neighbour discovery in one direction would soon end the other direction too; losing some of it, all.
_ALL_BUT_NEIGHBOURHOOD = ("ether type != { arp, ip6 }", "ether type ip6 ip6 nexthdr != icmpv6")


class Machine:
    """A host or the launcher.

    Attributes:
        name: Its host name.
        ip: Its IPv4 address.
        ip6: Its IPv6 address.
        directory: Its files, on the real machine.
        pid: A process in its namespaces, as numbered by the real machine; None while it is off.
    """

    def __init__(self, switch: Switch, directory: Path, index: int, name: str) -> None:
        self.name = name
        self.ip = f"10.77.0.{index}"
        self.ip6 = f"fd77::{index:x}"
        self.index = index
        self.directory = directory
        self.pid: int | None = None
        self._switch = switch
        self._delayer: Keeper | None = None
        self._link_is_up = True
        self._own_ports: set[int] = set()
        self._own_pids: set[int] = set()
        self._known_files: set[str] = set()
        self._commands: list[subprocess.Popen[str]] = []

    def __repr__(self) -> str:
        return f"<{self.name} {self.ip}>"

    # -- commands ---------------------------------------------------------------------------------------------------

    def argv(self, argv: Words, *, env: Mapping[str, str] | None = None, cwd: str | Path = "/root") -> list[str]:
        """The command line by which the real machine runs ``argv`` in this one, in a plain environment plus ``env``."""
        variables = {"PATH": PATH, "HOME": "/root", "USER": "root", "SHELL": "/bin/bash", "LANG": "C.UTF-8"}
        pairs = [f"{key}={value}" for key, value in {**variables, **(env or {})}.items()]
        return [*self._entrance(), "env", "-i", f"--chdir={cwd}", *pairs, *(os.fspath(word) for word in argv)]

    def run(
        self,
        argv: Words,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = "/root",
        input: str | None = None,
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, without SSH, to its end; see `shell.run` for what it raises."""
        return run(self.argv(argv, env=env, cwd=cwd), input=input, check=check, timeout=timeout)

    def popen(
        self,
        argv: Words,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = "/root",
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = subprocess.STDOUT,
    ) -> subprocess.Popen[str]:
        """Starts a command inside, without SSH.

        Killing what is returned kills the command; `end_commands` and the end of the lab do so too.
        """
        argv = self.argv(argv, env=env, cwd=cwd)
        process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, text=True)
        self._commands.append(process)
        return process

    def end_commands(self) -> None:
        """Kills what `popen` started and still runs, and closes its pipes."""
        while self._commands:
            process = self._commands.pop()
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def pids(self) -> list[int]:
        """The living processes inside, as numbered by the real machine."""
        raise NotImplementedError

    def _entrance(self) -> list[str]:
        """The command that runs its further words inside."""
        raise NotImplementedError

    def _required_pid(self) -> int:
        if self.pid is None:
            raise LabError(f"{self.name} is off")
        return self.pid

    # -- network faults ---------------------------------------------------------------------------------------------

    def link_down(self) -> None:
        """Pulls the cable: the machine sees its carrier go."""
        self._switch.set_carrier(self.index, False)
        self._link_is_up = False

    def link_up(self) -> None:
        """Plugs the cable in again; returns when frames pass."""
        self._switch.set_carrier(self.index, True)
        self._link_is_up = True
        self.await_carrier()
        self._switch.await_forwarding([self.index])

    def await_carrier(self) -> None:
        """Waits until the machine's own end of the cable is in use."""
        state = Path(f"/proc/{self._required_pid()}/root/sys/class/net/eth0/operstate")
        wait_until(lambda: state.read_text() == "up\n", 10, f"{self.name}'s eth0 is up")

    def cut(
        self,
        direction: Literal["in", "out", "both"] = "both",
        peer: Machine | None = None,
        extra: str = "",
        loss: float | None = None,
    ) -> None:
        """Drops frames silently in the switch: the carrier stays, nothing is answered. Ended by `Lab.heal`.

        Args:
            direction: As seen by this machine. One direction alone spares ARP and neighbour discovery.
            peer: Only traffic with this machine; default: with all.
            extra: More nft match text, such as "tcp dport 22".
            loss: Percentage to drop, ARP and neighbour discovery excepted; default: everything.
        """
        port, other = port_name(self.index), "" if peer is None else port_name(peer.index)
        toward = f'oifname "{other}" ' if other else ""
        back = f'iifname "{other}" ' if other else ""
        verdict = "drop" if loss is None else f"numgen random mod 10000 < {int(loss * 100)} drop"
        everything = direction == "both" and loss is None
        matches = [extra] if extra or everything else list(_ALL_BUT_NEIGHBOURHOOD)
        rules = []
        for match in matches:
            if direction in ("out", "both"):
                rules.append(f'iifname "{port}" {toward}{match} {verdict}')
            if direction in ("in", "both"):
                rules.append(f'oifname "{port}" {back}{match} {verdict}')
        self._switch.add_rules(rules)

    def delay(self, ms: float, jitter: float = 0.0, loss: float = 0.0) -> None:
        """Delays every packet of this machine, each way; all zero ends it.

        Args:
            ms: Milliseconds.
            jitter: Up to so many milliseconds more or less; packets may overtake each other.
            loss: Percentage of packets to drop.
        """
        if self._delayer is not None:
            self._set_delay_rules("-D")
            self._end_delayer()
        if ms or jitter or loss:
            argv = ["nsenter", "-t", str(self._required_pid()), "-n", sys.executable, str(HARNESS / "nfqdelay.py")]
            numbers = [str(number) for number in (_DELAY_QUEUE, ms, jitter, loss)]
            self._delayer = Keeper([*argv, *numbers], self.directory / "delay.log")
            self._delayer.expect("ready")
            self._set_delay_rules("-A")

    def heal(self) -> None:
        """Ends the faults of this machine, but for those in the switch's filter: see `Lab.heal`."""
        self.delay(0)
        if not self._link_is_up:
            self.link_up()

    def forget_neighbours(self) -> None:
        """Makes the machine ask at once for addresses that it could not learn, and not only a second later."""
        run(["nsenter", "-t", str(self._required_pid()), "-n", "ip", "neigh", "flush", "all"])

    def _set_delay_rules(self, action: str) -> None:
        # iptables, because nft's own queue statement is a kernel module that may be missing
        target = f"-j NFQUEUE --queue-num {_DELAY_QUEUE} --queue-bypass"
        for program in ("iptables", "ip6tables"):
            for place in ("INPUT -i eth0", "OUTPUT -o eth0"):
                command = f"{program} -w {action} {place} {target}".split()
                run(["nsenter", "-t", str(self._required_pid()), "-n", *command])

    def _end_delayer(self) -> None:
        if self._delayer is not None:
            self._delayer.close()
            self._delayer = None

    # -- what is left behind ----------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Remembers the files in /dev/shm and /tmp: `leftovers` tells only of later ones."""
        self._known_files = self._files()

    def leftovers(self, within: float = 5.0) -> list[Leftover]:
        """What does not belong to the idle machine.

        Args:
            within: Seconds to wait for the last of it to go: a closed SSH connection needs a moment.

        Returns:
            Processes, listening TCP ports, and files made in /dev/shm and /tmp since the last `snapshot` (or since
            power-on). A zombie counts as gone.
        """
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self._look(), within, f"{self.name} is clean")
        return self._look()

    def settle(self, within: float) -> bool:
        """Waits until no process and no listening port is left over; returns whether files are not either."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: all(found.kind == "file" for found in self._look()), within, f"{self.name} is idle")
        return not self._look()

    def _look(self) -> list[Leftover]:
        if self.pid is None:
            return []
        ports = leaks.listening_ports(self.pid) - self._own_ports
        return [
            *(Leftover(self.name, "process", leaks.describe(pid)) for pid in self._stray_pids()),
            *(Leftover(self.name, "port", str(port)) for port in sorted(ports)),
            *(Leftover(self.name, "file", path) for path in sorted(self._files() - self._known_files)),
        ]

    def _stray_pids(self) -> list[int]:
        raise NotImplementedError

    def _files(self) -> set[str]:
        pid = self._required_pid()
        return {path for directory in _WATCHED_DIRECTORIES for path in leaks.files_seen_by(pid, directory)}

    # -- start ------------------------------------------------------------------------------------------------------

    def write_files(self, files: Mapping[str, str]) -> None:
        """Makes the machine's directory, with these files in it."""
        for name in ("root", "cow"):
            (self.directory / name).mkdir(parents=True)
        for name, text in files.items():
            (self.directory / name).write_text(text)

    def accept(self) -> None:
        """Whatever runs now belongs to the idle machine, until it is switched off."""
        self._own_pids = set(self._stray_pids()) | self._own_pids
        self._begin()

    def _begin(self) -> None:
        """Remembers what belongs to the idle machine."""
        assert self.pid is not None
        self._own_ports = leaks.listening_ports(self.pid)
        self.snapshot()


def network_batch(machine: Machine, gateway: Machine | None, neighbours: Sequence[str], ipv6: bool) -> str:
    """The ``ip -batch`` input that brings a machine's network up."""
    lines = ["link set lo up", f"addr add {machine.ip}/24 dev eth0"]
    if ipv6:
        lines.append(f"addr add {machine.ip6}/64 dev eth0 nodad")
    lines.append("link set eth0 up")
    if gateway is not None:
        lines.append(f"route add default via {gateway.ip}")
    return batch([*lines, *neighbours])
