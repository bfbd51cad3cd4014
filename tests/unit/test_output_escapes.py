"""What may reach the user's terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trx.output.escapes import EscapeFilter, neutralise

_pieces = st.sampled_from(
    [
        *(bytes([byte]) for byte in range(0x100)),
        *[b"\x1b[", b"\x1b[31m", b"\x1b[1;38;2;1;2;3m", b"\x1b[A", b"\x1b[2A", b"\x1b[K", b"\x1b[2J", b"\x1b[6n"],
        *[b"\x1b]0;title\x07", b"\x1b]52;c;aGk=\x1b\\", b"\x1bP", b"\x1bc", b"\xc2\x9b31m", b"\xe2\x96\x88", b"0" * 63],
    ]
)
_output = st.lists(st.one_of(_pieces, st.binary(max_size=6)), max_size=12).map(b"".join)
_harmless = re.compile(r"(?:[^\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]|\x1b\[(?:[0-9;:]*m|[0-9]*A|[0-2]?K))*")


def _filtered(*chunks: bytes) -> str:
    escape_filter = EscapeFilter()
    return "".join([*map(escape_filter.feed, chunks), escape_filter.end()])


@given(_output)
def test_nothing_forbidden_comes_through(data: bytes) -> None:
    assert _harmless.fullmatch(_filtered(data))


@given(_output, st.data())
def test_chunks_do_not_matter(data: bytes, draws: st.DataObject) -> None:
    cuts = sorted(draws.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    chunks = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert _filtered(*chunks) == _filtered(data)


@given(_output)
def test_every_byte_alone(data: bytes) -> None:
    assert _filtered(*(data[at : at + 1] for at in range(len(data)))) == _filtered(data)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_text_is_left_alone(text: str) -> None:
    assert _filtered(text.encode()) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_filtering_twice_is_filtering_once(text: str) -> None:
    assert neutralise(neutralise(text)) == neutralise(text)


@pytest.mark.parametrize(
    "kept",
    ["a\r\tb\b\n", "\x1b[m", "\x1b[0;1;38;5;200mred\x1b[0m", "\x1b[4:3m", "\x1b[A", "\x1b[12A", "\x1b[K", "\x1b[2K"],
)
def test_kept(kept: str) -> None:
    assert _filtered(kept.encode()) == kept


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"a\x1b[2Jb\x1b[6nc\x1b[?25ld\x1b[>4;2me\x1b[0cf\x1b[5Bg", "abcdefg"),
        (b"\x1b]0;title\x07", "␛]0;title␇"),
        (b"\x1b]52;c;aGk=\x1b\\", "␛]52;c;aGk=␛\\"),
        (b"\x1bc\x1bP\x1b", "␛c␛P␛"),
        (b"\x1b[31", "␛[31"),
        (b"\x1b\x1b[2J[2J", "␛[2J"),
        (b"\x1b[\x1b[2J2J", "␛[2J"),
        (b"\x1b[" + b"1" * 65 + b"J", "␛[" + "1" * 65 + "J"),
        (b"\x1b[99999A", ""),
        ("\x9b2J\x9d0;t\x9c".encode(), "\ufffd2J\ufffd0;t\ufffd"),
        (b"\x9b2J", "\ufffd2J"),
        (b"\x00\x05\x0e\x7f", "␀␅␎␡"),
        (b"\xff\xc3", "\ufffd\ufffd"),
    ],
)
def test_neutralised(data: bytes, shown: str) -> None:
    assert _filtered(data) == shown


def test_an_endless_sequence_is_not_held() -> None:
    escape_filter = EscapeFilter()
    assert escape_filter.feed(b"text\x1b[1") == "text"
    assert escape_filter.feed(b"1" * 1000) == "␛[" + "1" * 1001
    assert escape_filter.feed(b"\x1b[3") == ""
    assert escape_filter.feed(b"1mred") == "\x1b[31mred"
    assert escape_filter.end() == ""
