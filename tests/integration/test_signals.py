"""Signals that warn: the launcher passes them on, workers may catch them, and nobody else is disturbed."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

import trx
from trx.hub import Hub
from trx.signals import heeded

from .helpers import travels_by_value

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
