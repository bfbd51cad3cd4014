"""Workers that fail in every way there is: what is raised, when, and what it says."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import platform
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import trx

from .helpers import (
    Measured,
    Script,
    alive,
    is_alive,
    lineage,
    on_rank,
    rank,
    signal_file,
    travels_by_value,
    with_cookie,
)

travels_by_value(__name__)

SLACK = 5.0
"""Seconds that anything may take longer than promised, on a machine that does other things as well."""

SOON = 15.0
"""Seconds that a failure may take to be raised on a loaded machine: much less than what the other rank waits."""


class TwoReasons(Exception):
    """Cannot be made again from its `args`, as pickle would."""

    def __init__(self, first: str, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first = first
        self.second = second


class WordsItsMessage(Exception):
    """Made again from its `args`, as pickle would, it says "empty is empty"."""

    def __init__(self, first: str) -> None:
        super().__init__(f"{first} is empty")
        self.first = first


class OnlyByName(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Sealed(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("nobody may derive from this")


class HoldsALock(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def fails(launcher: trx.Launcher, func: Callable[[], Any]) -> trx.WorkerFailedError:
    """Runs a function that must fail, soon."""
    start = time.monotonic()
    with pytest.raises(trx.WorkerFailedError) as caught:
        launcher.run(func)
    assert time.monotonic() - start < SOON
    return caught.value


# ---- an exception ---------------------------------------------------------------------------------------------------


def test_exception_is_caught_by_its_own_class_and_by_trxs_and_says_who_it_was(workers: trx.Launcher) -> None:
    def work() -> None:
        if rank() == 0:
            time.sleep(60)
        raise ValueError("no such luck", {"pid": os.getpid()})

    with pytest.raises(ValueError, match="no such luck") as caught:
        workers.run(work)

    error = caught.value
    assert isinstance(error, trx.WorkerFailedError)
    assert isinstance(error, trx.LaunchError)
    assert (error.rank, error.local_rank, error.hostname) == (1, 1, "localhost")
    assert (error.exitcode, error.signal) == (None, None)
    assert error.args == ("no such luck", {"pid": error.pid})
    assert "in work\n" in error.worker_traceback
    assert error.worker_traceback.startswith("Traceback (most recent call last):\n")
    assert "trx_agent" not in error.worker_traceback
    assert [failure.rank for failure in error.failures] == [1]
    assert error.failures[0].traceback == error.worker_traceback


def test_workers_run_again_after_one_has_failed(workers: trx.Launcher) -> None:
    fails(workers, on_rank(0, lambda: 1 // 0))

    assert list(workers.run(rank)) == [0, 1]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: KeyError("key"), id="KeyError"),
        pytest.param(lambda: FileNotFoundError(2, "No such file", "/a/file"), id="FileNotFoundError"),
        pytest.param(lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), id="UnicodeDecodeError"),
        pytest.param(lambda: json.JSONDecodeError("Expecting value", "{", 1), id="JSONDecodeError"),
        pytest.param(lambda: subprocess.CalledProcessError(3, ["make"], b"out", b"err"), id="CalledProcessError"),
        pytest.param(lambda: StopIteration(7), id="StopIteration"),
        pytest.param(lambda: AssertionError(), id="AssertionError"),
        pytest.param(lambda: TimeoutError("late"), id="TimeoutError"),
        pytest.param(lambda: SyntaxError("invalid syntax", ("file.py", 3, 5, "a b", 3, 6)), id="SyntaxError"),
        pytest.param(lambda: TwoReasons("rain", 7), id="other arguments"),
        pytest.param(lambda: WordsItsMessage("shard-1"), id="message made of an argument"),
        pytest.param(lambda: OnlyByName(code=5), id="keyword argument"),
    ],
)
def test_exception_of_any_class_keeps_class_text_and_attributes(
    workers: trx.Launcher, make: Callable[[], Exception], measured: Measured
) -> None:
    def work() -> None:
        raise make()

    begun = time.monotonic()
    raised, original = fails(workers, on_rank(1, work)), make()
    measured("odd", "from the call of the function on", time.monotonic() - begun)

    assert isinstance(raised, type(original))
    assert str(raised) == str(original)
    assert raised.args == original.args
    assert raised.rank == 1
    for name in ("filename", "errno", "reason", "pos", "returncode", "value", "lineno", "first", "second", "code"):
        assert getattr(raised, name, None) == getattr(original, name, None)


def test_exception_group_can_be_taken_apart(workers: trx.Launcher) -> None:
    def work() -> None:
        raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])

    raised: Any = fails(workers, on_rank(0, work))

    assert isinstance(raised, ExceptionGroup)
    assert [repr(each) for each in raised.exceptions] == ["ValueError('one')", "KeyError('two')"]


def test_exception_of_a_class_that_cannot_be_combined_is_the_cause(workers: trx.Launcher) -> None:
    def work() -> None:
        raise Sealed("tight")

    raised = fails(workers, on_rank(1, work))

    assert type(raised) is trx.WorkerFailedError
    assert isinstance(raised.__cause__, Sealed)
    assert str(raised.__cause__) == "tight"
    assert "Sealed: tight" in str(raised)


def test_exception_that_cannot_be_pickled_comes_as_text(workers: trx.Launcher) -> None:
    def work() -> None:
        raise HoldsALock("held")

    raised = fails(workers, on_rank(1, work))

    assert "HoldsALock: held" in str(raised)
    assert raised.rank == 1
    assert raised.worker_traceback.rstrip().endswith("HoldsALock: held")


@pytest.mark.parametrize(
    ("what", "arguments"), [(os._exit, (0,)), (sys.exit, (0,)), (os.abort, ()), (time.sleep, (60,))]
)
def test_exception_whose_pickling_ends_the_process_or_never_ends_comes_as_text(
    workers: trx.Launcher, what: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    class Hostile(Exception):
        def __reduce__(self) -> tuple[Any, ...]:
            return what, arguments

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        raise Hostile("as it is")

    raised = fails(workers, on_rank(1, work))

    assert "Hostile: as it is" in raised.failures[0].summary
    assert raised.worker_traceback.rstrip().endswith("Hostile: as it is")
    assert raised.rank == 1


@pytest.mark.parametrize("how", [SystemExit, KeyboardInterrupt, MemoryError])
def test_exception_that_the_launcher_cannot_load_whatever_that_raises_comes_as_text(
    workers: trx.Launcher, how: type[BaseException]
) -> None:
    class Fragile(Exception):
        def __reduce__(self) -> tuple[Any, ...]:
            return _fragile, (Fragile, how)

    def work() -> None:
        raise Fragile("as it is")

    raised = fails(workers, on_rank(1, work))

    assert type(raised) is trx.WorkerFailedError
    assert raised.worker_traceback.rstrip().endswith("Fragile: as it is")


def _fragile(kind: type[Exception], how: type[BaseException]) -> Exception:
    if "TRX_LAUNCH" not in os.environ:
        raise how
    return kind("as it is")


def only_in_a_worker(name: str) -> Any:
    """A class of a module that no other process has."""
    module: Any = types.ModuleType("made_up_by_a_worker")
    sys.modules[module.__name__] = module
    exec(f"class {name}(Exception): pass", module.__dict__)
    return getattr(module, name)


def test_exception_of_a_class_that_the_launcher_lacks_comes_as_text_with_its_notes(workers: trx.Launcher) -> None:
    def work() -> None:
        error = only_in_a_worker("Strange")("not from here")
        error.add_note("seen in epoch 3")
        raise error

    raised = fails(workers, on_rank(1, work))

    assert type(raised) is trx.WorkerFailedError
    assert "made_up_by_a_worker.Strange: not from here" in str(raised)
    assert "in work\n" in raised.worker_traceback
    assert raised.worker_traceback.rstrip().endswith("seen in epoch 3")


def test_value_of_a_class_that_the_launcher_lacks_fails_its_rank_and_the_others_values_are_kept(
    workers: trx.Launcher,
) -> None:
    def work() -> object:
        return only_in_a_worker("Strange")() if rank() == 1 else "good"

    with pytest.raises(trx.WorkerFailedError, match=r"rank 1 .* returned a value, but .*made_up_by_a_worker") as caught:
        workers.run(work)

    assert (caught.value.rank, dict(caught.value.values)) == (1, {0: "good"})


def test_exception_whose_text_cannot_be_made_still_arrives(workers: trx.Launcher) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def work() -> None:
        raise Mute

    assert "Mute" in str(fails(workers, on_rank(0, work)))


def test_causes_are_in_the_workers_traceback(workers: trx.Launcher) -> None:
    def work() -> None:
        try:
            dict[str, int]()["missing"]
        except KeyError as error:
            raise RuntimeError("while looking it up") from error

    text = fails(workers, on_rank(1, work)).worker_traceback

    assert "KeyError: 'missing'" in text
    assert "The above exception was the direct cause of the following exception:" in text
    assert text.rstrip().endswith("RuntimeError: while looking it up")


def test_failure_to_load_the_function_names_its_stage(workers: trx.Launcher) -> None:
    class Fragile:
        def __reduce__(self) -> tuple[Any, ...]:
            return _only_here, ()

    with pytest.raises(ModuleNotFoundError, match="made_up") as caught:
        workers.run(lambda _: None, Fragile())

    assert isinstance(caught.value, trx.WorkerFailedError)
    assert "loading the function" in caught.value.failures[0].summary


def _only_here() -> None:
    raise ModuleNotFoundError("No module named 'made_up'")


def test_error_can_be_pickled_with_all_that_it_says(workers: trx.Launcher) -> None:
    def work() -> None:
        raise ValueError("once more")

    error = fails(workers, on_rank(1, work))
    again = pickle.loads(pickle.dumps(error))

    assert isinstance(again, ValueError)
    assert isinstance(again, trx.WorkerFailedError)
    assert again.failures == error.failures
    assert str(again) == "once more"


def test_uncaught_failure_shows_the_workers_traceback_below_the_launchers(tmp_path: Path) -> None:
    source = """
