"""What a seed means: hosts, workers, functions, and the fault that hits them. Pure: the same seed, the same plan."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

LOCALHOST = "localhost"

FOREVER = 600.0
"""Seconds that a worker works which only a fault ends."""


class Fault(enum.Enum):
    """What goes wrong. Processes are killed and stopped by their pid; a stopped worker goes on after a while."""

    NONE = "nothing"
    KILL_WORKER = "a worker is killed"
    KILL_RUNNER = "a runner is killed"
    KILL_FORKSERVER = "a forkserver is killed"
    KILL_AGENT = "an agent is killed"
    KILL_GUARDIAN = "a guardian is killed"
    STOP_WORKER = "a worker is stopped for a while"
    STOP_RUNNER = "a runner is stopped"
    STOP_FORKSERVER = "a forkserver is stopped"
    STOP_AGENT = "an agent is stopped"
    STOP_GUARDIAN = "a guardian is stopped"
    POWER_OFF = "a host loses power"
    LINK_DOWN = "a host loses its link"
    CUT_IN = "a host hears nothing"
    CUT_OUT = "nobody hears a host"
    CUT_BOTH = "a host's frames vanish"
    BLACKOUT = "a host's frames vanish for up to 3 s"
    LATENCY = "a host's frames are late, and some get lost"
    SIGINT = "the launcher gets SIGINT"
    SIGINT_TWICE = "the launcher gets SIGINT twice"
    SIGTERM = "the launcher gets SIGTERM"
    SIGKILL = "the launcher gets SIGKILL"
    SIGHUP = "the launcher gets SIGHUP"
    STOP_LAUNCHER = "the launcher is stopped for more than a lease"


PERSISTENT = frozenset({Fault.POWER_OFF, Fault.LINK_DOWN, Fault.CUT_IN, Fault.CUT_OUT, Fault.CUT_BOTH})
"""They last until they are healed: no launch works with such a host."""

TRANSIENT = frozenset({Fault.NONE, Fault.STOP_WORKER, Fault.BLACKOUT, Fault.LATENCY})
"""A run goes on as if nothing had been."""

KILLING = frozenset({Fault.SIGTERM, Fault.SIGKILL, Fault.SIGHUP})
INTERRUPTING = frozenset({Fault.SIGINT, Fault.SIGINT_TWICE})
OF_LAUNCHER = KILLING | INTERRUPTING | {Fault.STOP_LAUNCHER}
OF_NETWORK = PERSISTENT | {Fault.BLACKOUT, Fault.LATENCY}
OF_WORKER = frozenset({Fault.KILL_WORKER, Fault.STOP_WORKER})
OF_RUN = OF_WORKER | {Fault.KILL_RUNNER, Fault.STOP_RUNNER}
"""On processes that live no longer than a run."""

NOT_ENDING = TRANSIENT | {Fault.STOP_RUNNER, Fault.STOP_FORKSERVER, Fault.STOP_GUARDIAN}
"""A function that never ends by itself would go on."""


class When(enum.Enum):
    """The event of a run after which, and a random delay, the fault comes."""

    BEGINS = "the run begins"
    UP = "the agents are up"
    LINE = "a rank has printed a line"
    ENDED = "the run is over"
    CLOSES = "the launcher closes"


class End(enum.Enum):
    """What the function ends with on one rank; all others return, or would go on for ever."""

    RETURN = "return"
    RAISE = "raise"
    EXIT = "exit"
    SYSTEM_EXIT = "system exit"
    SIGKILL = "SIGKILL"
    SIGSEGV = "SIGSEGV"
    SIGABRT = "SIGABRT"


@dataclass(frozen=True)
class Deed:
    """What the function of one run does.

    Attributes:
        lines: That each rank prints while it works, evenly.
        seconds: That it works.
        flood: Bytes that each rank prints with each line.
        reduces: Whether it all-reduces with each line.
        stubborn: Whether it ignores SIGTERM.
        offspring: "", "daemon" (forked twice, in a session of its own) or "loader" (a DataLoader's workers, left open).
        size: Of the value, bytes.
        end: What it ends with on rank `culprit`.
        others_stay: Whether the other ranks go on for ever where one fails.
    """

    lines: int
    seconds: float
    flood: int
    reduces: bool
    stubborn: bool
    offspring: str
    size: int
    end: End
    culprit: int
    others_stay: bool

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "end": self.end.value}


@dataclass(frozen=True)
class Strike:
    """The fault, where, and when.

    Attributes:
        host: Index of the host that it hits.
        rank: Of the worker that it hits; without meaning for other faults.
        run: Index of the run whose event is meant.
        line: Of `line_rank`, where a line is waited for.
        delay: Seconds after the event.
        lasts: Seconds, of faults that end by themselves; for two signals, between them.
        healed: Whether the host is healed before the next run.
    """

    fault: Fault
    host: int
    rank: int
    when: When
    run: int
    line_rank: int
    line: int
    delay: float
    lasts: float
    healed: bool


@dataclass(frozen=True)
class Plan:
    """One seed's launch.

    Attributes:
        hosts: As named to the launcher.
        workers: On each of them.
        shared: Whether the hosts share a file system.
        is_open: Whether the runs happen in one open `Launcher`.
        backend: None or "gloo".
        deeds: One for each run.
        lease, grace, start_timeout: Settings of the launcher.
    """

    seed: int
    hosts: tuple[str, ...]
    workers: tuple[int, ...]
    shared: bool
    is_open: bool
    backend: str | None
    deeds: tuple[Deed, ...]
    strike: Strike
    lease: float
    grace: float
    start_timeout: float

    @property
    def world(self) -> int:
        return sum(self.workers)

    @property
    def nodes(self) -> int:
        """How many hosts of the lab it takes."""
        return len([host for host in self.hosts if host != LOCALHOST])

    def host_of(self, rank: int) -> int:
        return [index for index, count in enumerate(self.workers) for _ in range(count)][rank]

    def local_rank_of(self, rank: int) -> int:
        return rank - sum(self.workers[: self.host_of(rank)])

    def __str__(self) -> str:
        hosts = " ".join(f"{host}×{count}" for host, count in zip(self.hosts, self.workers, strict=True))
        runs = f"{len(self.deeds)} runs of an open launcher" if self.is_open else "one launch"
        return f"{hosts}, {'shared' if self.shared else 'cow'}, {self.backend or 'no backend'}, {runs}; {self._story()}"

    def _story(self) -> str:
        strike = self.strike
        if strike.fault is Fault.NONE:
            return str(strike.fault.value)
        where = "" if strike.fault in OF_LAUNCHER else f" ({self.hosts[strike.host]})"
        line = f" (rank {strike.line_rank}, line {strike.line})" if strike.when is When.LINE else ""
        return f"{strike.fault.value}{where} {strike.delay:.2f} s after {strike.when.value}{line}, run {strike.run}"


def make_plan(seed: int) -> Plan:
    """Draws everything. The order of the draws is part of what a seed means."""
    random = Random(f"trx soak {seed}")
    fault = random.choices(list(Fault), weights=[_weight(fault) for fault in Fault])[0]
    hosts = _draw_hosts(random, needs_node=fault in OF_NETWORK, few=fault is Fault.STOP_FORKSERVER)
    workers = tuple(random.choices((1, 2, 3), weights=(55, 33, 12))[0] for _ in hosts)
    backend = "gloo" if random.random() < 0.45 else None
    is_open = random.random() < 0.5
    count = random.choices((1, 2, 3), weights=(3, 5, 2))[0] if is_open else 1
    shared = random.random() < 0.5
    strike = _draw_strike(random, fault, hosts, workers, count, is_open)
    deeds = tuple(_draw_deed(random, sum(workers), backend, strike, run) for run in range(count))
    return Plan(
        seed=seed,
        hosts=hosts,
        workers=workers,
        shared=shared,
        is_open=is_open,
        backend=backend,
        deeds=deeds,
        strike=_within(strike, deeds),
        lease=8.0 if fault in (Fault.BLACKOUT, Fault.LATENCY) else random.choice((5.0, 6.0)),
        grace=random.choice((0.5, 1.0, 2.0)),
        start_timeout=20.0 if fault is Fault.STOP_FORKSERVER else 60.0,
    )


def _weight(fault: Fault) -> int:
    return 12 if fault is Fault.NONE else 4


def _draw_hosts(random: Random, needs_node: bool, few: bool) -> tuple[str, ...]:
    count = random.choices((1, 2, 3, 4), weights=(35, 45, 0 if few else 13, 0 if few else 7))[0]
    hosts = [f"node{number}" for number in range(1, count + 1)]
    if random.random() < 0.4 and not (needs_node and count == 1):
        hosts[random.randrange(count)] = LOCALHOST
    numbers = iter(range(1, count + 1))
    return tuple(host if host == LOCALHOST else f"node{next(numbers)}" for host in hosts)


def _draw_strike(
    random: Random, fault: Fault, hosts: tuple[str, ...], workers: tuple[int, ...], runs: int, is_open: bool
) -> Strike:
    remote = [index for index, host in enumerate(hosts) if host != LOCALHOST]
    host = random.choice(remote if fault in OF_NETWORK else range(len(hosts)))
    first = sum(workers[:host])
    run = random.randrange(runs)
    return Strike(
        fault=fault,
        host=host,
        rank=random.randrange(first, first + workers[host]),
        when=random.choice(_possible(fault, run, runs, is_open)),
        run=run,
        line_rank=random.randrange(sum(workers)),
        line=random.randint(1, 4),
        delay=round(random.random() ** 2, 2),  # more of them soon
        lasts=round(random.uniform(0.0, 1.0) if fault is Fault.SIGINT_TWICE else random.uniform(0.5, 3.0), 2),
        healed=random.random() < 0.6,
    )


def _possible(fault: Fault, run: int, runs: int, is_open: bool) -> list[When]:
    """Lines twice, since most happens while workers work."""
    if fault in OF_RUN:
        return [When.LINE]
    possible = [When.LINE, When.LINE]
    is_last = run == runs - 1
    if run == 0:
        possible.append(When.UP)
    if fault in OF_NETWORK | OF_LAUNCHER:
        possible.append(When.BEGINS)
    if is_open:
        possible.append(When.CLOSES if is_last else When.ENDED)
    return possible


def _draw_deed(random: Random, world: int, backend: str | None, strike: Strike, run: int) -> Deed:
    end = random.choices(list(End), weights=(60, 12, 5, 5, 8, 5, 5))[0]
    is_struck = run == strike.run and strike.when in (When.BEGINS, When.UP, When.LINE)
    seconds = random.choice((0.0, 0.3, 1.0, 2.0))
    deed = Deed(
        lines=random.randint(1, 5),
        seconds=seconds,
        flood=random.choice((0, 0, 1000, 500_000)),
        reduces=backend is not None and random.random() < 0.6,
        stubborn=random.random() < 0.25,
        offspring=random.choice(("", "", "", "daemon", "loader")),
        size=random.choice((0, 10, 10, 3_000_000)),
        end=end,
        culprit=random.randrange(world),
        others_stay=random.random() < 0.6,
    )
    # A host that was never spoken to waits for the launcher longer than that is stopped: the run may go on afterwards.
    ends_it = strike.fault not in NOT_ENDING and not (
        strike.fault is Fault.STOP_LAUNCHER and strike.when is not When.LINE
    )
    forever = random.random() < 0.5 and is_struck and ends_it
    changes: dict[str, Any] = {}
    if forever:
        changes |= {"seconds": FOREVER, "end": End.RETURN}
    if strike.fault is Fault.LATENCY:  # little gets through
        changes |= {"flood": min(deed.flood, 1000), "size": min(deed.size, 10)}
    return Deed(**{**vars(deed), **changes})


def _within(strike: Strike, deeds: tuple[Deed, ...]) -> Strike:
    """The line that is waited for must be one that is printed."""
    return Strike(**{**vars(strike), "line": min(strike.line, deeds[strike.run].lines)})
