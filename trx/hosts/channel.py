"""The one interface behind which every way of starting an agent hides: a local process, SSH, srun.

A channel is used by one thread of the launcher (its host's steward, see `trx.hosts.steward`), which opens it, writes
the bootstrap to the agent's stdin, and reads what the agent prints until it ends. All methods may block; `close` may be
called from any thread at any time, and makes the others return or raise.
"""

from __future__ import annotations

from typing import Protocol

from trx.errors import HostFailure


class HostUnusable(Exception):
    """Raised by a channel's `open`: this host cannot be used, for a reason that the user is told."""

    def __init__(self, failure: HostFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Channel(Protocol):
    """An agent's stdin and stdout, and its end."""

    def open(self) -> None:
        """Connects, and starts the agent's interpreter.

        Raises:
            HostUnusable: With the stage, the reason and an advice.
        """

    def launcher_address(self) -> str:
        """The launcher's own IP address as this connection uses it: where the host can most likely reach it."""

    def forward(self, port: int) -> int:
        """Opens a port on the host's loopback which leads, through this channel, to the launcher's `port` on 127.0.0.1.

        Returns:
            The port on the host.

        Raises:
            HostUnusable: Where the channel cannot forward.
        """

    def write(self, data: bytes) -> None:
        """Writes all of `data` to the agent's stdin.

        Raises:
            OSError: Where the agent is gone.
        """

    def read(self) -> bytes:
        """Some bytes of the agent's stdout or stderr, as soon as there are any; b"" once it has ended."""

    def wait(self, timeout: float) -> int | None:
        """The agent's exit status (negative: the signal that killed it), or None after `timeout` seconds."""

    def close(self) -> None:
        """Closes stdin, which tells the host to clean up, and lets the connection go. May be called twice.

        The second call is the last one: what still waits for the host then, waits in vain.
        """
