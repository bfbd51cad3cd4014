"""What a launch gives back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from trx.timeline import Timeline

T = TypeVar("T")


@dataclass(frozen=True)
class LaunchResult(Generic[T]):
    """What all workers returned. It has a length, and is iterated over in the order of the ranks.

    Attributes:
        values (tuple[T, ...]): In the order of the ranks.
        hostnames: Of each rank, as the launch was given them.
        timeline: Where the time went.
    """

    values: tuple[T, ...]
    hostnames: tuple[str, ...]
    timeline: Timeline = field(default_factory=Timeline, compare=False, repr=False)

    def __len__(self) -> int:
        """The world size."""
        return len(self.values)

    def __iter__(self) -> Iterator[T]:
        """In the order of the ranks."""
        return iter(self.values)

    def rank(self, rank: int) -> T:
        """The value that a rank returned.

        Raises:
            IndexError: Where there is no such rank.
        """
        return _pick(self.values, rank, "rank")

    def index(self, hostname: str, local_rank: int) -> T:
        """The value that one worker of a host returned.

        Args:
            hostname: As it was given to the launch.
            local_rank: On that host; where a host was named twice, the second agent's workers follow the first's.

        Raises:
            KeyError: Where no host was named so.
            IndexError: Where it has no such worker.
        """
        hosts = self.by_hostnames()
        if hostname not in hosts:
            raise KeyError(f"there is no host {hostname!r}: there are {', '.join(hosts)}")
        return _pick(hosts[hostname], local_rank, f"local rank on {hostname}")

    def by_ranks(self) -> list[T]:
        """All values, in the order of the ranks."""
        return list(self.values)

    def by_hostnames(self) -> dict[str, list[T]]:
        """All values by host, each host's in the order of its local ranks."""
        hosts: dict[str, list[T]] = {}
        for hostname, value in zip(self.hostnames, self.values, strict=True):
            hosts.setdefault(hostname, []).append(value)
        return hosts


def _pick(values: Sequence[T], number: int, what: str) -> T:
    if not 0 <= number < len(values):
        raise IndexError(f"there is no {what} {number}: they go from 0 to {len(values) - 1}")
    return values[number]
