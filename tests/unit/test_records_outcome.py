"""What workers leave behind: logging records, and exceptions in words."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trx_agent.protocol import outcome, payload, records
from trx_agent.protocol.outcome import LONGEST_TEXT, Remade, WorkerError
from trx_agent.protocol.records import LONGEST, Reader, Record

ERROR = WorkerError("calling the function", "torch.OutOfMemoryError", "no\nmemory “left”", "Traceback ...")
RECORDS = st.builds(
    Record,
    st.text(max_size=5),
    st.integers(0, 50),
    st.floats(0, 2e9),
    st.text(max_size=300),
)

# ---- records --------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(RECORDS, max_size=8), st.lists(st.integers(1, 200), min_size=1, max_size=8))
def test_records_come_back_however_their_stream_is_cut(sent: list[Record], cuts: list[int]) -> None:
    data = b"".join(map(records.encode, sent))
    reader, received, turn = Reader(), [], 0
    while data:
        size = cuts[turn % len(cuts)]
        received += reader.feed(data[:size])
        data, turn = data[size:], turn + 1
    assert received == sent


def test_a_record_comes_out_with_its_last_byte() -> None:
    data = records.encode(Record("root", 20, 1.5, "hello"))
    reader = Reader()
    for index in range(len(data) - 1):
        assert reader.feed(data[index : index + 1]) == []
    assert reader.feed(data[-1:]) == [Record("root", 20, 1.5, "hello")]


def test_the_longest_record_is_read() -> None:
    record = Record("root", 20, 1.5, "\U0001f600" * LONGEST)
    assert Reader().feed(records.encode(record)) == [record]


def test_what_is_too_long_to_be_a_record_is_refused_before_it_is_there() -> None:
    with pytest.raises(ValueError, match="a log record of 4294967295 bytes"):
        Reader().feed(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("body", [b"", b"\xc1", msgspec.msgpack.encode(["root", "20", 1.5, ""]), b"\x00\x00"])
def test_what_is_no_record_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Reader().feed(len(body).to_bytes(4, "big") + body)


# ---- outcomes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("pickle", [b"", b"a pickle"])
def test_an_exception_in_words_comes_back_with_the_place_of_its_pickle(kind: type, pickle: bytes) -> None:
    data = kind(outcome.frame(ERROR) + pickle)
    error, start = outcome.unframe(data)
    assert error == ERROR
    assert bytes(data[start:]) == pickle


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, len(outcome.frame(ERROR)) - 1])
def test_words_that_are_cut_off_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="cut off"):
        outcome.unframe(outcome.frame(ERROR)[:size])


@pytest.mark.parametrize("body", [b"", b"\x80", b"\xc1"])
def test_words_that_make_no_sense_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        outcome.unframe(len(body).to_bytes(4, "big") + body)


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        ("no", "ValueError: no"),
        ("", "ValueError"),
        (" \n ", "ValueError"),
        ("\n first\nsecond", "ValueError: first"),
        ("x" * 10_000, ("ValueError: " + "x" * 10_000)[:500]),
    ],
)
def test_the_summary_is_one_line(message: str, summary: str) -> None:
    assert WorkerError("calling the function", "ValueError", message, "").summary == summary


@pytest.mark.parametrize("length", [0, 1, LONGEST_TEXT])
def test_a_text_of_sensible_length_stays_as_it_is(length: int) -> None:
    assert outcome.cut("x" * length) == "x" * length


@pytest.mark.parametrize("length", [LONGEST_TEXT + 1, LONGEST_TEXT * 3 + 1])
def test_a_very_long_text_keeps_its_beginning_and_its_end(length: int) -> None:
    text = "b" + "m" * (length - 2) + "e"
    cut = outcome.cut(text)
    assert (cut[0], cut[-1]) == ("b", "e")
    assert f"{length - LONGEST_TEXT} characters left out" in cut
    assert len(cut) < LONGEST_TEXT + 100


class Several(ValueError):
    """Cannot be unpickled: its `args` are not what its __init__ wants."""

    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code


def test_an_exception_whose_init_wants_other_arguments_is_made_again_without_it() -> None:
    pickled = payload.dumps(Several(3, "home"))
    with pytest.raises(TypeError, match="where"):
        payload.loads(pickled.pickle, pickled.buffers)
    pickled = payload.dumps(Remade(Several(3, "home")))
    error = payload.loads(pickled.pickle, pickled.buffers)
    assert type(error) is Several
    assert (str(error), error.args, error.code) == ("3 at home", ("3 at home",), 3)
