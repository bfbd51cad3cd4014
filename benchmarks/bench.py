"""What rows may use: places, and command lines of the programs that are measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.session import ROOT, Popen, Session, once, popen
from tests.lab.harness import Lab


@dataclass(frozen=True)
class Bench:
    """One run of the benchmarks.

    Attributes:
        quick: Whether this is only a look: smaller work will do.
        scratch: A directory for the run's files.
    """

    quick: bool
    scratch: Path

    def python(self, peer: str | None) -> Path:
        """The interpreter of a peer, or trx's own."""
        return Path(sys.executable) if peer is None else peers.python(peer)

    def argv(self, program: str, peer: str | None = None, *, settings: Mapping[str, Any] | None = None) -> list[str]:
        """The command line of a module of `programs/`; it is to be run in the root of the checkout."""
        words = [str(self.python(peer)), "-m", f"benchmarks.programs.{program}"]
        return [*words, json.dumps(settings)] if settings else words


class Sessions:
    """Programs that stay up from one round to the next, each started when it is first needed."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        while self._sessions:
            self._sessions.popitem()[1].close()

    def ask(self, argv: Sequence[str], start: Popen = popen) -> dict[str, float]:
        """Has a program do its work once; one that has failed is started again."""
        key = json.dumps(argv)
        if key not in self._sessions:
            session = self._sessions[key] = Session(argv, start)
            session.answer()
        try:
            return self._sessions[key].ask()
        except Exception:
            self._sessions.pop(key).close()
            raise


def cold(argv: Sequence[str], start: Popen = popen) -> dict[str, float]:
    """Runs a program that launches once; its answer, and the seconds of its whole life as "whole"."""
    whole, answer = once(argv, start)
    return {**answer, "whole": whole}


def lab(hosts: int) -> AbstractContextManager[Lab]:
    """Hosts with a shared file system, each with a network and an sshd of its own.

    Raises:
        peers.Missing: This machine can have none.
    """
    from tests.lab.harness import lab_unavailable

    if reason := lab_unavailable():
        raise peers.Missing(reason)
    return Lab(hosts, shm_size="4g", tmp_size="4g")


def at_launcher(lab: Lab) -> Popen:
    """Starts programs on the lab's launcher."""

    def start(argv: Sequence[str]) -> subprocess.Popen[str]:
        return lab.launcher.popen(argv, stdin=subprocess.PIPE, cwd=ROOT)

    return start
