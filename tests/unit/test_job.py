"""The job: histories of events are replayed, and what is to be done about each is compared. Nothing else is real."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trx.errors import HostFailure
from trx.events import Action, Announce, Arrived, Event, Finish, Interrupted, Launch, Lost, Said, Send, Tick
from trx.job import TRANSITIONS, IllegalTransition, Job, Settings, State
from trx.plan import Assignment, Host, Worker, assign
from trx.worker_end import WorkerEnd, describe, signal_name
from trx_agent.protocol.messages import (
    AnyMessage,
    Beat,
    Broken,
    Data,
    Door,
    Drained,
    Ended,
    Ending,
    Exited,
    Gone,
    Hello,
    Killed,
    Kind,
    Probe,
    Raised,
    Reached,
    Returned,
    Stop,
    Stream,
    Up,
)

START, GRACE, SETTLE, MEET = 300.0, 5.0, 30.0, 20.0
NEAR, FAR = Door("10.0.0.1", 4001), Door("192.168.0.1", 4002)
DOORS = (NEAR, FAR)
NONCE = b"nonce"
RUN = 3
"""Number of the run under test: not the first, so that there can be messages of an earlier one."""

SETTINGS = Settings("auto", NONCE, "run-id", START, GRACE, SETTLE, MEET)


class Play:
    """A job, and the clock that it is played by."""

    def __init__(
        self,
        workers: Sequence[int] = (1, 1),
        greeted: Mapping[int, Hello] | None = None,
        rendezvous: Door | None = None,
        doors: tuple[Door, ...] = DOORS,
    ) -> None:
        self.now = 1000.0
        self.workers = tuple(workers)
        self.doors = doors
        self.hosts = tuple(Host(index, f"n{index}", f"n{index}", count, False) for index, count in enumerate(workers))
        self.job = Job(RUN, self.hosts, SETTINGS, self.now, greeted, rendezvous)

    def __call__(self, *events: Event) -> list[Action]:
        return [action for event in events for action in self.job.handle(event, self.now)]

    def say(self, agent: int, *messages: AnyMessage) -> list[Action]:
        return self(*(Said(agent, message) for message in messages))

    def wait(self, seconds: float) -> list[Action]:
        self.now += seconds
        return self(Tick())

    @property
    def agents(self) -> range:
        return range(len(self.hosts))

    def state(self) -> State:
        return self.job.state

    # ---- chapters of a run ----

    def hello(self, agent: int) -> Hello:
        return Hello(self.workers[agent], 0, 4, self.doors if agent == 0 else (), 100 + agent)

    def greet(self, *agents: int) -> list[Action]:
        return [action for agent in agents or self.agents for action in self.say(agent, self.hello(agent))]

    def start(self) -> list[Action]:
        """To RUNNING; returns the actions of the last step."""
        actions = self.greet()
        for agent in self.agents[1:]:
            actions = self.say(agent, Reached(self.doors))
        assert self.state() is State.RUNNING
        return actions

    def up(self, *agents: int) -> list[Action]:
        return [
            action
            for agent in agents or self.agents
            for action in self.say(agent, Up(RUN, 200, tuple(range(300, 300 + self.workers[agent]))))
        ]

    def return_all(self, size: int = 10) -> list[Action]:
        """To DRAINING."""
        actions = [
            action
            for agent, count in enumerate(self.workers)
            for local_rank in range(count)
            for action in self.say(agent, returned(local_rank, size))
        ]
        assert self.state() is State.DRAINING
        return actions

    def arrive_all(self) -> list[Action]:
        return self(*(Arrived(agent, local) for agent, count in enumerate(self.workers) for local in range(count)))

    def drain(self, *agents: int) -> list[Action]:
        return [action for agent in agents or self.agents for action in self.say(agent, Gone(RUN, ()), Drained(RUN))]


def running(*workers: int) -> Play:
    play = Play(workers or (1, 1))
    play.start()
    play.up()
    return play


def draining(*workers: int) -> Play:
    play = running(*workers)
    play.return_all()
    return play


def stopping(*workers: int) -> Play:
    play = running(*workers)
    play.say(0, raised(0))
    assert play.state() is State.STOPPING
    return play


def ended(local_rank: int, ending: Ending, size: int = 0, run: int = RUN) -> Ended:
    return Ended(run, local_rank, 300 + local_rank, ending, size, "its last line")


def returned(local_rank: int, size: int = 10, run: int = RUN) -> Ended:
    return ended(local_rank, Returned(), size, run)


def raised(local_rank: int, summary: str = "ValueError: no", size: int = 50) -> Ended:
    return ended(local_rank, Raised(summary), size)


def failure(agent: int, reason: str = "the cable was cut") -> HostFailure:
    return HostFailure(f"n{agent}", "running", reason)


def lost(agent: int, reason: str = "the cable was cut") -> Lost:
    return Lost(agent, failure(agent, reason))


def stops(*agents: int, grace: float = GRACE) -> list[Action]:
    return [Send(agent, Stop(RUN, grace)) for agent in agents]


def kinds(actions: Iterable[Action]) -> list[type]:
    return [type(action) for action in actions]


# ---- a run that succeeds --------------------------------------------------------------------------------------------


def test_success_from_the_first_hello_to_the_end() -> None:
    play = Play((2, 1))
    assert play.greet(1) == []
    assert play.greet(0) == [Send(1, Probe(DOORS, NONCE))]
    assert play.say(1, Reached(())) == []
    (launch,) = play.say(1, Reached((FAR,)))
    assert isinstance(launch, Launch)
    assert launch.rendezvous == FAR
    assert launch.backend == "gloo"
    assert [[worker.rank for worker in each.workers] for each in launch.assignments] == [[0, 1], [2]]
    assert launch.assignments[1].environments[0]["MASTER_ADDR"] == FAR.address
    assert launch.assignments[1].environments[0]["TORCHELASTIC_RUN_ID"] == "run-id"
    assert play.up() == []
    assert play.say(0, returned(1), returned(0)) == []
    assert play(Arrived(0, 0), Arrived(0, 1)) == []
    assert play.drain(0) == []
    assert play.state() is State.RUNNING
    assert play.say(1, returned(0)) == []
    assert play.state() is State.DRAINING
    assert play(Arrived(1, 0)) == []
    assert play.say(1, Gone(RUN, ())) == []
    assert play.say(1, Drained(RUN)) == [Finish()]
    assert play.job.history == [State.STARTING, State.RUNNING, State.DRAINING, State.DONE]
    assert [end.worker.rank for end in play.job.worker_ends] == [1, 0, 2]
    assert play.job.failures() == []
    assert play.job.blame is None
    assert play.job.host_failures == {}
    assert play.job.over


def test_logs_may_take_as_long_as_they_take_once_the_processes_are_gone() -> None:
    play = draining(1, 1)
    play.arrive_all()
    play.say(0, Gone(RUN, ()))
    play.drain(1)
    assert play.wait(1e6) == []
    assert play.wait(1e6) == []
    assert play.state() is State.DRAINING
    assert play.say(0, Drained(RUN)) == [Finish()]
    assert play.state() is State.DONE


def test_values_may_take_as_long_as_they_take_once_the_processes_are_gone() -> None:
    play = draining(1)
    play.say(0, Gone(RUN, ()))
    assert play.wait(1e6) == []
    play.arrive_all()
    assert play.say(0, Drained(RUN)) == [Finish()]
    assert play.state() is State.DONE


def test_a_run_does_not_succeed_while_processes_may_be_left() -> None:
    play = draining(1)
    play.arrive_all()
    assert play.say(0, Drained(RUN)) == []
    assert play.say(0, Gone(RUN, ())) == [Finish()]


def test_one_host_alone_needs_no_probe() -> None:
    play = Play((2,))
    (launch,) = play.greet()
    assert isinstance(launch, Launch)
    assert launch.rendezvous == NEAR


def test_a_later_run_starts_at_once_by_the_door_of_the_first() -> None:
    first = running(2, 1)
    play = Play((2, 1), first.job.hellos, FAR)
    (launch,) = play(Tick())
    assert isinstance(launch, Launch)
    assert launch.rendezvous == FAR
    assert play.state() is State.RUNNING


def test_a_later_run_without_a_door_looks_for_one() -> None:
    play = Play((1, 1), {0: Hello(1, 0, 1, DOORS, 1), 1: Hello(1, 0, 1, (), 1)})
    assert play(Tick()) == [Send(1, Probe(DOORS, NONCE))]
    assert kinds(play.say(1, Reached((NEAR,)))) == [Launch]


def test_a_later_run_waits_only_for_agents_that_have_not_greeted() -> None:
    play = Play((1, 1), {1: Hello(1, 0, 1, (), 1)}, NEAR)
    assert play(Tick()) == []
    assert kinds(play.greet(0)) == [Launch]


@pytest.mark.parametrize(
    ("backend", "gpus", "expected"),
    [("auto", 0, "gloo"), ("auto", 1, "nccl"), ("gloo", 1, "gloo"), (None, 1, ""), ("nccl", 0, "nccl")],
)
def test_the_backend_is_chosen_when_all_have_greeted(backend: str | None, gpus: int, expected: str) -> None:
    play = Play((1,))
    play.job = Job(RUN, play.hosts, Settings(backend, NONCE, "run-id", START, GRACE), play.now)
    (launch,) = play.say(0, Hello(1, gpus, 4, DOORS, 1))
    assert isinstance(launch, Launch)
    assert launch.backend == expected


# ---- the rendezvous -------------------------------------------------------------------------------------------------


def test_the_rendezvous_is_the_first_door_that_all_others_have_reached() -> None:
    play = Play((1, 1, 1))
    play.greet()
    assert play.say(1, Reached((NEAR,))) == []
    assert play.say(2, Reached((FAR,))) == []
    assert play.say(1, Reached((NEAR, FAR))) == [
        Launch(*launch_of(play)),
    ]
    assert play.job.rendezvous == FAR


def test_of_several_doors_the_first_one_of_rank_0_is_taken() -> None:
    play = Play((1, 1))
    play.greet()
    play.say(1, Reached((FAR, NEAR)))
    assert play.job.rendezvous == NEAR


def test_hosts_are_asked_to_knock_once_and_the_first_never() -> None:
    play = Play((1, 1, 1))
    assert play.greet() == [Send(1, Probe(DOORS, NONCE)), Send(2, Probe(DOORS, NONCE))]
    assert play.wait(1) == []
    assert play.greet() == []
    assert play.say(1, Reached((NEAR,)), Reached((NEAR,))) == []


def test_one_host_that_says_twice_what_it_reached_does_not_count_as_two() -> None:
    play = Play((1, 1, 1))
    play.greet()
    play.say(1, Reached((NEAR,)), Reached((NEAR, FAR)), Reached((NEAR, FAR)))
    assert play.state() is State.STARTING
    play.say(2, Reached((FAR,)))
    assert play.job.rendezvous == FAR


def test_what_a_host_says_of_an_earlier_probe_does_not_keep_others_from_being_asked() -> None:
    play = Play((1, 1, 1))
    play.greet(0, 1)
    assert play.say(1, Reached((NEAR,))) == []
    assert play.greet(2) == [Send(1, Probe(DOORS, NONCE)), Send(2, Probe(DOORS, NONCE))]
    assert kinds(play.say(2, Reached((NEAR,)))) == [Launch]


def launch_of(play: Play) -> tuple[tuple[Assignment, ...], Door, str]:
    """What a job of this kind launches, by its own plan."""
    assert play.job.rendezvous is not None
    hellos = [play.hello(agent) for agent in play.agents]
    return assign(play.hosts, hellos, play.job.rendezvous, "run-id"), play.job.rendezvous, "gloo"


# ---- workers that fail ----------------------------------------------------------------------------------------------

FAILING = [
    (Raised("ValueError: no"), "raised ValueError: no"),
    (Killed(signal.SIGSEGV, False), "was killed by SIGSEGV"),
    (Killed(signal.SIGKILL, True), "was killed by SIGKILL, since the host is out of memory"),
    (Killed(99, False), "was killed by signal 99"),
    (Exited(0), "ended without a result, with exit status 0"),
    (Exited(7), "ended without a result, with exit status 7"),
]


@pytest.mark.parametrize(("ending", "how"), FAILING)
def test_a_worker_that_fails_stops_the_run_at_once(ending: Ending, how: str) -> None:
    play = running(1, 2)
    who = "rank 2 (local rank 1 on n1, pid 301)"
    assert play.say(1, ended(1, ending)) == [Announce(f"{who} {how}; stopping the other workers"), *stops(0, 1)]
    assert play.state() is State.STOPPING
    play(Arrived(1, 1))
    assert play.drain(0) == []
    assert play.drain(1) == [Finish()]
    assert play.state() is State.FAILED
    (end,) = play.job.failures()
    assert play.job.blame is end
    assert end.worker.rank == 2
    assert end.ended.ending == ending
    assert describe(end) == f"{who} {how}"


def test_a_worker_that_fails_before_all_are_up_stops_the_run() -> None:
    play = Play((1, 1))
    play.start()
    assert kinds(play.say(0, ended(0, Exited(1)))) == [Announce, Send, Send]
    assert play.drain(0) == []
    assert play.drain(1) == [Finish()]


def test_the_exception_of_a_worker_is_waited_for() -> None:
    play = running(1)
    play.say(0, raised(0, size=50), Gone(RUN, ()))
    assert play.wait(1e6) == []
    assert play(Arrived(0, 0)) == []
    assert play.say(0, Drained(RUN)) == [Finish()]
    assert play.job.host_failures == {}


def test_the_first_failure_decides() -> None:
    play = running(1, 1, 1)
    play.say(1, raised(0, "KeyError: 1"))
    assert play.say(0, raised(0, "ValueError: 0")) == []
    assert play.say(2, ended(0, Killed(15, False))) == []
    assert isinstance(play.job.blame, WorkerEnd)
    assert play.job.blame.worker.rank == 1
    assert [end.worker.rank for end in play.job.failures()] == [1, 0]


@pytest.mark.parametrize(
    ("ending", "counts"),
    [
        (Raised("RuntimeError: Connection closed by peer"), True),
        (Killed(15, False), False),
        (Killed(9, False), False),
        (Exited(0), False),
        (Exited(1), False),
        (Returned(), False),
    ],
)
def test_after_stop_only_what_was_raised_counts_as_a_failure(ending: Ending, counts: bool) -> None:
    play = stopping(1, 1)
    play.now += 1  # later than what may have been under way when the run was stopped
    assert play.say(1, ended(0, ending)) == []
    assert [end.worker.rank for end in play.job.failures()] == [0, *([1] if counts else [])]


def test_a_death_that_was_overtaken_by_the_lost_connection_it_caused_is_blamed() -> None:
    play = running(1, 1)
    play.say(0, ended(0, Raised("RuntimeError: Connection reset by peer")))
    play.now += 0.1
    (announced,) = play.say(1, ended(0, Killed(9, False)))
    assert isinstance(announced, Announce)
    assert "rank 1" in announced.text
    assert [end.worker.rank for end in play.job.failures()] == [1, 0]
    assert play.job.blame is play.job.failures()[0]


def test_a_death_after_another_death_changes_nothing() -> None:
    play = running(1, 1)
    play.say(0, ended(0, Killed(11, False)))
    assert play.say(1, ended(0, Killed(9, False))) == []
    assert [end.worker.rank for end in play.job.failures()] == [0, 1]


def test_hosts_that_still_hand_something_over_are_not_given_up() -> None:
    play = draining(1, 1)
    play.wait(GRACE)
    for _ in range(5):
        assert play.wait(SETTLE - 1) == []
        play.say(1, Data(Stream(RUN, 0, Kind.VALUE), 0))
        play.say(0, Data(Stream(RUN, 0, Kind.VALUE), 0))
    assert play.state() is State.DRAINING
    assert len(play.job.worker_ends) == 2


def test_a_failure_after_others_have_returned_and_gone_stops_only_who_is_left() -> None:
    play = running(1, 1)
    play.say(0, returned(0, 0))
    play.drain(0)
    assert play.say(1, ended(0, Exited(3)))[1:] == stops(1)
    assert play.drain(1) == [Finish()]
    assert play.state() is State.FAILED


def test_leftovers_are_told_with_their_host_and_once() -> None:
    play = stopping(1, 1)
    play(Arrived(0, 0))
    play.drain(0)
    words = Gone(RUN, ("pid 5 (python, state disk-sleep)", "pid 6"))
    assert play.say(1, words, words, Drained(RUN)) == [Finish()]
    assert play.job.leftovers == ["n1: pid 5 (python, state disk-sleep)", "n1: pid 6"]


def test_leftovers_do_not_make_a_run_fail() -> None:
    play = draining(1)
    play.arrive_all()
    play.say(0, Gone(RUN, ("pid 5",)), Drained(RUN))
    assert play.state() is State.DONE
    assert play.job.leftovers == ["n0: pid 5"]


# ---- hosts that cannot be used --------------------------------------------------------------------------------------


def test_all_hosts_that_cannot_be_used_are_reported_together() -> None:
    play = Play((1, 1, 1))
    assert play(lost(2, "its name is not known")) == []
    assert play.say(1, Broken("importing torch", "there is none")) == []
    assert play.state() is State.STARTING
    assert play.greet(0) == [Finish()]
    assert play.state() is State.FAILED
    assert play.job.host_failures == {
        2: failure(2, "its name is not known"),
        1: HostFailure("n1", "importing torch", "there is none"),
    }


def test_a_host_that_is_lost_after_its_hello_is_not_waited_for_again() -> None:
    play = Play((1, 1, 1))
    play.greet(1)
    play(lost(1))
    play.greet(0)
    assert play.state() is State.STARTING
    assert play.greet(2) == [Finish()]
    assert list(play.job.host_failures) == [1]


def test_a_host_that_is_lost_while_doors_are_knocked_at_ends_the_run() -> None:
    play = Play((1, 1))
    play.greet()
    assert play(lost(1)) == [Finish()]
    assert play.state() is State.FAILED


def test_the_first_word_about_a_host_counts() -> None:
    play = Play((1, 1))
    play.say(0, Broken("importing torch", "there is none"))
    play(lost(0, "its agent ended"))
    assert play.job.host_failures[0].reason == "there is none"


def test_a_host_without_gpus_is_reported_with_the_others() -> None:
    play = Play((1, 1))
    assert play.say(0, Hello(0, 0, 4, DOORS, 1)) == []
    assert play(lost(1)) == [Finish()]
    assert play.job.host_failures[0].stage == "counting its GPUs"
    assert play.job.host_failures[0].reason == "it has no GPU"
    assert "auto" in play.job.host_failures[0].advice
    assert set(play.job.host_failures) == {0, 1}


def test_a_host_without_gpus_fails_the_next_run_too() -> None:
    play = Play((1, 1), {0: Hello(1, 0, 1, DOORS, 1), 1: Hello(0, 0, 1, (), 1)}, NEAR)
    assert play(Tick()) == [Finish()]
    assert play.state() is State.FAILED
    assert list(play.job.host_failures) == [1]


def test_a_host_that_was_lost_between_runs_fails_the_next_one() -> None:
    play = Play((1, 1), running(1, 1).job.hellos, NEAR)
    assert play(lost(1)) == [Finish()]
    assert play.job.host_failures == {1: failure(1)}


def test_a_host_lost_while_running_stops_the_others() -> None:
    play = running(1, 1, 1)
    assert play(lost(1)) == [Announce("n1, running: the cable was cut; stopping the run"), *stops(0, 2)]
    assert play.job.blame == failure(1)
    assert play.drain(0) == []
    assert play.drain(2) == [Finish()]
    assert play.state() is State.FAILED


def test_the_only_host_lost_while_running_leaves_nothing_to_wait_for() -> None:
    play = running(2)
    assert kinds(play(lost(0))) == [Announce, Finish]
    assert play.job.history[-2:] == [State.STOPPING, State.FAILED]


def test_a_host_lost_before_its_value_came_fails_a_run_whose_workers_have_all_returned() -> None:
    play = draining(1, 1)
    assert kinds(play(lost(1))) == [Announce, Send]
    play(Arrived(0, 0))
    assert play.drain(0) == [Finish()]
    assert play.state() is State.FAILED
    assert play.job.blame == failure(1)


def test_a_host_lost_while_stopping_is_no_longer_waited_for_and_not_to_blame() -> None:
    play = stopping(1, 1)
    play.say(1, raised(0))
    play(Arrived(0, 0))
    play.drain(0)
    assert play.state() is State.STOPPING
    assert play(lost(1)) == [Finish()]
    assert isinstance(play.job.blame, WorkerEnd)
    assert play.job.host_failures == {1: failure(1)}


def test_an_end_that_is_heard_of_after_its_host_was_lost_announces_nothing_to_wait_for() -> None:
    play = running(1, 1)
    play(lost(0))
    play.say(0, returned(0))
    play.say(1, returned(0))
    play(Arrived(1, 0))
    assert play.drain(1) == [Finish()]
    assert play.state() is State.FAILED


@pytest.mark.parametrize("late", [Said(1, Drained(RUN)), Lost(1, failure(1)), Interrupted(0), Tick(), Arrived(1, 0)])
def test_a_run_that_is_over_stays_so(late: Event) -> None:
    for play in (_fails(), _succeeds()):
        assert play.job.over
        before = play.state()
        assert play(late) == []
        assert play.state() is before
        assert not play.job.interrupted


def test_a_host_whose_workers_are_gone_without_a_word_fails_the_run() -> None:
    play = running(1, 2)
    play.say(1, returned(0))
    reason = "its workers are gone, and it did not say how they ended"
    assert play.say(1, Gone(RUN, ())) == [Announce(f"n1, running: {reason}; stopping the run"), *stops(0)]
    assert play.job.blame == HostFailure("n1", "running", reason)


def test_a_host_that_is_stopped_before_its_workers_are_up_has_not_failed() -> None:
    play = Play((1, 1))
    play.start()
    play(lost(1))
    assert play.drain(0) == [Finish()]
    assert list(play.job.host_failures) == [1]


def test_a_broken_agent_is_told_to_stop_too_since_its_workers_may_live() -> None:
    play = running(1, 1)
    actions = play.say(1, Broken("watching the workers", "the process that held them died"))
    text = "n1, watching the workers: the process that held them died; stopping the run"
    assert actions == [Announce(text), *stops(0, 1)]
    play.drain(0)
    assert play.state() is State.STOPPING
    assert play.drain(1) == [Finish()]


# ---- deadlines ------------------------------------------------------------------------------------------------------


def test_hosts_that_do_not_greet_in_time_are_named() -> None:
    play = Play((1, 1, 1))
    play.greet(1)
    assert play.wait(START - 1) == []
    assert play.wait(1) == [Finish()]
    assert play.state() is State.FAILED
    assert play.job.host_failures == {
        agent: HostFailure(f"n{agent}", "starting the agent", "it did not answer within 300 s") for agent in (0, 2)
    }


def test_hosts_that_reach_too_little_are_named_with_what_was_tried() -> None:
    play = Play((1, 1, 1, 1))
    play.greet()
    play.say(1, Reached(DOORS))
    play.say(2, Reached((NEAR,)))
    assert play.wait(MEET - 1) == []
    assert play.wait(1) == [Finish()]
    assert set(play.job.host_failures) == {2, 3}
    assert "n0 (10.0.0.1, 192.168.0.1) it reaches only 1" in play.job.host_failures[2].reason
    assert "reaches only 0" in play.job.host_failures[3].reason
    assert "firewall" in play.job.host_failures[3].advice


@pytest.mark.parametrize("hosts", [1, 2])
def test_a_first_host_without_any_door_does_not_keep_the_run_waiting_for_ever(hosts: int) -> None:
    play = Play((1,) * hosts, doors=())
    play.greet()
    assert play.wait(START) == [Finish()]
    assert list(play.job.host_failures) == [0]


def test_knocking_at_doors_takes_no_longer_than_all_of_the_start_may() -> None:
    play = Play((1, 1))
    play.now += START - 1
    play.greet()
    assert play.wait(1) == [Finish()]
    assert list(play.job.host_failures) == [1]


def test_workers_that_are_not_started_in_time_stop_the_run() -> None:
    play = Play((1, 1, 1))
    play.start()
    play.up(1)
    assert play.wait(START - 1) == []
    actions = play.wait(1)
    reason = "its workers were not started within 300 s"
    assert actions == [Announce(f"n0, starting the workers: {reason}; stopping the run"), *stops(0, 1, 2)]
    assert play.job.blame == HostFailure("n0", "starting the workers", reason)
    assert set(play.job.host_failures) == {0, 2}


def test_workers_that_are_up_may_run_for_ever() -> None:
    play = running(1, 1)
    for _ in range(10):
        assert play.wait(1e6) == []
    assert play.state() is State.RUNNING


def test_workers_that_have_returned_and_do_not_end_are_stopped_and_the_run_succeeds() -> None:
    play = draining(1, 1)
    play.arrive_all()
    play.drain(0)
    assert play.wait(GRACE - 1) == []
    assert play.wait(1) == stops(1)
    assert play.state() is State.DRAINING
    assert play.drain(1) == [Finish()]
    assert play.state() is State.DONE


def test_hosts_that_do_not_end_a_run_whose_workers_returned_fail_it() -> None:
    play = draining(1, 1)
    play.arrive_all()
    play.drain(0)
    play.wait(GRACE)
    assert play.wait(GRACE + SETTLE - 1) == []
    assert play.wait(1) == [Finish()]
    assert play.job.history[-3:] == [State.DRAINING, State.STOPPING, State.FAILED]
    (told,) = play.job.host_failures.values()
    assert (told.hostname, told.stage) == ("n1", "ending the run")
    assert "processes" in told.reason


def test_a_host_that_hands_over_everything_but_an_outcome_fails_the_run() -> None:
    play = draining(1, 2)
    play(Arrived(0, 0), Arrived(1, 0))
    assert kinds(play.drain(1)) == [Announce, Send]
    assert play.drain(0) == [Finish()]
    assert play.state() is State.FAILED
    assert play.job.blame == HostFailure("n1", "handing over the outcomes", "not all of them arrived")


def test_hosts_that_are_slow_to_hand_over_are_not_given_up_with_those_that_do_not_end() -> None:
    play = draining(1, 1)
    play.say(0, Gone(RUN, ()))
    play.wait(GRACE)
    assert play.wait(GRACE + SETTLE) == []
    assert list(play.job.host_failures) == [1]
    play(Arrived(0, 0))
    assert play.say(0, Drained(RUN)) == [Finish()]
    assert list(play.job.host_failures) == [1]


def test_hosts_that_do_not_end_a_failed_run_are_given_up() -> None:
    play = stopping(1, 1)
    play(Arrived(0, 0))
    assert play.wait(GRACE + SETTLE - 1) == []
    play.drain(0)
    assert play.wait(1) == [Finish()]
    assert play.state() is State.FAILED
    assert list(play.job.host_failures) == [1]
    assert isinstance(play.job.blame, WorkerEnd)


# ---- interrupts -----------------------------------------------------------------------------------------------------


def test_an_interrupt_before_anything_runs_ends_it_at_once() -> None:
    play = Play((1, 1))
    play.greet(0)
    assert play(Interrupted(GRACE)) == [Finish()]
    assert play.state() is State.FAILED
    assert play.job.interrupted


@pytest.mark.parametrize("make", [running, draining])
def test_an_interrupt_stops_the_run(make: Callable[..., Play]) -> None:
    play = make(1, 1)
    assert play(Interrupted(GRACE)) == stops(0, 1)
    play.arrive_all()
    play.drain(0)
    assert play.drain(1) == [Finish()]
    assert play.state() is State.FAILED
    assert play.job.interrupted
    assert play.job.blame is None


def test_a_second_interrupt_takes_the_grace_away() -> None:
    play = running(1, 1)
    play(Interrupted(GRACE))
    play.drain(0)
    assert play(Interrupted(0.0)) == stops(1, grace=0.0)
    assert play.wait(SETTLE - 1) == []
    assert play.wait(1) == [Finish()]
    assert list(play.job.host_failures) == [1]


def test_a_second_interrupt_never_puts_the_end_off() -> None:
    play = running(1)
    play(Interrupted(0.0))
    play.now += SETTLE / 2
    play(Interrupted(GRACE))
    assert play.wait(SETTLE / 2) == [Finish()]


def test_an_interrupt_when_no_process_is_left_does_not_wait_for_logs() -> None:
    play = draining(1, 1)
    play.say(0, Gone(RUN, ()))
    play.say(1, Gone(RUN, ()))
    assert play(Interrupted(GRACE)) == [*stops(0), Finish()]
    assert play.state() is State.FAILED


def test_the_workers_store_lives_until_the_last_of_them_is_gone() -> None:
    play = draining(1, 1)
    play.arrive_all()
    assert play.say(0, Gone(RUN, ())) == []
    assert play.say(1, Gone(RUN, ())) == stops(0, grace=0.0)
    assert play.say(1, Drained(RUN)) == []
    assert play.say(0, Drained(RUN)) == [Finish()]
    assert play.state() is State.DONE


def test_an_interrupt_after_a_failure_is_remembered() -> None:
    play = stopping(1, 1)
    assert play(Interrupted(1.0)) == stops(0, 1, grace=1.0)
    assert play.job.interrupted


# ---- repetitions, and messages of an earlier run --------------------------------------------------------------------


def test_a_worker_that_is_said_twice_to_have_returned_counts_once() -> None:
    play = running(1, 1)
    play.say(0, returned(0), returned(0))
    assert play.state() is State.RUNNING
    assert len(play.job.worker_ends) == 1


def test_a_worker_that_is_said_twice_to_have_failed_counts_once() -> None:
    play = stopping(1, 1)
    play.say(0, raised(0))
    assert len(play.job.failures()) == 1


EARLIER = RUN - 1


@pytest.mark.parametrize(
    "message",
    [
        returned(0, run=EARLIER),
        ended(0, Exited(1), run=EARLIER),
        Gone(EARLIER, ("pid 1",)),
        Drained(EARLIER),
        Up(EARLIER, 1, (2,)),
        Beat(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_late_messages_of_an_earlier_run_are_ignored(message: AnyMessage) -> None:
    play = Play((1, 1))
    play.start()
    assert play.say(0, message) == []
    assert play.state() is State.RUNNING
    assert play.job.worker_ends == []
    assert play.job.leftovers == []
    play.up(1)
    assert kinds(play.wait(START)) == [Announce, Send, Send]  # agent 0 is still waited for
    assert list(play.job.host_failures) == [0]


def test_late_messages_of_an_earlier_run_do_not_end_one_that_is_draining() -> None:
    play = draining(1)
    play.arrive_all()
    assert play.say(0, Gone(EARLIER, ()), Drained(EARLIER)) == []
    assert play.say(0, Gone(RUN, ()), Drained(EARLIER)) == []
    assert play.state() is State.DRAINING
    assert play.say(0, Drained(RUN)) == [Finish()]


# ---- the table ------------------------------------------------------------------------------------------------------


def _start_fails() -> Play:
    play = Play((1,))
    play(lost(0))
    return play


def _succeeds() -> Play:
    play = draining(1, 1)
    play.arrive_all()
    play.drain()
    return play


def _fails() -> Play:
    play = running(1, 1)
    play(lost(0), lost(1))
    return play


def _fails_late() -> Play:
    play = draining(1)
    play(Interrupted(0))
    return play


def test_every_transition_of_the_table_can_happen_and_no_other() -> None:
    seen = set()
    for make in (_start_fails, _succeeds, _fails, _fails_late):
        history = make().job.history
        seen |= set(pairwise(history))
    assert seen == {(before, after) for before, allowed in TRANSITIONS.items() for after in allowed}


def test_all_states_are_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)


def test_an_illegal_transition_tells_the_history() -> None:
    play = running(1)
    with pytest.raises(IllegalTransition, match=r"^starting → running ⇸ done$"):
        play.job._move(State.DONE, play.now)
    assert play.state() is State.RUNNING


@pytest.mark.parametrize(
    ("before", "after"), [(a, b) for a in State for b in State if b not in TRANSITIONS[a]], ids=lambda s: s.value
)
def test_what_the_table_does_not_allow_is_refused(before: State, after: State) -> None:
    job = Play((1,)).job
    job.state = before
    job.history = [before]
    with pytest.raises(IllegalTransition, match=f"{before.value} ⇸ {after.value}"):
        job._move(after, 0.0)


# ---- words ----------------------------------------------------------------------------------------------------------


def test_signals_are_named_where_they_have_a_name() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(99) == "signal 99"


def test_a_worker_is_described_by_rank_host_and_pid() -> None:
    end = WorkerEnd(Worker(9, 1, Host(3, "n3", "n3#2", 2, False)), ended(1, Killed(11, False)), False)
    assert describe(end) == "rank 9 (local rank 1 on n3#2, pid 301) was killed by SIGSEGV"


# ---- any order ------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What the job was told, kept apart from the job's own books."""

    ends: dict[tuple[int, int], Ended] = field(default_factory=dict)
    arrived: set[tuple[int, int]] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    drained: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    trouble: bool = False
    """Whether a host failed, or the user interrupted."""

    def note(self, event: Event, launched: bool) -> None:
        match event:
            case Said(agent, Ended(run=run) as end) if run == RUN and launched:
                self.ends.setdefault((agent, end.local_rank), end)
            case Said(agent, Gone(run)) if run == RUN and launched:
                self.gone.add(agent)
            case Said(agent, Drained(run)) if run == RUN and launched:
                self.drained.add(agent)
            case Said(_, Broken()) | Interrupted():
                self.trouble = True
            case Arrived(agent, local_rank) if (agent, local_rank) in self.ends:
                self.arrived.add((agent, local_rank))
            case Lost(agent, _):
                self.lost.add(agent)
                self.trouble = True

    def success(self, keys: set[tuple[int, int]]) -> bool:
        returned = {key for key, end in self.ends.items() if isinstance(end.ending, Returned)}
        owed = {key for key, end in self.ends.items() if end.size}
        return returned == keys and owed <= self.arrived and not self.trouble


