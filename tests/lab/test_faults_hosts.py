"""Hosts that go away, or nearly: what runs there ends by itself, the others are ended, and the next run works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .faults import (
    GRACE,
    LEASE,
    LEAVING,
    NO_LEASE,
    PROMISED_LOSS,
    SHORT_LEASE,
    SLACK,
    Launch,
    Measured,
    Note,
    are_gone,
    assert_clean,
    assert_fine_afterwards,
    assert_lost,
    tree,
    worker_failure,
)
from .harness import Host, Lab, LabError, leaks, wait_until

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.timeout(120)

WAITING = """
def wait():
    time.sleep(600)

def wait_with_a_daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note("haunts")
            time.sleep(600)
        os._exit(0)
    os.wait()
    time.sleep(600)

def ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("ignores")
    while True:
        time.sleep(600)

def fine():
    return socket.gethostname()
"""


def worker_on(launch: Launch, host: str) -> Note:
    """The first note of the worker there, once all workers are at work."""
    launch.wait("works", len(launch.lab))
    return launch.first("works", host=host)


# ---- one process above the workers dies or stops --------------------------------------------------------------------


@pytest.mark.parametrize("who", ["agent", "guardian", "forkserver", "runner"])
def test_process_above_the_workers_that_is_killed_loses_the_host_at_once(
    two: Lab, who: str, measured: Measured
) -> None:
    host = two["node2"]
    with Launch(two, WAITING, ["wait_with_a_daemon", "fine@more"], lease=NO_LEASE) as launch:
        line = tree(host, worker_on(launch, "node2"))
        launch.wait("haunts", 2)
        killed = time.monotonic()
        os.kill(getattr(line, who), signal.SIGKILL)
        wait_until(lambda: not alive([line.worker, line.runner]), 2.0 + SLACK, "its workers are dead")
        raised = launch.first("raised")
        assert_lost(raised, "node2")
        assert raised.at - killed < 2.0 + SLACK
        measured("agent-killed", "raised", raised.at - killed)
        assert who == "guardian" or not raised["held"]  # nobody is left there who could wait for the last of them
        launch.go("more")
        assert_fine_afterwards(launch)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()]


def test_agent_that_is_stopped_loses_the_host_when_its_lease_ends(two: Lab, measured: Measured) -> None:
    """And its guardian, which no longer feels its pulse, ends the workers, without waiting for their grace."""
    host = two["node2"]
    with Launch(two, WAITING, ["wait", "fine@more"], lease=SHORT_LEASE, grace_period=40) as launch:
        line = tree(host, worker_on(launch, "node2"))
        stopped = time.monotonic()
        os.kill(line.agent, signal.SIGSTOP)
        raised = launch.first("raised")
        assert_lost(raised, "node2")
        assert raised.at - stopped < SHORT_LEASE + 2.0 + SLACK
        are_gone(host, SLACK)
        measured("agent-stopped", f"with a lease of {SHORT_LEASE:.0f} s: raised", raised.at - stopped)
        launch.go("more")
        assert_fine_afterwards(launch)


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
        assert_fine_afterwards(launch)


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
def test_host_that_is_cut_off_is_lost_and_ends_its_own_workers(
    two: Lab, fault: Callable[[Host], None], measured: Measured
) -> None:
    host = two["node2"]
    with Launch(two, WAITING, ["ignore_sigterm", "fine@more"]) as launch:
        launch.wait("ignores", 2)
        begun = time.monotonic()
        fault(host)
        raised = launch.first("raised")
        assert_lost(raised, "node2")
        assert raised.at - begun < PROMISED_LOSS + GRACE + SLACK / 2
        measured("cut-off", "raised", raised.at - begun)
        if host.pid is not None:
            are_gone(host, begun + LEASE + GRACE + LEAVING + SLACK - time.monotonic())
            measured("cut-off", f"isolated side clean, after a grace of {GRACE:.0f} s,", time.monotonic() - begun)
        two.heal()
        launch.go("more")
        assert_fine_afterwards(launch)


# Its agent cannot say a word before this script ends.
SLOW_BEGINNING = """
if [ "$(hostname)" = node2 ]; then
  touch {begun}
  sleep 100
fi
"""


@pytest.mark.parametrize("way", ["ProxyJump none", "ProxyJump node1", "ProxyCommand ssh -F {config} -W %h:%p node1"])
def test_host_that_is_lost_before_its_agent_says_a_word(two: Lab, way: str, measured: Measured) -> None:
    """No lease runs yet, and the connection that the launcher's kernel watches may lead to another host."""
    begun = two.directory / "begun"
    begun.unlink(missing_ok=True)
    env_file = two.directory / "slow.sh"
    env_file.write_text(SLOW_BEGINNING.format(begun=begun))
    config = two.write_ssh_config(f"Host node2\n  {way.format(config=two.ssh_config)}\n")
    settings: dict[str, Any] = {"ssh_config_file": str(config), "env_file": str(env_file), "start_timeout": NO_LEASE}
    with Launch(two, WAITING, ["wait"], lease=SHORT_LEASE, **settings) as launch:
        wait_until(begun.exists, 30, "node2 has begun")
        lost = time.monotonic()
        two["node2"].power_off()
        raised = launch.first("raised")
        assert_lost(raised, "node2")
        assert "the connection was lost" in raised["text"]
        assert raised.at - lost < 1.5 * SHORT_LEASE + 2.0 + SLACK
        measured("early", f"with a lease of {SHORT_LEASE:.0f} s: raised", raised.at - lost)
        two.heal()
        assert_clean(launch)


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
        assert_fine_afterwards(launch)


# ---- nothing happens ------------------------------------------------------------------------------------------------


