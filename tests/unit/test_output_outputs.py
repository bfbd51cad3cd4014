"""The output thread."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from trx.output import LogFiles, Outputs, Sink, Source, Terminal
from trx.output.writer import PATIENCE
from trx_agent.protocol import records
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

ONE, TWO = Source("node1", 0, 0), Source("node2", 0, 1)
RECORD = Record("a", 30, 1.0, "message")
WAIT = 30.0


class Collected:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.name = type(self).__name__
        self.progress = 0
        self.calls: list[tuple[object, ...]] = []

    def write(self, source: Source, kind: Kind, data: bytes) -> None:
        self.calls.append((source, kind, data))

    def record(self, source: Source, record: Record) -> None:
        self.calls.append((source, record))

    def end(self, source: Source) -> None:
        self.calls.append((source,))

    def close(self) -> None:
        self.calls.append(())

    def make_way(self) -> None:
        pass

    def give_up(self) -> None:
        self.calls.append(("given up",))


class Raising(Collected):
    def write(self, source: Source, kind: Kind, data: bytes) -> None:
        super().write(source, kind, data)
        raise OSError("no space left")


class Slow(Collected):
    """Waits for a permission before it takes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def write(self, source: Source, kind: Kind, data: bytes) -> None:
        self.entered.set()
        assert self.go_on.wait(WAIT)
        super().write(source, kind, data)


class Credit:
    """Collects what was consumed."""

    def __init__(self) -> None:
        self.given: list[tuple[object, int]] = []
        self.threads: set[str] = set()

    def __call__(self, token: object, size: int) -> None:
        self.given.append((token, size))
        self.threads.add(threading.current_thread().name)


def test_everything_arrives_in_order_and_is_credited() -> None:
    sinks, credit = [Collected(), Collected()], Credit()
    outputs = Outputs(sinks, credit)
    outputs.feed(ONE, Kind.STDOUT, b"out", "t1")
    outputs.feed(TWO, Kind.STDERR, b"err", "t2")
    outputs.end(ONE)
    assert outputs.close(WAIT)
    expected = [(ONE, Kind.STDOUT, b"out"), (TWO, Kind.STDERR, b"err"), (ONE,), ()]
    assert [sink.calls for sink in sinks] == [expected, expected]
    assert credit.given == [("t1", 3), ("t2", 3)]
    assert credit.threads == {"trx-output: Collected"}
    assert outputs.close(0)


def test_records_are_put_together_for_each_source() -> None:
    sink, credit = Collected(), Credit()
    outputs = Outputs([sink], credit)
    data = records.encode(RECORD)
    outputs.feed(ONE, Kind.RECORDS, data[:7], 1)
    outputs.feed(TWO, Kind.RECORDS, data + data[:3], 2)
    outputs.feed(ONE, Kind.RECORDS, data[7:], 3)
    assert outputs.close(WAIT)
    assert sink.calls == [(TWO, RECORD), (ONE, RECORD), ()]
    assert credit.given == [(1, 7), (2, len(data) + 3), (3, len(data) - 7)]


