"""Hosts that go away, or nearly: what runs there ends by itself, the others are ended, and the next run works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest

from .faults import GRACE, LEASE, PROMISED_LOSS, SLACK, Launch, Note, are_gone, assert_clean, assert_lost, ours, tree
from .harness import Host, Lab, LabError, wait_until

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.timeout(120)

SHORT_LEASE = 4.0
"""For what happens after a lease has run out; the promise itself is tested with the default."""

LEAVING = 2.0
"""Seconds above the grace after which the guardian kills an agent that the launcher has left."""

WAITING = """
def wait():
    time.sleep(600)

def ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("ignores")
    while True:
        time.sleep(600)

def fine():
    return socket.gethostname()
"""


@pytest.fixture
def two(make_lab: MakeLab) -> Lab:
    return make_lab(2)


def worker_on(launch: Launch, host: str) -> Note:
    """The first note of the worker there, once all workers are at work."""
    launch.wait("works", len(launch.lab))
    return launch.first("works", host=host)


def assert_fine_afterwards(launch: Launch, after: float) -> None:
    """One more run on the same `Launcher` works, with new agents where it takes them. Returns how long it took."""
    assert launch.first("returned", function="fine")["values"] == launch.lab.names
    assert launch.first("begins", function="fine").at > after
    assert_clean(launch)


# ---- one process above the workers dies or stops --------------------------------------------------------------------


@pytest.mark.parametrize("who", ["agent", "guardian", "forkserver", "runner"])
def test_process_above_the_workers_that_is_killed_loses_the_host_at_once(two: Lab, who: str) -> None:
    host = two["node2"]
    with Launch(two, WAITING, ["wait", "fine@more"]) as launch:
        line = tree(host, worker_on(launch, "node2"))
        killed = time.monotonic()
        os.kill(getattr(line, who), signal.SIGKILL)
        wait_until(lambda: not alive([line.worker, line.runner]), 2.0 + SLACK, "its workers are dead")
        raised = launch.first("raised")
        assert_lost(raised, "node2")
        assert raised.at - killed < 2.0 + SLACK
        assert not raised["held"]
        host.snapshot()  # a guardian that is killed cannot remove its directory, and nobody else may
        launch.go("more")
        assert_fine_afterwards(launch, raised.at)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()]


@pytest.mark.parametrize("who", ["agent", "guardian"])
def test_process_above_the_workers_that_is_stopped_loses_the_host_when_its_lease_ends(two: Lab, who: str) -> None:
    host = two["node2"]
    with Launch(two, WAITING, ["wait", "fine@more"], lease=SHORT_LEASE) as launch:
        line = tree(host, worker_on(launch, "node2"))
        stopped = time.monotonic()
        os.kill(getattr(line, who), signal.SIGSTOP)
        raised = launch.first("raised")
        assert_lost(raised, "node2")
        assert raised.at - stopped < SHORT_LEASE + 2.0 + SLACK
        are_gone(host, GRACE + LEAVING + SLACK)
        launch.go("more")
        assert_fine_afterwards(launch, raised.at)


def test_host_that_freezes_is_lost_and_ends_what_it_runs_when_it_thaws(two: Lab) -> None:
    host = two["node2"]
    with Launch(two, WAITING, ["wait", "fine@more"], lease=SHORT_LEASE) as launch:
        worker_on(launch, "node2")
        frozen = time.monotonic()
        host.freeze()
        raised = launch.first("raised")
        assert_lost(raised, "node2")
        assert raised.at - frozen < SHORT_LEASE + 2.0 + SLACK
        host.thaw()
        are_gone(host, GRACE + LEAVING + SLACK)
        launch.go("more")
        assert_fine_afterwards(launch, raised.at)


# ---- a host is cut off ----------------------------------------------------------------------------------------------


def power_off(host: Host) -> None:
    host.power_off()


def pull_the_cable(host: Host) -> None:
    host.link_down()


def hear_nothing(host: Host) -> None:
    host.cut("in", extra="meta protocol { ip, ip6 }")


def say_nothing(host: Host) -> None:
    host.cut("out", extra="meta protocol { ip, ip6 }")


def lose_the_network(host: Host) -> None:
    host.cut()


@pytest.mark.parametrize("fault", [power_off, pull_the_cable, hear_nothing, say_nothing, lose_the_network])
def test_host_that_is_cut_off_is_lost_and_ends_its_own_workers(two: Lab, fault: Callable[[Host], None]) -> None:
    host = two["node2"]
    with Launch(two, WAITING, ["ignore_sigterm", "fine@more"]) as launch:
        launch.wait("ignores", 2)
        begun = time.monotonic()
        fault(host)
        raised = launch.first("raised")
        print(f"lost after {raised.at - begun:.1f} s: {raised['text']}")
        assert_lost(raised, "node2")
        assert raised.at - begun < PROMISED_LOSS + GRACE + SLACK / 2
        if host.pid is not None:
            are_gone(host, begun + LEASE + GRACE + LEAVING + SLACK - time.monotonic())
            print(f"isolated side gone after {time.monotonic() - begun:.1f} s")
        two.heal()
        launch.go("more")
        assert_fine_afterwards(launch, raised.at)


def test_several_hosts_that_lose_power_together_are_lost_together(make_lab: MakeLab) -> None:
    lab = make_lab(4)
    with Launch(lab, WAITING, ["wait", "fine@more"], lease=SHORT_LEASE) as launch:
        worker_on(launch, "node2")
        begun = time.monotonic()
        for name in ("node2", "node3", "node4"):
            lab[name].power_off()
        raised = launch.first("raised")
        print(f"lost after {raised.at - begun:.1f} s: {raised['text']}")
        assert_lost(raised, "node2", "node3", "node4")
        assert raised.at - begun < SHORT_LEASE + 2.0 + SLACK
        lab.heal()
        launch.go("more")
        assert_fine_afterwards(launch, raised.at)
