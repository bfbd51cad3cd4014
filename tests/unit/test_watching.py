"""Which files grow and which appear: told of every growth, by inotify or by a look, and at no cost for the writer."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from trx_agent.watching import FileWatch


class Watching:
    """A watch of one file, with a clock of its own; `seen` is what the file held whenever its growth was told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()
        self.watch = FileWatch()
        self.now = 0.0
        self.seen: list[bytes] = []
        self.watch.watch_file(path, lambda: self.seen.append(path.read_bytes()))

    def write(self, text: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(text)

    def told(self) -> bool:
        """Whether inotify has something to tell; it is dealt with."""
        ready, _, _ = select.select([self.watch.fileno()], [], [], 0)
        if ready:
            self.watch.handle(self.now)
        return bool(ready)

    def wait(self) -> float:
        """Lets the time pass until the next look, and looks; returns how long that was."""
        patience = self.watch.patience(self.now)
        self.now += patience
        self.watch.look(self.now)
        return patience


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Watching]:
    made = Watching(tmp_path / "stdout")
    yield made
    made.watch.close()


def test_the_first_write_is_told_by_inotify_and_what_follows_is_seen_by_looks(watching: Watching) -> None:
    assert watching.watch.patience(0.0) == float("inf")
    watching.write(b"line")
    assert watching.told()
    watching.write(b"\n")
    assert watching.seen == []
    assert watching.wait() == pytest.approx(0.01)
    assert watching.seen == [b"line\n"]
    watching.write(b"more")
    assert not watching.told()
    watching.wait()
    assert watching.seen == [b"line\n", b"line\nmore"]


def test_a_flood_makes_no_events(watching: Watching) -> None:
    watching.write(b"first")
    watching.told()
    for _ in range(1000):
        watching.write(b"line\n")
    assert not watching.told()


def test_a_file_that_grows_is_looked_at_ever_more_rarely_but_often_enough(watching: Watching) -> None:
    watching.write(b".")
    watching.told()
    pauses = []
    for _ in range(6):
        pauses.append(watching.wait())
        watching.write(b".")
    assert pauses == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.08, 0.08])


def test_a_file_that_is_still_is_left_to_inotify_again(watching: Watching) -> None:
    for _ in range(3):
        watching.write(b"x")
        assert watching.told()
        assert watching.wait() == pytest.approx(0.01)
        assert watching.wait() == pytest.approx(0.02)
        assert watching.watch.patience(watching.now) == float("inf")
    assert watching.seen == [b"x", b"xx", b"xxx"]


def test_what_is_written_just_before_inotify_is_asked_again_is_not_missed(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching.write(b"a")
    watching.told()
    add = watching.watch._inotify.add_watch

    def write_first(*args: object) -> int:
        watching.write(b"b")
        return int(add(*args))

    monkeypatch.setattr(watching.watch._inotify, "add_watch", write_first)
    watching.wait()
    watching.wait()
    assert watching.seen[-1] == b"ab"


def test_an_event_without_growth_leaves_a_file_to_inotify(watching: Watching) -> None:
    watching.path.open("wb").close()  # as torch opens it: an empty file is cut off
    assert watching.told()
    watching.wait()
    assert watching.seen == []
    assert watching.watch.patience(watching.now) == float("inf")
    watching.write(b"a")
    assert watching.told()


@pytest.mark.parametrize("first", ["stdout", "records"])
@pytest.mark.parametrize("growing", [("stdout",), ("records",), ("stdout", "records"), ()], ids=", ".join)
def test_streams_of_a_worker_are_told_of_in_the_order_of_their_writes(
    watching: Watching, tmp_path: Path, first: str, growing: tuple[str, ...]
) -> None:
    order: list[str] = []
    paths = {name: tmp_path / "0" / name for name in ("stdout", "records")}
    (tmp_path / "0").mkdir()
    for name, path in paths.items():
        path.touch()
        watching.watch.watch_file(path, partial(order.append, name))
    for name in growing:
        paths[name].write_bytes(b"earlier")
    if growing:
        assert watching.told()
        watching.wait()
    order.clear()
    second = next(name for name in paths if name != first)
    for number, name in enumerate((first, second)):
        with paths[name].open("ab") as file:
            file.write(b"line")
        os.utime(paths[name], ns=(0, number))
    watching.told()
    watching.watch.look(1.0)
    assert order == [first, second]


def test_what_was_growing_before_comes_first_where_the_clock_cannot_tell(watching: Watching, tmp_path: Path) -> None:
    other = tmp_path / "records"
    other.touch()
    order: list[str] = []
    watching.watch.watch_file(other, lambda: order.append(f"record after {watching.seen[-1].decode()}"))
    watching.write(b"line 1")
    watching.told()
    watching.wait()
    watching.write(b"line 2")
    other.write_bytes(b"record")
    for path in (watching.path, other):
        os.utime(path, ns=(0, 0))
    watching.told()
    watching.watch.look(1.0)
    assert order == ["record after line 1line 2"]


def test_where_inotify_has_no_watches_left_a_file_is_looked_at(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    watching.write(b"a")
    watching.told()
    with monkeypatch.context() as patch:
        patch.setattr(watching.watch._inotify, "add_watch", refuse)
        watching.wait()
        watching.wait()  # still: inotify would be asked now
        for text in (b"b", b"c"):
            watching.write(text)
            assert 0 < watching.wait() <= 0.1
        assert watching.seen == [b"a", b"ab", b"abc"]
        watching.wait()
    watching.wait()
    assert watching.watch.patience(watching.now) == float("inf")
    watching.write(b"d")
    assert watching.told()


def test_a_file_that_has_gone_is_no_error(watching: Watching) -> None:
    watching.write(b"a")
    watching.told()
    watching.path.unlink()
    watching.wait()
    assert watching.watch.patience(watching.now) == float("inf")


def test_files_that_are_renamed_into_a_folder_are_told_and_others_are_not(watching: Watching, tmp_path: Path) -> None:
    folder, appeared = tmp_path / "0", list[str]()
    folder.mkdir()
    watching.watch.watch_folder(folder, appeared.append)
    (folder / "part").write_bytes(b"value")
    os.rename(folder / "part", folder / "returned")
    watching.told()
    assert appeared == ["returned"]


@pytest.mark.parametrize("state", ["still", "growing", "just told"])
def test_what_was_forgotten_is_not_told_of(watching: Watching, tmp_path: Path, state: str) -> None:
    folder = tmp_path / "run-1" / "0"
    folder.mkdir(parents=True)
    told: list[str] = []
    watched = folder / "stdout"
    watched.touch()
    watching.watch.watch_file(watched, lambda: told.append("grown"))
    watching.watch.watch_folder(folder, told.append)
    if state != "still":
        watched.write_bytes(b"a")
    if state == "growing":
        watching.told()
        watching.wait()
        told.clear()
    watching.watch.forget(tmp_path / "run-1")
    watched.write_bytes(b"abc")
    os.rename(watched, folder / "returned")
    watching.told()
    watching.watch.look(1.0)
    assert told == []
    watching.write(b"still watched")
    watching.told()
    watching.watch.look(2.0)
    assert watching.seen == [b"still watched"]
