"""Handlers of `logging` at the launcher, for workers on hosts that are reached by SSH."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .harness import Lab

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
import json, logging, os, sys, threading
import trx
from trx.output import writer

writer.PATIENCE = 2.0
LINES = 50_000
kept, of_logger = [], []

class Kept(logging.Handler):
    def emit(self, record):
        kept.append([record.hostname, record.rank, record.local_rank, record.stream, record.getMessage()])

class OfLogger(logging.Handler):
    def emit(self, record):
        of_logger.append([record.name, record.getMessage()])

class Stuck(logging.Handler):
    def emit(self, record):
        threading.Event().wait()

def speak():
    print("printed")
    logging.getLogger("model").warning("logged")

def flood_and_fail():
    for number in range(LINES):
        print(number, "x" * 100)
    if os.environ["RANK"] == "1":
        raise ValueError("a failure")
    threading.Event().wait()

logging.getLogger("trx.node2").addHandler(OfLogger())
settings = {**json.loads(sys.argv[1]), "workers_per_host": 1, "backend": None, "grace_period": 1}
trx.launch(speak, log_handlers=[Kept()], **settings)
report = {"kept": list(kept), "of_logger": list(of_logger)}
kept.clear()
of_logger.clear()
try:
    trx.launch(flood_and_fail, log_handlers=[Stuck(), Kept()], **settings)
except ValueError as error:
    report["failed"] = [error.rank, error.hostname]
report["flood"] = [each[1] for each in kept]
report["of_logger_flood"] = len(of_logger)
print(json.dumps(report))
"""


@pytest.fixture
def two(make_lab: MakeLab) -> Lab:
    return make_lab(2)


def test_handlers_hear_hosts_and_one_that_is_stuck_holds_up_no_failure(two: Lab) -> None:
    settings = {"hostnames": ["node1", "node2"], "ssh_config_file": str(two.ssh_config)}
    done = two.script(SCRIPT, json.dumps(settings), env={"TRX_LOG_DIR": ""}, cwd="/", timeout=90)

    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    workers = [["node1", 0, 0], ["node2", 1, 0]]
    said = [["stdout", "printed"], ["log", "logged"]]
    of_workers = [each for each in report["kept"] if each[1] is not None]  # agents may print warnings of torch's
    assert sorted(of_workers) == sorted([*worker, *each] for worker in workers for each in said)
    assert sorted(report["of_logger"]) == [["trx.node2.0", "logged"], ["trx.node2.0", "printed"]]
    assert report["failed"] == [1, "node2"]
    assert report["flood"].count(1) == report["of_logger_flood"] == 50_000
    assert "the handler Stuck is stuck: up to " in done.stderr
    assert two.leftovers() == []
