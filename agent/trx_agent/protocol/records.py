"""Logging records as bytes: what a worker's `logging` handler writes into its records stream.

Each record is a 4-byte big-endian length and a msgpack-encoded `Record`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from trx_agent.protocol.decoding import Malformed, Small, decode

LONGEST = 1 << 20
"""Characters to which a writer cuts message and traceback each; a reader refuses more than four bytes for each."""

LONGEST_NAME = 1 << 12
"""Characters to which a writer cuts all other texts."""

HIGHEST = (1 << 31) - 1
"""Levels and numbers of lines are not beyond it, nor below its negative."""

_BIGGEST = 4 * (2 * LONGEST + 4 * LONGEST_NAME)

_Text = Annotated[str, Meta(max_length=LONGEST)]
_Name = Annotated[str, Meta(max_length=LONGEST_NAME)]


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
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

    name: _Name
    level: Small
    created: float
    message: _Text
    exc_text: _Text = ""
    pathname: _Name = ""
    lineno: Small = 0
    funcName: _Name = ""


class MalformedRecords(Malformed):
    """Some records could not be read.

    Attributes:
        records: Those that could.
    """

    def __init__(self, reason: str, records: list[Record]) -> None:
        super().__init__(reason)
        self.records = records


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    body = _encoder.encode(record)
    return len(body).to_bytes(4, "big") + body


class Reader:
    """Puts records together again from ranges of the stream."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._lost = False  # whether nobody knows where the next record begins

    def feed(self, data: bytes) -> list[Record]:
        """Returns the records that `data` completes.

        Raises:
            MalformedRecords: Where some of them cannot be read. They are left out; behind a length that none can
                have, everything is.
        """
        if self._lost:
            return []
        self._pending += data
        records: list[Record] = []
        reason = ""
        start = 0
        while len(self._pending) - start >= 4:
            size = int.from_bytes(self._pending[start : start + 4], "big")
            if size > _BIGGEST:
                reason = reason or f"a log record of {size} bytes"
                self._lost = True
                start = len(self._pending)
                break
            if len(self._pending) - start - 4 < size:
                break
            try:
                records.append(decode(_decoder, self._pending[start + 4 : start + 4 + size], "log record"))
            except Malformed as error:
                reason = reason or str(error)
            start += 4 + size
        del self._pending[:start]
        if reason:
            raise MalformedRecords(reason, records)
        return records
