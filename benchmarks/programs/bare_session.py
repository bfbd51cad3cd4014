"""The bare chain: forkserver with torch → runner → torch's `MultiprocessContext`, and nothing around it.

It is the floor of a warm launch: no agent, no wire, no logs, no care for what goes wrong.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from talk import serve, settings


def run(wanted: dict[str, Any]) -> dict[str, float]:
    """One run."""
    import bare_chain  # only its name is needed here, but a module that has torch cannot be had for less

    began = time.perf_counter()
    ours, theirs = context.Pipe()
    process = context.Process(target=bare_chain.runner, args=(theirs, wanted["workers"], wanted["backend"]))
    process.start()
    theirs.close()
    assert ours.recv() == wanted["workers"]
    process.join()
    return {"seconds": time.perf_counter() - began}


if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bare_chain"])
    settled = settings()
    run(settled)
    serve(lambda: run(settled))