class Simulation:
    """Plays any events to a job, and holds it to its laws after each."""

    def __init__(self, workers: Sequence[int]) -> None:
        self.play = Play(workers)
        self.keys = {(agent, local) for agent, count in enumerate(workers) for local in range(count)}
        self.told = Told()
        self.actions: list[Action] = []
        self.entered = self.play.now
        self.limits = {
            State.STARTING: START,
            State.DRAINING: GRACE + GRACE + SETTLE,
            State.STOPPING: GRACE + SETTLE,
        }

    @property
    def launched(self) -> bool:
        return State.RUNNING in self.play.job.history

    @property
    def alive(self) -> set[int]:
        """Agents on which processes of the run may be left."""
        return set(self.play.agents) - self.told.gone - self.told.lost if self.launched else set()

    @property
    def store(self) -> set[int]:
        """The first host, where the workers' store may be all that is left."""
        kept = self.launched and len(self.play.agents) > 1 and not {0} & (self.told.drained | self.told.lost)
        return {0} if kept else set()

    def feed(self, event: Event) -> None:
        job = self.play.job
        before, story = job.state, len(job.history)
        if not job.over:
            self.told.note(event, self.launched)
        actions = self.play(event)
        self.actions += actions
        if before in (State.DONE, State.FAILED):
            assert actions == []
            assert job.state is before
        if job.state is not before:
            self.entered = self.play.now
        if State.STOPPING in job.history[story:] and not (isinstance(event, Tick) and before is State.DRAINING):
            stopped = [action.agent for action in actions if isinstance(action, Send)]
            assert stopped == sorted(self.alive | self.store)
            assert all(isinstance(action.message, Stop) for action in actions if isinstance(action, Send))
        assert self.actions.count(Finish()) == int(job.over)
        if job.state is State.DONE:
            assert self.told.success(self.keys)
            assert self.told.gone & self.told.drained >= set(self.play.agents)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.play.now += 1.0
            self.feed(Tick())
            job = self.play.job
            limit = self.limits.get(job.state)
            if limit and (job.state is State.STARTING or self.alive - set(job.host_failures)):
                assert self.play.now - self.entered < limit + 1.0

    def finish(self, patience_ends: bool) -> None:
        """Nobody says anything any more; then the user loses patience, or leases end."""
        self.wait(int(GRACE + GRACE + SETTLE) + 2)
        self.play.now += START
        self.feed(Tick())
        self.wait(int(GRACE + SETTLE) + 2)
        if not self.play.job.over:
            self.feed(Interrupted(GRACE) if patience_ends else lost(0))
            self.wait(int(GRACE + SETTLE) + 1)
        for agent in self.play.agents:
            if not self.play.job.over:
                self.feed(lost(agent))
        assert self.play.job.over
        assert self.play.job.history[-1] in (State.DONE, State.FAILED)
        assert self.actions.count(Finish()) == 1
        if self.play.state() is State.FAILED and not self.play.job.interrupted:
            assert self.play.job.blame or self.play.job.host_failures


