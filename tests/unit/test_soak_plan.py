"""The soak's plans and its oracle: reproducible, complete, and of one mind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.soak.__main__ import parse_seeds
from tests.lab.soak.oracle import VALUES, Struck, expected_values, fits, legal_results, legal_statuses, run_ends_by
from tests.lab.soak.plan import (
    FOREVER,
    LOCALHOST,
    NOT_ENDING,
    OF_NETWORK,
    OF_RUN,
    End,
    Fault,
    Plan,
    When,
    make_plan,
)

PLANS = [make_plan(seed) for seed in range(500)]


def test_a_seed_means_the_same_plan_each_time():
    assert [make_plan(seed) for seed in range(500)] == PLANS
    assert len({repr(plan) for plan in PLANS}) == 500


def test_the_first_seeds_mean_what_they_meant():
    """A seed that is named somewhere is worth something only as long as the draws keep their order."""
    assert [(make_plan(seed).strike.fault.name, make_plan(seed).hosts) for seed in (1, 2, 3)] == [
        ("SIGTERM", ("node1", "localhost", "node2", "node3")),
        ("KILL_WORKER", ("node1",)),
        ("KILL_GUARDIAN", ("node1", "localhost", "node2")),
    ]


def test_all_there_is_occurs():
    assert {plan.strike.fault for plan in PLANS} == set(Fault)
    assert {plan.strike.when for plan in PLANS} == set(When)
    deeds = [deed for plan in PLANS for deed in plan.deeds]
    assert {deed.end for deed in deeds} == set(End)
    assert {deed.offspring for deed in deeds} == {"", "daemon", "loader"}
    assert {len(plan.hosts) for plan in PLANS} == {1, 2, 3, 4}
    assert {count for plan in PLANS for count in plan.workers} == {1, 2, 3}
    for kind in ("shared", "is_open", "backend"):
        assert len({getattr(plan, kind) for plan in PLANS}) == 2
    for kind in ("stubborn", "reduces", "others_stay"):
        assert {getattr(deed, kind) for deed in deeds} == {False, True}


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: str(plan.seed))
def test_plans_can_be_played(plan: Plan):
    strike = plan.strike
    assert len(plan.workers) == len(plan.hosts) == len(set(plan.hosts))
    assert [host for host in plan.hosts if host != LOCALHOST] == [f"node{n + 1}" for n in range(plan.nodes)]
    assert plan.host_of(strike.rank) == strike.host
    assert strike.line <= plan.deeds[strike.run].lines
    if strike.fault in OF_NETWORK:
        assert plan.hosts[strike.host] != LOCALHOST
    if strike.fault in OF_RUN:
        assert strike.when is When.LINE
    for run, deed in enumerate(plan.deeds):
        assert deed.culprit < plan.world
        assert not (deed.reduces and plan.backend is None)
        if deed.seconds >= FOREVER:  # something must end it, during this very run
            assert run == strike.run
            assert strike.when in (When.BEGINS, When.UP, When.LINE)
            assert strike.fault not in NOT_ENDING
            assert strike.fault is not Fault.STOP_LAUNCHER or strike.when is When.LINE  # else it may change nothing


# ---- the oracle -----------------------------------------------------------------------------------------------------


def legal(plan: Plan, run: int, begins: float, ends: float, struck: Struck | None, felt: bool = False) -> list[str]:
    return [str(each) for each in legal_results(plan, run, begins, ends, struck, felt)]


def plan_with(fault: Fault, **strike: Any) -> Plan:
    """The first plan with that fault, two hosts or more, no collectives and only functions that return in time."""
    plan = next(plan for plan in PLANS if plan.strike.fault is fault and plan.nodes > 1)
    deed = {**vars(plan.deeds[0]), "end": End.RETURN, "seconds": 1.0, "reduces": False}
    deeds = (type(plan.deeds[0])(**deed),) * 3
    changed = type(plan.strike)(**{**vars(plan.strike), **strike})
    return Plan(**{**vars(plan), "deeds": deeds, "backend": None, "strike": changed})


def test_without_a_fault_only_what_the_function_does_is_legal():
    plan = plan_with(Fault.NONE)
    assert legal(plan, 0, 0.0, 5.0, None) == ["values"]


def test_a_run_that_ended_before_the_fault_is_not_touched_by_it():
    plan = plan_with(Fault.POWER_OFF)
    assert legal(plan, 0, 0.0, 5.0, Struck(6.0, 6.1, 6.1)) == ["values"]


def test_a_fault_races_with_the_end_of_the_run():
    plan = plan_with(Fault.POWER_OFF, host=0)
    assert legal(plan, 0, 0.0, 5.0, Struck(4.0, 4.1, 4.1)) == ["values", f"lost: {plan.hosts[0]}"]


def test_no_launch_works_on_a_host_that_was_not_healed():
    plan = plan_with(Fault.CUT_OUT, host=0)
    assert legal(plan, 1, 7.0, 9.0, Struck(4.0, 4.1, 4.1)) == [f"lost: {plan.hosts[0]}"]
    healed = Struck(4.0, 4.1, 4.1, healed=6.0)
    assert "values" in legal(plan, 1, 7.0, 9.0, healed)
    assert legal(plan, 2, 10.0, 12.0, healed, felt=True) == ["values"]


def test_a_function_that_never_ends_is_ended_by_the_fault():
    plan = plan_with(Fault.KILL_WORKER)
    endless = type(plan.deeds[0])(**{**vars(plan.deeds[0]), "seconds": FOREVER})
    plan = Plan(**{**vars(plan), "deeds": (endless,)})
    assert legal(plan, 0, 0.0, 5.0, Struck(4.0, 4.1, 4.1)) == [f"rank {plan.strike.rank}: signal 9"]
    assert legal(plan, 0, 0.0, 5.0, None) == []


@pytest.mark.parametrize("fault", [Fault.STOP_WORKER, Fault.BLACKOUT, Fault.LATENCY])
def test_what_passes_changes_nothing(fault: Fault):
    assert legal(plan_with(fault), 0, 0.0, 9.0, Struck(4.0, 4.1, 6.0)) == ["values"]


@pytest.mark.parametrize("fault", [Fault.SIGTERM, Fault.SIGKILL, Fault.SIGHUP])
def test_a_launcher_that_is_killed_may_end_by_that_signal_only(fault: Fault):
    plan = plan_with(fault)
    assert legal_statuses(plan, None) == {0}
    assert len(legal_statuses(plan, Struck(1.0, 1.0, 1.0))) == 2


def test_values_are_compared_with_what_each_rank_returns():
    plan = plan_with(Fault.NONE)
    size = plan.deeds[0].size

    values = expected_values(plan, 0)
    assert [value[0] for value in values] == list(range(plan.world))
    assert fits(plan, {"kind": "values", "run": 0, "values": values}, VALUES)
    wrong = [[*value[:3], size + 1, value[4]] for value in values]
    assert not fits(plan, {"kind": "values", "run": 0, "values": wrong}, VALUES)


def test_a_failure_must_name_the_rank_and_how_it_ended():
    plan = plan_with(Fault.KILL_WORKER)
    (effect,) = [
        each for each in legal_results(plan, 0, 0.0, 5.0, Struck(4.0, 4.1, 4.1), False) if each.kind == "worker"
    ]
    ended = {
        "kind": "WorkerFailedError",
        "kinds": [],
        "hosts": [],
        "rank": plan.strike.rank,
        "signal": 9,
        "exitcode": None,
    }
    assert fits(plan, ended, effect)
    assert not fits(plan, {**ended, "rank": plan.strike.rank + 1}, effect)
    assert not fits(plan, {**ended, "signal": 11}, effect)


def test_deadlines_follow_the_fault():
    plan = plan_with(Fault.LINK_DOWN)
    undisturbed = run_ends_by(plan, 0, 0.0, None)
    assert run_ends_by(plan, 0, 0.0, Struck(1.0, 1.1, 1.1)) == undisturbed
    assert run_ends_by(plan, 0, 0.0, Struck(100.0, 100.1, 100.1)) > 100.0 + plan.lease


def test_seeds_are_named_as_ranges_and_lists():
    assert parse_seeds("17") == [17]
    assert parse_seeds("3,8,100-102") == [3, 8, 100, 101, 102]
