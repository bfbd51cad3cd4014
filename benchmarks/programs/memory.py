"""Peaks of memory, by the kernel's own counter."""

from __future__ import annotations

from pathlib import Path


def reset_peak(pid: int) -> None:
    """The peak is what is used now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> float:
    """The most memory that a process has had resident since `reset_peak`, in MB."""
    return _field(pid, "VmHWM")


def resident(pid: int) -> float:
    """The memory that a process has resident now, in MB."""
    return _field(pid, "VmRSS")


def _field(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))
