"""The guardian and its agent, whatever happens to either of them, and when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .helpers import wait_until

DIES_EARLY = """
import os, signal, sys, time
from pathlib import Path
from trx_agent import guardian, machine
from trx_agent.linux import inherit_orphans

def look(*_):  # what the agent does first
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)

machine.look = look
inherit_orphans()
nothing = type("", (), {"workers": 1, "lease": 60, "grace": 1})()
guardian.guard(open(0, "rb", buffering=0), nothing, "", {}, Path(sys.argv[1]))
"""


def test_guardian_that_is_killed_before_its_agent_has_begun_leaves_no_files(tmp_path: Path) -> None:
    directory = tmp_path / "of the launch"
    directory.mkdir()

    command = [sys.executable, "-c", DIES_EARLY, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(20) == -9
        wait_until(lambda: not directory.exists(), "the agent has cleared up")
