"""A launch that tests disturb from outside: a script at the lab's launcher, and the diary that it and its workers keep.

The script opens one `trx.Launcher` and runs one function after the other on it. Whatever happens is noted in a file
that all machines of a lab with a shared file system see, with the time of the one clock that they share, so a test
reads what happened when.

Each worker, and whatever it forks, holds a lock for as long as it lives. When a run is over, the script looks whether
somebody still does: a run that is reported as over must have left nothing running.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from .harness import Host, Lab, wait_until
from .harness.leaks import inner_pid

Measured = Callable[[str, str, float], None]
"""The fixture `measured` (tests/conftest.py)."""

SLACK = 5.0
"""Seconds that anything may take longer than promised, on a machine that does other things as well."""

GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL in these tests, unless they say otherwise."""

LEASE = 8.0
"""The default, for promises that depend on it."""

SHORT_LEASE = 4.0
"""For what happens after a lease has run out; the promise itself is tested with the default."""

NO_LEASE = 100.0
"""So long that it cannot be what saves a test."""

LEAVING = 2.0
"""Seconds above the grace after which the guardian kills an agent that the launcher has left."""

PROMISED_LOSS = 10.0
"""Seconds in which a host that has gone silent is lost, with the default lease."""

_OPENING = """
import ctypes, dataclasses, fcntl, json, os, signal, socket, sys, time, traceback
import trx

DIARY, SETTINGS = sys.argv[1], json.loads(sys.argv[2])

def note(what, **facts):
    about = {"what": what, "at": time.monotonic(), "rank": int(os.environ.get("RANK", -1)), "pid": os.getpid()}
    with open(DIARY, "a") as diary:
        diary.write(json.dumps({**about, **facts}) + "\\n")

def await_go(name="go"):
    while not os.path.exists(f"{DIARY}.{name}"):
        time.sleep(0.005)

def is_held():
    with open(DIARY + ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

def peak():  # of memory, in MiB
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmHWM"))
"""

_CLOSING = """
def work(function):
    sys.held = open(DIARY + ".lock", "w")
    fcntl.flock(sys.held, fcntl.LOCK_SH)
    note("works", function=function.__name__, host=socket.gethostname())
    return function()

def told(error):
    return {
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        "text": str(error),
        "whole": "".join(traceback.format_exception(type(error), error, error.__traceback__)),
        "failures": [dataclasses.asdict(failure) for failure in getattr(error, "failures", ())],
        "traceback": getattr(error, "worker_traceback", ""),
    }

def run(launcher, name):
    name, _, signal_to_go = name.partition("@")
    if signal_to_go:
        await_go(signal_to_go)
    note("begins", function=name)
    try:
        values = list(launcher.run(work, globals()[name]))
    except BaseException as error:
        note("raised", function=name, held=is_held(), **told(error))
    else:
        note("returned", function=name, held=is_held(), values=values)

with trx.Launcher(**SETTINGS) as launcher:
    for name in sys.argv[3:]:
        run(launcher, name)
note("closed", peak=peak())
"""


@dataclass(frozen=True)
class Note:
    """One line of the diary.

    Attributes:
        what: By which it is found: "works" (a worker begins), "begins", "raised", "returned" and "closed" (the script),
            and whatever the functions of a test note.
        at: By the clock that all machines share.
        rank: -1 for the script.
        pid: As the machine numbers it.
        facts: All else.
    """

    what: str
    at: float
    rank: int
    pid: int
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]


@dataclass(frozen=True)
class Tree:
    """The processes of a launch on one host from the top to a worker, as the real machine numbers them."""

    guardian: int
    agent: int
    forkserver: int
    runner: int
    worker: int


