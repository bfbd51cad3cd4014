"""What is known of a launch while it goes on: the program's notes, and the lines that its workers have printed."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .oracle import Note

_LINE = re.compile(rb"soak: run (\d+) rank (\d+) line (\d+) pid (\d+)\n")
_LONGEST = 200
_KEPT = 150


class Notes:
    """The file that the program appends to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self.all: list[Note] = []
        path.touch()

    def read(self) -> list[Note]:
        """Those that are new."""
        with self._path.open("rb") as file:
            file.seek(self._size)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._size += len(whole)
        new: list[Note] = [json.loads(line) for line in whole.splitlines()]
        self.all += new
        return new

    def find(self, what: str, run: int | None = None) -> Note | None:
        return next((note for note in self.all if note["what"] == what and note.get("run") == run), None)


class Lines:
    """The marked lines in all log files below a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}
        self._lines: dict[tuple[int, int], int] = {}
        self._pids: dict[tuple[int, int], int] = {}

    def read(self) -> None:
        for path in self._directory.glob("*/*"):
            offset = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
            for match in _LINE.finditer(data):
                run, rank, line, pid = (int(number) for number in match.groups())
                self._lines[run, rank] = max(line, self._lines.get((run, rank), 0))
                self._pids[run, rank] = pid
            # A line may be half there: look again from its beginning.
            self._offsets[path] = max(offset, data.rfind(b"\n") + 1 + offset)

    def printed(self, run: int, rank: int) -> int:
        """How many lines."""
        return self._lines.get((run, rank), 0)

    def pid(self, run: int, rank: int) -> int | None:
        """As the worker's own host numbers it."""
        return self._pids.get((run, rank))


class Output:
    """The end of what the program prints, of long lines their beginning."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT)
        assert process.stdout is not None
        self._thread = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[str]) -> None:
        try:
            for line in stream:
                if not line.startswith("xxx"):
                    self._lines.append(f"{time.monotonic():.2f} {line.rstrip()[:_LONGEST]}")
        except ValueError:  # closed meanwhile
            pass

    def text(self) -> str:
        self._thread.join(2.0)
        return "\n".join(self._lines)


def told(notes: list[Note], zero: float) -> Iterator[str]:
    """The notes for a person, in seconds since `zero`."""
    for note in notes:
        known = {name: value for name, value in note.items() if name not in ("at", "what", "kinds")}
        facts = {name: value for name, value in known.items() if value not in (None, [])}
        yield f"{note['at'] - zero:7.2f} {note['what']} {facts}"
