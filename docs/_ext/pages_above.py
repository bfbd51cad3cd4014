"""Pages of the repository's root are pages of the site too: links to them lead to their copies."""

from __future__ import annotations

from sphinx.application import Sphinx

PAGES = {"../SECURITY.md": "security.md", "../CHANGELOG.md": "changelog.md", "../CONTRIBUTING.md": "contributing.md"}


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _lead_to_copies)
    return {"parallel_read_safe": True}


def _lead_to_copies(_: Sphinx, page: str, source: list[str]) -> None:
    up = "../" * page.count("/")
    for above, copy in PAGES.items():
        source[0] = source[0].replace(f"]({up}{above}", f"]({up}{copy}")
