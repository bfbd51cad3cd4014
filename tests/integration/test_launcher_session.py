"""A launcher that stays open: its agents stay, its workers do not, and in the end nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import trx

from .helpers import alive, cookie, is_alive, lineage, rank, signal_file, travels_by_value, wait_until, with_cookie

travels_by_value(__name__)

RUNNER, FORKSERVER = 1, 2


def open_descriptors(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# ---- from one run to the next ---------------------------------------------------------------------------------------


def test_agents_stay_and_workers_are_new(workers: trx.Launcher) -> None:
    first, second = workers.run(lineage).by_ranks(), workers.run(lineage).by_ranks()

    assert {tuple(line[FORKSERVER:]) for line in first} == {tuple(line[FORKSERVER:]) for line in second}
    assert len({line[0] for line in first + second}) == 4
    assert first[0][RUNNER] == first[1][RUNNER] != second[0][RUNNER]


@pytest.mark.parametrize(
    ("name", "value"),
    [("hostnames", ["localhost", "localhost"]), ("workers_per_host", 1), ("backend", "gloo"), ("timeout", 5)],
)
def test_a_setting_that_would_have_no_effect_any_more_cannot_be_changed(
    workers: trx.Launcher, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(workers, name, value)
        with pytest.raises(ValueError, match=f"^{name} cannot be changed while the launcher is open"):
            workers.run(rank)
    assert workers.run(rank).by_ranks() == [0, 1]


def test_a_list_of_hosts_that_grows_while_the_launcher_is_open_is_noticed() -> None:
    hostnames = ["localhost"]
    with trx.Launcher(hostnames, 1, backend=None) as launcher:
        assert launcher.run(rank).by_ranks() == [0]
        hostnames.append("localhost")
        with pytest.raises(ValueError, match="hostnames cannot be changed"):
            launcher.run(rank)


def test_nothing_that_a_run_changed_is_there_in_the_next(workers: trx.Launcher, tmp_path: Path) -> None:
    def change() -> tuple[Any, ...]:
        found = getattr(os, "left_by_a_run", None), os.getcwd(), signal.getsignal(signal.SIGUSR1), sys.path[:]
        os.left_by_a_run = True  # type: ignore[attr-defined]
        os.chdir(tmp_path)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        sys.path.append("/left/by/a/run")
        return found

    assert workers.run(change).by_ranks() == workers.run(change).by_ranks()


def test_torch_is_imported_before_the_function_runs(workers: trx.Launcher) -> None:
    assert list(workers.run(lambda: "torch" in sys.modules)) == [True, True]


@pytest.mark.parametrize("attempt", range(3))
def test_workers_that_end_before_the_last_one_is_started_are_not_missed(attempt: int) -> None:
    with trx.Launcher(["localhost"], 24, backend=None, grace_period=1) as launcher:
        for _ in range(2):
            assert len(set(launcher.run(os.getpid))) == 24


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_agents_stay_when_a_worker_dies(workers: trx.Launcher, number: signal.Signals) -> None:
    before = workers.run(lineage).rank(0)

    with pytest.raises(trx.WorkerFailedError):
        workers.run(lambda: os.kill(os.getpid(), number) if rank() else time.sleep(60))

    assert workers.run(lineage).rank(0)[FORKSERVER:] == before[FORKSERVER:]


def test_many_runs_leave_no_descriptors_threads_or_files_behind(workers: trx.Launcher) -> None:
    agent = workers.run(lineage).rank(0)[FORKSERVER + 1]
    directory = Path(workers.run(lambda: os.environ["TORCHELASTIC_ERROR_FILE"]).rank(0)).parents[2]

    def counts() -> list[int]:
        numbers = [open_descriptors("self"), open_descriptors(agent), threading.active_count()]
        return [*numbers, len(list(directory.iterdir()))]

    workers.run(rank)
    wait_until(lambda: len(list(directory.glob("run-*"))) == 0, "the removal of the run's directory")
    before = counts()
    for number in range(15):
        with suppress(ZeroDivisionError):
            workers.run(divmod, 1, number % 3)
    wait_until(lambda: counts() == before, f"{before} again, not {counts()}")


def test_runs_of_several_threads_take_turns(workers: trx.Launcher) -> None:
    results: list[list[int]] = []

    def run(number: int) -> None:
        results.append(list(workers.run(lambda: 10 * number + rank())))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == [[10 * number, 10 * number + 1] for number in range(4)]


def test_launcher_can_be_opened_again_and_used_without_being_open() -> None:
    launcher = trx.Launcher(["localhost"], 1, backend=None)
    cookies = []
    for _ in range(2):
        with launcher:
            cookies += [launcher.run(cookie).rank(0), launcher.run(cookie).rank(0)]
    cookies.append(launcher.run(cookie).rank(0))

    first, again, second, _, alone = cookies
    assert first == again
    assert len({first, second, alone}) == 3


# ---- what a run leaves running --------------------------------------------------------------------------------------


def start_child(pids: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    (pids / str(child.pid)).touch()


def start_daemon(pids: Path) -> None:
    """As the book says: two forks, a session of its own, no descriptors, no variables."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    (pids / str(os.getpid())).touch()
    os.closerange(0, 1024)
    os.execve("/bin/sleep", ["sleep", "60"], {})


def start_stubborn_daemon(pids: Path) -> None:
    if os.fork():
        return
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    (pids / str(os.getpid())).touch()
    time.sleep(60)
    os._exit(0)


