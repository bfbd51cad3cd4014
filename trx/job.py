"""One run of one function, as a state machine: events in, actions out. Pure; time is an argument.

The laws:

1. A run succeeds when every worker has returned, every value has arrived, and no process of the run is left.
2. The first failure decides. It is announced at once; everything else is then stopped; the run has failed when nothing
   of it is left on any host, or when a host has had its time.
3. While processes of the run may be left on a host, no state but RUNNING lasts longer than its deadline. What is then
   still to be handed over (outcomes, logs) takes as long as it takes; a host that stops sending is given up by the
   engine.

```
STARTING ──all agents greeted, a rendezvous found──▶ RUNNING ──all returned──▶ DRAINING ──all gone──▶ DONE
    │                                                   │                          │
    └── a host cannot be used ──▶ FAILED ◀── all gone ── STOPPING ◀── any failure ─┘
```
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trx.errors import HostFailure
from trx.events import Action, Announce, Arrived, Event, Finish, Interrupted, Launch, Lost, Said, Send, Tick
from trx.plan import Host, Worker, assign, choose_backend
from trx.worker_end import WorkerEnd, describe, is_sudden, may_be_our_doing
from trx_agent.protocol.messages import (
    Broken,
    Data,
    DataInFile,
    Door,
    Drained,
    Ended,
    Ending,
    Gone,
    Hello,
    Probe,
    Raised,
    Reached,
    Stop,
    Up,
)

_SIMULTANEOUS = 0.25
"""Seconds within which news of different hosts may overtake each other."""

_STORE_HOST = 0
"""The host of rank 0, where the workers' store lives on after its own workers have ended, until it is told."""


