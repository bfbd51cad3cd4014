"""Workers that fail on remote hosts: who is named, how soon, and that nothing of them is left."""

from __future__ import annotations

import signal
import time
from typing import NamedTuple

import pytest

from .faults import GRACE, SLACK, Launch, Measured, assert_fine_afterwards, worker_failure
from .harness import Lab, LabError

pytestmark = pytest.mark.timeout(120)

FINE = """
def fine():
    return socket.gethostname()

def rank():
    return int(os.environ["RANK"])
"""


# ---- death by a signal ----------------------------------------------------------------------------------------------


DYING = (
    FINE
    + """
def die(number):
    if rank() == 0:
        time.sleep(600)
    print("last words", flush=True)
    note("dies")
    os.kill(os.getpid(), number)

def killed():
    die(signal.SIGKILL)

def segfault():
    if rank() == 0:
        time.sleep(600)
    note("dies")
    ctypes.string_at(0)

def abort():
    die(signal.SIGABRT)
"""
)


def test_worker_killed_by_a_signal_is_named_with_its_rank_host_and_signal(two: Lab, measured: Measured) -> None:
    deaths = {"killed": signal.SIGKILL, "segfault": signal.SIGSEGV, "abort": signal.SIGABRT}
    with Launch(two, DYING, [*deaths, "fine"]) as launch:
        for number, (function, expected) in enumerate(deaths.items(), 1):
            raised = launch.first("raised", function=function)
            dies = launch.wait("dies", number)[-1]
            failure = worker_failure(raised)
            assert (failure["rank"], failure["local_rank"], failure["hostname"]) == (1, 0, "node2")
            assert failure["signal"] == expected
            assert expected.name in failure["summary"]
            assert "memory" not in failure["summary"]
            assert len(raised["failures"]) == 1
            assert not raised["held"]
            assert raised.at - dies.at < 1.0 + SLACK
            measured("killed", "remote", raised.at - dies.at)
        assert "last words" in launch.first("raised", function="killed")["whole"]
        assert_fine_afterwards(launch)


HOARDING = (
    FINE
    + """
def hoard():
    if rank() == 0:
        time.sleep(600)
    await_go()
    note("hoards")
    kept = []
    while True:
        kept.append(b"x" * (16 << 20))
"""
)


@pytest.mark.alone  # the machine counts such kills, also for the workers of other tests
def test_worker_killed_for_want_of_memory_is_told_as_that(two: Lab) -> None:
    with Launch(two, HOARDING, ["hoard", "fine"]) as launch:
        launch.wait("works", 2)
        host = two["node2"]
        try:
            host.mem_limit("768M")
        except LabError as error:
            pytest.skip(str(error))
        before = host.oom_kills()
        launch.go()
        raised = launch.first("raised", function="hoard")
        assert host.oom_kills() > before
        failure = worker_failure(raised)
        assert (failure["rank"], failure["hostname"], failure["signal"]) == (1, "node2", signal.SIGKILL)
        assert "out of memory" in failure["summary"]
        assert not raised["held"]
        assert_fine_afterwards(launch)


# ---- an exception ---------------------------------------------------------------------------------------------------


RAISING = (
    FINE
    + """
class OwnError(Exception):
    pass

def fail():
    note("raises")
    raise OwnError("the cause of it all")

def while_others_reduce():
    import torch
    import torch.distributed as dist
    dist.barrier()
    if rank() == 1:
        dist.all_reduce(torch.ones(1000))
        fail()
    while True:
        dist.all_reduce(torch.ones(1000))

def while_others_sleep_in_c():
    if rank() == 1:
        fail()
    ctypes.PyDLL(None).sleep(600)

def while_others_ignore_sigterm():
    if rank() == 1:
        await_go()
        fail()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("ignores")
    while True:
        time.sleep(600)
"""
)


class Told(NamedTuple):
    """Seconds until an exception was said in the log, and until it was raised."""

    said: float
    raised: float


def assert_told_as_the_cause(launch: Launch, function: str, promised: float) -> Told:
    """The exception is said at once, and raised when all is over."""
    raised = launch.wait("raised", function=function)[-1]
    failure = worker_failure(raised)
    assert "OwnError" in raised["kinds"], launch.story()
    raises = launch.notes("raises")[-1]
    assert raised["text"] == "the cause of it all"
    assert (failure["rank"], failure["local_rank"], failure["hostname"]) == (1, 0, "node2")
    assert "in fail" in raised["traceback"]
    assert "its traceback, on node2:" in raised["whole"]
    assert not raised["held"]
    said = launch.heard(f"pid {raises.pid}) raised")
    assert raises.at < said < raised.at + 0.1
    assert said - raises.at < 1.0 + SLACK
    assert raised.at - raises.at < promised + SLACK
    return Told(said - raises.at, raised.at - raises.at)


def test_exception_while_others_take_part_in_a_collective_is_the_one_that_is_raised(
    two: Lab, measured: Measured
) -> None:
    with Launch(two, RAISING, ["while_others_reduce", "while_others_reduce", "fine"], backend="gloo") as launch:
        for number in (1, 2):
            launch.wait("raised", number, function="while_others_reduce")
            told = assert_told_as_the_cause(launch, "while_others_reduce", 1.0)
            measured("raises", "said", told.said)
            measured("raises", "raised", told.raised)
        assert_fine_afterwards(launch)


