"""Prints the lower bounds of pyproject.toml as exact pins, for `pip install --constraint`.

Torch is left out: the Makefile pins it. The extras are left out too: they are tools, not what the package stands on.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirement: str) -> str:
    """`"fabric>=3.2; python_version < '4'"` → `"fabric==3.2; python_version < '4'"`."""
    pin, found = re.subn(r"^([\w.-]+)>=([\w.]+)", r"\1==\2", requirement)
    if not found:
        raise ValueError(f"{requirement!r} in {PYPROJECT.name} has no lower bound")
    return pin


def main() -> None:
    requirements: list[str] = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    for requirement in requirements:
        if not requirement.startswith("torch"):
            print(lowest(requirement))


if __name__ == "__main__":
    main()