STEPS = 20
STEPPING = f"""
def step():
    import threading
    import torch
    import torch.distributed as dist
    rank, sums, ticks = dist.get_rank(), [], []
    over = threading.Event()
    def tick():  # goes on where the steps have to wait
        while not over.wait(0.05):
            sys.stdout.write(f"tick {{len(ticks)}}\\n")
            ticks.append(rank)
    ticking = threading.Thread(target=tick)
    ticking.start()
    for number in range({STEPS}):
        value = torch.full((100,), float(rank + number))
        dist.all_reduce(value)
        sums.append(value.mean().item())
        sys.stdout.write(f"step {{number}} of rank {{rank}}\\n")
        note("steps", number=number)
        time.sleep(0.15)
    over.set()
    ticking.join()
    return sums, len(ticks), str(rank) * 100_000
"""


def assert_undisturbed(launch: Launch) -> None:
    """All steps were taken, in order, and all their lines and values have arrived; and nothing is left."""
    returned = launch.first("returned", within=80.0, function="step")
    expected = [2.0 * number + 1.0 for number in range(STEPS)]
    for rank, (sums, ticks, text) in enumerate(returned["values"]):
        assert sums == expected
        assert text == str(rank) * 100_000
        lines = launch.log(launch.lab.names[rank]).read_text().splitlines()
        assert [line for line in lines if "step" in line] == [
            f"step {number} of rank {rank}" for number in range(STEPS)
        ]
        assert [line for line in lines if "tick" in line] == [f"tick {number}" for number in range(ticks)]
    assert_clean(launch)


def test_latency_disturbs_nothing(two: Lab) -> None:
    two["node2"].delay(100)  # each way
    with Launch(two, STEPPING, ["step"], backend="gloo") as launch:
        assert_undisturbed(launch)


def test_loss_disturbs_nothing(two: Lab) -> None:
    two["node2"].cut(loss=5)
    with Launch(two, STEPPING, ["step"], backend="gloo") as launch:
        assert_undisturbed(launch)


@pytest.mark.parametrize(("seconds", "lease"), [(3.0, LEASE), (7.0, 20.0)])
def test_blackout_disturbs_nothing(two: Lab, seconds: float, lease: float) -> None:
    """The longer one outlasts ZeroMQ's own connections, which are made anew."""
    with Launch(two, STEPPING, ["step"], backend="gloo", lease=lease) as launch:
        launch.first("steps", number=STEPS // 3, rank=1)
        two["node2"].cut()
        time.sleep(seconds)
        assert launch.notes("steps", number=STEPS - 1) == []
        two.heal()
        assert_undisturbed(launch)


@pytest.mark.parametrize("who", ["node1", "node2"])
def test_blackout_while_hosts_look_for_the_first_one_disturbs_nothing(two: Lab, who: str) -> None:
    """Of either side; it outlasts the third time that the kernel asks, after 3 s. The next would be too late."""
    two["node2"].cut(peer=two["node1"])  # so that what is to be lost is under way
    with Launch(two, WAITING, ["fine"]) as launch:
        wait_until(lambda: leaks.is_connecting(two["node2"].pid or 0), 40, "node2 knocks at the doors of node1")
        two[who].cut()
        time.sleep(3.3)
        two.heal()
        assert_fine_afterwards(launch)


def test_host_at_a_tenth_of_a_core_disturbs_nothing(two: Lab) -> None:
    with Launch(two, STEPPING, ["step"], backend="gloo") as launch:
        launch.first("steps", rank=1)
        try:
            two["node2"].cpu_limit(0.1)
        except LabError as error:
            pytest.skip(str(error))
        assert_undisturbed(launch)


# ---- clocks ---------------------------------------------------------------------------------------------------------


SHIFTED_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
#define HOURS 5
typedef int (*clock_gettime_t)(clockid_t, struct timespec *);
int clock_gettime(clockid_t clock, struct timespec *at) {
  static clock_gettime_t real;
  if (!real) real = (clock_gettime_t)dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(clock, at);
  if (!status && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += HOURS * 3600;
  return status;
}
time_t time(time_t *out) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  if (out) *out = at.tv_sec;
  return at.tv_sec;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""

ELSEWHEN = """#!/bin/sh
if [ "$(hostname)" = node2 ]; then
  export LD_PRELOAD={library}
  exec unshare --time --monotonic 864000 --boottime 864000 --fork --kill-child {python} "$@"
fi
exec {python} "$@"
"""


def test_clocks_that_differ_by_hours_have_no_effect(two: Lab) -> None:
    """Neither the time of day, nor the monotonic clocks, which in real life begin with each host's last boot."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc), by which the test shifts a host's time of day")
    if subprocess.run(["unshare", "--time", "true"], capture_output=True, check=False).returncode:
        pytest.skip("there are no time namespaces here, by which the test shifts a host's monotonic clock")
    library = two.directory / "shifted_clock.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), "-x", "c", "-", "-ldl"]
    subprocess.run(command, input=SHIFTED_CLOCK, text=True, check=True)
    python = two.directory / "python"
    python.write_text(ELSEWHEN.format(library=library, python=sys.executable))
    python.chmod(0o755)
    with Launch(two, STEPPING + CLOCKS, ["clocks", "step", "fail"], backend="gloo", python=str(python)) as launch:
        (day1, since1), (day2, since2) = launch.first("returned", function="clocks")["values"]
        assert day2 - day1 > 4 * 3600
        assert since2 - since1 > 800_000
        raised = launch.first("raised", function="fail")
        assert worker_failure(raised)["rank"] == 1
        assert raised.at - launch.first("begins", function="fail").at < 1.0 + SLACK
        assert_undisturbed(launch)


CLOCKS = """
def clocks():
    return time.time(), time.monotonic()

def fail():
    if os.environ["RANK"] == "1":
        raise ValueError("failed")
    time.sleep(600)
"""
