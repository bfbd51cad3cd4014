"""What a page of the documentation says is to be run, and what that prints. Pure, but for reading the page.

A page's front matter has `runs`: `local` (on this machine), `lab` (hosts node1, node2, … are reachable by SSH) or
`slurm`. Of its fenced blocks,

- one whose first line, below a `#!`, is a comment with nothing but a file name (`# train.py`) is that file;
- all other `python` blocks are one script, from the top of the page to its bottom;
- `bash` blocks run one after the other, each by `bash -euo pipefail`, once that script has ended;
- an `output` block is what the block before it prints. `[...]` stands for anything within a line, or for any number of
  lines; process ids and the directories of absolute paths may differ, and some noise does not count. If it holds a
  traceback, the block before it must fail.

All of it happens in one directory.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.front_matter import front_matter_plugin

ROOT = Path(__file__).parents[2]
PLACES = ("local", "lab", "slurm")
IN_NO_FRONT_MATTER = {ROOT / "README.md": "lab"}
"""Where GitHub would show front matter to every reader."""

_NOISE = re.compile(r" *[~^]+|(?:  \| )?(?:\[rank\d+\]:)?\[W\d+ .*")
"""Python's markers below a line of code, and torch's warnings, such as that an address has no name."""

_FILE_NAME = re.compile(r"(?:#!.*\n)?# ([\w-]+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: The first word behind the fence.
        text: What is between the fences.
        line: Of the page, from 1: the first within the fences.
        output: What it prints, where the page says so.
    """

    language: str
    text: str
    line: int
    output: str | None = None

    @property
    def file_name(self) -> str | None:
        """The file that it is, if it is one."""
        found = _FILE_NAME.match(self.text)
        return found[1] if found else None

    @property
    def must_fail(self) -> bool:
        return "Traceback (most recent call last)" in (self.output or "")


@dataclass(frozen=True)
class Page:
    """A page, and all that it says is to be run."""

    path: Path
    runs: str | None
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        return os.path.relpath(self.path, ROOT)

    @property
    def files(self) -> dict[str, str]:
        return {block.file_name: block.text for block in self.blocks if block.file_name}

    @property
    def python(self) -> list[Block]:
        """The parts of the page's script."""
        return [block for block in self.blocks if block.language == "python" and not block.file_name]

    @property
    def bash(self) -> list[Block]:
        return [block for block in self.blocks if block.language == "bash" and not block.file_name]

    @cached_property
    def script(self) -> str:
        """The page's script: every line has the number that it has in the page.

        Where a block's closing fence is in the page, the script prints the block's `marker`.
        """
        lines: list[str] = []
        for block in self.python:
            lines += [""] * (block.line - 1 - len(lines))
            lines += [*block.text.splitlines(), f"print({marker(block)!r}, flush=True)"]
        return "\n".join(lines) + "\n"


def marker(block: Block) -> str:
    """A line by which is seen where the output of a block ends."""
    return f"---- the end of the block of line {block.line} ----"


def read(path: Path) -> Page:
    tokens = list(MarkdownIt("commonmark").use(front_matter_plugin).parse(path.read_text()))
    return Page(path, _runs(tokens) or IN_NO_FRONT_MATTER.get(path), tuple(_blocks(tokens)))


def _runs(tokens: list[Token]) -> str | None:
    matter = next((token.content for token in tokens if token.type == "front_matter"), "")
    found = re.search(r"^runs: *(\w+)$", matter, re.MULTILINE)
    return found[1] if found else None


def _blocks(tokens: list[Token]) -> Iterator[Block]:
    fences = [token for token in tokens if token.type == "fence"]
    for token, following in itertools.zip_longest(fences, fences[1:]):
        if _language(token) == "output":
            continue
        assert token.map is not None
        output = following.content if following and _language(following) == "output" else None
        yield Block(_language(token), token.content, token.map[0] + 2, output)


def _language(token: Token) -> str:
    return token.info.partition(" ")[0]


def all_pages() -> list[Page]:
    """Whatever is for users."""
    return [read(path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]


def pages_that_run(place: str) -> list[Page]:
    """Those with something to run."""
    return [page for page in all_pages() if page.runs == place and (page.python or page.bash)]


# ---- what is printed ------------------------------------------------------------------------------------------------


def prints(shown: str, printed: str) -> bool:
    """Whether something printed what a page shows."""
    lines = "".join(_pattern(line) for line in _what_counts(shown))
    return re.fullmatch(lines, "".join(f"{line}\n" for line in _what_counts(printed))) is not None


def _pattern(line: str) -> str:
    if line.strip() == "[...]":
        return r"(?:.*\n)*?"
    return ".*".join(re.escape(part) for part in line.split("[...]")) + r"\n"


def _what_counts(text: str) -> list[str]:
    text = re.sub(r"\bpid \d+", "pid 0", text)
    text = re.sub(r"(?<![\w.])(?:/[\w.@#+~-]+)+/(?=[\w.])", "/", text)
    lines = [line.rstrip() for line in text.strip().split("\n")]
    return [line for line in lines if not _NOISE.fullmatch(line)]
