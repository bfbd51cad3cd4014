"""What the agent and the processes below it tell each other: by a socket to the runner, and by names of files."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from trx_agent.protocol import decoding
from trx_agent.protocol.decoding import Small, Text
from trx_agent.protocol.messages import Kind, Start

ORDER = "order"
"""The file in a run's directory that holds its `Start` message, for the runner."""

PAYLOAD = "payload"
"""The file in a run's directory that holds the function and its arguments, for the workers."""

MARKS = "marks"
"""A worker's file of what it has done by when: lines of a name, a tab, and seconds of the host's monotonic clock."""

AGENT_LOG = "agent.log"
"""What the forkserver and the runners print, in the launch's directory."""

HOLD = "hold"
"""A worker's file that the agent holds a lock on until the run is to end. A worker that raised waits for it before it
lets go of its sockets: its peers, which fail because of that, must not be heard of before it."""

LAUNCHER_GONE = signal.SIGHUP
"""What the guardian sends the agent when the launcher has ended; of the guardian's own end the kernel tells by it."""

BLOCKED = frozenset({signal.SIGTERM, signal.SIGINT})
"""Signals that neither forkserver nor runner take, which are ended in other ways: Slurm sends them to every process of
a step, and the workers, which do take them, are to have their grace."""

LOADED, JOINED, CALLED, WRITTEN = "function loaded", "group joined", "function called", "outcome written"
WORKER_MARKS = frozenset({LOADED, JOINED, CALLED, WRITTEN})
"""Names of a worker's marks."""

TORCH_IMPORTED = "torch imported"
"""Name of a forkserver's mark."""

VALUE = Kind.VALUE.value
"""A worker's file, named after its stream as the logs are: what the function returns. Made by the agent, which sends it
while it grows."""

RETURNED, RAISED = "returned", "raised"
"""A worker's files, which appear when its outcome is whole: an empty one beside the value, or the exception."""

PART = "part"
"""A worker's file that is to appear when it is whole, until then."""

WORDS = "words"
"""A worker's file: the exception that it raises in words alone. It is the outcome where the object's own methods, which
pickling runs, end the process, or do not return."""


def private_file(path: Path, mode: Literal["wb", "ab"] = "wb") -> BinaryIO:
    """A file for this user alone, whatever the umask."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


class Started(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The workers exist, in the order of their local ranks."""

    runner: Small
    workers: tuple[Small, ...]


class WorkerGone(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A worker's process has ended; `code` is negative for a signal."""

    local_rank: Small
    code: Small


class RunnerFailed(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The workers could not be started."""

    reason: Text


Report = Started | WorkerGone | RunnerFailed

_decoder: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
_order_decoder = msgspec.msgpack.Decoder(Start)


def encode(report: Report) -> bytes:
    return msgspec.msgpack.encode(report)


def decode(data: bytes) -> Report:
    """Raises `Malformed` where it is no report."""
    return decoding.decode(_decoder, data, "report of the process that holds the workers")


def read_order(directory: Path) -> Start:
    """Raises `Malformed` where a run's directory holds no order."""
    return decoding.decode(_order_decoder, (directory / ORDER).read_bytes(), "order")