Story = tuple[list[int], list[Event | int]]
"""Numbers of workers; and events, with the seconds between them."""

ENDINGS: list[Ending] = [Returned(), Returned(), Raised("ValueError: x"), Exited(0), Exited(1), Killed(9, True)]


@st.composite
def speech(draw: st.DrawFn, agent: int, workers: int, is_smooth: bool) -> list[Event]:
    """What an agent says in the course of a run, in its order; somewhere it may break off, or stammer.

    Where `is_smooth`, that is not before its workers are up.
    """
    doors = DOORS if agent == 0 else ()
    hello = Hello(workers if is_smooth else draw(st.sampled_from([workers] * 5 + [0])), 0, 4, doors, 1)
    reached = DOORS if is_smooth else draw(st.sampled_from([DOORS, DOORS, (NEAR,), ()]))
    events: list[Event] = [Said(agent, hello)]
    events += [Said(agent, Reached(reached))] if agent else []
    events += [Said(agent, Up(RUN, 1, tuple(range(workers))))]
    is_good = draw(st.integers(0, 3)) > 0
    for local_rank in draw(st.permutations(range(workers))):
        ending = Returned() if is_good else draw(st.sampled_from(ENDINGS))
        size = 10 if isinstance(ending, Returned | Raised) else 0
        events += [Said(agent, ended(local_rank, ending, size)), *([Arrived(agent, local_rank)] if size else [])]
    events += [Said(agent, Gone(RUN, draw(st.sampled_from([(), (), ("pid 1",)])))), Said(agent, Drained(RUN))]
    if draw(st.integers(0, 3)) == 0:
        cut = draw(st.integers(3 if is_smooth else 0, len(events)))
        words: list[Event] = [Lost(agent, failure(agent)), Said(agent, Broken("running", "it broke"))]
        events[cut:] = draw(st.sampled_from([words[:1], words[1:], words, []]))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(events)))
        events[at:at] = events[max(0, at - 3) : at]  # said again
    return events


