"""What workers print reaches the launcher's terminal and the log files, whole, in time and in the right place."""

from __future__ import annotations

import ctypes
import hashlib
import io
import logging
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import trx

from .helpers import Script, log_files, rank, signal_file, travels_by_value, wait_until

travels_by_value(__name__)

HEAD = """
import os, sys, time
from pathlib import Path
import trx
"""


@pytest.fixture
def both_logs(open_log_base: Path, workers: trx.Launcher) -> Callable[[], list[str]]:
    """What the ranks' files have got since the test began."""
    files = [log_files(open_log_base / "workers").get(f"localhost[{number}].log") for number in (0, 1)]
    starts = [path.stat().st_size if path else 0 for path in files]

    def read() -> list[str]:
        found = log_files(open_log_base / "workers")
        return [found[f"localhost[{number}].log"].read_bytes()[start:].decode() for number, start in enumerate(starts)]

    return read


# ---- everything that a process can print with -----------------------------------------------------------------------


def test_python_prints_to_both_streams(workers: trx.Launcher, both_logs: Callable[[], list[str]]) -> None:
    def work() -> None:
        print("printed by", rank())
        print("complained by", rank(), file=sys.stderr)

    workers.run(work)

    for number, text in enumerate(both_logs()):
        assert sorted(text.splitlines()) == [f"complained by {number}", f"printed by {number}"]


def test_line_without_an_end_arrives(workers: trx.Launcher, both_logs: Callable[[], list[str]]) -> None:
    workers.run(lambda: print("no end", end=""))

    assert both_logs() == ["no end", "no end"]


@pytest.mark.parametrize("what", ["closed", "descriptors closed", "replaced", "none", "full"])
def test_whatever_a_worker_does_to_its_streams_its_outcome_arrives(workers: trx.Launcher, what: str) -> None:
    def work(fail: bool) -> str:
        if what == "closed":
            sys.stdout.close()
            sys.stderr.close()
        elif what == "descriptors closed":
            os.closerange(0, 3)
        elif what == "replaced":
            sys.stdout = sys.stderr = io.StringIO()
        elif what == "none":
            sys.stdout = sys.stderr = None
        else:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, 1)
            os.dup2(full, 2)
        if fail:
            raise LookupError(what)
        return what

    assert list(workers.run(work, False)) == [what, what]
    with pytest.raises(LookupError, match=what) as caught:
        workers.run(work, True)
    assert isinstance(caught.value, trx.WorkerFailedError)


def test_writes_to_file_descriptors_arrive(workers: trx.Launcher, both_logs: Callable[[], list[str]]) -> None:
    def work() -> None:
        os.write(1, b"to descriptor 1\n")
        os.write(2, b"to descriptor 2\n")

    workers.run(work)

    assert [sorted(text.splitlines()) for text in both_logs()] == [["to descriptor 1", "to descriptor 2"]] * 2


def test_what_c_prints_arrives_though_it_is_not_flushed(
    workers: trx.Launcher, both_logs: Callable[[], list[str]]
) -> None:
    def work() -> None:
        ctypes.CDLL(None).printf(b"a line of C's, %d\n", rank())
        ctypes.CDLL(None).printf(b"and half of one")

    workers.run(work)

    assert both_logs() == [f"a line of C's, {number}\nand half of one" for number in (0, 1)]


def test_last_line_that_c_printed_before_a_crash_arrives(
    workers: trx.Launcher, both_logs: Callable[[], list[str]]
) -> None:
    def work() -> None:
        ctypes.CDLL(None).puts(b"C's last line")
        os._exit(1)

    with pytest.raises(trx.WorkerFailedError) as caught:
        workers.run(work)

    assert "C's last line" in caught.value.failures[0].last_lines
    assert "C's last line\n" in both_logs()[caught.value.rank]


def test_what_a_subprocess_prints_arrives(workers: trx.Launcher, both_logs: Callable[[], list[str]]) -> None:
    workers.run(subprocess.run, ["echo", "from a subprocess"], check=True)

    assert both_logs() == ["from a subprocess\n"] * 2


def test_bytes_that_are_no_text_arrive_as_they_are(workers: trx.Launcher, open_log_base: Path) -> None:
    blob = bytes(range(256)) + b"\n"

    workers.run(os.write, 1, blob)

    for number in (0, 1):
        assert blob in log_files(open_log_base / "workers")[f"localhost[{number}].log"].read_bytes()


def test_log_records_arrive_with_level_name_and_traceback(
    workers: trx.Launcher, both_logs: Callable[[], list[str]]
) -> None:
    def work() -> None:
        logger = logging.getLogger("some.module")
        logger.debug("not wanted by default")
        logger.info("step %d", 7)
        logger.warning("two\nlines")
        try:
            dict[str, int]()["key"]
        except KeyError:
            logger.exception("it went wrong")

    workers.run(work)

    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
    for text in both_logs():
        assert "not wanted" not in text
        assert re.search(rf"^{stamp} INFO some\.module: step 7$", text, re.MULTILINE)
        assert re.search(rf"^{stamp} WARNING some\.module: two\nlines$", text, re.MULTILINE)
        assert re.search(rf"^{stamp} ERROR some\.module: it went wrong\nTraceback ", text, re.MULTILINE)
        assert text.endswith("KeyError: 'key'\n")


