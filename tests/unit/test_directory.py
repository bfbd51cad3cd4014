"""Directories of launches: which count as abandoned, and which never do."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from trx_agent import directory
from trx_agent.environment import COOKIE as VARIABLE

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
    beginning = f"trx-{COOKIE[:16]}-{directory._MACHINE}"
    (temporary / f"{beginning}-link").symlink_to(temporary / "elsewhere")
    (temporary / f"{beginning}-file").touch(0o600)
    (temporary / f"{beginning}-open").mkdir(mode=0o755)
    assert directory.find_abandoned() == []
    (abandoned := temporary / f"{beginning}-private").mkdir(mode=0o700)
    assert directory.find_abandoned() == [abandoned]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to another user")
def test_neither_are_those_of_other_users(temporary: Path) -> None:
    (another := temporary / f"trx-{COOKIE[:16]}-{directory._MACHINE}-another").mkdir(mode=0o700)
    os.chown(another, 65534, 65534)
    assert directory.find_abandoned() == []


MAKE_AND_LEAVE = f"""
import os
import trx_agent.directory
print(trx_agent.directory.make({COOKIE!r}))
"""


def test_those_of_another_machine_are_left_alone_in_a_file_system_that_both_share(temporary: Path) -> None:
    """A lock that is held there may not count here."""
    elsewhere = MAKE_AND_LEAVE.replace(
        "import os", "import os; os.uname = lambda: os.uname_result(('', 'other') * 2 + ('',))"
    )
    for source in (elsewhere, MAKE_AND_LEAVE):
        command = [sys.executable, "-c", source]
        subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.DEVNULL)
    (ours,) = directory.find_abandoned()
    assert len(list(temporary.iterdir())) == 2
    assert f"-{directory._MACHINE}-" in ours.name


@pytest.mark.parametrize("ours", ["", "0" * 32, COOKIE], ids=["none", "another", "the same"])
def test_strays_are_killed_but_for_those_of_a_launch_that_this_process_descends_from(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, ours: str
) -> None:
    monkeypatch.setenv(VARIABLE, ours)
    cookie = COOKIE if ours == COOKIE else secrets.token_hex(16)  # no process but this one is to be found
    (abandoned := temporary / f"trx-{cookie[:16]}-{directory._MACHINE}-abandoned").mkdir(mode=0o700)
    with subprocess.Popen(["sleep", "60"], env={**os.environ, VARIABLE: cookie}) as stray:
        directory.clear([abandoned])
        try:
            assert (stray.poll() if ours == COOKIE else stray.wait(10)) == (None if ours == COOKIE else -9)
        finally:
            stray.kill()
    assert not abandoned.exists()