import os, sys, time
import trx

class Trouble(Exception):
    def __init__(self, where, depth):
        super().__init__(f"{where} at {depth}")
        self.where, self.depth = where, depth

def dig(depth):
    print("digging", flush=True)
    if os.environ["RANK"] == "0":
        time.sleep(60)
    raise Trouble("rock", depth)

try:
    trx.launch(dig, (3,), hostnames=["localhost"], workers_per_host=2, backend=None, grace_period=1)
except Trouble as error:
    assert isinstance(error, trx.WorkerFailedError)
    assert (error.where, error.depth, error.rank) == ("rock", 3, 1)
    raise
"""
    with Script(tmp_path, source) as script:
        status, _, err = script.ends()

    assert status == 1
    launchers = err.index("trx.launch(dig, (3,)")
    workers = err.index('raise Trouble("rock", depth)')
    assert launchers < err.index("rock at 3", launchers) < workers
    assert "on localhost" in err[launchers:workers]
    assert "  | digging\n" in err[launchers:workers]
    assert "trx_agent" not in err[workers:]


# ---- the other ranks ------------------------------------------------------------------------------------------------


def sleep() -> None:
    time.sleep(60)


def sleep_in_c() -> None:
    ctypes.CDLL(None).sleep(60)


def compute_in_c() -> None:
    sum(range(10**12))


def compute_in_python() -> None:
    while True:
        pass


def refuse_to_end() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def wait_with_all_signals_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)


def stand_still() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize(
    "busy",
    [sleep, sleep_in_c, compute_in_c, compute_in_python, refuse_to_end, wait_with_all_signals_blocked, stand_still],
)
def test_failure_is_raised_while_the_other_rank_is_busy_which_is_then_ended(
    workers: trx.Launcher, busy: Callable[[], None], tmp_path: Path
) -> None:
    def work(there: Path, pid_of_the_other: Path) -> None:
        if rank() == 1:
            pid_of_the_other.write_text(str(os.getpid()))
            signal_file(there)
            busy()
        while not there.exists():
            time.sleep(0.01)
        raise ValueError("first")

    start = time.monotonic()
    with pytest.raises(ValueError, match="first") as caught:
        workers.run(work, tmp_path / "there", tmp_path / "pid")

    assert time.monotonic() - start < SOON
    assert isinstance(caught.value, trx.WorkerFailedError)
    assert [failure.rank for failure in caught.value.failures] == [0]
    assert alive([int((tmp_path / "pid").read_text())]) == []


def test_stopped_worker_has_its_grace_to_save_something(workers: trx.Launcher, tmp_path: Path) -> None:
    def work(saved: Path, ready: Path) -> None:
        def save(*_: object) -> None:
            saved.write_text("state")
            sys.exit()

        if rank() == 0:
            signal.signal(signal.SIGTERM, save)
            signal_file(ready)
            time.sleep(60)
        while not ready.exists():
            time.sleep(0.01)
        raise ValueError("while the other one saves")

    with pytest.raises(ValueError, match="while the other one saves"):
        workers.run(work, tmp_path / "saved", tmp_path / "ready")

    assert (tmp_path / "saved").read_text() == "state"


def test_failures_has_every_rank_that_failed_the_first_one_first(workers: trx.Launcher, tmp_path: Path) -> None:
    def work(ready: Path) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("second")

        if rank() == 0:
            signal.signal(signal.SIGTERM, fail)
            signal_file(ready)
            time.sleep(60)
        while not ready.exists():
            time.sleep(0.01)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first") as caught:
        workers.run(work, tmp_path / "ready")

    error = caught.value
    assert isinstance(error, trx.WorkerFailedError)
    assert [failure.rank for failure in error.failures] == [1, 0]
    assert [failure.summary.rpartition(" raised ")[2] for failure in error.failures] == [
        "ValueError: first",
        "RuntimeError: second",
    ]
    assert "RuntimeError: second" in error.failures[1].traceback
    assert any("afterwards: rank 0" in note for note in error.__notes__)


def test_values_of_ranks_that_had_returned_are_with_the_error(workers: trx.Launcher, tmp_path: Path) -> None:
    def work() -> dict[str, int]:
        if rank() == 0:
            (tmp_path / "pid").write_text(str(os.getpid()))
            return {"saved": 7}
        while not (tmp_path / "pid").exists() or is_alive(int((tmp_path / "pid").read_text() or 1)):
            time.sleep(0.01)
        raise ValueError("later")

    error = fails(workers, work)

    assert isinstance(error, ValueError)
    assert dict(error.values) == {0: {"saved": 7}}


def test_failure_on_the_second_of_two_agents_ends_the_first(tmp_path: Path) -> None:
    def work(pids: Path) -> None:
        (pids / str(rank())).write_text(str(os.getpid()))
        if rank() < 3:
            time.sleep(60)
        while len(list(pids.iterdir())) < 4:
            time.sleep(0.01)
        raise ValueError("on the second agent")

    pids = tmp_path / "pids"
    pids.mkdir()
    with pytest.raises(ValueError, match="on the second agent") as caught:
        trx.launch(work, (pids,), hostnames=["localhost"] * 2, workers_per_host=2, backend=None, grace_period=1)

    error = caught.value
    assert isinstance(error, trx.WorkerFailedError)
    assert (error.rank, error.local_rank, error.hostname) == (3, 1, "localhost#2")
    assert alive([int(path.read_text()) for path in pids.iterdir()]) == []


@pytest.mark.parametrize("attempt", range(5))
def test_failure_in_the_middle_of_a_collective_is_that_of_the_rank_that_began_it(
    group: trx.Launcher, attempt: int
) -> None:
    def work() -> None:
        dist.barrier()
        if rank() == attempt % 2:
            raise ValueError("out of the loop")
        dist.all_reduce(torch.ones(1))

    error = fails(group, work)

    assert isinstance(error, ValueError)
    assert error.rank == attempt % 2


# ---- the end of a process -------------------------------------------------------------------------------------------


def leave(code: int) -> Callable[[], None]:
    return lambda: os._exit(code)


def exit_with(words: object) -> Callable[[], None]:
    def end() -> None:
        sys.exit(words)  # type: ignore[arg-type]

    return end


def interrupt() -> None:
    raise KeyboardInterrupt


def interrupt_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def kill(number: signal.Signals) -> Callable[[], None]:
    def end() -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    return end


def segmentation_fault() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("end", "exitcode", "number", "words"),
    [
        pytest.param(exit_with("enough"), None, None, "SystemExit: enough", id="exit with text"),
        pytest.param(exit_with(0), None, None, "SystemExit: 0", id="exit 0"),
        pytest.param(exit_with(None), None, None, "SystemExit", id="exit"),
        pytest.param(exit_with(3), None, None, "SystemExit: 3", id="exit 3"),
        pytest.param(interrupt, None, None, "KeyboardInterrupt", id="KeyboardInterrupt"),
        pytest.param(interrupt_by_signal, None, None, "KeyboardInterrupt", id="SIGINT"),
        pytest.param(leave(0), 0, None, "ended without a result, with exit status 0", id="_exit 0"),
        pytest.param(leave(3), 3, None, "ended without a result, with exit status 3", id="_exit 3"),
        pytest.param(kill(signal.SIGKILL), None, signal.SIGKILL, "was killed by SIGKILL", id="SIGKILL"),
        pytest.param(kill(signal.SIGTERM), None, signal.SIGTERM, "was killed by SIGTERM", id="SIGTERM"),
        pytest.param(segmentation_fault, None, signal.SIGSEGV, "was killed by SIGSEGV", id="SIGSEGV"),
        pytest.param(os.abort, None, signal.SIGABRT, "was killed by SIGABRT", id="SIGABRT"),
        pytest.param(kill(signal.SIGFPE), None, signal.SIGFPE, "was killed by SIGFPE", id="SIGFPE"),
    ],
)
def test_end_of_a_process_is_a_failure_of_its_rank_with_its_last_words(
    workers: trx.Launcher,
    tmp_path: Path,
    end: Callable[[], None],
    exitcode: int | None,
    number: int | None,
    words: str,
    measured: Measured,
) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(tmp_path)
        print("an earlier line")
        print(f"the last words of {os.getpid()}")
        (tmp_path / "ends").write_text(str(time.monotonic()))
        end()

    error = fails(workers, on_rank(1, work))
    taken = time.monotonic() - float((tmp_path / "ends").read_text())
    measured("killed" if number else "exits", "on this machine", taken)
    assert taken < 1.0 + SLACK

    assert isinstance(error, trx.WorkerFailedError)
    assert not isinstance(error, (SystemExit, KeyboardInterrupt))
    assert (error.rank, error.local_rank, error.hostname) == (1, 1, "localhost")
    assert (error.exitcode, error.signal) == (exitcode, number)
    assert words in error.failures[0].summary
    assert words in str(error)
    assert f"an earlier line\nthe last words of {error.pid}" in error.failures[0].last_lines
    log_file = Path(error.failures[0].log_file)
    assert log_file.name == "localhost[1].log"
    assert f"\nthe last words of {error.pid}\n" in log_file.read_text()


def test_end_of_a_workers_main_thread_alone_is_the_end_of_the_worker(workers: trx.Launcher) -> None:
    def work() -> None:
        threading.Thread(target=time.sleep, args=(60,)).start()
        print("the last words", flush=True)
        ctypes.CDLL(None).syscall({"x86_64": 60}.get(platform.machine(), 93), 0)  # exit, of this thread

    error = fails(workers, on_rank(1, work))

    assert (error.rank, error.exitcode) == (1, 0)
    assert "ended without a result" in error.failures[0].summary
    assert "the last words" in error.failures[0].last_lines
    assert list(workers.run(rank)) == [0, 1]


def test_end_of_a_worker_is_told_though_the_process_that_watches_it_is_stopped() -> None:
    def work() -> None:
        os.kill(os.getppid(), signal.SIGSTOP)
        os._exit(7)

    with trx.Launcher(["localhost"], 2, backend=None, grace_period=1) as launcher:
        start = time.monotonic()
        with pytest.raises(trx.AgentFailedError, match="watching the workers") as caught:
            launcher.run(on_rank(1, work))
        assert time.monotonic() - start < SOON + 5.0
        assert caught.value.hostname == "localhost"
        assert list(launcher.run(rank)) == [0, 1]


def test_crash_in_c_tells_where_python_was(workers: trx.Launcher) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        segmentation_fault()

    last_lines = fails(workers, on_rank(0, work)).failures[0].last_lines

    assert "Fatal Python error: Segmentation fault" in last_lines
    assert re.search(r"line \d+ in segmentation_fault", last_lines)


@pytest.mark.parametrize("attempt", range(5))
def test_crash_while_others_wait_in_a_collective_is_told_as_the_crash(group: trx.Launcher, attempt: int) -> None:
    def work() -> None:
        dist.barrier()
        if rank() == attempt % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()

    error = fails(group, work)

    assert (error.rank, error.signal) == (attempt % 2, signal.SIGKILL)


def test_crash_of_a_subprocess_of_the_function_is_the_functions_own_affair(workers: trx.Launcher) -> None:
    def work() -> int:
        return subprocess.run([sys.executable, "-c", "import os; os.abort()"], stderr=subprocess.DEVNULL).returncode

    assert list(workers.run(work)) == [-signal.SIGABRT] * 2


def test_every_rank_may_crash_at_once(workers: trx.Launcher) -> None:
    error = fails(workers, lambda: os._exit(5))

    assert error.exitcode == 5
    assert list(workers.run(rank)) == [0, 1]


def test_thread_that_does_not_end_does_not_keep_a_value_from_arriving(workers: trx.Launcher) -> None:
    def work() -> int:
        threading.Thread(target=time.sleep, args=(60,)).start()
        return rank()

    start = time.monotonic()
    assert list(workers.run(work)) == [0, 1]
    assert time.monotonic() - start < SOON


# ---- the agent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("above", "who"), [(1, "runner"), (2, "forkserver"), (3, "agent"), (4, "guardian")])
def test_death_of_a_process_above_the_workers_is_an_agent_failure_and_nothing_is_left(
    above: int, who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # which a killed guardian cannot clear
    with trx.Launcher(["localhost"], 2, backend=None, grace_period=1) as launcher:
        lines = launcher.run(lambda: (os.environ["TRX_LAUNCH"], lineage()))
        cookie, line = lines.rank(0)
        assert line[5] == os.getpid()

        def work() -> None:
            if rank() == 0:
                os.kill(lineage()[above], signal.SIGKILL)
            time.sleep(60)

        start = time.monotonic()
        with pytest.raises(trx.AgentFailedError, match="localhost") as caught:
            launcher.run(work)
        assert time.monotonic() - start < SOON
        assert caught.value.hostname == "localhost"

        assert list(launcher.run(rank)) == [0, 1]  # with new agents, where the old ones are gone

    assert with_cookie(cookie) == []
