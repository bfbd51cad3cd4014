"""A launcher that dies, stops or is interrupted: hosts clean up by themselves, and Ctrl-C is gentle the first time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from .faults import GRACE, LEAVING, NO_LEASE, SHORT_LEASE, SLACK, Launch, Measured, are_gone, assert_clean, tree
from .harness import Lab

pytestmark = pytest.mark.timeout(120)

CTRL_C = b"\x03"

AFTER_THE_GRACE = f"clean after a grace of {GRACE:.0f} s,"

WORKING = """
def ignore_sigterm():
    def refuse(*_):
        note("refuses")
    signal.signal(signal.SIGTERM, refuse)
    if os.fork() == 0:
        os.setsid()  # a child that no signal to the worker's group would reach
    note("ignores")
    while True:
        time.sleep(600)

def save_at_the_end():
    def save(*_):
        note("saves")
        time.sleep(0.5)
        note("saved")
        sys.exit()
    signal.signal(signal.SIGTERM, save)
    note("ready")
    while True:
        time.sleep(600)

def fine():
    return socket.gethostname()
"""


class Terminal:
    """Of which the launcher's script gets the one end, and the test has the other."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.openpty()

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def close(self) -> None:
        for descriptor in (self.ours, self.theirs):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


# ---- the launcher dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_hosts_clean_up_when_the_launcher_is_killed(two: Lab, number: signal.Signals, measured: Measured) -> None:
    with Launch(two, WORKING, ["ignore_sigterm"], lease=NO_LEASE) as launch:
        launch.wait("ignores", 4)
        launch.process.send_signal(number)
        measured("launcher-killed", AFTER_THE_GRACE, assert_hosts_clean_up(launch, GRACE + LEAVING))
        assert launch.ends() == -number
        assert two.leftovers() == []


def test_hosts_clean_up_when_the_launcher_is_killed_though_an_agent_is_stuck(two: Lab) -> None:
    """Of which no lease tells so soon."""
    with Launch(two, WORKING, ["ignore_sigterm"], lease=NO_LEASE) as launch:
        launch.wait("ignores", 4)
        os.kill(tree(two["node2"], launch.first("works", host="node2")).agent, signal.SIGSTOP)
        launch.process.send_signal(signal.SIGKILL)
        for host in two:
            are_gone(host, GRACE + LEAVING + SLACK)
        assert launch.ends() == -signal.SIGKILL
        assert two.leftovers() == []


def test_hosts_clean_up_when_the_terminal_closes(two: Lab, terminal: Terminal, measured: Measured) -> None:
    with Launch(two, WORKING, ["ignore_sigterm"], terminal=terminal.theirs, lease=NO_LEASE) as launch:
        launch.wait("ignores", 4)
        terminal.close()
        measured("launcher-killed", AFTER_THE_GRACE, assert_hosts_clean_up(launch, GRACE + LEAVING))
        assert launch.ends() == -signal.SIGHUP
        assert two.leftovers() == []


def assert_hosts_clean_up(launch: Launch, promised: float) -> float:
    """Returns the seconds that it took."""
    begun = time.monotonic()
    for host in launch.lab:
        are_gone(host, begun + promised + SLACK - time.monotonic())
    taken = time.monotonic() - begun
    assert len(launch.notes("refuses")) >= len(launch.lab)  # they had their grace
    return taken


def test_hosts_clean_up_when_the_launcher_stops_and_it_is_told_when_it_goes_on(two: Lab, measured: Measured) -> None:
    with Launch(two, WORKING, ["ignore_sigterm", "fine"], lease=SHORT_LEASE) as launch:
        launch.wait("ignores", 4)
        launch.process.send_signal(signal.SIGSTOP)
        taken = assert_hosts_clean_up(launch, SHORT_LEASE + GRACE + LEAVING)
        measured("launcher-stopped", f"clean after a lease of {SHORT_LEASE:.0f} s and a grace of {GRACE:.0f} s,", taken)
        launch.process.send_signal(signal.SIGCONT)
        raised = launch.first("raised")
        assert raised["kinds"][0] == "AgentFailedError"
        assert {failure["hostname"] for failure in raised["failures"]} == {"node1", "node2"}
        assert launch.first("returned", function="fine")["values"] == two.names
        assert_clean(launch)


def test_launcher_that_stops_for_a_moment_disturbs_nothing(two: Lab) -> None:
    with Launch(two, WORKING + STEPPING, ["step"], lease=SHORT_LEASE) as launch:
        launch.wait("steps", 2)
        launch.process.send_signal(signal.SIGSTOP)
        time.sleep(SHORT_LEASE / 2)
        launch.process.send_signal(signal.SIGCONT)
        assert launch.first("returned")["values"] == [0, 1]
        assert_clean(launch)


STEPPING = """
def step():
    note("steps")
    time.sleep(4)
    return int(os.environ["RANK"])
"""

# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_lets_workers_save_something(two: Lab, terminal: Terminal, measured: Measured) -> None:
    functions = ["save_at_the_end", "fine"]
    with Launch(two, WORKING, functions, terminal=terminal.theirs, grace_period=20) as launch:
        launch.wait("ready", 2)
        begun = time.monotonic()
        terminal.type(CTRL_C)
        raised = launch.first("raised")
        assert raised["kinds"][0] == "KeyboardInterrupt"
        assert not raised["held"]
        assert sorted(note.rank for note in launch.notes("saved")) == [0, 1]
        assert raised.at - begun < 0.5 + 1.0 + SLACK
        measured("ctrl-c", "once, where workers take 0.5 s to save something,", raised.at - begun)
        assert launch.first("returned", function="fine")["values"] == two.names
        assert_clean(launch)


def test_ctrl_c_twice_ends_workers_at_once(two: Lab, terminal: Terminal, measured: Measured) -> None:
    functions = ["ignore_sigterm", "fine"]
    with Launch(two, WORKING, functions, terminal=terminal.theirs, grace_period=60) as launch:
        launch.wait("ignores", 4)
        terminal.type(CTRL_C)
        launch.wait("refuses", 2)
        assert launch.notes("raised") == []
        again = time.monotonic()
        terminal.type(CTRL_C)
        raised = launch.first("raised")
        measured("ctrl-c", "twice", raised.at - again)
        assert raised["kinds"][0] == "KeyboardInterrupt"
        assert not raised["held"]
        assert raised.at - again < 2.0 + SLACK
        assert launch.first("returned", function="fine")["values"] == two.names
        assert_clean(launch)
