"""Starts an agent over SSH, through any number of jump hosts, without ever asking anything."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from trx.errors import HostFailure
from trx.hosts import route, shell, sockets, transport
from trx.hosts.channel import HostUnusable
from trx.hosts.diagnosis import Finding, NotCarriedOn, ProxyEnded, diagnose, diagnose_forwarding, turned_away
from trx.hosts.host_keys import KnownHosts
from trx.hosts.identities import Keys
from trx.hosts.relay import Relays
from trx.hosts.route import Hop
from trx.hosts.sockets import ProxyCommand
from trx.hosts.stream import Stream
from trx.hosts.teardown import Closed, Teardown
from trx.hosts.transport import Transport, Tunnel

_ADMINISTRATIVELY_PROHIBITED = 1
_AFTER_LEASE = 1.0  # seconds: once the agent speaks it is the lease that tells of a lost host, and tells it better
_BETWEEN_ATTEMPTS = (0.1, 1.0)  # seconds
_ATTEMPT = 1.0  # seconds that a further one must still have
_BANNER_SHARE = 0.9  # of the time that is left: so that a host's silence is noticed for what it is


class SSHChannel:
    """A `Channel` to an interpreter that sshd has started on a host.

    Args:
        hostname: As the user names it: a name of the ssh configuration, `user@host:port`, an address.
        python: The interpreter's path on the host.
        environment: What the interpreter needs in its environment in order to start.
        config_file: The ssh configuration; None for the user's and the system's.
        timeout: How many seconds `open` may take.
        lease: How many seconds the host may be silent afterwards: it may vanish before its agent says a word.
    """

    def __init__(
        self,
        hostname: str,
        *,
        python: str,
        environment: Mapping[str, str],
        config_file: str | os.PathLike[str] | None,
        timeout: float,
        lease: float = 8.0,
    ) -> None:
        self._hostname = hostname
        self._prelude = shell.prelude(python, environment)
        self._config_file = config_file
        self._timeout = timeout
        self._lease = lease
        self._teardown = Teardown()
        self._relays = Relays()
        self._hop: Hop | None = None
        self._target: Hop | None = None
        self._stage = "reading the ssh configuration"
        self._launcher_address = ""
        self._transport: Transport | None = None
        self._tunnel: Tunnel | None = None
        self._stream: Stream | None = None

    def open(self) -> None:
        """See `Channel.open`."""
        deadline = time.monotonic() + self._timeout
        try:
            hops = route.plan(self._hostname, self._config_file)
            self._target = hops[-1]
            for before, hop in zip([None, *hops], hops, strict=False):
                self._transport = self._get_in(hop, before, deadline)
            self._stage = "starting Python"
            self._stream = self._start(deadline)
        except Exception as error:
            over = time.monotonic() >= deadline
            cause = Closed() if self._teardown.closed else error
            self.close()
            finding = diagnose(cause, self._hop, self._stage, self._timeout if over else None)
            raise HostUnusable(self._failure(cause, finding)) from error

    def _failure(self, cause: Exception, finding: Finding) -> HostFailure:
        reason = finding.reason
        if self._hop is not None and self._hop is not self._target and not isinstance(cause, Closed):
            reason = f"the jump host {self._hop.named} cannot be used: {reason}"
        return HostFailure(self._hostname, finding.stage, reason, finding.advice)

    def _get_in(self, hop: Hop, before: Hop | None, deadline: float) -> Transport:
        """Connects to a hop; where too many others are just doing the same, again a moment later.

        An sshd turns away some of those whom it has not let in yet when there are more than ten (`MaxStartups`), as
        there are at the jump host that leads to many hosts.
        """
        self._hop = hop
        while True:
            self._stage = "connecting"
            try:
                return self._connect(hop, before, deadline)
            except Exception as error:
                pause = random.uniform(*_BETWEEN_ATTEMPTS)  # noqa: S311 - only lest those turned away come together
                if not turned_away(error) or time.monotonic() + pause + _ATTEMPT > deadline:
                    raise
            self._teardown.pause(pause)

    def _connect(self, hop: Hop, before: Hop | None, deadline: float) -> Transport:
        """Connects to a hop, through the one before, checks its key, and logs in."""
        proxy = None
        self._tunnel = None
        if self._transport is not None and before is not None:
            sock: object = self._carry_on(hop, before, self._transport, deadline)
        elif hop.proxy_command:
            proxy = ProxyCommand(hop.proxy_command, self._teardown)
            sock = self._tunnel = Tunnel(proxy.socket)
            self._launcher_address = sockets.likely_address(hop, self._teardown)
        else:
            sock = tcp = sockets.dial(hop, deadline, self._teardown, self._lease + _AFTER_LEASE)
            self._launcher_address = sockets.own_address(tcp)
        try:
            return self._log_in(hop, sock, deadline)
        except Exception as error:
            lost = (EOFError, ConnectionError)
            if proxy is not None and (isinstance(error, lost) or isinstance(error.__context__, lost)):
                raise ProxyEnded(proxy.complaint()) from error
            raise

    def _carry_on(self, hop: Hop, before: Hop, previous: Transport, deadline: float) -> Tunnel:
        """A connection from the jump host `before` to the next hop."""
        import paramiko

        target, nobody = (hop.hostname, hop.port), ("", 0)
        try:
            channel = previous.open_channel("direct-tcpip", target, nobody, timeout=_left(deadline))
        except paramiko.ChannelException as error:
            prohibited = error.code == _ADMINISTRATIVELY_PROHIBITED
            raise NotCarriedOn(str(before.named), previous.open_failure or error.text, prohibited) from error
        self._tunnel = Tunnel(channel)
        return self._tunnel

    def _log_in(self, hop: Hop, sock: object, deadline: float) -> Transport:
        known_hosts = KnownHosts(hop)
        left = _left(deadline)

        def make_transport(sock: object, **options: object) -> Transport:
            made: Transport = transport.make(
                sock, algorithms=known_hosts.algorithms(), handshake_timeout=left, **options
            )
            self._teardown.add(partial(transport.end, made))
            return made

        connection = hop.connection
        connection.client.set_missing_host_key_policy(known_hosts)
        connection.connect_timeout = left
        connection.connect_kwargs = {
            "sock": sock,
            "transport_factory": make_transport,
            "auth_strategy": Keys(hop, deadline, self._teardown),
            "banner_timeout": min(hop.connect_timeout or left, _BANNER_SHARE * left),
            "auth_timeout": left,
        }
        connection.open()
        opened: Transport = connection.transport
        return opened

    def _start(self, deadline: float) -> Stream:
        """Starts the interpreter, and tells it what it needs in order to start."""
        stream = Stream(self._connected().open_session(timeout=_left(deadline)))
        self._teardown.wait_for(partial(stream.execute, shell.command()), _left(deadline))
        stream.write(self._prelude)
        return stream

    def launcher_address(self) -> str:
        """See `Channel.launcher_address`."""
        return self._launcher_address

    def forward(self, port: int) -> int:
        """See `Channel.forward`."""
        request = partial(self._connected().request_port_forward, "127.0.0.1", 0, self._relays.accept)
        try:
            self._teardown.add(self._relays.close)
            host_port = self._teardown.wait_for(request, self._timeout)
        except Exception as error:
            finding = diagnose_forwarding(error)
            raise HostUnusable(HostFailure(self._hostname, *finding)) from error
        self._relays.lead(host_port, port)
        return host_port

    def write(self, data: bytes) -> None:
        """See `Channel.write`."""
        self._opened().write(data)

    def read(self) -> bytes:
        """See `Channel.read`. Where no kernel watches the connection for us, the host is asked whether it is there."""
        stream = self._opened()
        while True:
            try:
                return stream.read(self._lease / 2 if self._tunnel else None)
            except TimeoutError:
                if not self._answers():
                    self.close()
            except OSError:
                return b""

    def _answers(self) -> bool:
        """Whether anything comes from the host within a lease."""
        asked = time.monotonic()
        question = partial(self._connected().global_request, "keepalive@openssh.com", wait=True)
        with suppress(TimeoutError, Closed):
            self._teardown.wait_for(question, self._lease)
        return self._tunnel is not None and self._tunnel.heard > asked

    def wait(self, timeout: float) -> int | None:
        """See `Channel.wait`; also None, and at once, where the connection was lost and the status with it."""
        return self._opened().wait(timeout)

    def close(self) -> None:
        """See `Channel.close`."""
        self._teardown.close()

    def _connected(self) -> Transport:
        if self._transport is None:
            raise ConnectionError("the channel is not open")
        return self._transport

    def _opened(self) -> Stream:
        if self._stream is None:
            raise ConnectionError("the channel is not open")
        return self._stream


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())
