"""Merging streams at line ends, and records as lines."""

from __future__ import annotations

import math
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trx.output.lines import LineMerger, LineSplitter, format_record
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


# ---- lines as text --------------------------------------------------------------------------------------------------

_printable = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8)


def _split(chunks: list[bytes], splitter: LineSplitter) -> list[str]:
    return [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.end())


@given(st.data(), st.lists(st.tuples(_printable, st.sampled_from(["\n", "\r\n"])), max_size=6), _printable)
def test_text_comes_out_line_by_line_however_it_is_cut(
    data: st.DataObject, lines: list[tuple[str, str]], rest: str
) -> None:
    printed = "".join(line + end for line, end in lines) + rest
    expected = [line for line, _ in lines] + ([rest] if rest else [])
    assert _split(data.draw(_chunked(printed.encode())), LineSplitter()) == expected


@given(st.data(), st.binary(max_size=80))
def test_anything_comes_out_the_same_however_it_is_cut(data: st.DataObject, printed: bytes) -> None:
    assert _split(data.draw(_chunked(printed)), LineSplitter()) == _split([printed], LineSplitter())


@given(st.binary(max_size=80))
def test_nothing_that_comes_out_could_drive_a_terminal_or_is_two_lines(printed: bytes) -> None:
    for line in _split([printed], LineSplitter()):
        assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f]", line)


@pytest.mark.parametrize(
    ("printed", "lines"),
    [
        (b"\r 10%\r 20%\r100%\ndone\n", ["100%", "done"]),
        (b"\r 10%\r 20%", [" 20%"]),
        (b"\r 10%\r 20%\r", [" 20%"]),
        (b"\n\n", ["", ""]),
        (b"twice\r\r\n", ["twice"]),
        (b"\r\r\r", []),
        (b"\x1b[31mred\x1b[0m \x1b]0;t\x07\x00\n", ["red ␛]0;t␇␀"]),
        (b"no \xff UTF-8\n", ["no \ufffd UTF-8"]),
        ("half é".encode()[:-1], ["half \ufffd"]),
        (b"tab\tkept\n", ["tab\tkept"]),
    ],
)
def test_lines_of_difficult_output(printed: bytes, lines: list[str]) -> None:
    assert _split([printed], LineSplitter()) == lines
    assert _split([printed[at : at + 1] for at in range(len(printed))], LineSplitter()) == lines


@given(st.data(), st.integers(1, 100), st.integers(1, 9))
def test_a_long_line_comes_in_pieces_as_long_as_may_be(data: st.DataObject, length: int, longest: int) -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(length))
    pieces = _split(data.draw(_chunked(text.encode() + b"\nnext\n")), LineSplitter(longest))
    assert "".join(pieces) == text + "next"
    assert max(map(len, pieces)) <= longest
    assert len(pieces) == -(-length // longest) + -(-4 // longest)


def test_an_endless_line_is_held_as_text_up_to_the_limit_only() -> None:
    splitter = LineSplitter()
    pieces = [len(piece) for _ in range(40) for piece in splitter.feed(b"x" * 10_000)]
    assert pieces == [64 << 10] * 6
    assert [len(piece) for piece in splitter.end()] == [400_000 - 6 * (64 << 10)]
    bar = LineSplitter()
    for _ in range(1000):
        assert list(bar.feed(b"\r" + b"#" * 5_000)) == []  # what was drawn over is forgotten
    assert list(bar.end()) == ["#" * 5_000]


def test_a_record_with_a_traceback_as_lines() -> None:
    assert format_record(Record("a", 40, 0.0, "what", "Traceback\n  ...")).endswith(
        " ERROR a: what\nTraceback\n  ...\n"
    )
