"""What a launch shows of itself on real hosts: listening sockets, command lines, files; and texts in their shells."""

from __future__ import annotations

import ipaddress
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .harness import Lab, Machine, wait_until
from .test_launch import run

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.timeout(120)

SECRET = "9f86d081884c7d659a2feaa0c55ad015"

RUN = """
import json, os, sys, time
from pathlib import Path
import trx
import trx.engine

directory, config, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

class Spy(trx.engine.Hub):
    def keys(self, agent):
        keys = super().keys(agent)
        with open(directory / "keys", "ab") as file:
            file.write(b"\\n".join([keys.launcher_public, keys.agent_public, keys.agent_secret]) + b"\\n")
        return keys

trx.engine.Hub = Spy

def work():
    rank = os.environ["RANK"]
    print("printed by", rank)
    part = directory / f"part.{rank}"
    part.write_text(os.environ["MASTER_ADDR"] + " " + os.environ["MASTER_PORT"])
    part.rename(directory / f"up.{rank}")
    deadline = time.monotonic() + 60
    while not (directory / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.environ["SECRET"]
    if rank == "1":
        raise ValueError("as it must be")

trx.launch(work, ssh_config_file=config, default_env_vars=["SECRET"], **settings)
"""


class Going:
    """A launch on two hosts that goes on, and then fails."""

    def __init__(self, lab: Lab, backend: str | None) -> None:
        self.before = {machine.name: listening(machine) for machine in machines(lab)}
        script = lab.script_file(RUN)
        self.directory = script.parent
        settings = json.dumps({"hostnames": lab.names, "workers_per_host": 1, "backend": backend})
        argv: list[str | os.PathLike[str]] = [sys.executable, script, self.directory, lab.ssh_config, settings]
        self._process = lab.popen(argv, env={"TRX_LOG_DIR": str(self.directory / "logs"), "SECRET": SECRET})

    def await_workers(self) -> tuple[str, int]:
        """Returns where the store is."""

        def up() -> bool:
            if self._process.poll() is not None:
                pytest.fail(self._process.communicate()[0])
            return all((self.directory / f"up.{rank}").exists() for rank in (0, 1))

        wait_until(up, 60, "the workers are up")
        address, port = (self.directory / "up.0").read_text().split()
        return address, int(port)

    def end(self) -> str:
        """Returns what was printed."""
        (self.directory / "go").touch()
        return self._process.communicate(timeout=60)[0]


def machines(lab: Lab) -> list[Machine]:
    return [lab.launcher, *lab]


