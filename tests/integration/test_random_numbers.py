"""Each worker draws random numbers of its own, though all of them are forked from one process."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

import trx

from .helpers import travels_by_value

travels_by_value(__name__)

Drawn = tuple[int, float, float, float, float, tuple[int, ...]]


@pytest.fixture
def launcher() -> Iterator[trx.Launcher]:
    with trx.Launcher(["localhost"] * 2, 2, backend=None, preload=["numpy.random"], log_handlers=None) as launcher:
        yield launcher


def draw() -> Drawn:
    import numpy

    shuffled = torch.utils.data.DataLoader(range(64), batch_size=64, shuffle=True)  # type: ignore[arg-type, var-annotated]
    return (
        torch.initial_seed(),
        float(torch.rand(1)),
        numpy.random.rand(),
        float(numpy.random.default_rng().random()),
        random.random(),
        tuple(int(index) for index in next(iter(shuffled))),
    )


def draw_seeded() -> Drawn:
    import numpy

    torch.manual_seed(1)
    numpy.random.seed(1)
    random.seed(1)
    seed, first, second, _, third, order = draw()
    return seed, first, second, 0.0, third, order


def whether_cuda_is_initialised() -> bool:
    return bool(torch.cuda.is_initialized())


def test_all_ranks_of_all_runs_draw_different_numbers(launcher: trx.Launcher) -> None:
    drawn = [each for _ in range(2) for each in launcher.run(draw).by_ranks()]

    for what, numbers in zip(Drawn.__args__, zip(*drawn, strict=True), strict=True):  # type: ignore[attr-defined]
        assert len(set(numbers)) == len(drawn) == 8, what


def test_whoever_seeds_gets_the_numbers_of_plain_python(launcher: trx.Launcher) -> None:
    states = torch.get_rng_state(), random.getstate()
    try:
        assert set(launcher.run(draw_seeded).by_ranks()) == {draw_seeded()}
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])


def test_seeding_initialises_no_cuda(launcher: trx.Launcher) -> None:
    assert launcher.run(whether_cuda_is_initialised).by_ranks() == [False] * 4
