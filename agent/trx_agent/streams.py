"""Files that grow, read as ranges: how what a worker produces leaves its host.

A worker writes to files, never waits for a reader, and may crash at any moment: what it had written is there. The agent
sends ranges of these files as far as the launcher has given credit, so that neither side's memory grows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from trx_agent.linux import punch_hole
from trx_agent.protocol.messages import CHUNK, CHUNK_IN_FILE, WINDOWS, Data, DataInFile, Stream

_HOLE = 8 << 20
_KEPT = 1 << 20
"""Bytes that stay on the host although they were sent: the end of a log is shown in error messages."""


class Outflow:
    """One file on its way to the launcher.

    Args:
        stream: What the launcher knows it as.
        path: Of the file, which need not be there yet.
        local: Whether the launcher can read the file itself, so that only the news of it must be sent.
    """

    def __init__(self, stream: Stream, path: Path, local: bool) -> None:
        self.stream = stream
        self.offset = 0
        self._local = local
        self._path = path
        self._credit = WINDOWS[stream.kind]
        self._descriptor = -1
        self._punched = 0

    def grant(self, upto: int) -> bool:
        """The launcher has room up to here; what it has dealt with need not be kept on this host any longer.

        Returns:
            Whether it had none before. Else there is nothing to be sent that `news` has not told of.
        """
        had_none = self.offset >= self._credit
        self._credit = max(self._credit, upto)
        dealt_with = self._credit - WINDOWS[self.stream.kind] - _KEPT
        if dealt_with - self._punched >= _HOLE and self._open():
            punch_hole(self._descriptor, self._punched, dealt_with)
            self._punched = dealt_with
        return had_none

    def news(self) -> Iterator[tuple[Data | DataInFile, bytes]]:
        """Messages, and their bodies, that may be sent now: each counts as sent once it is yielded.

        They end where the file ended at the beginning: who would go on would race with whoever writes, byte by byte.
        """
        end = min(self.size(), self._credit)
        longest = CHUNK_IN_FILE if self._local else CHUNK
        while self.offset < end:
            start = self.offset
            size = min(longest, end - start)
            if self._local:
                self.offset += size
                yield DataInFile(self.stream, start, size, str(self._path)), b""
                continue
            body = os.pread(self._descriptor, size, start)
            if not body:
                return  # whoever writes has just cut the file off
            self.offset += len(body)
            yield Data(self.stream, start), body

    @property
    def drained(self) -> bool:
        """Whether everything that is in the file now has been sent."""
        return not self._open() or os.fstat(self._descriptor).st_size <= self.offset

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size if self._open() else 0

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _open(self) -> bool:
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        return True


_CRASH = "Fatal Python error: "
"""Not always at the beginning of a line: a progress bar may stand before it."""


def last_lines(paths: list[Path], count: int = 8, longest: int = 16384) -> str:
    """The end of each file, for error messages.

    Where a file ends with Python's report of a crash, what matters is the beginning of that: the innermost frames. A
    line that was drawn over itself, such as a progress bar, is what is last to be seen of it.
    """
    return "\n".join(line for path in paths for line in _last_lines(path, count, longest))


def _last_lines(path: Path, count: int, longest: int) -> list[str]:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - longest))
            text = file.read(longest).decode(errors="replace")
    except FileNotFoundError:
        return []
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.removesuffix("\n").split("\n")] if text else []
    crash = next((number for number, line in enumerate(lines) if _CRASH in line), len(lines))
    return lines[max(0, crash - count) : crash] + lines[crash : crash + count]
