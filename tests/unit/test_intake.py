"""Outcomes while they arrive: no more of them is kept than was announced."""

from __future__ import annotations

import pytest

from trx.intake import Intake
from trx.pieces import Received
from trx.plan import Host, Worker
from trx_agent.protocol.messages import Ended, Ending, Raised, Returned


@pytest.mark.parametrize("ending", [Returned(), Raised("Error: here")], ids=["value", "exception"])
def test_more_than_was_announced_is_let_pass_and_told(ending: Ending) -> None:
    intake = Intake()
    intake.name(0, Worker(3, 1, Host(0, "node1", "node1", 2, False)))
    intake.expect(0, Ended(1, 1, 42, ending, 100, ""))

    assert not intake.take_outcome(0, 1, 0, Received(memoryview(bytes(60))))
    assert intake.take_outcome(0, 1, 60, Received(memoryview(bytes(60))))

    outcomes = intake.outcomes()
    assert (dict(outcomes.values), dict(outcomes.errors)) == ({}, {})
    assert "100 bytes cannot be taken" in outcomes.refused[3]
