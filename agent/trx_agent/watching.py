"""Tells which files grow and which appear, at a cost that does not depend on how often they are written to.

inotify makes an event of every write, and the writer waits while it is made: a flood of lines took twice as long. So
it is asked for a file's first write only (`IN_ONESHOT`). From then on the file's size is looked at, ever more rarely,
until it has not changed from one look to the next; then inotify is asked again. The first look comes a moment after the
first write, which is seldom alone: unbuffered, `print` writes a line and its end one after the other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inotify_simple import INotify, flags

_FIRST_LOOK = 0.01
"""Seconds after its first write at which a file is looked at."""

_LAST_LOOK = 0.08
"""Seconds between two looks at the most: how late a line of a flood may be."""


@dataclass(eq=False)
class _File:
    path: Path
    grown: Callable[[], None]
    size: int = 0
    pause: float = _FIRST_LOOK
    due: float = 0.0

    def status(self) -> os.stat_result | None:
        try:
            return self.path.stat()
        except FileNotFoundError:
            return None


class FileWatch:
    """See the module. `handle` is to be called when `fileno` is readable, `look` when `patience` is over."""

    def __init__(self) -> None:
        self._inotify = INotify()
        self._still: dict[int, _File] = {}  # inotify will tell of their next write
        self._growing: list[_File] = []
        self._folders: dict[int, tuple[Path, Callable[[str], None]]] = {}

    def fileno(self) -> int:
        return int(self._inotify.fileno())

    def watch_file(self, path: Path, grown: Callable[[], None]) -> None:
        """Has `grown` called whenever a file, which must exist, has become larger."""
        self._ask(_File(path, grown), 0.0)

    def watch_folder(self, folder: Path, appeared: Callable[[str], None]) -> None:
        """Has `appeared` called with the name of each file that is renamed to be in a folder."""
        self._folders[self._inotify.add_watch(folder, flags.MOVED_TO)] = folder, appeared

    def forget(self, directory: Path) -> None:
        """Watches nothing below a directory any longer."""
        watched = {watch: folder for watch, (folder, _) in self._folders.items()}
        watched |= {watch: file.path for watch, file in self._still.items()}
        for watch, path in watched.items():
            if directory in path.parents:
                with contextlib.suppress(OSError):  # it has just had its one event, or the file is gone
                    self._inotify.rm_watch(watch)
                self._folders.pop(watch, None)
                self._still.pop(watch, None)
        self._growing = [file for file in self._growing if directory not in file.path.parents]

    def handle(self, now: float) -> None:
        """Deals with what inotify tells."""
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.MOVED_TO and event.wd in self._folders:
                _, appeared = self._folders[event.wd]
                appeared(event.name)
            elif event.mask & flags.MODIFY and (file := self._still.pop(event.wd, None)):
                file.pause = _FIRST_LOOK
                file.due = now + file.pause
                self._growing.append(file)

    def patience(self, now: float) -> float:
        """Seconds until some file is to be looked at."""
        return max(0.0, min((file.due for file in self._growing), default=float("inf")) - now)

    def look(self, now: float) -> None:
        """Looks at the files that it is time to look at.

        And at others in their folder that are growing, since what was printed first is to come first.
        """
        due = [file for file in self._growing if file.due <= now]
        folders = {file.path.parent for file in due}
        grown = self._tell([file for file in self._growing if file.path.parent in folders])
        for file in due:
            if file in grown:
                file.pause = min(2 * file.pause, _LAST_LOOK)
                file.due = now + file.pause
            else:
                self._growing.remove(file)
                self._ask(file, now)

    def close(self) -> None:
        self._inotify.close()

    def _tell(self, files: Sequence[_File]) -> list[_File]:
        """Tells of those whose size is another one than it was, in the order of their last writes, and returns them."""
        found = [(file, status) for file in files if (status := file.status())]
        found.sort(key=lambda each: each[1].st_mtime_ns)
        grown = []
        for file, status in found:
            if status.st_size != file.size:
                file.size = status.st_size
                file.grown()
                grown.append(file)
        return grown

    def _ask(self, file: _File, now: float) -> None:
        try:
            self._still[self._inotify.add_watch(file.path, flags.MODIFY | flags.ONESHOT)] = file
        except FileNotFoundError:
            return
        except OSError:  # such as ENOSPC: this user has no watches left
            file.due = now + _LAST_LOOK
            self._growing.append(file)
        self._tell([file])  # what was written since it was last looked at
