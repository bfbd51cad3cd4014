"""The CPU time of a launcher and its agent while their workers are busy with nothing of trx's concern."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import psutil

from benchmarks.programs.talk import answer, serve, settings

os.environ["TRX_LOG_DIR"] = ""

import cloudpickle

import trx
from benchmarks.programs import works

cloudpickle.register_pickle_by_value(works)
wanted = settings()


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def watch(processes: dict[str, psutil.Process], seconds: float) -> dict[str, float]:
    """Percent of a core, for a while."""
    before = {name: cpu_seconds(process) for name, process in processes.items()}
    time.sleep(seconds)
    return {name: 100 * (cpu_seconds(process) - before[name]) / seconds for name, process in processes.items()}


with trx.Launcher(hostnames=["localhost"], workers_per_host=2, backend=None) as launcher:
    launcher.run(works.nothing)
    engine: Any = launcher._session._engine  # type: ignore[union-attr]
    watched = {"launcher": psutil.Process(), "agent": psutil.Process(engine._hellos[0].pid)}
    threading.Thread(target=launcher.run, args=(works.idle, wanted["life"]), daemon=True).start()
    time.sleep(2)
    serve(lambda: watch(watched, wanted["seconds"]))
    answer()
    os._exit(0)  # the run is still going on; the guardian ends it
