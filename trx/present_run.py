"""The run that an engine is at, and what is left of it when it is over."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from trx.intake import Intake, Outcomes
from trx.job import Job
from trx.payload_flow import PayloadFlow
from trx.timeline import Timeline
from trx_agent.protocol.messages import Preparation
from trx_agent.protocol.payload import Pickled


@dataclass(frozen=True)
class RunReport:
    """A run that is over: the job tells how it ended, the outcomes lie beside it."""

    job: Job
    outcomes: Outcomes
    timeline: Timeline


@dataclass(frozen=True)
class PresentRun:
    """All that belongs to one run.

    Attributes:
        number: Within its launch, from 1.
        call: The function and its arguments.
        preparation: What the workers' processes are to be made with.
        job: The state machine.
        future: What the user's thread waits for.
        intake: What has arrived of the workers.
        payloads: `call` on its way to each agent.
    """

    number: int
    call: Pickled
    preparation: Preparation
    job: Job
    future: Future[RunReport]
    intake: Intake = field(default_factory=Intake)
    payloads: dict[int, PayloadFlow] = field(default_factory=dict)
