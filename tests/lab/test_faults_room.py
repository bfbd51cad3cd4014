"""Hosts without room for what a run needs to write."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from .harness import Lab

pytestmark = pytest.mark.timeout(120)

RETURNING = """
import json, sys
import trx

def large(megabytes):
    print("about to return")
    return bytes(megabytes << 20)

with trx.Launcher(["node1"], 1, backend=None, ssh_config_file=sys.argv[1]) as launcher:
    try:
        launcher.run(large, 200)
    except trx.WorkerFailedError as error:
        print(json.dumps({"rank": error.rank, "host": error.hostname, "text": error.worker_traceback}))
    print(json.dumps(len(launcher.run(large, 1).rank(0))))
"""


def said(lab: Lab) -> list[object]:
    finished = lab.script(RETURNING, str(lab.ssh_config), env={"TRX_LOG_DIR": ""}, cwd="/", timeout=90)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines() if line != "about to return"]


def test_value_that_a_host_has_no_room_for_fails_its_rank_and_the_next_run_works(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1, tmp_size="64m")
    failed, size = said(lab)
    assert isinstance(failed, dict)
    assert (failed["rank"], failed["host"]) == (0, "node1")
    assert "No space left on device" in failed["text"]
    assert size == 1 << 20
    assert lab.leftovers() == []
