"""A run on a host, in states that real processes seldom bring about."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trx_agent.orders import MARKS, PART, RAISED, RETURNED, VALUE
from trx_agent.protocol import outcome
from trx_agent.protocol.link import Body
from trx_agent.protocol.messages import (
    WINDOWS,
    AnyMessage,
    Broken,
    Data,
    Door,
    Drained,
    Ended,
    Gone,
    Kind,
    Preparation,
    Raised,
    Returned,
    Start,
    Stream,
)
from trx_agent.run import Run
from trx_agent.watching import FileWatch

NOBODY = 1 << 22  # above all pids


class NoForkServer:
    """Of a run whose processes are gone."""

    pid = NOBODY + 1
    ready_since = None
    condemned = False


class Play:
    """A run of one worker, which has printed more than may be sent."""

    def __init__(self, directory: Path, watch: FileWatch) -> None:
        self.sent: list[AnyMessage] = []
        self.watch = watch
        directory.mkdir()
        environments = ({"GROUP_WORLD_SIZE": "1"},)
        preparation, door = Preparation({}, "", ()), Door("127.0.0.1", 1)
        order = Start(1, 0, (0,), environments, 10, "", 1.0, (), 20, preparation, door, 0)
        self.run = Run(order, directory, self._send, NoForkServer(), 1.0, False, watch)  # type: ignore[arg-type]
        self.run._pids = (NOBODY,)
        (self.folder / "stdout").write_bytes(b"x" * (WINDOWS[Kind.STDOUT] + 1))

    @property
    def folder(self) -> Path:
        return self.run.folder(0)

    def _send(self, message: AnyMessage, body: Body) -> None:
        self.sent.append(message)

    def said(self, *kinds: type[AnyMessage]) -> list[AnyMessage]:
        return [message for message in self.sent if isinstance(message, kinds)]

    def appear(self, name: str, content: bytes) -> None:
        (self.folder / PART).write_bytes(content)
        os.rename(self.folder / PART, self.folder / name)


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    watch = FileWatch()
    play = Play(tmp_path / "run", watch)
    yield play
    play.run.remove_files()
    watch.close()


def test_an_outcome_that_was_there_when_the_run_was_abandoned_is_told(play: Play) -> None:
    (play.folder / VALUE).write_bytes(b"the value")
    play.appear(RETURNED, b"")
    play.run.abandon(time.monotonic())
    play.watch.handle(time.monotonic())  # the same news by another way

    (ended,) = play.said(Ended)
    assert isinstance(ended, Ended)
    assert (ended.ending, ended.size) == (Returned(), 9)
    value = Data(Stream(1, 0, Kind.VALUE), 0)
    assert play.sent.index(ended) < play.sent.index(Gone(1, ()))
    assert value in play.sent
    assert play.said(Drained) == []
    play.run.grant(Stream(1, 0, Kind.STDOUT), 2 * WINDOWS[Kind.STDOUT])
    assert play.said(Drained)


def test_an_outcome_that_appears_when_the_run_is_gone_is_no_news(play: Play) -> None:
    play.run.abandon(time.monotonic())
    (play.folder / VALUE).write_bytes(b"the value")
    play.appear(RETURNED, b"")
    play.appear(RAISED, outcome.frame(outcome.WorkerError("calling", "ValueError", "no", "")))
    play.watch.handle(time.monotonic())
    assert play.said(Ended, Gone) == [Gone(1, ())]


def test_what_is_written_when_the_run_is_gone_is_sent_and_then_it_is_drained(play: Play) -> None:
    play.run.abandon(time.monotonic())
    play.run._outflows[Stream(1, 0, Kind.STDOUT)].grant(2 * WINDOWS[Kind.STDOUT])
    play.watch.handle(time.monotonic())
    play.watch.look(time.monotonic() + 1.0)
    assert play.said(Drained)


def test_words_of_an_exception_are_told_of_a_run_that_is_abandoned(play: Play) -> None:
    play.appear(RAISED, outcome.frame(outcome.WorkerError("calling", "ValueError", "no", "")))
    play.run.abandon(time.monotonic())
    (ended,) = play.said(Ended)
    assert isinstance(ended, Ended)
    assert isinstance(ended.ending, Raised)


# ---- what a worker's process can write ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00",
        b"\x00\x00\x00\x05hello",
        b"\xff\xff\xff\xff" + b"x" * 100,
        (50_001).to_bytes(4, "big") + b"\x91" * 50_000 + b"\x01",
    ],
)
def test_an_outcome_that_cannot_be_read_is_an_end_of_its_worker(play: Play, content: bytes) -> None:
    play.appear(RAISED, content)
    play.watch.handle(time.monotonic())
    (ended,) = play.said(Ended)
    assert isinstance(ended, Ended)
    assert isinstance(ended.ending, Raised)
    assert "its outcome could not be read" in ended.ending.summary


def test_marks_are_few_however_many_a_worker_writes(play: Play) -> None:
    lines = [f"function loaded\t{time.monotonic()}", "function called\tnan", "function called\t-1e308", "\udcff\t1", ""]
    lines += [f"function called\t{seconds}" for seconds in ("inf", "-inf", "1e400", "soon", time.monotonic(), 0)]
    content = "\n".join(lines + ["outcome written\t1"] * 300_000)
    (play.folder / MARKS).write_bytes(content.encode(errors="surrogateescape"))
    play.appear(RETURNED, b"")
    play.watch.handle(time.monotonic())
    (ended,) = play.said(Ended)
    assert isinstance(ended, Ended)
    assert [mark.name for mark in ended.marks] == ["function loaded", "function called", "outcome written"]
    assert all(0 <= mark.ago < time.monotonic() for mark in ended.marks)


def test_a_report_that_is_none_ends_the_run_and_is_told_of(play: Play) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        play.run.launch(ours, lambda: None)
        theirs.send(b"\x91" * 50_000)
        play.run.hear_runner(time.monotonic())
    (broken,) = play.said(Broken)
    assert isinstance(broken, Broken)
    assert broken.stage == "watching the workers"
    assert play.run.runner is None
