"""The one way in which trx decodes what comes from outside: to a value of the expected type, or to one typed error."""

from __future__ import annotations

from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)

_LONGEST_REASON = 300


class Malformed(ValueError):
    """Bytes that are not what they should be. Whoever catches it names the sender."""


class Decoder(Protocol[T_co]):
    """A decoder of msgspec's."""

    def decode(self, data: bytes, /) -> T_co: ...


def decode(decoder: Decoder[T_co], data: bytes | bytearray | memoryview, what: str) -> T_co:
    """Decodes a message.

    Args:
        decoder: Made once for its type, and used again.
        data: All bytes of the message.
        what: Names the message in the error.

    Raises:
        Malformed: Whatever the decoder raises: nesting that is too deep is a RecursionError, and sizes may be a
            MemoryError.
    """
    try:
        return decoder.decode(data)  # type: ignore[arg-type]  # msgspec takes whatever has a buffer
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
        raise Malformed(f"{what} that cannot be decoded: {reason}") from None
