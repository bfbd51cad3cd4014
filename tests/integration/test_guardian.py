"""The guardian and its agent, whatever happens to either of them, and when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

import trx
import trx.hosts.local
from trx.hosts.local import INTERPRETER_ARGUMENTS
from trx.hosts.shell import prelude, words

from .helpers import is_alive, lineage, travels_by_value, wait_until

travels_by_value(__name__)

SLACK = 5.0
"""Seconds that anything may take longer than promised, on a machine that does other things as well."""

DIES_EARLY = """
import os, signal, sys, time
from pathlib import Path
from trx_agent import guardian, machine
from trx_agent.linux import inherit_orphans

def look(*_):  # what the agent does first
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)

machine.look = look
inherit_orphans()
nothing = type("", (), {"workers": 1, "lease": 60, "grace": 1})()
guardian.guard(open(0, "rb", buffering=0), nothing, "", {}, Path(sys.argv[1]))
"""


def test_guardian_that_is_killed_before_its_agent_has_begun_leaves_no_files(tmp_path: Path) -> None:
    directory = tmp_path / "of the launch"
    directory.mkdir()

    command = [sys.executable, "-c", DIES_EARLY, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(20) == -9
        wait_until(lambda: not directory.exists(), "the agent has cleared up")


INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path
from trx_agent import guardian, machine
from trx_agent.linux import inherit_orphans

WHO = sys.argv[2]

def look(*_):  # what the agent does first
    if WHO == "agent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # a signal tells of the end of its parent
    os.kill(os.getpid(), signal.SIGTERM)

def clear(directory, clear=guardian._clear):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)
    clear(directory)

machine.look, guardian._clear = look, clear
inherit_orphans()
nothing = type("", (), {"workers": 1, "lease": 60, "grace": 1})()
guardian.guard(open(0, "rb", buffering=0), nothing, "", {}, Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("who", "status"), [("guardian", 1), ("agent", -signal.SIGKILL)])
def test_signals_do_not_interrupt_the_clearing_up(tmp_path: Path, who: str, status: int) -> None:
    directory = tmp_path / "of the launch"
    directory.mkdir()

    command = [sys.executable, "-c", INTERRUPTED, str(directory), who]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr
        said = process.stderr.read()  # to the end of both
        assert (process.wait(20), said) == (status, b"")
    assert not directory.exists()


TERMINATED_EARLY = """
import os, signal, sys
from pathlib import Path
from trx_agent import guardian, machine
from trx_agent.linux import inherit_orphans

def fork(fork=os.fork):
    pid = fork()
    os.kill(os.getpid(), signal.SIGTERM)  # both, as Slurm does
    return pid

