"""A flood of printed lines, which must all be in the files in the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import Bench, Sessions
from benchmarks.shape import Contestant, Row, Sample, at_least_times, at_most, at_most_times

_WORKERS = 2
_LINES, _QUICK_LINES = 1_000_000, 50_000


@contextmanager
def _contestants(bench: Bench) -> Iterator[Sequence[Contestant]]:
    count = _QUICK_LINES if bench.quick else _LINES
    # Whoever shows lines shows them in a file: a terminal would be this process, which competes for the cores.
    terminal = str(bench.scratch / "terminal")
    work = {"work": "lines", "arguments": [count], "workers": _WORKERS, "terminal": terminal}
    logs = bench.scratch / "logs"
    with Sessions() as sessions:

        def flood(name: str, program: str, peer: str | None = None) -> Sample:
            before = _count_lines(logs)  # an open `Launcher` goes on writing to the files that it has
            answer = sessions.ask(bench.argv(program, peer, settings={**work, "log_dir": str(logs)}))
            lost = _WORKERS * count - (_count_lines(logs) - before)
            rate = _WORKERS * count / answer["seconds"]
            return {name: rate, f"{name}: lines lost": lost, f"{name}: printing": answer["printing"]}

        def to_a_file() -> Sample:
            seconds = sessions.ask(bench.argv("file_session", settings=work))["printing"]
            return {"a file": _WORKERS * count / seconds, "a file: printing": seconds}

        yield [
            Contestant("trx", lambda: flood("trx", "trx_session")),
            Contestant("torchrunx", lambda: flood("torchrunx", "torchrunx_session", "torchrunx"), "torchrunx", 2),
            Contestant("a file", to_a_file),
        ]


def _count_lines(directory: Path) -> int:
    """Lines of the work, whatever stands before them; a line that is cut does not count."""
    count = 0
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                count += sum(line.rstrip().endswith(b"x" * 51) for line in file)
    return count


ROWS = [
    Row(
        name="lines",
        title=f"{_WORKERS} × {_LINES:,} printed lines of 60 bytes, to files",
        unit="lines/s",
        aims=[
            at_most(0, "lines", "trx: lines lost"),
            at_least_times(20, "torchrunx"),
            at_most_times(1.1, "a file: printing", "trx: printing"),
        ],
        contestants=_contestants,
        rounds=3,
        quick_rounds=1,
        fewer_is_better=False,
        floor=frozenset({"a file"}),
        if_missed="no line arrives before it is printed, which takes as long as it does to a file",
        units={
            "trx: lines lost": "lines",
            "torchrunx: lines lost": "lines",
            "trx: printing": "s",
            "torchrunx: printing": "s",
            "a file: printing": "s",
        },
    )
]
