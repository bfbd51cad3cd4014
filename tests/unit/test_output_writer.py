"""A writer: in order, never blocking who puts, and given up where it is stuck."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from trx.output.writer import PATIENCE, Writer

WAIT = 30.0


class Bench:
    """A writer, and steps for it that note what becomes of them."""

    def __init__(self) -> None:
        self.progress = 0
        self.done: list[str] = []
        self.taken: list[str] = []
        self.stuck = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.writer = Writer("writer", lambda: self.progress, self.note_stuck)

    def note_stuck(self) -> None:
        self.stuck += 1

    def put(self, name: str) -> None:
        self.writer.put(lambda: self.done.append(name), 10, lambda: self.taken.append(name))

    def put_blocking(self, name: str) -> None:
        def block() -> None:
            self.entered.set()
            assert self.go_on.wait(WAIT)
            self.done.append(name)

        self.writer.put(block, 1, lambda: self.taken.append(name))

    def finish(self) -> None:
        self.writer.close()
        assert self.writer.join(WAIT)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.go_on.set()
    bench.finish()


def test_steps_are_done_in_order_and_taken_when_done(bench: Bench) -> None:
    for name in "abc":
        bench.put(name)
    bench.finish()
    assert bench.done == bench.taken == ["a", "b", "c"]
    assert bench.writer.take_lost() == 0


def test_what_is_put_after_the_end_is_let_go_and_counted(bench: Bench) -> None:
    bench.finish()
    bench.put("late")
    assert (bench.done, bench.taken, bench.writer.take_lost()) == ([], ["late"], 10)


def test_a_stuck_step_is_given_up_with_all_behind_it(bench: Bench) -> None:
    bench.put_blocking("stuck")
    assert bench.entered.wait(WAIT)
    bench.put("behind")
    bench.writer.watch(100.0, hurry=True)
    bench.writer.watch(100.0 + PATIENCE - 0.1, hurry=True)
    assert bench.taken == []
    bench.writer.watch(100.0 + PATIENCE, hurry=True)
    assert bench.taken == ["stuck", "behind"]
    assert bench.stuck == 1
    bench.put("later")
    assert bench.taken == ["stuck", "behind", "later"]
    assert bench.done == []
    assert bench.writer.take_lost() == 21
    assert bench.writer.take_lost() == 0


def test_a_step_that_returns_after_all_takes_part_again(bench: Bench) -> None:
    bench.put_blocking("stuck")
    assert bench.entered.wait(WAIT)
    bench.writer.give_up()
    bench.go_on.set()
    returned = threading.Event()
    while not returned.wait(0.01):  # dropped for as long as the step has not returned
        bench.writer.put(returned.set, 0, lambda: None)
    bench.put("next")
    bench.finish()
    assert bench.done == ["stuck", "next"]
    assert bench.taken == ["stuck", "next"]  # the stuck one once


def test_nobody_is_given_up_without_hurry(bench: Bench) -> None:
    bench.put_blocking("slow")
    assert bench.entered.wait(WAIT)
    for now in (0.0, PATIENCE, 100 * PATIENCE):
        bench.writer.watch(now, hurry=False)
    bench.writer.watch(100 * PATIENCE + 1.0, hurry=True)  # from the last look on
    bench.writer.watch(101 * PATIENCE - 1.0, hurry=True)
    assert bench.taken == []


def test_whoever_gets_on_is_waited_for(bench: Bench) -> None:
    bench.put_blocking("slow")
    assert bench.entered.wait(WAIT)
    for number in range(10):
        bench.progress += 1
        bench.writer.watch(number * PATIENCE, hurry=True)
    assert bench.taken == []
    bench.writer.watch(10 * PATIENCE, hurry=True)
    assert bench.taken == ["slow"]


def test_whoever_has_nothing_to_do_is_not_given_up(bench: Bench) -> None:
    for now in (0.0, PATIENCE, 2 * PATIENCE):
        bench.writer.watch(now, hurry=True)
    bench.put("a")
    bench.finish()
    assert bench.done == ["a"]
    assert bench.stuck == 0