class State(enum.Enum):
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.STARTING: frozenset({State.RUNNING, State.FAILED}),
    State.RUNNING: frozenset({State.DRAINING, State.STOPPING}),
    State.DRAINING: frozenset({State.DONE, State.STOPPING}),
    State.STOPPING: frozenset({State.FAILED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
}


@dataclass(frozen=True)
class Settings:
    """Of a job.

    Attributes:
        backend: As the user said it.
        torch: The launcher's version of it, without what follows a plus sign; "" where it has none.
        nonce: By which the doors of the rendezvous are known.
        run_id: Unique for this run.
        start_timeout: Seconds for all agents to come up, and again for all workers to be started.
        grace: Seconds between SIGTERM and SIGKILL; and for workers that have returned, to end by themselves.
        rendezvous_timeout: Seconds for all hosts to reach the first one.
        settle_timeout: Seconds that hosts have, above the grace, to end all processes of a run.
    """

    backend: str | None
    nonce: bytes
    run_id: str
    start_timeout: float
    grace: float
    settle_timeout: float = 10.0
    rendezvous_timeout: float = 10.0
    torch: str = ""


class IllegalTransition(RuntimeError):
    """A fault in this module; carries the history of states."""


class Job:
    """See the module.

    Args:
        number: Of the run within its launch, from 1.
        hosts: Of the launch.
        settings: See there.
        now: Seconds, on any monotonic clock.
        greeted: Agents that are up already, from an earlier run, with what they said.
        rendezvous: The door that an earlier run found.
    """

    def __init__(
        self,
        number: int,
        hosts: Sequence[Host],
        settings: Settings,
        now: float,
        greeted: Mapping[int, Hello] | None = None,
        rendezvous: Door | None = None,
    ) -> None:
        self.number = number
        self.state = State.STARTING
        self.history = [State.STARTING]
        self.hellos: dict[int, Hello] = {}
        self.rendezvous = rendezvous
        self.host_failures: dict[int, HostFailure] = {}
        self.interrupted = False
        self.worker_ends: list[WorkerEnd] = []
        self.leftovers: list[str] = []
        self.blame: WorkerEnd | HostFailure | None = None  # the first failure of the run
        self._hosts = tuple(hosts)
        self._settings = settings
        self._deadline = now + settings.start_timeout
        self._silent = {host.index for host in hosts}  # agents that have neither greeted nor failed
        self._probed = False
        self._reached: dict[int, frozenset[Door]] = {}
        self._visitors: Counter[Door] = Counter()  # how many hosts have reached a door
        self._workers: dict[tuple[int, int], Worker] = {}  # those that have not ended
        self._waiting_up: set[int] = set()
        self._awaited: set[tuple[int, int]] = set()  # outcomes that were announced and have not arrived
        self._running: set[int] = set()  # agents on which processes of the run may be left
        self._undrained: set[int] = set()  # agents that have not handed over everything
        self._stop_sent = False
        self._stopped_at = float("inf")
        self._progress: dict[int, float] = {}  # when an agent last handed over something
        self._impatient = False
        self._actions: list[Action] = []
        for agent, hello in (greeted or {}).items():
            self._greeted(agent, hello)

    # ---- the choke point --------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes an event and returns what is to be done about it. All changes of the job happen in here."""
        self._actions = []
        if self.state not in (State.DONE, State.FAILED):
            self._handlers[type(event)](self, event, now)
            self._advance(now)
        return self._actions

    @property
    def over(self) -> bool:
        return self.state in (State.DONE, State.FAILED)

    @property
    def processes_gone(self) -> bool:
        """Whether no process of the run is left, so that only what it handed over is still to be dealt with."""
        return self.state not in (State.STARTING, State.RUNNING) and not self._running

    @property
    def handing_over(self) -> frozenset[int]:
        """Agents that have still to hand over something, where nothing else is left of the run."""
        left = self._undrained | {agent for agent, _ in self._awaited}
        return frozenset(left) if self.processes_gone and not self.over else frozenset()

    def failures(self) -> list[WorkerEnd]:
        """Workers that failed, the first one first."""
        return sorted((end for end in self.worker_ends if end.failed), key=lambda end: end is not self.blame)

    # ---- events -----------------------------------------------------------------------------------------------------

    def _said(self, event: Said, now: float) -> None:
        match event.message:
            case Hello() as hello:
                self._greeted(event.agent, hello)
            case Reached(doors):
                before = self._reached.get(event.agent, frozenset())
                self._visitors.update(set(doors) - before)
                self._reached[event.agent] = before.union(doors)
            case Up(run) if run == self.number:
                self._waiting_up.discard(event.agent)
            case Ended() as ended if ended.run == self.number:
                self._ended(event.agent, ended, now)
            case Gone(run, leftovers) if run == self.number:
                label = self._hosts[event.agent].label
                told = [f"{label}: {process}" for process in leftovers]
                self.leftovers += [each for each in told if each not in self.leftovers]
                self._running.discard(event.agent)
                # Whoever is stopped before its workers are up has no end of theirs to tell.
                if self.state is not State.STOPPING and any(agent == event.agent for agent, _ in self._workers):
                    reason = "its workers are gone, and it did not say how they ended"
                    self._host_failed(event.agent, HostFailure(label, "running", reason), now)
            case Data() | DataInFile():
                self._progress[event.agent] = now
            case Drained(run) if run == self.number:
                self._drained(event.agent, now)
            case Broken(stage, reason):
                hostname = self._hosts[event.agent].label
                self._host_failed(event.agent, HostFailure(hostname, stage, reason), now)
            case _:
                pass

    def _greeted(self, agent: int, hello: Hello) -> None:
        self.hellos[agent] = hello
        self._silent.discard(agent)
        label = self._hosts[agent].label
        if self._settings.torch and hello.torch not in ("", self._settings.torch):
            reason = f"it has torch {hello.torch}, the launcher has torch {self._settings.torch}"
            advice = f"install the same version there: python -m pip install torch=={self._settings.torch}"
            self.host_failures[agent] = HostFailure(label, "comparing versions", reason, advice)
        elif hello.workers < 1:
            advice = 'workers_per_host="auto" takes CPUs where there are no GPUs; is the NVIDIA driver loaded there?'
            self.host_failures[agent] = HostFailure(label, "counting its GPUs", "it has no GPU", advice)

    def _ended(self, agent: int, ended: Ended, now: float) -> None:
        worker = self._workers.pop((agent, ended.local_rank), None)
        if worker is None:
            return  # it was said before
        sudden = self._is_sudden_death(ended.ending, now)
        stopped = self.state is State.STOPPING and not sudden and may_be_our_doing(ended.ending)
        end = WorkerEnd(worker, ended, stopped)
        self.worker_ends.append(end)
        if ended.size and agent in self._undrained:  # from an agent that is lost, news may still come, but nothing else
            self._awaited.add((agent, ended.local_rank))
        if end.failed and self.state is not State.STOPPING:
            self.blame = end
            self._actions.append(Announce(f"{describe(end)}; stopping the other workers"))
            self._stop(now, self._settings.grace)
        elif sudden and isinstance(self.blame, WorkerEnd) and isinstance(self.blame.ended.ending, Raised):
            self.blame = end  # a lost connection was heard of before the death that it was lost by
            self._actions.append(Announce(describe(end)))

    def _is_sudden_death(self, ending: Ending, now: float) -> bool:
        """Whether a worker was killed when the run had hardly begun to be stopped, by a signal that is not ours then.

        Workers that raise keep their connections until the run is stopped, so no such death comes of them.
        """
        just_stopped = self.state is State.STOPPING and now - self._stopped_at < min(
            _SIMULTANEOUS, self._settings.grace
        )
        return just_stopped and is_sudden(ending)

    def _drained(self, agent: int, now: float) -> None:
        if agent not in self._undrained:
            return
        self._undrained.discard(agent)
        missing = self._awaited.intersection((agent, local_rank) for local_rank in range(self.hellos[agent].workers))
        if missing:  # nothing comes after this
            self._awaited -= missing
            label = self._hosts[agent].label
            self._host_failed(agent, HostFailure(label, "handing over the outcomes", "not all of them arrived"), now)

    def _arrived(self, event: Arrived, now: float) -> None:
        self._awaited.discard((event.agent, event.local_rank))

    def _lost(self, event: Lost, now: float) -> None:
        if self._has_given_all(event.agent):
            return  # this run does not need it any more
        self._running.discard(event.agent)
        self._undrained.discard(event.agent)
        self._waiting_up.discard(event.agent)
        self._awaited = {key for key in self._awaited if key[0] != event.agent}
        self._host_failed(event.agent, event.failure, now)

    def _has_given_all(self, agent: int) -> bool:
        unfinished = self._running | self._undrained | {key[0] for key in self._awaited}
        return self.state in (State.RUNNING, State.DRAINING) and agent not in unfinished

    def _host_failed(self, agent: int, failure: HostFailure, now: float) -> None:
        first = agent not in self.host_failures
        self._silent.discard(agent)
        self.host_failures.setdefault(agent, failure)
        if first and self.state in (State.RUNNING, State.DRAINING):
            self.blame = failure
            self._actions.append(Announce(f"{failure}; stopping the run"))
            self._stop(now, self._settings.grace)

    def _interrupt(self, event: Interrupted, now: float) -> None:
        # Who interrupts twice, or when nothing runs any more, does not want to wait for logs.
        self._impatient = self.interrupted or not self._running
        self.interrupted = True
        if self.state is State.STARTING:
            self._move(State.FAILED, now)
        else:
            self._stop(now, event.grace)

    def _tick(self, event: Tick, now: float) -> None:
        if now >= self._deadline:
            self._overdue[self.state](self, now)

    _handlers: ClassVar[Mapping[type, Callable[..., None]]] = {
        Said: _said,
        Arrived: _arrived,
        Lost: _lost,
        Interrupted: _interrupt,
        Tick: _tick,
    }

    # ---- deadlines --------------------------------------------------------------------------------------------------

    def _start_overdue(self, now: float) -> None:
        for agent in sorted(self._silent):
            reason = f"it did not answer within {self._settings.start_timeout:.0f} s"
            self.host_failures[agent] = HostFailure(self._hosts[agent].label, "starting the agent", reason)
        self._silent.clear()
        if not self.host_failures:
            self._no_rendezvous()

    def _no_rendezvous(self) -> None:
        doors = self.hellos[0].doors
        tried = ", ".join(f"{door.address}" for door in doors)
        if not doors:
            label = self._hosts[0].label
            self.host_failures[0] = HostFailure(label, "finding the first host", "it could not listen on any address")
        for host in self._hosts[1:]:
            reached = self._reached.get(host.index, frozenset())
            if len(reached) < len(doors):
                reason = f"of the addresses of {self._hosts[0].label} ({tried}) it reaches only {len(reached)}"
                advice = "all hosts must reach one address of the first host, on any port: look at its firewall"
                self.host_failures[host.index] = HostFailure(host.label, "finding the first host", reason, advice)

    def _up_overdue(self, now: float) -> None:
        if not self._waiting_up:
            self._deadline = float("inf")
        for agent in sorted(self._waiting_up):
            reason = f"its workers were not started within {self._settings.start_timeout:.0f} s"
            self._host_failed(agent, HostFailure(self._hosts[agent].label, "starting the workers", reason), now)

    def _drain_overdue(self, now: float) -> None:
        if not self._running:
            self._deadline = float("inf")
        elif not self._stop_sent:  # whoever has returned had the time to end by itself
            self._order_stop(self._settings.grace)
            self._deadline = now + self._settings.grace + self._settings.settle_timeout
        else:
            self._give_up(now)

    def _give_up(self, now: float) -> None:
        heard = max((self._progress.get(agent, 0.0) for agent in self._running), default=0.0)
        if now - heard < self._settings.settle_timeout:  # the news queues behind what is still being handed over
            self._deadline = heard + self._settings.settle_timeout
            return
        for agent in sorted(self._running):
            reason = "it did not say that the run's processes are gone"
            failure = HostFailure(self._hosts[agent].label, "ending the run", reason, "look for processes left there")
            self.host_failures.setdefault(agent, failure)
            self._undrained.discard(agent)
            self._awaited = {key for key in self._awaited if key[0] != agent}
        self._running.clear()
        self._deadline = float("inf")
        if self.host_failures and self.state is State.DRAINING:
            self._move(State.STOPPING, now)

    _overdue: ClassVar[Mapping[State, Callable[[Job, float], None]]] = {
        State.STARTING: _start_overdue,
        State.RUNNING: _up_overdue,
        State.DRAINING: _drain_overdue,
        State.STOPPING: _give_up,
    }

    # ---- transitions ------------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        if self.state is State.STARTING:
            self._advance_start(now)
        if self.state is State.RUNNING and not self._workers:
            self._move(State.DRAINING, now)
            self._deadline = now + self._settings.grace
        nothing_left = not (self._running or ((self._undrained or self._awaited) and not self._impatient))
        if self.state is State.DRAINING and not self._running and not self._stop_sent and self._keeps_store():
            self._order_stop(0.0)  # nobody needs it any more
        if self.state is State.DRAINING and nothing_left:
            self._move(State.DONE, now)
        if self.state is State.STOPPING and nothing_left:
            self._move(State.FAILED, now)

    def _advance_start(self, now: float) -> None:
        if self._silent:
            return  # all hosts that cannot be used are reported together
        if self.host_failures:
            self._move(State.FAILED, now)
            return
        self.rendezvous = self.rendezvous or self._find_rendezvous(now)
        if self.rendezvous is None:
            return
        hellos = [self.hellos[host.index] for host in self._hosts]
        assignments = assign(self._hosts, hellos, self.rendezvous, self._settings.run_id)
        backend = choose_backend(self._settings.backend, self._hosts, hellos)
        self._workers = {
            (worker.host.index, worker.local_rank): worker for each in assignments for worker in each.workers
        }
        self._running = {host.index for host in self._hosts}
        self._undrained = set(self._running)
        self._waiting_up = set(self._running)
        self._move(State.RUNNING, now)
        self._deadline = now + self._settings.start_timeout
        self._actions.append(Launch(assignments, self.rendezvous, backend))

    def _find_rendezvous(self, now: float) -> Door | None:
        """The first of rank 0's doors that every other host has reached; the first time, has them try."""
        doors = self.hellos[0].doors
        others = range(1, len(self._hosts))
        if not self._probed:
            self._probed = True
            self._deadline = min(self._deadline, now + self._settings.rendezvous_timeout)
            self._actions += [Send(agent, Probe(doors, self._settings.nonce)) for agent in others]
        return next((door for door in doors if self._visitors[door] == len(others)), None)

    def _stop(self, now: float, grace: float) -> None:
        if self.state is not State.STOPPING:
            self._move(State.STOPPING, now)
            self._stopped_at = now
            self._deadline = float("inf")
        self._deadline = min(self._deadline, now + grace + self._settings.settle_timeout)
        self._order_stop(grace)

    def _order_stop(self, grace: float) -> None:
        self._stop_sent = True
        told = self._running | ({_STORE_HOST} if self._keeps_store() else set())
        self._actions += [Send(agent, Stop(self.number, grace)) for agent in sorted(told)]

    def _keeps_store(self) -> bool:
        """Whether the workers' store is all that is left of the run on its host."""
        return len(self._hosts) > 1 and _STORE_HOST in self._undrained - self._running

    def _move(self, state: State, now: float) -> None:
        if state not in TRANSITIONS[self.state]:
            story = " → ".join(each.value for each in self.history)
            raise IllegalTransition(f"{story} ⇸ {state.value}")
        self.state = state
        self.history.append(state)
        if self.over:
            self._actions.append(Finish())
