"""Output as records for handlers of `logging`, and whose handlers get them."""

from __future__ import annotations

import contextlib
import io
import logging
import logging.config
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

import trx
from trx.output import HandlerSink, Source
from trx.output.handlers import LineFormatter, LogHandlers
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

ONE, TWO = Source("node1", 0, 0), Source("node2.cluster", 1, 3)
AGENT = Source("node1", None, None)
RECORD = Record("model", 30, 1.5, "loss %s", "Traceback\n  ...", "/home/ada/train.py", 7, "train")
WAIT = 30.0


class Kept(logging.Handler):
    """Keeps what it gets."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []
        self.flushed = 0
        self.closed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True
        super().close()

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def as_found() -> Iterator[None]:
    """Takes away what a test configures below "trx"."""
    trx_logger, root = logging.getLogger("trx"), logging.getLogger()
    before = [(each, each.level, list(each.handlers), each.propagate) for each in (trx_logger, root)]
    yield
    for each, level, handlers, propagate in before:
        each.setLevel(level)
        each.handlers[:] = handlers
        each.propagate = propagate
        each.disabled = False
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("trx.node")]:
        del logging.root.manager.loggerDict[name]


# ---- records --------------------------------------------------------------------------------------------------------


def test_each_line_is_a_record_that_tells_where_it_is_from(kept: Kept) -> None:
    sink = HandlerSink(kept)
    sink.write(TWO, Kind.STDOUT, b"100 %s\nha")
    sink.write(TWO, Kind.STDERR, b"\r 10%\r100%\n")
    sink.write(AGENT, Kind.AGENT, b"an agent's\n")
    sink.write(TWO, Kind.STDOUT, b"lf")
    assert kept.texts == ["100 %s", "100%", "an agent's"]
    sink.end(TWO)
    seen = [(each.name, each.hostname, each.rank, each.local_rank, each.stream) for each in kept.records]  # type: ignore[attr-defined]
    worker = ("trx.node2.cluster.1", "node2.cluster", 3, 1)
    assert seen == [
        (*worker, "stdout"),
        (*worker, "stderr"),
        ("trx.node1", "node1", None, None, "stderr"),
        (*worker, "stdout"),
    ]
    assert kept.texts[-1] == "half"
    assert {(each.levelno, each.levelname) for each in kept.records} == {(logging.INFO, "INFO")}


def test_a_log_record_keeps_what_it_was(kept: Kept) -> None:
    HandlerSink(kept).record(ONE, RECORD)
    (record,) = kept.records
    assert (record.name, record.levelno, record.levelname) == ("trx.node1.0", 30, "WARNING")
    assert (record.getMessage(), record.exc_text) == ("loss %s", "Traceback\n  ...")
    assert (record.created, record.msecs) == (1.5, 500)
    assert (record.origin, record.stream, record.rank) == ("model", "log", 0)  # type: ignore[attr-defined]
    assert (record.pathname, record.filename, record.lineno, record.funcName) == (
        "/home/ada/train.py",
        "train.py",
        7,
        "train",
    )
    assert (
        logging.Formatter("%(process)d %(threadName)s %(message)s").format(record).endswith("loss %s\nTraceback\n  ...")
    )


@pytest.mark.parametrize("created", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_record_of_an_impossible_time_can_be_formatted(kept: Kept, created: float) -> None:
    HandlerSink(kept).record(ONE, Record("a\x1b]0;t\x07", 2**40, created, "\x1b[31mm\x00\nn"))
    text = logging.Formatter("%(asctime)s %(origin)s %(message)s").format(kept.records[0])
    assert text.endswith(" a␛]0;t␇ m␀\nn")


def test_what_is_below_the_handlers_level_is_left_out() -> None:
    kept = Kept(logging.WARNING)
    sink = HandlerSink(kept)
    sink.write(ONE, Kind.STDOUT, b"printed\n")
    sink.record(ONE, RECORD)
    sink.record(ONE, Record("model", 20, 1.5, "info"))
    assert kept.texts == ["loss %s"]


def test_a_handler_is_flushed_when_a_source_ends_and_closed_if_it_is_ours() -> None:
    for close in (False, True):
        kept = Kept()
        sink = HandlerSink(kept, close=close)
        sink.end(ONE)
        assert kept.flushed == 0  # nothing to flush
        sink.write(ONE, Kind.STDOUT, b"x\ny")
        sink.end(ONE)
        assert (kept.texts, kept.flushed) == (["x", "y"], 1)
        sink.write(ONE, Kind.STDOUT, b"z")
        sink.close()
        assert (kept.texts, kept.closed) == (["x", "y", "z"], close)


# ---- handlers that misbehave ----------------------------------------------------------------------------------------


class Raising(Kept):
    """Raises for every other record."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error
        self.handled: list[str] = []
        self.calls = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.calls += 1
        if self.calls % 2:
            raise self.error(record.getMessage())
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        self.handled.append(record.getMessage())
        raise RuntimeError("even this")


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_raises_gets_the_next_record_all_the_same(error: type[BaseException]) -> None:
    raising = Raising(error)
    sink = HandlerSink(raising)
    sink.write(ONE, Kind.STDOUT, b"1\n2\n3\n")
    sink.record(ONE, RECORD)
    assert raising.texts == ["2", "loss %s"]
    assert raising.handled == ["1", "3"]
    assert sink.progress == 4


