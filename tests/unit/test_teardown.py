"""Ending from any thread."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from trx.hosts.teardown import Closed, Teardown


def test_everything_is_undone_once_in_the_order_in_which_it_was_done() -> None:
    teardown, undone = Teardown(), list[int]()
    for number in range(3):
        teardown.add(partial(undone.append, number))
    teardown.close()
    teardown.close()
    assert undone == [0, 1, 2]


def test_one_that_fails_does_not_keep_the_others() -> None:
    teardown, undone = Teardown(), list[str]()
    teardown.add(partial(undone.remove, "first"))
    teardown.add(lambda: undone.append("second"))
    with pytest.raises(ValueError, match="not in list"):
        teardown.close()
    assert undone == ["second"]


def test_what_comes_too_late_is_undone_at_once() -> None:
    teardown, undone = Teardown(), list[str]()
    teardown.close()
    with pytest.raises(Closed):
        teardown.add(lambda: undone.append("late"))
    assert undone == ["late"]


def test_closing_waits_for_another_thread_that_is_closing() -> None:
    teardown, may_end, ended = Teardown(), threading.Event(), list[str]()
    started = threading.Event()

    def undo() -> None:
        started.set()
        may_end.wait(5)
        ended.append("first")

    teardown.add(undo)
    first = threading.Thread(target=teardown.close)
    first.start()
    started.wait(5)
    threading.Timer(0.05, may_end.set).start()
    teardown.close()
    assert ended == ["first"]
    first.join()


def test_waiting_gives_the_result_or_the_error() -> None:
    teardown = Teardown()
    assert teardown.wait_for(lambda: 3, 5) == 3
    with pytest.raises(ZeroDivisionError):
        teardown.wait_for(lambda: 1 // 0, 5)


def test_waiting_ends_in_time() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0.05 s"):
        Teardown().wait_for(never.wait, 0.05)
    never.set()


def test_closing_ends_the_waiting() -> None:
    teardown, never = Teardown(), threading.Event()
    threading.Timer(0.05, teardown.close).start()
    with pytest.raises(Closed):
        teardown.wait_for(never.wait, 5)
    never.set()