os.fork = fork
inherit_orphans()
nothing = type("", (), {"workers": 1, "lease": 60, "grace": 1})()
guardian.guard(open(0, "rb", buffering=0), nothing, "", {}, Path(sys.argv[1]))
"""


def test_sigterm_that_comes_before_guardian_and_agent_have_handlers_leaves_no_files(tmp_path: Path) -> None:
    directory = tmp_path / "of the launch"
    directory.mkdir()

    command = [sys.executable, "-c", TERMINATED_EARLY, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(20) == 1
    assert not directory.exists()


def blocked() -> set[int | signal.Signals]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_signals_that_the_launchers_thread_has_blocked_are_not_blocked_on_hosts() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM))
    try:
        (found,) = trx.launch(blocked, hostnames=["localhost"], workers_per_host=1, backend=None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert found == set()


def leave_a_daemon(told: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # by which torch has its workers end with their parent
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            (told / "daemon").write_text(str(os.getpid()))
            time.sleep(60)
        os._exit(0)
    (told / "part").write_text(" ".join(map(str, lineage())))
    (told / "part").rename(told / "line")
    time.sleep(60)


def kill_guardian_and_agent(told: Path) -> None:
    wait_until(lambda: (told / "line").exists() and (told / "daemon").exists(), "the worker and its daemon", 40)
    _, runner, forkserver, agent, guardian = [int(pid) for pid in (told / "line").read_text().split()][:5]
    for each in (agent, forkserver, runner):  # so that none of them can hear of the others' end
        os.kill(each, signal.SIGSTOP)
    os.kill(guardian, signal.SIGKILL)
    os.kill(agent, signal.SIGKILL)


def zombies() -> list[psutil.Process]:
    below = psutil.Process().children(recursive=True)
    return [process for process in below if process.status() == psutil.STATUS_ZOMBIE]


def test_what_guardian_and_agent_leave_when_both_are_killed_the_next_launch_clears_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with trx.Launcher(["localhost"], 1, backend=None) as launcher:
        killer = threading.Thread(target=kill_guardian_and_agent, args=(tmp_path,))
        killer.start()
        with pytest.raises(trx.AgentFailedError):
            launcher.run(leave_a_daemon, tmp_path)
        killer.join()
        below = [int(pid) for pid in (tmp_path / "line").read_text().split()][:3]
        wait_until(
            lambda: not any(map(is_alive, below)), "the kernel has ended worker, runner and forkserver", 1 + SLACK
        )
        (left,) = temporary.glob("trx-*")
        daemon = int((tmp_path / "daemon").read_text())
        assert is_alive(daemon)

        assert list(launcher.run(len, "four")) == [4]
        wait_until(lambda: not left.exists() and not is_alive(daemon), "the next agent has cleared up")
        assert len(list(temporary.glob("trx-*"))) == 1  # its own
        wait_until(lambda: not zombies(), "who has cleared up is not left as a zombie", 1 + SLACK)


def test_directories_that_somebody_minds_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    the_users_own = tmp_path / "trx-0123-mine"
    the_users_own.mkdir(mode=0o700)
    with trx.Launcher(["localhost"], 1, backend=None) as first:
        first.run(len, "four")
        (minded,) = set(tmp_path.glob("trx-*")) - {the_users_own}
        trx.launch(len, ("four",), hostnames=["localhost"] * 2, workers_per_host=1, backend=None)
        assert set(tmp_path.glob("trx-*")) == {minded, the_users_own}
        assert list(first.run(len, "four")) == [4]


# ---- a host that is cut off in the middle of its beginning ----------------------------------------------------------

SHORT = 4
"""Seconds, instead of a minute, that a launcher has for its first word."""


def impatient(words: Iterable[str]) -> tuple[str, ...]:
    assert any("alarm(60)" in word for word in words)
    return tuple(word.replace("alarm(60)", f"alarm({SHORT})") for word in words)


def test_an_interpreter_whose_launcher_says_nothing_ends() -> None:
    for command in ([sys.executable, *impatient(INTERPRETER_ARGUMENTS)], impatient(words())):
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.stdin
            process.stdin.write(prelude(sys.executable, {}) if command[0] == "sh" else b"import")
            process.stdin.flush()
            assert process.wait(SHORT + SLACK) == -signal.SIGALRM


WAITS_FOR_A_DETOUR = f"""
import types
import trx_agent.__main__ as beginning
beginning.FIRST_WORD = {SHORT}
beginning._find_launcher(types.SimpleNamespace(endpoints=("tcp://127.0.0.1:1",)), open(0, "rb", buffering=0))
"""


def test_an_agent_that_is_told_of_no_detour_ends() -> None:
    command = [sys.executable, "-c", WAITS_FOR_A_DETOUR]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.wait(SHORT + SLACK) == -signal.SIGALRM
        assert process.stdout
        assert b"Unreachable" in process.stdout.read()


def test_a_launch_may_take_longer_than_its_launchers_first_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trx.hosts.local, "INTERPRETER_ARGUMENTS", impatient(INTERPRETER_ARGUMENTS))
    (slept,) = trx.launch(time.sleep, (SHORT + 1,), hostnames=["localhost"], workers_per_host=1, backend=None)
    assert slept is None
