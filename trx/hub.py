"""The launcher's socket: frames ⇄ messages, keys, and who is who.

One ROUTER socket serves all agents of a launch. CURVE encrypts; the authenticator below lets in exactly the keys that
were made for this launch, and names each connection after the agent that its key belongs to. What a peer says about
itself is never asked for.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import zmq
from zmq.utils import z85

from trx_agent.protocol.bootstrap import Keys
from trx_agent.protocol.link import Body, Link, Packet
from trx_agent.protocol.messages import AnyMessage

_ZAP = "inproc://zeromq.zap.01"  # where libzmq asks, by ZeroMQ's RFC 27
_DOMAIN = b"trx"
_BIGGEST = 4 << 20  # of one frame; before authentication, a stranger's frame costs memory
_HANDSHAKE = 5000  # milliseconds


@dataclass
class _Peer:
    link: Link
    address: bytes | None = None  # ZeroMQ's name of the agent's present connection
    dropped: bool = False


class HubError(Exception):
    """An agent broke the protocol."""

    def __init__(self, agent: int, reason: str) -> None:
        super().__init__(reason)
        self.agent = agent


class Hub:
    """Messages to and from the agents of one launch. To be used by one thread, but for `wake`.

    Args:
        agents: How many.
        beat: Seconds of silence after which a sign of life is sent.
    """

    def __init__(self, agents: int, beat: float) -> None:
        self._beat = beat
        self._public, secret = zmq.curve_keypair()
        pairs = [zmq.curve_keypair() for _ in range(agents)]
        self._pairs = pairs
        self._agents = {public: index for index, (public, _) in enumerate(pairs)}
        self._context = zmq.Context()
        self._authenticator = self._context.socket(zmq.REP)
        self._authenticator.bind(_ZAP)  # before the first bind of the other, so that nobody slips in
        self._socket = self._context.socket(zmq.ROUTER)
        self._configure(secret)
        self._endpoints: dict[str, str] = {}
        self._peers = [self._make_peer(index) for index in range(agents)]
        # `wake` must not write to a descriptor that is somebody else's by now; a signal's handler may nest it.
        self._closing = threading.RLock()
        self._waking = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poller = zmq.Poller()
        for source in (self._socket, self._authenticator, self._waking):
            self._poller.register(source, zmq.POLLIN)

    def keys(self, agent: int) -> Keys:
        public, secret = self._pairs[agent]
        return Keys(self._public, public, secret)

    def listen(self, address: str) -> str:
        """Binds a port of its own on one of this machine's addresses, once, and returns the endpoint."""
        if address not in self._endpoints:
            host = f"[{address}]" if ":" in address else address
            port = self._socket.bind_to_random_port(f"tcp://{host}", min_port=49152, max_port=65535)
            self._endpoints[address] = f"tcp://{host}:{port}"
        return self._endpoints[address]

    def wake(self) -> None:
        """Makes `poll` return at once. May be called from any thread, and after `close`."""
        with self._closing:
            if self._waking >= 0:
                os.eventfd_write(self._waking, 1)

    def poll(self, patience: float) -> None:
        """Waits until there is something to do, for `patience` seconds at the most."""
        ready = dict(self._poller.poll(max(0, round(patience * 1000))))
        if self._waking in ready:
            os.eventfd_read(self._waking)
        while self._authenticator.poll(0):
            self._authenticate()

    def receive(self) -> Iterator[tuple[int, AnyMessage, memoryview]]:
        """All messages that have arrived, each with the index of the agent that it is from.

        Raises:
            HubError: Where an agent broke the protocol.
        """
        while True:
            try:
                address, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            agent = int(frames[0].get("User-Id"))
            peer = self._peers[agent]
            is_new = peer.address not in (None, address.bytes)
            peer.address = address.bytes
            try:
                header, body = frames
                message = peer.link.receive(header.bytes, time.monotonic())
            except ValueError as error:
                raise HubError(agent, f"it sent what is no message: {error}") from error
            if is_new:
                peer.link.repeat(time.monotonic())
            if message is not None:
                yield agent, message, body.buffer

    def send(self, agent: int, message: AnyMessage, body: Body = b"") -> None:
        self._peers[agent].link.send(message, time.monotonic(), body)

    def tick(self) -> None:
        """To be called at least each half a second: signs of life, and repetitions."""
        now = time.monotonic()
        for peer in self._peers:
            if peer.address is not None and not peer.dropped:
                peer.link.tick(now, self._beat)

    def silence(self, agent: int) -> float | None:
        """Seconds since the agent was last heard; None where it never was."""
        peer = self._peers[agent]
        return None if peer.address is None else time.monotonic() - peer.link.last_heard

    def drop(self, agent: int) -> None:
        """Sends nothing more to an agent that counts as lost: it shall notice."""
        self._peers[agent].dropped = True

    def close(self, linger: float) -> None:
        """Sends what is still to be sent, for `linger` seconds at the most."""
        self._context.destroy(linger=round(linger * 1000))
        with self._closing:
            os.close(self._waking)
            self._waking = -1

    def _configure(self, secret: bytes) -> None:
        socket = self._socket
        socket.curve_secretkey = secret
        socket.curve_publickey = self._public
        socket.curve_server = True
        socket.zap_domain = _DOMAIN
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, _BIGGEST)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Credit bounds what is under way, so ZeroMQ need not; a limit of its own would drop or block.
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)

    def _make_peer(self, agent: int) -> _Peer:
        return _Peer(Link(lambda packet: self._transmit(agent, packet), time.monotonic()))

    def _transmit(self, agent: int, packet: Packet) -> None:
        peer = self._peers[agent]
        if peer.address is None or peer.dropped:
            return  # the link sends it again
        with contextlib.suppress(zmq.Again, zmq.ZMQError):
            frames = [peer.address, packet.header, packet.body]
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=len(packet.body) < 65536)

    def _authenticate(self) -> None:
        """Answers one request of libzmq: may the holder of this key come in, and as whom?"""
        version, request, domain, _address, _identity, mechanism, *credentials = self._authenticator.recv_multipart()
        agent = None
        if domain == _DOMAIN and mechanism == b"CURVE" and len(credentials) == 1:
            agent = self._agents.get(z85.encode(credentials[0]))
        if agent is None:
            answer = [version, request, b"400", b"unknown key", b"", b""]
        else:
            answer = [version, request, b"200", b"OK", str(agent).encode(), b""]
        self._authenticator.send_multipart(answer)