@pytest.mark.parametrize("malformed", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\3abc"])
def test_malformed_records_are_reported_once_and_skipped(malformed: bytes, caplog: pytest.LogCaptureFixture) -> None:
    sink, credit = Collected(), Credit()
    outputs = Outputs([sink], credit)
    for number in range(3):
        outputs.feed(ONE, Kind.RECORDS, malformed, number)
    outputs.feed(ONE, Kind.STDOUT, b"out", 3)
    outputs.feed(TWO, Kind.RECORDS, records.encode(RECORD), 4)
    outputs.end(ONE)
    outputs.feed(ONE, Kind.RECORDS, records.encode(RECORD), 5)  # the next run starts afresh
    assert outputs.close(WAIT)
    assert sink.calls == [(ONE, Kind.STDOUT, b"out"), (TWO, RECORD), (ONE,), (ONE, RECORD), ()]
    assert [token for token, _ in credit.given] == [0, 1, 2, 3, 4, 5]
    assert [text.split(" are ")[0] for text in caplog.messages] == ["the log records of node1[0]"]
    assert "rank 0" in caplog.messages[0]


def test_records_around_malformed_ones_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    sink, credit = Collected(), Credit()
    outputs = Outputs([sink], credit)
    good, body = records.encode(RECORD), b"\x99" + records.encode(RECORD)[5:] + b"\x91" * 50_000 + b"\x01"
    data = good + len(body).to_bytes(4, "big") + body + good
    for number in range(2):
        outputs.feed(ONE, Kind.RECORDS, data, number)
    assert outputs.close(WAIT)
    assert sink.calls == [(ONE, RECORD)] * 4 + [()]
    assert credit.given == [(0, len(data)), (1, len(data))]
    assert len(caplog.messages) == 1


def test_a_sink_that_raises_is_reported_once_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    raising, sink, credit = Raising(), Collected(), Credit()
    outputs = Outputs([raising, sink], credit)
    outputs.feed(ONE, Kind.STDOUT, b"1", 1)
    outputs.feed(ONE, Kind.STDOUT, b"2", 2)
    assert outputs.close(WAIT)
    assert raising.calls == [(ONE, Kind.STDOUT, b"1"), ()]
    assert sink.calls == [(ONE, Kind.STDOUT, b"1"), (ONE, Kind.STDOUT, b"2"), ()]
    assert credit.given == [(1, 1), (2, 1)]
    assert caplog.messages == ["Raising gets no more output: OSError: no space left"]


def test_a_sink_that_raises_when_closed_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Unclosable(Collected):
        def close(self) -> None:
            raise OSError("quota exceeded")

    sink = Collected()
    assert Outputs([Unclosable(), sink], Credit()).close(WAIT)
    assert sink.calls == [()]
    assert caplog.messages == ["cannot close Unclosable: OSError: quota exceeded"]


def test_a_report_that_raises_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError

    sink, credit, handler = Collected(), Credit(), Bad()
    logging.getLogger("trx").addHandler(handler)
    try:
        outputs = Outputs([Raising(), sink], credit)
        outputs.feed(ONE, Kind.STDOUT, b"1", 1)
        assert outputs.close(WAIT)
    finally:
        logging.getLogger("trx").removeHandler(handler)
    assert sink.calls == [(ONE, Kind.STDOUT, b"1"), ()]
    assert credit.given == [(1, 1)]


def test_a_callback_that_raises_loses_no_output(caplog: pytest.LogCaptureFixture) -> None:
    def broken(token: object, size: int) -> None:
        raise OSError("closed")

    sink = Collected()
    outputs = Outputs([sink], broken)
    outputs.feed(ONE, Kind.STDOUT, b"1", 1)
    outputs.feed(ONE, Kind.STDOUT, b"2", 2)
    assert outputs.close(WAIT)
    assert sink.calls == [(ONE, Kind.STDOUT, b"1"), (ONE, Kind.STDOUT, b"2"), ()]
    assert "OSError: closed" in caplog.messages[0]


def test_a_slow_sink_holds_up_credit_but_not_who_feeds() -> None:
    slow, credit = Slow(), Credit()
    outputs = Outputs([slow], credit)
    for number in range(100):
        outputs.feed(ONE, Kind.STDOUT, b"x", number)
    assert slow.entered.wait(WAIT)
    assert credit.given == []
    slow.go_on.set()
    assert outputs.close(WAIT)
    assert len(slow.calls) == 101
    assert len(credit.given) == 100


def test_files_are_complete_once_closed(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    sinks: list[Sink] = [files]
    outputs = Outputs(sinks, Credit())
    outputs.feed(ONE, Kind.STDOUT, b"line\npart", None)
    outputs.feed(ONE, Kind.RECORDS, records.encode(RECORD), None)
    assert outputs.close(WAIT)
    first, record, part = files.path(ONE).read_text().split("\n")
    assert (first, part) == ("line", "part")
    assert record.endswith("WARNING a: message")


# ---- sinks that are stuck -------------------------------------------------------------------------------------------


def test_a_stuck_sink_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    slow, sink, credit = Slow(), Collected(), Credit()
    outputs = Outputs([slow, sink], credit)
    written = threading.Event()
    outputs.feed(ONE, Kind.STDOUT, b"1", 1)
    outputs.feed(ONE, Kind.STDOUT, b"23", 2)
    outputs.when_written(written.set)
    assert slow.entered.wait(WAIT)
    while len(sink.calls) < 2:
        assert not written.wait(0.01)
    assert credit.given == []
    outputs.watch(0.0, hurry=True)
    outputs.watch(PATIENCE, hurry=True)
    assert written.wait(WAIT)
    assert credit.given == [(1, 1), (2, 2)]
    assert slow.calls == [("given up",)]
    outputs.say_losses()
    assert outputs.close(WAIT)  # at once
    assert sink.calls == [(ONE, Kind.STDOUT, b"1"), (ONE, Kind.STDOUT, b"23"), ()]
    assert caplog.messages == ["Slow is stuck: up to 3 bytes of output did not get there"]
    slow.go_on.set()


def test_a_sink_that_is_stuck_at_the_end_is_said(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    outputs = Outputs([slow], Credit())
    outputs.feed(ONE, Kind.STDOUT, b"1", 1)
    assert slow.entered.wait(WAIT)
    assert outputs.close(0.1) is False
    assert caplog.messages == ["Slow is stuck: up to 1 bytes of output did not get there"]
    slow.go_on.set()


def test_what_is_said_before_is_said_when_all_is_written(caplog: pytest.LogCaptureFixture) -> None:
    outputs = Outputs([], Credit())
    seen: list[str] = []
    written = threading.Event()

    def look() -> None:
        seen.extend(caplog.messages)
        written.set()

    outputs.say("first")
    outputs.say("second", logging.ERROR)
    outputs.when_written(look)
    assert written.wait(WAIT)
    assert seen == ["first", "second"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert outputs.close(WAIT)


def test_a_message_does_not_begin_in_the_middle_of_a_progress_bar(capfd: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()
    logging.getLogger("trx").addHandler(handler)
    try:
        outputs = Outputs([Terminal()], Credit())
        shown, said = threading.Event(), threading.Event()
        outputs.feed(ONE, Kind.STDERR, b"\r 10%", None)
        outputs.when_written(shown.set)
        assert shown.wait(WAIT)
        outputs.say("a worker has failed")
        outputs.when_written(said.set)
        assert said.wait(WAIT)
        assert outputs.close(WAIT)
    finally:
        logging.getLogger("trx").removeHandler(handler)
    assert capfd.readouterr().err == "\r 10%\na worker has failed\n"


def test_who_says_something_does_not_wait_for_handlers() -> None:
    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert go_on.wait(WAIT)

    go_on, handler, written = threading.Event(), Blocking(), threading.Event()
    logging.getLogger("trx").addHandler(handler)
    try:
        outputs = Outputs([], Credit())
        outputs.say("a message")
        outputs.when_written(written.set)
        assert not written.wait(0.05)
        outputs.watch(0.0, hurry=True)
        outputs.watch(PATIENCE, hurry=True)
        assert written.wait(WAIT)
        go_on.set()
        assert outputs.close(WAIT)
        for thread in threading.enumerate():
            if thread.name == "trx-output: messages":
                thread.join(WAIT)  # else the message goes on to the handlers of the next test
    finally:
        logging.getLogger("trx").removeHandler(handler)


def test_a_sink_that_exits_is_reported_and_the_thread_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    class Exiting(Collected):
        def write(self, source: Source, kind: Kind, data: bytes) -> None:
            raise SystemExit(1)

    credit = Credit()
    outputs = Outputs([Exiting()], credit)
    outputs.feed(ONE, Kind.STDOUT, b"1", 1)
    outputs.feed(ONE, Kind.STDOUT, b"2", 2)
    assert outputs.close(WAIT)
    assert credit.given == [(1, 1), (2, 1)]
    assert caplog.messages == ["Exiting gets no more output: SystemExit: 1"]
