"""What the job does for one event, counted in steps of the interpreter: the same, however many hosts a launch has."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from trx.events import Event, Said
from trx.job import Job, Settings, State
from trx.plan import Host
from trx_agent.protocol.messages import Door, Drained, Ended, Gone, Hello, Reached, Returned, Up

RUN = 1
DOOR = Door("10.0.0.1", 4711)
SETTINGS = Settings(backend=None, nonce=b"nonce", run_id="run", start_timeout=300.0, grace=5.0)


def steps(call: Callable[[], Any]) -> int:
    """How many instructions of Python's byte code run below a call."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@functools.cache
def costs(hosts: int) -> dict[str, int]:
    """What an event from a host in the middle costs, of each kind, in a job of so many hosts."""
    planned = [Host(index, f"node{index}", f"node{index}", 1, local=False) for index in range(hosts)]
    job = Job(RUN, planned, SETTINGS, now=0.0)
    middle = hosts // 2
    found: dict[str, int] = {}

    def all_say(say: Callable[[int], Event], first: int = 0) -> None:
        """The one in the middle is measured; the first and the last may plan for all."""
        for agent in range(first, hosts):
            event = say(agent)
            if agent == middle:
                assert isinstance(event, Said)
                found[type(event.message).__name__] = steps(lambda event=event: job.handle(event, 1.0))  # type: ignore[misc]
            else:
                job.handle(event, 1.0)

    all_say(lambda agent: Said(agent, Hello(1, 0, 8, (DOOR,) if agent == 0 else (), 1)))
    all_say(lambda agent: Said(agent, Reached((DOOR,))), first=1)
    all_say(lambda agent: Said(agent, Up(RUN, 2, (3,))))
    all_say(lambda agent: Said(agent, Ended(RUN, 0, 3, Returned(), 0, "")))
    all_say(lambda agent: Said(agent, Gone(RUN, ())))
    all_say(lambda agent: Said(agent, Drained(RUN)))
    assert job.state is State.DONE
    return found


def test_steps_are_counted_in_loops_and_in_what_is_called() -> None:
    def one() -> int:
        return sum(number for number in range(10))

    def many() -> int:
        return sum(number for number in range(1000))

    assert steps(many) > 50 * steps(one)


@pytest.mark.parametrize("kind", ["Hello", "Reached", "Up", "Ended", "Gone", "Drained"])
def test_an_event_costs_the_same_with_any_number_of_hosts(kind: str) -> None:
    few, many = costs(100), costs(10_000)
    assert 0 < many[kind] <= few[kind] + 10, f"{few[kind]} steps at 100 hosts, {many[kind]} at 10,000"
