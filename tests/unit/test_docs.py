"""What the documentation lists is what there is: messages and their fields, modules, settings, names and paths."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
from markdown_it import MarkdownIt

import trx
from trx_agent.protocol import bootstrap, messages, outcome, records

ROOT = Path(__file__).parents[2]
SOURCES = ("trx", "agent/trx_agent")
README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BASES = {messages.Message, bootstrap.Status}
"""Classes that never travel themselves."""


def structures(module: ModuleType) -> list[type[msgspec.Struct]]:
    classes = [each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__]
    return [each for each in classes if issubclass(each, msgspec.Struct) and each not in BASES]


def rows(page: Path) -> Iterator[list[str]]:
    """The cells of every table row."""
    for line in page.read_text().splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def modules() -> list[str]:
    return [str(path.relative_to(ROOT)) for source in SOURCES for path in sorted((ROOT / source).rglob("*.py"))]


@pytest.mark.parametrize(
    "structure",
    [each for module in (messages, bootstrap, outcome, records) for each in structures(module)],
    ids=lambda structure: structure.__name__,
)
def test_the_protocol_page_describes_each_structure_with_its_fields(structure: type[msgspec.Struct]):
    described = [cells for cells in rows(ROOT / "docs/protocol.md") if cells[0] == f"`{structure.__name__}`"]
    assert len(described) == 1, f"{structure.__name__} needs one row in docs/protocol.md"
    missing = [field for field in structure.__struct_fields__ if f"`{field}`" not in described[0][1]]
    assert not missing, f"docs/protocol.md does not name these fields of {structure.__name__}"


def test_the_protocol_page_names_each_kind_of_stream_and_the_version():
    text = (ROOT / "docs/protocol.md").read_text()
    assert [kind.value for kind in messages.Kind if f"`{kind.value}`" not in text] == []
    assert f"`messages.VERSION` is {messages.VERSION}." in text


def test_the_architecture_page_names_each_module_once():
    named = [cells[0].strip("`") for cells in rows(ROOT / "docs/architecture.md") if cells[0].endswith(".py`")]
    assert sorted(named) == sorted(modules())


def test_the_readme_lists_the_settings_with_their_defaults():
    listed = {cells[0].strip("`"): cells[1].strip("`") for cells in rows(README) if re.fullmatch(r"`\w+`", cells[0])}
    there_are = {field.name: field.default for field in dataclasses.fields(trx.Launcher) if field.init}
    assert list(listed) == list(there_are)
    defaults = {name: trx.DEFAULT_ENV_VARS if "." in text else ast.literal_eval(text) for name, text in listed.items()}
    assert defaults == there_are


def test_the_api_page_has_every_public_name():
    listed = re.findall(r"^\.\. auto\w+:: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert {name.rpartition(".")[2] for name in listed} >= set(trx.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_the_documentation_can_be_compiled(page: Path):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_the_documentation_names_exist(page: Path):
    text = page.read_text()
    named = re.findall(r"`((?:trx|agent|tests|tools|examples|docs|configs)/[\w./-]*)`", text)
    made = "docs/_build/"  # by `make docs`
    missing = [name for name in named if not (ROOT / name).exists() and not name.startswith(made)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    """To files and folders that there are, and to headings that they have."""
    inline = [child for token in MarkdownIt().enable("table").parse(page.read_text()) for child in token.children or ()]
    links = [str(token.attrs["href"]) for token in inline if token.type == "link_open"]
    nowhere = []
    for link in links:
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if ":" not in link and not (target.exists() and (not heading or heading in headings(target))):
            nowhere.append(link)
    assert not nowhere


def headings(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    tokens = MarkdownIt().parse(page.read_text())
    texts = [text.content for heading, text in pairwise(tokens) if heading.type == "heading_open"]
    return [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_methods_that_the_documentation_names_exist(page: Path):
    """`Class.name` and `module.name`, where the class or module is one of trx's."""
    known: dict[str, set[str]] = {}
    for path in map(Path, modules()):
        tree = ast.parse((ROOT / path).read_text())
        known.setdefault(path.stem, set()).update(_names(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                known.setdefault(node.name, set()).update(_names(node))
    quoted = re.findall(r"`(\w+)\.(\w+)(?:\([^`]*)?`", page.read_text())
    ours = [(owner, name) for owner, name in quoted if owner in known and name not in ("py", "log")]
    missing = [f"{owner}.{name}" for owner, name in ours if name not in known[owner]]
    assert not missing


def _names(scope: ast.AST) -> set[str]:
    """What is defined in a module or class, attributes of `self` included."""
    found = set()
    for node in ast.walk(scope):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found
