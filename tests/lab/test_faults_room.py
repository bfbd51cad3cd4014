"""Hosts without room for what a run needs to write, and launchers without room for what comes back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from .harness import Lab

pytestmark = pytest.mark.timeout(120)

RETURNING = """
import json, os, resource, sys
import trx

def large(gigabytes):
    import torch
    print("about to return")
    return torch.empty(gigabytes << 30, dtype=torch.uint8)  # takes no memory as long as nobody writes to it

def large_of_one(gigabytes):
    return large(gigabytes) if os.environ["RANK"] == "1" else "small"

def small():
    return os.environ["RANK"]

def told(error):
    return {"rank": error.rank, "host": error.hostname, "text": str(error.worker_traceback), "whole": str(error),
            "values": dict(error.values)}

def limit_memory(megabytes):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20), resource.RLIM_INFINITY))

def run(function, *args):
    try:
        launcher.run(function, *args)
    except trx.WorkerFailedError as error:
        print(json.dumps(told(error)))

with trx.Launcher(["node1"], 2, backend=None, ssh_config_file=sys.argv[1]) as launcher:
    RUNS
    print(json.dumps(launcher.run(small).by_ranks()))
"""


def said(lab: Lab, runs: str) -> list[object]:
    source = RETURNING.replace("RUNS", runs)
    finished = lab.script(source, str(lab.ssh_config), env={"TRX_LOG_DIR": ""}, cwd="/", timeout=90)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines() if line != "about to return"]


def test_value_that_a_host_has_no_room_for_fails_its_rank_and_the_next_run_works(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1, tmp_size="64m")
    failed, values = said(lab, "run(large_of_one, 10)")
    assert isinstance(failed, dict)
    assert (failed["rank"], failed["host"]) == (1, "node1")
    assert "No space left on device" in failed["text"]
    assert failed["values"] in ({}, {"0": "small"})  # it may not have come to return anything
    assert values == ["0", "1"]
    assert lab.leftovers() == []


def test_value_that_the_launcher_has_no_room_for_fails_its_rank_and_the_next_run_works(
    make_lab: Callable[..., Lab],
) -> None:
    lab = make_lab(1, tmp_size="2g")
    failed, values = said(lab, "launcher.run(small); limit_memory(400); run(large_of_one, 1)")
    assert isinstance(failed, dict)
    assert (failed["rank"], failed["host"]) == (1, "node1")
    assert "there is no room for it here" in failed["whole"]
    assert failed["values"] == {"0": "small"}
    assert values == ["0", "1"]
    assert lab.leftovers() == []


def test_arguments_that_hosts_have_no_room_for_are_told_as_that(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1, tmp_size="64m")
    source = """
import json, sys
import trx
try:
    trx.launch(len, (bytes(200 << 20),), hostnames=["node1"], workers_per_host=1, ssh_config_file=sys.argv[1])
except trx.AgentFailedError as error:
    print(json.dumps([[failure.hostname, failure.reason] for failure in error.failures]))
"""
    finished = lab.script(source, str(lab.ssh_config), env={"TRX_LOG_DIR": ""}, cwd="/", timeout=60)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    ((hostname, reason),) = json.loads(finished.stdout)
    assert hostname == "node1"
    assert "No space left on device" in reason
    assert lab.leftovers() == []
