"""The process that has imported torch once, and from which every run's processes are forked in milliseconds.

It is executed with the workers' whole environment, so that variables which only count at the start of a process
(LD_PRELOAD, OMP_NUM_THREADS) count. It stays single-threaded: a fork of a process with threads is not safe.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trx_agent.orders import BLOCKED, private_file
from trx_agent.protocol.loading import loading

_BOOT = (
    "import gc, sys; sys.path[:] = [path for path in sys.path if path]; "
    "from trx_agent.linux import die_with_parent; die_with_parent(int(sys.argv[2])); "
    "gc.disable(); import torch.distributed; "
    "from trx_agent.forkserver import serve; serve(int(sys.argv[1]), sys.argv[3:])"
)
"""torch comes before all else, as it takes longest. Nothing that is imported is garbage: looking for some costs a tenth
of a second."""

_READY = b"ready"

_ASK_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


class ForkServer:
    """The agent's handle of its forkserver.

    Args:
        environment: All variables of the process, and so of the workers.
        preload: Modules to be imported beside torch.
        log: A file for what it prints, and the processes below it before they have files of their own.
    """

    def __init__(self, environment: Mapping[str, str], preload: Sequence[str], log: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, private_file(log, "ab") as output:
            command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), *preload]
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
            )
        self.pid = self._process.pid
        self.ready_since: float | None = None
        self.condemned = False  # whether it is being ended, and serves no further run

    def fileno(self) -> int:
        """Becomes readable once the imports are done, or the process has ended: see `hear`."""
        return self._socket.fileno()

    def hear(self) -> None:
        """Learns whether the imports are done."""
        with contextlib.suppress(OSError):
            if self._socket.recv(len(_READY), socket.MSG_DONTWAIT) == _READY:
                self.ready_since = time.monotonic()

    def fork_runner(self, directory: Path, door: socket.socket | None) -> socket.socket:
        """Orders a runner for the run that `directory` describes; where the import is still going on, it comes later.

        Args:
            door: The listening socket of the rendezvous, on the host of rank 0.

        Returns:
            The agent's end of the socket to the runner.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptors = [theirs.fileno()] + ([door.fileno()] if door else [])
            # A forkserver that died closes the socket; the agent hears of its death by SIGCHLD.
            with contextlib.suppress(OSError):
                socket.send_fds(self._socket, [os.fsencode(directory)], descriptors)
        return ours

    def close(self) -> None:
        self._socket.close()


def serve(descriptor: int, preload: Sequence[str]) -> None:
    """The forkserver's life, from when it has torch: fork a runner for each order."""
    from trx_agent import runner  # here, so that it is imported once for all workers of all runs

    _import_without_cuda(preload)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # runners are watched by the agent, the kernel may reap them
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # not before: whoever has no run yet is ended by SIGTERM
    gc.freeze()
    gc.enable()
    orders = socket.socket(fileno=descriptor)
    orders.send(_READY)
    forkserver = os.getpid()
    while True:
        directory, descriptors, _, _ = socket.recv_fds(orders, 4096, 2)
        if not directory:
            return
        if os.fork() == 0:
            orders.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            runner.main(forkserver, Path(os.fsdecode(directory)), *descriptors)
        for each in descriptors:
            os.close(each)


def _import_without_cuda(modules: Sequence[str]) -> None:
    """Imports them so that one which asks `torch.cuda.is_available()` (DeepSpeed does) gets the answer from NVML.

    Else CUDA would be initialised here, and be of no use to the workers: it does not survive a fork.
    """
    ours = _ASK_NVML not in os.environ
    if ours:
        os.environ[_ASK_NVML] = "1"
    with loading():
        for module in modules:
            importlib.import_module(module)
    if ours:
        del os.environ[_ASK_NVML]
