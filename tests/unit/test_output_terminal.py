"""The launcher's own stdout and stderr as a sink."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from trx.output import Source, Terminal
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

RANK0, RANK1 = Source("node1", 0, 0), Source("node1", 1, 1)
AGENT = Source("node1", None, None)
RECORD = Record("a", 30, 0.0, "message \x1b]0;t\x07")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def test_shows_one_rank_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.write(RANK0, Kind.STDOUT, b"no newline")
    terminal.write(RANK0, Kind.STDERR, b"\r 10%")
    terminal.write(RANK1, Kind.STDOUT, b"another rank")
    terminal.write(AGENT, Kind.AGENT, b"an agent")
    terminal.record(RANK1, RECORD)
    assert capsys.readouterr() == ("no newline", "\r 10%")
    Terminal(1).write(RANK1, Kind.STDOUT, b"another rank")
    assert capsys.readouterr() == ("another rank", "")


def test_records_go_to_stderr_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.record(RANK0, RECORD)
    terminal.write(RANK0, Kind.STDERR, b"\r 10%")
    terminal.record(RANK0, RECORD)
    out, err = capsys.readouterr()
    line = err.split("\n")[0]
    assert out == ""
    assert line.endswith(" WARNING a: message ␛]0;t␇")
    assert err == f"{line}\n\r 10%\n{line}\n"


def test_what_comes_after_an_unfinished_progress_bar_has_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.write(RANK0, Kind.STDERR, b"\r 10%")
    terminal.make_way()
    terminal.make_way()
    assert capsys.readouterr().err == "\r 10%\n"
    terminal.write(RANK0, Kind.STDERR, b"\r 20%")
    terminal.end(RANK1)
    assert capsys.readouterr().err == "\r 20%"
    terminal.end(RANK0)
    terminal.close()
    assert capsys.readouterr().err == "\n"


def test_a_line_that_was_finished_is_followed_by_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.write(RANK0, Kind.STDERR, b"\r100%\n")
    terminal.make_way()
    terminal.end(RANK0)
    assert capsys.readouterr().err == "\r100%\n"


@pytest.mark.parametrize("finish", ["end", "close"])
def test_what_is_held_back_comes_at_the_end(capsys: pytest.CaptureFixture[str], finish: str) -> None:
    terminal = Terminal()
    terminal.write(RANK0, Kind.STDOUT, b"a\x1b[31")
    terminal.write(RANK0, Kind.STDERR, b"\xe2\x96")
    assert capsys.readouterr() == ("a", "")
    if finish == "end":
        terminal.end(RANK1)
        terminal.end(RANK0)
    terminal.close()
    assert capsys.readouterr() == ("␛[31", "\ufffd\n")


def test_streams_are_looked_up_for_each_write() -> None:
    terminal = Terminal()
    for text in ("first", "second"):
        with contextlib.redirect_stdout(io.StringIO()) as target:
            terminal.write(RANK0, Kind.STDOUT, text.encode())
        assert target.getvalue() == text


def test_stream_of_another_encoding() -> None:
    target = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    with contextlib.redirect_stdout(target):
        Terminal().write(RANK0, Kind.STDOUT, "|█| done\n".encode())
    assert target.buffer.getvalue() == b"|?| done\n"


def test_closed_stream_is_left_alone_and_the_other_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    closed = io.StringIO()
    closed.close()
    with contextlib.redirect_stdout(closed):
        terminal.write(RANK0, Kind.STDOUT, b"lost")
        terminal.write(RANK0, Kind.STDERR, b"shown")
        terminal.write(RANK0, Kind.STDOUT, b"lost")
    terminal.write(RANK0, Kind.STDOUT, b"shown again")
    assert capsys.readouterr() == ("shown again", "shown")


def test_broken_pipe_is_tried_once() -> None:
    class Broken(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            raise BrokenPipeError

    terminal = Terminal()
    with contextlib.redirect_stdout(Broken()) as broken:
        terminal.write(RANK0, Kind.STDOUT, b"1")
        terminal.write(RANK0, Kind.STDOUT, b"2")
        terminal.close()
    assert broken.writes == 1


def test_no_stdout_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    Terminal().write(RANK0, Kind.STDOUT, b"lost")


def _reader(descriptor: int, into: list[bytes]) -> threading.Thread:
    def read() -> None:
        while data := os.read(descriptor, 1 << 16):
            into.append(data)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("line_buffering", [True, False])
@pytest.mark.parametrize("blocking", [True, False])
def test_slow_pipe_loses_nothing(pipe: tuple[int, int], line_buffering: bool, blocking: bool) -> None:
    os.set_blocking(pipe[1], blocking)
    target = os.fdopen(os.dup(pipe[1]), "w", 1 if line_buffering else -1, "utf-8")
    data = b"".join(b"line %d \xe2\x96\x88\n" % number for number in range(100_000))
    received: list[bytes] = []
    target.write("the user's own ")
    with contextlib.redirect_stdout(target):
        full = threading.Thread(target=Terminal().write, args=(RANK0, Kind.STDOUT, data), daemon=True)
        full.start()
        reader = _reader(pipe[0], received)
        full.join(30)
    target.close()
    os.close(pipe[1])
    reader.join(30)
    assert b"".join(received) == b"the user's own " + data


def test_progress_is_seen_in_the_middle_of_a_long_text(pipe: tuple[int, int]) -> None:
    target = os.fdopen(os.dup(pipe[1]), "w", encoding="utf-8")
    terminal = Terminal()
    with contextlib.redirect_stdout(target):
        args = (RANK0, Kind.STDOUT, b"x" * (1 << 20))
        writer = threading.Thread(target=terminal.write, args=args, daemon=True)
        writer.start()
        got_on = []
        for _ in range(5):
            before = terminal.progress
            for _ in range(4):
                os.read(pipe[0], 1 << 12)
            got_on.append(_is_soon(lambda before=before: terminal.progress > before))  # type: ignore[misc]
        os.close(pipe[0])
        writer.join(30)
    with pytest.raises(BrokenPipeError):
        target.close()
    assert all(got_on)


def _unread(descriptor: int) -> int:
    """Bytes that lie in a pipe."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def _is_soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


