"""Where the time of a launch goes: who had done what by when. Pure, but for writing the trace to a file."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class Moment(enum.StrEnum):
    """What is done in a launch, in this order. Each is equal to its text: "agent up", "function called"."""

    CONNECTED = "connected"
    AGENT_UP = "agent up"
    TORCH_IMPORTED = "torch imported"
    ORDERED = "workers ordered"
    FORKED = "workers forked"
    LOADED = "function loaded"
    JOINED = "group joined"
    CALLED = "function called"
    WRITTEN = "outcome written"
    ENDED = "end reported"
    OUTCOME_IN = "outcome in"
    ALL_GONE = "all gone"


@dataclass(frozen=True)
class Mark:
    """One moment of one host, or of one worker.

    Attributes:
        moment: What was done.
        seconds: By when, since the launch, or this run of an open launcher, began; by the launcher's clock.
        hostname: The host's label: its name, numbered where it is named twice.
        rank: The worker's, or None where it is the host's doing.
    """

    moment: Moment
    seconds: float
    hostname: str
    rank: int | None = None


@dataclass(frozen=True)
class Timeline:
    """Who had done what by when, in one run.

    Attributes:
        marks: In the order of time.
    """

    marks: tuple[Mark, ...] = ()

    def __str__(self) -> str:
        """A line for each moment: when the first and when the last host or rank had done it, and which was the last.

        The last one counts for the order, since it is the one that the others wait for.
        """
        moments: dict[Moment, list[Mark]] = {}
        for mark in self.marks:
            moments.setdefault(mark.moment, []).append(mark)
        in_order = sorted(moments.values(), key=lambda marks: marks[-1].seconds)
        lines = [(marks[-1].moment.value, _times(marks), _who(marks)) for marks in in_order]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:2]
        return "\n".join(f"{what:{widths[0]}}  {when:{widths[1]}}  {who}" for what, when, who in lines)

    def last(self, moment: Moment | str) -> float | None:
        """By when the last host, or the last rank, had done something.

        Args:
            moment: What, as a `Moment` or its text.

        Returns:
            Seconds since the beginning; None where nobody did.
        """
        return max((mark.seconds for mark in self.marks if mark.moment == moment), default=None)

    def chrome_trace(self) -> dict[str, object]:
        """The marks in the Trace Event Format, which ui.perfetto.dev and chrome://tracing show.

        Each host is a process, each rank a thread of it; a bar ends where something was done, and bears its name.
        """
        events: list[dict[str, object]] = []
        hosts = list(dict.fromkeys(mark.hostname for mark in self.marks))
        before: dict[tuple[str, int | None], float] = {}
        for mark in self.marks:
            row = (mark.hostname, mark.rank)
            start = before.get(row, self._forked(mark) if mark.rank is not None else 0.0)
            before[row] = mark.seconds
            place = {"pid": hosts.index(mark.hostname), "tid": 0 if mark.rank is None else mark.rank + 1}
            span = {"ts": start * 1e6, "dur": max(0.0, mark.seconds - start) * 1e6}
            events.append({"name": mark.moment.value, "ph": "X", **span, **place})
        names = [
            {"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": host}}
            for number, host in enumerate(hosts)
        ]
        return {"traceEvents": names + events, "displayTimeUnit": "ms"}

    def write_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes `chrome_trace` to a JSON file."""
        Path(path).write_text(json.dumps(self.chrome_trace()))

    def _forked(self, worker: Mark) -> float:
        """When a worker's own time began."""
        of_host = (mark for mark in self.marks if mark.hostname == worker.hostname and mark.rank is None)
        return next((mark.seconds for mark in of_host if mark.moment is Moment.FORKED), 0.0)


class Recorder:
    """Collects marks while a run goes on."""

    def __init__(self, now: float) -> None:
        self._start = now
        self._marks: list[Mark] = []

    def mark(self, moment: Moment, now: float, hostname: str, rank: int | None = None) -> None:
        if now >= self._start:  # a forkserver's import of torch may belong to an earlier run
            self._marks.append(Mark(moment, now - self._start, hostname, rank))

    def timeline(self) -> Timeline:
        return Timeline(tuple(sorted(self._marks, key=_by_time)))


def _times(marks: Sequence[Mark]) -> str:
    first, last = (f"{mark.seconds:.3f}" for mark in (marks[0], marks[-1]))
    return f"{first} s" if first == last else f"{first}–{last} s"


def _who(marks: Sequence[Mark]) -> str:
    last = marks[-1]
    name = last.hostname if last.rank is None else f"rank {last.rank} on {last.hostname}"
    kind = "hosts" if last.rank is None else "ranks"
    return name if len(marks) == 1 else f"{len(marks)} {kind}, the last is {name}"


def _by_time(mark: Mark) -> tuple[float, int]:
    return mark.seconds, list(Moment).index(mark.moment)