def test_exception_while_others_are_in_c_is_raised_when_they_are_gone(two: Lab, measured: Measured) -> None:
    with Launch(two, RAISING, ["while_others_sleep_in_c", "fine"], grace_period=20) as launch:
        told = assert_told_as_the_cause(launch, "while_others_sleep_in_c", 1.0)
        measured("raises", "said", told.said)
        measured("raises", "raised", told.raised)
        assert_fine_afterwards(launch)


def test_exception_while_others_ignore_sigterm_is_said_at_once_and_raised_after_the_grace(
    two: Lab, measured: Measured
) -> None:
    with Launch(two, RAISING, ["while_others_ignore_sigterm", "fine"], grace_period=3) as launch:
        launch.wait("ignores")
        launch.go()
        told = assert_told_as_the_cause(launch, "while_others_ignore_sigterm", 3.0 + 2.0)
        assert told.raised - told.said > 2.0
        measured("raises", "raised where SIGTERM is ignored, after a grace of 3 s,", told.raised)
        assert_fine_afterwards(launch)


def test_exception_before_another_host_has_imported_torch_ends_that_import(two: Lab) -> None:
    """And the next run begins with a new one, though the old one may still be about to end."""
    try:
        two["node1"].cpu_limit(0.2)
    except LabError as error:
        pytest.skip(str(error))
    with Launch(two, RAISING, ["while_others_sleep_in_c", "fine"], grace_period=20) as launch:
        assert_told_as_the_cause(launch, "while_others_sleep_in_c", 1.0)
        assert [note.rank for note in launch.notes("works", function="while_others_sleep_in_c")] == [1]
        two.heal()
        assert_fine_afterwards(launch)


FAILING_TOGETHER = (
    FINE
    + """
def fail_together():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("ready")
    await_go()
    if rank() == 0:
        time.sleep(600)
    raise ValueError(f"rank {rank()}'s own trouble")
"""
)


def test_of_several_ranks_that_fail_at_once_one_is_raised_and_all_are_told(two: Lab, measured: Measured) -> None:
    with Launch(two, FAILING_TOGETHER, ["fail_together", "fine"], workers_per_host=2) as launch:
        launch.wait("ready", 4)
        begun = time.monotonic()
        launch.go()
        raised = launch.first("raised")
        measured("together", f"after a grace of {GRACE:.0f} s,", raised.at - begun)
        first = worker_failure(raised)
        assert raised["text"] == f"rank {first['rank']}'s own trouble"
        assert raised["traceback"] == first["traceback"]
        told = {failure["rank"]: failure for failure in raised["failures"]}
        assert sorted(told) == [1, 2, 3]
        assert [told[rank]["hostname"] for rank in (1, 2, 3)] == ["node1", "node2", "node2"]
        assert all(f"rank {rank}'s own trouble" in told[rank]["traceback"] for rank in told)
        assert raised["whole"].count("afterwards: rank") == 2
        assert not raised["held"]
        assert_fine_afterwards(launch, ["node1", "node1", "node2", "node2"])


# ---- what workers leave running -------------------------------------------------------------------------------------


GRANDCHILDREN = (
    FINE
    + """
def load():
    from torch.utils.data import DataLoader
    loader = iter(DataLoader(list(range(100)), num_workers=2, persistent_workers=True))
    next(loader)
    sys.loader = loader
    note("loads", children=[each.pid for each in loader._workers])

def daemon(stubborn):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    note("haunts")
    while True:
        time.sleep(600)

def leave(stubborn=False):
    load()
    daemon(stubborn)
    while len([line for line in open(DIARY) if '"haunts"' in line]) < 2:
        time.sleep(0.01)

def succeed():
    leave()
    return "done"

def succeed_with_a_headless_daemon():
    # Its first thread ends, by which it looks like a zombie; another one goes on.
    import platform, threading
    if os.fork() == 0:
        if os.fork():
            os._exit(0)
        os.setsid()
        threading.Thread(target=time.sleep, args=(600,)).start()
        note("haunts")
        ctypes.CDLL(None).syscall({"x86_64": 60}.get(platform.machine(), 93), 0)
    os.wait()
    while len([line for line in open(DIARY) if '"haunts"' in line]) < 2:
        time.sleep(0.01)
    note("loads")
    return "done"

def succeed_with_a_stubborn_daemon():
    leave(stubborn=True)
    return "done"

def fail():
    leave(stubborn=True)
    if rank() == 1:
        raise ValueError("failed")
    time.sleep(600)
"""
)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("succeed", "returned"),
        ("succeed_with_a_stubborn_daemon", "returned"),
        ("succeed_with_a_headless_daemon", "returned"),
        ("fail", "raised"),
    ],
)
def test_grandchildren_on_remote_hosts_are_gone_when_the_run_is_over(
    two: Lab, function: str, what: str, measured: Measured
) -> None:
    with Launch(two, GRANDCHILDREN, [function, "fine@look"]) as launch:
        over = launch.first(what, function=function)
        begun = max(note.at for note in launch.wait("haunts", 2))
        assert len(launch.notes("loads")) == 2
        assert over.what == "raised" or over["values"] == ["done", "done"]
        assert over.what == "returned" or worker_failure(over)["rank"] == 1
        assert not over["held"]
        assert over.at - begun < GRACE + 2.0 + SLACK
        stubborn = function in ("fail", "succeed_with_a_stubborn_daemon")
        measured("grandchildren", f"after a grace of {GRACE:.0f} s," if stubborn else "gone", over.at - begun)
        launch.go("look")
        assert_fine_afterwards(launch)