@st.composite
def histories(draw: st.DrawFn) -> Story:
    """Numbers of workers, and events with waits between them: each agent's in order, the agents' interleaved."""
    workers = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    is_smooth = draw(st.integers(0, 2)) > 0
    speeches = [draw(speech(agent, count, is_smooth)) for agent, count in enumerate(workers)]
    history: list[Event | int] = []
    while any(speeches):
        events = draw(st.sampled_from([events for events in speeches if events]))
        history += events[: (count := draw(st.integers(1, 3)))]
        del events[:count]
        if draw(st.integers(0, 9)) == 0:
            history.append(draw(st.sampled_from([1, 4, 20, 40, 310])))
        if draw(st.integers(0, 39)) == 0:
            history.append(Interrupted(draw(st.sampled_from([GRACE, 0.0]))))
    return workers, history


@st.composite
def chaos(draw: st.DrawFn) -> Story:
    """The same events in any order at all, and as often as you like."""
    workers, history = draw(histories())
    late: list[Event | int] = [
        Said(0, returned(0, run=EARLIER)),
        Said(0, Drained(EARLIER)),
        Said(0, Up(EARLIER, 1, ())),
    ]
    start: list[Event | int] = [Said(agent, Hello(count, 0, 4, DOORS, 1)) for agent, count in enumerate(workers)]
    start += [Said(agent, Reached(DOORS)) for agent in range(1, len(workers))]
    some = draw(st.lists(st.sampled_from([*history, *late]), max_size=2 * len(history)))
    return workers, [*(start if draw(st.integers(0, 3)) else []), *some]


