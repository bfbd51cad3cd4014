"""What runs below the forkserver of `bare_session.py`: imported there once, with torch."""

from __future__ import annotations

import os
import socket
import tempfile
from multiprocessing.connection import Connection

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, MultiprocessContext


def worker(backend: str | None) -> None:
    """Joins the group, if there is one, and does nothing."""
    if backend:
        dist.init_process_group(backend)
        dist.barrier()
        dist.destroy_process_group()


def runner(connection: Connection, workers: int, backend: str | None) -> None:
    """The parent of one run's workers, as torch has it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as directory:
        port = listener.getsockname()[1]
        context = MultiprocessContext(
            name="bare",
            entrypoint=worker,
            args=dict.fromkeys(range(workers), (backend,)),
            envs={rank: environment(rank, workers, port) for rank in range(workers)},
            start_method="fork",
            logs_specs=DefaultLogsSpecs(directory),
        )
        context.start()
        store = None
        if backend:
            store = dist.TCPStore(  # type: ignore[attr-defined]  # public, but not marked as exported
                "127.0.0.1",
                port,
                workers,
                is_master=True,
                wait_for_workers=False,
                master_listen_fd=os.dup(listener.fileno()),
            )
        result = context.wait(period=0.001)
        assert result is not None
        assert not result.is_failed()
        connection.send(len(result.return_values))
        del store


def environment(rank: int, workers: int, port: int) -> dict[str, str]:
    """What `init_process_group` reads."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": workers, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    variables = {name: str(value) for name, value in names.items()}
    return {**variables, "TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
