"""The directive `settings-table`: all settings of `trx.Launcher`, as its docstring has them, with their defaults."""

from __future__ import annotations

import dataclasses
import inspect
import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import trx


class SettingsTable(SphinxDirective):
    """A table with a row for each setting."""

    def run(self) -> list[nodes.Node]:
        lines = ["| setting | default | what it is |", "|---|---|---|"]
        lines += [f"| {' | '.join(cells)} |" for cells in _settings()]
        return self.parse_text_to_nodes("\n".join(lines))  # as what the page is written in: Markdown


def _settings() -> list[tuple[str, str, str]]:
    meanings = _meanings()
    return [
        (f"`{field.name}`", _default(field.default), meanings[field.name])
        for field in dataclasses.fields(trx.Launcher)
        if field.init
    ]


def _default(value: object) -> str:
    if isinstance(value, str):
        return f'`"{value}"`'
    return "`trx.DEFAULT_ENV_VARS`" if value is trx.DEFAULT_ENV_VARS else f"`{value!r}`"


def _meanings() -> dict[str, str]:
    """What the docstring says of each attribute."""
    docstring = inspect.getdoc(trx.Launcher) or ""
    attributes = docstring.partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("settings-table", SettingsTable)
    return {"parallel_read_safe": True}
