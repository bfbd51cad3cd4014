"""What workers do in the measurements. These functions travel by value: no host needs this file."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

PIECES = 8
LINE = "x" * 59


def nothing() -> None:
    """The work of most rows."""


def killed(path: str) -> None:
    """Rank 1 says when it is, and dies; rank 0 is busy."""
    if os.environ["RANK"] != "1":
        time.sleep(60)
    with open(path, "w") as file:
        file.write(str(time.monotonic()))
    os.kill(os.getpid(), signal.SIGKILL)


def state_dict(megabytes: int) -> dict[str, Any]:
    """A model's worth of tensors, in pieces."""
    import torch

    numbers = megabytes * 2**20 // 4 // PIECES
    return {f"layer{piece}": torch.full((numbers,), float(piece)) for piece in range(PIECES)}


def made(megabytes: int) -> None:
    """Rank 0 makes what `returned` returns, and keeps it."""
    if os.environ["RANK"] == "0":
        state_dict(megabytes)


def returned(megabytes: int) -> dict[str, Any] | None:
    """Rank 0 returns a model's worth of tensors."""
    return state_dict(megabytes) if os.environ["RANK"] == "0" else None


def received(state: dict[str, Any]) -> float:
    """Looks at one number of each piece of the argument."""
    return sum(float(tensor[-1]) for tensor in state.values())


def lines(count: int) -> float:
    """Prints lines of 60 bytes; returns the seconds that took."""
    began = time.perf_counter()
    for number in range(count):
        print(f"{number:08d}{LINE[8:]}")
    sys.stdout.flush()
    return time.perf_counter() - began


def idle(seconds: float) -> None:
    """Sleeps."""
    time.sleep(seconds)


def work(settings: dict[str, Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function that the driver named, and its arguments."""
    name = settings.get("work", "nothing")
    function: Callable[..., Any] = globals()[name]
    if name == "returned":
        import torch  # noqa: F401  # as in the scripts of those who expect tensors: its import is not what is measured
    if name == "received":
        return function, (state_dict(settings["arguments"][0]),)
    return function, tuple(settings.get("arguments", ()))
