"""Where the time went: marks, and the Chrome trace that is made of them."""

from __future__ import annotations

import json
from pathlib import Path

from trx.timeline import Moment, Recorder, Timeline


def recorded() -> Recorder:
    recorder = Recorder(now=100.0)
    recorder.mark(Moment.FORKED, 102.0, "node1")
    recorder.mark(Moment.AGENT_UP, 101.0, "node1")
    recorder.mark(Moment.LOADED, 102.5, "node1", rank=3)
    recorder.mark(Moment.CALLED, 104.0, "node1", rank=3)
    recorder.mark(Moment.FORKED, 103.0, "node2")
    return recorder


def test_marks_are_in_the_order_of_time_and_count_from_the_start() -> None:
    marks = recorded().timeline().marks
    assert [mark.seconds for mark in marks] == [1.0, 2.0, 2.5, 3.0, 4.0]
    assert marks[0].moment is Moment.AGENT_UP


def test_what_was_done_before_the_start_belongs_to_another_run() -> None:
    recorder = Recorder(now=100.0)
    recorder.mark(Moment.TORCH_IMPORTED, 99.0, "node1")
    assert recorder.timeline().marks == ()


def test_the_last_of_all_hosts_counts() -> None:
    timeline = recorded().timeline()
    assert timeline.last(Moment.FORKED) == 3.0
    assert timeline.last("function called") == 4.0
    assert timeline.last(Moment.ALL_GONE) is None


def test_printed_it_has_a_line_for_each_moment() -> None:
    assert str(recorded().timeline()).splitlines() == [
        "agent up         1.000 s        node1",
        "function loaded  2.500 s        rank 3 on node1",
        "workers forked   2.000–3.000 s  2 hosts, the last is node2",
        "function called  4.000 s        rank 3 on node1",
    ]
    assert str(Timeline()) == ""


def test_printed_it_is_as_long_for_many_workers() -> None:
    recorder = Recorder(now=0.0)
    for rank in reversed(range(64)):
        recorder.mark(Moment.CALLED, 9.9996 + rank / 1000, f"node{rank // 8 + 1}", rank)
        recorder.mark(Moment.ENDED, 20.0, f"node{rank // 8 + 1}", rank)
    assert str(recorder.timeline()).splitlines() == [
        "function called  10.000–10.063 s  64 ranks, the last is rank 63 on node8",
        "end reported     20.000 s         64 ranks, the last is rank 0 on node1",
    ]


def test_bars_of_the_trace_follow_each_other(tmp_path: Path) -> None:
    recorded().timeline().write_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    bars = {
        (event["name"], event["pid"], event["tid"]): (event["ts"], event["dur"]) for event in events if "ts" in event
    }
    assert bars["agent up", 0, 0] == (0.0, 1e6)
    assert bars["workers forked", 0, 0] == (1e6, 1e6)
    assert bars["function loaded", 0, 4] == (2e6, 0.5e6)
    assert bars["function called", 0, 4] == (2.5e6, 1.5e6)
    assert bars["workers forked", 1, 0] == (0.0, 3e6)
    assert [event["args"]["name"] for event in events if event["ph"] == "M"] == ["node1", "node2"]
