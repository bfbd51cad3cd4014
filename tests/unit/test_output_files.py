"""Log directories and log files."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trx.output import LogFiles, Source, file_name, make_log_directory
from trx_agent.protocol.messages import Kind
from trx_agent.protocol.records import Record

NOW = datetime(2026, 11, 20, 16, 4, 5, 999999)
WORKER = Source("node1", 0, 0)
AGENT = Source("node1", None, None)
HOSTILE = [
    *["fe80::1%eth0", "user@host:22", "user@host_22", "/", "..", ".", "", "a/../../b", "a\nb", "a\x00b", "-rf", "a~b"],
    *["node1[0]", "é" * 300, "A" * 300, "\udcff"],
]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# ---- directories ----------------------------------------------------------------------------------------------------


def test_directory_is_private_and_named_by_the_time(tmp_path: Path) -> None:
    directory = make_log_directory(str(tmp_path / "a" / "logs"), NOW)
    assert directory == tmp_path / "a" / "logs" / "20261120T160405"
    assert [_mode(path) for path in (directory, directory.parent, directory.parent.parent)] == [0o700] * 3


def test_directory_of_an_aware_time_is_local(tmp_path: Path) -> None:
    directory = make_log_directory(str(tmp_path), NOW.astimezone(UTC))
    assert directory == tmp_path / "20261120T160405"


def test_launches_in_the_same_second_get_directories_of_their_own(tmp_path: Path) -> None:
    names = [directory.name for _ in range(3) if (directory := make_log_directory(str(tmp_path), NOW))]
    assert names == ["20261120T160405", "20261120T160405_2", "20261120T160405_3"]


def test_planted_directory_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "20261120T160405").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "20261120T160405_2").symlink_to(tmp_path / "dangling")
    directory = make_log_directory(str(tmp_path), NOW)
    assert directory == tmp_path / "20261120T160405_3"
    assert not directory.is_symlink()
    assert not (tmp_path / "dangling").exists()


def test_default_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRX_LOG_DIR", raising=False)
    assert make_log_directory(None, NOW) == tmp_path / "trx_logs" / "20261120T160405"
    monkeypatch.setenv("TRX_LOG_DIR", str(tmp_path / "other"))
    assert make_log_directory(None, NOW) == tmp_path / "other" / "20261120T160405"
    monkeypatch.setenv("TRX_LOG_DIR", "")
    assert make_log_directory(None, NOW) is None
    assert make_log_directory("", NOW) is None


# ---- names ----------------------------------------------------------------------------------------------------------


@given(st.one_of(st.text(), st.sampled_from(HOSTILE)), st.one_of(st.none(), st.integers(0, 7)))
def test_names_are_safe(hostname: str, local_rank: int | None) -> None:
    name = file_name(hostname, local_rank)
    assert name.isascii()
    assert name.isprintable()
    assert len(name) < 200
    assert name[0] not in ".-"
    assert not set(name) & set("/\\: *?\"'<>|&;$`")


def test_names_differ_where_sources_do() -> None:
    names = {file_name(hostname, local_rank).lower() for hostname in HOSTILE for local_rank in (None, 0, 1)}
    assert len(names) == 3 * len(HOSTILE)
    assert file_name(file_name("a:b", None), None) != file_name("a:b", None)


@pytest.mark.parametrize("hostname", ["node1", "localhost#2", "user@host", "10.0.0.1", "gpu-07.cluster.example"])
def test_plain_names_are_kept(hostname: str) -> None:
    assert file_name(hostname, None) == hostname
    assert file_name(hostname, 3) == f"{hostname}[3]"


# ---- files ----------------------------------------------------------------------------------------------------------


def test_files_hold_exactly_what_was_printed(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    printed = bytes(range(256)) + b"\r 10%\r 20%" + b"\xff\x00no newline"
    files.write(WORKER, Kind.STDOUT, printed[:100])
    files.write(WORKER, Kind.STDOUT, printed[100:])
    files.write(AGENT, Kind.AGENT, b"agent\n")
    assert files.path(AGENT).read_bytes() == b"agent\n"  # at once
    files.end(WORKER)
    assert files.path(WORKER).read_bytes() == printed
    files.close()
    assert {path.name for path in tmp_path.iterdir()} == {"node1[0].log", "node1.log"}
    assert {_mode(path) for path in tmp_path.iterdir()} == {0o600}


def test_streams_of_a_worker_are_merged_at_line_ends(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    created = datetime(2026, 11, 20, 16, 4, 5, 123000).timestamp()
    files.write(WORKER, Kind.STDOUT, b"out")
    files.write(WORKER, Kind.STDERR, b"err\n")
    files.record(WORKER, Record("a", 30, created, "é\ud800"))
    files.write(WORKER, Kind.STDOUT, b"put\nrest")
    files.close()
    lines = ["err", "2026-11-20 16:04:05.123 WARNING a: é\\ud800", "output", "rest"]
    assert files.path(WORKER).read_text("utf-8").split("\n") == lines


@pytest.mark.parametrize("hostname", HOSTILE)
def test_hostile_host_names_stay_in_the_directory(tmp_path: Path, hostname: str) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    files = LogFiles(directory)
    source = Source(hostname, 0, 0)
    files.write(source, Kind.STDOUT, b"x\n")
    files.close()
    assert list(directory.iterdir()) == [files.path(source)]
    assert files.path(source).read_bytes() == b"x\n"
    assert list(tmp_path.iterdir()) == [directory]


@pytest.mark.parametrize("target_exists", [True, False])
def test_planted_file_link_is_not_followed(tmp_path: Path, target_exists: bool) -> None:
    target = tmp_path / "target"
    if target_exists:
        target.write_bytes(b"precious")
    (tmp_path / "node1[0].log").symlink_to(target)
    files = LogFiles(tmp_path)
    files.write(WORKER, Kind.STDOUT, b"line\n")
    files.close()
    assert files.path(WORKER) == tmp_path / "node1[0].2.log"
    assert files.path(WORKER).read_bytes() == b"line\n"
    assert target.exists() == target_exists
    assert not target_exists or target.read_bytes() == b"precious"


def test_no_free_name_is_an_error(tmp_path: Path) -> None:
    for number in range(1, 101):
        (tmp_path / ("node1.log" if number == 1 else f"node1.{number}.log")).touch()
    files = LogFiles(tmp_path)
    with pytest.raises(FileExistsError, match=r"node1\.log"):
        files.write(AGENT, Kind.AGENT, b"x\n")
    files.close()


def test_directory_must_not_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "logs").symlink_to(tmp_path)
    with pytest.raises(OSError, match="logs"):
        LogFiles(tmp_path / "logs")


def test_link_put_in_the_place_of_a_closed_file_is_not_followed(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    files.write(WORKER, Kind.STDOUT, b"1\n")
    files.end(WORKER)
    files.path(WORKER).unlink()
    files.path(WORKER).symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        files.write(WORKER, Kind.STDOUT, b"2\n")
    files.close()
    assert not (tmp_path / "target").exists()


def test_a_second_run_appends(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    for data in (b"first", b" second"):
        files.write(WORKER, Kind.STDOUT, data)
        files.end(WORKER)
    files.close()
    assert files.path(WORKER).read_bytes() == b"first second"


def test_few_files_are_kept_open(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    files = LogFiles(tmp_path, most_open=2)
    sources = [Source("node1", rank, rank) for rank in range(5)]
    for number in range(3):
        for source in sources:
            files.write(source, Kind.STDOUT, b"%d\npart" % number)
    assert len(os.listdir("/dev/fd")) == before + 3
    files.close()
    assert len(os.listdir("/dev/fd")) == before
    assert {files.path(source).read_bytes() for source in sources} == {b"0\npart1\npart2\npart"}


def test_descriptors_used_up_by_others(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    files.write(Source("node1", 0, 0), Kind.STDOUT, b"0\n")
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))), allowed[1]))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(tmp_path, os.O_RDONLY))
        files.write(Source("node1", 1, 1), Kind.STDOUT, b"1\n")
        files.write(Source("node1", 0, 0), Kind.STDOUT, b"2\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
        for descriptor in taken:
            os.close(descriptor)
    files.close()
    assert (tmp_path / "node1[0].log").read_bytes() == b"0\n2\n"
    assert (tmp_path / "node1[1].log").read_bytes() == b"1\n"


def test_partial_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    files = LogFiles(tmp_path)
    files.write(WORKER, Kind.STDOUT, b"0123456789\n")
    files.close()
    assert files.path(WORKER).read_bytes() == b"0123456789\n"


def test_close_closes_all_even_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    before = len(os.listdir("/dev/fd"))
    files = LogFiles(tmp_path)
    files.write(WORKER, Kind.STDOUT, b"line\npart")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            files.close()
    assert len(os.listdir("/dev/fd")) == before


def test_a_launch_that_printed_nothing_leaves_no_directory(tmp_path: Path) -> None:
    directory = make_log_directory(str(tmp_path), NOW)
    assert directory
    files = LogFiles(directory)
    files.end(WORKER)
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_anything_in_it_stays(tmp_path: Path) -> None:
    directory = make_log_directory(str(tmp_path), NOW)
    assert directory
    (directory / "notes of the user").touch()
    LogFiles(directory).close()
    assert [path.name for path in directory.iterdir()] == ["notes of the user"]
