"""A short soak: a few seeds that cover the kinds of faults. `make soak` plays as many as one likes."""

from __future__ import annotations

import pytest

from .plan import make_plan
from .scene import play

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("seed", [3, 8, 11, 25, 38, 45, 62, 72])
def test_seed(seed: int) -> None:
    report = play(make_plan(seed))
    print(report)
    assert not report.problems, str(report)
