"""Signals that warn: the launcher passes them on, workers may catch them, and nobody else is disturbed."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import trx
from trx.hub import Hub
from trx.signals import heeded, outlived

from .helpers import Script, travels_by_value

travels_by_value(__name__)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)]


def warn_oneself() -> list[object]:
    """What Python says of the signals, which this process and a child of it outlive."""
    found = handlers()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
        subprocess.run(["sh", "-c", f"kill -{int(number)} $$"], check=True)
    return found


def test_workers_that_look_for_a_handler_find_none_and_die_of_no_warning_even_so() -> None:
    (found,) = trx.launch(warn_oneself, hostnames=["localhost"], workers_per_host=1, backend=None)
    assert found == [signal.SIG_DFL, signal.SIG_DFL]


@pytest.fixture
def faults() -> Iterator[tempfile._TemporaryFileWrapper[bytes]]:
    """Where the stacks go that SIGUSR1 asks for."""
    with tempfile.NamedTemporaryFile() as file:
        faulthandler.register(signal.SIGUSR1, file)
        yield file
        faulthandler.unregister(signal.SIGUSR1)


def test_a_handler_of_faulthandler_stays(faults: tempfile._TemporaryFileWrapper[bytes]) -> None:
    """Python itself does not know of it."""
    warned: list[int] = []
    for _ in range(2):
        with heeded(warned.append, lambda: None):
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR2)
        assert set(warned) == {signal.SIGUSR2}  # now, since SIGUSR1 would end this process
    signal.raise_signal(signal.SIGUSR1)
    assert faults.seek(0) == 0
    assert faults.read().count(b"Current thread") == 3  # beside which this process may have others
    assert handlers() == [signal.SIG_DFL, signal.SIG_DFL]


def test_signals_may_come_while_the_engine_is_being_woken_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(1, beat=1.0)
    write = os.eventfd_write

    def be_interrupted(descriptor: int, value: int) -> None:
        monkeypatch.setattr(os, "eventfd_write", write)
        signal.raise_signal(signal.SIGUSR1)
        write(descriptor, value)

    monkeypatch.setattr(os, "eventfd_write", be_interrupted)
    try:
        with heeded(lambda _: hub.wake(), lambda: None):
            hub.wake()
        assert os.eventfd_read(hub._waking) == 2
    finally:
        hub.close(0.0)


BETWEEN_RUNS = """
import os, signal, subprocess, sys, trx

def wait_for_warning():
    print("ready", flush=True)
    sys.stdin.readline()

print_own = lambda *_: os.write(1, b"own handler\\n")  # since a print may be under way
with trx.Launcher(["localhost"], 2, backend=None, log_handlers=None) as launcher:
    wait_for_warning()
    print(sorted(launcher.run(lambda: int(os.environ["RANK"]))), flush=True)
    wait_for_warning()
    subprocess.run(["sh", "-c", "trap 'echo trapped' USR1; kill -USR1 $$"])
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, print_own)
    wait_for_warning()
    print(sorted(launcher.run(lambda: int(os.environ["RANK"]))), flush=True)
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    wait_for_warning()
signal.signal(signal.SIGUSR1, signal.SIG_DFL)
with trx.Launcher(["localhost"], 1, backend=None, log_handlers=None) as launcher:
    launcher.run(int)
wait_for_warning()
"""


def test_warnings_between_runs_kill_nobody_and_are_the_users_own(tmp_path: Path) -> None:
    with Script(tmp_path, BETWEEN_RUNS, stdin=subprocess.PIPE, text=True) as script:
        stdin, stdout = script.process.stdin, script.process.stdout
        assert stdin is not None
        assert stdout is not None

        def warn(*numbers: signal.Signals) -> None:
            assert stdout.readline() == "ready\n"
            for number in numbers:
                script.process.send_signal(number)
            print("go on", file=stdin, flush=True)

        warn(signal.SIGUSR1, signal.SIGUSR2)
        assert stdout.readline() == "[0, 1]\n"
        warn(signal.SIGUSR1, signal.SIGUSR2)
        assert stdout.readline() == "trapped\n"
        warn(signal.SIGUSR2)
        assert [stdout.readline(), stdout.readline()] == ["own handler\n", "[0, 1]\n"]
        warn(signal.SIGUSR1)
        assert stdout.readline() == "own handler\n"
        warn(signal.SIGUSR1)
        assert script.process.wait(20) == -signal.SIGUSR1


def test_the_last_session_that_ends_puts_everything_back() -> None:
    first, second = outlived(), outlived()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    signal.raise_signal(signal.SIGUSR1)
    second.__exit__(None, None, None)
    assert handlers() == [signal.SIG_DFL, signal.SIG_DFL]


def test_a_handler_that_faulthandler_sets_between_runs_stays() -> None:
    warned: list[int] = []
    with tempfile.NamedTemporaryFile() as file:
        try:
            with outlived():
                faulthandler.register(signal.SIGUSR1, file)
                with heeded(warned.append, lambda: None):
                    signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
            assert file.seek(0) == 0
            assert file.read().count(b"Current thread") == 2
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert not warned
