"""What is published of the benchmarks when only some rows were measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.measuring import Measured, Series
from benchmarks.rows import all_rows
from benchmarks.shape import Row

FIRST, SECOND, THIRD = all_rows()[:3]
MACHINE = {"date": "2026-01-01", "cores": "2", "system": "Linux x86_64", "python": "3.11.7", "trx": "0.1.0"}
LATER = MACHINE | {"date": "2026-02-02", "trx": "0.2.0"}


def measured(row: Row, seconds: float, machine: dict[str, str] = MACHINE) -> Measured:
    return Measured(row, {"trx": Series(row.unit, [seconds])}, machine=machine)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where is published; the second and third row are there, and one that is no row any more."""
    monkeypatch.setattr("benchmarks.picture.draw", lambda measured, path: True)
    monkeypatch.setattr(report, "PUBLISHED", tmp_path)
    monkeypatch.setattr(report, "PRIVATE", tmp_path / "private")
    monkeypatch.setattr(report, "machine", lambda: LATER)
    gone = Row("no_row_any_more", "", "s", (), SECOND.contestants)
    report.write([measured(SECOND, 2.0), measured(THIRD, 3.0), measured(gone, 4.0)], tmp_path)
    return tmp_path


def bench(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    def measure(row: Row, bench: Bench) -> Measured:
        return Measured(row, {"trx": Series(row.unit, [9.0])}, quick=bench.quick)

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
    command.main()


def medians(folder: Path) -> dict[str, float]:
    rows = json.loads((folder / "performance.json").read_text())["rows"]
    return {row["name"]: row["series"]["trx"]["median"] for row in rows}


def test_other_rows_stay_as_they_were_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench(monkeypatch, "--publish", SECOND.name, FIRST.name)
    assert list(medians(folder).items()) == [(FIRST.name, 9.0), (SECOND.name, 9.0), (THIRD.name, 3.0)]


def test_each_row_says_on_what_it_was_measured_and_when(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench(monkeypatch, "--publish", "--quick", SECOND.name)
    rows = json.loads((folder / "performance.json").read_text())["rows"]
    assert [(row["machine"], row["quick"]) for row in rows] == [(LATER, True), (MACHINE, False)]

    text = (folder / "performance.md").read_text()
    assert f"- Rows of 2026-01-01, 2 cores, Linux x86_64: python 3.11.7, trx 0.1.0. These are: {THIRD.name}.\n" in text
    assert "- Rows of 2026-02-02, 2 cores, Linux x86_64: python 3.11.7, trx 0.2.0. A quick look: " in text
    assert f"| {SECOND.name} | {SECOND.title}" in text


def test_rows_of_one_run_have_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench(monkeypatch, "--publish", SECOND.name, THIRD.name)
    text = (folder / "performance.md").read_text()
    assert "Measured on 2026-02-02, 2 cores, Linux x86_64: python 3.11.7, trx 0.2.0.\n\n| row |" in text


def test_what_is_not_published_has_only_what_was_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = medians(folder)
    bench(monkeypatch, SECOND.name)
    assert medians(folder / "private") == {SECOND.name: 9.0}
    assert medians(folder) == before


def test_rows_are_read_as_they_were_written(folder: Path) -> None:
    whole = measured(FIRST, 1.0)
    whole.missing["Ray Train"] = "cannot be installed"
    whole.failures["torchrunx"] = (2, "it fell over")
    whole.load = (0.5, 1.5)
    report.write([whole], folder)
    assert report.read(folder, [FIRST]) == [whole]
