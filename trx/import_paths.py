"""Where workers look for modules first: beside the user's script, and wherever else the launcher was told to look."""

from __future__ import annotations

import os
import site
import sysconfig
from collections.abc import Sequence

_OF_THE_INTERPRETER = ("stdlib", "platstdlib", "purelib", "platlib")


def import_paths(paths: Sequence[str]) -> tuple[str, ...]:
    """The entries of a `sys.path` that do not belong to the interpreter: hosts have interpreters of their own.

    They are made absolute; their order is kept.
    """
    folders = [sysconfig.get_path(name) for name in _OF_THE_INTERPRETER] + [site.getusersitepackages()]
    archive = f"python{sysconfig.get_python_version().replace('.', '')}.zip"
    return tuple(
        absolute
        for absolute in (os.path.abspath(path) for path in paths)
        if os.path.basename(absolute) != archive and not any(_is_in(absolute, folder) for folder in folders)
    )


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)
