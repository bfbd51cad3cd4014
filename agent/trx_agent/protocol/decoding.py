"""How everything that comes from outside is decoded: to a value of the type that is expected, or to `Malformed`.

Whoever sent it may have sent anything. msgspec tells of some of that by errors of its own, of deep nesting by
RecursionError, of a text in no encoding by UnicodeDecodeError; who reads must not have to know.
"""

from __future__ import annotations

import sys
from typing import Annotated, Protocol, TypeVar

from msgspec import Meta

Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""An offset, a size, or a number that is counted up."""

Small = Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
"""Whatever the kernel keeps in an int: pids, signals, exit codes, ranks."""

Count = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
"""How many there are of something."""

Port = Annotated[int, Meta(ge=0, le=(1 << 16) - 1)]

Seconds = Annotated[float, Meta(ge=0.0, le=sys.float_info.max)]
"""Neither NaN nor infinite, nor negative."""

Name = Annotated[str, Meta(max_length=4096)]
"""A short text; the paths that Linux takes are as long."""

Text = Annotated[str, Meta(max_length=1 << 17)]
"""A long one."""

MOST = 1 << 16
"""Elements of a sequence."""

_LONGEST_REASON = 300
"""Characters: msgspec quotes what it does not expect."""


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Malformed(ValueError):
    """What came from outside is not what it should be."""


class Decoder(Protocol[T_co]):
    """A decoder of msgspec's, for msgpack or JSON."""

    def decode(self, data: bytes | bytearray | memoryview, /) -> T_co: ...


def decode(decoder: Decoder[T], data: bytes | bytearray | memoryview, what: str) -> T:
    """Decodes what came from outside.

    Args:
        decoder: Of the type that is expected.
        data: All of what came: nothing may follow the value.
        what: The value, as errors call it ("a log record").

    Raises:
        Malformed: Whatever is wrong with the data.
    """
    try:
        return decoder.decode(data)
    except Exception as error:
        reason = str(error)[:_LONGEST_REASON] or type(error).__name__
        raise Malformed(f"malformed {what}: {reason}") from error
