"""Makes paramiko's transports: bounded, silent, and telling what paramiko itself would drop.

paramiko ignores the signal that ended a remote program (`exit-signal`) and keeps for its log why a gateway could not
connect any further. Both are read here, from the messages as they arrive.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

_CHANNEL_OPEN_FAILURE, _CHANNEL_REQUEST = 92, 98
_UNKNOWN_SIGNAL = 255
_KEEPALIVE = 15
_PATIENCE = 2.0
_LOGGER = "trx.paramiko"


class Tunnel:
    """A channel to the next hop, or a program's socket, in the place of a connection that the kernel watches.

    paramiko closes its socket in its own thread, where an error would end in a traceback on the terminal; and closing a
    channel of a connection that has just been lost is such an error.

    Attributes:
        heard: When something last came out of it, by the monotonic clock.
    """

    def __init__(self, carrier: Any) -> None:
        self._carrier = carrier
        self.heard = time.monotonic()

    def settimeout(self, timeout: float | None) -> None:
        self._carrier.settimeout(timeout)

    def recv(self, size: int) -> bytes:
        data: bytes = self._carrier.recv(size)
        self.heard = time.monotonic()
        return data

    def send(self, data: bytes) -> int:
        sent: int = self._carrier.send(data)
        return sent

    def close(self) -> None:
        import paramiko

        with suppress(OSError, EOFError, paramiko.SSHException):
            self._carrier.close()

    @property
    def _closed(self) -> bool:
        """Read by paramiko, for which it belongs to a socket."""
        return bool(self._carrier._closed)


class Transport(Protocol):
    """What is used of `paramiko.Transport`."""

    open_failure: str
    """Why a channel could not be opened, in the server's own words."""

    def open_session(self, *, timeout: float) -> Any: ...
    def open_channel(
        self, kind: str, dest_addr: tuple[str, int], src_addr: tuple[str, int], *, timeout: float
    ) -> Any: ...
    def request_port_forward(self, address: str, port: int, handler: Callable[..., None]) -> int: ...
    def global_request(self, kind: str, *, wait: bool) -> Any: ...


def make(sock: object, *, algorithms: list[str], handshake_timeout: float, **options: object) -> Any:
    """A `paramiko.Transport` that has not been started.

    Args:
        sock: What it speaks through.
        algorithms: Those of the host's keys that are asked for first.
        handshake_timeout: How many seconds the host may take for the first messages.
        options: What else paramiko wants to be passed on.
    """
    import paramiko

    _silence()
    transport = paramiko.Transport(sock, **options)
    transport.set_log_channel(_LOGGER)
    transport.handshake_timeout = handshake_timeout
    security = transport.get_security_options()
    known = [name for name in algorithms if name in security.key_types]
    security.key_types = [*known, *(name for name in security.key_types if name not in known)]
    transport.set_keepalive(_KEEPALIVE)
    transport.open_failure = ""
    failed = transport._handler_table[_CHANNEL_OPEN_FAILURE]
    transport._handler_table[_CHANNEL_OPEN_FAILURE] = partial(_on_open_failure, transport, failed)
    requested = transport._channel_handler_table[_CHANNEL_REQUEST]
    transport._channel_handler_table = {
        **transport._channel_handler_table,
        _CHANNEL_REQUEST: partial(_on_channel_request, requested),
    }
    return transport


def end(transport: Any) -> None:
    """Ends a transport with its thread and, where its handshake was never completed, its timer."""
    transport.close()
    transport.packetizer.close()
    if transport.ident is not None:
        transport.join(_PATIENCE)
    transport.packetizer.complete_handshake()


def _silence() -> None:
    """Keeps paramiko's tracebacks off the terminal, unless the user asks for them by configuring this logger."""
    logger = logging.getLogger(_LOGGER)
    if logger.level == logging.NOTSET and not logger.handlers:
        logger.setLevel(logging.CRITICAL)


def _on_open_failure(transport: Any, handle: Callable[[Any], None], message: Any) -> None:
    peek = _rest(message)
    peek.get_int(), peek.get_int()
    transport.open_failure = peek.get_text()
    handle(message)


def _on_channel_request(handle: Callable[[Any, Any], None], channel: Any, message: Any) -> None:
    peek = _rest(message)
    if peek.get_text() == "exit-signal":
        peek.get_boolean()
        channel.exit_status = _status(peek.get_text())
        channel.status_event.set()
    else:
        handle(channel, message)


def _rest(message: Any) -> Any:
    """What is still unread of a message, as a message of its own."""
    import paramiko

    return paramiko.Message(message.get_remainder())


def _status(name: str) -> int:
    with suppress(KeyError):
        return -signal.Signals[f"SIG{name}"].value
    return _UNKNOWN_SIGNAL