def replay(workers: Sequence[int], history: Iterable[Event | int]) -> Simulation:
    simulation = Simulation(workers)
    for each in history:
        if isinstance(each, int):
            simulation.wait(each)
        else:
            simulation.feed(each)
    return simulation


MANY = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(histories(), st.booleans())
def test_whatever_the_agents_say_the_job_keeps_its_laws(story: Story, patience_ends: bool) -> None:
    replay(*story).finish(patience_ends)


@MANY
@given(chaos(), st.booleans())
def test_in_whatever_order_it_is_said_the_job_keeps_its_laws(story: Story, patience_ends: bool) -> None:
    replay(*story).finish(patience_ends)


@MANY
@given(st.data())
def test_agents_that_all_do_well_succeed_in_whatever_order_they_speak(data: st.DataObject) -> None:
    workers = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    simulation = Simulation(workers)
    play = simulation.play
    for agent in data.draw(st.permutations(play.agents)):
        simulation.feed(Said(agent, play.hello(agent)))
    for agent in data.draw(st.permutations(play.agents[1:])):
        simulation.feed(Said(agent, Reached(DOORS)))
    speeches: list[list[Event]] = []
    for agent, count in enumerate(workers):
        ends: list[list[Event]] = [[Said(agent, returned(local)), Arrived(agent, local)] for local in range(count)]
        up: Event = Said(agent, Up(RUN, 1, tuple(range(count))))
        last: list[Event] = [Said(agent, Gone(RUN, ())), Said(agent, Drained(RUN))]
        speeches.append([up, *(event for pair in ends for event in pair), *last])
    while any(speeches):
        events = data.draw(st.sampled_from([events for events in speeches if events]))
        simulation.feed(events.pop(0))
    assert play.state() is State.DONE
    said = [action for action in simulation.actions if not isinstance(action, Send) or action.message != Stop(RUN, 0.0)]
    assert kinds(said)[-2:] == [Launch, Finish]


