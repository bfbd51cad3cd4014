"""Runs a page of the documentation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from .page import ROOT, Block, Page, marker, prints

PYTHON_DIRECTORY = str(Path(sys.executable).parent)
VARIABLES = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "agent")]),
    "PYTHONUNBUFFERED": "1",  # lines come in the order in which a terminal would show them
}
"""What a user has who has installed trx, and sits at a terminal."""


class Place(Protocol):
    """Where a page's code is run."""

    def run(self, argv: list[str], directory: Path) -> tuple[int, str]:
        """Runs a command to its end, and returns its status and what it printed."""


class ThisMachine:
    """Where pages of `runs: local` are run."""

    def run(self, argv: list[str], directory: Path) -> tuple[int, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("TRX_LOG_")}
        path = os.pathsep.join([PYTHON_DIRECTORY, os.environ["PATH"]])
        done = subprocess.run(
            argv,
            cwd=directory,
            env={**ours, **VARIABLES, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=100,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")


def play(page: Page, place: Place, directory: Path) -> None:
    """Runs a page's code, and checks what it prints; a failure names the page and the line.

    Args:
        page: What to run.
        place: Where.
        directory: An empty one, which the place has too.
    """
    for name, text in page.files.items():
        (directory / name).write_text(text)
    _play_script(page, place, directory)
    for block in page.bash:
        lines_above = "\n" * (block.line - 1)  # so that bash, too, speaks of the page's lines
        status, printed = place.run(["bash", "-euo", "pipefail", "-c", lines_above + block.text], directory)
        if (status != 0) is not block.must_fail:
            _fail(page, block.line, f"it ended with status {status}", printed)
        _check_output(page, block, printed)


def _play_script(page: Page, place: Place, directory: Path) -> None:
    if not page.python:
        return
    script = directory / f"{page.path.stem}_page.py"
    script.write_text(page.script)
    status, printed = place.run([sys.executable, str(script)], directory)
    rest = printed
    for block in page.python:
        printed, reached, rest = rest.partition(marker(block) + "\n")
        if not reached:
            lines = re.findall(rf'File "{re.escape(str(script))}", line (\d+)', printed)
            _fail(page, int(lines[-1]) if lines else block.line, f"it ended with status {status}", printed)
        _check_output(page, block, printed)
    if status:
        _fail(page, page.python[-1].line, f"the script ended with status {status}, though its last line ran", rest)


def _check_output(page: Page, block: Block, printed: str) -> None:
    if block.output is not None and not prints(block.output, printed):
        _fail(page, block.line, f"it does not print what the page shows:\n{block.output}\nbut", printed)


def _fail(page: Page, line: int, what: str, printed: str) -> None:
    pytest.fail(f"{page.name}, line {line}: {what}\n{printed}", pytrace=False)
