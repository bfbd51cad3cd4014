"""What comes from outside: each reader gives a value or one typed error, whatever it is fed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trx_agent import orders
from trx_agent.orders import ORDER, WorkerGone
from trx_agent.protocol import bootstrap, decoding, messages, outcome, records
from trx_agent.protocol.bootstrap import Bootstrap, Detour, Keys, Refused
from trx_agent.protocol.decoding import Malformed
from trx_agent.protocol.link import Link
from trx_agent.protocol.messages import (
    Beat,
    Door,
    Ended,
    Envelope,
    Hello,
    Mark,
    Preparation,
    Raised,
    Returned,
    Start,
    Stop,
)
from trx_agent.protocol.outcome import WorkerError
from trx_agent.protocol.records import Reader, Record

DEEP = 50_000

PREPARATION = Preparation({"A": "1"}, "", ())
BOOTSTRAP = Bootstrap(
    0, "node1", "c", Keys(b"1", b"2", b"3"), ("tcp://x:1",), 1, False, False, "/", PREPARATION, b"n", 1.0, 2.0, 3.0
)
START = Start(1, 0, (0,), ({"A": "1"},), 10, "", 1.0, (), 20, PREPARATION, Door("::1", 1), 0)
ENDED = Ended(1, 0, 4711, Raised("no"), 10, "last", (Mark("function called", 1.0),))


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def read_order(body: bytes) -> Start:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, ORDER).write_bytes(body)
        return orders.read_order(Path(directory))


READERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "header": (messages.decode, messages.encode(Envelope(3, 4, ENDED))),
    "record": (lambda body: Reader().feed(framed(body)), records.encode(Record("a", 20, 1.5, "text"))[4:]),
    "outcome": (lambda body: outcome.unframe(framed(body)), outcome.frame(WorkerError("s", "k", "m", "t"))[4:]),
    "bootstrap": (bootstrap.unframe, msgspec.msgpack.encode(BOOTSTRAP)),
    "status": (bootstrap.read_status, msgspec.json.encode(Refused("stage", "reason"))),
    "detour": (bootstrap.read_detour, msgspec.json.encode(Detour("tcp://127.0.0.1:1"))),
    "report": (orders.decode, orders.encode(WorkerGone(0, -9))),
    "order": (read_order, msgspec.msgpack.encode(START)),
}
"""Each with what it is meant to read."""

each_reader = pytest.mark.parametrize(("read", "good"), READERS.values(), ids=READERS)

NESTED = {
    "arrays": b"\x91" * DEEP + b"\x01",
    "arrays without an end": b"\x91" * DEEP,
    "maps": b"\x81\xa1a" * DEEP + b"\x01",
    "maps whose keys are arrays": b"\x81\x91" * DEEP + b"\x01\x01",
    "long arrays": b"\xdd\xff\xff\xff\xff" * DEEP,
    "JSON arrays": b"[" * DEEP + b"]" * DEEP,
    "JSON objects": b'{"a":' * DEEP,
}


@each_reader
def test_what_is_meant_is_read(read: Callable[[bytes], object], good: bytes) -> None:
    assert read(good)


@each_reader
@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED)
@pytest.mark.parametrize("place", [0, 1, -1])
def test_deep_nesting_is_malformed(read: Callable[[bytes], object], good: bytes, nested: bytes, place: int) -> None:
    for data in (nested, good[:place] + nested + good[place:], good + nested, one_field_more(good) + nested):
        with pytest.raises(Malformed):
            read(data)


def one_field_more(good: bytes) -> bytes:
    """The beginning of an array or a map with a further, unknown field, which is still to come."""
    if good[0] >> 4 == 0x9:
        return bytes([good[0] + 1]) + good[1:]
    return bytes([good[0] + 1]) + good[1:] + b"\xa1x" if good[0] >> 4 == 0x8 else good[:-1] + b',"x":'


@each_reader
def test_an_unknown_field_is_malformed(read: Callable[[bytes], object], good: bytes) -> None:
    more = one_field_more(good)
    with pytest.raises(Malformed):
        read(more + b"1}" if more.endswith(b":") else more + b"\x01")


@each_reader
@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\x00",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x93\x01\x00\xdd\xff\xff\xff\xff",
        b"\xa2\xff\xfe",
        b'{"type": "\xff"}',
        b'{"type": "Nobody"}',
        b"\xd9\x05Beat",
    ],
)
def test_noise_is_malformed(read: Callable[[bytes], object], good: bytes, noise: bytes) -> None:
    with pytest.raises(Malformed):
        read(noise)


@each_reader
def test_what_is_cut_off_or_goes_on_is_malformed(read: Callable[[bytes], object], good: bytes) -> None:
    for data in (*(good[:size] for size in range(len(good))), good + b"\x00", good + good):
        with pytest.raises(Malformed):
            read(data)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(READERS)), st.data())
def test_what_was_changed_is_a_value_or_malformed(name: str, data: st.DataObject) -> None:
    read, good = READERS[name]
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 8)))
    changed = good[:start] + data.draw(st.binary(max_size=12)) + good[end:]
    with contextlib.suppress(Malformed):
        read(changed)


class Raising:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def decode(self, data: object, /) -> object:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("maximum recursion depth exceeded"),
        MemoryError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        OverflowError("too large"),
        msgspec.DecodeError("truncated"),
        msgspec.ValidationError("expected int"),
        SystemError("whatever else"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_exception_of_a_decoder_is_malformed_and_says_what_and_why(error: Exception) -> None:
    with pytest.raises(Malformed, match="malformed log record: ") as caught:
        decoding.decode(Raising(error), b"", "log record")
    assert (str(error) or type(error).__name__) in str(caught.value)


def test_the_reason_is_short_however_long_what_it_quotes() -> None:
    with pytest.raises(Malformed) as caught:
        messages.decode(msgspec.msgpack.encode([1, 0, ["x" * 1_000_000]]))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "message",
    [
        Stop(1, float("nan")),
        Stop(1, float("inf")),
        Stop(-1, 1.0),
        Hello(1, 0, 1, (Door("127.0.0.1", 1 << 16),), 1),
        Hello(1, 0, 1, (Door("127.0.0.1", -1),), 1),
        Hello(1, 0, 1, (Door("x" * 5000, 1),), 1),
        Hello(1, 0, 1, (), 1 << 40),
        Ended(1, 0, 1, Returned(), 1 << 63, ""),
        Ended(1, 0, 1, Returned(), -1, ""),
        Ended(1, 0, 1, Returned(), 1, "x" * 1_000_000),
        *[Ended(1, 0, 1, Returned(), 1, "", (Mark("m", ago),)) for ago in (float("nan"), float("-inf"), -1e308)],
        Ended(1, 0, 1, Returned(), 1, "", (Mark("m", 1.0),) * 1000),
    ],
    ids=lambda message: f"{message}"[:50],
)
def test_numbers_and_texts_out_of_range_are_malformed(message: messages.AnyMessage) -> None:
    with pytest.raises(Malformed):
        messages.decode(messages.encode(Envelope(1, 0, message)))


@pytest.mark.parametrize("seconds", [0.0, 5e-324, 0.5, 1.7976931348623157e308])
def test_every_time_that_a_user_may_ask_for_can_be_sent(seconds: float) -> None:
    assert messages.decode(messages.encode(Envelope(1, 0, Stop(1, seconds)))).message == Stop(1, seconds)


def test_an_acknowledgement_of_what_was_never_sent_is_malformed() -> None:
    with pytest.raises(Malformed, match="message 9 acknowledged, 0 sent"):
        Link(lambda packet: None, 0.0).receive(messages.encode(Envelope(1, 9, Beat())), 0.0)


# ---- log records: of a bad one, the others are none the worse -------------------------------------------------------

GOOD = records.encode(Record("a", 20, 1.5, "text"))
BAD = [
    framed(READERS["record"][1][:-1]),
    framed(one_field_more(READERS["record"][1]) + NESTED["arrays"]),
    framed(NESTED["maps"]),
    framed(b""),
    *[records.encode(Record("a", level, 1.5, "text")) for level in (1 << 63, -(1 << 40))],
    records.encode(Record("a" * 5000, 20, 1.5, "text")),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_malformed_record_is_left_out_and_those_around_it_are_not(bad: bytes) -> None:
    reader, good = Reader(), Record("a", 20, 1.5, "text")
    with pytest.raises(records.MalformedRecords) as caught:
        reader.feed(GOOD + bad + GOOD + GOOD[:3])
    assert caught.value.records == [good, good]
    assert reader.feed(GOOD[3:]) == [good]


def test_behind_a_length_that_cannot_be_nothing_is_a_record() -> None:
    reader = Reader()
    with pytest.raises(records.MalformedRecords, match="4294967295 bytes") as caught:
        reader.feed(GOOD + b"\xff\xff\xff\xff" + GOOD)
    assert len(caught.value.records) == 1
    assert reader.feed(GOOD) == []
