"""What arrives of a run's workers: who they are, and their outcomes while they are put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trx.output import Source
from trx.pieces import Piece
from trx.plan import Worker
from trx_agent.protocol.messages import Ended, Kind, Returned
from trx_agent.protocol.payload import Assembler, Pour

Key = tuple[int, int]
"""An agent and a local rank."""


@dataclass(frozen=True)
class Outcomes:
    """Of a run that is over, by rank; only what has arrived whole.

    Attributes:
        values: Of workers that returned, still to be loaded.
        errors: Of workers that raised, as in `protocol.outcome`.
        refused: Why an outcome could not be taken.
    """

    values: Mapping[int, Assembler]
    errors: Mapping[int, bytes]
    refused: Mapping[int, str]


class _Bytes:
    """What a worker raised."""

    def __init__(self) -> None:
        self.data = bytearray()

    def take(self, size: int, pour: Pour) -> None:
        data = bytearray(size)
        pour(memoryview(data))
        self.data += data


class _Arriving:
    """One outcome. A value comes while it is written, so that its size is known only at the worker's end."""

    def __init__(self, content: Assembler | _Bytes) -> None:
        self.content: Assembler | _Bytes | None = content  # None where it cannot be kept
        self._reason = ""
        self._received = 0
        self._size: int | None = None

    @property
    def whole(self) -> bool:
        return self._size is not None and self._received >= self._size

    @property
    def refusal(self) -> str:
        return f"its {self._size} bytes cannot be taken: {self._reason}"

    def announce(self, size: int) -> None:
        self._size = size
        self._check_size()

    def take(self, piece: Piece) -> None:
        """What cannot be kept is let pass, so that the run can end in good order."""
        self._received += piece.size
        self._check_size()
        if self.content is not None:
            try:
                self.content.take(piece.size, piece.pour)
            except MemoryError:
                self._refuse("there is no room for it here")
            except ValueError as error:
                self._refuse(str(error))

    def _check_size(self) -> None:
        if self._size is not None and self._received > self._size:
            self._refuse(f"more than the announced {self._size} bytes arrived")

    def _refuse(self, reason: str) -> None:
        self.content = None
        self._reason = self._reason or reason


class Intake:
    """Of one run."""

    def __init__(self) -> None:
        self._workers: dict[Key, Worker] = {}
        self._arriving: dict[tuple[Key, Kind], _Arriving] = {}
        self._ended: set[Key] = set()

    def name(self, agent: int, worker: Worker) -> None:
        self._workers[agent, worker.local_rank] = worker

    def source(self, agent: int, local_rank: int) -> Source | None:
        worker = self._workers.get((agent, local_rank))
        return Source(worker.host.label, worker.local_rank, worker.rank) if worker else None

    def sources(self) -> list[Source]:
        return [Source(worker.host.label, worker.local_rank, worker.rank) for worker in self._workers.values()]

    def expect(self, agent: int, ended: Ended) -> bool:
        """A worker has ended: the size of its outcome is known now. Returns whether all of it is here already.

        Raises:
            ValueError: Where the agent has no such worker, or there is no such outcome.
        """
        key = (agent, ended.local_rank)
        returned = isinstance(ended.ending, Returned)
        impossible = ended.size < 0 or (returned and not ended.size)  # a value has a header at least
        if key not in self._workers or key in self._ended or impossible:
            raise ValueError(f"it told of an end of local rank {ended.local_rank} that cannot be")
        self._ended.add(key)
        if not returned:  # it failed while it was writing a value
            self._arriving.pop((key, Kind.VALUE), None)
        if not ended.size:
            return False
        kind, content = (Kind.VALUE, Assembler()) if returned else (Kind.ERROR, _Bytes())
        arriving = self._arriving.setdefault((key, kind), _Arriving(content))
        arriving.announce(ended.size)
        return arriving.whole

    def take_outcome(self, agent: int, local_rank: int, kind: Kind, piece: Piece) -> bool:
        """Adds the next bytes, and returns whether the outcome is whole now.

        Raises:
            KeyError: Where there can be none.
        """
        key = (agent, local_rank)
        may_begin = kind is Kind.VALUE and key in self._workers and key not in self._ended
        if may_begin and (key, kind) not in self._arriving:
            self._arriving[key, kind] = _Arriving(Assembler())
        arriving = self._arriving[key, kind]
        arriving.take(piece)
        return arriving.whole

    def outcomes(self) -> Outcomes:
        whole = {self._workers[key].rank: each for (key, _), each in self._arriving.items() if each.whole}
        return Outcomes(
            {rank: each.content for rank, each in whole.items() if isinstance(each.content, Assembler)},
            {rank: bytes(each.content.data) for rank, each in whole.items() if isinstance(each.content, _Bytes)},
            {rank: each.refusal for rank, each in whole.items() if each.content is None},
        )
