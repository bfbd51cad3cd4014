"""The launcher's own terminal, or whatever else its sys.stdout and sys.stderr are."""

from __future__ import annotations

import contextlib
import io
import select
import sys
from typing import TextIO

from trx.output.escapes import EscapeFilter, neutralise
from trx.output.lines import format_record
from trx.output.outputs import Source
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

_NAMES = {Kind.STDOUT: "stdout", Kind.STDERR: "stderr"}
_PIECE = 1000
"""Characters, of at most four bytes: less than PIPE_BUF, which a pipe that is ready takes without blocking."""


class Terminal:
    """Shows what one rank prints as it comes, and its log records on stderr.

    sys.stdout and sys.stderr are looked up for each write, as tests and notebooks replace them. One that cannot be
    written to (a closed pipe or file) is left alone from then on; the other is still written to.

    Args:
        rank: Whose output is shown.
    """

    def __init__(self, rank: int = 0) -> None:
        self._rank = rank
        self._filters: dict[tuple[Source, Kind], EscapeFilter] = {}
        self._broken: dict[str, TextIO] = {}
        self._in_line = False  # whether stderr is in the middle of a line, such as a progress bar

    def write(self, source: Source, kind: Kind, data: bytes) -> None:
        if source.rank != self._rank or kind not in _NAMES:
            return
        key = source, kind
        if key not in self._filters:
            self._filters[key] = EscapeFilter()
        self._show(kind, self._filters[key].feed(data))

    def record(self, source: Source, record: Record) -> None:
        if source.rank == self._rank:
            line_end = "\n" if self._in_line else ""
            self._show(Kind.STDERR, line_end + neutralise(format_record(record)))

    def end(self, source: Source) -> None:
        for kind in _NAMES:
            escape_filter = self._filters.pop((source, kind), None)
            if escape_filter is not None:
                self._show(kind, escape_filter.end())

    def close(self) -> None:
        for source in {source for source, _ in self._filters}:
            self.end(source)

    def _show(self, kind: Kind, text: str) -> None:
        if not text:
            return
        if kind is Kind.STDERR:
            self._in_line = text[-1] not in "\r\n"
        name = _NAMES[kind]
        stream: TextIO | None = getattr(sys, name)
        if stream is None or stream is self._broken.get(name):
            return
        try:
            _print(stream, text)
        except (OSError, ValueError):
            self._broken[name] = stream


def _print(stream: TextIO, text: str) -> None:
    descriptor = _descriptor(stream)
    if descriptor is None:
        _write(stream, text)
        stream.flush()
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    # A thread that is stuck in a write holds the stream's lock, for which Python waits when it exits; and in
    # non-blocking mode, which whoever shares the terminal may set, a write loses what exceeds the buffer. So: wait
    # first, and then write no more than fits. The empty piece makes room by flushing what the user's own prints left.
    for piece in ("", *(text[start : start + _PIECE] for start in range(0, len(text), _PIECE))):
        poll.poll()
        with contextlib.suppress(BlockingIOError):  # raised by a flush at a line end: the piece lies in the buffer
            _write(stream, piece)
        while True:
            try:
                stream.flush()
                break
            except BlockingIOError:
                poll.poll()


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError as error:
        stream.write(text.encode(error.encoding, "replace").decode(error.encoding))


def _descriptor(stream: TextIO) -> int | None:
    """What the stream writes to; None for a notebook's, a test's, and other objects that only look like files."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None
