"""The launcher's own terminal, or whatever else its sys.stdout and sys.stderr are."""

from __future__ import annotations

import sys
from typing import TextIO

from trx.output.escapes import EscapeFilter, neutralise
from trx.output.lines import format_record
from trx.output.outputs import Source
from trx.output.streams import print_pieces
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

_NAMES = {Kind.STDOUT: "stdout", Kind.STDERR: "stderr"}


class Terminal:
    """Shows what one rank prints as it comes, and its log records on stderr.

    Agents are left out. They hardly ever print anything but warnings of torch's, and their last words before an early
    end are in the error.

    sys.stdout and sys.stderr are looked up for each write, as tests and notebooks replace them. One that cannot be
    written to (a closed pipe or file) is left alone from then on; the other is still written to.

    Args:
        rank: Whose output is shown.
    """

    name = "the terminal"

    def __init__(self, rank: int = 0) -> None:
        self.progress = 0
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
            self.make_way()
            self._show(Kind.STDERR, neutralise(format_record(record)))

    def end(self, source: Source) -> None:
        for kind in _NAMES:
            escape_filter = self._filters.pop((source, kind), None)
            if escape_filter is not None:
                self._show(kind, escape_filter.end())
        if source.rank == self._rank:
            self.make_way()  # for what the user's own code, or a traceback, says next

    def close(self) -> None:
        for source in {source for source, _ in self._filters}:
            self.end(source)

    def make_way(self) -> None:
        """Ends the line that stderr is in the middle of."""
        if self._in_line:
            self._show(Kind.STDERR, "\n")

    def give_up(self) -> None:
        """Nothing holds what anybody else needs."""

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
            for _ in print_pieces(stream, text):
                self.progress += 1
        except (OSError, ValueError):
            self._broken[name] = stream
