"""Launches by torchrunx, as often as the driver asks; or once, where it wants a cold launch ("cold": true)."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any

import cloudpickle
import torchrunx

from benchmarks.programs import works
from benchmarks.programs.talk import answer, serve, settings

wanted = settings()
os.environ["TORCHRUNX_LOG_DIR"] = wanted.get("log_dir", "")
cloudpickle.register_pickle_by_value(works)
function, arguments = works.work(wanted)


def run() -> dict[str, float]:
    """Launches once: it keeps nothing from one launch to the next."""
    launcher = torchrunx.Launcher(
        hostnames=wanted.get("hostnames", ["localhost"]),
        workers_per_host=wanted.get("workers", 2),
        backend=wanted.get("backend"),
        ssh_config_file=wanted.get("ssh_config"),
    )
    result: Any = None
    expected: tuple[type[BaseException], ...] = (Exception,) if wanted.get("work") == "killed" else ()
    began = time.perf_counter()
    with contextlib.suppress(*expected):
        result = launcher.run(function, *arguments)
    ended = time.perf_counter()
    numbers = {"seconds": ended - began, "ended": time.monotonic()}
    if wanted.get("work") == "lines":
        numbers["printing"] = max(value for values in result.results.values() for value in values)
    return numbers


if wanted.get("cold"):
    answer(**run())
    sys.exit()
serve(run)
