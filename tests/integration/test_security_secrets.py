"""What must not be seen, executed or obeyed: keys and variables, text in shells, escape sequences. See SECURITY.md."""

from __future__ import annotations

import os
import pty
import re
import secrets
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

import trx
import trx.engine
from trx.hub import Hub
from trx_agent.protocol.bootstrap import Keys

from .helpers import Script, log_files, on_rank, rank, signal_file, travels_by_value, wait_until

travels_by_value(__name__)

# ---- 5. secrets -----------------------------------------------------------------------------------------------------


@dataclass
class Secrets:
    """What nobody may see: by name, so that a failure does not show it either."""

    texts: dict[str, bytes] = field(default_factory=dict)

    def seen_in(self, data: bytes) -> list[str]:
        return [name for name, text in self.texts.items() if text in data]

    def add_keys(self, keys: Keys) -> None:
        for text in (keys.launcher_public, keys.agent_public, keys.agent_secret):
            self.texts[f"key {len(self.texts)}"] = text


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    """The keys of all launches of the test, and the values of three variables."""
    found = Secrets({f"value of {name}": secrets.token_hex(16).encode() for name in ("MAPPED", "COPIED", "IN_FILE")})

    class Spy(Hub):
        def keys(self, agent: int) -> Keys:
            keys = super().keys(agent)
            found.add_keys(keys)
            return keys

    monkeypatch.setattr(trx.engine, "Hub", Spy)
    return found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the agents of this test make their directories."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    return directory