class Launch:
    """A script at the launcher of a lab; a context manager that ends it.

    Args:
        lab: With a shared file system.
        source: Functions for the workers. They may use `note`, `await_go`, and the modules that `_OPENING` imports.
        functions: The names of those that are run, in this order. "name@signal" waits for `go("signal")` first.
        terminal: The number of a terminal which the script is to have as its own; without one it has pipes.
        settings: Of `trx.Launcher`, above the defaults of these tests.
    """

    _numbers = itertools.count(1)

    def __init__(
        self, lab: Lab, source: str, functions: Sequence[str], *, terminal: int | None = None, **settings: Any
    ) -> None:
        self.lab = lab
        self.logs = lab.directory / f"logs-{next(self._numbers)}"
        self._diary = self.logs.with_name(f"{self.logs.name}.diary")
        self._diary.touch()
        ours = {
            "hostnames": lab.names,
            "workers_per_host": 1,
            "backend": None,
            "grace_period": GRACE,
            "start_timeout": 60,
            "ssh_config_file": str(lab.ssh_config),
        }
        script = lab.script_file(_OPENING + source + _CLOSING)
        words = [sys.executable, "-X", "faulthandler", str(script), str(self._diary), json.dumps({**ours, **settings})]
        self.said: list[tuple[float, str]] = []
        self._readers: list[threading.Thread] = []
        pipe: int = subprocess.PIPE if terminal is None else terminal
        self.process = lab.launcher.popen(
            [*([] if terminal is None else ["setsid", "--ctty"]), *words, *functions],
            env={"TRX_LOG_DIR": str(self.logs)},
            cwd="/",
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=pipe,
            stderr=pipe,
        )
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                self._readers.append(threading.Thread(target=self._listen, args=(stream,), daemon=True))
                self._readers[-1].start()

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGABRT)  # faulthandler tells where it was
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2.0)
            self.process.kill()
        for reader in self._readers:
            reader.join(5.0)
        self.lab.heal()

    def _listen(self, stream: IO[str]) -> None:
        with contextlib.suppress(ValueError):  # closed meanwhile
            for line in stream:
                self.said.append((time.monotonic(), line.rstrip("\n")))

    # ---- what the script and its workers tell -----------------------------------------------------------------------

    def go(self, name: str = "go") -> None:
        """Lets go on whoever waits for it."""
        self._diary.with_name(f"{self._diary.name}.{name}").touch()

    def notes(self, what: str, **facts: Any) -> list[Note]:
        """All that were written so far."""
        return [note for note in self._read() if note.what == what and _fits(note, facts)]

    def wait(self, what: str, count: int = 1, within: float = 40.0, **facts: Any) -> list[Note]:
        """Waits for a number of notes."""

        def written() -> list[Note] | None:
            ended = self.process.poll() is not None
            notes = self.notes(what, **facts)
            if ended and len(notes) < count:
                raise AssertionError(f"the script has ended without {count} notes {what!r} {facts}:\n{self.story()}")
            return notes if len(notes) >= count else None

        try:
            return wait_until(written, within, f"{count} notes {what!r} {facts}") or []
        except TimeoutError as error:
            raise AssertionError(f"{error}:\n{self.story()}") from None

    def first(self, what: str, within: float = 40.0, **facts: Any) -> Note:
        return self.wait(what, 1, within, **facts)[0]

    def ends(self, within: float = 30.0) -> int:
        """Waits for the end of the script, and returns its exit status."""
        try:
            status = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.__exit__()
            raise AssertionError(f"the script did not end within {within:g} s:\n{self.story()}") from None
        for reader in self._readers:
            reader.join(5.0)
        return status

    def heard(self, text: str) -> float:
        """When the script first printed a line with this text."""
        line = wait_until(
            lambda: next(((at, line) for at, line in list(self.said) if text in line), None), 10, f"{text!r} is said"
        )
        assert line is not None
        return line[0]

    def log(self, host: str, local_rank: int = 0) -> Path:
        """The log file of a worker, in the last of the sessions."""
        return max(self.logs.iterdir()) / f"{host}[{local_rank}].log"

    def story(self) -> str:
        """All that is known, for the message of a test that fails."""
        notes = [f"{note.at:.2f} rank {note.rank}: {note.what} {note.facts}" for note in self._read()]
        return "\n".join([*notes, *(f"{at:.2f} said: {line}" for at, line in self.said)])

    def _read(self) -> Iterator[Note]:
        text = self._diary.read_text()
        for line in text[: text.rfind("\n") + 1].splitlines():
            facts = json.loads(line)
            yield Note(facts.pop("what"), facts.pop("at"), facts.pop("rank"), facts.pop("pid"), facts)


def _fits(note: Note, facts: dict[str, Any]) -> bool:
    return all((note.rank if name == "rank" else note.facts.get(name)) == value for name, value in facts.items())


# ---- processes of a host --------------------------------------------------------------------------------------------


def tree(host: Host, worker: Note) -> Tree:
    """The processes above a worker that has noted something."""
    outer = next(pid for pid in host.pids() if inner_pid(pid) == worker.pid)
    above = [parent.pid for parent in psutil.Process(outer).parents()[:4]]
    return Tree(above[3], above[2], above[1], above[0], outer)


def ours(host: Host) -> list[str]:
    """The living processes of launches on a host, also while nobody can reach it: agents and all below them."""
    return [f"{pid} {_command_line(pid)}" for pid in host.pids() if _is_ours(pid)]


def are_gone(host: Host, within: float) -> None:
    """Fails where processes of launches are left on a host for longer than that."""
    wait_until(lambda: not ours(host), within, f"no process of a launch is left on {host.name}")


def _is_ours(pid: int) -> bool:
    try:
        return (
            "python" in os.readlink(f"/proc/{pid}/exe") or b"TRX_LAUNCH=" in Path(f"/proc/{pid}/environ").read_bytes()
        )
    except OSError:
        return False


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


# ---- what was raised ------------------------------------------------------------------------------------------------


def worker_failure(raised: Note) -> dict[str, Any]:
    """The first failure of a `WorkerFailedError`."""
    assert "WorkerFailedError" in raised["kinds"], raised["whole"]
    failure: dict[str, Any] = raised["failures"][0]
    return failure


def assert_lost(raised: Note, *hostnames: str) -> None:
    """It is an `AgentFailedError` that names these hosts."""
    assert raised.what == "raised", raised
    assert raised["kinds"][0] == "AgentFailedError", raised["whole"]
    lost = [failure["hostname"] for failure in raised["failures"]]  # that which was lost first comes first
    assert sorted(lost) == sorted(hostnames)
    assert all(hostname in raised["text"] for hostname in hostnames)


def assert_clean(launch: Launch, status: int = 0) -> None:
    """The script ends as expected, and nothing of it is left on any machine."""
    assert launch.ends() == status, launch.story()
    left = launch.lab.leftovers()
    assert left == [], f"{left}\n{launch.story()}"


def assert_fine_afterwards(launch: Launch, values: list[str] | None = None) -> None:
    """One more run on the same `Launcher` works, with new agents where it takes them."""
    assert launch.first("returned", function="fine")["values"] == (values or launch.lab.names)
    assert_clean(launch)
