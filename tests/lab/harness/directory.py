"""Where labs keep their files, and how the remains of killed ones are removed."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import IO

from .cgroups import CgroupRoots, remove_stale_cgroups

PARENT = Path("/var/tmp").resolve()
_PREFIX = "trx-lab-"


def make_directory(roots: CgroupRoots) -> tuple[Path, IO[str]]:
    """Makes a lab's directory, after removing those of dead labs.

    Returns:
        Its path, and an open file that marks the lab as alive until it is closed.
    """
    with (PARENT / f"{_PREFIX}lock").open("w") as births:
        fcntl.flock(births, fcntl.LOCK_EX)  # so that nobody sweeps a directory that is not locked yet
        _sweep(roots)
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=PARENT))
        alive = (directory / "lock").open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
    directory.chmod(0o755)
    return directory, alive


def _sweep(roots: CgroupRoots) -> None:
    """Removes what labs left whose process was killed; their processes have ended by themselves."""
    for directory in PARENT.glob(f"{_PREFIX}*/"):
        try:
            lock = (directory / "lock").open()
        except OSError:
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            remove_stale_cgroups(roots, directory.name)
            shutil.rmtree(directory, ignore_errors=True)