def settings_with(hidden: Secrets, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A launch to whose workers the three variables go, each by another way."""
    mapped, copied, in_file = (text.decode() for text in list(hidden.texts.values())[:3])
    monkeypatch.setenv("TRXTEST_COPIED", copied)
    env_file = directory / "environment.sh"
    env_file.write_text(f"export TRXTEST_IN_FILE={in_file}\n")
    return {
        "hostnames": ["localhost", "localhost"],
        "workers_per_host": 1,
        "backend": None,
        "default_env_vars": [*trx.DEFAULT_ENV_VARS, "TRXTEST_COPIED", "TMPDIR"],
        "extra_env_vars": {"TRXTEST_MAPPED": mapped},
        "env_file": env_file,
    }


def work_until_told(directory: Path, ending: Callable[[], Any]) -> Callable[[], Any]:
    def work() -> Any:
        print("printed by", rank())
        print("complained by", rank(), file=sys.stderr)
        signal_file(directory / f"up.{rank()}")
        deadline = time.monotonic() + 50
        while not (directory / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return ending()

    return work


@contextmanager
def going_on(directory: Path, settings: dict[str, Any], ending: Callable[[], Any]) -> Iterator[Future[Any]]:
    """A launch whose two workers are up, and go on until the block is left."""
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(trx.Launcher(**settings).run, work_until_told(directory, ending))
        try:
            wait_until(lambda: run.done() or all((directory / f"up.{each}").exists() for each in (0, 1)), "workers up")
            assert not run.done(), run.result()
            yield run
        finally:
            signal_file(directory / "go")
        with suppress(trx.LaunchError):
            run.result(20)


def values_of_variables() -> list[str]:
    return [os.environ[f"TRXTEST_{name}"] for name in ("MAPPED", "COPIED", "IN_FILE")]


def command_lines() -> bytes:
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit():
                found.append(Path("/proc", name, "cmdline").read_bytes())
    return b"\n".join(found)


def all_files(*directories: Path) -> Iterator[Path]:
    for directory in directories:
        for path in directory.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path


def too_open(*roots: Path) -> dict[str, str]:
    """Directories and files into which others than their owner may look."""
    return {
        str(path): stat.filemode(path.stat().st_mode)
        for root in roots
        for path in [root, *root.rglob("*")]
        if path.stat().st_mode & 0o077
    }


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Nothing is private by itself."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_no_key_and_no_value_of_a_variable_is_seen_anywhere_and_all_files_are_private(
    no_umask: None,
    hidden: Secrets,
    temporary: Path,
    tmp_path: Path,
    log_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = settings_with(hidden, tmp_path, monkeypatch)
    seen: dict[str, list[str]] = {}

    def fail() -> None:
        assert values_of_variables()  # they are there
        assert os.umask(0) == 0  # the user's own
        raise ValueError("as it must be")

    with going_on(tmp_path, settings, on_rank(1, fail)) as run:
        assert len(hidden.texts) == 3 + 2 * 3
        logs = {"localhost[0].log", "localhost#2[0].log"}
        wait_until(lambda: {path.name for path in all_files(log_base)} >= logs, "what they printed has arrived")
        seen["a command line"] = hidden.seen_in(command_lines())
        files = list(all_files(temporary, log_base))
        assert {path.name for path in files} >= {"order", "payload", "stdout", "agent.log", "localhost[0].log"}
        seen.update({str(path): hidden.seen_in(path.read_bytes()) for path in files})
        (first, second) = temporary.iterdir()
        assert too_open(first, second, log_base) == {}
        environments = [process.environ() for process in psutil.Process().children(recursive=True)]
        keys = Secrets({name: text for name, text in hidden.texts.items() if name.startswith("key")})
        seen["an environment"] = keys.seen_in(repr(environments).encode())
    error = run.exception()

    assert isinstance(error, ValueError), error
    assert too_open(log_base) == {}
    seen["the traceback"] = hidden.seen_in("".join(traceback.format_exception(error)).encode())
    seen["the failures"] = hidden.seen_in(repr(getattr(error, "failures", ())).encode())
    seen["the terminal"] = hidden.seen_in("".join(capfd.readouterr()).encode())
    seen["the log"] = hidden.seen_in(caplog.text.encode())
    seen.update({str(path): hidden.seen_in(path.read_bytes()) for path in all_files(temporary, log_base)})
    assert {where: what for where, what in seen.items() if what} == {}
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("fault", ["no such interpreter", "an agent is killed", "no such directory", "bad env_file"])
def test_no_key_and_no_value_of_a_variable_is_in_what_a_failed_host_says(
    hidden: Secrets,
    temporary: Path,
    tmp_path: Path,
    log_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    settings = settings_with(hidden, tmp_path, monkeypatch)
    if fault == "an agent is killed":
        with going_on(tmp_path, settings, os.getpid) as run:
            below = psutil.Process().children(recursive=True)
            (agent, *_) = [each for each in below if each.ppid() != os.getpid() and each.parent() in below]
            agent.kill()
            error = run.exception(20)
    else:
        if fault == "no such interpreter":
            settings["python"] = str(tmp_path / "no" / "python")
        if fault == "no such directory":
            settings["cwd"] = str(tmp_path / "nowhere")
        if fault == "bad env_file":
            settings["env_file"].write_text(settings["env_file"].read_text() + "false; exit 3\n")
        with pytest.raises(trx.AgentFailedError) as caught:
            trx.Launcher(**settings).run(os.getpid)
        error = caught.value

    assert isinstance(error, trx.AgentFailedError)
    shown = "".join(traceback.format_exception(error)) + "".join(capfd.readouterr()) + caplog.text
    assert hidden.seen_in(shown.encode()) == []
    assert [path for path in all_files(log_base) if hidden.seen_in(path.read_bytes())] == []


def test_symbolic_links_that_were_planted_before_are_not_followed(
    tmp_path: Path, log_base: Path, hidden: Secrets, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    target = victim / "target"
    target.write_text("mine")
    log_base.mkdir()
    now = datetime.now().astimezone()
    for seconds in range(30):
        (log_base / f"{now + timedelta(seconds=seconds):%Y%m%dT%H%M%S}").symlink_to(victim)

    def plant_and_print() -> None:
        (directory,) = [each for each in log_base.iterdir() if not each.is_symlink()]
        for name in ("localhost[0].log", "localhost#2[0].log"):
            with suppress(FileExistsError):
                (directory / name).symlink_to(target)
        print("to the log")

    settings: Any = {"workers_per_host": 1, "backend": None}
    trx.launch(plant_and_print, hostnames=["localhost", "localhost"], **settings)

    assert [path.name for path in victim.iterdir()] == ["target"]
    assert target.read_text() == "mine"
    (directory,) = [each for each in log_base.iterdir() if not each.is_symlink()]
    written = [path.read_text() for path in directory.iterdir() if not path.is_symlink()]
    assert written.count("to the log\n") == 2


# ---- 6. texts and shells --------------------------------------------------------------------------------------------

CANARY = "trx-canary"
EVIL = f"-c a;$(touch {CANARY}1)`touch {CANARY}2`'\"|touch {CANARY}3&& touch {CANARY}4\\"


@pytest.fixture
def no_canary(tmp_path: Path) -> Iterator[None]:
    """Nothing may be executed of what tests of shells name."""
    yield
    places = {Path.cwd(), Path("/"), Path.home(), *(each for each in tmp_path.rglob("*") if each.is_dir()), tmp_path}
    assert [str(path) for place in places for path in place.iterdir() if path.name.startswith(CANARY)] == []


def test_paths_and_values_that_look_like_shell_are_used_as_they_are(
    tmp_path: Path, no_canary: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / EVIL
    directory.mkdir()
    (directory / "environment").symlink_to(sys.prefix)
    env_file = directory / f"{EVIL}.sh"
    env_file.write_text("FROM_FILE='it was read'\n")
    several_lines = f"first\nexport SECOND=1\n\n/bin/touch {CANARY}5\n"
    monkeypatch.setenv(f"TRXTEST {EVIL}", EVIL)
    names = {"EVIL": EVIL, "LINES": several_lines, "LD_LIBRARY_PATH": f"/nowhere/{EVIL}", "PYTHONHASHSEED": "7"}

    def work() -> tuple[str, str, dict[str, str]]:
        return os.getcwd(), sys.executable, dict(os.environ)

    cwd, python, found = (
        trx.Launcher(
            ["localhost"],
            1,
            backend=None,
            cwd=directory,
            python=str(directory / "environment" / "bin" / "python"),
            extra_env_vars=names,
            default_env_vars=["TRXTEST*", "PATH", "PYTHON*"],
            env_file=env_file,
        )
        .run(work)
        .rank(0)
    )

    assert cwd == str(directory)
    assert python == str(directory / "environment" / "bin" / "python")
    assert {name: found[name] for name in names} == names
    assert found["FROM_FILE"] == "it was read"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("python", "-c"),
        ("python", f"/bin/python\ntouch {CANARY}"),
        ("python", "/bin/python\0"),
        ("python", "/bin/python\udcff"),
        ("cwd", "-x"),
        ("cwd", "/tmp\0"),
        ("cwd", "/tmp\udcff"),
        ("hostnames", [f"-oProxyCommand=touch {CANARY}"]),
        ("hostnames", [f"node\ntouch {CANARY}"]),
        ("hostnames", [f"node;touch {CANARY}"]),
        ("hostnames", ["node\x1b[2J"]),
        ("extra_env_vars", {f"A;touch {CANARY};B": "1"}),
        ("extra_env_vars", {f"A=$(touch {CANARY})": "1"}),
        ("extra_env_vars", {"A\nB": "1"}),
        ("extra_env_vars", {"-A": "1"}),
        ("extra_env_vars", {"BASH_FUNC_ls%%": f"() {{ touch {CANARY}; }}"}),
        ("extra_env_vars", {"A": "1\0"}),
        ("extra_env_vars", {"A": "\udcff"}),
        ("preload", [f"os;touch {CANARY}"]),
        ("preload", ["-c"]),
    ],
)
def test_texts_that_cannot_be_used_are_refused_before_anything_starts(
    setting: str, value: object, no_canary: None, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"hostnames": ["localhost"], "workers_per_host": 1, setting: value}
    children = psutil.Process().children()

    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the words differ
        trx.Launcher(**settings).run(os.getpid)

    assert setting in str(caught.value) or "host" in str(caught.value) or "'A'" in str(caught.value)
    assert psutil.Process().children() == children


def test_an_env_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    env_file = tmp_path / "environment.sh"
    env_file.write_bytes(b"export A=\xff\n")
    with pytest.raises(ValueError, match=f"{env_file} is not UTF-8"):
        trx.launch(os.getpid, hostnames=["localhost"], workers_per_host=1, env_file=env_file)


@pytest.mark.parametrize(
    "hostname",
    [
        "a;touch${IFS}CANARY",
        "$(touch${IFS}CANARY)",
        "`touch${IFS}CANARY`",
        "user;touch${IFS}CANARY@node",
        "node|touch${IFS}CANARY",
        "node'\"&touch${IFS}CANARY",
        "-oProxyCommand=x@node"[1:],
        "user@-oProxyCommand=touch${IFS}CANARY",
    ],
)
def test_hostnames_never_reach_the_shell_of_a_proxy_command(hostname: str, tmp_path: Path, no_canary: None) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(f"Host *\n  ProxyCommand cd {tmp_path} && false %h %n %r\n")
    with pytest.raises(ValueError, match="cannot be the name of a host"):
        trx.launch(
            os.getpid,
            hostnames=[hostname.replace("CANARY", CANARY)],
            workers_per_host=1,
            ssh_config_file=config,
        )


# ---- 7. the terminal ------------------------------------------------------------------------------------------------

NASTY = (
    "\x1b]0;title\x07",
    "\x1b]52;c;Y2xpcGJvYXJk\x07",
    '\x1bP$q"p\x1b\\',
    "\x1b[6n",
    "\x1b[c",
    "\x1b[2J",
    "\x1b[?1049h",
    "\x1b[1;1H",
    "\x1b#8",
    "\x1bc",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\x05",
    "\x0e",
    "\x1b_application\x1b\\",
    "\x00\x7f\x08",
)

PRINTS_NASTY_THINGS = f"""
import logging, os, sys
import trx

NASTY = {"".join(NASTY)!r}

class Failure(Exception):
    pass

Failure.__name__ = Failure.__qualname__ = "Failure" + NASTY.replace("\\0", "") + "\\n2026-01-01 00:00:00 ERROR forged"

def work():
    os.write(1, NASTY.encode("utf-8", "surrogateescape") + b"\\x9b2J\\xff plain \\x1b[31mred\\x1b[0m\\n")
    os.write(2, NASTY.encode() + b"10 %\\r20 %\\r\\n")
    logging.getLogger("user").warning("said %s", NASTY)
    logging.getLogger("name" + NASTY).warning("said")
    if HOW == "raise":
        raise Failure("reason" + NASTY)
    if HOW == "die":
        os.write(2, NASTY.encode())
        os.kill(os.getpid(), 9)

try:
    trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None)
