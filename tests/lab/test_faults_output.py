"""Workers that print more than anybody can read: failures still travel, memory stays bounded, no byte is lost."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .faults import SLACK, Launch, Measured, assert_clean, tree, worker_failure
from .harness import Host, Lab, wait_until

pytestmark = pytest.mark.timeout(180)

MOST_OF_THE_LAUNCHER = 250
MOST_OF_AN_AGENT = 150
"""MiB of memory."""

MOST_THAT_IS_KEPT = 32 << 20
"""Bytes on a host of what it has handed over."""

FLOODING = """
RATE = 80 << 20

def block(number):
    line = b"%012d" % number
    return (line + b"x" * (1023 - len(line)) + b"\\n") * 256

def flood():
    if os.environ["RANK"] in ("0", "1"):
        time.sleep(600)
    if os.environ["RANK"] == "3":
        await_go()
        note("raises")
        raise ValueError("in the middle of a flood")
    begun, number = time.monotonic(), 0
    while True:
        os.write(1, block(number))
        number += 1
        if number % 40 == 0:
            note("floods", blocks=number)
            time.sleep(max(0.0, begun + number * len(block(0)) / RATE - time.monotonic()))

def print_one_line():
    if os.environ["RANK"] == "1":
        for number in range(1 << 10):
            os.write(1, (b"%08d" % number) * (1 << 17))
        os.write(1, b"\\n")
        await_go()

def fine():
    return socket.gethostname()

def print_anything():
    import hashlib
    if os.environ["RANK"] == "0":
        return None
    digest, size = hashlib.sha256(), 0
    def write(data):
        nonlocal size
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(1, rest):]
        digest.update(data)
        size += len(data)
    write(b"NUL \\0, no UTF-8 \\xff\\xfe\\x80, \\r, an escape \\x1b[31m\\n")
    for number in range(100):
        write((b"%03d" % number) * ((1 << 20) // 3))
    write(b"\\n")
    for number in range(100):
        write(os.urandom(1 << 20))
    write(b"\\n" * 100 + b"the end, without a line end")
    note("wrote", size=size, digest=digest.hexdigest())
    await_go()
"""


def peak(pid: int) -> int:
    """The most memory that a process ever had, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def agent_of(launch: Launch, host: Host) -> int:
    return tree(host, launch.first("works", host=host.name)).agent


def assert_launcher_stayed_small(launch: Launch) -> None:
    peak_of_launcher = launch.first("closed")["peak"]
    print(f"the launcher took {peak_of_launcher} MiB")
    assert peak_of_launcher < MOST_OF_THE_LAUNCHER


def test_failure_travels_through_a_flood_that_needs_no_memory(two: Lab, measured: Measured) -> None:
    with Launch(two, FLOODING, ["flood", "fine"], workers_per_host=2) as launch:
        agent = agent_of(launch, two["node2"])  # of both, who floods and who fails
        wait_until(lambda: len(launch.notes("floods")) > 20, 40, "200 MiB were printed")
        launch.go()
        raised = launch.first("raised", within=60)
        raises = launch.first("raises")
        said = launch.heard("in the middle of a flood")
        measured("flood", "said", said - raises.at)
        measured("flood", "raised, all that was printed being written,", raised.at - raises.at)
        assert worker_failure(raised)["rank"] == 3
        assert not raised["held"]
        assert said - raises.at < 1.0 + SLACK
        assert raised.at - raises.at < 2.0 + 3 * SLACK  # what was printed is written first
        peak_of_agent = peak(agent)
        print(f"the agent took {peak_of_agent} MiB")
        assert peak_of_agent < MOST_OF_AN_AGENT
        assert_is_the_flood(launch.log("node2"), launch.notes("floods")[-1]["blocks"])
        assert launch.first("returned", function="fine")["values"] == ["node1", "node1", "node2", "node2"]
        assert_launcher_stayed_small(launch)
        assert_clean(launch)


def assert_is_the_flood(log: Path, blocks: int) -> None:
    """From its beginning, without a gap, and as far as it is known to have come."""
    print(f"{size(log) >> 20} MiB were written")
    assert size(log) >= blocks * 256 * 1024
    with log.open("rb") as file:
        number = 0
        while found := file.read(256 * 1024):
            line = b"%012d" % number
            assert found == ((line + b"x" * (1023 - len(line)) + b"\n") * 256)[: len(found)], f"block {number}"
            number += 1


def test_line_of_100_megabytes_and_bytes_that_are_no_text_arrive_as_they_are(two: Lab) -> None:
    with Launch(two, FLOODING, ["print_anything"], lease=60) as launch:
        agent = agent_of(launch, two["node2"])
        launch.process.send_signal(signal.SIGSTOP)  # nobody reads meanwhile
        wrote = launch.first("wrote", within=60)
        launch.process.send_signal(signal.SIGCONT)
        almost = wrote["size"] - (1 << 20)  # the end without a line end is held back
        wait_until(lambda: size(launch.log("node2")) > almost, 60, "nearly everything has arrived")
        peak_of_agent = peak(agent)
        print(f"the agent took {peak_of_agent} MiB")
        assert peak_of_agent < MOST_OF_AN_AGENT
        launch.go()
        launch.first("returned", within=60)
        assert size(launch.log("node2")) == wrote["size"]
        assert hashlib.sha256(launch.log("node2").read_bytes()).hexdigest() == wrote["digest"]
        assert_launcher_stayed_small(launch)
        assert_clean(launch)


def test_line_of_a_gigabyte_arrives_whole_and_needs_neither_memory_nor_room(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2, tmp_size="1200m")
    with Launch(lab, FLOODING, ["print_one_line"], lease=60) as launch:
        agent = agent_of(launch, lab["node2"])
        wait_until(lambda: size(launch.log("node2")) > 1 << 30, 90, "all of it has arrived")
        assert peak(agent) < MOST_OF_AN_AGENT
        (printed,) = Path(f"/proc/{lab['node2'].pid}/root/tmp").glob("trx-*/run-1/0/stdout")
        wait_until(lambda: printed.stat().st_blocks * 512 < MOST_THAT_IS_KEPT, 10, "the host has its room back")
        launch.go()
        launch.first("returned")
        with launch.log("node2").open("rb") as file:
            for number in range(1 << 10):
                assert file.read(1 << 20) == (b"%08d" % number) * (1 << 17)
            assert file.read() == b"\n"
        launch.log("node2").unlink()
        assert_launcher_stayed_small(launch)
        assert_clean(launch)
