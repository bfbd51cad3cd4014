"""Merging streams at line ends, and records as lines."""

from __future__ import annotations

import math
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trx.output.lines import LineMerger, format_record
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

OUT, ERR = Kind.STDOUT, Kind.STDERR

_line_ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
_line = st.builds(
    lambda text, end: text + end, st.binary(max_size=8).map(lambda t: re.sub(rb"[\r\n]", b"", t)), _line_ends
)
_lines = st.lists(_line, max_size=8)


@st.composite
def _chunked(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=10)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@st.composite
def _interleaved(draw: st.DrawFn, out: bytes, err: bytes) -> list[tuple[Kind, bytes]]:
    queues = {OUT: draw(_chunked(out)), ERR: draw(_chunked(err))}
    feeds = []
    while any(queues.values()):
        kind = draw(st.sampled_from([kind for kind, queue in queues.items() if queue]))
        feeds.append((kind, queues[kind].pop(0)))
    return feeds


def _merge(feeds: list[tuple[Kind, bytes]], merger: LineMerger) -> list[bytes]:
    return [*(merger.feed(kind, data) for kind, data in feeds), merger.end()]


@given(st.data(), _lines, _lines, st.binary(max_size=4), st.binary(max_size=4))
def test_no_line_is_cut_lost_or_reordered(
    data: st.DataObject, out: list[bytes], err: list[bytes], out_rest: bytes, err_rest: bytes
) -> None:
    # Lines tell by their first byte whose they are, so that a cut one can be found.
    out = [b"O" + line for line in out]
    err = [b"E" + line for line in err]
    rests = [b"O" + re.sub(rb"[\r\n]", b"", out_rest), b"E" + re.sub(rb"[\r\n]", b"", err_rest)]
    feeds = data.draw(_interleaved(b"".join(out) + rests[0], b"".join(err) + rests[1]))

    merged = b"".join(_merge(feeds, LineMerger()))

    whole = re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)", merged)
    assert [line for line in whole if line.startswith(b"O")] == out
    assert [line for line in whole if line.startswith(b"E")] == err
    assert len(whole) == len(out) + len(err)
    assert merged[len(b"".join(whole)) :] in (rests[0] + rests[1], rests[1] + rests[0])


@given(st.data(), st.binary(max_size=60), st.integers(1, 8))
def test_lines_longer_than_the_limit_keep_every_byte_in_order(data: st.DataObject, text: bytes, longest: int) -> None:
    out, err = bytes(byte & 0x7F for byte in text), bytes(byte | 0x80 for byte in text)  # told apart by the top bit
    merged = b"".join(_merge(data.draw(_interleaved(out, err)), LineMerger(longest)))
    assert bytes(byte for byte in merged if byte < 0x80) == out
    assert bytes(byte for byte in merged if byte >= 0x80) == err


def test_a_partial_line_waits_for_its_end_and_lets_others_pass() -> None:
    merger = LineMerger()
    assert merger.feed(OUT, b"half") == b""
    assert merger.feed(ERR, b"whole\n") == b"whole\n"
    assert merger.feed(OUT, b" done\nnext") == b"half done\n"
    assert merger.end() == b"next"
    assert merger.end() == b""


def test_a_carriage_return_ends_a_line_unless_its_newline_follows() -> None:
    merger = LineMerger()
    assert merger.feed(ERR, b"\r 10%") == b"\r"
    assert merger.feed(ERR, b"\r 20%") == b" 10%\r"
    assert merger.feed(OUT, b"dos\r") == b""
    assert merger.feed(OUT, b"\n") == b"dos\r\n"
    assert merger.feed(OUT, b"bar\r") == b""
    assert merger.feed(OUT, b"") == b""
    assert merger.feed(OUT, b"x") == b"bar\r"


def test_an_endless_line_is_held_up_to_the_limit_only() -> None:
    merger = LineMerger()
    assert merger.feed(OUT, b"x" * (64 << 10)) == b""
    assert merger.feed(OUT, b"y") == b"x" * (64 << 10) + b"y"
    assert merger.feed(OUT, b"a\n" + b"z" * (1 << 20)) == b"a\n" + b"z" * (1 << 20)
    assert merger.end() == b""


def test_record_as_a_line() -> None:
    created = datetime(2026, 11, 20, 16, 4, 5, 123456).timestamp()
    assert format_record(Record("a.b", 30, created, "what")) == "2026-11-20 16:04:05.123 WARNING a.b: what\n"
    assert " Level 25 " in format_record(Record("a", 25, created, ""))


@pytest.mark.parametrize("created", [math.nan, math.inf, 1e300, -1e300])
def test_record_of_an_impossible_time(created: float) -> None:
    assert format_record(Record("a", 20, created, "m")) == f"{created} INFO a: m\n"
