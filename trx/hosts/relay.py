"""Carries connections that arrive at a host's port, through SSH, to a port of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trx.hosts.sockets import hang_up
from trx.hosts.stream import Stream

_CHUNK = 1 << 18
_PATIENCE = 2.0
_CONNECT_TIMEOUT = 10.0


class Relays:
    """All connections that are being carried for one host."""

    def __init__(self) -> None:
        self._ports: dict[int, int] = {}
        self._lock = threading.Lock()
        self._running: set[_Relay] = set()
        self._closed = False

    def lead(self, host_port: int, port: int) -> None:
        """Has what arrives at the host's `host_port` go to `port` of this machine's loopback."""
        self._ports[host_port] = port

    def accept(self, channel: Any, _origin: tuple[str, int], server: tuple[str, int]) -> None:
        """Called by paramiko, in its own thread, for every connection that arrives at the host."""
        port = self._ports.get(server[1])
        with self._lock:
            if port is None or self._closed:  # nobody has been told of this port yet, or any more
                channel.close()
                return
            relay = _Relay(port, Stream(channel), self._forget)
            self._running.add(relay)
            relay.start()

    def close(self) -> None:
        """Ends all of them."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for relay in running:
            relay.cut()
        for relay in running:
            relay.join(_PATIENCE)

    def _forget(self, relay: _Relay) -> None:
        with self._lock:
            self._running.discard(relay)


class _Relay(threading.Thread):
    """One connection: this thread carries what comes from the host, a second one what goes there."""

    def __init__(self, port: int, stream: Stream, on_end: Callable[[_Relay], None]) -> None:
        super().__init__(name="trx-relay", daemon=True)
        self._port, self._stream, self._on_end = port, stream, on_end
        self._local = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._received_all = threading.Event()
        self._sender = threading.Thread(target=self._send, name="trx-relay-sender", daemon=True)

    def cut(self) -> None:
        """Ends it, whatever is under way."""
        hang_up(self._local)

    def run(self) -> None:
        try:
            self._connect()
            self._sender.start()
            self._receive()
        except OSError:
            self._close_stream()
        self._stream.wait()  # closed by the sender, or from the other side
        hang_up(self._local)
        if self._sender.ident is not None:
            self._sender.join()
        self._on_end(self)

    def _connect(self) -> None:
        self._local.settimeout(_CONNECT_TIMEOUT)
        self._local.connect(("127.0.0.1", self._port))
        self._local.settimeout(None)
        self._local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _receive(self) -> None:
        """From the host, until it has no more to say."""
        try:
            while data := self._stream.read():
                self._local.sendall(data)
            self._local.shutdown(socket.SHUT_WR)
        finally:
            self._received_all.set()

    def _send(self) -> None:
        """To the host, until this side has no more to say; closes the channel when both directions have ended."""
        with suppress(OSError):
            while data := self._local.recv(_CHUNK):
                self._stream.write(data)
            self._stream.end_output()
            self._received_all.wait()
        self._close_stream()

    def _close_stream(self) -> None:
        with suppress(OSError):
            self._stream.close()
