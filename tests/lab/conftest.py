"""Fixtures for tests on several hosts: labs shared by the tests of a module, and healed after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .harness import Lab, LabPool, lab_unavailable

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    reason = lab_unavailable() if ours else None
    if reason is not None:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def lab_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabPool]:
    """The labs of this module."""
    pool = LabPool(tmp_path_factory.getbasetemp())
    yield pool
    pool.close()


@pytest.fixture
def make_lab(lab_pool: LabPool) -> Iterator[Callable[..., Lab]]:
    """A function with the arguments of `Lab` that makes one, or finds that which an earlier test of the module made."""
    yield lab_pool.get
    lab_pool.end_test()


@pytest.fixture
def two(make_lab: Callable[..., Lab]) -> Lab:
    """Two hosts with a shared file system."""
    return make_lab(2)


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Four hosts with a shared file system."""
    return make_lab(4)


@pytest.fixture
def cow_lab(make_lab: Callable[..., Lab]) -> Lab:
    """Four hosts, each with a file system of its own."""
    return make_lab(4, fs="cow")
