"""Log files where pytest removes them."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def log_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where launches of this test make their log directories."""
    base = tmp_path / "logs"
    monkeypatch.setenv("TRX_LOG_DIR", str(base))
    return base
