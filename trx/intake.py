"""What arrives of a run's workers: who they are, and their outcomes while they are put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trx.output import Source
from trx.pieces import Piece
from trx.plan import Worker
from trx_agent.protocol.messages import Ended, Returned
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
    """The outcome of a worker that raised."""

    def __init__(self, total: int) -> None:
        self._total = total
        self.data = bytearray()

    @property
    def complete(self) -> bool:
        return len(self.data) >= self._total

    def take(self, size: int, pour: Pour) -> None:
        if len(self.data) + size > self._total:
            raise ValueError(f"more than the announced {self._total} bytes arrived")
        data = bytearray(size)
        pour(memoryview(data))
        self.data += data


class _Refused:
    """An outcome that cannot be kept: its bytes are let pass, so that the run can end in good order."""

    def __init__(self, total: int, received: int, reason: str) -> None:
        self._left = total - received
        self.reason = reason

    @property
    def complete(self) -> bool:
        return self._left <= 0

    def take(self, size: int, pour: Pour) -> None:
        self._left -= size


class Intake:
    """Of one run."""

    def __init__(self) -> None:
        self._workers: dict[Key, Worker] = {}
        self._arriving: dict[Key, Assembler | _Bytes | _Refused] = {}
        self._sizes: dict[Key, int] = {}

    def name(self, agent: int, worker: Worker) -> None:
        self._workers[agent, worker.local_rank] = worker

    def source(self, agent: int, local_rank: int) -> Source | None:
        worker = self._workers.get((agent, local_rank))
        return Source(worker.host.label, worker.local_rank, worker.rank) if worker else None

    def sources(self) -> list[Source]:
        return [Source(worker.host.label, worker.local_rank, worker.rank) for worker in self._workers.values()]

    def expect(self, agent: int, ended: Ended) -> None:
        """An outcome of a known size will follow.

        Raises:
            ValueError: Where the agent has no such worker, or there is no such outcome.
        """
        key = (agent, ended.local_rank)
        if key not in self._workers or key in self._arriving or ended.size < 0:
            raise ValueError(f"it told of an end of local rank {ended.local_rank} that cannot be")
        if ended.size:
            kind = Assembler if isinstance(ended.ending, Returned) else _Bytes
            self._arriving[key] = kind(ended.size)
            self._sizes[key] = ended.size

    def take_outcome(self, agent: int, local_rank: int, offset: int, piece: Piece) -> bool:
        """Adds the next bytes, and returns whether the outcome is whole now.

        Raises:
            KeyError: Where none was announced.
        """
        key = (agent, local_rank)
        try:
            self._arriving[key].take(piece.size, piece.pour)
        except (ValueError, MemoryError) as error:
            size = self._sizes[key]
            reason = "there is no room for it here" if isinstance(error, MemoryError) else str(error)
            self._arriving[key] = _Refused(size, offset + piece.size, f"its {size} bytes cannot be taken: {reason}")
        return self._arriving[key].complete

    def outcomes(self) -> Outcomes:
        whole = {self._workers[key].rank: each for key, each in self._arriving.items() if each.complete}
        return Outcomes(
            {rank: each for rank, each in whole.items() if isinstance(each, Assembler)},
            {rank: bytes(each.data) for rank, each in whole.items() if isinstance(each, _Bytes)},
            {rank: each.reason for rank, each in whole.items() if isinstance(each, _Refused)},
        )
