"""What all tests share: markers by folder, one at a time where asked, no process left behind, what was left out."""

from __future__ import annotations

import fcntl
import os
import signal
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

HERE = Path(__file__).parent
MARK = "TRX_TEST_MARK"
"""Every process that a test starts inherits this variable, by which it is found when it should be gone."""

MARKERS = {"integration": "integration", "examples": "integration", "peers": "integration", "lab": "lab"}
"""Of each folder's tests."""

ENDING = 5.0
"""Seconds that processes may take to go once the test is over."""


def pytest_configure() -> None:
    """Has signals mean something in what tests start, even under nohup, or as a background job, which ignore some."""
    meanings: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    meanings |= dict.fromkeys((signal.SIGHUP, signal.SIGQUIT), signal.SIG_DFL)
    for number, meaning in meanings.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, meaning)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder, marker in MARKERS.items():
            if HERE / folder in item.path.parents:
                item.add_marker(marker)

        if "measured" in getattr(item, "fixturenames", ()):
            item.add_marker("measured")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _gpus():
        pytest.skip("no NVIDIA GPU on this machine")


def _gpus() -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


# ---- how long it took -----------------------------------------------------------------------------------------------


Measured = Callable[[str, str, float], None]
"""Notes a time: the key of a row of docs/reliability.md, what was measured, and the seconds that it took."""


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """`make reliability` writes these times into the page."""

    def note(key: str, what: str, seconds: float) -> None:
        record_property(f"measured: {key}: {what}", f"{seconds:.4f}")

    return note


# ---- one at a time --------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Under `-n`, a test marked `alone` has the machine to itself. The wait does not count towards its time limit."""
    with _turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _turn(alone: bool) -> Iterator[None]:
    """Holds the lock of all tests of this checkout: exclusively, or with all others that are not alone.

    Whoever wants the lock queues at the gate, so that a test which waits to be alone is not overtaken for ever.
    """
    lock = os.open(HERE, os.O_RDONLY)
    try:
        with open(__file__) as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough where a process forked by the test lives on
        os.close(lock)


# ---- nothing is left behind -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails an integration test that leaves a process behind, a child or not; ends what was left."""
    if request.node.get_closest_marker("integration") is None:
        yield
        return
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    before = set(psutil.Process().children(recursive=True))
    yield
    deadline = time.monotonic() + ENDING
    while (left := _left(mark, before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    told = [_told(process) for process in left]
    for process in left:
        with _may_be_gone():
            process.kill()
    if told:
        pytest.fail("processes were left behind:\n  " + "\n  ".join(told), pytrace=False)


def _left(mark: str, before: set[psutil.Process]) -> list[psutil.Process]:
    """Children since `before`, and all others that carry `mark`. A zombie is dead: it waits only for its parent."""
    ours = set(psutil.Process().children(recursive=True)) - before
    for process in psutil.process_iter():
        with _may_be_gone():
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                ours.add(process)
    return [process for process in ours if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    with _may_be_gone():
        # multiprocessing keeps one helper for the whole life of a process that used it
        return process.status() != psutil.STATUS_ZOMBIE and "multiprocessing.resource_tracker" not in _told(process)
    return False


def _told(process: psutil.Process) -> str:
    with _may_be_gone():
        return f"{process.pid}: {' '.join(process.cmdline()) or process.name()}"
    return f"{process.pid}: gone by now"


def _may_be_gone() -> suppress:
    return suppress(psutil.NoSuchProcess, psutil.AccessDenied)


# ---- what was left out ----------------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the tests that did not run, by reason."""
    by_reason: dict[str, Counter[str]] = defaultdict(Counter)
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        by_reason[reason.removeprefix("Skipped: ")][report.nodeid.partition("[")[0].partition("@")[0]] += 1
    deselected = len(terminalreporter.stats.get("deselected", ()))

    terminalreporter.section("left out")
    for reason, tests in by_reason.items():
        terminalreporter.line(f"{reason}:")
        for test, count in tests.items():
            terminalreporter.line(f"    {test}" + (f" ({count} times)" if count > 1 else ""))
    if without_heavy := "not heavy" in terminalreporter.config.option.markexpr:
        terminalreporter.line("heavy tests: `make test-all` runs them")
    if deselected:
        terminalreporter.line(f"{deselected} deselected")
    if not by_reason and not deselected and not without_heavy:
        terminalreporter.line("no test")
