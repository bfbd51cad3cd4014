"""The process group that workers find initialised."""

from __future__ import annotations

import os

import pytest

import trx

from .helpers import travels_by_value

travels_by_value(__name__)


def do_nothing() -> str | None:
    return os.environ.get("TORCH_DIST_INIT_BARRIER")


@pytest.mark.timeout(120)
def test_ranks_that_are_done_at_once_do_not_disturb_those_that_still_join() -> None:
    """Whoever leaves while others are still connecting looks to them like somebody who has failed."""
    with trx.Launcher(["localhost"], 8, backend="gloo") as launcher:
        for _ in range(6):
            assert launcher.run(do_nothing).by_ranks() == [None] * 8
