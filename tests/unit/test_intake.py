"""Outcomes while they arrive: no more of them is kept than was announced, and nothing of a value that was given up."""

from __future__ import annotations

import pytest

from trx.intake import Intake, Outcomes
from trx.pieces import Received
from trx.plan import Host, Worker
from trx_agent.protocol import payload
from trx_agent.protocol.messages import Ended, Ending, Killed, Kind, Raised, Returned

VALUE = b"".join(payload.dumps("a value").encode())


def named() -> Intake:
    """Expects the outcome of one worker: local rank 1 of agent 0, rank 3."""
    intake = Intake()
    intake.name(0, Worker(3, 1, Host(0, "node1", "node1", 2, False)))
    return intake


def take(intake: Intake, kind: Kind, data: bytes) -> bool:
    return intake.take_outcome(0, 1, kind, Received(memoryview(data)))


def expect(intake: Intake, ending: Ending, size: int) -> bool:
    return intake.expect(0, Ended(1, 1, 42, ending, size, ""))


def told(outcomes: Outcomes) -> tuple[dict[int, object], dict[int, bytes], dict[int, str]]:
    values = {rank: value.result() for rank, value in outcomes.values.items()}
    return values, dict(outcomes.errors), dict(outcomes.refused)


@pytest.mark.parametrize(
    ("ending", "kind"), [(Returned(), Kind.VALUE), (Raised("Error: here"), Kind.ERROR)], ids=["value", "exception"]
)
def test_more_than_was_announced_is_let_pass_and_told(ending: Ending, kind: Kind) -> None:
    intake = named()
    assert not expect(intake, ending, 100)
    assert not take(intake, kind, VALUE[:20])
    assert take(intake, kind, bytes(90))
    assert told(intake.outcomes()) == (
        {},
        {},
        {3: "its 100 bytes cannot be taken: more than the announced 100 bytes arrived"},
    )


@pytest.mark.parametrize("early", [0, 1, 20, len(VALUE) - 1, len(VALUE)])
def test_a_value_may_come_before_its_worker_has_ended(early: int) -> None:
    intake = named()
    assert not take(intake, Kind.VALUE, VALUE[:early])
    assert expect(intake, Returned(), len(VALUE)) == (early == len(VALUE))
    if early < len(VALUE):
        assert told(intake.outcomes()) == ({}, {}, {})
        assert take(intake, Kind.VALUE, VALUE[early:])
    assert told(intake.outcomes()) == ({3: "a value"}, {}, {})


@pytest.mark.parametrize("early", [1, len(VALUE)])
@pytest.mark.parametrize("ending", [Killed(9, False), Raised("OSError: No space left on device")])
def test_what_came_of_a_value_counts_for_nothing_where_its_worker_failed(early: int, ending: Ending) -> None:
    intake = named()
    take(intake, Kind.VALUE, VALUE[:early])
    size = len(b"words") if isinstance(ending, Raised) else 0
    assert not expect(intake, ending, size)
    with pytest.raises(KeyError):
        take(intake, Kind.VALUE, VALUE[early:] or b"x")
    if size:
        assert take(intake, Kind.ERROR, b"words")
    assert told(intake.outcomes()) == ({}, {3: b"words"} if size else {}, {})


def test_a_value_that_is_longer_than_was_announced_when_it_was_here_already_is_told() -> None:
    intake = named()
    take(intake, Kind.VALUE, VALUE)
    assert expect(intake, Returned(), len(VALUE) - 1)
    assert "more than the announced" in told(intake.outcomes())[2][3]


@pytest.mark.parametrize(("ending", "size"), [(Returned(), 0), (Returned(), -1), (Killed(9, False), -1)])
def test_an_outcome_of_an_impossible_size_is_none(ending: Ending, size: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        expect(named(), ending, size)


def test_an_exception_is_not_taken_before_it_is_announced() -> None:
    with pytest.raises(KeyError):
        take(named(), Kind.ERROR, b"words")
