"""How bytes become lines: merging the streams of one file at line ends, and a log record as one line of text."""

from __future__ import annotations

import logging
from datetime import datetime

from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

LONGEST = 64 << 10
"""A line without an end is held back up to this many bytes."""


class LineMerger:
    """Merges streams that end up in the same file, so that none cuts the lines of another.

    A line ends with LF, CR LF, or a lone CR (a progress bar's). What follows the last line end is held back until its
    own end comes; so is a CR at the very end, as the LF that belongs to it may be still to come.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._held: dict[Kind, bytearray] = {}

    def feed(self, kind: Kind, data: bytes) -> bytes:
        """Returns what can be written now, and holds the rest."""
        held = self._held.setdefault(kind, bytearray())
        cut = _end_of_last_line(data)
        if cut == 0 and data and held.endswith(b"\r"):
            ready = bytes(held)
            held.clear()
        elif cut == 0:
            ready = b""
        elif held:
            ready = b"".join((held, memoryview(data)[:cut]))
            held.clear()
        else:
            ready = data[:cut]
        held += memoryview(data)[cut:]
        if len(held) > self._longest:
            ready += held
            held.clear()
        return ready

    def end(self) -> bytes:
        """Returns all that is held: no more is to come."""
        rest = b"".join(self._held.values())
        self._held.clear()
        return rest


def _end_of_last_line(data: bytes) -> int:
    newline = data.rfind(b"\n") + 1
    carriage_return = data.rfind(b"\r", newline, max(newline, len(data) - 1)) + 1
    return max(newline, carriage_return)


def format_record(record: Record) -> str:
    """A log record as `2026-11-20 16:04:05.123 WARNING name: message`, in local time, with a line end."""
    try:
        time = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):  # not a time: a worker can send any number
        time = str(record.created)
    return f"{time} {logging.getLevelName(record.level)} {record.name}: {record.message}\n"
