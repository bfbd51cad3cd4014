"""Logging records as bytes: what a worker's `logging` handler writes into its records stream.

Each record is a 4-byte big-endian length and a msgpack-encoded `Record`.
"""

from __future__ import annotations

import msgspec

LONGEST = 1 << 20
"""Characters to which a writer cuts message and traceback each; a reader refuses more than four bytes for each."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A `logging.LogRecord`, formatted so far that it needs no object of the worker's.

    Attributes:
        name: The logger's.
        level: As in `logging`.
        created: Seconds since the epoch, by the host's clock.
        message: With its arguments merged in.
        exc_text: The traceback, where there was one, and the stack, where it was asked for.
        pathname: Of the source file.
        lineno: In that file.
        funcName: Of the function.
    """

    name: str
    level: int
    created: float
    message: str
    exc_text: str = ""
    pathname: str = ""
    lineno: int = 0
    funcName: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    body = _encoder.encode(record)
    return len(body).to_bytes(4, "big") + body


class Reader:
    """Puts records together again from ranges of the stream."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Record]:
        """Returns the records that `data` completes.

        Raises:
            ValueError: Where the stream is not one of records.
        """
        self._pending += data
        records = []
        start = 0
        while len(self._pending) - start >= 4:
            size = int.from_bytes(self._pending[start : start + 4], "big")
            if size > 8 * LONGEST + 16384:
                raise ValueError(f"a log record of {size} bytes")
            if len(self._pending) - start - 4 < size:
                break
            records.append(_decoder.decode(self._pending[start + 4 : start + 4 + size]))
            start += 4 + size
        del self._pending[:start]
        return records
