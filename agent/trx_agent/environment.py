"""The variables that a host's workers live in, as if they had been exported before Python started."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import IO

from trx_agent.protocol.messages import Preparation

COOKIE = "TRX_LAUNCH"
"""Names the launch in the environment of every process below an agent, so that strays can be found in /proc."""

LONGEST = 60.0
"""Seconds that `env_file` may take."""

# The user's script comes on stdin, so that nothing of it is on a command line, and prints to stderr. What its last
# command returns does not matter, as with `source`; but a syntax error, or an `exit`, is an error.
_SCRIPT = 'script=$(cat); printf "%s" "$script" | "$0" -n || exit 2; set -a; eval "$script" </dev/null >&2; exec env -0'


class EnvFileError(Exception):
    """The user's `env_file` failed on this host."""


class Composing:
    """The host's own variables, those copied from the launcher, and those that `env_file` sets: the last one counts.

    The script runs in a process of its own, and has no pipe that anybody would have to serve, or that something which
    it leaves running could hold open. What it reads and writes is in memory only.

    Args:
        host: The host's own variables.
        preparation: What was ordered.
        cookie: Of the launch.
    """

    def __init__(self, host: Mapping[str, str], preparation: Preparation, cookie: str) -> None:
        self._variables = {**host, **preparation.variables}
        self._cookie = cookie
        self._process: subprocess.Popen[bytes] | None = None
        self._since = time.monotonic()
        if preparation.env_file:
            self._exported, self._printed = _memory("exported"), _memory("printed")
            self._process = self._start(preparation.env_file)

    @property
    def pid(self) -> int | None:
        """Of the shell; None where there is no script, and `variables` may be asked for at once."""
        return self._process.pid if self._process else None

    def check_time(self) -> None:
        """Ends the script where it has had its time.

        Raises:
            EnvFileError: Where it had.
        """
        if time.monotonic() - self._since > LONGEST:
            self.kill()
            raise EnvFileError(f"env_file did not end within {LONGEST:.0f} s")

    def wait(self, launcher: int) -> dict[str, str]:
        """Waits for the script's end, and returns all variables.

        Args:
            launcher: Descriptor of which nothing can be read before the launcher is gone.

        Raises:
            EnvFileError: Where it fails or takes too long.
            SystemExit: Where the launcher goes.
        """
        code = 0
        if self._process:
            ended = os.pidfd_open(self._process.pid)
            ready, _, _ = select.select([ended, launcher], [], [], LONGEST)
            os.close(ended)
            if ready == [launcher]:
                raise SystemExit("the launcher went away while env_file was running")
            if not ready:
                self.check_time()
            code = self._process.wait()
        return self.variables(code)

    def kill(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def variables(self, code: int) -> dict[str, str]:
        """All variables, once the script has ended with this exit code.

        Raises:
            EnvFileError: Where it failed.
        """
        if self._process:
            self._variables = self._read(code)
            self._process = None
        return {**self._variables, COOKIE: self._cookie}

    def _start(self, script: str) -> subprocess.Popen[bytes]:
        shell = "bash" if _has("bash", self._variables) else "sh"
        with _memory("script") as file:
            file.write(script.encode(errors="surrogateescape"))
            file.seek(0)
            return subprocess.Popen(
                [shell, "-c", _SCRIPT, shell],
                env=self._variables,
                stdin=file,
                stdout=self._exported,
                stderr=self._printed,
                start_new_session=True,
            )

    def _read(self, code: int) -> dict[str, str]:
        with self._exported, self._printed:
            self._exported.seek(0)
            self._printed.seek(0)
            if code:
                words = self._printed.read().decode(errors="replace").strip()[-2000:]
                raise EnvFileError(f"env_file ended with status {code}: {words}")
            exported = self._exported.read()
        if not exported:
            raise EnvFileError("env_file ended by `exit`, which also ends whoever sources it: leave that out")
        entries = exported.split(b"\0")
        pairs = (entry.split(b"=", 1) for entry in entries if b"=" in entry)
        found = {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}
        return {name: value for name, value in found.items() if name not in ("_", "script", "SHLVL")}


def for_workers(variables: Mapping[str, str], workers: int) -> dict[str, str]:
    """What the forkserver is executed with: as torchrun does, one thread for each of several workers."""
    return {"OMP_NUM_THREADS": "1", **variables} if workers > 1 else dict(variables)


def _memory(name: str) -> IO[bytes]:
    """A file that is in no file system."""
    return os.fdopen(os.memfd_create(name), "w+b", buffering=0)


def _has(program: str, variables: Mapping[str, str]) -> bool:
    return shutil.which(program, path=variables.get("PATH", os.defpath)) is not None
