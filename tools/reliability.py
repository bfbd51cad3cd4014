"""Runs the tests that measure how long a fault takes, and writes their times into docs/reliability.md.

Such a test has the fixture `measured` (tests/conftest.py). In the page, a cell of a table that ends with `<!-- key -->`
holds what was measured under this key.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reliability.md"
PROPERTY = "measured: "
"""By which a test's properties are known as times: "measured: KEY: WHAT"."""

_CELL = re.compile(r"\|[^|\n]*<!-- (?P<key>[\w-]+) -->")
_CIRCUMSTANCES = re.compile(r"(?<=<!-- circumstances -->\n).*?(?=\n<!-- end -->)", re.DOTALL)

Times = Mapping[str, Mapping[str, list[float]]]
"""For each key what was measured, and the seconds of each time that it was."""


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        options = ["-m", "measured", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        tests = subprocess.run([sys.executable, "-m", "pytest", *options, *sys.argv[1:]], cwd=ROOT)
        if tests.returncode:
            print("not every test has passed: docs/reliability.md is left as it is")
            return 1
        times = read(report.read_text())
    PAGE.write_text(_CIRCUMSTANCES.sub(_circumstances(), fill(PAGE.read_text(), times)))
    print(f"wrote {PAGE}")
    return 0


def read(report: str) -> Times:
    """What the tests have noted, in the order in which they did."""
    times: dict[str, dict[str, list[float]]] = {}
    for each in ET.fromstring(report).iter("property"):  # noqa: S314 - our own tests wrote it
        if each.attrib["name"].startswith(PROPERTY):
            key, what = each.attrib["name"].removeprefix(PROPERTY).split(": ", 1)
            times.setdefault(key, {}).setdefault(what, []).append(float(each.attrib["value"]))
    return times


def fill(page: str, times: Times) -> str:
    """The page with these times; what was not measured (its test was left out) stays as it is."""

    def cell(found: re.Match[str]) -> str:
        key = found.group("key")
        return f"| {in_words(times[key])} <!-- {key} -->" if key in times else found.group()

    return _CELL.sub(cell, page)


def in_words(measured: Mapping[str, Iterable[float]]) -> str:
    return "; ".join(f"{what} {_range(sorted(seconds))} s" for what, seconds in measured.items())


def _range(seconds: list[float]) -> str:
    first, last = (f"{each:.1f}" if each >= 1 else f"{each:.2g}" for each in (seconds[0], seconds[-1]))
    return first if first == last else f"{first}–{last}"


def _circumstances() -> str:
    return f"Measured on {date.today()}, on a machine with {os.cpu_count()} cores that all hosts of a lab share."


if __name__ == "__main__":
    sys.exit(main())
