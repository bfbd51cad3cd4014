"""Agents on many hosts, until all have said hello: by trx, in its own words.

There is no public word for it, so this looks into the engine.
"""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.programs.talk import answer, settings

os.environ["TRX_LOG_DIR"] = ""

import trx

wanted = settings()
launcher = trx.Launcher(
    hostnames=wanted["hostnames"],
    workers_per_host=1,
    backend=None,
    ssh_config_file=wanted["ssh_config"],
    extra_env_vars={"PYTHONPATH": wanted["asleep"]},
)
began = time.perf_counter()
with launcher:
    engine: Any = launcher._session._engine  # type: ignore[union-attr]
    while len(engine._hellos) < len(wanted["hostnames"]):
        assert not engine._ended, engine._ended
        assert time.perf_counter() - began < 120, f"only {len(engine._hellos)} agents said hello"
        time.sleep(0.005)
    seconds = time.perf_counter() - began
answer(seconds=seconds)