def test_reader_of_a_full_non_blocking_pipe_goes_away(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    target = os.fdopen(os.dup(pipe[1]), "w", encoding="utf-8")
    with contextlib.redirect_stdout(target):
        writer = threading.Thread(target=Terminal().write, args=(RANK0, Kind.STDOUT, b"x" * (1 << 20)), daemon=True)
        writer.start()
        assert _is_soon(lambda: _unread(pipe[0]) > 50_000)  # of 64 KiB
        os.close(pipe[0])
        writer.join(30)
    assert not writer.is_alive()
    with pytest.raises(BrokenPipeError):
        target.close()


STUCK = """
from trx.output import Outputs, Source, Terminal
from trx_agent.protocol.messages import Kind
outputs = Outputs([Terminal()], lambda token, size: None)
outputs.feed(Source("node1", 0, 0), Kind.STDOUT, b"line\\n" * 100_000, None)
assert not outputs.close(0.2)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_launcher_ends_although_nobody_reads_its_stdout(pipe: tuple[int, int], unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", STUCK]
    ended = subprocess.run(command, stdout=pipe[1], stderr=subprocess.PIPE, env=environment, timeout=30)
    assert ended.returncode == 0
    assert ended.stderr == b"the terminal is stuck: up to 500000 bytes of output did not get there\n"


def test_nested_progress_bars_are_alive(capsys: pytest.CaptureFixture[str]) -> None:
    tqdm = pytest.importorskip("tqdm")
    printed = io.StringIO()
    options = {"file": printed, "mininterval": 0, "ascii": False, "ncols": 60, "colour": "green"}
    for _ in tqdm.tqdm(range(3), **options):
        for _ in tqdm.tqdm(range(3), leave=False, **options):
            pass
    assert "\x1b[A" in printed.getvalue()
    terminal = Terminal()
    for byte in printed.getvalue().encode():
        terminal.write(RANK0, Kind.STDERR, bytes([byte]))
    assert capsys.readouterr().err == printed.getvalue()
