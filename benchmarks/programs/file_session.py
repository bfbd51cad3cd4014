"""Processes that print to files, nobody between them and the files: the floor of a flood of lines."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile

from benchmarks.programs import works
from benchmarks.programs.talk import serve, settings


def printing(path: str, count: int) -> float:
    """Prints to a file; returns the seconds that took."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper
    return works.lines(count)


def run(workers: int, count: int) -> dict[str, float]:
    """All at the same time; the slowest counts."""
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as directory,
        multiprocessing.Pool(workers, maxtasksperchild=1) as pool,
    ):
        paths = [(f"{directory}/{worker}", count) for worker in range(workers)]
        return {"printing": max(pool.starmap(printing, paths, chunksize=1))}


wanted = settings()
serve(lambda: run(wanted["workers"], wanted["arguments"][0]))
