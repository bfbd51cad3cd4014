"""The words of the wire: every message that the launcher and an agent exchange, and how each is encoded.

A packet on the wire is two ZeroMQ frames: a header (a msgpack-encoded `Envelope`, small) and a body (opaque bytes,
empty for all messages but `Data`). Nothing here knows about sockets; `docs/protocol.md` tells the same in prose.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from trx_agent.protocol import decoding
from trx_agent.protocol.decoding import MOST, Count, Name, Number, Port, Seconds, Small, Text

VERSION = 3
"""Both sides must speak the same version; it is compared in the bootstrap, before any socket is opened."""


class Kind(enum.StrEnum):
    """What a stream carries."""

    STDOUT = "stdout"
    STDERR = "stderr"
    RECORDS = "records"  # logging records, see `records.py`
    VALUE = "value"  # what a worker returns, from when it begins to be written; see `payload.py`
    ERROR = "error"  # what a worker raised, see `outcome.py`
    AGENT = "agent"  # what the agent and the processes between it and the workers print
    PAYLOAD = "payload"  # the one that goes down: the function and its arguments


CHUNK = 1 << 20
"""Bytes of one body at the most: what CURVE encrypts fastest, and small enough to let control messages through."""

CHUNK_IN_FILE = 4 << 20
"""Bytes of one `DataInFile` at the most: two of them fill a value's window."""

WINDOWS = {
    Kind.STDOUT: 1 << 20,
    Kind.STDERR: 1 << 20,
    Kind.RECORDS: 1 << 20,
    Kind.AGENT: 1 << 20,
    Kind.VALUE: 8 << 20,
    Kind.ERROR: 8 << 20,
    Kind.PAYLOAD: 4 << 20,
}
"""Bytes of a stream that its sender may have sent beyond what its receiver has dealt with."""


