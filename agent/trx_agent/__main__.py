"""The agent's first breath: read the bootstrap, look at the host, say ready, and split into guardian and agent.

Runs before anything else of this package on a host (see `protocol/bootstrap.py`). No sockets and no threads yet, since
a fork follows.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import tempfile
from io import FileIO
from pathlib import Path

from trx_agent import directory
from trx_agent.linux import ignore_warnings, inherit_orphans, unblock_signals
from trx_agent.protocol import messages
from trx_agent.protocol.bootstrap import (
    FIRST_WORD,
    HEAD,
    Bootstrap,
    Ready,
    Refused,
    Status,
    Unreachable,
    read_detour,
    read_head,
    status_line,
    unframe,
)
from trx_agent.protocol.decoding import Malformed

REACH_TIMEOUT = 5.0

_OPEN_FILES, _OPEN_FILES_OF_A_WORKER = 64, 8
"""How many an agent may come to need."""


class _Refusal(Exception):
    """This host cannot be used; the launcher is told why."""

    def __init__(self, stage: str, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.status = Refused(stage, reason, advice)


def main(stdin: FileIO) -> None:
    """Called by the loader line, with the rest of stdin still to be read."""
    unblock_signals()
    ignore_warnings()
    try:
        bootstrap = _read_bootstrap(stdin)
        signal.alarm(0)  # which has run since before the launcher's first word
        _check(bootstrap)
        inherit_orphans()
        try:
            environment = _compose(bootstrap, stdin)
            endpoint = _find_launcher(bootstrap, stdin)
            place = _make_directory(bootstrap.cookie)
        except BaseException:
            from trx_agent.tree import end_everything

            end_everything()  # that env_file has left running
            raise
    except _Refusal as refusal:
        _say(refusal.status)
        return
    _say(Ready())
    from trx_agent.guardian import guard

    guard(stdin, bootstrap, endpoint, environment, place)


def _read_bootstrap(stdin: FileIO) -> Bootstrap:
    try:
        return unframe(_read_frame(stdin))
    except Malformed as error:
        raise _Refusal("reading what the launcher sent", str(error)) from None


def _compose(bootstrap: Bootstrap, stdin: FileIO) -> dict[str, str]:
    from trx_agent.environment import Composing, EnvFileError

    try:
        return Composing(os.environ, bootstrap.preparation, bootstrap.cookie).wait(stdin.fileno())
    except EnvFileError as error:
        raise _Refusal("applying env_file", str(error)) from None


def _say(status: Status) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b"\n" + status_line(status))


def _read_frame(stdin: FileIO) -> bytes:
    version, size = read_head(_read_exactly(stdin, HEAD))
    if version != messages.VERSION:
        raise _Refusal(
            "comparing versions",
            f"its trx speaks version {messages.VERSION} of the protocol, the launcher's version {version}",
            "install the same version of trx-launch on both",
        )
    return _read_exactly(stdin, size)


def _read_exactly(stdin: FileIO, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = stdin.read(size - len(data))
        if not chunk:
            raise SystemExit("the launcher went away while it was starting this agent")
        data += chunk
    return bytes(data)


def _check(bootstrap: Bootstrap) -> None:
    from trx_agent import machine

    if missing := machine.missing_packages():
        raise _Refusal(
            "looking for packages",
            f"{sys.executable} lacks {', '.join(missing)}",
            f"install the same environment there: {sys.executable} -m pip install {' '.join(missing)}",
        )
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _OPEN_FILES + _OPEN_FILES_OF_A_WORKER * (bootstrap.workers if isinstance(bootstrap.workers, int) else 0)
    if allowed < needed:
        raise _Refusal(
            "looking at its limits",
            f"a process may have only {allowed} open files there, and {needed} are needed",
            "raise the limit (ulimit -n) in the login shell's start-up files, or in /etc/security/limits.conf",
        )
    try:
        os.chdir(bootstrap.cwd)
    except OSError as error:
        raise _Refusal(
            "entering the working directory",
            f"{bootstrap.cwd}: {error.strerror}",
            "create it there, or name another one with cwd=",
        ) from None


def _find_launcher(bootstrap: Bootstrap, stdin: FileIO) -> str:
    """The first of the launcher's endpoints that this host can reach."""
    reasons = []
    for endpoint in bootstrap.endpoints:
        if (reason := _try_endpoint(endpoint)) is None:
            return endpoint
        reasons.append(f"{endpoint.removeprefix('tcp://')}: {reason}")
    _say(Unreachable("; ".join(reasons)))
    signal.alarm(FIRST_WORD)
    try:
        detour = read_detour(stdin.readline())
    except Malformed as error:
        raise _Refusal("reading what the launcher sent", str(error)) from None
    signal.alarm(0)
    return detour.endpoint


def _try_endpoint(endpoint: str) -> str | None:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    address = host.strip("[]")  # a number, so no resolver is needed, which would import much
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.settimeout(REACH_TIMEOUT)
        try:
            probe.connect((address, int(port)))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _make_directory(cookie: str) -> Path:
    """Where this launch keeps its files on this host: nobody else may look into it, and the guardian removes it."""
    try:
        return directory.make(cookie)
    except OSError as error:
        raise _Refusal(
            "making a directory for temporary files",
            f"{tempfile.gettempdir()}: {error.strerror}",
            "make room there, or set TMPDIR on that host",
        ) from None
