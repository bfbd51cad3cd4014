"""What ``root.sh`` is to make of a machine's file system."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from .shell import HARNESS

FileSystem = Literal["shared", "cow"]

_CHECKOUT = HARNESS.parents[2]


def file_system(fs: FileSystem, keep: Iterable[Path], exchange: Iterable[Path]) -> dict[str, str]:
    """The environment of ``root.sh``.

    Args:
        fs: Shared by all, or a private copy-on-write view.
        keep: Directories that the machine must have (beside the interpreter's and the checkout).
        exchange: Directories that it shares with the real machine in any case.
    """
    wanted = dict.fromkeys([*keep, Path(sys.prefix), Path(sys.base_prefix), _CHECKOUT])
    missing = [path for path in wanted if _would_be_missing(path, fs)]
    if fs == "cow":
        copy, bind = missing, list(exchange)
    else:
        copy, bind = [], [*missing, *(path for path in exchange if _would_be_missing(path, fs))]
    return {"FS": fs, "COPY": "\n".join(map(str, copy)), "BIND": "\n".join(map(str, bind))}


def _would_be_missing(path: Path, fs: FileSystem) -> bool:
    """Whether a directory is hidden by what ``root.sh`` mounts, or lies beyond the root file system of a copy."""
    if path.is_relative_to("/tmp"):
        return True
    if fs == "shared":
        return False
    mount_points = {path, *path.parents} & _mount_points()
    return path.is_relative_to("/var/tmp") or mount_points != {Path("/")}


def _mount_points() -> set[Path]:
    return {Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()}
