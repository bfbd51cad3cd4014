"""A child process as a channel has one: bytes in, bytes out, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from trx import open_files


class Child:
    """A child process in a session of its own: signals of the launcher's terminal are not for it.

    Args:
        command: Its words.
        environment: All of its variables.

    Raises:
        OSError: Where it cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
        open_files.spare(self._process.pid)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def write(self, data: bytes) -> None:
        """See `Channel.write`."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._stdin.write(rest) :]

    def read(self) -> bytes:
        """See `Channel.read`."""
        try:
            return self._stdout.read(65536) or b""
        except ValueError:  # closed meanwhile
            return b""

    def wait(self, timeout: float) -> int | None:
        """See `Channel.wait`."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._stdout.close()  # here, since only whoever reads may close it
        return status

    def close(self) -> None:
        """Closes its stdin."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def kill(self) -> None:
        """Ends it, and what it has forked, at once."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


class ChildChannel:
    """The part of a `Channel` that is the same for all whose agent is reached through a child process."""

    _child: Child | None = None

    def write(self, data: bytes) -> None:
        """See `Channel.write`."""
        assert self._child is not None
        self._child.write(data)

    def read(self) -> bytes:
        """See `Channel.read`."""
        assert self._child is not None
        return self._child.read()

    def wait(self, timeout: float) -> int | None:
        """See `Channel.wait`."""
        assert self._child is not None
        return self._child.wait(timeout)
