"""How many files this process, and what it starts, may open while sessions last."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from trx import open_files
from trx.hosts.child import Child

USUAL = 200


@pytest.fixture(autouse=True)
def few() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_limit_is_raised_as_far_as_hosts_need_it_until_the_last_session_ends() -> None:
    first, second = open_files.allowed(100), open_files.allowed(50)
    first.__enter__()
    assert limit() == 448
    second.__enter__()
    first.__exit__(None, None, None)
    assert limit() == 448
    second.__exit__(None, None, None)
    assert limit() == USUAL


def test_limit_that_will_do_stays() -> None:
    with open_files.allowed(2):
        assert limit() == USUAL


def test_children_keep_the_usual_limit() -> None:
    with open_files.allowed(100):
        child = Child(["sh", "-c", "read go; ulimit -S -n"], {})
        child.write(b"go\n")
        assert child.read() == b"%d\n" % USUAL
        child.close()
        assert child.wait(10) == 0
