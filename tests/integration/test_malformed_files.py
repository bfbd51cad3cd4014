"""A worker that writes what it likes where trx reads: it has failed at the most, and nothing else has."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

import trx

from .helpers import travels_by_value

travels_by_value(__name__)

DEEP = b"\x91" * 50_000 + b"\x01"


def records_of_this_worker() -> tuple[int, Path]:
    descriptor = next(each._descriptor for each in logging.root.handlers if hasattr(each, "_descriptor"))
    return descriptor, Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent


def write_a_record_that_is_nested_without_end() -> int:
    body = b"\x99\xa1n\x14\xcb\0\0\0\0\0\0\0\0\xa1m\xa0\xa0\x00\xa0" + DEEP
    rank = int(os.environ["RANK"])
    if rank == 1:
        os.write(records_of_this_worker()[0], len(body).to_bytes(4, "big") + body)
    logging.warning("a word of rank %d", rank)
    return rank


def leave_behind(raised: bytes) -> None:
    if os.environ["RANK"] == "1":
        _, folder = records_of_this_worker()
        (folder / "other").write_bytes(len(raised).to_bytes(4, "big") + raised)
        (folder / "other").rename(folder / "raised")
    time.sleep(60)  # until it is stopped


def write_many_marks() -> int:
    _, folder = records_of_this_worker()
    with open(folder / "marks", "a") as marks:
        marks.write("function called\tnan\n" + "function loaded\t1\n" * 300_000)
    return 1


def test_a_malformed_record_ends_its_stream_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    handler = logging.NullHandler()
    result = trx.launch(
        write_a_record_that_is_nested_without_end,
        hostnames=["localhost"],
        workers_per_host=2,
        backend=None,
        log_handlers=[handler],
    )
    assert list(result) == [0, 1]
    said = [record.getMessage() for record in caplog.records if record.name == "trx"]
    assert [text for text in said if "malformed" in text and "localhost[1]" in text] == said


@pytest.mark.parametrize(
    "raised",
    [
        b"hello",
        b"\x85\xa5stage\xa1s\xa4kind\xa1k\xa7message\xa1m\xa9traceback\xa1t\xa1x" + DEEP,
    ],
    ids=["garbage", "nested without end"],
)
def test_an_exception_that_cannot_be_read_is_the_failure_of_its_worker(raised: bytes) -> None:
    with pytest.raises(trx.WorkerFailedError, match="cannot be") as failed:
        trx.launch(
            leave_behind,
            (raised,),
            hostnames=["localhost"],
            workers_per_host=2,
            backend=None,
            log_handlers=None,
            grace_period=1,
        )
    assert failed.value.failures[0].rank == 1


def test_marks_of_any_length_are_no_failure() -> None:
    result = trx.launch(write_many_marks, hostnames=["localhost"], workers_per_host=1, backend=None, log_handlers=None)
    assert list(result) == [1]
    assert len(str(result.timeline)) < 10_000
