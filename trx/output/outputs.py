"""Hands what workers print to sinks, each in a thread of its own, so that none of them holds up the network."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Protocol

from trx.output.streams import wait_for_room
from trx.output.writer import Writer
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import MalformedRecords, Reader, Record

_logger = logging.getLogger("trx")

_LAST_WORDS = 1.0
"""Seconds for messages at the very end."""


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
    """Where output goes. Called from one thread only; one that raises is not called again, but to close it.

    Attributes:
        name: What messages call it.
        progress: Changes while a call is dealt with; by this one that is slow is told from one that is stuck.
    """

    name: str
    progress: int

    def write(self, source: Source, kind: Kind, data: bytes) -> None:
        """Takes the next bytes of the source's stream `kind` (STDOUT, STDERR or AGENT)."""

    def record(self, source: Source, record: Record) -> None:
        """Takes a log record."""

    def end(self, source: Source) -> None:
        """The source prints no more in this run: what is held back of it is due."""

    def close(self) -> None:
        """No source prints any more."""

    def make_way(self) -> None:
        """A message of the launcher's follows on stderr. From another thread."""

    def give_up(self) -> None:
        """The call that is under way is not waited for any longer. From another thread."""


class _Lane:
    """A sink, and the thread that calls it."""

    def __init__(self, sink: Sink, say: Callable[[str], None]) -> None:
        self._sink = sink
        self._say = say
        self._broken = False
        self.writer = Writer(f"trx-output: {sink.name}", lambda: sink.progress, sink.give_up)

    def put(self, call: Callable[[Sink], None], size: int, taken: Callable[[], None]) -> None:
        self.writer.put(partial(self._call, call), size, taken)

    def close(self) -> None:
        self.writer.put(self._close, 0, _nothing)
        self.writer.close()

    def losses(self) -> str:
        """What the sink did not get, in words; "" for nothing."""
        lost = self.writer.take_lost()
        return f"{self._sink.name} is stuck: up to {lost} bytes of output did not get there" if lost else ""

    def _call(self, call: Callable[[Sink], None]) -> None:
        if self._broken:
            return
        try:
            call(self._sink)
        except BaseException as error:  # SystemExit as well: this thread is needed
            self._broken = True
            self._say(f"{self._sink.name} gets no more output: {type(error).__name__}: {error}")

    def _close(self) -> None:
        try:
            self._sink.close()
        except BaseException as error:
            if not self._broken:
                self._say(f"cannot close {self._sink.name}: {type(error).__name__}: {error}")


class _Countdown:
    """Calls back when as many have called it as there are."""

    def __init__(self, count: int, call: Callable[[], None]) -> None:
        self._left = count
        self._call = call
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._call()


class Outputs:
    """Hands what workers print to sinks, and says in the log what the launcher has to say, all in threads of its own.

    A sink that is slow holds up nothing but credit. One that is stuck is given up when nothing but the output is
    waited for (`watch`).

    Args:
        sinks: Each gets everything.
        consumed: Called with the token of a `feed` and its number of bytes, once all sinks have taken them. Who feeds
            no more than was consumed bounds the memory used here.
    """

    def __init__(self, sinks: Sequence[Sink], consumed: Callable[[object, int], None]) -> None:
        self._consumed = consumed
        self._voice = Writer("trx-output: messages", lambda: 0, _nothing)
        self._sinks = tuple(sinks)
        self._lanes = [_Lane(sink, self.say) for sink in sinks]
        self._readers: dict[Source, Reader] = {}
        self._malformed: set[Source] = set()  # whose malformed records were told of
        self._steps: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="trx-output", daemon=True)
        self._thread.start()

    def feed(self, source: Source, kind: Kind, data: bytes, token: object) -> None:
        """Queues the next bytes of a stream; never blocks. What comes after `close` is dropped."""
        self._steps.put(partial(self._take, source, kind, data, token))

    def end(self, source: Source) -> None:
        """The source prints no more in this run."""
        self._steps.put(partial(self._end, source))

    def say(self, text: str, level: int = logging.WARNING) -> None:
        """Logs a message of the launcher's, after those before; never blocks, unlike the handlers of loggers."""
        self._voice.put(partial(self._log, level, text), 0, _nothing)

    def when_written(self, call: Callable[[], None]) -> None:
        """Has `call` called when all that was fed and said before is dealt with."""
        self._steps.put(partial(self._all_written, call))

    def watch(self, now: float, hurry: bool) -> None:
        """Gives up sinks that are stuck; see `Writer.watch`."""
        for each in self._writers():
            each.watch(now, hurry)

    def say_losses(self) -> None:
        """Says what sinks have not got since the last call."""
        for losses in filter(None, [lane.losses() for lane in self._lanes]):
            self.say(losses)

    def close(self, timeout: float) -> bool:
        """Waits until everything fed so far is written and flushed; False if `timeout` seconds were not enough."""
        deadline = time.monotonic() + timeout
        self._steps.put(None)
        self._thread.join()  # it never blocks
        written = [lane.writer.join(deadline - time.monotonic()) for lane in self._lanes]
        for lane in self._lanes:
            lane.writer.give_up()
        self.say_losses()
        self._voice.close()
        return self._voice.join(max(_LAST_WORDS, deadline - time.monotonic())) and all(written)

    def _work(self) -> None:
        while (step := self._steps.get()) is not None:
            step()
        for lane in self._lanes:
            lane.close()

    def _take(self, source: Source, kind: Kind, data: bytes, token: object) -> None:
        def write(sink: Sink) -> None:
            sink.write(source, kind, data)

        def record(sink: Sink) -> None:
            for each in records:
                sink.record(source, each)

        records = self._parse(source, data) if kind is Kind.RECORDS else []
        taken = partial(self._call_back, partial(self._consumed, token, len(data)))
        self._each(record if kind is Kind.RECORDS else write, len(data), taken)

    def _parse(self, source: Source, data: bytes) -> list[Record]:
        try:
            return self._readers.setdefault(source, Reader()).feed(data)
        except MalformedRecords as error:
            if source not in self._malformed:
                self._malformed.add(source)
                what = f"some that rank {source.rank} has logged are not shown"
                self.say(f"the log records of {source} are malformed, {what}: {error}")
            return error.records

    def _call_back(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # what other sources print must still be written
            self.say(f"cannot give credit for output: {type(error).__name__}: {error}")

    def _end(self, source: Source) -> None:
        self._readers.pop(source, None)
        self._malformed.discard(source)
        self._each(lambda sink: sink.end(source), 0, _nothing)

    def _all_written(self, call: Callable[[], None]) -> None:
        self._each(_ignore, 0, lambda: self._voice.put(_nothing, 0, partial(self._call_back, call)))

    def _each(self, call: Callable[[Sink], None], size: int, taken: Callable[[], None]) -> None:
        countdown = _Countdown(len(self._lanes), taken)
        for lane in self._lanes:
            lane.put(call, size, countdown)
        if not self._lanes:
            taken()

    def _writers(self) -> list[Writer]:
        return [*(lane.writer for lane in self._lanes), self._voice]

    def _log(self, level: int, text: str) -> None:
        wait_for_room(sys.stderr)  # where messages go by default
        with contextlib.suppress(Exception):  # a handler of the user's may raise
            for sink in self._sinks:
                sink.make_way()
            _logger.log(level, "%s", text)


def _nothing() -> None:
    pass


def _ignore(_: Sink) -> None:
    pass
