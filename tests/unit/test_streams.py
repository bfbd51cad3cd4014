"""A file on its way to the launcher: its ranges, as far as there is credit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trx_agent.protocol.messages import CHUNK, CHUNK_IN_FILE, WINDOWS, Data, DataInFile, Kind, Stream
from trx_agent.streams import Outflow

MIB = 1 << 20


def sent(outflow: Outflow) -> list[tuple[int, bytes]]:
    """The offset and the bytes of each message that may be sent now."""
    found = []
    for message, body in outflow.news():
        assert isinstance(message, Data)
        found.append((message.offset, bytes(body)))
    return found


@pytest.mark.parametrize("kind", [Kind.STDOUT, Kind.VALUE])
def test_all_bytes_come_once_and_in_order(tmp_path: Path, kind: Kind) -> None:
    data = os.urandom(20 * MIB + 12345)
    (tmp_path / "file").write_bytes(data)
    outflow = Outflow(Stream(1, 0, kind), tmp_path / "file", local=False)
    received = b""
    while not outflow.drained:
        for offset, body in sent(outflow):
            assert offset == len(received)
            assert 0 < len(body) <= CHUNK
            received += body
            assert len(received) <= outflow._credit
        outflow.grant(len(received) + WINDOWS[kind])
    assert received == data
    outflow.close()


def test_news_end_where_the_file_ended_when_they_began(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 10)
    outflow = Outflow(Stream(1, 0, Kind.STDOUT), path, local=False)
    for _ in outflow.news():
        with path.open("ab") as file:
            file.write(b"b")  # else this would go on for ever
    assert outflow.offset == 10
    assert sent(outflow) == [(10, b"b")]


def test_a_file_that_is_cut_off_meanwhile_leaves_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * (CHUNK + 10))
    outflow = Outflow(Stream(1, 0, Kind.STDOUT), path, local=False)
    outflow.grant(4 * MIB)
    received = 0
    for message, body in outflow.news():
        assert isinstance(message, Data)
        assert message.offset == received
        received += len(body)
        os.truncate(path, CHUNK + 3)
    assert outflow.offset == received == CHUNK + 3
    os.truncate(path, 0)
    assert sent(outflow) == []


def test_credit_that_was_not_waited_for_is_no_reason_to_look(tmp_path: Path) -> None:
    path = tmp_path / "file"
    window = WINDOWS[Kind.STDOUT]
    path.write_bytes(b"a" * (window + 1))
    outflow = Outflow(Stream(1, 0, Kind.STDOUT), path, local=False)
    assert sum(len(body) for _, body in sent(outflow)) == window
    assert outflow.grant(2 * window)
    assert sent(outflow) == [(window, b"a")]
    assert not outflow.grant(2 * window + 1)


def test_a_local_launcher_is_told_of_ranges_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(9 * MIB)
    outflow = Outflow(Stream(1, 0, Kind.VALUE), path, local=True)
    news = list(outflow.news())
    assert [body for _, body in news] == [b"", b""]
    ranges = [(message.offset, message.size) for message, _ in news if isinstance(message, DataInFile)]
    assert ranges == [(0, CHUNK_IN_FILE), (CHUNK_IN_FILE, CHUNK_IN_FILE)]


def test_a_file_that_is_not_there_yet_has_no_news(tmp_path: Path) -> None:
    outflow = Outflow(Stream(1, 0, Kind.VALUE), tmp_path / "file", local=False)
    assert sent(outflow) == []
    assert outflow.drained
