"""One run's parent on a host: owns torch's `MultiprocessContext`, serves the rendezvous, and reports who ended.

A process of its own, forked from the forkserver, so that each run's workers have a parent whose main thread lives as
long as they do, and that nothing of a run is left over for the next one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import tempfile
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not marked as exported
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, MultiprocessContext, Std

from trx_agent import worker
from trx_agent.linux import die_with_parent, inherit_orphans, reap
from trx_agent.orders import RunnerFailed, Started, WorkerGone, encode, read_order
from trx_agent.protocol.messages import Start


class _WorkerFiles(LogsSpecs):
    """Each worker's stdout and stderr go to files in its own directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory), redirects=Std.ALL)
        self._directory = directory

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        folders = {local_rank: self._directory / str(local_rank) for local_rank in envs}
        for local_rank, folder in folders.items():
            envs[local_rank]["TORCHELASTIC_ERROR_FILE"] = str(folder / "error.json")
        return LogsDest(
            stdouts={local_rank: str(folder / "stdout") for local_rank, folder in folders.items()},
            stderrs={local_rank: str(folder / "stderr") for local_rank, folder in folders.items()},
            error_files={local_rank: str(folder / "error.json") for local_rank, folder in folders.items()},
        )

    @property
    def root_log_dir(self) -> str:
        return str(self._directory)


def main(forkserver: int, directory: Path, agent: int, door: int | None = None) -> NoReturn:
    """The runner's life. Ends when the agent closes its socket, or with the forkserver.

    Args:
        forkserver: Its pid, this process's parent.
        directory: Of the run.
        agent: Descriptor of the socket to the agent.
        door: Descriptor of the listening socket for the rendezvous, on the host of rank 0.
    """
    die_with_parent(forkserver)
    inherit_orphans()
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    to_agent = socket.socket(fileno=agent)
    try:
        inherited = [agent, reading, writing] + ([] if door is None else [door])
        _run(to_agent, directory, reading, door, inherited)
    except Exception:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            to_agent.send(encode(RunnerFailed(traceback.format_exc()[-8000:])))
            to_agent.recv(1)  # the agent has read it, and closes
    finally:
        os._exit(0)  # without multiprocessing's wait for its children: what is left of them dies with this process


def _run(to_agent: socket.socket, directory: Path, wakeup: int, door: int | None, inherited: list[int]) -> None:
    order = read_order(directory)
    context = _start_workers(order, directory, inherited)
    workers = [pid for _, pid in sorted(context.pids().items())]
    to_agent.send(encode(Started(os.getpid(), tuple(workers))))
    _report_the_quickest(context, to_agent)
    store = None if door is None else _serve_rendezvous(order, door)
    _watch(to_agent, wakeup, workers)
    del store


def _start_workers(order: Start, directory: Path, inherited: list[int]) -> MultiprocessContext:
    local_world = range(len(order.ranks))
    tempfile.tempdir = str(directory)  # torch makes a file name for each worker: not in the public /tmp
    context = MultiprocessContext(
        name="trx",
        entrypoint=worker.main,
        args={local_rank: (order, local_rank, directory, os.getpid(), inherited) for local_rank in local_world},
        envs={local_rank: dict(order.environments[local_rank]) for local_rank in local_world},
        start_method="fork",
        logs_specs=_WorkerFiles(directory),
    )
    handlers = {number: signal.getsignal(number) for number in worker.TORCH_HANDLES}
    context.start()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return context


def _report_the_quickest(context: MultiprocessContext, agent: socket.socket) -> None:
    """Reports workers that ended while others were still being started.

    Whenever multiprocessing starts a process it reaps those that have ended, so `reap` will never see them.
    """
    assert context._pc is not None  # private, but nothing else knows the exit codes
    for local_rank, process in enumerate(context._pc.processes):
        if process.exitcode is not None:
            agent.send(encode(WorkerGone(local_rank, process.exitcode)))


def _serve_rendezvous(order: Start, door: int) -> TCPStore:
    """The store behind MASTER_ADDR and MASTER_PORT, on a socket that was listening before: no race for the port.

    It has threads, so it comes after the workers were forked; their connections wait in the socket's queue.
    """
    make = partial(
        TCPStore,
        order.rendezvous.address,
        order.rendezvous.port,
        int(order.environments[0]["WORLD_SIZE"]),
        is_master=True,
        timeout=timedelta(seconds=order.timeout),
        wait_for_workers=False,
        master_listen_fd=door,
    )
    try:
        return make()
    except NotImplementedError:  # by torch 2.6, whose libuv takes no socket
        return make(use_libuv=False)


def _watch(agent: socket.socket, wakeup: int, workers: list[int]) -> None:
    """Reports each worker that ends, and reaps the orphans that this process inherits, until the agent has enough."""
    local_ranks = {pid: local_rank for local_rank, pid in enumerate(workers)}
    descriptor = agent.fileno()
    while True:
        for pid, code in reap().items():
            if pid in local_ranks:
                agent.send(encode(WorkerGone(local_ranks[pid], code)))
        ready, _, _ = select.select([descriptor, wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
        if descriptor in ready and not agent.recv(1):
            return
