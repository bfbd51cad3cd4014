"""What workers print and log reaches handlers of `logging` in the launcher's process, whatever these do."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trx
from trx.engine import Engine
from trx.output import writer

from .helpers import Script, log_files, rank, run_script, signal_file, travels_by_value, wait_until

travels_by_value(__name__)

TWO_AGENTS: dict[str, Any] = {"hostnames": ["localhost", "localhost"], "workers_per_host": 2, "backend": None}
ONE_WORKER: dict[str, Any] = {"hostnames": ["localhost"], "workers_per_host": 1, "backend": None}

HEAD = """
import logging, os, sys, threading, time
from pathlib import Path
import trx
from trx.engine import Engine
ONE_WORKER = {"hostnames": ["localhost"], "workers_per_host": 1, "backend": None, "grace_period": 1}
"""


class Kept(logging.Handler):
    """Keeps what it gets, as (hostname, local rank, stream, text)."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.closed = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed += 1
        super().close()

    @property
    def seen(self) -> list[tuple[str, int | None, str, str]]:
        return [(one.hostname, one.local_rank, one.stream, one.getMessage()) for one in self.records]  # type: ignore[attr-defined]

    def of(self, stream: str) -> list[str]:
        return [text for _, _, kind, text in self.seen if kind == stream]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PATIENCE", 1.0)


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """For handlers that wait; lets them go in the end."""
    event = threading.Event()
    yield event
    event.set()


def work() -> None:
    print("printed by", rank())
    print("complained by", rank(), file=sys.stderr)
    logging.getLogger("model").warning("%d %%", rank())


# ---- what handlers get ----------------------------------------------------------------------------------------------


def test_every_worker_of_every_agent_is_heard_and_told_apart(kept: Kept, log_base: Path) -> None:
    trx.launch(work, log_handlers=[kept], **TWO_AGENTS)

    workers = [("localhost", 0), ("localhost", 1), ("localhost#2", 0), ("localhost#2", 1)]
    assert sorted(kept.seen, key=str) == sorted(
        [
            (*worker, stream, text)
            for number, worker in enumerate(workers)
            for stream, text in (
                ("stdout", f"printed by {number}"),
                ("stderr", f"complained by {number}"),
                ("log", f"{number} %"),
            )
        ],
        key=str,
    )
    for record in kept.records:
        assert record.name == f"trx.{record.hostname}.{record.local_rank}"  # type: ignore[attr-defined]
        number = workers.index((record.hostname, record.local_rank))  # type: ignore[attr-defined]
        assert record.rank == number  # type: ignore[attr-defined]
        assert record.levelno == (logging.WARNING if record.stream == "log" else logging.INFO)  # type: ignore[attr-defined]
    assert kept.closed == 0


def test_a_log_record_arrives_with_its_traceback_and_its_place(kept: Kept) -> None:
    def fail() -> None:
        try:
            dict[str, int]()["key"]
        except KeyError:
            logging.getLogger("model").exception("it went %s", "wrong")

    trx.launch(fail, log_handlers=[kept], **ONE_WORKER)

    (record,) = kept.records
    assert (record.getMessage(), record.origin, record.funcName) == ("it went wrong", "model", "fail")  # type: ignore[attr-defined]
    assert record.filename == Path(__file__).name
    assert record.exc_text is not None
    assert re.fullmatch(r"Traceback .*KeyError: 'key'", record.exc_text, re.DOTALL)
    assert logging.Formatter("%(levelname)s %(message)s").format(record).startswith("ERROR it went wrong\nTraceback ")


def test_difficult_output_becomes_lines(kept: Kept) -> None:
    def print_anything() -> None:
        os.write(1, b"NUL \0, no UTF-8 \xff, \x1b[31mred\x1b[0m \x1b]0;title\x07\n")
        for number in range(11):
            os.write(1, b"\r%3d %%" % (10 * number))
        os.write(1, b"\n\nno end")

    trx.launch(print_anything, log_handlers=[kept], **ONE_WORKER)

    assert kept.of("stdout") == ["NUL ␀, no UTF-8 \ufffd, red ␛]0;title␇", "100 %", "", "no end"]


