"""The end of what a worker printed, as errors show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trx_agent.streams import last_lines

CRASH = ["Fatal Python error: Segmentation fault", *(f"  frame {number}" for number in range(50))]


def end_of(file: Path, text: str) -> list[str]:
    file.write_bytes(text.encode())
    return last_lines([file]).splitlines()


@pytest.mark.parametrize("text", ["", "one", "one\n", "one\n\ntwo\n", "one\r\ntwo\r\n"])
def test_lines_are_shown_as_they_are(tmp_path: Path, text: str) -> None:
    assert end_of(tmp_path / "stdout", text) == text.splitlines()


def test_of_many_lines_the_last_are_shown(tmp_path: Path) -> None:
    assert end_of(tmp_path / "stdout", "".join(f"{number}\n" for number in range(10_000))) == [
        str(number) for number in range(9_992, 10_000)
    ]


def test_a_progress_bar_is_one_line_and_does_not_drive_out_what_was_printed_before(tmp_path: Path) -> None:
    bar = "".join(f"\rstep {number}" for number in range(100))
    assert end_of(tmp_path / "stderr", f"the cause\n{bar}\n{bar}") == ["the cause", "step 99", "step 99"]


@pytest.mark.parametrize("before", ["", "earlier\n", "earlier\n\rstep 1\rstep 2"])
def test_the_innermost_frames_of_a_crash_are_shown_after_a_progress_bar_too(tmp_path: Path, before: str) -> None:
    shown = end_of(tmp_path / "stderr", before + "\n".join(CRASH) + "\n")
    first = next(number for number, line in enumerate(shown) if CRASH[0] in line)
    assert shown[first + 1 :] == CRASH[1:8]
    assert "earlier" in shown or not before


def test_a_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert last_lines([tmp_path / "stdout"]) == ""
