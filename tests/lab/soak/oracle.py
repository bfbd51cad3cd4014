"""Which results of a plan are legal, and by when. Pure; the times come from who has watched.

The law: a run that the fault did not touch ends with what its function does. One that was under way when the fault came
ends with that or with the fault's effect, since they race; where the function would go on for ever, with the effect.
"""

from __future__ import annotations

import signal
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .plan import FOREVER, INTERRUPTING, KILLING, LOCALHOST, OF_WORKER, PERSISTENT, TRANSIENT, End, Fault, Plan, When

BUSY = 15.0
"""Seconds that anything may take longer, on a machine that does other things as well."""

START = 40.0
"""Seconds for agents, imports and forks, on such a machine."""

CONNECTING = 10.0
"""Seconds after which a host that does not answer is given up (`trx.hosts.make_channel`)."""

SETTLE = 10.0
"""Seconds above the grace that hosts have to end a run's processes (`trx.job.Settings.settle_timeout`)."""

FIRST_WORD = 60.0
"""Seconds that a host waits for the launcher's first word (`trx_agent.__main__`, `trx_agent.agent`)."""

LEAVING = 2.0
"""Seconds above the grace after which a guardian ends what the launcher has left."""

Note = Mapping[str, Any]


@dataclass(frozen=True)
class Struck:
    """When the fault came.

    Attributes:
        begun, done: Between these times, seconds of the clock of the notes.
        over: When it ended by itself, or `done`.
        healed: When the host was healed, or None.
    """

    begun: float
    done: float
    over: float
    healed: float | None = None


@dataclass(frozen=True)
class Legal:
    """A class of results.

    Attributes:
        kind: "interrupt" is a KeyboardInterrupt.
        ranks: Of a worker's failure: the first one's.
        how: Of a worker's failure: "raised", "ValueError", "exit 7", "signal 9", ...
        hosts: Of an agent's failure: those that may be named.
    """

    kind: Literal["values", "worker", "agent", "interrupt"]
    ranks: frozenset[int] = frozenset()
    how: str = ""
    hosts: frozenset[str] = frozenset()

    def __str__(self) -> str:
        if self.kind == "worker":
            return f"rank {'/'.join(map(str, sorted(self.ranks)))}: {self.how}"
        return f"lost: {'/'.join(sorted(self.hosts))}" if self.kind == "agent" else self.kind


VALUES = Legal("values")
INTERRUPT = Legal("interrupt")


def legal_results(plan: Plan, run: int, begins: float, ends: float, struck: Struck | None, felt: bool) -> list[Legal]:
    """What a run may end with.

    Args:
        begins, ends: The run's times.
        struck: The fault's, where it came.
        felt: Whether an earlier run ended with the fault's effect.
    """
    natural, effects = natural_results(plan, run), effects_of(plan)
    is_endless = plan.deeds[run].seconds >= FOREVER
    if struck is None or ends < struck.begun or plan.strike.fault in TRANSIENT:
        return [] if is_endless else natural
    if begins <= struck.done:
        return effects if is_endless else natural + effects
    fault = plan.strike.fault
    if fault in PERSISTENT and struck.healed is None:
        return effects
    # A worker or a runner belongs to one run; otherwise it may be the next run that finds out.
    found_out = felt or fault in OF_WORKER or fault is Fault.KILL_RUNNER
    return natural if found_out else natural + effects


def natural_results(plan: Plan, run: int) -> list[Legal]:
    """What the function does."""
    deed = plan.deeds[run]
    how = {End.RAISE: "ValueError", End.EXIT: "exit 7", End.SYSTEM_EXIT: "raised"}
    if deed.end is End.RETURN:
        return [VALUES]
    ended = how.get(deed.end) or f"signal {signal.Signals[deed.end.value].value}"
    return [Legal("worker", frozenset({deed.culprit}), ended), *(_broken_collective(plan) if deed.reduces else [])]


def effects_of(plan: Plan) -> list[Legal]:
    """What the fault does to a run."""
    fault, strike = plan.strike.fault, plan.strike
    if fault in TRANSIENT or fault in KILLING:
        return []
    if fault in INTERRUPTING:
        return [INTERRUPT]
    if fault is Fault.KILL_WORKER:
        return [Legal("worker", frozenset({strike.rank}), f"signal {signal.SIGKILL.value}"), *_broken_collective(plan)]
    lost = plan.hosts if fault is Fault.STOP_LAUNCHER else (plan.hosts[strike.host],)
    return [Legal("agent", hosts=frozenset(lost)), *_broken_collective(plan)]


