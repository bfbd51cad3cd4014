"""A program of `programs/` as the driver sees it: it says "ready", and answers each line with what it measured."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

MARK = "\x1ebench "
"""Before each answer; all other lines are output of workers, shown by their launcher."""

ROOT = Path(__file__).resolve().parents[1]
"""Of the checkout: where programs are started."""

PATIENCE = 300.0
_KEPT = 40

Popen = Callable[[Sequence[str]], "subprocess.Popen[str]"]


class SessionFailed(RuntimeError):
    """The program ended, or did not answer."""


def popen(argv: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a program on this machine, its standard streams in pipes."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


class Session:
    """See the module. A context manager, at whose end the program's stdin ends.

    Args:
        argv: The command line.
        start: How to start it; by default on this machine.
    """

    def __init__(self, argv: Sequence[str | Path], start: Popen = popen) -> None:
        self._process = start([str(word) for word in argv])
        self._answers: queue.SimpleQueue[dict[str, float] | None] = queue.SimpleQueue()
        self._last_lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Session:
        self.answer()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: str = "") -> dict[str, float]:
        """Has the program do its work once."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{question}\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failure("has ended") from None
        return self.answer()

    def answer(self) -> dict[str, float]:
        """Waits for the next answer.

        Raises:
            SessionFailed: There is none.
        """
        try:
            answer = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise self._failure(f"did not answer within {PATIENCE:.0f} s") from None
        if answer is None:
            raise self._failure("ended without an answer")
        return answer

    def close(self) -> None:
        """Ends the program, if need be by force."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(30.0)
        except subprocess.TimeoutExpired:
            self._kill()
        self._reader.join(5.0)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(self._process.pid) == self._process.pid:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):
            for line in self._process.stdout:
                before, mark, answer = line.partition(MARK)
                if mark:
                    self._answers.put(json.loads(answer))
                else:
                    self._last_lines = [*self._last_lines[1 - _KEPT :], before]
        self._answers.put(None)

    def _failure(self, what: str) -> SessionFailed:
        return SessionFailed(f"{self._process.args!r} {what}\n{''.join(self._last_lines)}")


def once(argv: Sequence[str | Path], start: Popen = popen) -> tuple[float, dict[str, float]]:
    """Runs a program that answers once and ends; returns the seconds of its whole life, and the answer."""
    began = time.perf_counter()
    session = Session(argv, start)
    try:
        answer = session.answer()
    finally:
        session.close()
    return time.perf_counter() - began, answer


def run(argv: Sequence[str | Path], start: Popen = popen) -> float:
    """Runs a program to its end; returns the seconds of its whole life.

    Raises:
        SessionFailed: It failed.
    """
    began = time.perf_counter()
    process = start([str(word) for word in argv])
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise SessionFailed(f"{process.args!r} did not end within {PATIENCE:.0f} s") from None
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SessionFailed(f"{process.args!r} ended with {process.returncode}\n{output[-4000:]}")
    return seconds