class Stream(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One file of one worker (or of the agent, whose local rank is -1) in one run (0: the agent's own life)."""

    run: Number
    local_rank: Small
    kind: Kind


class Door(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An address and a port that an agent listens on, for the store of the workers' rendezvous."""

    address: Name
    port: Port


Doors = Annotated[tuple[Door, ...], Meta(max_length=MOST)]


class Preparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a host's forkserver is made with. A run that needs another one gets another forkserver.

    Attributes:
        variables: To be set before Python starts, above the host's own.
        env_file: Text of a shell script whose variables are to be set as well; "" for none.
        preload: Modules to be imported once, before the workers are forked.
    """

    variables: dict[str, str]
    env_file: str
    preload: tuple[str, ...]

    def __repr__(self) -> str:  # variables may be secret, and must not reach a log or a traceback
        return f"Preparation({len(self.variables)} variables)"


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of everything that travels in an envelope."""


# ---- both ways ------------------------------------------------------------------------------------------------------


class Beat(Message, frozen=True):
    """I am alive. Sent where nothing else was for a second or so."""


class Data(Message, frozen=True):
    """The packet's body continues `stream` at `offset`."""

    stream: Stream
    offset: Number


class DataInFile(Message, frozen=True):
    """`size` bytes of a file continue `stream` at `offset`: the launcher, on the same machine, reads them itself."""

    stream: Stream
    offset: Number
    size: Number
    path: Name


class Credit(Message, frozen=True):
    """The receiver of `stream` has room for its bytes up to (not including) the offset `upto`."""

    stream: Stream
    upto: Number


# ---- from an agent to the launcher ----------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """What the agent found on its host. The first message of an agent.

    Attributes:
        workers: How many workers this host will have, as the launch asked ("auto" and the like are resolved here).
        gpus: GPUs that a worker could use (NVML, narrowed by CUDA_VISIBLE_DEVICES).
        cpus: CPUs that this process may use.
        doors: Where this agent can take the workers' rendezvous; only that of rank 0's host has any.
        pid: The agent's.
        torch: Its version, without what follows a plus sign.
    """

    workers: int
    gpus: Count
    cpus: Count
    doors: Doors
    pid: Small
    torch: Name = ""


class Reached(Message, frozen=True):
    """All doors of a `Probe` that this agent has reached so far. Sent again whenever there is one more."""

    doors: Doors


class Mark(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Something was done `ago` seconds before the message that says so was sent. Hosts' clocks are not compared."""

    name: Name
    ago: Seconds


MOST_MARKS = 64
"""Of one message: each thing is done once."""

Marks = Annotated[tuple[Mark, ...], Meta(max_length=MOST_MARKS)]


class Up(Message, frozen=True):
    """The run's worker processes exist, in the order of their local ranks."""

    run: Number
    runner: Small
    workers: Annotated[tuple[Small, ...], Meta(max_length=MOST)]
    marks: Marks = ()


class Returned(Message, frozen=True):
    """The function returned: the value stream is whole up to the size that `Ended` tells."""


class Raised(Message, frozen=True):
    """The function raised; the error stream holds the exception. What was sent of a value counts for nothing.

    Attributes:
        summary: The last lines of the traceback: type and message, cut to a sensible length.
    """

    summary: Text


class Exited(Message, frozen=True):
    """The process ended by itself without an outcome."""

    code: Small


class Killed(Message, frozen=True):
    """A signal ended the process."""

    signal: Small
    oom: bool


Ending = Returned | Raised | Exited | Killed


class Ended(Message, frozen=True):
    """What became of one worker: sent once its outcome is written, or its process gone without one.

    Attributes:
        ending: How it ended.
        size: Bytes of the outcome, in the value stream or in the error stream (0 where there is none).
        last_lines: The end of what the worker printed.
        marks: What the worker had done by when.
    """

    run: Number
    local_rank: Small
    pid: Small
    ending: Ending
    size: Number
    last_lines: Text
    marks: Marks = ()


class Gone(Message, frozen=True):
    """No process of the run is left on this host, but for `leftovers`, which could not be ended."""

    run: Number
    leftovers: Annotated[tuple[Text, ...], Meta(max_length=MOST)]


class Drained(Message, frozen=True):
    """Every byte of every stream of the run has been sent. The last message of a run."""

    run: Number


class Broken(Message, frozen=True):
    """The agent cannot go on: `reason` is for the user."""

    stage: Name
    reason: Text


# ---- from the launcher to an agent ----------------------------------------------------------------------------------


class Probe(Message, frozen=True):
    """Try to reach these doors of the rank 0 host, whose agent answers with `nonce`; reply with `Reached`."""

    doors: Doors
    nonce: bytes


class Start(Message, frozen=True):
    """Start the run's workers on this host.

    Attributes:
        generation: How often this run was started before.
        ranks: The global rank of each local rank.
        environments: Variables of each local rank, above those of the host.
        payload: Bytes of the payload stream (function and arguments).
        backend: Of the process group; "" for none.
        timeout: Of the process group, seconds.
        import_paths: Where to look for modules first, as the launcher does.
        log_level: Of the workers' root logger.
        preparation: What the workers' processes are to be made with.
        rendezvous: The door that every host reached; the host whose door it is serves the store there.
        first_gpu: Which of the host's GPUs is that of local rank 0: not the first where a host is named twice.
    """

    run: Number
    generation: Count
    ranks: tuple[Count, ...]
    environments: tuple[dict[str, str], ...]
    payload: Number
    backend: str
    timeout: Seconds
    import_paths: tuple[str, ...]
    log_level: Small
    preparation: Preparation
    rendezvous: Door
    first_gpu: Count

    def with_environments(self, environments: tuple[dict[str, str], ...]) -> Start:
        return msgspec.structs.replace(self, environments=environments)


class Stop(Message, frozen=True):
    """End the run: SIGTERM, and SIGKILL after `grace` seconds. Where it is repeated, the smaller grace counts."""

    run: Number
    grace: Seconds


class Signal(Message, frozen=True):
    """The launcher was sent this signal, a warning: the run's workers on this host are to have it too."""

    run: Number
    number: Small


class Bye(Message, frozen=True):
    """End the agent, and everything below it."""


AnyMessage = (
    Beat
    | Data
    | DataInFile
    | Credit
    | Hello
    | Reached
    | Up
    | Ended
    | Gone
    | Drained
    | Broken
    | Probe
    | Start
    | Stop
    | Signal
    | Bye
)


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The header of a packet.

    Attributes:
        number: Of this message, counted from 1 by its sender; 0 for a `Beat`, which needs no delivery.
        received: Up to which number the sender has received the other side's messages.
    """

    number: Number
    received: Number
    message: AnyMessage


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    return _encoder.encode(envelope)


def decode(header: bytes) -> Envelope:
    """Raises `Malformed` (a ValueError) for anything that is not a well-formed envelope."""
    return decoding.decode(_decoder, header, "header")
