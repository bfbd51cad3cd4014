"""Handlers of `logging` for the output of one worker or agent."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trx.output.streams import print_pieces

if TYPE_CHECKING:
    LogHandlers = Callable[[], Sequence[logging.Handler]] | Sequence[logging.Handler] | Literal["auto"] | None
else:  # what can be written on a command line, as tools that make one of `Launcher` read its annotations
    LogHandlers = Literal["auto"] | None


def add_filter_to_handler(
    handler: logging.Handler, hostname: str, local_rank: int | None, level: int = logging.NOTSET
) -> None:
    """Has a handler take only what one worker, or one agent, prints and logs.

    Args:
        handler: Any.
        hostname: As in `Launcher.hostnames`; a host that is named there for the second time is "node1#2".
        local_rank: The worker's; None for the host's agent.
        level: What is below it is left out. Printed lines have `logging.INFO`.
    """
    handler.addFilter(SourceFilter(hostname, local_rank, level))


def file_handler(
    hostname: str, local_rank: int | None, path: str | os.PathLike[str], level: int = logging.NOTSET
) -> logging.FileHandler:
    """Makes a handler that appends to a file: printed lines as they are, records with time, level and logger.

    Args:
        hostname: See `add_filter_to_handler`.
        local_rank: See there.
        path: Of the file, which the first line creates. Missing directories are made now.
        level: See there.

    Raises:
        OSError: Where a directory cannot be made.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace", delay=True)
    handler.setFormatter(LineFormatter())
    add_filter_to_handler(handler, hostname, local_rank, level)
    return handler


def stream_handler(hostname: str, local_rank: int | None, level: int = logging.NOTSET) -> logging.Handler:
    """Makes a handler that prints to `sys.stdout`, each line with the name of the host and the local rank before it.

    Args:
        hostname: See `add_filter_to_handler`.
        local_rank: See there.
        level: See there.
    """
    handler = _StdoutHandler()
    handler.setFormatter(LineFormatter(f"{hostname}: " if local_rank is None else f"{hostname}[{local_rank}]: "))
    add_filter_to_handler(handler, hostname, local_rank, level)
    return handler


class SourceFilter(logging.Filter):
    """Lets pass what one worker, or one agent, printed or logged.

    Attributes:
        hostname: Of the worker or agent, numbered where it is named twice.
        local_rank: The worker's; None for an agent.
    """

    def __init__(self, hostname: str, local_rank: int | None, level: int) -> None:
        super().__init__()
        self.hostname = hostname
        self.local_rank = local_rank
        self._level = level

    def admits(self, hostname: object, local_rank: object) -> bool:
        return (hostname, local_rank) == (self.hostname, self.local_rank)

    def filter(self, record: logging.LogRecord) -> bool:
        source = getattr(record, "hostname", None), getattr(record, "local_rank", None)
        return record.levelno >= self._level and self.admits(*source)


class LineFormatter(logging.Formatter):
    """Printed lines as they are, records with time, level and the name of the worker's logger.

    Args:
        prefix: For each line.
    """

    default_msec_format = "%s.%03d"

    def __init__(self, prefix: str = "") -> None:
        super().__init__("%(asctime)s %(levelname)s %(origin)s: %(message)s", defaults={"origin": "launcher"})
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        printed = getattr(record, "stream", "log") != "log"
        text = record.getMessage() if printed else super().format(record)
        return "\n".join(self._prefix + line for line in text.split("\n"))


class _StdoutHandler(logging.Handler):
    """Like `logging.StreamHandler`, but looks sys.stdout up each time, and never blocks in a write to it.

    (A thread that does holds the stream's lock, for which Python waits when it exits.)
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if sys.stdout is not None:
                for _ in print_pieces(sys.stdout, self.format(record) + "\n"):
                    pass
        except Exception:
            self.handleError(record)
