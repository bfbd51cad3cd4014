"""How an agent comes to life: what the launcher writes to its stdin, and what it answers on stdout.

1. The host runs `python -c "..."`, whatever started it: a line that sets an alarm, in case the launcher is cut off, and
   executes the next one, with stdin as `f` (`trx.hosts.local.INTERPRETER_ARGUMENTS`).
2. The launcher writes `loader()`, one line of Python, which finds this package or says what is missing.
3. It writes a `Bootstrap`: two bytes of `messages.VERSION`, four of the body's length (both big-endian), and msgpack.
   Keys and environment travel in it, and nowhere else.
4. The agent answers with one line on stdout: `MARKER` and a `Status` in JSON. What login shells print before the
   marker is ignored, up to `NOISE` bytes.
5. On `Unreachable` the launcher opens a way through its own connection to the host, and writes a `Detour` line.
6. stdin stays open: its end tells the host that the launcher is gone.
"""

from __future__ import annotations

import msgspec

from trx_agent.protocol.decoding import Count, Name, Seconds, Text, decode
from trx_agent.protocol.messages import VERSION, Preparation

MARKER = b"\x1etrx-agent\x1e"
NOISE = 64 * 1024

FIRST_WORD = 60
"""Seconds that the launcher has for what it writes to stdin; a host that is cut off then never sees the end of it."""

_LOADER = """
import sys, json
sys.path[:] = [path for path in sys.path if path]
def refuse(reason, advice):
    status = {{"type": "Refused", "stage": "starting Python", "reason": reason, "advice": advice}}
    sys.stdout.buffer.write({marker!r} + json.dumps(status).encode() + b"\\n")
    sys.stdout.flush()
here = "%d.%d" % sys.version_info[:2]
if here != {version!r}:
    refuse(sys.executable + " is Python " + here + ", the launcher is Python {version}",
           "name an interpreter of the same minor version with python=")
else:
    try:
        from trx_agent.__main__ import main
    except ImportError as error:
        refuse(sys.executable + " cannot import " + str(error.name or "trx_agent") + ": " + str(error),
               "install the same environment there: " + sys.executable + " -m pip install trx-launch")
    else:
        main(f)
"""


def loader(python_version: str) -> bytes:
    """The line that an interpreter executes first.

    Args:
        python_version: The launcher's, like "3.11". Pickles of functions hold byte code, so minor versions must agree.
    """
    source = _LOADER.format(marker=MARKER, version=python_version)
    return f"exec({source!r})\n".encode()


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CURVE keys (Z85 text) of one agent of one launch."""

    launcher_public: bytes
    agent_public: bytes
    agent_secret: bytes

    def __repr__(self) -> str:  # secrets never reach a log or a traceback
        return "Keys(...)"


class Bootstrap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that an agent must know before it can speak.

    Attributes:
        index: Of the agent, in the order of `hostnames`.
        label: What people call this agent: its hostname, numbered where a host is named twice.
        cookie: Names this launch; every process below the agent carries it in its environment.
        endpoints: Where the launcher listens ("tcp://..."), in the order to be tried.
        workers: How many workers: a number, "auto", "gpu" or "cpu".
        local: Whether this agent is on the launcher's own machine.
        one_machine: Whether all agents of this launch are on one and the same host.
        cwd: Of the workers.
        preparation: Of the first run, so that the import of torch can begin at once.
        nonce: What the doors of the rendezvous answer with.
        beat: Seconds between signs of life.
        lease: Seconds without a sign of life after which the other side counts as gone.
        grace: Seconds between SIGTERM and SIGKILL when the launcher is gone.
    """

    index: Count
    label: str
    cookie: str
    keys: Keys
    endpoints: tuple[str, ...]
    workers: int | str
    local: bool
    one_machine: bool
    cwd: str
    preparation: Preparation
    nonce: bytes
    beat: Seconds
    lease: Seconds
    grace: Seconds

    def __repr__(self) -> str:
        return f"Bootstrap({self.label})"


class Status(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of what the agent may answer."""


class Ready(Status, frozen=True):
    """The agent is up and connects to the launcher."""


class Refused(Status, frozen=True):
    """The agent cannot work on this host."""

    stage: Name
    reason: Text
    advice: Text = ""


class Unreachable(Status, frozen=True):
    """None of the endpoints could be reached from this host; a `Detour` is expected."""

    reason: Text


class Detour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another endpoint: the near end of a tunnel."""

    endpoint: Name


AnyStatus = Ready | Refused | Unreachable

_bootstrap = msgspec.msgpack.Decoder(Bootstrap)
_status: msgspec.json.Decoder[AnyStatus] = msgspec.json.Decoder(AnyStatus)
_detour = msgspec.json.Decoder(Detour)


HEAD = 6
"""Bytes before the body of a bootstrap."""


def frame(bootstrap: Bootstrap) -> bytes:
    body = msgspec.msgpack.encode(bootstrap)
    return VERSION.to_bytes(2, "big") + len(body).to_bytes(4, "big") + body


def read_head(head: bytes) -> tuple[int, int]:
    """Returns the version of the protocol, and the size of the body."""
    return int.from_bytes(head[:2], "big"), int.from_bytes(head[2:], "big")


def unframe(body: bytes) -> Bootstrap:
    return decode(_bootstrap, body, "bootstrap")


def status_line(status: Status) -> bytes:
    return MARKER + msgspec.json.encode(status) + b"\n"


def read_status(line: bytes) -> AnyStatus:
    """Raises `Malformed` (a ValueError) where the line is none."""
    return decode(_status, line, "status line")


def detour_line(detour: Detour) -> bytes:
    return msgspec.json.encode(detour) + b"\n"


def read_detour(line: bytes) -> Detour:
    return decode(_detour, line, "detour")
