"""The function and its arguments on their way to one host: ranges of memory, as far as there is credit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trx_agent.protocol.messages import CHUNK, WINDOWS, Kind
from trx_agent.protocol.payload import Pickled


class PayloadFlow:
    """Sends an encoded object in order and uncopied.

    Args:
        pickled: The object.
        send: Sends bytes that begin at an offset.
    """

    def __init__(self, pickled: Pickled, send: Callable[[int, bytes | memoryview], None]) -> None:
        self.size = sum(memoryview(piece).nbytes for piece in pickled.encode())
        self._pieces = _cut(pickled)
        self._rest: bytes | memoryview = b""  # of a piece for which there was not enough credit
        self._send = send
        self._offset = 0
        self._credit = WINDOWS[Kind.PAYLOAD]

    def grant(self, upto: int) -> None:
        self._credit = max(self._credit, upto)
        self.pump()

    def pump(self) -> None:
        while (room := min(self._credit, self.size) - self._offset) > 0:
            piece = self._rest or next(self._pieces)
            piece, self._rest = piece[:room], piece[room:]
            self._send(self._offset, piece)
            self._offset += len(piece)


def _cut(pickled: Pickled) -> Iterator[bytes | memoryview]:
    """Pieces of a chunk at the most; small ones are put together."""
    small = bytearray()
    for piece in pickled.encode():
        if len(small) + len(piece) <= CHUNK:
            small += piece
            continue
        if small:
            yield bytes(small)
            small.clear()
        view = memoryview(piece)
        yield from (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))
    if small:
        yield bytes(small)