def start_stopped_child(pids: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(signal.SIGSTOP)
    (pids / str(child.pid)).touch()


@pytest.mark.parametrize("start", [start_child, start_daemon, start_stubborn_daemon, start_stopped_child])
@pytest.mark.parametrize("outcome", ["success", "failure", "crash"])
def test_processes_left_by_a_run_are_gone_when_it_is_over(
    workers: trx.Launcher, tmp_path: Path, start: Callable[[Path], None], outcome: str
) -> None:
    def work() -> None:
        start(tmp_path)
        while len(list(tmp_path.iterdir())) < 2 + (tmp_path / "logs").exists():
            time.sleep(0.01)
        if outcome == "failure":
            raise ValueError
        if outcome == "crash":
            os.kill(os.getpid(), signal.SIGKILL)

    if outcome == "success":
        workers.run(work)
    else:
        with pytest.raises(trx.WorkerFailedError):
            workers.run(work)

    pids = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(pids) == 2
    assert alive(pids) == []


# ---- the end --------------------------------------------------------------------------------------------------------


def listening() -> set[int]:
    return {each.laddr.port for each in psutil.Process().net_connections("tcp") if each.status == psutil.CONN_LISTEN}


def identity() -> tuple[str, list[int], int]:
    return cookie(), lineage(), int(os.environ["MASTER_PORT"])


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("outcome", ["success", "failure", "error in the block"])
def test_nothing_is_left_when_it_is_closed(outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    before = listening(), threading.active_count(), open_descriptors("self")

    try:
        with trx.Launcher(["localhost", "localhost"], 1, backend="gloo", grace_period=1) as launcher:
            identities = launcher.run(identity)
            assert listening() > before[0]
            assert len(list(temporary.iterdir())) == 2
            if outcome == "failure":
                launcher.run(lambda: 1 // rank() if rank() else 1 // 0)
            if outcome == "error in the block":
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert outcome != "success"

    for mark, line, port in identities:
        assert with_cookie(mark) == []
        assert alive(line[: line.index(os.getpid())]) == []
        assert port_is_free(port)
    assert list(temporary.iterdir()) == []
    assert (listening(), threading.active_count(), open_descriptors("self")) == before


def test_files_of_a_launch_are_for_its_user_only(workers: trx.Launcher) -> None:
    def modes() -> set[int]:
        folder = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parent
        return {path.stat().st_mode & 0o077 for path in [folder, *folder.parents[:2]]}

    assert workers.run(modes).rank(0) == {0}


# ---- where it may be called from ------------------------------------------------------------------------------------


def test_launch_works_in_a_thread() -> None:
    results: list[Any] = []

    def call() -> None:
        results.append(trx.launch(rank, hostnames=["localhost"], workers_per_host=2, backend="gloo").by_ranks())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()

    assert results == [[0, 1]]


def test_launches_of_two_threads_at_once_do_not_mix(tmp_path: Path) -> None:
    """Each waits until the other one runs, too."""
    results: dict[int, Any] = {}

    def meet(number: int) -> int:
        signal_file(tmp_path / f"ready-{number}-{rank()}")
        while len(list(tmp_path.glob("ready-?-?"))) < 4:
            time.sleep(0.01)
        return 10 * number + rank()

    def call(number: int) -> None:
        results[number] = list(trx.launch(meet, (number,), hostnames=["localhost"], workers_per_host=2, backend="gloo"))

    threads = [threading.Thread(target=call, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {1: [10, 11], 2: [20, 21]}


def test_launch_works_inside_a_running_event_loop(workers: trx.Launcher) -> None:
    async def call() -> list[int]:
        return list(workers.run(rank))

    assert asyncio.run(call()) == [0, 1]


def test_event_loop_goes_on_while_a_launch_runs_in_a_thread_of_it(workers: trx.Launcher) -> None:
    async def call() -> tuple[list[None], int]:
        run = asyncio.create_task(asyncio.to_thread(workers.run, time.sleep, 0.3))
        beats = 0
        while not run.done():
            await asyncio.sleep(0.01)
            beats += 1
        return list(await run), beats

    values, beats = asyncio.run(call())

    assert values == [None, None]
    assert beats > 5


def test_function_may_run_an_event_loop_of_its_own(workers: trx.Launcher) -> None:
    async def work() -> int:
        await asyncio.sleep(0.01)
        return rank()

    assert list(workers.run(lambda: asyncio.run(work()))) == [0, 1]


def test_function_may_use_processes_and_threads_of_its_own(workers: trx.Launcher) -> None:
    def work() -> tuple[list[int], list[int]]:
        import concurrent.futures
        import multiprocessing

        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool, concurrent.futures.ThreadPoolExecutor(2) as threads:
            return pool.map(abs, [-1, -2]), list(threads.map(abs, [-3, -4]))

    assert list(workers.run(work)) == [([1, 2], [3, 4])] * 2


def test_function_may_use_a_data_loader_with_workers(workers: trx.Launcher) -> None:
    def work() -> int:
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=5, num_workers=1)
        return int(sum(batch.sum() for (batch,) in loader))

    assert list(workers.run(work)) == [45, 45]


def test_parent_of_workers_is_not_the_launcher(workers: trx.Launcher) -> None:
    line = workers.run(lineage).rank(0)

    assert line.index(os.getpid()) == 5
    assert all(is_alive(pid) for pid in line[FORKSERVER:])
