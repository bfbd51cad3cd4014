"""Monarch does the same: new processes with an actor in each, as often as the driver asks; or once ("cold": true)."""

from __future__ import annotations

import os
import socket
import sys
import time

from monarch.actor import Actor, current_rank, endpoint, this_host

from benchmarks.programs.talk import answer, serve, settings

wanted = settings()


class Worker(Actor):  # type: ignore[misc]  # untyped
    """Joins the group, and does nothing."""

    @endpoint  # type: ignore[untyped-decorator]
    def work(self, world: int, port: int, backend: str | None) -> None:
        """Once in each process."""
        if backend is None:
            return
        import torch.distributed

        rank = current_rank().rank
        torch.distributed.init_process_group(backend, f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run() -> dict[str, float]:
    """New processes, one call of each, and their end."""
    began = time.perf_counter()
    processes = this_host().spawn_procs(per_host={"workers": wanted["workers"]})
    workers = processes.spawn("workers", Worker)
    workers.work.call(wanted["workers"], free_port(), wanted["backend"]).get()
    processes.stop().get()
    return {"seconds": time.perf_counter() - began}


if wanted.get("cold"):
    answer(**run())
    sys.stdout.flush()
    os._exit(0)  # its own threads would hold the process
run()
serve(run)
