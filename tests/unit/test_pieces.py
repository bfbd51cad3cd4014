"""Bytes that have arrived, in memory or in a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trx.pieces import Received, Unreadable, in_file


def test_a_piece_in_a_file_is_poured_part_by_part(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before, the piece itself")
    target = bytearray(16)
    with in_file(str(tmp_path / "file"), 8, 16) as piece:
        piece.pour(memoryview(target)[:3])
        piece.pour(memoryview(target)[3:])
    assert target == b"the piece itself"


def test_a_piece_in_memory_is_poured_part_by_part() -> None:
    target = bytearray(5)
    piece = Received(memoryview(b"piece"))
    piece.pour(memoryview(target)[:2])
    piece.pour(memoryview(target)[2:])
    assert target == b"piece"


def test_a_file_that_is_cut_off_meanwhile_has_no_more_to_pour(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with in_file(str(tmp_path / "file"), 0, 10) as piece:
        os.truncate(tmp_path / "file", 4)
        with pytest.raises(ValueError, match="cut off"):
            piece.pour(memoryview(bytearray(10)))
        assert piece.read() == b""  # what it had has been poured already


@pytest.mark.parametrize("name", ["absent", ".", "a\0b"])
def test_a_file_that_cannot_be_opened_is_unreadable(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unreadable), in_file(str(tmp_path / name), 0, 1):
        pass
