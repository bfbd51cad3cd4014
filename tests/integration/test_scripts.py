"""Scripts as users write them, and as users end them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers import Script, alive, run_script, wait_until, with_cookie

GONE = 15.0
"""Seconds in which everything must be gone on a loaded machine, where workers sleep that could not be asked."""

# ---- how they are written -------------------------------------------------------------------------------------------


def test_functions_of_the_script_itself_without_a_guard(tmp_path: Path) -> None:
    out = run_script(
        tmp_path,
        """
import functools
import os
import trx

print("the script begins")
OFFSET = 100

def number():
    return OFFSET + int(os.environ["RANK"])

def indirectly():
    return number()

def make(n):
    def inner():
        return n * number()
    return inner

class Model:
    def __init__(self, width):
        self.width = width
    def train(self, steps):
        return self.width * steps + int(os.environ["RANK"])
    def __call__(self):
        return self.width

with trx.Launcher(["localhost"], 2, backend=None) as launcher:
    assert list(launcher.run(number)) == [100, 101]
    OFFSET = 200
    assert list(launcher.run(indirectly)) == [200, 201]
    assert list(launcher.run(make(2))) == [400, 402]
    assert list(launcher.run(lambda: number() + 1)) == [201, 202]
    assert list(launcher.run(functools.partial(pow, 2, 5))) == [32, 32]
    assert list(launcher.run(Model(3).train, steps=2)) == [6, 7]
    assert list(launcher.run(Model(3))) == [3, 3]
    assert [model.width for model in launcher.run(Model, 4)] == [4, 4]
    assert type(launcher.run(Model, 4).rank(1)) is Model
print("the script ends")
""",
    )

    assert out == "the script begins\nthe script ends\n"


def test_modules_beside_the_script_are_found_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("import worker\ndef answer():\n    return worker.ANSWER\n")
    (tmp_path / "worker.py").write_text("ANSWER = 42\n")
    (tmp_path / "protocol").mkdir()
    (tmp_path / "protocol" / "__init__.py").write_text("NAME = 'mine'\n")

    run_script(
        tmp_path,
        """
import agent, protocol
import trx

def work():
    import protocol, worker
    return agent.answer(), worker.ANSWER, protocol.NAME

assert list(trx.launch(work, hostnames=["localhost"], workers_per_host=1)) == [(42, 42, "mine")]
assert list(trx.launch(agent.answer, hostnames=["localhost"], workers_per_host=1)) == [42]
""",
    )


def test_code_that_is_in_no_file(tmp_path: Path) -> None:
    code = """
import trx
def work():
    import torch.distributed as dist
    return dist.get_world_size()
print(list(trx.launch(work, hostnames=["localhost"], workers_per_host=2, backend="gloo")))
"""
    done = subprocess.run([sys.executable, "-"], input=code.encode(), capture_output=True, cwd=tmp_path, check=True)

    assert done.stdout == b"[2, 2]\n"


def test_script_of_a_module_is_run_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "parts.py").write_text("def part():\n    return 'part'\n")
    (tmp_path / "package" / "__main__.py").write_text(
        """
import trx
from .parts import part
def work():
    from package import parts
    return part(), parts.part()
if __name__ == "__main__":
    print(trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None).rank(0))
"""
    )

    done = subprocess.run([sys.executable, "-m", "package"], capture_output=True, cwd=tmp_path, check=True)

    assert done.stdout == b"('part', 'part')\n"


def test_launcher_does_not_import_torch_unless_the_script_does(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
import sys
import trx
assert trx.launch(len, ("four",), hostnames=["localhost"], workers_per_host=2, backend="gloo").by_ranks() == [4, 4]
assert "torch" not in sys.modules
""",
    )


# ---- how they end ---------------------------------------------------------------------------------------------------

SLEEPS = """
import json, os, signal, sys, threading, time
from pathlib import Path
import psutil
import trx

def tell():
    line = [os.getpid(), *(parent.pid for parent in psutil.Process().parents())]
    part = Path(f"part-{os.environ['RANK']}")
    part.write_text(json.dumps({"cookie": os.environ["TRX_LAUNCH"], "line": line}))
    part.rename(f"worker-{os.environ['RANK']}")

def sleep():
    tell()
    time.sleep(60)

def refuse():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell()
    while True:
        time.sleep(60)

"""


