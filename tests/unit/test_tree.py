"""Ending a tree of processes: whom to signal when, with processes that exist on paper only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil
import pytest

from trx_agent import tree
from trx_agent.tree import UNKILLABLE, Felling, describe, has_lost_its_head

ROOT, GRACE = 1, 5.0
TERM, KILL = signal.SIGTERM, signal.SIGKILL


class Process:
    """Dies of the signals in `mortal`."""

    def __init__(self, forest: Forest, pid: int, mortal: Collection[int]) -> None:
        self.forest = forest
        self.pid = pid
        self.mortal = mortal

    def send_signal(self, number: int) -> None:
        self.forest.signals.append((self.pid, number))
        if number in self.mortal:
            del self.forest.alive[self.pid]

    def name(self) -> str:
        return "python"

    def status(self) -> str:
        if self.pid not in self.forest.alive:
            raise psutil.NoSuchProcess(self.pid)
        return "disk-sleep"


class Forest:
    """The processes below ROOT, and what was sent to them."""

    def __init__(self) -> None:
        self.alive: dict[int, Process] = {}
        self.signals: list[tuple[int, int]] = []

    def plant(self, *pids: int, mortal: Collection[int] = (TERM, KILL)) -> None:
        self.alive.update({pid: Process(self, pid, mortal) for pid in pids})

    def descendants(self, root: int, spare: Collection[int] = ()) -> list[Process]:
        assert root == ROOT
        return [process for pid, process in self.alive.items() if pid not in spare]

    def take(self) -> list[tuple[int, int]]:
        signals, self.signals = self.signals, []
        return signals


@pytest.fixture
def forest(monkeypatch: pytest.MonkeyPatch) -> Forest:
    forest = Forest()
    monkeypatch.setattr(tree, "descendants", forest.descendants)
    return forest


def felling(spare: Collection[int] = (), first: Collection[int] = (), grace: float = GRACE) -> Felling:
    return Felling(ROOT, spare, first, 0.0, grace)


def test_nothing_to_end_is_the_end(forest: Forest) -> None:
    assert felling().step(0.0) == ()
    assert forest.take() == []


def test_workers_are_asked_first_and_what_outlives_them_then(forest: Forest) -> None:
    forest.plant(10, 11, 20, 21)
    it = felling(first=[10, 11])
    assert it.step(0.0) is None
    assert forest.take() == [(10, TERM), (11, TERM)]
    assert it.step(0.1) is None
    assert forest.take() == [(20, TERM), (21, TERM)]
    assert it.step(0.2) == ()
    assert forest.take() == []


def test_others_are_left_alone_while_a_worker_takes_its_time(forest: Forest) -> None:
    forest.plant(10, mortal=[KILL])
    forest.plant(11, 20)
    it = felling(first=[10, 11])
    it.step(0.0)
    forest.take()
    assert it.step(GRACE - 0.1) is None
    assert forest.take() == []
    assert set(forest.alive) == {10, 20}


def test_a_process_is_asked_once(forest: Forest) -> None:
    forest.plant(20, mortal=[KILL])
    it = felling()
    for now in (0.0, 0.1, 0.2):
        assert it.step(now) is None
    assert forest.take() == [(20, TERM)]


def test_a_process_that_comes_later_is_asked_too(forest: Forest) -> None:
    forest.plant(20, mortal=[KILL])
    it = felling()
    it.step(0.0)
    forest.plant(30)
    it.step(0.1)
    assert forest.take() == [(20, TERM), (30, TERM)]


def test_all_that_is_left_at_the_deadline_is_killed_workers_and_others_alike(forest: Forest) -> None:
    forest.plant(10, 20, mortal=[KILL])
    it = felling(first=[10])
    it.step(0.0)
    it.step(GRACE - 0.01)
    assert forest.take() == [(10, TERM)]
    assert it.step(GRACE) is None
    assert forest.take() == [(10, KILL), (20, KILL)]
    assert it.step(GRACE + 0.1) == ()


def test_what_is_forked_while_it_is_killed_is_killed_as_well(forest: Forest) -> None:
    forest.plant(20, mortal=[KILL])
    it = felling()
    it.step(GRACE)
    forest.plant(30, mortal=[KILL])
    assert it.step(GRACE + 0.1) is None
    assert forest.take() == [(20, KILL), (30, KILL)]


def test_what_cannot_be_killed_is_told_after_a_while(forest: Forest) -> None:
    forest.plant(20, mortal=[])
    it = felling()
    it.step(0.0)
    assert it.step(GRACE) is None
    assert it.step(GRACE + UNKILLABLE - 0.1) is None
    assert forest.take() == [(20, TERM), (20, KILL), (20, KILL)]
    left = it.step(GRACE + UNKILLABLE)
    assert left is not None
    assert [process.pid for process in left] == [20]
    assert describe(left[0]) == "pid 20 (python, state disk-sleep)"
    del forest.alive[20]
    assert describe(left[0]) == "pid 20"


def test_without_grace_there_is_no_asking(forest: Forest) -> None:
    forest.plant(10, 20)
    it = felling(first=[10], grace=0.0)
    assert it.step(0.0) is None
    assert forest.take() == [(10, KILL), (20, KILL)]


def test_the_smaller_grace_counts(forest: Forest) -> None:
    forest.plant(20, mortal=[KILL])
    it = felling()
    it.step(0.0)
    it.hurry(1.0)
    it.hurry(100.0)
    assert it.deadline == 1.0
    it.step(1.0)
    assert forest.take() == [(20, TERM), (20, KILL)]


def test_processes_of_our_own_are_spared(forest: Forest) -> None:
    forest.plant(2, 20)
    it = felling(spare=[2])
    it.step(0.0)
    assert it.step(GRACE) == ()
    assert forest.take() == [(20, TERM)]
    assert set(forest.alive) == {2}


@pytest.mark.parametrize("error", [psutil.NoSuchProcess, psutil.AccessDenied])
def test_a_process_that_cannot_be_signalled_stops_nobody(
    forest: Forest, monkeypatch: pytest.MonkeyPatch, error: type[psutil.Error]
) -> None:
    def refuse(number: int) -> None:
        raise error(20)

    forest.plant(20, 30)
    monkeypatch.setattr(forest.alive[20], "send_signal", refuse)
    it = felling()
    assert it.step(0.0) is None
    assert forest.take() == [(30, TERM)]


MANY_THREADS = """
import ctypes, platform, sys, threading, time
for _ in range(200):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("ready", flush=True)
if "headless" in sys.argv:
    ctypes.CDLL(None).syscall({"x86_64": 60}.get(platform.machine(), 93), 0)
time.sleep(60)
"""


@pytest.mark.parametrize("round", range(8))
def test_process_that_is_killed_is_never_taken_for_one_whose_first_thread_alone_has_ended(round: int) -> None:
    """Its threads end one after the other, its first one not as the last."""
    with subprocess.Popen([sys.executable, "-c", MANY_THREADS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            assert not has_lost_its_head(process.pid)


def test_process_whose_first_thread_alone_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", MANY_THREADS, "headless"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        while not has_lost_its_head(process.pid):
            assert process.poll() is None
        process.kill()


def test_a_zombie_that_is_collected_while_it_is_looked_at_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    def collected(self: Path, pattern: str) -> Iterator[Path]:
        raise FileNotFoundError(2, "No such file or directory", str(self))

    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        monkeypatch.setattr(Path, "glob", collected)
        assert not has_lost_its_head(zombie.pid)
