"""A host's steward: the launcher's thread that starts the agent there and hears of its end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from trx.errors import HostFailure
from trx.hosts.channel import Channel, HostUnusable
from trx.worker_end import signal_name
from trx_agent.protocol.bootstrap import MARKER, NOISE, Detour, Ready, Refused, Unreachable, detour_line, read_status
from trx_agent.protocol.decoding import Malformed

KEPT = 8192
"""Bytes of what an agent printed that are kept for the message, should it fail."""

_FAREWELL = 5.0


class Front(Protocol):
    """What a steward needs of the launcher. All methods may be called from any thread."""

    def bootstrap(self, agent: int, address: str) -> bytes:
        """What is to be written to the agent's stdin, the launcher listening at `address` from now on."""

    def port(self, address: str) -> int:
        """The launcher's port at one of its addresses."""

    def agent_printed(self, agent: int, text: bytes) -> None: ...

    def agent_ended(self, agent: int, failure: HostFailure) -> None:
        """Nothing more comes from this agent; `failure` says why, should it have been needed still."""


class Steward:
    """Starts one agent and watches its channel, in a thread of its own that ends with the agent."""

    def __init__(
        self, agent: int, label: str, channel: Channel, front: Front, explain: Callable[[int | None, str], HostFailure]
    ) -> None:
        self._agent = agent
        self._label = label
        self._channel = channel
        self._front = front
        self._explain = explain
        self._printed = b""
        self._thread = threading.Thread(target=self._live, name=f"trx-steward-{label}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Lets go of the agent: its guardian ends everything on the host, in the time that was agreed."""
        self._channel.close()

    def join(self, timeout: float) -> bool:
        """Waits until the agent's end was seen; returns whether it was."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _live(self) -> None:
        try:
            failure = self._attend()
        except HostUnusable as unusable:
            failure = unusable.failure
        except OSError as error:
            failure = HostFailure(self._label, "starting the agent", f"the connection broke: {error}")
        except Malformed as error:
            failure = HostFailure(self._label, "starting the agent", f"it answered what is no status: {error}")
        except Exception as error:  # whatever it is: the launch must not wait for this agent
            failure = HostFailure(self._label, "starting the agent", f"{type(error).__name__}: {error}")
        finally:
            self._channel.close()
        self._front.agent_ended(self._agent, failure)

    def _attend(self) -> HostFailure:
        """Returns why the agent ended."""
        self._channel.open()
        bootstrap = self._front.bootstrap(self._agent, self._channel.launcher_address())
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and may have said why
            self._channel.write(bootstrap)
        while True:
            status = self._read_status()
            if isinstance(status, Refused):
                self._channel.wait(_FAREWELL)
                return HostFailure(self._label, status.stage, status.reason, status.advice)
            if status is None:
                return self._explain(self._channel.wait(_FAREWELL), self._printed.decode(errors="replace"))
            if isinstance(status, Ready):
                break
            port = self._forward(status)
            self._channel.write(detour_line(Detour(f"tcp://127.0.0.1:{port}")))
        while data := self._channel.read():
            self._printed = (self._printed + data)[-KEPT:]
            self._front.agent_printed(self._agent, data)
        return self._ended()

    def _forward(self, status: object) -> int:
        """The host's port that leads to the launcher, which it cannot reach itself."""
        try:
            return self._channel.forward(self._front.port("127.0.0.1"))
        except HostUnusable as unusable:
            words = f"it cannot connect to the launcher ({status.reason}); " if isinstance(status, Unreachable) else ""
            raise HostUnusable(replace(unusable.failure, reason=words + unusable.failure.reason)) from unusable

    def _read_status(self) -> object | None:
        """Skips what the login shell prints; returns the agent's status, or None where it ended without one."""
        while len(self._printed) < NOISE:
            _, marker, after = self._printed.rpartition(MARKER)
            if marker and b"\n" in after:
                line, _, self._printed = after.partition(b"\n")
                return read_status(line)
            data = self._channel.read()
            if not data:
                return None
            self._printed += data
        failure = HostFailure(self._label, "starting Python", f"its login shell printed more than {NOISE} bytes")
        raise HostUnusable(failure)

    def _ended(self) -> HostFailure:
        status = self._channel.wait(_FAREWELL)
        words = self._printed.decode(errors="replace").strip()
        if status is None:
            how = "the connection to it ended"
        elif status < 0 or status > 128:  # of a process, or as a shell and the guardian tell it
            how = f"its agent was killed by {signal_name(-status if status < 0 else status - 128)}"
        else:
            how = f"its agent ended with status {status}"
        return HostFailure(self._label, "running", f"{how}: {words}" if words else how)
