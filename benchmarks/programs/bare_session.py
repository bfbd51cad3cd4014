"""The bare chain: forkserver with torch → runner → torch's `MultiprocessContext`, and nothing around it.

It is the floor of a warm launch: no agent, no wire, no logs, no care for what goes wrong.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.programs.talk import serve, settings


def run(wanted: dict[str, Any]) -> dict[str, float]:
    """One run."""
    began = time.perf_counter()
    ours, theirs = context.Pipe()
    process = context.Process(target=runner, args=(theirs, wanted["workers"], wanted["backend"]))
    process.start()
    theirs.close()
    assert ours.recv() == wanted["workers"]
    process.join()
    return {"seconds": time.perf_counter() - began}


def runner(connection: Connection, workers: int, backend: str | None) -> None:
    """In the process of one run: torch is there already."""
    from benchmarks.programs import bare_chain

    bare_chain.runner(connection, workers, backend)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.getcwd()  # for the forkserver, which does not take over sys.path
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "benchmarks.programs.bare_chain"])
    settled = settings()
    run(settled)
    serve(lambda: run(settled))