def test_log_level_of_the_workers_can_be_chosen(log_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRX_LOG_LEVEL", "debug")

    trx.launch(logging.debug, ("a detail",), hostnames=["localhost"], workers_per_host=1, backend=None)

    assert "DEBUG root: a detail\n" in log_files(log_base)["localhost[0].log"].read_text()


def test_daemons_of_a_worker_print_to_its_file_until_the_run_ends(
    workers: trx.Launcher, both_logs: Callable[[], list[str]]
) -> None:
    def work() -> None:
        if os.fork() == 0:
            os.setsid()
            os.write(1, b"from a daemon\n")
            time.sleep(60)
        time.sleep(0.2)

    workers.run(work)

    assert both_logs() == ["from a daemon\n"] * 2


# ---- files ----------------------------------------------------------------------------------------------------------


def test_each_worker_and_each_agent_has_a_file_in_a_directory_named_by_the_time(log_base: Path) -> None:
    before = datetime.now().replace(microsecond=0)

    def work() -> None:
        print("worker", rank())
        if rank() % 2 == 0:
            os.write(_agents_log(), b"agent\n")

    trx.launch(work, hostnames=["localhost", "localhost"], workers_per_host=2, backend=None)

    (directory,) = log_base.iterdir()
    assert before <= datetime.strptime(directory.name, "%Y%m%dT%H%M%S") <= before + timedelta(seconds=60)
    texts = {path.name: path.read_text() for path in directory.iterdir()}
    assert texts == {
        "localhost[0].log": "worker 0\n",
        "localhost[1].log": "worker 1\n",
        "localhost#2[0].log": "worker 2\n",
        "localhost#2[1].log": "worker 3\n",
        "localhost.log": "agent\n",
        "localhost#2.log": "agent\n",
    }
    assert directory.stat().st_mode & 0o077 == 0


def _agents_log() -> int:
    """What trx's own processes on this host print to, above the worker: opened again, as the worker has no copy."""
    return os.open(f"/proc/{os.getppid()}/fd/2", os.O_WRONLY | os.O_APPEND)


def test_failed_run_leaves_the_logs_behind(log_base: Path) -> None:
    def work() -> None:
        print("before the end")
        raise ValueError("at the end")

    with pytest.raises(ValueError, match="at the end") as caught:
        trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None)

    assert isinstance(caught.value, trx.WorkerFailedError)
    assert caught.value.failures[0].log_file == str(log_files(log_base)["localhost[0].log"])
    assert log_files(log_base)["localhost[0].log"].read_text().startswith("before the end\n")


def test_two_launches_at_once_have_directories_of_their_own(log_base: Path) -> None:
    with trx.Launcher(["localhost"], 1, backend=None) as one, trx.Launcher(["localhost"], 1, backend=None) as two:
        one.run(print, "one")
        two.run(print, "two")

    texts = {path.read_text() for path in log_base.glob("*/localhost[[]0].log")}
    assert texts == {"one\n", "two\n"}


def test_no_files_are_written_where_none_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRX_LOG_DIR", "")
    monkeypatch.chdir(tmp_path)

    def work() -> None:
        print("nowhere")
        raise ValueError("no file")

    with pytest.raises(ValueError, match="no file") as caught:
        trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None)

    assert isinstance(caught.value, trx.WorkerFailedError)
    assert caught.value.failures[0].log_file == ""
    assert "nowhere" in caught.value.failures[0].last_lines
    assert list(tmp_path.iterdir()) == []


def test_default_directory_is_trx_logs_where_the_launcher_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRX_LOG_DIR")
    monkeypatch.chdir(tmp_path)

    trx.launch(print, ("here",), hostnames=["localhost"], workers_per_host=1, backend=None)

    assert log_files(tmp_path / "trx_logs")["localhost[0].log"].read_text() == "here\n"


# ---- nothing is lost ------------------------------------------------------------------------------------------------

LINES = 200_000


def flood(lines: int) -> str:
    """Prints lines of many lengths, some of them to stderr, and returns a hash of stdout's."""
    digest = hashlib.sha256()
    for number in range(lines):
        line = f"{rank()} {number} {'x' * (number % 97)}\n"
        sys.stdout.write(line)
        digest.update(line.encode())
        if number % 100 == 0:
            sys.stderr.write(f"stderr {number}\n")
    return digest.hexdigest()


