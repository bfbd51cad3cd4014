"""The words of the wire: each comes back as it was sent, and nothing else is taken for one."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trx_agent.protocol import messages
from trx_agent.protocol.messages import (
    CHUNK,
    WINDOWS,
    AnyMessage,
    Beat,
    Broken,
    Bye,
    Credit,
    Data,
    DataInFile,
    Door,
    Drained,
    Ended,
    Envelope,
    Exited,
    Gone,
    Hello,
    Killed,
    Kind,
    Message,
    Preparation,
    Probe,
    Raised,
    Reached,
    Returned,
    Signal,
    Start,
    Stop,
    Stream,
    Up,
    decode,
    encode,
)

DOORS = (Door("10.0.0.1", 4001), Door("fe80::1%eth0", 65535))
START = Start(
    run=3,
    generation=0,
    ranks=(4, 5),
    environments=({"RANK": "4"}, {"RANK": "5", "NAME": "é\udcff".encode(errors="replace").decode()}),
    payload=1 << 40,
    backend="cpu:gloo,cuda:nccl",
    timeout=600.0,
    import_paths=("/home/ada/src", ""),
    log_level=20,
    preparation=Preparation({"PASSWORD": "swordfish"}, "", ()),
    rendezvous=DOORS[1],
    first_gpu=2,
)

SAMPLES: list[AnyMessage] = [
    Beat(),
    *[Data(Stream(1, 0, kind), 1 << 40) for kind in Kind],
    DataInFile(Stream(1, 0, Kind.VALUE), 1 << 40, 1 << 20, "/tmp/trx/run-1/0/value"),
    Credit(Stream(0, -1, Kind.AGENT), 0),
    Hello(8, 8, 64, DOORS, 4711),
    Hello(1, 0, 1, (), 1),
    Reached(DOORS),
    Reached(()),
    Up(1, 100, (101, 102)),
    Ended(1, 0, 101, Returned(), 1 << 33, ""),
    Ended(1, 0, 101, Raised("ValueError: „ungültig“\x00"), 10, "last\nlines"),
    Ended(1, 0, 101, Exited(0), 0, ""),
    Ended(1, 0, 101, Killed(9, True), 0, ""),
    Gone(1, ()),
    Gone(1, ("pid 5 (python, state disk-sleep)",)),
    Drained(1),
    Broken("importing torch", "there is none"),
    Probe(DOORS, bytes(range(256))),
    START,
    Stop(1, 0.5),
    Signal(1, 10),
    Bye(),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_as_it_was_sent(message: AnyMessage) -> None:
    envelope = Envelope(7, 1 << 40, message)
    back = decode(encode(envelope))
    assert back == envelope
    assert type(back.message) is type(message)


def test_every_kind_of_message_is_tried() -> None:
    assert {type(message) for message in SAMPLES} == set(get_args(AnyMessage))
    tags = [each.__struct_config__.tag for each in get_args(AnyMessage)]
    assert len(set(tags)) == len(tags)


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Drained(1).run = 2  # type: ignore[misc]


def _packed(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"hello",
        _packed(1, 0),  # no message
        _packed(1, 0, ["Nonsense"]),
        _packed(1, 0, []),
        _packed(1, 0, None),
        _packed(1, 0, ["Stop", 1]),  # a field missing
        _packed(1, 0, ["Stop", 1, 5.0, 0]),  # one too many
        _packed(1, 0, ["Stop", "1", 5.0]),  # of another type
        _packed(1, 0, ["Data", [1, 0, "smell"], 0]),  # an unknown kind of stream
        _packed("1", 0, ["Beat"]),
        _packed(1, 0, ["Ended", 1, 0, 1, ["Beat"], 0, ""]),  # a message, but no ending
        encode(Envelope(1, 0, Beat())) + b"\x00",
        encode(Envelope(1, 0, START))[:-1],
    ],
)
def test_what_is_no_message_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(header)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=40))
def test_noise_is_refused_and_breaks_nothing(noise: bytes) -> None:
    try:
        envelope = decode(noise)
    except ValueError:
        return
    assert isinstance(envelope.message, Message)


def test_a_start_is_given_other_environments_and_stays_as_it_was() -> None:
    other = START.with_environments(({"A": "1"}, {"A": "2"}))
    assert other.environments == ({"A": "1"}, {"A": "2"})
    assert START.environments[0] == {"RANK": "4"}
    assert other.with_environments(START.environments) == START


def test_every_stream_has_a_window_that_a_chunk_fits_in() -> None:
    assert set(WINDOWS) == set(Kind)
    assert all(window >= CHUNK for window in WINDOWS.values())


def test_the_wire_has_a_version() -> None:
    assert isinstance(messages.VERSION, int)
    assert messages.VERSION >= 1
