"""The one command that ever stands on a remote command line, and the text that goes down its stdin first.

Everything that differs from launch to launch (environment, interpreter, keys, addresses) goes down stdin: nothing of it
is seen in the host's process list, and no quoting of any shell can go wrong. The command itself is read by whatever
login shell the user has there, so it holds nothing but what bash, dash, fish, csh and tcsh read alike: one word in
single quotes, without backslashes, exclamation marks or newlines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from trx.hosts.local import INTERPRETER_ARGUMENTS

# `read` takes single bytes off a pipe, and so does the interpreter's FileIO: neither eats what its successor needs.
_OPTION, _LOADER = INTERPRETER_ARGUMENTS
_SCRIPT = (
    'while IFS= read -r line && [ -n "$line" ]; do export "$line"; done; '
    "IFS= read -r python && unset line && cd / && "
    f'exec "$python" {_OPTION} "{_LOADER}"'
)

WORDS = ("sh", "-c", _SCRIPT)
"""A command that exports what the prelude says, and becomes its interpreter, which executes the line that follows."""

COMMAND = f"exec sh -c '{_SCRIPT}'"
"""The same, as sshd has a login shell run it."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def prelude(python: str, environment: Mapping[str, str]) -> bytes:
    """What `COMMAND` reads before it becomes the interpreter.

    Args:
        python: The interpreter's path, absolute or to be found along the host's `PATH`.
        environment: What the interpreter itself needs in order to start (`LD_LIBRARY_PATH`, `PYTHONHOME`, ...).

    Raises:
        ValueError: Where a name is no variable's name, or something holds a newline or a NUL.
    """
    for name, value in environment.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an environment variable")
        if "\n" in value or "\0" in value:
            raise ValueError(f"the environment variable {name} must not contain a newline or a NUL")
    if not python or "\n" in python or "\0" in python:
        raise ValueError(f"{python!r} is not the path of an interpreter")
    lines = [f"{name}={value}" for name, value in environment.items()]
    return os.fsencode("\n".join([*lines, "", python, ""]))
