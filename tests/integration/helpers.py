"""What the tests of real launches share. Worker functions may use it: it travels to them by value."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

cloudpickle.register_pickle_by_value(sys.modules[__name__])

Measured = Callable[[str, str, float], None]
"""The fixture `measured` (tests/conftest.py)."""

ROOT = Path(__file__).parents[2]


def travels_by_value(module: str) -> None:
    """Spares the workers the import of a test module, and of pytest with it."""
    cloudpickle.register_pickle_by_value(sys.modules[module])


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """A zombie is dead: it waits only for its parent."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if is_alive(pid)]


def with_cookie(cookie: str) -> list[int]:
    """Living processes that belong to a launch, by the variable that every process below its agents carries."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TRX_LAUNCH") == cookie and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def cookie() -> str:
    return os.environ["TRX_LAUNCH"]


def rank() -> int:
    return int(os.environ["RANK"])


def lineage() -> list[int]:
    """Of a worker: its own pid and those above: runner, forkserver, agent, guardian, launcher, ..."""
    return [os.getpid(), *(parent.pid for parent in psutil.Process().parents())]


def on_rank(chosen: int, action: Callable[[], Any]) -> Callable[[], Any]:
    """A function that does something on one rank, while the others sleep for as long as a test may last."""

    def function() -> Any:
        if rank() == chosen:
            return action()
        time.sleep(60)
        return None

    return function


def signal_file(path: Path) -> None:
    """Makes a file which another process waits for by `Path.exists`; it is whole when it appears."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.touch()
    part.rename(path)


def log_files(base: Path) -> dict[str, Path]:
    """The files of the one launch that logged below `base`, by name."""
    (directory,) = base.iterdir()
    return {path.name: path for path in directory.iterdir()}


class Script:
    """A user's script, run by the interpreter of the tests.

    Args:
        directory: Where it lies and runs.
        source: Its text.
        popen: For `subprocess.Popen`.
    """

    def __init__(self, directory: Path, source: str, **popen: Any) -> None:
        path = directory / "user_script.py"
        path.write_text(source)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "agent")])}
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **popen}
        self.process = subprocess.Popen([sys.executable, str(path)], cwd=directory, env=environment, **settings)

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ends(self, timeout: float = 50.0) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, _text(out), _text(err)


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


def run_script(directory: Path, source: str) -> str:
    """Runs a script that must succeed, and returns its stdout."""
    with Script(directory, source) as script:
        status, out, err = script.ends()
    assert status == 0, err
    return out
