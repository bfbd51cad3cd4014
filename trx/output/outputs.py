"""The thread that writes what workers print, so that no slow terminal or file system holds up the network."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Protocol

from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Reader, Record

_logger = logging.getLogger("trx")


@dataclass(frozen=True)
class Source:
    """Who printed: a worker, or an agent (rank and local rank None).

    Attributes:
        hostname: Unique label of the agent, e.g. "node1", or "localhost#2" where a host is named twice.
        local_rank: The worker's, on its host.
        rank: The worker's, of all.
    """

    hostname: str
    local_rank: int | None
    rank: int | None

    def __str__(self) -> str:
        return self.hostname if self.local_rank is None else f"{self.hostname}[{self.local_rank}]"


class Sink(Protocol):
    """Where output goes. Called from one thread only; one that raises is not called again, but to close it."""

    def write(self, source: Source, kind: Kind, data: bytes) -> None:
        """Takes the next bytes of the source's stream `kind` (STDOUT, STDERR or AGENT)."""

    def record(self, source: Source, record: Record) -> None:
        """Takes a log record."""

    def end(self, source: Source) -> None:
        """The source prints no more in this run: what is held back of it is due."""

    def close(self) -> None:
        """No source prints any more."""


class Outputs:
    """Hands what workers print to sinks, in a thread of its own.

    Args:
        sinks: Each gets everything.
        consumed: Called from the thread with the token of a `feed` and its number of bytes, once all sinks have taken
            them. Who feeds no more than was consumed bounds the memory used here.
    """

    def __init__(self, sinks: Sequence[Sink], consumed: Callable[[object, int], None]) -> None:
        self._sinks = tuple(sinks)
        self._working = list(sinks)
        self._consumed = consumed
        self._readers: dict[Source, Reader | None] = {}
        self._steps: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="trx-output", daemon=True)
        self._thread.start()

    def feed(self, source: Source, kind: Kind, data: bytes, token: object) -> None:
        """Queues the next bytes of a stream; never blocks. What comes after `close` is dropped."""
        self._steps.put(partial(self._take, source, kind, data, token))

    def end(self, source: Source) -> None:
        """The source prints no more in this run."""
        self._steps.put(partial(self._end, source))

    def close(self, timeout: float) -> bool:
        """Waits until everything fed so far is written and flushed; False if `timeout` seconds were not enough."""
        self._steps.put(None)
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (step := self._steps.get()) is not None:
            try:
                step()
            except Exception as error:  # `consumed` raised: what other sources print must still be written
                _report("cannot give credit for output", error)
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                if sink in self._working:
                    _report(f"cannot close {type(sink).__name__}", error)

    def _take(self, source: Source, kind: Kind, data: bytes, token: object) -> None:
        if kind is Kind.RECORDS:
            for record in self._parse(source, data):
                self._each(partial(_pass_record, source=source, record=record))
        else:
            self._each(lambda sink: sink.write(source, kind, data))
        self._consumed(token, len(data))

    def _parse(self, source: Source, data: bytes) -> list[Record]:
        reader = self._readers.setdefault(source, Reader())
        if reader is None:
            return []
        try:
            return reader.feed(data)
        except ValueError as error:
            self._readers[source] = None
            _report(f"the log records of {source} are malformed, the rest of them is not shown", error)
            return []

    def _end(self, source: Source) -> None:
        self._readers.pop(source, None)
        self._each(lambda sink: sink.end(source))

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in tuple(self._working):
            try:
                call(sink)
            except Exception as error:
                self._working.remove(sink)
                _report(f"{type(sink).__name__} gets no more output", error)


def _pass_record(sink: Sink, source: Source, record: Record) -> None:
    sink.record(source, record)


def _report(what: str, error: Exception) -> None:
    with contextlib.suppress(Exception):  # a handler of the user's may raise
        _logger.warning("%s: %s: %s", what, type(error).__name__, error)
