"""What happens to a job, and what it orders: the nouns of `job.py`."""

from __future__ import annotations

from dataclasses import dataclass

from trx.errors import HostFailure
from trx.plan import Assignment
from trx_agent.protocol.messages import AnyMessage, Door

# ---- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """An agent said something."""

    agent: int
    message: AnyMessage


@dataclass(frozen=True)
class Arrived:
    """The whole outcome of a worker has arrived."""

    agent: int
    local_rank: int


@dataclass(frozen=True)
class Lost:
    """A host could not be used, or its agent is gone: nothing more will come from it."""

    agent: int
    failure: HostFailure


@dataclass(frozen=True)
class Interrupted:
    """The user wants the run to end.

    Attributes:
        grace: Seconds that workers have between SIGTERM and SIGKILL.
    """

    grace: float


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = Said | Arrived | Lost | Interrupted | Tick

# ---- actions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Tell an agent."""

    agent: int
    message: AnyMessage


@dataclass(frozen=True)
class Launch:
    """Send every agent what its workers are, and the function."""

    assignments: tuple[Assignment, ...]
    rendezvous: Door
    backend: str


@dataclass(frozen=True)
class Announce:
    """Say this in the log now: the run has failed, and is being stopped."""

    text: str


@dataclass(frozen=True)
class Finish:
    """The run has reached DONE or FAILED."""


Action = Send | Launch | Announce | Finish
