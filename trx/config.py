"""Settings in TOML files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file.

    Raises:
        FileNotFoundError: Where there is none.
        ValueError: Where it is not TOML.
    """
    try:
        settings: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return settings
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from error