class Running:
    """A script whose two workers sleep."""

    def __init__(self, script: Script, directory: Path) -> None:
        self.script = script
        paths = [directory / "worker-0", directory / "worker-1"]
        wait_until(lambda: all(path.exists() for path in paths), "both workers", 40)
        told = [json.loads(path.read_text()) for path in paths]
        self.cookie = told[0]["cookie"]
        self.pids = sorted({pid for each in told for pid in each["line"][: each["line"].index(script.process.pid)]})

    def is_gone(self) -> bool:
        return not alive(self.pids) and not with_cookie(self.cookie)

    def assert_gone(self) -> None:
        wait_until(self.is_gone, f"the end of {self.pids}", GONE)


LAUNCH = 'trx.launch({0}, hostnames=["localhost"], workers_per_host=2, backend=None, grace_period={1})\n'


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with Script(tmp_path, SLEEPS + LAUNCH.format("sleep", 20)) as script:
        running = Running(script, tmp_path)
        script.process.send_signal(signal.SIGINT)
        status, _, err = script.ends(GONE)
        left = alive(running.pids)

    assert status == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert left == []
    running.assert_gone()


def test_ctrl_c_of_a_terminal_reaches_the_workers_through_the_launcher_only(tmp_path: Path) -> None:
    """It goes to all processes of the terminal's foreground group, in which neither workers nor agents may be."""
    source = f"""{SLEEPS}
def save():
    def on_sigterm(*_):
        Path("saved-" + os.environ["RANK"]).touch()
        sys.exit()
    signal.signal(signal.SIGTERM, on_sigterm)
    sleep()

def agent():
    return psutil.Process().parents()[2].pid

with trx.Launcher(["localhost"], 2, backend=None, grace_period=20) as launcher:
    before = launcher.run(agent).rank(0)
    try:
        launcher.run(save)
    except KeyboardInterrupt:
        print("interrupted, its agent has not heard of it:", launcher.run(agent).rank(0) == before)
print("nothing left:", not psutil.Process().children(recursive=True))
"""
    with Script(tmp_path, source, start_new_session=True) as script:
        running = Running(script, tmp_path)
        os.killpg(script.process.pid, signal.SIGINT)
        status, out, _ = script.ends(GONE)

    assert (status, out) == (0, "interrupted, its agent has not heard of it: True\nnothing left: True\n")
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()
    running.assert_gone()


def test_second_ctrl_c_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    with Script(tmp_path, SLEEPS + LAUNCH.format("refuse", 60)) as script:
        running = Running(script, tmp_path)
        script.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            script.process.wait(1.0)  # the workers have their grace
        script.process.send_signal(signal.SIGINT)
        status, _, _ = script.ends(GONE)

    assert status == -signal.SIGINT
    running.assert_gone()


def test_ctrl_c_while_agents_are_being_started_ends_everything(tmp_path: Path) -> None:
    source = SLEEPS + "print('launching', flush=True)\n" + LAUNCH.format("sleep", 20)
    with Script(tmp_path, source) as script:
        assert script.process.stdout is not None
        script.process.stdout.readline()
        script.process.send_signal(signal.SIGINT)
        status, _, err = script.ends(GONE)

    assert status == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_launcher_can_be_used_again_after_ctrl_c(tmp_path: Path) -> None:
    source = (
        SLEEPS
        + """
with trx.Launcher(["localhost"], 2, backend=None) as launcher:
    try:
        launcher.run(sleep)
    except KeyboardInterrupt:
        print(list(launcher.run(lambda: int(os.environ["RANK"]))))
"""
    )
    with Script(tmp_path, source) as script:
        Running(script, tmp_path)
        script.process.send_signal(signal.SIGINT)
        status, out, err = script.ends(GONE)

    assert (status, out) == (0, "[0, 1]\n"), err


