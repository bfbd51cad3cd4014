"""How the documentation's pages are read by what runs them, and what holds for each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guide.page import PLACES, ROOT, Page, all_pages, marker, prints, read
from trx import Launcher

LANGUAGES = {"python", "bash", "toml", "yaml", "ini", "output", "text"}
DIRECTIVES = {"{toctree}", "{settings-table}"}
"""Code in any other language would not be run. `ini` is for ssh configurations."""

PAGE = """\
---
runs: local
---
# Title

```python
first = 1
```

- In a list:

  ```python
  def second():
      return first
  ```

  ```output
  2
  ```

```python
# train.py
print("a file")
```

```bash
#!/bin/bash
# job.sh
true
```

```bash
python train.py
```

```text
not run
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Page:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return read(path)


def test_front_matter_says_where_a_page_runs(page: Page, tmp_path: Path) -> None:
    assert page.runs == "local"
    other = tmp_path / "other.md"
    other.write_text("# No front matter\n\nruns: local\n")
    assert read(other).runs is None
    assert read(ROOT / "README.md").runs == "lab"


def test_blocks_that_name_a_file_are_that_file(page: Page) -> None:
    assert page.files == {"train.py": '# train.py\nprint("a file")\n', "job.sh": "#!/bin/bash\n# job.sh\ntrue\n"}
    assert [block.text for block in page.bash] == ["python train.py\n"]


def test_lines_of_the_script_are_those_of_the_page(page: Page) -> None:
    script = page.script.splitlines()
    for number, line in enumerate(PAGE.splitlines(), 1):
        if line.strip() in ("first = 1", "def second():", "return first"):
            assert script[number - 1].strip() == line.strip()
    compile(page.script, "page", "exec")
    assert "train.py" not in page.script


def test_the_script_says_where_each_block_ends(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    exec(page.script, {})
    assert capsys.readouterr().out.splitlines() == [marker(block) for block in page.python]


def test_an_output_block_belongs_to_the_block_before_it(page: Page) -> None:
    assert [block.output for block in page.python] == [None, "2\n"]
    assert "output" not in [block.language for block in page.blocks]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("one\ntwo", "one\ntwo\n"),
        ("one\n[...]\nfour", "one\ntwo\nthree\nfour"),
        ("one\n[...]\nfour", "one\nfour"),
        ("one [...] four", "one two three four"),
        ("rank 3 (pid 31796) died", "rank 3 (pid 4) died"),
        ('File "/home/ada/train.py", line 7', 'File "/tmp/x-1/y/train.py", line 7'),
        ("    f(x)\n    ~~~^^", "    f(x)\n    ^^^^"),
        ("one\n\ntwo", "one\n[W1120 19:24 socket.cpp:207] no name\n\ntwo"),
    ],
)
def test_what_may_differ(shown: str, printed: str) -> None:
    assert prints(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("one", "one\ntwo"),
        ("one\ntwo", "one"),
        ("one", "One"),
        ("one.", "one!"),
        ("one [...] four", "one two\nthree four"),
        ("[...]\nfour", "one\ntwo"),
        ('File "/home/ada/train.py"', 'File "/home/ada/test.py"'),
        ("line 7", "line 8"),
        ("a/b", "c/b"),
        ("one\n\ntwo", "one\ntwo"),
    ],
)
def test_what_may_not_differ(shown: str, printed: str) -> None:
    assert not prints(shown, printed)


# ---- the pages that there are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_nothing_that_could_be_run_is_left_out(page: Page) -> None:
    if page.runs is None and not page.path.is_relative_to(ROOT / "docs" / "guide"):
        return
    assert page.runs in PLACES or not (page.python or page.bash), "its front matter needs `runs:`"
    assert {block.language for block in page.blocks} <= LANGUAGES | DIRECTIVES


@pytest.mark.parametrize("page", [page for page in all_pages() if page.runs], ids=lambda page: page.name)
def test_settings_in_toml_can_be_loaded(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, text in page.files.items():
        Path(name).write_text(text)
    for name in page.files:
        if name.endswith(".toml"):
            Launcher.from_config(name)
