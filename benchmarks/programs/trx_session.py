"""Launches by trx, as often as the driver asks; or once, where it wants a cold launch ("cold": true)."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any

import cloudpickle

import trx
from benchmarks.programs import works
from benchmarks.programs.talk import answer, serve, settings

wanted = settings()
os.environ["TRX_LOG_DIR"] = wanted.get("log_dir", "")
os.environ["TRX_LOG_LEVEL"] = "WARNING"
cloudpickle.register_pickle_by_value(works)
function, arguments = works.work(wanted)


def launcher() -> trx.Launcher:
    """As the driver wants it."""
    return trx.Launcher(
        hostnames=wanted.get("hostnames", ["localhost"]),
        workers_per_host=wanted.get("workers", 2),
        backend=wanted.get("backend"),
        ssh_config_file=wanted.get("ssh_config"),
    )


def run(opened: trx.Launcher) -> dict[str, float]:
    """Launches once."""
    result: Any = None
    began = time.perf_counter()
    expected: tuple[type[BaseException], ...] = (trx.LaunchError,) if wanted.get("work") == "killed" else ()
    with contextlib.suppress(*expected):
        result = opened.run(function, *arguments)
    ended = time.perf_counter()
    numbers = {"seconds": ended - began, "ended": time.monotonic()}
    if wanted.get("work") == "lines":
        numbers["printing"] = max(result)
    return numbers


def run_with_peaks(opened: trx.Launcher) -> dict[str, float]:
    """Launches once, and looks at the memory of the launcher and of the first agent."""
    from benchmarks.programs.memory import peak, reset_peak, resident

    engine: Any = opened._session._engine  # type: ignore[union-attr]
    pids = {"launcher": os.getpid(), "agent": engine._hellos[0].pid}
    before = {name: resident(pid) for name, pid in pids.items()}
    for pid in pids.values():
        reset_peak(pid)
    numbers = run(opened)
    return numbers | {f"{name} peak": peak(pid) - before[name] for name, pid in pids.items()}


if wanted.get("cold"):
    answer(**run(launcher()))
    sys.exit()
with launcher() as opened:
    opened.run(works.nothing)
    serve(lambda: (run_with_peaks if wanted.get("peaks") else run)(opened))
