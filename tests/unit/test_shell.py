"""The remote command line: every login shell must read it alike, and nothing may get into it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trx.hosts.shell import command, prelude

LOGIN_SHELLS = ("bash", "dash", "zsh", "mksh", "csh", "tcsh", "fish")
AWKWARD = "  a\\n 'b' \"c\" $(touch /dev/null) `id` é = !! ; "
TELL = b"import os, sys; print(ascii(os.environ.get('TRX_A')), os.getcwd(), sys.stdin.buffer.read())\n"
REST = b"the rest\nto the end"


def login(shell: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    # as sshd does it
    return subprocess.run([shell, "-c", command()], input=text, capture_output=True, timeout=20, check=False)


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_interpreter_gets_its_environment_and_the_rest_of_stdin(shell: str) -> None:
    text = prelude(sys.executable, {"TRX_A": AWKWARD, "TRX_B": ""})
    done = login(shell, text + TELL + REST)
    assert done.stdout.decode() == f"{AWKWARD!a} / {REST!r}\n"
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_missing_interpreter_ends_with_127(shell: str) -> None:
    assert login(shell, prelude("/no/such/python", {}) + TELL).returncode == 127


def test_interpreter_that_may_not_be_executed_ends_with_126(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("")
    assert login("bash", prelude(str(tmp_path / "python"), {}) + TELL).returncode == 126


def test_interpreter_is_found_along_the_path() -> None:
    assert login("bash", prelude("true", {})).returncode == 0


@pytest.mark.parametrize("text", [b"", b"A=b\n", b"A=b\n\n"])
def test_connection_lost_in_between_starts_nothing(text: bytes) -> None:
    done = login("bash", text)
    assert done.returncode != 0
    assert done.stdout == b""


def test_command_is_quoted_words_that_all_shells_read_alike() -> None:
    before, choice, between, script, after = command().split("'")
    assert (before, between, after) == ("exec sh -c ", " ", "")
    assert not set("\\!\n") & set(choice + script)


def test_shell_ends_whose_launcher_was_cut_off_after_the_login() -> None:
    text = prelude("/bin/true", {"TRX_A": "b"})
    for said in ("", "TRX_A=b\n", "TRX_A=b\n\n", "TRX_A=b\n\n/bin/tr"):
        assert text.decode().startswith(said)
        with patient(1) as process:
            assert process.stdin is not None
            process.stdin.write(said.encode())
            assert process.wait(20) not in (0, None), said  # though its stdin is open


def test_shell_waits_for_each_line() -> None:
    with patient(3) as process:
        assert process.stdin is not None
        for line in prelude(sys.executable, {"TRX_A": "b", "TRX_B": "c"}).splitlines(keepends=True):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)  # four times, so longer than its patience
            process.stdin.write(line)
        process.stdin.write(b"print(1)\n")
        assert process.wait(20) == 0


def test_shell_without_bash_does_its_work_too(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/dash")
    assert shutil.which("bash", path=str(tmp_path)) is None
    text = prelude(sys.executable, {"TRX_A": "b"}) + b"import os; print(os.environ['TRX_A'])\n"
    done = subprocess.run(
        ["/bin/dash", "-c", command()],
        input=text,
        capture_output=True,
        timeout=20,
        check=False,
        env={"PATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"b\n", b"")


@contextmanager
def patient(seconds: int) -> Iterator[subprocess.Popen[bytes]]:
    """What sshd has started, with a stdin that stays open."""
    with subprocess.Popen(
        ["sh", "-c", command(seconds)],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_prelude_is_read_line_by_line() -> None:
    assert prelude("/opt/python", {"PYTHONPATH": "/a:/b", "X": ""}) == b"PYTHONPATH=/a:/b\nX=\n\n/opt/python\n"
    assert prelude("python3", {}) == b"\npython3\n"


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "A;id", "A\n", "É", "-x", "A\0"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        prelude("/opt/python", {name: "value"})


@pytest.mark.parametrize("value", ["a\nb", "a\0b", "\n"])
def test_values_of_several_lines_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="TRX_A must not contain"):
        prelude("/opt/python", {"TRX_A": value})


@pytest.mark.parametrize("python", ["", "/a\nb", "/a\0b"])
def test_what_is_no_path_is_refused(python: str) -> None:
    with pytest.raises(ValueError, match="not the path"):
        prelude(python, {})
