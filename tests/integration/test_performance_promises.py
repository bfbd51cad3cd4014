"""What a launch costs, as far as no clock is needed to tell: bytes, processes, imports, wake-ups."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

import trx
from tests.integration.helpers import lineage, travels_by_value, wait_until

travels_by_value(__name__)

MIB = 1 << 20
SIZE = 128 * MIB
LINES = 200_000
ALL_ELSE = 8 * MIB
"""Bytes that a run may move beside its arguments and values: messages, logs, the modules of a first run."""


@contextmanager
def moved(pid: int) -> Iterator[dict[str, int]]:
    """Counts the bytes that a process has the kernel copy to and from its files and pipes."""
    before = psutil.Process(pid).io_counters()
    counts: dict[str, int] = {}
    yield counts
    after = psutil.Process(pid).io_counters()
    counts["read"] = after.read_chars - before.read_chars
    counts["written"] = after.write_chars - before.write_chars


def agent_of(launcher: trx.Launcher) -> int:
    return launcher.run(lineage).rank(0)[3]


# ---- bytes ----------------------------------------------------------------------------------------------------------


def test_a_value_is_read_once_by_the_launcher_and_never_by_an_agent_beside_it(workers: trx.Launcher) -> None:
    def value() -> torch.Tensor | None:
        return torch.ones(SIZE, dtype=torch.uint8) if os.environ["RANK"] == "0" else None

    agent = agent_of(workers)
    with moved(agent) as by_agent, moved(os.getpid()) as by_launcher:
        returned = workers.run(value).rank(0)

    assert returned is not None
    assert int(returned.count_nonzero()) == SIZE
    assert by_agent["read"] + by_agent["written"] < ALL_ELSE
    assert SIZE <= by_launcher["read"] < SIZE + ALL_ELSE
    assert by_launcher["written"] < ALL_ELSE


def test_an_argument_is_sent_once_to_a_host_however_many_workers_it_has() -> None:
    argument = torch.ones(SIZE, dtype=torch.uint8)

    def work(argument: torch.Tensor) -> tuple[int, int]:
        return int(argument.sum()), psutil.Process().io_counters().read_chars

    with trx.Launcher(["localhost"], 4, backend=None) as launcher:
        agent = agent_of(launcher)
        with moved(agent) as by_agent:
            found = launcher.run(work, argument)

    assert SIZE <= by_agent["written"] < SIZE + ALL_ELSE
    assert [total for total, _ in found] == [SIZE] * 4
    assert all(read < ALL_ELSE for _, read in found), "workers read what they were to map"


def test_a_flood_of_lines_is_no_flood_of_events(workers: trx.Launcher) -> None:
    def flood() -> None:
        for _ in range(LINES):
            print("x" * 59)

    agent = agent_of(workers)
    with moved(agent) as by_agent:
        workers.run(flood)

    assert by_agent["read"] < LINES, "inotify has 16 bytes for each event"


# ---- processes and imports ------------------------------------------------------------------------------------------


def test_a_host_imports_once_and_forks_a_runner_and_its_workers_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counts_imports.py").write_text(
        f"import os, sys\nassert 'torch' in sys.modules\nprint(os.getpid(), file=open({str(tmp_path / 'by')!r}, 'a'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    with trx.Launcher(["localhost"], 4, backend=None, preload=["counts_imports"]) as launcher:
        runs = [launcher.run(lineage) for _ in range(3)]
        agent = psutil.Process(runs[0].rank(0)[3])
        ours = psutil.Process(agent.ppid()).ppid()
        wait_until(lambda: len(agent.children(recursive=True)) == 1, "runs over, only the forkserver is left")

    forkservers = {line[2] for run in runs for line in run}
    assert (tmp_path / "by").read_text().split() == [str(pid) for pid in forkservers]
    assert len({line[0] for run in runs for line in run}) == 12
    assert [len({line[1] for line in run}) for run in runs] == [1, 1, 1]
    assert len({line[1] for run in runs for line in run}) == 3
    assert ours == os.getpid()


# ---- nothing to do --------------------------------------------------------------------------------------------------

WATCHED = 4.0
"""Seconds that an idle run is looked at."""


def wake_ups(pid: int) -> int:
    """How often the threads of a process have waited for something, and gone on, so far."""
    lines = [
        line
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    ]
    return sum(int(line.split()[1]) for line in lines)


def test_an_idle_run_wakes_nobody_more_than_its_beats_do(workers: trx.Launcher, tmp_path: Path) -> None:
    begun, over = tmp_path / "begun", tmp_path / "over"

    def idle() -> None:
        if os.environ["RANK"] == "0":
            begun.touch()
        wait_until(over.exists, "the end of the test", 60.0)

    above = workers.run(lineage).rank(0)
    watched = {"agent": above[3], "guardian": above[4], "launcher": os.getpid()}
    run = threading.Thread(target=workers.run, args=(idle,))
    run.start()
    try:
        wait_until(begun.exists, "the run")
        before = {name: wake_ups(pid) for name, pid in watched.items()}
        run.join(WATCHED)
        each_second = {name: (wake_ups(pid) - before[name]) / WATCHED for name, pid in watched.items()}
    finally:
        over.touch()
        run.join()

    assert each_second["agent"] < 20, each_second
    assert each_second["guardian"] < 5, each_second
    assert each_second["launcher"] < 40, each_second
