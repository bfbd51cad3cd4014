"""Environments of the peers, each of its own, below a directory that git ignores."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parents[1] / ".venv-bench"
_TORCH = "torch==2.13.0"
_LONGEST = 900.0


@dataclass(frozen=True)
class Peer:
    """Somebody whom users might pick instead.

    Attributes:
        name: Of the environment.
        requirement: What pip installs.
        module: What must be importable afterwards.
    """

    name: str
    requirement: str
    module: str


PEERS = {
    peer.name: peer
    for peer in (
        Peer("torchrunx", "torchrunx>=0.4,<0.5", "torchrunx"),
        Peer("ray", "ray[train]>=2.40", "ray.train.torch"),
        Peer("monarch", "torchmonarch>=0.1", "monarch.actor"),
    )
}


class Missing(RuntimeError):
    """A peer cannot be installed here; the message says why."""


def python(name: str) -> Path:
    """The interpreter of a peer's environment, whether it is there or not."""
    return HOME / name / "bin" / "python"


def version(name: str) -> str:
    """What pip calls the version of the peer."""
    package = PEERS[name].requirement.partition("[")[0].partition(">")[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python(name), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def install(name: str) -> None:
    """Makes a peer's environment, once.

    Raises:
        Missing: It cannot be made; that is remembered, until `.venv-bench/<name>.missing` is removed.
    """
    peer = PEERS[name]
    remembered = HOME / f"{name}.missing"
    if remembered.exists():
        raise Missing(remembered.read_text().strip())
    ready = HOME / name / "ready"
    if ready.exists():
        return
    try:
        _make(peer)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = _reason(error)
        remembered.write_text(f"{reason}\n")
        raise Missing(reason) from error
    ready.touch()


def _make(peer: Peer) -> None:
    """torch first, and held by a constraint, so that the peer pulls no other build."""
    print(f"installing {peer.name} (once)", flush=True)
    HOME.mkdir(exist_ok=True)
    _run([sys.executable, "-m", "venv", str(HOME / peer.name)])
    pip = [str(python(peer.name)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, _TORCH])
    constraints = HOME / f"{peer.name}.constraints"
    constraints.write_text(f"{_TORCH}\n")
    _run([*pip, "--constraint", str(constraints), _TORCH, peer.requirement])
    _run([str(python(peer.name)), "-W", "ignore", "-c", f"import {peer.module}"])


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=_LONGEST, stdin=subprocess.DEVNULL)


def _reason(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"its installation took more than {_LONGEST:.0f} s"
    lines = [line for line in str(error.stderr).splitlines() if line.strip() and not line.startswith("WARNING")]
    return (lines[-1] if lines else f"its installation ended with status {error.returncode}")[:200]