def test_by_default_an_error_of_a_handler_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("the widget is gone")

    HandlerSink(Broken()).write(ONE, Kind.STDOUT, b"a line\n")
    err = capsys.readouterr().err
    assert "ValueError: the widget is gone" in err
    assert "a line" in err


def test_a_handler_that_is_given_up_no_longer_holds_its_lock(capsys: pytest.CaptureFixture[str]) -> None:
    class Blocking(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            entered.set()
            assert go_on.wait(WAIT)
            super().emit(record)

    entered, go_on = threading.Event(), threading.Event()
    handler = Blocking()
    sink = HandlerSink(handler)
    thread = threading.Thread(target=sink.write, args=(ONE, Kind.STDOUT, b"1\n2\n"), daemon=True)
    thread.start()
    assert entered.wait(WAIT)
    assert handler.lock is not None
    assert not handler.lock.acquire(blocking=False)
    sink.give_up()
    assert handler.lock.acquire(timeout=WAIT)  # as `logging.shutdown` does
    handler.lock.release()
    go_on.set()
    thread.join(WAIT)
    assert handler.texts == ["1", "2"]
    assert capsys.readouterr().err == ""


# ---- loggers --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_found")
@pytest.mark.parametrize(
    ("logger", "texts"),
    [
        ("trx.node1.0", ["zero"]),
        ("trx.node1.1", ["one"]),
        ("trx.node1", ["zero", "one", "agent"]),
        ("trx.node2.cluster.1", ["other"]),
        ("trx.node2.cluster", ["other"]),
        ("trx", ["zero", "one", "other", "agent"]),
        ("", []),
        ("trx.node", []),
    ],
)
def test_a_handler_of_a_logger_gets_what_is_below_it(kept: Kept, logger: str, texts: list[str]) -> None:
    logging.getLogger(logger).addHandler(kept)
    sink = HandlerSink()
    sink.write(ONE, Kind.STDOUT, b"zero\n")
    sink.write(Source("node1", 1, 1), Kind.STDERR, b"one\n")
    sink.write(TWO, Kind.STDOUT, b"other\n")
    sink.write(AGENT, Kind.AGENT, b"agent\n")
    assert kept.texts == texts


@pytest.mark.usefixtures("as_found")
def test_loggers_are_configured_as_usual(kept: Kept) -> None:
    above = Kept()
    logging.getLogger("trx").addHandler(above)
    logger = logging.getLogger("trx.node1.0")
    logger.addHandler(kept)
    sink, given = HandlerSink(), Kept()
    for each in (sink, HandlerSink(given)):
        logger.propagate = True
        logger.setLevel(logging.WARNING)
        each.write(ONE, Kind.STDOUT, b"too low\n")
        each.record(ONE, RECORD)
        logger.setLevel(logging.NOTSET)
        logging.getLogger("trx.node1").setLevel(logging.WARNING)
        each.write(ONE, Kind.STDOUT, b"too low above\n")
        logging.getLogger("trx.node1").setLevel(logging.NOTSET)
        logger.propagate = False
        each.write(ONE, Kind.STDOUT, b"not passed on\n")
        logger.disabled = True
        each.write(ONE, Kind.STDOUT, b"disabled\n")
        logger.disabled = False
        logging.disable(logging.INFO)
        each.write(ONE, Kind.STDOUT, b"disabled for all\n")
        logging.disable(logging.NOTSET)
        logger.addFilter(has_no_x)
        each.write(ONE, Kind.STDOUT, b"x\ny\n")
        logger.removeFilter(has_no_x)
    assert kept.texts == ["loss %s", "not passed on", "y"]
    assert above.texts == ["loss %s"]
    assert given.texts == ["loss %s", "not passed on", "y"]


def has_no_x(record: logging.LogRecord) -> bool:
    return record.getMessage() != "x"


@pytest.mark.usefixtures("as_found")
def test_output_makes_no_logger_that_a_later_configuration_would_disable(kept: Kept) -> None:
    sink = HandlerSink(kept)
    sink.write(ONE, Kind.STDOUT, b"1\n")
    logging.config.dictConfig({"version": 1})  # disables all loggers that there are
    sink.write(ONE, Kind.STDOUT, b"2\n")
    logging.getLogger("trx").disabled = False
    assert kept.texts == ["1", "2"]
    assert "trx.node1.0" not in logging.root.manager.loggerDict


# ---- helpers --------------------------------------------------------------------------------------------------------


def _print_from_everybody(*handlers: logging.Handler) -> None:
    for handler in handlers:
        sink = HandlerSink(handler)
        for source in (ONE, TWO):
            sink.write(source, Kind.STDOUT, f"out of {source}\n".encode())
            sink.record(source, RECORD)
        sink.write(AGENT, Kind.AGENT, b"out of the agent\n")


@pytest.mark.parametrize(
    ("hostname", "local_rank", "level", "texts"),
    [
        ("node1", 0, logging.NOTSET, ["out of node1[0]", "loss %s"]),
        ("node2.cluster", 1, logging.WARNING, ["loss %s"]),
        ("node1", None, logging.NOTSET, ["out of the agent"]),
        ("node1", 1, logging.NOTSET, []),
        ("node3", 0, logging.NOTSET, []),
    ],
)
def test_a_filter_lets_pass_one_source(
    kept: Kept, hostname: str, local_rank: int | None, level: int, texts: list[str]
) -> None:
    trx.add_filter_to_handler(kept, hostname, local_rank, level)
    _print_from_everybody(kept)
    assert kept.texts == texts
    kept.handle(logging.makeLogRecord({"msg": "of another logger", "levelno": logging.CRITICAL}))
    assert kept.texts == texts


def test_a_file_handler_appends_to_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "worker.log"
    handler = trx.file_handler("node1", 0, path)
    assert not path.exists()
    _print_from_everybody(handler)
    handler.close()
    printed, record, *traceback = path.read_text().splitlines()
    assert printed == "out of node1[0]"
    assert record.endswith(".500 WARNING model: loss %s")
    assert traceback == ["Traceback", "  ..."]


def test_a_stream_handler_says_whose_line_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    _print_from_everybody(trx.stream_handler("node1", 0), trx.stream_handler("node1", None))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "node1[0]: out of node1[0]"
    assert lines[1].startswith("node1[0]: ")
    assert lines[1].endswith(" WARNING model: loss %s")
    assert lines[2:] == ["node1[0]: Traceback", "node1[0]:   ...", "node1: out of the agent"]


def test_a_stream_handler_looks_stdout_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    handler = trx.stream_handler("node1", None)
    with contextlib.redirect_stdout(io.StringIO()) as notebook:
        _print_from_everybody(handler)
    assert notebook.getvalue() == "node1: out of the agent\n"
    monkeypatch.setattr("sys.stdout", None)
    _print_from_everybody(handler)
    assert capsys.readouterr() == ("", "")


def test_a_command_line_can_name_what_is_no_handler() -> None:
    """Tools make it of the annotations that they find at run time."""
    annotation: object = LogHandlers
    assert annotation == Literal["auto"] | None


def test_the_formatter_of_helpers_takes_other_records_too() -> None:
    record = logging.makeLogRecord({"msg": "of the launcher", "levelname": "INFO"})
    assert LineFormatter().format(record).endswith(" INFO launcher: of the launcher")