except trx.WorkerFailedError as error:
    for note in error.__notes__:
        print(note)
    print(error.failures[0].summary)
    if HOW == "die":
        raise
"""

ALLOWED = re.compile(r"\x1b\[(?:[0-9;:]*m|[0-9]*A|[0-2]?K)")


def forbidden_in(shown: str) -> list[str]:
    return re.findall(r"[^\n\r\t\x08\x20-\x7e\xa0-\U0010ffff]", ALLOWED.sub("", shown))


@pytest.mark.parametrize(("how", "stdout"), [("return", "terminal"), ("raise", "pipe"), ("die", "terminal")])
def test_what_a_worker_prints_cannot_drive_the_terminal(tmp_path: Path, how: str, stdout: str) -> None:
    source = f"HOW = {how!r}\n{PRINTS_NASTY_THINGS}"
    if stdout == "pipe":
        with Script(tmp_path, source) as script:
            _, out, err = script.ends()
        shown = out + err
        assert not re.search(r"^2026-01-01 00:00:00 ERROR forged", err, re.M)  # the launcher's own announcement
    else:
        shown = on_a_terminal(tmp_path, source)

    assert forbidden_in(shown) == []
    assert "plain \x1b[31mred\x1b[0m" in shown
    assert "20 %\r" in shown
    assert "said" in shown
    assert {"return": "", "raise": "Failure", "die": "was killed by SIGKILL"}[how] in shown


def on_a_terminal(directory: Path, source: str) -> str:
    ours, theirs = pty.openpty()
    shown = b""
    with Script(directory, source, stdout=theirs, stderr=theirs) as script:
        os.close(theirs)
        with suppress(OSError):  # EIO: nobody has it open any more
            while data := os.read(ours, 65536):
                shown += data
        script.process.wait(20)
    os.close(ours)
    return shown.decode(errors="surrogateescape")


def test_a_worker_cannot_write_into_the_log_of_another(log_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        if rank() == 1:
            for line in ("localhost[0]: forged", "[0] forged", "\r\x1b[Aforged by 1", "rank 0: forged"):
                os.write(1, line.encode() + b"\n")
        else:
            print("genuine")

    settings: Any = {"workers_per_host": 2, "backend": None}
    trx.launch(work, hostnames=["localhost"], **settings)

    files = log_files(log_base)
    assert files["localhost[0].log"].read_bytes() == b"genuine\n"
    assert files["localhost[1].log"].read_bytes().count(b"forged") == 4
    assert capfd.readouterr() == ("genuine\n", "")
