"""The variables that a host's workers live in, as if they had been exported before Python started."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

from trx_agent.protocol.messages import Preparation

COOKIE = "TRX_LAUNCH"
"""Names the launch in the environment of every process below an agent, so that strays can be found in /proc."""


# The user's script comes on stdin, so that nothing of it is on a command line, and prints to stderr. What its last
# command returns does not matter, as with `source`; but a syntax error, or an `exit`, is an error.
_SCRIPT = 'script=$(cat); printf "%s" "$script" | "$0" -n || exit 2; set -a; eval "$script" </dev/null >&2; exec env -0'


class EnvFileError(Exception):
    """The user's `env_file` failed on this host."""


def compose(host: Mapping[str, str], preparation: Preparation, cookie: str, timeout: float = 60.0) -> dict[str, str]:
    """The host's own variables, those copied from the launcher, and those that `env_file` sets: the last one counts.

    Raises:
        EnvFileError: Where the script fails.
    """
    variables = {**host, **preparation.variables}
    if preparation.env_file:
        variables = _source(preparation.env_file, variables, timeout)
    return {**variables, COOKIE: cookie}


def for_workers(variables: Mapping[str, str], workers: int) -> dict[str, str]:
    """What the forkserver is executed with: as torchrun does, one thread for each of several workers."""
    return {"OMP_NUM_THREADS": "1", **variables} if workers > 1 else dict(variables)


def _source(text: str, variables: Mapping[str, str], timeout: float) -> dict[str, str]:
    """Runs `text` in a shell, all its assignments exported, and reads the variables that result."""
    shell = "bash" if _has("bash", variables) else "sh"
    process = subprocess.Popen(
        [shell, "-c", _SCRIPT, shell],
        env=dict(variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        exported, printed = process.communicate(text.encode(errors="surrogateescape"), timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise EnvFileError(f"env_file did not end within {timeout:.0f} s") from None
    if process.returncode:
        words = printed.decode(errors="replace").strip()[-2000:]
        raise EnvFileError(f"env_file ended with status {process.returncode}: {words}")
    pairs = (entry.split(b"=", 1) for entry in exported.split(b"\0") if b"=" in entry)
    found = {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}
    return {name: value for name, value in found.items() if name not in ("_", "script", "SHLVL")}


def _has(program: str, variables: Mapping[str, str]) -> bool:
    return shutil.which(program, path=variables.get("PATH", os.defpath)) is not None