def test_launcher_can_be_used_again_after_two_ctrl_c_while_output_was_still_under_way(tmp_path: Path) -> None:
    """Nobody waits for that output any more; and it neither fails the next run, nor does its host keep it open."""
    source = f"""{SLEEPS}
import contextlib
import logging

may_go_on = threading.Event()

class Stuck(logging.Handler):
    def emit(self, record):
        may_go_on.wait()

def flood():
    for _ in range(300):
        os.write(1, b"x" * 99_999 + b"\\n")
    sleep()

def left_open():
    found = []
    for descriptor in Path(f"/proc/{{psutil.Process().parents()[2].pid}}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the agent goes on meanwhile
            found.append(os.readlink(descriptor))
    return [name for name in found if name.endswith(" (deleted)")]

def wait_until(condition):
    while not condition():
        time.sleep(0.01)

def interrupt_twice():
    paths = [Path("worker-0"), Path("worker-1")]
    wait_until(lambda: all(path.exists() for path in paths))
    workers = [json.loads(path.read_text())["line"][0] for path in paths]
    os.kill(os.getpid(), signal.SIGINT)
    wait_until(lambda: not any(map(psutil.pid_exists, workers)))
    for path in paths:
        path.unlink()
    os.kill(os.getpid(), signal.SIGINT)
    job = launcher._session._engine._run.job
    wait_until(lambda: job.over)
    may_go_on.set()

with trx.Launcher(["localhost"], 2, backend=None, grace_period=1, log_handlers=[Stuck()]) as launcher:
    for attempt in range(4):
        may_go_on.clear()
        threading.Thread(target=interrupt_twice).start()
        try:
            launcher.run(flood)
        except KeyboardInterrupt:
            print("interrupted", launcher.run(left_open).rank(0))
"""
    with Script(tmp_path, source) as script:
        status, out, err = script.ends()

    assert (status, out) == (0, "interrupted []\n" * 4), err


# ---- how they end when they launch in another thread ----------------------------------------------------------------

IN_A_THREAD = """
def launch():
    try:
        {launch}
    except KeyboardInterrupt:
        print("interrupted", psutil.Process().children(recursive=True), flush=True)
        raise

thread = threading.Thread(target=launch, daemon={daemon})
thread.start()
"""


def in_a_thread(function: str, grace: float, daemon: bool = False) -> str:
    return SLEEPS + IN_A_THREAD.format(launch=LAUNCH.format(function, grace).strip(), daemon=daemon)


def test_ctrl_c_ends_the_launch_of_a_thread_once_it_has_ended_the_main_thread(tmp_path: Path) -> None:
    with Script(tmp_path, in_a_thread("sleep", 20) + "time.sleep(60)") as script:
        running = Running(script, tmp_path)
        script.process.send_signal(signal.SIGINT)
        status, out, err = script.ends(GONE)
        left = alive(running.pids)

    assert (status, out) == (-signal.SIGINT, "interrupted []\n")
    assert "Exception in thread" in err
    assert left == []
    running.assert_gone()


def test_second_ctrl_c_does_not_wait_for_the_launch_of_a_thread(tmp_path: Path) -> None:
    with Script(tmp_path, in_a_thread("refuse", 6) + "time.sleep(60)") as script:
        running = Running(script, tmp_path)
        script.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            script.process.wait(1.5)  # the workers have their grace
        script.process.send_signal(signal.SIGINT)
        assert script.process.wait(GONE) == -signal.SIGINT
        running.assert_gone()


@pytest.mark.parametrize("daemon", [False, True])
def test_nothing_is_left_of_the_launch_of_a_thread_that_python_does_not_wait_for(tmp_path: Path, daemon: bool) -> None:
    """Before Python 3.13, a thread counts as ended where Ctrl-C has interrupted its join."""
    with Script(tmp_path, in_a_thread("refuse", 0.5, daemon) + "thread.join()") as script:
        running = Running(script, tmp_path)
        script.process.send_signal(signal.SIGINT)
        assert script.process.wait(GONE) == -signal.SIGINT
        running.assert_gone()


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise ValueError"])
def test_the_launch_of_a_thread_goes_on_when_the_main_thread_ends_by_itself(tmp_path: Path, ending: str) -> None:
    source = (
        SLEEPS
        + """
def work():
    while not Path("main-is-over").exists():
        time.sleep(0.01)
    time.sleep(1)
    return 7

def launch():
    print(trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None).rank(0), flush=True)

def tell():
    threading.main_thread().join()
    Path("main-is-over").touch()

threading.Thread(target=launch).start()
threading.Thread(target=tell).start()
"""
    )
    with Script(tmp_path, source + ending) as script:
        _, out, err = script.ends()

    assert out == "7\n", err


