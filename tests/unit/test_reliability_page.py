"""docs/reliability.md and the times that tests write into it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
reliability = SimpleNamespace(**runpy.run_path(str(ROOT / "tools/reliability.py")))

PAGE = """
| what | measured |
|---|---|
| a | – <!-- a-key --> | tests |
| b | 3 s <!-- other --> | tests |
"""

REPORT = """
<testsuites><testsuite>
<testcase><properties>
  <property name="measured: a-key: said" value="0.0312"/>
  <property name="measured: a-key: where slow: raised" value="1.2345"/>
  <property name="something else" value="1"/>
</properties></testcase>
<testcase><properties><property name="measured: a-key: said" value="0.0298"/></properties></testcase>
</testsuite></testsuites>
"""


def test_times_are_written_where_their_key_is() -> None:
    page = reliability.fill(PAGE, reliability.read(REPORT))

    assert "| a | said 0.03–0.031 s; where slow: raised 1.2 s <!-- a-key --> | tests |" in page
    assert "| b | 3 s <!-- other --> | tests |" in page
    assert reliability.fill(page, reliability.read(REPORT)) == page


def test_every_key_of_the_page_is_measured_by_some_test_and_the_other_way_round() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    measured = set(re.findall(r'measured\(\s*"([\w-]+)"', tests)) | {"killed", "exits"}
    page = reliability.PAGE.read_text()

    assert {found.group("key") for found in reliability._CELL.finditer(page)} == measured
    assert reliability._CIRCUMSTANCES.search(page)


def test_every_test_file_that_the_page_names_exists() -> None:
    named = re.findall(r"`((?:unit|integration|lab)/[\w./]+)`", reliability.PAGE.read_text())

    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []
