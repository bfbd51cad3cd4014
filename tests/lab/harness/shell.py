"""Commands and long-lived helper processes on the real machine."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

HARNESS = Path(__file__).resolve().parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8"}


class LabError(RuntimeError):
    """The lab itself went wrong, not what is tested in it."""


class CommandFailed(LabError):
    """A command ended with a status other than 0; its output is in the message."""

    def __init__(self, result: subprocess.CompletedProcess[str]) -> None:
        super().__init__(
            f"{result.args} ended with {result.returncode}\n-- stdout\n{result.stdout}\n-- stderr\n{result.stderr}"
        )
        self.result = result


def find_tool(name: str) -> str | None:
    """Returns the path of a system program, also when the caller's PATH lacks the sbin directories."""
    return shutil.which(name, path=PATH)


def run(
    argv: Sequence[str], *, input: str | None = None, check: bool = True, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end in a plain environment.

    Raises:
        CommandFailed: Its status is not 0, and ``check`` is true.
        subprocess.TimeoutExpired: It was still running after ``timeout`` seconds, and was killed.
    """
    stdin = subprocess.DEVNULL if input is None else None
    result = subprocess.run(
        argv, input=input, stdin=stdin, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, check=False
    )
    if check and result.returncode:
        raise CommandFailed(result)
    return result


def batch(lines: Iterable[str]) -> str:
    """Joins lines to the input of ``ip -batch`` or ``nft -f``."""
    return "".join(f"{line}\n" for line in lines)


class Keeper:
    """A helper process whose standard input is a lifeline: it ends when this Python process does, however that ends."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._log = log
        self._unread = b""
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**ENVIRONMENT, **(env or {})},
                cwd="/",
                bufsize=0,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        """Writes one line to the helper."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def expect(self, word: str, timeout: float = 20.0) -> str:
        """Waits for a line of the helper that starts with ``word``, and returns the rest of it."""
        line = self._read_line(time.monotonic() + timeout)
        first, _, rest = line.partition(" ")
        if first != word:
            raise LabError(f"{self._process.args!r}: expected {word!r}, got {line!r}\n{self._log.read_text()}")
        return rest

    def _read_line(self, deadline: float) -> str:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            readable, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(fd, 4096) if readable else b""
            if not data:
                return self._unread.decode() or ("nothing: it has ended" if readable else "nothing in time")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def send_kill(self) -> None:
        """Sends SIGKILL without waiting."""
        self._process.kill()

    def kill(self) -> None:
        """Ends the helper at once."""
        self.send_kill()
        self.close()

    def close(self, timeout: float = 10.0) -> None:
        """Cuts the lifeline, and waits until the helper has tidied up and ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