# ---- many hosts -----------------------------------------------------------------------------------------------------


def test_ten_thousand_hosts() -> None:
    count, handled, sent = 10_000, 0, 0
    play = Play((1,) * count)
    chapters: list[Iterable[Event]] = [
        (Said(agent, play.hello(agent)) for agent in play.agents),
        (Said(agent, Reached(DOORS)) for agent in play.agents[1:]),
        (Said(agent, Up(RUN, 1, (2,))) for agent in play.agents),
        (Said(agent, returned(0)) for agent in play.agents),
        (Arrived(agent, 0) for agent in play.agents),
        (Said(agent, Gone(RUN, ())) for agent in play.agents),
        (Said(agent, Drained(RUN)) for agent in play.agents),
    ]
    launches: list[Launch] = []
    for chapter in chapters:
        for event in chapter:
            assert not play.job.over
            handled += 1
            for action in play(event):
                sent += isinstance(action, Send)
                launches += [action] if isinstance(action, Launch) else []
    assert play.state() is State.DONE
    assert handled == 7 * count - 1
    assert sent == count  # a probe to all but the first, which is told at last that its store is not needed any more
    (launch,) = launches
    assert launch.assignments[-1].environments[0]["RANK"] == "9999"
    assert len(play.job.worker_ends) == count
