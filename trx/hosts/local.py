"""An agent on the launcher's own machine: a child process."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping

from trx.errors import HostFailure
from trx.hosts.channel import HostUnusable

INTERPRETER_ARGUMENTS = (
    "-c",
    "import signal; signal.alarm(60); from io import FileIO; f = FileIO(0); exec(f.readline())",
)
"""The alarm ends an interpreter whose launcher was cut off before it said anything; `trx_agent.__main__` stops it."""


class LocalChannel:
    """See `Channel`.

    Args:
        hostname: As the user named it.
        python: Path of the interpreter.
        environment: Variables that the interpreter needs, above the launcher's own.
    """

    def __init__(self, hostname: str, *, python: str, environment: Mapping[str, str]) -> None:
        self._hostname = hostname
        self._python = python
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        try:
            self._process = subprocess.Popen(
                [self._python, *INTERPRETER_ARGUMENTS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                cwd="/",
                env={**os.environ, **self._environment},
                start_new_session=True,
            )
        except OSError as error:
            reason = f"the interpreter {self._python} cannot be started: {error.strerror}"
            raise HostUnusable(
                HostFailure(self._hostname, "starting Python", reason, "name an interpreter that exists with python=")
            ) from None

    def launcher_address(self) -> str:
        return "127.0.0.1"

    def forward(self, port: int) -> int:
        return port

    def write(self, data: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._process.stdin.write(rest) :]

    def read(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            return self._process.stdout.read(65536) or b""
        except ValueError:  # closed meanwhile
            return b""

    def wait(self, timeout: float) -> int | None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._process.stdout.close()  # here, since only whoever reads may close it
        return status

    def close(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
