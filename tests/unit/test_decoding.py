"""Whatever comes from outside is decoded to what it should be, or to one typed error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trx_agent import orders
from trx_agent.protocol import bootstrap, messages, outcome, records
from trx_agent.protocol.decoding import Malformed
from trx_agent.protocol.messages import Beat, Envelope
from trx_agent.protocol.records import Record


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def read_records(body: bytes) -> object:
    return records.Reader().feed(framed(body))


def read_error(body: bytes) -> object:
    return outcome.unframe(framed(body))


MSGPACK: list[Callable[[bytes], object]] = [
    messages.decode,
    orders.decode,
    bootstrap.unframe,
    read_records,
    read_error,
]
JSON: list[Callable[[bytes], object]] = [bootstrap.read_status, bootstrap.read_detour]

RECORD = b"\xa1n\x14\xcb\0\0\0\0\0\0\0\0\xa1m\xa0\xa0\x00\xa0"  # the eight fields of a record

MALFORMED = [
    b"",
    b"\xc1",
    b"\x91" * 100_000 + b"\x01",  # arrays within arrays
    b"\x81\xa1x" * 100_000 + b"\x01",  # maps within maps
    b"\x99" + RECORD + b"\x91" * 50_000 + b"\x01",  # the same, behind the fields
    b"\x99" + RECORD + b"\x01",  # a field too many
    b"\x94\x02\x00\x91\xa4Beat" + b"\x91" * 100_000 + b"\x01",
    b"\x85\xa5stage\xa1s\xa4kind\xa1k\xa7message\xa1m\xa9traceback\xa1t\xa1x" + b"\x91" * 50_000 + b"\x01",
    b"\x85\xa5stage\xa1s\xa4kind\xa1k\xa7message\xa1m\xa9traceback\xa1t\xa1x\x01",  # a field that there is not
    b"\xdd\xff\xff\xff\xff",  # an array of four billion
    b"\xc6\xff\xff\xff\xff",  # as many bytes
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xa2\xff\xfe",  # text that is not UTF-8
    b"\xcb\x7f\xf8\0\0\0\0\0\0",
    b"[" * 100_000,
    b'{"type":' * 50_000,
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
@pytest.mark.parametrize("decode", [*MSGPACK, *JSON])
def test_malformed_bytes_are_one_error(decode: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(Malformed) as raised:
        decode(data)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("decode", [*MSGPACK, *JSON])
@given(data=st.binary(max_size=200))
def test_random_bytes_are_a_value_or_that_error(decode: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(Malformed):
        decode(data)


def test_bytes_behind_a_message_are_refused() -> None:
    data = messages.encode(Envelope(0, 0, Beat()))
    assert messages.decode(data) == Envelope(0, 0, Beat())
    with pytest.raises(Malformed):
        messages.decode(data + b"\x01")


@pytest.mark.parametrize(
    "fields",
    [
        ("n", 20, float("nan"), "m"),
        ("n", 20, float("-inf"), "m"),
        ("n", 20, -1e18, "m"),
        ("n", 20, 1e300, "m"),
        ("n", 2**63, 0.0, "m"),
        ("n", 20, 0.0, "m", "", "", 2**40),
    ],
)
def test_numbers_that_nobody_could_format_are_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(Malformed):
        read_records(msgspec.msgpack.encode(fields))
    assert read_records(msgspec.msgpack.encode(("n", 20, 1e9, "m"))) == [Record("n", 20, 1e9, "m")]
