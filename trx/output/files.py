"""Log files: one for each worker and each agent, in a directory for each launch."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import resource
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path

from trx.output.lines import LineMerger, format_record
from trx.output.outputs import Source
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

DEFAULT_BASE = "./trx_logs"

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMES_TRIED = 100

_Key = tuple[str, "int | None"]


def make_log_directory(base: str | None, now: datetime) -> Path | None:
    """Makes the directory for the log files of one launch.

    Args:
        base: Where; "" for no log files; None for `TRX_LOG_DIR`, or `./trx_logs` where that is not set.
        now: The name of the directory: ISO 8601 (basic format) in local time, e.g. "20261120T160405". A second
            launch in the same second gets "20261120T160405_2".

    Returns:
        An absolute path, or None for no log files.

    Raises:
        OSError: Where it cannot be made.
    """
    if base is None:
        base = os.environ.get("TRX_LOG_DIR", DEFAULT_BASE)
    if not base:
        return None
    root = Path(base).absolute()
    for missing in reversed([path for path in (root, *root.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    stamp = now.astimezone().strftime("%Y%m%dT%H%M%S")
    number = 1
    while True:
        directory = root / _numbered(stamp, "_", number)
        try:
            directory.mkdir(mode=0o700)  # fails for anything that is there already, a symbolic link too
            return directory
        except FileExistsError:
            number += 1


def file_name(hostname: str, local_rank: int | None) -> str:
    """A file name without its suffix: the host's, and for a worker its local rank.

    A host name that is anything but plain is cleaned, and then carries a hash of what it was behind a "~", which no
    plain name contains: so names differ where host names do.
    """
    plain = re.sub(r"[^A-Za-z0-9._@#+-]|^[.-]", "_", hostname)[:100]
    if plain != hostname or not plain:
        plain += "~" + hashlib.sha256(hostname.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return plain if local_rank is None else f"{plain}[{local_rank}]"


class LogFiles:
    """Writes each source's streams, merged at line ends, to a file of its own, which is created by its first bytes.

    Nothing is buffered but unfinished lines. Only so many files are kept open; the one longest unused is closed, and
    opened again when needed.

    Args:
        directory: Must exist.
        most_open: How many files to keep open; None for a quarter of what this process may open.
    """

    name = "the log files"

    def __init__(self, directory: Path, most_open: int | None = None) -> None:
        self.progress = 0
        self._directory = directory.absolute()
        self._most_open = most_open or max(16, min(4096, _open_files_allowed() // 4))
        self._names: dict[_Key, str] = {}
        self._mergers: dict[_Key, LineMerger] = {}
        self._open: dict[_Key, int] = {}  # the longest unused first
        # Files are opened relative to this, so that nothing put in the directory's place later is followed.
        self._root = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def path(self, source: Source) -> Path:
        """The source's file, whether or not it exists already."""
        key = source.hostname, source.local_rank
        return self._directory / self._names.get(key, file_name(*key) + ".log")

    def write(self, source: Source, kind: Kind, data: bytes) -> None:
        key = source.hostname, source.local_rank
        merger = self._mergers.get(key)
        if merger is None:
            merger = self._mergers[key] = LineMerger()
        self._append(key, merger.feed(kind, data))

    def record(self, source: Source, record: Record) -> None:
        self._append((source.hostname, source.local_rank), format_record(record).encode("utf-8", "backslashreplace"))

    def end(self, source: Source) -> None:
        key = source.hostname, source.local_rank
        merger = self._mergers.pop(key, None)
        if merger is not None:
            self._append(key, merger.end())
        if key in self._open:
            os.close(self._open.pop(key))

    def close(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._remove_what_is_empty)
            stack.callback(os.close, self._root)
            stack.callback(self._close_files)
            for key, merger in self._mergers.items():
                self._append(key, merger.end())

    def make_way(self) -> None:
        """Messages of the launcher's do not get here."""

    def give_up(self) -> None:
        """Nothing holds what anybody else needs."""

    def _remove_what_is_empty(self) -> None:
        """A launch that printed nothing leaves no directory behind."""
        with suppress(OSError):  # it is not empty
            self._directory.rmdir()

    def _close_files(self) -> None:
        with ExitStack() as stack:
            for descriptor in self._open.values():
                stack.callback(os.close, descriptor)
            self._open.clear()

    def _append(self, key: _Key, data: bytes) -> None:
        if not data:
            return
        descriptor = self._descriptor(key)
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, memoryview(data)[written:])
        self.progress += 1

    def _descriptor(self, key: _Key) -> int:
        descriptor = self._open.pop(key, None)
        if descriptor is None:
            while len(self._open) >= self._most_open:
                self._close_longest_unused()
            name = self._names.get(key)
            descriptor = self._create(key) if name is None else self._open_file(name, _APPEND)
        self._open[key] = descriptor
        return descriptor

    def _create(self, key: _Key) -> int:
        """Creates the source's file; where something lies at its name already, under another name."""
        for name in _candidates(file_name(*key)):
            try:
                descriptor = self._open_file(name, _APPEND | os.O_EXCL)
            except FileExistsError:
                continue
            self._names[key] = name
            return descriptor
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path(Source(*key, rank=None))))

    def _open_file(self, name: str, flags: int) -> int:
        while True:
            try:
                return os.open(name, flags, 0o600, dir_fd=self._root)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                    raise
                self._close_longest_unused()

    def _close_longest_unused(self) -> None:
        os.close(self._open.pop(next(iter(self._open))))


def _candidates(stem: str) -> Iterator[str]:
    for number in range(1, _NAMES_TRIED + 1):
        yield _numbered(stem, ".", number) + ".log"


def _numbered(stem: str, separator: str, number: int) -> str:
    return stem if number == 1 else f"{stem}{separator}{number}"


def _open_files_allowed() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else soft
