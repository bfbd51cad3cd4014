"""How bytes become lines: for one file of several streams, and as text; and how a log record does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime

from trx.output.escapes import EscapeFilter, plain
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


class LineSplitter:
    """Cuts one stream into lines of harmless text without line ends.

    A line that was drawn over itself (a progress bar, with carriage returns) is what is last to be seen of it. One
    without an end comes in pieces.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._filter = EscapeFilter()
        self._held = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """Returns the lines that `data` completes."""
        *lines, rest = (self._held + self._filter.feed(data)).split("\n")
        rest = _last_drawn(rest) + "\r" * rest.endswith("\r")
        whole = max(0, len(rest) - 1) // self._longest * self._longest
        self._held = rest[whole:]
        return self._pieces([*map(_last_drawn, lines), rest[:whole]] if whole else map(_last_drawn, lines))

    def end(self) -> Iterator[str]:
        """Returns what is held, after which the splitter is as new."""
        rest = _last_drawn(self._held + self._filter.end())
        self._held = ""
        return self._pieces([rest] if rest else [])

    def _pieces(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            for start in range(0, max(1, len(line)), self._longest):
                yield plain(line[start : start + self._longest])


def _last_drawn(line: str) -> str:
    drawn = line.rstrip("\r")
    return drawn[drawn.rfind("\r") + 1 :]


def format_record(record: Record) -> str:
    """A log record as `2026-11-20 16:04:05.123 WARNING name: message`, in local time, with a line end."""
    try:
        time = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):  # not a time: a worker can send any number
        time = str(record.created)
    text = "\n".join(filter(None, (record.message, record.exc_text)))
    return f"{time} {logging.getLevelName(record.level)} {record.name}: {text}\n"
