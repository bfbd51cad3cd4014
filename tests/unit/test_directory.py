"""Directories of launches: which count as abandoned, and which never do."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from trx_agent import directory

COOKIE = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_minded_from_its_first_moment_until_its_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path] = []
    held: list[int] = []
    lock = directory._lock

    def lock_later(path: Path) -> int | None:
        monkeypatch.setattr(directory, "_lock", lock)
        found.extend(directory.find_abandoned())  # what another guardian would see just now
        descriptor = lock(path)
        assert descriptor is not None
        held.append(descriptor)
        return descriptor

    monkeypatch.setattr(directory, "_lock", lock_later)
    made = directory.make(COOKIE)
    assert found == directory.find_abandoned() == []
    assert made.name.startswith("trx-0123456789abcdef-")
    assert made.stat().st_mode & 0o777 == 0o700
    os.close(held[0])
    assert directory.find_abandoned() == [made]

    (made / "run-1").mkdir()
    directory.clear([made])
    assert not made.exists()


@pytest.mark.parametrize(
    "name", ["trx-mine", "trx-0123-mine", "trx-0123456789abcdef", "trx-0123456789ABCDEF-x", "other"]
)
def test_directories_of_other_names_are_none_of_ours(temporary: Path, name: str) -> None:
    (temporary / name).mkdir(mode=0o700)
    assert directory.find_abandoned() == []


def test_neither_are_links_files_and_what_others_may_read(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / "trx-0123456789abcdef-link").symlink_to(temporary / "elsewhere")
    (temporary / "trx-0123456789abcdef-file").touch(0o600)
    (temporary / "trx-0123456789abcdef-open").mkdir(mode=0o755)
    assert directory.find_abandoned() == []
