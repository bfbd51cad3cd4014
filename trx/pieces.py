"""Bytes of a stream that have arrived: in a message, or in a file of an agent on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Protocol


class Unreadable(Exception):
    """Raised where a file cannot be opened, or read."""


class Piece(Protocol):
    """Bytes that can be had once: all at once, or one part after the other, without a copy in between."""

    size: int

    def read(self) -> bytes:
        """All of them."""

    def pour(self, target: memoryview) -> None:
        """Fills a part of memory with the next of them.

        Raises:
            ValueError: Where they are not there any more.
        """


class Received:
    """A `Piece` that is in memory."""

    def __init__(self, data: memoryview) -> None:
        self.size = len(data)
        self._rest = data

    def read(self) -> bytes:
        return bytes(self._rest)

    def pour(self, target: memoryview) -> None:
        target[:] = self._rest[: len(target)]
        self._rest = self._rest[len(target) :]


class InFile:
    """A `Piece` that is in an open file."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.size = size
        self._descriptor = descriptor
        self._offset = offset

    def read(self) -> bytes:
        """All of them; fewer where the file was cut off meanwhile."""
        with _readable():
            return os.pread(self._descriptor, self.size, self._offset)

    def pour(self, target: memoryview) -> None:
        while target:
            with _readable():
                size = os.preadv(self._descriptor, [target], self._offset)
            if size == 0:
                raise ValueError("its file was cut off")
            self._offset += size
            target = target[size:]


@contextlib.contextmanager
def in_file(path: str, offset: int, size: int) -> Iterator[InFile]:
    """Opens a file for as long as a piece of it is looked at.

    Raises:
        Unreadable: Where it cannot be opened; reading the piece raises it, too.
    """
    with contextlib.ExitStack() as leaving:
        with _readable():
            file = leaving.enter_context(open(path, "rb", buffering=0, opener=_open_without_waiting))
        yield InFile(file.fileno(), offset, size)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise Unreadable(str(error)) from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe, of all things, would wait for somebody to write to it
