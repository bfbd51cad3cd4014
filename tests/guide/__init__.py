"""Runs the code blocks of the documentation.

Files, in the order in which they build on each other: `page` (what a page says is to be run, pure), `play` (runs it).
The tests are `tests/unit/test_guide_pages.py` (what needs no process), `tests/integration/test_guide.py` (pages that
run on this machine) and `tests/lab/test_guide.py` (pages that need hosts).
"""
