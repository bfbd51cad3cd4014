"""Settings in TOML files."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from trx.checks import is_hostfile

_FILES = ("env_file", "ssh_config_file")
"""Settings that name files of the launcher's."""


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file. Relative paths in it become absolute, so that it means the same wherever the launcher is started.

    Raises:
        FileNotFoundError: Where there is none.
        ValueError: Where it is not TOML.
    """
    file = Path(path).expanduser()
    try:
        settings: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    folder = file.absolute().parent
    for name in ("hostnames", *_FILES):
        value = settings.get(name)
        if isinstance(value, str) and (name in _FILES or is_hostfile(value, folder)):
            settings[name] = str(folder / Path(value).expanduser())
    return settings
