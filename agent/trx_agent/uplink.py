"""The agent's socket: one encrypted connection to the launcher, and the poll that the agent's loop waits in."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import zmq

from trx_agent.protocol.bootstrap import Bootstrap
from trx_agent.protocol.link import Body, Link, Packet
from trx_agent.protocol.messages import AnyMessage

_BIGGEST = 16 << 20  # of one frame; somebody else may answer in the launcher's place
_BETWEEN_CONNECTIONS = 0.1  # seconds


class Uplink:
    """Messages to and from the launcher; delivery is `Link`'s business."""

    def __init__(self, bootstrap: Bootstrap, endpoint: str) -> None:
        self._beat = bootstrap.beat
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.curve_serverkey = bootstrap.keys.launcher_public
        self._socket.curve_publickey = bootstrap.keys.agent_public
        self._socket.curve_secretkey = bootstrap.keys.agent_secret
        self._socket.setsockopt(zmq.IPV6, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _BIGGEST)
        # Credit bounds what is under way, so ZeroMQ need not; a limit of its own would drop or block.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        )
        self._connections = 0
        self._connect_at = float("inf")
        self._endpoint = endpoint
        self._socket.connect(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._since = time.monotonic()
        self._link = Link(self._transmit, self._since)

    def watch(self, descriptor: int) -> None:
        self._poller.register(descriptor, zmq.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        self._poller.unregister(descriptor)

    def poll(self, patience: float) -> set[int]:
        """Waits until there is something to do, for `patience` seconds at the most; returns watched descriptors."""
        events = self._poller.poll(max(0, round(patience * 1000)))
        while self._monitor.poll(0):
            description, _ = self._monitor.recv_multipart()
            if int.from_bytes(description[:2], sys.byteorder) == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                # What came had been changed on the way. ZeroMQ makes no other connection then, or only seconds later.
                with contextlib.suppress(zmq.ZMQError):  # it has forgotten that connection
                    self._socket.disconnect(self._endpoint)
                self._connect_at = time.monotonic() + _BETWEEN_CONNECTIONS
                continue
            self._connections += 1
            if self._connections > 1:
                self._link.repeat(time.monotonic())
        return {source for source, _ in events if isinstance(source, int)}

    def receive(self) -> Iterator[tuple[AnyMessage, bytes]]:
        """All messages that have arrived."""
        while True:
            try:
                header, body = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = self._link.receive(header, time.monotonic())
            if message is not None:
                yield message, body

    def send(self, message: AnyMessage, body: Body = b"") -> None:
        self._link.send(message, time.monotonic(), body)

    def tick(self) -> None:
        now = time.monotonic()
        if now >= self._connect_at:
            self._connect_at = float("inf")
            self._socket.connect(self._endpoint)
        self._link.tick(now, self._beat)

    @property
    def silence(self) -> float:
        """Seconds since the launcher was last heard."""
        return time.monotonic() - self._link.last_heard

    @property
    def was_answered(self) -> bool:
        """Whether the launcher has ever been heard."""
        return self._link.last_heard > self._since

    @property
    def settled(self) -> bool:
        return self._link.settled

    def flush(self, patience: float) -> None:
        """Waits until everything is acknowledged, for `patience` seconds at the most."""
        deadline = time.monotonic() + patience
        while not self.settled and (left := deadline - time.monotonic()) > 0:
            self.poll(min(left, 0.1))
            for _ in self.receive():
                pass
            self.tick()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _transmit(self, packet: Packet) -> None:
        with contextlib.suppress(zmq.Again):  # the link sends it again
            self._socket.send_multipart([packet.header, packet.body], zmq.NOBLOCK, copy=len(packet.body) < 65536)
