"""Ten thousand agents, simulated: what the launcher's own logic costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from benchmarks.bench import Bench
from benchmarks.shape import Contestant, Row, Sample, at_most, at_most_times
from trx.events import Event, Launch, Said, Tick
from trx.job import Job, Settings, State
from trx.plan import Host
from trx_agent.protocol.link import Link
from trx_agent.protocol.messages import (
    Beat,
    Door,
    Drained,
    Ended,
    Envelope,
    Gone,
    Hello,
    Reached,
    Returned,
    Up,
    encode,
)

_FEW, _MANY = 100, 10_000
_DOOR = Door("10.0.0.1", 4711)


class _Cluster:
    """A job and agents that do all they should; only the job's own time is counted."""

    def __init__(self, agents: int) -> None:
        self.agents = range(agents)
        hosts = [Host(agent, f"node{agent}", f"node{agent}", 1, local=False) for agent in self.agents]
        settings = Settings(backend=None, nonce=b"nonce", run_id="run", start_timeout=300.0, grace=5.0)
        self.job = Job(1, hosts, settings, now=0.0)
        self.links = [Link(lambda packet: None, 0.0) for _ in self.agents]
        self.events = 0
        self.seconds = 0.0

    def feed(self, events: Sequence[Event], now: float) -> None:
        self.events += len(events)
        began = time.process_time()
        for event in events:
            self.job.handle(event, now)
        self.seconds += time.process_time() - began

    def launch(self) -> None:
        """Up to all workers running. The last greeting and the last answer plan for all: they are not counted."""
        doors = {0: (_DOOR,)}
        hellos = [Said(agent, Hello(1, 0, 8, doors.get(agent, ()), 1)) for agent in self.agents]
        reached = [Said(agent, Reached((_DOOR,))) for agent in self.agents[1:]]
        for events in (hellos, reached):
            self.feed(events[:-1], 1.0)
            actions = self.job.handle(events[-1], 1.0)
        assert any(isinstance(action, Launch) for action in actions)
        self.feed([Said(agent, Up(1, 2, (3,))) for agent in self.agents], 2.0)

    def end(self) -> None:
        """All workers return, and all of them are gone."""
        self.feed([Said(agent, Ended(1, 0, 3, Returned(), 0, "")) for agent in self.agents], 9.0)
        self.feed([Said(agent, Gone(1, ())) for agent in self.agents], 9.0)
        self.feed([Said(agent, Drained(1)) for agent in self.agents], 9.0)
        assert self.job.state is State.DONE

    def second_of_beats(self) -> float:
        """CPU seconds for a beat of each agent, and the tick of the clock that the loop adds to each."""
        beat = encode(Envelope(0, 0, Beat()))
        began = time.process_time()
        for agent in self.agents:
            self.links[agent].receive(beat, 3.0)
            self.job.handle(Tick(), 3.0)
        return time.process_time() - began


def _measure(name: str, agents: int) -> Sample:
    cluster = _Cluster(agents)
    cluster.launch()
    beats = cluster.second_of_beats()
    cluster.end()
    event = 1e6 * cluster.seconds / cluster.events
    return {f"{name}: beats each second": 100 * beats, f"{name}: an event": event}


_MANY_NAME, _FEW_NAME = f"trx, {_MANY:,} agents", f"trx, {_FEW} agents"


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    yield [
        Contestant(_MANY_NAME, partial(_measure, _MANY_NAME, _MANY)),
        Contestant(_FEW_NAME, partial(_measure, _FEW_NAME, _FEW)),
    ]


ROWS = [
    Row(
        name="agents",
        title=f"{_MANY:,} simulated agents in the pure job",
        unit="% of a core",
        aims=[
            at_most(10, "% of a core", f"{_MANY_NAME}: beats each second"),
            at_most_times(1.5, f"{_FEW_NAME}: an event", f"{_MANY_NAME}: an event"),
        ],
        contestants=_contestants,
        rounds=9,
        units={f"{_MANY_NAME}: an event": "µs", f"{_FEW_NAME}: an event": "µs"},
    )
]
