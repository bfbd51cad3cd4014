"""Makes the first connection that leaves this machine: TCP, or a program that speaks for it (`ProxyCommand`)."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, Any

from trx import open_files
from trx.hosts.route import Hop
from trx.hosts.teardown import Teardown

_KEEPALIVE = 15
_LONGEST_SILENCE = 86400.0
_PATIENCE_WITH_NAMES = 1.0
_PATIENCE_WITH_PROXY = 1.0
_PATIENCE_WITH_ROUTES = 5.0
"""Seconds after which a host that the network does not find is not looked for again; a cable may have been out."""
_BETWEEN_ATTEMPTS = 0.2


class Unresolved(Exception):
    """Raised where a name leads to no address."""


class Unreached(Exception):
    """Raised where none of a host's addresses can be connected to.

    Attributes:
        attempts: Each address, with what went wrong there.
    """

    def __init__(self, attempts: list[tuple[str, OSError]]) -> None:
        super().__init__(", ".join(f"{address}: {error}" for address, error in attempts))
        self.attempts = attempts


def dial(hop: Hop, deadline: float, teardown: Teardown, patience: float) -> socket.socket:
    """A TCP connection to the hop, which `teardown` ends; it breaks when the hop is silent for `patience` seconds.

    Raises:
        Unresolved: Where its name leads to no address.
        Unreached: Where no address answers.
    """
    addresses = _resolve(hop, deadline, teardown)
    attempts: list[tuple[str, OSError]] = []
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        share = (deadline - time.monotonic()) / (len(addresses) - tried)
        make = partial(socket.socket, family, kind, protocol)
        try:
            sock = _connect(make, address, min(share, hop.connect_timeout or share), teardown)
        except OSError as error:
            attempts.append((str(address[0]), error))
        else:
            _keep_alive(sock, patience)
            return sock
    raise Unreached(attempts)


def _connect(make: Callable[[], socket.socket], address: Any, within: float, teardown: Teardown) -> socket.socket:
    """A connected socket; where there is no way to the host just now, it is tried again and again."""
    begun = time.monotonic()
    while True:
        sock = make()
        teardown.add(partial(hang_up, sock))
        sock.settimeout(max(0.001, begun + within - time.monotonic()))
        try:
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            patience = min(within, _PATIENCE_WITH_ROUTES)
            if error.errno != errno.EHOSTUNREACH or time.monotonic() > begun + patience:
                raise
        teardown.pause(_BETWEEN_ATTEMPTS)


def _resolve(hop: Hop, deadline: float, teardown: Teardown) -> list[Any]:
    """What `getaddrinfo` says."""
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(hop.option("addressfamily"), socket.AF_UNSPEC)
    look_up = partial(socket.getaddrinfo, hop.hostname, hop.port, family, socket.SOCK_STREAM)
    with suppress(socket.gaierror):
        return look_up(flags=socket.AI_NUMERICHOST)
    try:
        return teardown.wait_for(look_up, deadline - time.monotonic())
    except (OSError, UnicodeError) as error:
        raise Unresolved(getattr(error, "strerror", None) or str(error)) from error


def _keep_alive(sock: socket.socket, patience: float) -> None:
    """Has the kernel notice a host that is gone, and send small packets at once."""
    interval = min(max(1, int(patience / 4)), _KEEPALIVE)
    options = {
        "TCP_KEEPIDLE": interval,
        "TCP_KEEPINTVL": interval,
        "TCP_USER_TIMEOUT": int(1000 * min(patience, _LONGEST_SILENCE)),
    }
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in options.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def hang_up(sock: socket.socket) -> None:
    """Closes a socket that another thread may be blocked in, and wakes that thread."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def own_address(sock: socket.socket) -> str:
    """The local end's IP address, without an IPv6 scope (which means nothing to others)."""
    return str(sock.getsockname()[0]).partition("%")[0]


def likely_address(hop: Hop, teardown: Teardown) -> str:
    """The address from which this machine would send to the hop, if it is reached by other means than TCP."""

    def look() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((hop.hostname, hop.port))  # sends nothing
            return own_address(probe)

    try:
        return teardown.wait_for(look, _PATIENCE_WITH_NAMES)
    except OSError:  # more often than not, a proxy's host has no name here
        return "127.0.0.1"


class ProxyCommand:
    """A program through whose stdin and stdout an SSH server is reached.

    paramiko's own class never notices the program's end, and leaves a zombie.
    """

    def __init__(self, command: str, teardown: Teardown) -> None:
        self.socket, far_end = socket.socketpair()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the program runs
        shell = os.environ.get("SHELL", "/bin/sh")
        with far_end:
            self._process = subprocess.Popen(
                [shell, "-c", f"exec {command}"],
                stdin=far_end.fileno(),
                stdout=far_end.fileno(),
                stderr=self._stderr,
                start_new_session=True,
            )
        open_files.spare(self._process.pid)
        teardown.add(self._end)

    def complaint(self) -> str:
        """The last line of what the program wrote to stderr, or what it ended with."""
        with suppress(ValueError):  # closed meanwhile
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def _end(self) -> None:
        hang_up(self.socket)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_WITH_PROXY)
                break
        self._stderr.close()