def listening(machine: Machine) -> set[tuple[str, int]]:
    """Addresses and ports at which a machine waits for strangers, by TCP or UDP."""
    found = set()
    for table, states in (("tcp", ("0A",)), ("tcp6", ("0A",)), ("udp", ("07",)), ("udp6", ("07",))):
        with suppress(FileNotFoundError):
            for line in Path(f"/proc/{machine.pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state in states:
                    address, _, port = local.partition(":")
                    found.add((_address(address), int(port, 16)))
    return found


def _address(text: str) -> str:
    """From the kernel's notation, whose words of four bytes are in the machine's own order."""
    words = bytes.fromhex(text)
    data = b"".join(words[start : start + 4][::-1] for start in range(0, len(words), 4))
    parsed = ipaddress.ip_address(data)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


@contextmanager
def going(lab: Lab, backend: str | None) -> Iterator[Going]:
    launch = Going(lab, backend)
    try:
        yield launch
    finally:
        (launch.directory / "go").touch()


def test_only_the_intended_sockets_listen_and_nothing_secret_shows(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    with going(lab, backend=None) as launch:
        store = launch.await_workers()
        new = {machine.name: listening(machine) - launch.before[machine.name] for machine in machines(lab)}
        keys = (launch.directory / "keys").read_bytes().split()
        secrets = [SECRET.encode(), *keys]
        lines = b"\n".join(command_lines())
        files = {(machine.name, path) for machine in machines(lab) for path in launch_files(machine)}
        contents = {(name, path): path.read_bytes() for name, path in files if path.is_file()}
        modes = {str(path): path.lstat().st_mode for _, path in files}
        printed = launch.end()
        logs = [path for path in (launch.directory / "logs").rglob("*") if path.is_file()]

    ((address, _),) = new["launcher"]
    assert address == lab.launcher.ip
    assert new["node1"] == {store}
    assert store[0] in (lab["node1"].ip, lab["node1"].ip6)
    assert new["node2"] == set()

    assert len(set(keys)) == 5  # the launcher's, and a pair for each agent
    assert [key for key in secrets if key in lines] == []
    assert {(name, path.name) for name, path in contents} >= {(name, "order") for name in lab.names}
    assert [where for where, data in contents.items() for key in secrets if key in data] == []
    assert {path: stat.filemode(mode) for path, mode in modes.items() if mode & 0o077} == {}

    assert "as it must be" in printed
    assert [key for key in secrets if key in printed.encode()] == []
    assert len(logs) >= 2
    assert [path for path in logs for key in secrets if key in path.read_bytes()] == []
    assert [path for path in logs if path.stat().st_mode & 0o077] == []
    assert lab.leftovers() == []


def test_sockets_of_the_process_group_are_on_the_chosen_interface_too(make_lab: MakeLab) -> None:
    """They are torch's own, and speak to anybody: SECURITY.md says so."""
    lab = make_lab(2)
    with going(lab, backend="gloo") as launch:
        launch.await_workers()
        new = {machine.name: listening(machine) - launch.before[machine.name] for machine in machines(lab)}
        launch.end()
    assert len(new["launcher"]) == 1
    for machine in machines(lab):
        assert {address for address, _ in new[machine.name]} <= {machine.ip, machine.ip6}


def command_lines() -> Iterator[bytes]:
    """Of every process of the real machine, and so of all hosts."""
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit():
                yield Path("/proc", name, "cmdline").read_bytes()


def launch_files(machine: Machine) -> Iterator[Path]:
    """The directories of launches on a machine, and all that is in them."""
    for directory in Path(f"/proc/{machine.pid}/root/tmp").glob("trx-*"):
        yield directory
        yield from directory.rglob("*")


def test_a_stranger_on_the_network_is_refused_and_disturbs_nobody(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    with going(lab, backend=None) as launch:
        launch.await_workers()
        ((address, port),) = listening(lab.launcher) - launch.before["launcher"]
        for greeting in (b"", b"\xff" + 8 * b"\0" + b"\x7f\x03\0NULL".ljust(55, b"\0")):
            finished = lab["node2"].run([sys.executable, "-c", STRANGER, address, str(port), greeting.hex()])
            assert finished.stdout == "hung up\n"
        printed = launch.end()
    assert "as it must be" in printed


STRANGER = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    try:
        connection.sendall(bytes.fromhex(sys.argv[3]) + 200 * b"trx")
        while data := connection.recv(4096):
            assert b"READY" not in data
    except ConnectionError:
        pass
print("hung up")
"""

CANARY = "trx-canary"
EVIL = f"-c a;$(touch {CANARY}1)`touch {CANARY}2`'\"|touch {CANARY}3&& touch {CANARY}4\\!"

SHOW = """
import json, os, sys
import trx

def show():
    return [os.getcwd(), sys.executable, dict(os.environ)]

config, settings = json.loads(sys.argv[1]), json.loads(sys.argv[2])
print(json.dumps(trx.launch(show, ssh_config_file=config, **settings).by_ranks()))
"""


def test_texts_that_look_like_shell_are_used_as_they_are(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    directory = lab.directory / EVIL
    directory.mkdir()
    (directory / "environment").symlink_to(sys.prefix)
    env_file = directory / f"{EVIL}.sh"
    env_file.write_text("FROM_FILE='it was read'\n")
    python = directory / "environment" / "bin" / "python"
    variables = {"EVIL": EVIL, "LINES": f"a\nexport B=1\n\ntouch {CANARY}5\n", "LD_LIBRARY_PATH": f"/{EVIL}"}
    finished = run(
        lab,
        SHOW,
        hostnames=["node1", f"root@{lab['node2'].ip}:22"],
        workers_per_host=1,
        backend=None,
        cwd=str(directory),
        python=str(python),
        env_file=str(env_file),
        extra_env_vars=variables,
    )
    assert finished.returncode == 0, finished.stderr
    for cwd, executable, found in json.loads(finished.stdout.splitlines()[-1]):
        assert (cwd, executable) == (str(directory), str(python))
        assert {name: found[name] for name in variables} == variables
        assert found["FROM_FILE"] == "it was read"
    for machine in machines(lab):
        root = Path(f"/proc/{machine.pid}/root")
        for place in ("", "root", "tmp", str(directory).lstrip("/"), str(directory.parent).lstrip("/")):
            assert [path.name for path in (root / place).iterdir() if path.name.startswith(CANARY)] == []
