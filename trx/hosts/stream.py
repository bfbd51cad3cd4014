"""One stream of bytes within an SSH connection: an agent's stdin and stdout, or a forwarded connection."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CHUNK = 1 << 18
_PACKET = 1 << 15


class Stream:
    """A `paramiko.Channel` whose errors are all OSErrors.

    Args:
        channel: The channel, opened already.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        # paramiko sets this once the channel is closed, or an exit status has come
        self._ended: threading.Event = channel.status_event
        channel.exit_status = None  # paramiko says -1 for "none yet", which stands for SIGHUP here

    def execute(self, command: str) -> None:
        """Has the host's sshd run a command, whose stderr joins its stdout."""
        with _os_errors():
            self._channel.set_combine_stderr(True)
            self._channel.exec_command(command)

    def read(self, timeout: float | None = None) -> bytes:
        """Some bytes, as soon as there are any; b"" once the other side has ended its output, or the channel is closed.

        Raises:
            TimeoutError: Where there is nothing to read for so many seconds.
            OSError: Where the connection breaks just now.
        """
        self._channel.settimeout(timeout)
        try:
            with _os_errors():
                data: bytes = self._channel.recv(_CHUNK)
        finally:
            self._channel.settimeout(None)  # which would count for writing too
        return data

    def write(self, data: bytes) -> None:
        """Writes all of `data`.

        Raises:
            BrokenPipeError: Where the channel is, or gets, closed, as by a command that has ended: it may be readable.
            OSError: Where the connection breaks.
        """
        rest = memoryview(data)
        try:
            with _os_errors():
                while rest:
                    rest = rest[self._channel.send(bytes(rest[:_PACKET])) :]
        except OSError as error:
            if not self._channel.closed:
                raise
            raise BrokenPipeError(errno.EPIPE, str(error)) from error

    def end_output(self) -> None:
        """Tells the other side that no more will be written; reading goes on."""
        with _os_errors():
            self._channel.shutdown_write()

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits for the end; the exit status, or None where there is none (yet)."""
        self._ended.wait(timeout)
        status: int | None = self._channel.exit_status
        return status

    def close(self) -> None:
        """Closes both directions."""
        with _os_errors():
            self._channel.close()


@contextmanager
def _os_errors() -> Iterator[None]:
    import paramiko

    try:
        yield
    except (EOFError, paramiko.SSHException) as error:
        raise ConnectionResetError(str(error) or "the SSH connection was lost") from error
