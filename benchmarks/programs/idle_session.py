"""The CPU time of a launcher and its agent while their workers are busy with nothing of trx's concern."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.programs.talk import answer, serve, settings

os.environ["TRX_LOG_DIR"] = ""

import cloudpickle

import trx
from benchmarks.programs import works

cloudpickle.register_pickle_by_value(works)
wanted = settings()


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have used so far, by the scheduler's own clock: ticks would be too coarse."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def watch(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """Percent of a core, for a while."""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    return {name: 100 * (cpu_seconds(pid) - before[name]) / seconds for name, pid in pids.items()}


with trx.Launcher(hostnames=["localhost"], workers_per_host=2, backend=None) as launcher:
    launcher.run(works.nothing)
    engine: Any = launcher._session._engine  # type: ignore[union-attr]
    watched = {"launcher": os.getpid(), "agent": engine._hellos[0].pid}
    threading.Thread(target=launcher.run, args=(works.idle, wanted["life"]), daemon=True).start()
    time.sleep(2)
    serve(lambda: watch(watched, wanted["seconds"]))
    answer()
    os._exit(0)  # the run is still going on; the guardian ends it
