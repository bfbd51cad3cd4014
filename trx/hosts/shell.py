"""The one command that ever stands on a remote command line, and the text that goes down its stdin first.

Everything that differs from launch to launch (environment, interpreter, keys, addresses) goes down stdin: nothing of it
is seen in the host's process list, and no quoting of any shell can go wrong. The command itself is read by whatever
login shell the user has there, so it holds nothing but what bash, dash, fish, csh and tcsh read alike: words in
single quotes, without backslashes, exclamation marks or newlines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from trx.hosts.local import INTERPRETER_ARGUMENTS
from trx_agent.protocol.bootstrap import FIRST_WORD

# `read` takes single bytes off a pipe, and so does the interpreter's FileIO: neither eats what its successor needs.
_OPTION, _LOADER = INTERPRETER_ARGUMENTS
_SCRIPT = (
    'while IFS= read $1 -r line || exit; [ -n "$line" ]; do export "$line"; done; '
    "IFS= read $1 -r python && unset line && cd / && "
    f'exec "$python" {_OPTION} "{_LOADER}"'
)

# A host may be cut off just after the login, and never see the end of its stdin. bash has a deadline for that, not each
# sh has. Its own start-up files are none of our business: the login shell has read them.
_BEST_SHELL = (
    'command -v bash >/dev/null && exec bash --norc --posix -c "$0" bash "-t {patience}"; exec sh -c "$0" sh ""'
)


def words(patience: int = FIRST_WORD) -> tuple[str, ...]:
    """A command that exports what the prelude says, and becomes its interpreter, which executes the line that follows.

    Args:
        patience: Seconds that it waits for each line.
    """
    return "sh", "-c", _BEST_SHELL.format(patience=patience), _SCRIPT


def command(patience: int = FIRST_WORD) -> str:
    """The same, as sshd has a login shell run it."""
    *plain, choice, script = words(patience)
    return f"exec {' '.join(plain)} '{choice}' '{script}'"


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def prelude(python: str, environment: Mapping[str, str]) -> bytes:
    """What `command` reads before it becomes the interpreter.

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