# ---- how they end when the launcher is killed -----------------------------------------------------------------------


@pytest.mark.parametrize("function", ["sleep", "refuse"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_workers_end_when_the_launcher_is_killed(tmp_path: Path, number: signal.Signals, function: str) -> None:
    with Script(tmp_path, SLEEPS + LAUNCH.format(function, 0.5)) as script:
        running = Running(script, tmp_path)
        script.process.send_signal(number)
        assert script.process.wait(GONE) == -number
        running.assert_gone()


def test_workers_end_when_the_launcher_stands_still(tmp_path: Path) -> None:
    """Nothing tells the host but the launcher's silence."""
    source = SLEEPS + LAUNCH.format("sleep", 0.5).replace("backend", "lease=3, backend")
    with Script(tmp_path, source) as script:
        running = Running(script, tmp_path)
        script.process.send_signal(signal.SIGSTOP)
        running.assert_gone()
        script.process.send_signal(signal.SIGCONT)
        status, _, err = script.ends(GONE)

    assert status == 1
    assert "trx.errors.AgentFailedError: localhost" in err


def test_workers_live_on_while_the_main_thread_of_the_launcher_is_busy_or_the_script_forks(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
import os, time
import trx
with trx.Launcher(["localhost"], 1, backend=None, lease=3) as launcher:
    before = launcher.run(os.getppid).rank(0)
    if os.fork() == 0:
        time.sleep(0.5)
        os._exit(0)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        pass
    os.wait()
    assert launcher.run(lambda: 7).rank(0) == 7
""",
    )


def test_agents_wait_longer_than_a_lease_for_a_launcher_that_answers_late(tmp_path: Path) -> None:
    """It may be greeting a thousand others."""
    run_script(
        tmp_path,
        """
import time
import trx, trx.engine

hear = trx.engine.Engine._hear

def hear_late(self, *what):
    trx.engine.Engine._hear = hear
    time.sleep(6)
    hear(self, *what)

trx.engine.Engine._hear = hear_late
settings = {"workers_per_host": 1, "backend": None, "lease": 3}
assert trx.launch(len, ("four",), hostnames=["localhost"], **settings).rank(0) == 4
""",
    )


@pytest.mark.parametrize("ending", ["sys.exit(3)", "os._exit(3)", "raise SystemExit(3)"])
def test_nothing_is_left_of_a_script_that_never_closes_its_launcher(tmp_path: Path, ending: str) -> None:
    source = f"""{SLEEPS}
launcher = trx.Launcher(["localhost"], 2, backend=None, grace_period=0.5)
launcher.__enter__()
threading.Thread(target=launcher.run, args=(sleep,), daemon=True).start()
while len(list(Path().glob("worker-?"))) < 2:
    time.sleep(0.01)
time.sleep(0.1)
{ending}
"""
    with Script(tmp_path, source) as script:
        running = Running(script, tmp_path)
        assert script.process.wait(GONE) == 3
        running.assert_gone()


def test_nothing_is_left_of_a_script_that_fails_within_an_open_launcher(tmp_path: Path) -> None:
    source = f"""{SLEEPS}
with trx.Launcher(["localhost"], 2, backend=None) as launcher:
    launcher.run(tell)
    raise RuntimeError("on my own")
"""
    with Script(tmp_path, source) as script:
        status, _, err = script.ends()

    assert status == 1
    assert err.rstrip().endswith("RuntimeError: on my own")
    told = json.loads((tmp_path / "worker-0").read_text())
    assert with_cookie(told["cookie"]) == []
