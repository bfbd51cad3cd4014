"""What is made of the numbers: JSON, a table, a picture."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.measuring import Measured, Series
from benchmarks.shape import Aim, Row

PUBLISHED = Path(__file__).resolve().parents[1] / "docs"
PRIVATE = peers.HOME / "results"

_BEGIN, _END = "<!-- written by make bench: begin -->", "<!-- written by make bench: end -->"


def read(folder: Path, rows: Sequence[Row]) -> list[Measured]:
    """What was written to a folder, in the order of `rows`; what is not among them any more is left out."""
    path = folder / "performance.json"
    found = {each["name"]: each for each in json.loads(path.read_text())["rows"]} if path.exists() else {}
    return [_from_json(row, found[row.name]) for row in rows if row.name in found]


def write(measured: Sequence[Measured], folder: Path) -> None:
    """Writes `performance.json`, `performance.svg`, and the table into `performance.md`, whose other text stays."""
    from benchmarks.picture import draw

    folder.mkdir(parents=True, exist_ok=True)
    result = {"rows": [_as_json(each) for each in measured]}
    (folder / "performance.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    drawn = draw(measured, folder / "performance.svg")
    _write_table(folder / "performance.md", f"{_runs(measured)}\n\n{table(measured)}", drawn)


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    found = {
        "date": date.today().isoformat(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "trx": importlib.metadata.version("trx-launch"),
    }
    return found | {name: peers.version(name) for name in peers.PEERS if (peers.HOME / name / "ready").exists()}


def table(measured: Sequence[Measured]) -> str:
    """In Markdown: a line for each row."""
    lines = ["| row | work | trx | beside it | aim | reached |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(_line(each) for each in measured)])


def _line(measured: Measured) -> str:
    row = measured.row
    ours = [_words(name, series) for name, series in measured.series.items() if name.startswith("trx")]
    others = [_words(name, series) for name, series in measured.series.items() if not name.startswith("trx")]
    others += [f"{name}: missing ({reason})" for name, reason in measured.missing.items()]
    others += [f"{name}: failed {times} × ({reason})" for name, (times, reason) in measured.failures.items()]
    aims = [aim.text for aim in row.aims]
    title = row.title + (f" ({row.note})" if row.note else "")
    verdicts = [*(_verdict(aim, measured) for aim in row.aims), *_explained(measured)]
    cells = [row.name, title, _stack(ours), _stack(others), _stack(aims), _stack(verdicts)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _stack(parts: Sequence[str]) -> str:
    return "<br>".join(parts)


def _words(name: str, series: Series) -> str:
    low, high = series.spread
    return f"{name} **{number(series.median)}** {series.unit} ({number(low)}–{number(high)})"


def _verdict(aim: Aim, measured: Measured) -> str:
    found = _reached(aim, measured)
    if found is None:
        return "not measured"
    return f"{'yes' if aim.met(found) else '**no**'}: {number(found)} {aim.unit}"


def _explained(measured: Measured) -> list[str]:
    """What there is to say of a row that missed an aim: why, and how far it is from its floors."""
    row, medians = measured.row, measured.medians
    reached = [(aim, _reached(aim, measured)) for aim in row.aims]
    if all(found is None or aim.met(found) for aim, found in reached):
        return []
    ratios = [
        f"{row.compared} is {number(medians[row.compared] / medians[name])} × {name}"
        for name in medians
        if name in row.floor and row.compared in medians
    ]
    return [row.if_missed, *ratios] if row.if_missed else ratios


def _reached(aim: Aim, measured: Measured) -> float | None:
    try:
        return aim.measured(measured.medians)
    except (KeyError, ZeroDivisionError):
        return None


def number(value: float) -> str:
    """Three digits, or whole numbers where they have more."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _as_json(measured: Measured) -> dict[str, Any]:
    row = measured.row
    return {
        "name": row.name,
        "title": row.title,
        "note": row.note,
        "series": {
            name: {"unit": series.unit, "median": series.median, "spread": series.spread, "values": series.values}
            for name, series in measured.series.items()
        },
        "aims": [_aim_as_json(aim, measured) for aim in row.aims],
        "missing": measured.missing,
        "failures": measured.failures,
        "load": measured.load,
        "quick": measured.quick,
        "machine": measured.machine,
    }


def _from_json(row: Row, found: dict[str, Any]) -> Measured:
    """The numbers alone: what is said about them is the row's, as it is now."""
    return Measured(
        row,
        series={name: Series(each["unit"], each["values"]) for name, each in found["series"].items()},
        missing=found["missing"],
        failures={name: (times, reason) for name, (times, reason) in found["failures"].items()},
        load=(found["load"][0], found["load"][1]),
        quick=found["quick"],
        machine=found["machine"],
    )


def _aim_as_json(aim: Aim, measured: Measured) -> dict[str, Any]:
    found = _reached(aim, measured)
    return {"text": aim.text, "number": found, "unit": aim.unit, "met": None if found is None else aim.met(found)}


def _runs(measured: Sequence[Measured]) -> str:
    """On what the rows were measured, and when: a sentence for all of them, or one for each run that some are from."""
    runs: dict[str, list[str]] = {}
    for each in measured:
        runs.setdefault(_run(each), []).append(each.row.name)
    if len(runs) == 1:
        return f"Measured on {next(iter(runs))}"
    return "\n".join(f"- Rows of {run} These are: {', '.join(names)}." for run, names in runs.items())


def _run(measured: Measured) -> str:
    facts = measured.machine
    versions = ", ".join(f"{name} {facts[name]}" for name in ("python", "torch", "trx", *peers.PEERS) if name in facts)
    look = " A quick look: few rounds, and smaller work than the titles say." if measured.quick else ""
    return f"{facts['date']}, {facts['cores']} cores, {facts['system']}: {versions}.{look}"


def _write_table(path: Path, text: str, picture: bool) -> None:
    old = path.read_text() if path.exists() else f"# Performance\n\n{_BEGIN}\n{_END}\n"
    image = "\n\n![the same as a picture](performance.svg)" if picture else ""
    new = f"{_BEGIN}\n{text}{image}\n{_END}"
    path.write_text(re.sub(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", lambda _: new, old, flags=re.DOTALL))
