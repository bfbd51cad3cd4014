"""Launchers that stay open for the tests of a module, and log files where pytest removes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import trx

HERE = Path(__file__).parent
OPEN_LAUNCHERS = {"workers", "group"}


@pytest.hookimpl(tryfirst=True)  # before xdist makes its groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests that share a launcher in one process of xdist's (with `--dist loadgroup`)."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if HERE in item.path.parents and OPEN_LAUNCHERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(autouse=True)
def log_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where launches of this test make their log directories."""
    base = tmp_path / "logs"
    monkeypatch.setenv("TRX_LOG_DIR", str(base))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # it would have C write at once, too
    return base


@pytest.fixture(scope="module")
def open_log_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the launchers that stay open make their log directories."""
    return tmp_path_factory.mktemp("open-logs")


@pytest.fixture(scope="module")
def workers(open_log_base: Path) -> Iterator[trx.Launcher]:
    """Runs functions on two workers without a process group."""
    with _opened(open_log_base / "workers", backend=None) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def group(open_log_base: Path) -> Iterator[trx.Launcher]:
    """Runs functions on two workers that find a gloo group."""
    with _opened(open_log_base / "group", backend="gloo") as launcher:
        yield launcher


@contextmanager
def _opened(base: Path, backend: str | None) -> Iterator[trx.Launcher]:
    """Opens a launcher under the variables that `log_base` leaves: under others, a run would begin a new forkserver."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TRX_LOG_DIR", str(base))
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
        launcher = trx.Launcher(["localhost"], 2, backend=backend, grace_period=1.0)
        launcher.__enter__()
        launcher.run(os.getpid)  # so that all its processes are there before a test begins to look for what it leaves
    yield launcher
    launcher.__exit__(None, None, None)
