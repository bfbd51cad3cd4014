"""Which of the launcher's variables go to the workers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

DEFAULT_ENV_VARS: tuple[str, ...] = (
    "PATH",
    "LD_LIBRARY*",
    "LIBRARY_PATH",
    "PYTHON*",
    "CUDA*",
    "TORCH*",
    "PYTORCH*",
    "NCCL*",
    "GLOO*",
    "OMP_*",
)
"""Patterns of variables that are copied to the workers unless `default_env_vars` says otherwise."""

EnvVars = tuple[str, ...] | Sequence[str] | Mapping[str, str]
"""Patterns of variables, and variables as "NAME=VALUE"; or a mapping of variables to values.

A tuple is a sequence, of course; but tools that make command lines of types look for the type of the default.
"""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_patterns(setting: str, patterns: object) -> None:
    """Raises TypeError or ValueError where these are neither patterns nor variables."""
    if isinstance(patterns, str):
        raise TypeError(f"{setting} must be a list of patterns, such as [{patterns!r}], not a string")
    if isinstance(patterns, Mapping):
        for name, value in patterns.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"{setting} must map names to strings, not {name!r} to {value!r}")
    elif not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"{setting} must be a list of patterns, or map names to values, not {patterns!r}")
    for name, value in _values(patterns).items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise ValueError(f"{setting}: {name!r} cannot be an environment variable")


def select(environment: Mapping[str, str], *settings: EnvVars) -> dict[str, str]:
    """The variables that match a pattern; those that are given a value have it, the last one if there are several.

    Raises:
        ValueError: Where one of them is not text, and so cannot travel.
    """
    wanted = [pattern for each in settings if not isinstance(each, Mapping) for pattern in each]
    chosen = {
        name: value for name, value in environment.items() if any(fnmatchcase(name, pattern) for pattern in wanted)
    }
    for each in settings:
        chosen.update(_values(each))
    for name, value in chosen.items():
        if not is_text(name + value):
            raise ValueError(f"the environment variable {name!a} cannot be copied: it is not UTF-8")
    return chosen


def _values(setting: EnvVars) -> Mapping[str, str]:
    """The variables that are given a value; no pattern holds "=", as no name does."""
    if isinstance(setting, Mapping):
        return setting
    pairs = (entry.partition("=") for entry in setting if "=" in entry)
    return {name: value for name, _, value in pairs}


def is_text(value: str) -> bool:
    """Whether it is more than bytes that Python could not decode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
