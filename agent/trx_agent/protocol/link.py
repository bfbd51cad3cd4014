"""Delivery: every message arrives once and in order, though connections come and go beneath.

ZeroMQ reconnects by itself, but what was under way when a connection broke is lost, silently. So each side numbers its
messages and keeps them until the other side has said, in the header of whatever it sends next, that it received them.
What is unacknowledged when there is a new connection is sent again; what arrives twice, or after a gap, is dropped.
(This is the "go-back-N" of textbooks.) Memory is bounded because senders of `Data` wait for credit.

A `Beat` has number 0: it is neither kept nor repeated, but carries an acknowledgement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from trx_agent.protocol.decoding import Malformed
from trx_agent.protocol.messages import AnyMessage, Beat, Envelope, decode, encode

Body = bytes | bytearray | memoryview


_MOST_UNACKNOWLEDGED = 64
"""Messages after which the sender is told that they arrived, so that it need not keep them."""


@dataclass(frozen=True)
class Packet:
    """Two frames, ready to be sent."""

    header: bytes
    body: Body = b""


@dataclass(frozen=True)
class _Kept:
    number: int
    message: AnyMessage
    body: Body


class Link:
    """One side of the conversation between the launcher and one agent. Pure: the caller sends and tells the time.

    Args:
        transmit: Hands a packet to the socket, which may or may not deliver it.
        now: Seconds, on any monotonic clock.
        patience: Seconds without progress after which unacknowledged messages are sent again even so, should a new
            connection have gone unnoticed; each time it takes twice as long, since the way may just be slow.
    """

    def __init__(self, transmit: Callable[[Packet], None], now: float, patience: float = 20.0) -> None:
        self._transmit = transmit
        self._patience = self._shortest_patience = patience
        self._sent = 0
        self._received = 0
        self._acknowledged = 0  # what the other side has been told that we received
        self._kept: deque[_Kept] = deque()
        self._progress = now
        self.last_heard = now
        self.last_sent = now

    def send(self, message: AnyMessage, now: float, body: Body = b"") -> None:
        if isinstance(message, Beat):
            self._put(0, message, b"", now)
            return
        self._sent += 1
        if not self._kept:
            self._progress = now
        self._kept.append(_Kept(self._sent, message, body))
        self._put(self._sent, message, body, now)

    def receive(self, header: bytes, now: float) -> AnyMessage | None:
        """Returns the message of an arrived packet, or None where it is a beat, a repetition, or follows a gap.

        Raises:
            Malformed: Where the header is malformed, or acknowledges what was never sent.
        """
        envelope = decode(header)
        if envelope.received > self._sent:
            raise Malformed(f"message {envelope.received} acknowledged, {self._sent} sent")
        self.last_heard = now
        while self._kept and self._kept[0].number <= envelope.received:
            self._kept.popleft()
            self._progress = now
            self._patience = self._shortest_patience
        if envelope.number == self._received + 1:
            self._received += 1
            if self._received - self._acknowledged >= _MOST_UNACKNOWLEDGED:
                self.send(Beat(), now)
            return envelope.message
        return None

    def tick(self, now: float, beat: float) -> None:
        """To be called often: repeats what is overdue, and beats where nothing was sent for `beat` seconds."""
        if self._kept and now - self._progress >= self._patience:
            self._patience *= 2
            self.repeat(now)
        if now - self.last_sent >= beat:
            self.send(Beat(), now)

    def repeat(self, now: float) -> None:
        """Sends again what may have been lost with the last connection."""
        self._progress = now
        for kept in self._kept:
            self._put(kept.number, kept.message, kept.body, now)

    @property
    def settled(self) -> bool:
        """Whether everything that was sent has been acknowledged."""
        return not self._kept

    def _put(self, number: int, message: AnyMessage, body: Body, now: float) -> None:
        self.last_sent = now
        self._acknowledged = self._received
        self._transmit(Packet(encode(Envelope(number, self._received, message)), body))
