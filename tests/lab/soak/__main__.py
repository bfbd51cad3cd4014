"""Plays seeds: `python -m tests.lab.soak 1-300 [--jobs 2]`; "17" is one, "3,8,100-120" some."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from ..harness import lab_unavailable
from .plan import make_plan
from .scene import play

_LONGEST = 900.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.soak", description=__doc__)
    parser.add_argument("seeds", nargs="?", default="1-50")
    parser.add_argument("--jobs", type=int, default=2, help="how many are played at the same time")
    parser.add_argument("--plans", action="store_true", help="only tell what the seeds mean")
    arguments = parser.parse_args()
    seeds = parse_seeds(arguments.seeds)
    if arguments.plans:
        print("\n".join(f"seed {seed}: {make_plan(seed)}" for seed in seeds))
        return 0
    if reason := lab_unavailable():
        print(reason)
        return 1
    return play_one(seeds[0]) if len(seeds) == 1 else play_many(seeds, arguments.jobs)


def parse_seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def play_one(seed: int) -> int:
    report = play(make_plan(seed))
    print(report, flush=True)
    return 1 if report.problems else 0


def play_many(seeds: list[int], jobs: int) -> int:
    """Each in a process of its own: a lab belongs to one, and what goes wrong in one does not reach the others."""
    begun = time.monotonic()
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        for seed, (status, printed) in zip(seeds, pool.map(_play_apart, seeds), strict=True):
            print(printed, end="", flush=True)
            if status:
                failed.append(seed)
    minutes = (time.monotonic() - begun) / 60
    print(f"{len(seeds) - len(failed)} of {len(seeds)} seeds passed in {minutes:.1f} minutes")
    if failed:
        print(f"failed: make soak SEEDS={','.join(map(str, failed))}")
    return 1 if failed else 0


def _play_apart(seed: int) -> tuple[int, str]:
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.lab.soak", str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_LONGEST,
        )
    except subprocess.TimeoutExpired as error:
        return 1, f"seed {seed}: FAILED: not over after {_LONGEST:.0f} s\n{error.stdout!r}\n"
    return ended.returncode, ended.stdout


if __name__ == "__main__":
    sys.exit(main())
