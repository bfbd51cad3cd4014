"""What a worker may put in place of its files, and what it may log: nothing of it harms its host, or another rank."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Literal

import pytest

import trx

from .helpers import travels_by_value

travels_by_value(__name__)

Odd = Literal["pipe", "directory", "link"]

ODD_RECORDS: list[dict[str, object]] = [
    {"name": None},
    {"pathname": None, "lineno": None},
    {"lineno": 1.0},
    {"lineno": 2**40},
    {"levelno": 30.5},
    {"levelno": 2**63},
    {"created": None},
    {"created": float("nan")},
    {"msg": "a surrogate \ud800"},
    {"funcName": None},
]


def put(odd: Odd, path: Path) -> None:
    aside = path.with_name("aside")
    match odd:
        case "pipe":
            os.mkfifo(aside)
        case "directory":
            aside.mkdir()
        case "link":
            aside.symlink_to("/dev/zero")
    aside.rename(path)


def folder() -> Path:
    descriptor = next(each._descriptor for each in logging.root.handlers if hasattr(each, "_descriptor"))
    return Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent


def put_in_place_of_what_it_raises(odd: Odd) -> None:
    if os.environ["RANK"] == "1":
        put(odd, folder() / "raised")
    time.sleep(60)  # until it is stopped


def put_in_place_of_its_marks(odd: Odd) -> int:
    (folder() / "marks").unlink()
    put(odd, folder() / "marks")
    return 1


def log_odd_records() -> None:
    for number, fields in enumerate(ODD_RECORDS):
        record = logging.makeLogRecord(
            {"name": "odd", "levelno": 30, "created": 1.0, "msg": f"record {number}", **fields}
        )
        logging.root.handle(record)
    logging.warning("the last one")


def raise_a_surrogate() -> None:
    raise ValueError("half of a pair: \ud800")


@pytest.mark.parametrize("odd", ["pipe", "directory", "link"])
def test_what_is_no_file_is_the_failure_of_its_worker(odd: Odd) -> None:
    with pytest.raises(trx.WorkerFailedError, match="could not be read") as failed:
        trx.launch(
            put_in_place_of_what_it_raises,
            (odd,),
            hostnames=["localhost"],
            workers_per_host=2,
            backend=None,
            grace_period=1,
            log_handlers=None,
        )
    assert failed.value.failures[0].rank == 1


@pytest.mark.parametrize("odd", ["pipe", "link"])
def test_marks_that_are_no_file_are_no_failure(odd: Odd) -> None:
    result = trx.launch(
        put_in_place_of_its_marks, (odd,), hostnames=["localhost"], workers_per_host=1, backend=None, log_handlers=None
    )
    assert list(result) == [1]


def test_records_with_fields_that_are_left_out_or_odd_arrive(caplog: pytest.LogCaptureFixture) -> None:
    class Heard(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.messages.append(record.getMessage())

    heard = Heard()
    trx.launch(log_odd_records, hostnames=["localhost"], workers_per_host=1, backend=None, log_handlers=[heard])
    expected = [str(fields.get("msg", f"record {number}")) for number, fields in enumerate(ODD_RECORDS)]
    expected = [text.replace("\ud800", "\\ud800") for text in expected]
    assert heard.messages == [*expected, "the last one"]
    assert not [record for record in caplog.records if record.name == "trx"]


def test_an_exception_whose_message_is_no_utf_8_is_told() -> None:
    with pytest.raises(trx.WorkerFailedError, match="half of a pair"):
        trx.launch(raise_a_surrogate, hostnames=["localhost"], workers_per_host=1, backend=None, log_handlers=None)
