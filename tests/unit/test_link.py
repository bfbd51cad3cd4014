"""Delivery: two links joined by a wire that loses, repeats and delays what it is given."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trx_agent.protocol.link import Link, Packet
from trx_agent.protocol.messages import Beat, Credit, Data, Envelope, Kind, Message, Stop, Stream, decode, encode

PATIENCE, BEAT = 3.0, 1.0
LOG = Stream(1, 0, Kind.STDOUT)


class Side:
    """A link with a socket that keeps what it is given, and a user who keeps what arrives."""

    def __init__(self) -> None:
        self.wire: deque[Packet] = deque()
        self.old: list[Packet] = []
        self.heard: list[Message] = []
        self.link = Link(self.wire.append, 0.0, PATIENCE)

    def envelopes(self) -> list[Envelope]:
        return [decode(packet.header) for packet in self.wire]

    def numbers(self) -> list[int]:
        return [envelope.number for envelope in self.envelopes()]

    def hear(self, packet: Packet, now: float) -> None:
        message = self.link.receive(packet.header, now)
        if message is not None:
            self.heard.append(message)


def stop(number: int) -> Stop:
    return Stop(number, 0.0)


def deliver(sender: Side, receiver: Side, now: float) -> None:
    while sender.wire:
        receiver.hear(sender.wire.popleft(), now)


# ---- one side -------------------------------------------------------------------------------------------------------


def test_messages_are_numbered_from_1_and_sent_at_once() -> None:
    side = Side()
    for number in (1, 2, 3):
        side.link.send(stop(number), 0.0)
    assert side.envelopes() == [Envelope(number, 0, stop(number)) for number in (1, 2, 3)]


def test_bodies_travel_beside_their_headers_uncopied() -> None:
    side = Side()
    body = memoryview(bytearray(b"x" * 1000))
    side.link.send(Data(LOG, 5), 0.0, body)
    assert side.wire[0].body is body
    side.link.tick(PATIENCE, BEAT)
    assert side.wire[1].body is body


def test_a_beat_has_no_number_and_is_not_repeated() -> None:
    side = Side()
    side.link.send(Beat(), 0.0)
    assert side.numbers() == [0]
    assert side.link.settled
    side.link.tick(BEAT / 2, BEAT)
    assert len(side.wire) == 1


def test_a_beat_is_sent_where_nothing_else_was() -> None:
    side = Side()
    side.link.tick(BEAT - 0.1, BEAT)
    assert not side.wire
    side.link.tick(BEAT, BEAT)
    assert side.numbers() == [0]
    side.link.send(stop(1), BEAT + 0.5)
    side.link.tick(2 * BEAT, BEAT)
    assert side.numbers() == [0, 1]


def test_a_beat_is_for_the_link_and_not_for_its_user() -> None:
    side = Side()
    assert side.link.receive(encode(Envelope(0, 0, Beat())), 7.0) is None
    assert side.link.last_heard == 7.0


def test_many_messages_are_acknowledged_before_the_next_beat() -> None:
    side = Side()
    for number in range(1, 64):
        side.link.receive(encode(Envelope(number, 0, stop(number))), 0.0)
    side.link.tick(0.1, BEAT)
    assert not side.wire
    side.link.receive(encode(Envelope(64, 0, stop(64))), 0.1)
    side.link.tick(0.2, BEAT)
    assert [(each.number, each.received) for each in side.envelopes()] == [(0, 64)]
    side.link.tick(0.3, BEAT)
    assert len(side.wire) == 1


def test_every_message_carries_an_acknowledgement() -> None:
    side = Side()
    side.link.receive(encode(Envelope(1, 0, stop(1))), 0.0)
    side.link.send(stop(9), 0.0)
    assert side.envelopes() == [Envelope(1, 1, stop(9))]


def test_what_is_not_acknowledged_is_sent_again_in_order_and_with_the_present_acknowledgement() -> None:
    side = Side()
    for number in (1, 2, 3):
        side.link.send(stop(number), 0.0)
    side.link.receive(encode(Envelope(1, 1, stop(7))), 1.0)
    side.wire.clear()
    side.link.tick(1.0 + PATIENCE - 0.1, 100.0)
    assert not side.wire
    side.link.tick(1.0 + PATIENCE, 100.0)
    assert side.envelopes() == [Envelope(2, 1, stop(2)), Envelope(3, 1, stop(3))]
    side.link.tick(1.0 + PATIENCE + 0.1, 100.0)
    assert len(side.wire) == 2
    side.link.tick(1.0 + 2 * PATIENCE, 100.0)
    assert len(side.wire) == 2  # the way may just be slow: the next time takes longer
    side.link.tick(1.0 + 3 * PATIENCE, 100.0)
    assert len(side.wire) == 4


def test_what_is_not_acknowledged_is_sent_again_at_once_on_a_new_connection() -> None:
    side = Side()
    side.link.send(stop(1), 0.0)
    side.wire.clear()
    side.link.repeat(0.1)
    assert side.envelopes() == [Envelope(1, 0, stop(1))]


def test_patience_begins_with_the_first_message_that_is_not_acknowledged() -> None:
    side = Side()
    side.link.send(stop(1), 100.0)
    side.link.tick(100.0 + PATIENCE - 0.1, 1000.0)
    assert side.numbers() == [1]


def test_a_link_is_settled_when_everything_is_acknowledged() -> None:
    side = Side()
    settled = [side.link.settled]
    side.link.send(stop(1), 0.0)
    side.link.send(stop(2), 0.0)
    for received in (0, 1, 2):
        side.link.receive(encode(Envelope(0, received, Beat())), 0.0)
        settled.append(side.link.settled)
    assert settled == [True, False, False, True]


def test_repetitions_and_what_follows_a_gap_are_dropped() -> None:
    side = Side()
    for number in (1, 1, 3, 2, 1, 3):
        side.hear(Packet(encode(Envelope(number, 0, stop(number)))), 0.0)
    assert side.heard == [stop(1), stop(2), stop(3)]


def test_an_acknowledgement_of_what_was_never_sent_is_refused() -> None:
    side = Side()
    side.link.send(stop(1), 0.0)
    with pytest.raises(ValueError, match="message 2 acknowledged, 1 sent"):
        side.link.receive(encode(Envelope(1, 2, stop(1))), 5.0)
    assert side.link.last_heard == 0.0
    assert not side.link.settled


@pytest.mark.parametrize("header", [b"", b"\x00", b"hello", encode(Envelope(1, 0, Beat()))[:-1]])
def test_a_malformed_header_is_refused(header: bytes) -> None:
    side = Side()
    with pytest.raises(ValueError, match=r"."):
        side.link.receive(header, 5.0)
    assert side.link.last_heard == 0.0


def test_an_old_acknowledgement_takes_nothing_back() -> None:
    side = Side()
    side.link.send(stop(1), 0.0)
    side.link.receive(encode(Envelope(0, 1, Beat())), 0.0)
    side.link.receive(encode(Envelope(0, 0, Beat())), 0.0)
    assert side.link.settled


# ---- two sides ------------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_costs_nothing() -> None:
    ours, theirs = Side(), Side()
    for number in range(10):
        ours.link.send(stop(number), 0.0)
    for _ in range(4):
        theirs.hear(ours.wire.popleft(), 0.0)
    ours.wire.clear()  # the connection breaks
    theirs.link.tick(BEAT, BEAT)
    deliver(theirs, ours, BEAT)
    ours.link.tick(BEAT + PATIENCE, BEAT)
    assert ours.numbers()[:6] == [5, 6, 7, 8, 9, 10]
    deliver(ours, theirs, BEAT + PATIENCE)
    assert theirs.heard == [stop(number) for number in range(10)]


def heal(sides: tuple[Side, Side], now: float, rounds: int = 20) -> None:
    for _ in range(rounds):
        now += 1.0
        for mine, other in (sides, sides[::-1]):
            mine.link.tick(now, BEAT)
            deliver(mine, other, now)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 5)),
        st.tuples(st.just("carry"), st.integers(0, 1), st.integers(1, 5)),
        st.tuples(st.just("again"), st.integers(0, 1), st.integers(0, 100)),  # a packet that was delivered before
        st.tuples(st.just("break"), st.integers(0, 1), st.integers(0, 0)),  # all that is under way, both ways, is lost
        st.tuples(st.just("lose"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.integers(0, 1), st.integers(1, 8)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_every_message_arrives_once_and_in_order_once_the_wire_heals(steps: list[tuple[str, int, int]]) -> None:
    sides = Side(), Side()
    said: tuple[list[Message], list[Message]] = [], []
    now = 0.0
    for what, who, count in steps:
        mine, other = sides[who], sides[1 - who]
        match what:
            case "send":
                for _ in range(count):
                    said[who].append(Credit(LOG, len(said[who])))
                    mine.link.send(said[who][-1], now)  # type: ignore[arg-type]  # a Credit
            case "carry":
                for _ in range(min(count, len(mine.wire))):
                    mine.old.append(mine.wire.popleft())
                    other.hear(mine.old[-1], now)
            case "again" if mine.old:
                other.hear(mine.old[count % len(mine.old)], now)
            case "break":
                mine.wire.clear()
                other.wire.clear()
            case "lose":
                for _ in range(min(count, len(mine.wire))):
                    mine.wire.popleft()
            case "wait":
                for _ in range(count):
                    now += 0.5
                    mine.link.tick(now, BEAT)
                    other.link.tick(now, BEAT)
        for side, words in ((sides[0], said[1]), (sides[1], said[0])):
            assert side.heard == words[: len(side.heard)]
    heal(sides, now)
    assert sides[0].heard == said[1]
    assert sides[1].heard == said[0]
    assert sides[0].link.settled
    assert sides[1].link.settled


def test_a_wire_that_loses_two_batches_of_three_does_not_keep_a_long_talk_from_ending() -> None:
    ours, theirs = Side(), Side()
    count, now = 500, 0.0
    for number in range(count):
        ours.link.send(stop(number), now)
    turns = 0
    while not ours.link.settled:
        turns += 1
        now += 0.5
        ours.link.tick(now, BEAT)
        theirs.link.tick(now, BEAT)
        for mine, other in ((ours, theirs), (theirs, ours)):
            if turns % 3 == 0:
                deliver(mine, other, now)
            else:
                mine.wire.clear()
        assert turns < 100
    assert theirs.heard == [stop(number) for number in range(count)]