def test_a_line_of_100_megabytes_comes_in_pieces(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRX_LOG_DIR", "")

    def print_one_line() -> None:
        for _ in range(100):
            os.write(1, b"x" * (1 << 20))
        os.write(1, b"\nnext\n")

    trx.launch(print_one_line, log_handlers=[kept], **ONE_WORKER)

    *pieces, last = kept.of("stdout")
    assert last == "next"
    assert sum(map(len, pieces)) == 100 << 20
    assert max(map(len, pieces)) <= 64 << 10


def test_the_words_of_an_agent_have_no_rank(kept: Kept) -> None:
    agent = Kept()
    trx.add_filter_to_handler(agent, "localhost", None)

    trx.launch(speak_as_agent, log_handlers=[kept, agent], **ONE_WORKER)

    assert agent.seen == [("localhost", None, "stderr", "words of an agent")]
    assert agent.records[0].name == "trx.localhost"
    assert set(agent.seen) <= set(kept.seen)


def speak_as_agent() -> None:
    descriptor = os.open(f"/proc/{os.getppid()}/fd/2", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"words of an agent\n")


# ---- which handlers -------------------------------------------------------------------------------------------------


def test_a_function_makes_handlers_for_each_launch_which_end_with_it(log_base: Path) -> None:
    made: list[Kept] = []

    def make() -> list[logging.Handler]:
        made.append(Kept())
        return [made[-1]]

    launcher = trx.Launcher(["localhost"], 1, backend=None, log_handlers=make)
    launcher.run(print, "one")
    with launcher:
        launcher.run(print, "two")
        assert made[1].of("stdout") == ["two"]
        launcher.run(print, "three")
        assert (made[0].closed, made[1].closed) == (1, 0)

    assert [each.of("stdout") for each in made] == [["one"], ["two", "three"]]
    assert [each.closed for each in made] == [1, 1]


def test_a_function_that_makes_no_handlers_is_an_error_before_anything_starts() -> None:
    with pytest.raises(TypeError, match="log_handlers must be handlers of logging, not 'stdout'"):
        trx.launch(print, log_handlers=lambda: ["stdout"], **ONE_WORKER)
    with pytest.raises(ZeroDivisionError):
        trx.launch(print, log_handlers=lambda: [logging.Handler(1 // 0)], **ONE_WORKER)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (("node1", 0), "is for 'node1', which is none of the hosts: localhost, localhost#2"),
        (("localhost#3", None), "is for 'localhost#3', which is none of the hosts: localhost, localhost#2"),
        (("localhost#2", 2), "is for local rank 2 of 'localhost#2', whose local ranks are 0, 1"),
    ],
)
def test_a_handler_for_a_worker_that_there_will_not_be_is_an_error_before_anything_starts(
    kept: Kept, log_base: Path, monkeypatch: pytest.MonkeyPatch, source: tuple[str, int | None], words: str
) -> None:
    monkeypatch.setattr(Engine, "start", lambda engine: pytest.fail("agents were started"))
    trx.add_filter_to_handler(kept, *source)
    for handlers in ([kept], lambda: [kept]):
        with pytest.raises(ValueError, match="log_handlers") as caught:
            trx.launch(print, log_handlers=handlers, **TWO_AGENTS)
        assert words in str(caught.value)
    assert not log_base.exists() or not list(log_base.iterdir())


def test_with_none_only_a_failure_is_heard_of(
    log_base: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def print_and_fail() -> None:
        work()
        raise ValueError("a failure")

    with pytest.raises(ValueError, match="a failure"):
        trx.launch(print_and_fail, log_handlers=None, **ONE_WORKER)

    assert not log_base.exists()
    assert capfd.readouterr().out == ""
    assert [record.name for record in caplog.records] == ["trx"]  # that a rank has failed, and which


def test_handlers_stand_in_the_place_of_terminal_and_files(
    kept: Kept, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRX_LOG_DIR")

    trx.launch(work, log_handlers=[kept], **ONE_WORKER)

    assert len(kept.records) == 3
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_beside_handlers_where_they_are_asked_for(kept: Kept, log_base: Path) -> None:
    trx.launch(print, ("both",), log_handlers=[kept], **ONE_WORKER)

    assert log_files(log_base)["localhost[0].log"].read_text() == "both\n"
    assert kept.of("stdout") == ["both"]


def test_level_of_the_workers_is_chosen_with_handlers_as_well(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRX_LOG_LEVEL", "ERROR")

    trx.launch(work, log_handlers=[kept], **ONE_WORKER)

    assert kept.of("log") == []
    assert kept.of("stdout") == ["printed by 0"]


@pytest.mark.parametrize("level", ["", "20"])
def test_level_of_the_workers_by_default_and_as_a_number(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setenv("TRX_LOG_LEVEL", level)

    def log() -> None:
        logging.debug("detail")
        logging.info("news")

    trx.launch(log, log_handlers=[kept], **ONE_WORKER)

    assert kept.of("log") == ["news"]


def test_level_that_is_none_is_an_error_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRX_LOG_LEVEL", "LOUD")

    with pytest.raises(ValueError, match="TRX_LOG_LEVEL must be a level of logging, not 'LOUD'"):
        trx.launch(print, **ONE_WORKER)


def test_helpers_tell_workers_apart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handlers = [
        trx.file_handler("localhost", 0, tmp_path / "first.log"),
        trx.file_handler("localhost#2", 1, tmp_path / "last.log", logging.WARNING),
        trx.stream_handler("localhost", 1),
    ]

    trx.launch(work, log_handlers=lambda: handlers, **TWO_AGENTS)

    first = (tmp_path / "first.log").read_text().splitlines()
    assert sorted(first)[-2:] == ["complained by 0", "printed by 0"]
    assert re.fullmatch(r"[\d-]+ [\d:.]+ WARNING model: 3 %\n", (tmp_path / "last.log").read_text())
    shown = capfd.readouterr().out.splitlines()
    assert len(shown) == 3
    assert all(line.startswith("localhost[1]: ") for line in shown)


# ---- loggers --------------------------------------------------------------------------------------------------------


def test_loggers_of_workers_can_be_configured_beside_the_terminal_and_the_files(
    kept: Kept, log_base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("trx.localhost#2.1")
    logger.addHandler(kept)
    logger.setLevel(logging.WARNING)
    try:
        trx.launch(work, **TWO_AGENTS)
    finally:
        logger.removeHandler(kept)
        logger.setLevel(logging.NOTSET)

    assert kept.seen == [("localhost#2", 1, "log", "3 %")]
    assert capfd.readouterr().out == "printed by 0\n"
    assert log_files(log_base)["localhost#2[1].log"].read_text().count("\n") == 3


def test_who_has_called_basic_config_sees_nothing_twice(tmp_path: Path) -> None:
    source = f"""{HEAD}
logging.basicConfig(level=logging.DEBUG, format="ROOT %(message)s")
def work():
    print("a line")
    logging.getLogger("model").warning("a record")
trx.launch(work, **ONE_WORKER)
logging.info("the launcher's own")
"""
    with Script(tmp_path, source) as script:
        status, out, err = script.ends()

    assert (status, out) == (0, "a line\n"), err
    assert err.count("a record") == 1
    assert "ROOT a " not in err
    assert err.endswith("ROOT the launcher's own\n")


# ---- whose handlers -------------------------------------------------------------------------------------------------


def test_closures_and_whatever_has_a_write_method_work() -> None:
    class Widget:
        """Such as a notebook's."""

        def __init__(self) -> None:
            self.value = ""

        def write(self, text: str) -> None:
            self.value += text

    losses: dict[int, list[float]] = {0: [], 1: []}

    class Plot(logging.Handler):
        """As one would hand metrics to wandb."""

        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("loss "):
                losses[record.rank].append(float(record.getMessage().split()[1]))  # type: ignore[attr-defined]

    def train() -> None:
        for step in range(3):
            print("loss", step + rank())

    widget = Widget()
    shown = logging.StreamHandler(widget)

    trx.launch(train, hostnames=["localhost"], workers_per_host=2, backend=None, log_handlers=[shown, Plot()])

    assert losses == {0: [0.0, 1.0, 2.0], 1: [1.0, 2.0, 3.0]}
    assert sorted(widget.value.splitlines()) == sorted(f"loss {step + rank}" for step in range(3) for rank in (0, 1))


# ---- handlers that misbehave ----------------------------------------------------------------------------------------


def test_a_handler_that_raises_neither_loses_lines_nor_ends_the_run(
    kept: Kept, capfd: pytest.CaptureFixture[str]
) -> None:
    class Raising(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            raise SystemExit(1)

    raising = Raising()

    trx.launch(work, log_handlers=[raising, kept], **TWO_AGENTS)

    assert len(raising.records) == len(kept.records) == 12
    assert capfd.readouterr().err.count("--- Logging error ---") == 12


def test_a_slow_handler_loses_nothing_and_needs_no_memory(
    kept: Kept, go_on: threading.Event, log_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            assert go_on.wait(50)
            super().emit(record)

    marks = log_base.parent
    slow = Slow()

    def flood() -> None:
        for number in range(100_000):
            print(number, "x" * 100)
        signal_file(marks / "printed")

    def let_go() -> None:
        wait_until((marks / "printed").exists, "the worker has printed all", 40)
        size = log_files(log_base)["localhost[0].log"].stat().st_size
        held.append((len(slow.records), size))
        go_on.set()

    held: list[tuple[int, int]] = []
    thread = threading.Thread(target=let_go)
    thread.start()
    trx.launch(flood, log_handlers=[slow, kept], **ONE_WORKER)
    thread.join()

    assert held[0][0] == 0
    assert held[0][1] <= 3 << 20  # of 10 MB: the rest waited on the host
    expected = [f"{number} {'x' * 100}" for number in range(100_000)]
    assert slow.of("stdout") == kept.of("stdout") == expected


def test_a_host_that_waits_for_a_slow_handler_is_not_given_up(
    go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trx.engine, "_HANDING_OVER", 0.3)

    class Slow(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            assert go_on.wait(50)
            super().emit(record)

    def flood() -> None:
        for number in range(30_000):
            print(number, "x" * 100)

    def let_go() -> None:
        wait_until(lambda: engine._run and engine._run.job.handing_over, "only output is left")
        wait_until(lambda: time.monotonic() - engine._moved[0] > 1.0, "the agent has sent nothing for a while")
        go_on.set()

    slow = Slow()
    with trx.Launcher(["localhost"], 1, backend=None, log_handlers=[slow]) as launcher:
        engine: Any = launcher._session._engine  # type: ignore[union-attr]
        thread = threading.Thread(target=let_go)
        thread.start()
        launcher.run(flood)
        thread.join()
    assert len(slow.of("stdout")) == 30_000


@pytest.mark.usefixtures("impatient")
def test_a_failure_is_raised_though_a_handler_never_returns(
    kept: Kept, go_on: threading.Event, caplog: pytest.LogCaptureFixture, log_base: Path
) -> None:
    class Stuck(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            go_on.wait()

    def flood_and_fail() -> None:
        for number in range(100_000):
            print(number, "x" * 100)
        raise ValueError("a failure")

    with pytest.raises(ValueError, match="a failure"):
        trx.launch(flood_and_fail, log_handlers=[Stuck(), kept], grace_period=1, **ONE_WORKER)

    assert len(kept.of("stdout")) == 100_000  # whoever is not stuck gets all
    assert log_files(log_base)["localhost[0].log"].read_bytes().count(b"\n") == 100_000
    failed, stuck = caplog.messages
    assert "raised ValueError" in failed
    lost = re.fullmatch(r"the handler Stuck is stuck: up to (\d+) bytes of output did not get there", stuck)
    assert lost
    size = sum(len(f"{number} {'x' * 100}\n") for number in range(100_000))
    assert int(lost[1]) >= size


@pytest.mark.usefixtures("impatient")
def test_an_open_launcher_goes_on_with_a_handler_that_returned(
    go_on: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            go_on.wait()
            super().emit(record)
            emitted.set()

    stuck, emitted = Stuck(), threading.Event()
    with trx.Launcher(["localhost"], 1, backend=None, log_handlers=[stuck]) as launcher:
        launcher.run(print, "one")
        wait_until(lambda: caplog.messages, "it is said that the handler is stuck")
        launcher.run(print, "two")  # at once, and not for the handler
        go_on.set()
        assert emitted.wait(20)
        wait_until(lambda: launcher.run(print, "three") and "three" in stuck.of("stdout"), "the handler is back")

    assert caplog.messages[0] == "the handler Stuck is stuck: up to 4 bytes of output did not get there"
    assert stuck.of("stdout")[0] == "one"
    assert "two" not in stuck.of("stdout")


def test_a_script_ends_though_a_handler_never_returned(tmp_path: Path) -> None:
    source = f"""{HEAD}
from trx.output import writer
writer.PATIENCE = 1.0
class Stuck(logging.Handler):
    def emit(self, record):
        threading.Event().wait()
trx.launch(print, ("a line",), log_handlers=[Stuck()], **ONE_WORKER)
print("done")
"""
    assert run_script(tmp_path, source) == "done\n"


def test_a_handler_of_the_launchers_own_logger_that_blocks_holds_up_no_failure(tmp_path: Path) -> None:
    """The loop of the launcher must not wait for it: else leases would end, and other workers not be stopped."""
    source = f"""{HEAD}
from trx.output import writer
writer.PATIENCE = 1.0
class Stuck(logging.Handler):
    def emit(self, record):
        threading.Event().wait()
logging.getLogger("trx").addHandler(Stuck())
def fail():
    if os.environ["RANK"] == "1":
        raise ValueError("a failure")
    time.sleep(60)
try:
    trx.launch(fail, hostnames=["localhost", "localhost"], workers_per_host=1, backend=None, grace_period=1, lease=4)
except ValueError as error:
    print("raised", error.rank, flush=True)
    os._exit(0)
"""
    assert run_script(tmp_path, source) == "raised 1\n"


# ---- a terminal that is stopped -------------------------------------------------------------------------------------


def test_a_launch_ends_though_nobody_reads_its_output(tmp_path: Path) -> None:
    """A pager that is left alone, or a terminal after Ctrl-S."""
    source = f"""{HEAD}
from trx.output import writer
writer.PATIENCE = 1.0
def flood_and_fail():
    for number in range(100_000):
        print(number, "x" * 100)
    raise ValueError("a failure")
try:
    trx.launch(flood_and_fail, **ONE_WORKER)
except ValueError as error:
    Path("raised").write_text(error.failures[0].log_file)
os._exit(0)
"""
    with Script(tmp_path, source) as script:
        wait_until(lambda: script.process.poll() is not None, "the script's end", 40)
        assert script.process.stderr is not None
        err = script.process.stderr.read().decode()

    assert Path((tmp_path / "raised").read_text()).read_bytes().count(b"\n") == 100_000
    assert re.search(r"the terminal is stuck: up to \d{7,} bytes of output did not get there", err)


def test_a_pager_that_is_read_slowly_gets_everything(tmp_path: Path) -> None:
    source = f"""{HEAD}
from trx.output import writer
writer.PATIENCE = 1.0
def flood():
    for number in range(30_000):
        print(number, "x" * 100)
trx.launch(flood, **ONE_WORKER)
"""
    read: list[bytes] = []
    with Script(tmp_path, source) as script:
        assert script.process.stdout is not None
        pause = threading.Event()
        while data := os.read(script.process.stdout.fileno(), 16 << 10):
            read.append(data)
            pause.wait(0.02)  # longer than the patience, all in all
        assert script.ends() == (0, "", "")

    assert b"".join(read).count(b"\n") == 30_000