def test_no_line_of_a_flood_is_lost_or_cut(
    workers: trx.Launcher, open_log_base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [open_log_base / "workers" / f"localhost[{number}].log" for number in (0, 1)]
    (directory,) = (open_log_base / "workers").iterdir()
    paths = [directory / f"localhost[{number}].log" for number in (0, 1)]
    starts = [path.stat().st_size if path.exists() else 0 for path in paths]

    digests = workers.run(flood, LINES)

    for path, start, digest in zip(paths, starts, digests, strict=True):
        lines = path.read_bytes()[start:].splitlines(keepends=True)
        assert len(lines) == LINES + LINES // 100
        assert [line for line in lines if line.startswith(b"stderr")] == [
            b"stderr %d\n" % number for number in range(0, LINES, 100)
        ]
        assert hashlib.sha256(b"".join(line for line in lines if line[:1] != b"s")).hexdigest() == digest
    shown, complained = capfd.readouterr()
    assert hashlib.sha256(shown.encode()).hexdigest() == digests.rank(0)
    assert len(complained.splitlines()) == LINES // 100


def test_what_was_printed_before_a_crash_is_not_lost(workers: trx.Launcher, open_log_base: Path) -> None:
    def work() -> None:
        flood(20_000)
        os.abort()

    with pytest.raises(trx.WorkerFailedError) as caught:
        workers.run(work)

    assert b"%d 19999 " % caught.value.rank in Path(caught.value.failures[0].log_file).read_bytes()
    assert f"{caught.value.rank} 19999 " in caught.value.failures[0].last_lines


def test_value_does_not_overtake_what_was_printed(workers: trx.Launcher, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        workers.run(print, f"run {number}")
        assert capfd.readouterr().out == f"run {number}\n"


# ---- the terminal ---------------------------------------------------------------------------------------------------


def test_terminal_has_rank_0_only_each_stream_where_it_belongs(tmp_path: Path) -> None:
    source = f"""{HEAD}
import logging
def work():
    rank = os.environ["RANK"]
    print("out of", rank)
    print("err of", rank, file=sys.stderr)
    logging.getLogger("model").warning("record of %s", rank)

trx.launch(work, hostnames=["localhost"], workers_per_host=2, backend=None)
print("done")
"""
    with Script(tmp_path, source) as script:
        status, out, err = script.ends()

    assert status == 0
    assert out == "out of 0\ndone\n"
    assert sorted(re.sub(r"^[\d-]+ [\d:.]+ ", "", line) for line in err.splitlines()) == [
        "WARNING model: record of 0",
        "err of 0",
    ]


def test_terminal_shows_lines_while_the_function_still_runs(tmp_path: Path) -> None:
    source = f"""{HEAD}
def work():
    print("first line", flush=True)
    while not Path("go on").exists():
        time.sleep(0.01)
    print("last line")

trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None)
"""
    with Script(tmp_path, source) as script:
        assert script.process.stdout is not None
        assert script.process.stdout.readline() == b"first line\n"
        signal_file(tmp_path / "go on")
        assert script.process.stdout.readline() == b"last line\n"
        assert script.ends() == (0, "", "")


def test_terminal_shows_a_progress_bar_alive_and_as_wide_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "LINES", "TQDM_NCOLS"):
        monkeypatch.delenv(name, raising=False)
    source = f"""{HEAD}
from tqdm import tqdm
def work():
    for number in tqdm(range(4), mininterval=0, miniters=1):
        while not Path(f"go on {{number}}").exists():
            time.sleep(0.01)

trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None)
"""
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", "60", "rows", "24"], stdin=theirs, check=True)
    seen = ""

    def read_until(bar: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 40
        while bar not in seen:
            ready, _, _ = select.select([ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {bar!r} in {seen!r}"
            seen += os.read(ours, 4096).decode()

    with Script(tmp_path, source, stdout=theirs, stderr=theirs) as script:
        os.close(theirs)
        for number in range(4):
            read_until(f"| {number}/4 [")
            signal_file(tmp_path / f"go on {number}")
        read_until("| 4/4 [")
        wait_until(lambda: script.process.poll() is not None, "the script's end")
    os.close(ours)

    bars = re.split(r"[\r\n]+", seen)
    assert {len(bar) for bar in bars if "/4 [" in bar and "?" not in bar} <= {59, 60}
    assert "\x1b" not in seen.replace("\x1b[A", "")


def test_notebook_like_replacement_of_stdout_gets_the_output(
    workers: trx.Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)

    workers.run(print, "to the notebook")

    assert shown.getvalue() == "to the notebook\n"


def test_reader_that_goes_away_does_not_end_the_launch(tmp_path: Path) -> None:
    source = f"""{HEAD}
def work():
    for number in range(20000):
        print("line", number)
    return "finished"

value = trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None).rank(0)
Path("value").write_text(value)
sys.stdout = None
os._exit(0)
"""
    with Script(tmp_path, source) as script:
        assert script.process.stdout is not None
        script.process.stdout.readline()
        script.process.stdout.close()
        script.process.stdout = None
        wait_until(lambda: script.process.poll() is not None, "the script's end", 40)

    assert (tmp_path / "value").read_text() == "finished"


def test_a_worker_that_cuts_off_its_own_output_does_not_hold_up_the_end(workers: trx.Launcher) -> None:
    def work() -> str:
        for _ in range(500):  # so that the launcher finds less there than the agent has told it of
            os.pwrite(1, b"x" * (1 << 20), 0)
            os.ftruncate(1, 0)
        os.pwrite(1, b"x" * (3 << 20), 0)  # more than there is credit for
        return "finished"

    assert list(workers.run(work)) == ["finished", "finished"]
