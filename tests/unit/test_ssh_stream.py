"""What paramiko says of a channel, in the words of the operating system."""

from __future__ import annotations

import threading

import paramiko
import pytest

from trx.hosts.stream import Stream


class Channel:
    """A channel that cannot be written to."""

    def __init__(self, closed: bool, error: Exception) -> None:
        self.status_event = threading.Event()
        self.exit_status: int | None = -1
        self.closed = closed
        self._error = error

    def send(self, data: bytes) -> int:
        raise self._error


@pytest.mark.parametrize("error", [OSError("Socket is closed"), paramiko.SSHException("gone"), EOFError()])
def test_a_command_that_has_ended_is_a_broken_pipe(error: Exception) -> None:
    with pytest.raises(BrokenPipeError):
        Stream(Channel(True, error)).write(b"x")


@pytest.mark.parametrize("error", [TimeoutError("timed out"), paramiko.SSHException("key exchange timed out")])
def test_any_other_error_of_writing_is_its_own(error: Exception) -> None:
    with pytest.raises(OSError, match="timed out") as raised:
        Stream(Channel(False, error)).write(b"x")
    assert not isinstance(raised.value, BrokenPipeError)
