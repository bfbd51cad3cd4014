"""What a worker leaves behind: the value that its function returned, or the exception that it raised.

The outcome of a function that returned is its value, as in `payload.py`. The outcome of one that raised begins with a
`WorkerError`, as four bytes of length (big-endian) and msgpack, so that type, message and traceback arrive whatever
becomes of the pickle that follows: the exception object, or nothing where it could not be pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trx_agent.protocol.decoding import Malformed, Name, decode

LONGEST_TEXT = 64 * 1024
"""Characters to which long texts are cut, but for the note that says so."""

_Text = Annotated[str, Meta(max_length=LONGEST_TEXT + 100)]

CALLING = "calling the function"
"""The stage in which workers spend their life, and which a summary need not name."""


class WorkerError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exception in words.

    Attributes:
        stage: What the worker was doing, such as "calling the function".
        kind: Name of the exception's class, with its module where that is not builtins.
        message: str() of the exception.
        traceback: The whole traceback with causes and notes, frames of trx and torch's launcher left out.
    """

    stage: Name
    kind: _Text
    message: _Text
    traceback: _Text

    @property
    def summary(self) -> str:
        first = self.message.strip().split("\n", 1)[0]
        what = f"{self.kind}: {first}"[:500] if first else self.kind
        return what if self.stage == CALLING else f"{what} (while {self.stage})"


class Remade:
    """Pickles an exception whose own `__init__` wants other arguments than its `args`: it is made again without it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Callable[..., Exception], tuple[Any, ...]]:
        return _remake, (type(self._error), self._error.args, vars(self._error))


def _remake(kind: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    error: Exception = kind.__new__(kind, *args)
    builtin: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    builtin.__init__(error, *args)
    error.__dict__.update(state)
    return error


_decoder = msgspec.msgpack.Decoder(WorkerError)

LONGEST_FRAME = 4 + 16 * LONGEST_TEXT
"""Bytes that a `WorkerError` may have with its length: more than four for each character of its texts."""


def frame(error: WorkerError) -> bytes:
    body = msgspec.msgpack.encode(error)
    return len(body).to_bytes(4, "big") + body


def unframe(data: bytes | bytearray | memoryview) -> tuple[WorkerError, int]:
    """Returns the error, and the offset at which the exception's pickle begins.

    Raises:
        Malformed: Where `data` does not begin with a whole `WorkerError`.
    """
    size = int.from_bytes(data[:4], "big")
    if size > len(data) - 4:
        raise Malformed("the description of the exception is cut off")
    return decode(_decoder, data[4 : 4 + size], "description of the exception"), 4 + size


def cut(text: str) -> str:
    """Keeps the beginning and, above all, the end of a very long text."""
    text = text.encode("utf-8", "backslashreplace").decode()  # UTF-8 has no surrogates
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
