"""Every code block of the documentation's pages that run on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guide.page import Page, pages_that_run, read
from tests.guide.play import ThisMachine, play


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", pages_that_run("local"), ids=lambda page: page.name)
def test_page(page: Page, tmp_path: Path) -> None:
    play(page, ThisMachine(), tmp_path)


# ---- a page that is wrong -------------------------------------------------------------------------------------------


def failure_of(directory: Path, text: str) -> str:
    """What is said of a page, which must fail."""
    path = directory / "page.md"
    path.write_text(text)
    with pytest.raises(pytest.fail.Exception) as caught:
        play(read(path), ThisMachine(), directory)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("```python\nx = 1\n```\n\n```python\nprint(x)\nprint(y)\n```\n", 7, id="the script raises"),
        pytest.param("```python\ndef f():\n    return 1 // 0\n```\n\n```python\nf()\n```\n", 3, id="in a function"),
        pytest.param("```python\nx = 1\n```\n\n```python\nx = \n```\n", 6, id="a syntax error"),
        pytest.param("```python\nimport sys\nsys.exit()\n```\n", 2, id="the script ends early"),
        pytest.param("```python\nimport atexit, os\natexit.register(os._exit, 3)\n```\n", 2, id="a status at the end"),
        pytest.param("```bash\ntrue\n```\n\n```bash\nfalse\ntrue\n```\n", 6, id="a command fails"),
        pytest.param("```bash\nfalse | true\n```\n", 2, id="a command of a pipe fails"),
        pytest.param("```bash\necho $NO_SUCH_VARIABLE\n```\n", 2, id="a variable is not set"),
        pytest.param("```bash\npython train.py\n```\n", 2, id="there is no such file"),
        pytest.param("```python\nprint(1)\n```\n```output\n2\n```\n", 2, id="the script prints something else"),
        pytest.param("```bash\necho 1\n```\n```output\n2\n```\n", 2, id="a command prints something else"),
        pytest.param("```bash\ntrue\n```\n```output\nTraceback (most recent call last)\n[...]\n```\n", 2, id="success"),
    ],
)
def test_a_page_that_is_wrong_fails_and_names_its_line(tmp_path: Path, text: str, line: int) -> None:
    assert f"page.md, line {line}: " in failure_of(tmp_path, text)


def test_a_page_that_fails_on_a_worker_names_the_workers_line(tmp_path: Path) -> None:
    text = """
```python
import trx
def work():
    return 1 // 0
```

```python
trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None)
```
"""
    assert "page.md, line 5: " in failure_of(tmp_path, text)


def test_blocks_that_are_files_are_there_for_the_others(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("```bash\npython say.py\n```\n```output\nhello\n```\n```python\n# say.py\nprint('hello')\n```\n")
    play(read(path), ThisMachine(), tmp_path)
