"""Printing to streams that may be slow, stopped, or in non-blocking mode."""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
from collections.abc import Iterator
from typing import TextIO

_PIECE = 4000
"""Bytes: less than PIPE_BUF, which a pipe that is ready takes without blocking."""

_PIECE_OF_A_FILE = 64 << 10
"""The same for a regular file, which is always ready."""

_LONGEST_CHARACTER = 4
"""Bytes."""


def print_pieces(stream: TextIO, text: str) -> Iterator[None]:
    """Prints in pieces, one for each step of the iteration, and leaves the stream flushed.

    Raises:
        OSError, ValueError: Where the stream is closed or broken.
    """
    descriptor = _descriptor(stream)
    if descriptor is None:
        _write(stream, text)
        stream.flush()
        yield
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    # A thread that is stuck in a write holds the stream's lock, for which Python waits when it exits; and in
    # non-blocking mode, which whoever shares the terminal may set, a write loses what exceeds the buffer. So: wait
    # first, and then write no more than fits. The empty piece makes room by flushing what the user's own prints left.
    length = _PIECE_OF_A_FILE if stat.S_ISREG(os.fstat(descriptor).st_mode) else _PIECE
    if not (text.isascii() and len("a".encode(stream.encoding)) == 1):
        length //= _LONGEST_CHARACTER
    for piece in ("", *(text[start : start + length] for start in range(0, len(text), length))):
        poll.poll()
        with contextlib.suppress(BlockingIOError):  # raised by a flush at a line end: the piece lies in the buffer
            _write(stream, piece)
        while True:
            try:
                stream.flush()
                break
            except BlockingIOError:
                poll.poll()
        yield


def wait_for_room(stream: TextIO | None) -> None:
    """Waits until a short text can be written without blocking, as far as that can be told."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = _descriptor(stream) if stream else None
        if descriptor is not None:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
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
