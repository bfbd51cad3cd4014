"""Output as records of `logging`, for handlers in the launcher's process."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from functools import partial

from trx.output import loggers
from trx.output.escapes import plain
from trx.output.handlers import SourceFilter
from trx.output.lines import LineSplitter
from trx.output.outputs import Source
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

_STREAMS = {Kind.STDOUT: "stdout", Kind.STDERR: "stderr", Kind.AGENT: "stderr"}
_LATEST = 1e11
"""Seconds since the epoch: a time that `time.localtime` can still tell."""


class HandlerSink:
    """Makes a record of each line and each log record, and hands it to one handler, or to those of the loggers.

    A handler that raises gets the next record all the same. A line that was not ended when the run ends is one, too.

    Args:
        handler: None for the handlers of the loggers `trx.<hostname>.<local_rank>`.
        close: Whether the handler is to be closed at the end.
    """

    def __init__(self, handler: logging.Handler | None = None, close: bool = False) -> None:
        self.name = f"the handler {type(handler).__name__}" if handler else "the handlers of the loggers"
        self.progress = 0
        self._handler = handler
        self._close = close
        self._splitters: dict[tuple[Source, Kind], LineSplitter] = {}
        self._calling: logging.Handler | None = None
        self._last: logging.LogRecord | None = None

    def write(self, source: Source, kind: Kind, data: bytes) -> None:
        takers = self._takers(source, logging.INFO)
        if not takers:
            self._splitters.pop((source, kind), None)
            return
        splitter = self._splitters.setdefault((source, kind), LineSplitter())
        self._hand_on_lines(source, kind, splitter.feed(data), takers)

    def record(self, source: Source, record: Record) -> None:
        takers = self._takers(source, record.level)
        if takers:
            self._hand_on(_from_record(source, record), takers)

    def end(self, source: Source) -> None:
        for key in [key for key in self._splitters if key[0] == source]:
            rest = self._splitters.pop(key).end()
            self._hand_on_lines(*key, rest, self._takers(source, logging.INFO))
        if self._handler is not None and self._last is not None:
            self._call(self._handler, self._handler.flush, self._last)

    def close(self) -> None:
        for source in {source for source, _ in self._splitters}:
            self.end(source)
        if self._handler is not None and self._close:
            self._handler.close()

    def make_way(self) -> None:
        """A record is a line of its own anyway."""

    def give_up(self) -> None:
        """Replaces the lock that the handler's thread holds, which `logging` would wait for when the process exits."""
        if (handler := self._calling) is not None:
            handler.createLock()

    def _takers(self, source: Source, level: int) -> list[logging.Handler]:
        """Who wants what the source prints at this level."""
        name = loggers.logger_name(source)
        if level < loggers.threshold(name):
            return []
        candidates = [self._handler] if self._handler is not None else loggers.handlers(name)
        return [each for each in candidates if level >= each.level and _may_want(each, source)]

    def _hand_on_lines(self, source: Source, kind: Kind, lines: Iterable[str], takers: list[logging.Handler]) -> None:
        for line in lines:
            self._hand_on(_from_line(source, _STREAMS[kind], line), takers)

    def _hand_on(self, record: logging.LogRecord, takers: list[logging.Handler]) -> None:
        if loggers.lets_pass(record.name, record):
            for handler in takers:
                self._call(handler, partial(handler.handle, record), record)

    def _call(self, handler: logging.Handler, call: Callable[[], object], record: logging.LogRecord) -> None:
        self._calling, self._last = handler, record
        lock = handler.lock
        try:
            call()
        except BaseException:  # SystemExit as well: the thread has other records to hand on
            if handler.lock is lock:  # else it was given up, and only fails to let go of a lock that it no longer has
                with contextlib.suppress(BaseException):
                    handler.handleError(record)
        self._calling = None
        self.progress += 1


def _may_want(handler: logging.Handler, source: Source) -> bool:
    """Spares a handler for one worker the lines of all others, which its filter would not let pass."""
    return all(
        each.admits(source.hostname, source.local_rank) for each in handler.filters if isinstance(each, SourceFilter)
    )


def _from_line(source: Source, stream: str, line: str) -> logging.LogRecord:
    return _make(source, stream, level=logging.INFO, created=time.time(), msg=line)


def _from_record(source: Source, record: Record) -> logging.LogRecord:
    return _make(
        source,
        "log",
        level=record.level,
        created=record.created if 0 <= record.created < _LATEST else time.time(),
        msg=plain(record.message),
        exc_text=plain(record.exc_text) or None,
        origin=plain(record.name),
        pathname=record.pathname,
        filename=os.path.basename(record.pathname),
        lineno=record.lineno,
        funcName=record.funcName,
    )


def _make(source: Source, stream: str, *, level: int, created: float, **attributes: object) -> logging.LogRecord:
    about = {
        "name": loggers.logger_name(source),
        "levelno": level,
        "levelname": logging.getLevelName(level),
        "created": created,
        "msecs": int(created % 1 * 1000),
        "processName": str(source),
        "hostname": source.hostname,
        "rank": source.rank,
        "local_rank": source.local_rank,
        "stream": stream,
        "origin": stream,
    }
    return logging.makeLogRecord({**about, **attributes})