def _broken_collective(plan: Plan) -> list[Legal]:
    """Where one rank is gone, others may notice by their own connections, and be heard first."""
    if plan.backend is None or plan.world == 1:
        return []
    return [Legal("worker", frozenset(range(plan.world)), "raised")]


# ---- what was seen --------------------------------------------------------------------------------------------------


def fits(plan: Plan, ended: Note, legal: Legal) -> bool:
    """Whether a run's "ended" note is of a class of results."""
    if legal.kind == "values":
        return bool(ended["kind"] == "values" and ended["values"] == expected_values(plan, ended["run"]))
    if legal.kind == "interrupt":
        return bool(ended["kind"] == "KeyboardInterrupt")
    if legal.kind == "agent":
        return ended["kind"] == "AgentFailedError" and len(ended["hosts"]) > 0 and set(ended["hosts"]) <= legal.hosts
    return ended.get("rank") in legal.ranks and legal.how in _how(ended)


def is_effect(plan: Plan, ended: Note) -> bool:
    return any(fits(plan, ended, effect) for effect in effects_of(plan))


def _how(ended: Note) -> Sequence[str]:
    if ended["signal"] is not None:
        return [f"signal {ended['signal']}"]
    if ended["exitcode"] is not None:
        return [f"exit {ended['exitcode']}"]
    return ["raised", *ended["kinds"]]


def expected_values(plan: Plan, run: int) -> list[list[Any]]:
    """Of each rank, as `program.summary` tells them."""
    size = plan.deeds[run].size
    names = ["launcher" if host == LOCALHOST else host for host in plan.hosts]
    blobs = [bytes([rank + 1]) * size for rank in range(plan.world)]
    return [[rank, run, names[plan.host_of(rank)], size, zlib.crc32(blob)] for rank, blob in enumerate(blobs)]


def legal_statuses(plan: Plan, struck: Struck | None) -> set[int]:
    """What the program may end with. One that is interrupted while it ends may say so in Python's own way."""
    statuses = {0}
    if struck and plan.strike.fault in KILLING:
        statuses.add(-signal.Signals[plan.strike.fault.name].value)
    if struck and plan.strike.fault in INTERRUPTING:
        statuses |= {1, 130, -signal.SIGINT.value}
    return statuses


# ---- by when --------------------------------------------------------------------------------------------------------


def run_ends_by(plan: Plan, run: int, begins: float, struck: Struck | None) -> float:
    deed = plan.deeds[run]
    start = START + (30.0 if plan.strike.fault is Fault.LATENCY else 0.0)
    natural = begins + start + (0.0 if deed.seconds >= FOREVER else deed.seconds) + 2 * (plan.grace + LEAVING) + BUSY
    return natural if struck is None else max(natural, effect_by(plan, begins, struck))


def effect_by(plan: Plan, begins: float, struck: Struck) -> float:
    """When a run that ends with the fault's effect has ended; one that begins later has to find the host silent."""
    since = max(struck.over, begins + CONNECTING if begins > struck.over else 0.0)
    return since + promised(plan) + BUSY


def program_ends_by(plan: Plan, last_note: float, struck: Struck | None) -> float:
    closed = last_note + plan.grace + 5.0 + LEAVING + BUSY
    return closed if struck is None else max(closed, struck.over + promised(plan) + BUSY)


def promised(plan: Plan) -> float:
    """Seconds from the fault to the report of its effect, all processes of the run being gone."""
    ending = plan.grace + LEAVING
    fault = plan.strike.fault
    if fault in (Fault.STOP_FORKSERVER, Fault.STOP_RUNNER):  # before there are workers, perhaps
        return plan.start_timeout + ending + SETTLE
    if fault in PERSISTENT or fault in (Fault.STOP_AGENT, Fault.STOP_GUARDIAN):
        return plan.lease + 2.0 + ending
    return 2.0 + ending


def hosts_clean_by(plan: Plan, struck: Struck | None, program_ended: float) -> float:
    """When nothing of the launch may be left on any host, reachable or not."""
    ending = plan.grace + LEAVING + BUSY
    if struck is None:
        return program_ended + ending
    # Whoever was never spoken to waits longer than a lease for the first word.
    unspoken = FIRST_WORD if plan.strike.when in (When.BEGINS, When.UP) else 0.0
    return max(program_ended, struck.over + promised(plan), struck.over + unspoken) + ending
