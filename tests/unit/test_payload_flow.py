"""The function and its arguments on their way to a host, as far as there is credit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trx import payload_flow
from trx.payload_flow import PayloadFlow
from trx_agent.protocol import messages, payload
from trx_agent.protocol.messages import CHUNK, WINDOWS, Kind
from trx_agent.protocol.payload import Pickled

WINDOW = WINDOWS[Kind.PAYLOAD]


class Wire:
    """Keeps what was sent, and sees that every byte comes in its turn."""

    def __init__(self, pickled: Pickled, chunk: int = CHUNK) -> None:
        self.chunk = chunk
        self.whole = b"".join(bytes(piece) for piece in pickled.encode())
        self.sent: list[bytes | memoryview] = []
        self.end = 0
        self.flow = PayloadFlow(pickled, self.send)

    def send(self, offset: int, body: bytes | memoryview) -> None:
        assert offset == self.end
        assert 0 < len(body) <= self.chunk
        self.sent.append(body)
        self.end += len(body)
        assert bytes(body) == self.whole[offset : self.end]


def pickled(*sizes: int) -> Pickled:
    return Pickled(b"p" * 100, tuple(memoryview(bytes([index % 256]) * size) for index, size in enumerate(sizes)))


def test_a_small_object_is_sent_at_once_and_in_one_piece() -> None:
    wire = Wire(payload.dumps((print, (1, 2), {})))
    assert wire.flow.size == len(wire.whole)
    assert wire.sent == []
    wire.flow.pump()
    assert [bytes(body) for body in wire.sent] == [wire.whole]
    wire.flow.pump()
    wire.flow.grant(1 << 40)
    assert len(wire.sent) == 1


def test_a_large_object_waits_for_credit() -> None:
    wire = Wire(pickled(3 * WINDOW))
    wire.flow.pump()
    assert wire.end == WINDOW
    wire.flow.pump()
    assert wire.end == WINDOW
    wire.flow.grant(WINDOW + 10)
    assert wire.end == WINDOW + 10
    wire.flow.grant(1 << 40)
    assert wire.end == wire.flow.size


def test_credit_is_never_taken_back() -> None:
    wire = Wire(pickled(3 * WINDOW))
    wire.flow.grant(2 * WINDOW)
    wire.flow.grant(5)
    assert wire.end == 2 * WINDOW
    wire.flow.grant(2 * WINDOW + 1)
    assert wire.end == 2 * WINDOW + 1


def test_large_buffers_are_not_copied() -> None:
    buffer = bytearray(2 * CHUNK)
    wire = Wire(Pickled(b"p", (memoryview(buffer),)))
    wire.flow.pump()
    views = [body for body in wire.sent if isinstance(body, memoryview)]
    assert sum(len(view) for view in views) == len(buffer)
    assert all(view.obj is buffer for view in views)


def test_many_small_buffers_are_put_together() -> None:
    wire = Wire(pickled(*[10] * 1000))
    wire.flow.pump()
    assert len(wire.sent) == 1
    assert wire.end == wire.flow.size


def test_one_object_flows_to_each_host_at_its_own_pace() -> None:
    both = pickled(2 * WINDOW)
    fast, slow = Wire(both), Wire(both)
    fast.flow.grant(1 << 40)
    slow.flow.pump()
    assert (fast.end, slow.end) == (fast.flow.size, WINDOW)
    slow.flow.grant(1 << 40)
    assert slow.end == fast.end


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 300), max_size=6), st.lists(st.integers(0, 400), max_size=20))
def test_whatever_the_sizes_everything_arrives_and_never_beyond_the_credit(sizes: list[int], steps: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload_flow, "CHUNK", 64)
        patch.setitem(messages.WINDOWS, Kind.PAYLOAD, 128)
        wire = Wire(pickled(*sizes), 64)
        credit = 128
        wire.flow.pump()
        for step in steps:
            assert wire.end == min(credit, wire.flow.size)
            credit += step
            wire.flow.grant(credit)
        wire.flow.grant(1 << 20)
    assert wire.end == wire.flow.size == len(wire.whole)
    assert b"".join(bytes(body) for body in wire.sent) == wire.whole
