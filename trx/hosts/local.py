"""An agent on the launcher's own machine: a child process."""

from __future__ import annotations

import os
from collections.abc import Mapping

from trx.errors import HostFailure
from trx.hosts.channel import HostUnusable
from trx.hosts.child import Child, ChildChannel
from trx_agent.protocol.bootstrap import FIRST_WORD

INTERPRETER_ARGUMENTS = (
    "-c",
    f"import signal; signal.alarm({FIRST_WORD}); from io import FileIO; f = FileIO(0); exec(f.readline())",
)
"""The alarm ends an interpreter whose launcher was cut off before it said anything; `trx_agent.__main__` stops it."""


class LocalChannel(ChildChannel):
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

    def open(self) -> None:
        try:
            self._child = Child([self._python, *INTERPRETER_ARGUMENTS], {**os.environ, **self._environment})
        except OSError as error:
            reason = f"the interpreter {self._python} cannot be started: {error.strerror}"
            raise HostUnusable(
                HostFailure(self._hostname, "starting Python", reason, "name an interpreter that exists with python=")
            ) from None

    def launcher_address(self) -> str:
        return "127.0.0.1"

    def forward(self, port: int) -> int:
        return port

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
