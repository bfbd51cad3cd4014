"""Whether the kernel's counter of kills for want of memory has risen, and where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from trx_agent import oom


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "memory.events"
    path.write_text("low 0\noom 3\noom_kill 3\n")
    monkeypatch.setattr(oom, "_find_file", lambda: path)
    return path


def test_kills_of_before_do_not_count(counter: Path) -> None:
    assert not oom.OomCounter().has_risen()


def test_a_kill_is_told_once(counter: Path) -> None:
    counted = oom.OomCounter()
    counter.write_text("low 0\noom 4\noom_kill 4\n")
    assert counted.has_risen()
    assert not counted.has_risen(), "the next death has another cause"


def test_a_counter_that_cannot_be_read_tells_of_nothing(counter: Path) -> None:
    counter.unlink()
    counted = oom.OomCounter()
    assert not counted.has_risen()


@pytest.mark.parametrize(
    ("groups", "there", "found"),
    [
        ("0::/user/1\n", "user/1/memory.events", "user/1/memory.events"),
        ("4:cpu,memory:/user/1\n", "memory/user/1/memory.oom_control", "memory/user/1/memory.oom_control"),
        ("0::/\n", None, None),
    ],
    ids=["version 2", "version 1", "neither"],
)
def test_its_own_control_group_is_asked_before_the_machine(
    tmp_path: Path, groups: str, there: str | None, found: str | None
) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(groups)
    if there:
        (cgroups / there).parent.mkdir(parents=True)
        (cgroups / there).touch()
    assert oom._find_file(proc, cgroups) == (cgroups / found if found else proc / "vmstat")
