"""Notebooks, by a real kernel: what a cell shows, how it is interrupted, and that the kernel stays good."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from .helpers import ROOT, wait_until, with_cookie

GONE = 15.0
ANSWER = 40.0


@dataclass
class Cell:
    """What a cell has shown so far."""

    shown: str = ""
    result: str = ""
    error: str = ""
    traceback: list[str] = field(default_factory=list)


class Notebook:
    def __init__(self, folder: Path) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "agent")])
        self.sockets = tempfile.TemporaryDirectory(prefix="trx-notebook-")  # their paths may not be long
        here = Path(self.sockets.name)
        self.manager = KernelManager(
            kernel_name="python3", transport="ipc", ip=str(here / "kernel"), connection_file=str(here / "kernel.json")
        )
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, "PYTHONPATH": paths, "IPYTHONDIR": str(folder)})
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=ANSWER)
        self.run(
            "import trx, os, time, signal\nfrom pathlib import Path\nSETTINGS = dict(hostnames=['localhost'],"
            " workers_per_host=2, backend=None)\ndef rank():\n    return int(os.environ['RANK'])"
        )

    def run(self, code: str, seen: Callable[[Cell], object] | None = None) -> Cell:
        """Runs a cell to its end; whatever is shown under another cell is not of this one.

        Args:
            code: Of the cell.
            seen: Told of each change.
        """
        cell, number = Cell(), self.client.execute(code)
        deadline = time.monotonic() + ANSWER
        while True:
            message: dict[str, Any] = self.client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                cell.shown += content["text"]
            elif kind == "execute_result":
                cell.result = content["data"]["text/plain"]
            elif kind == "error":
                cell.error, cell.traceback = content["ename"], content["traceback"]
            elif kind == "status" and content["execution_state"] == "idle":
                return cell
            if seen:
                seen(cell)

    def must(self, code: str) -> str:
        """The result of a cell that raises nothing."""
        cell = self.run(code)
        assert not cell.error, "\n".join(cell.traceback)
        return cell.result

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.client.context.destroy(linger=0)
        self.sockets.cleanup()


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path)
    yield notebook
    notebook.end()


class Once:
    """Does something when a cell has shown a word for the first time."""

    def __init__(self, word: str, action: Callable[[], object]) -> None:
        self.word, self.action, self.done = word, action, False

    def __call__(self, cell: Cell) -> None:
        if self.word in cell.shown and not self.done:
            self.done = True
            self.action()


# ---- what a cell shows ----------------------------------------------------------------------------------------------


def test_functions_and_classes_of_cells(notebook: Notebook) -> None:
    notebook.must("""
OFFSET = 1
class Model:
    def __init__(self, width):
        self.width = width
    def train(self):
        return self, OFFSET + rank()
""")
    notebook.must("OFFSET = 100")
    code = "[(type(model) is Model, model.width, n) for model, n in trx.launch(Model(3).train, **SETTINGS)]"
    assert notebook.must(code) == "[(True, 3, 100), (True, 3, 101)]"


def test_a_cell_may_await_and_its_event_loop_is_running(notebook: Notebook) -> None:
    notebook.must("async def launch():\n    return list(trx.launch(rank, **SETTINGS))")
    assert notebook.must("import asyncio\nawait asyncio.sleep(0)\nawait launch()") == "[0, 1]"
    assert notebook.must("await asyncio.to_thread(lambda: list(trx.launch(rank, **SETTINGS)))") == "[0, 1]"


def test_lines_are_shown_under_the_cell_as_they_come(notebook: Notebook, tmp_path: Path) -> None:
    notebook.must("""
def work():
    print("one")
    while not Path("go-on").exists():
        time.sleep(0.01)
    print("two")
""")
    seen = Once("one\n", (tmp_path / "go-on").touch)  # the worker waits until its first line was seen
    assert notebook.run("trx.launch(work, **SETTINGS)\nNone", seen).shown == "one\ntwo\n"


def test_a_launcher_that_stays_open_shows_lines_under_the_cell_that_runs(notebook: Notebook) -> None:
    notebook.must("launcher = trx.Launcher(**SETTINGS).__enter__()")
    for text in ("first", "second"):
        assert notebook.run(f"launcher.run(print, {text!r})\nNone").shown == f"{text}\n"
    notebook.must("launcher.__exit__(None, None, None)")


def test_an_error_of_a_worker_is_the_cells(notebook: Notebook) -> None:
    cell = notebook.run("def fail():\n    raise KeyError('lost')  # in the cell\ntrx.launch(fail, **SETTINGS)")
    assert cell.error == "WorkerFailedError[KeyError]"
    assert "rank " in cell.traceback[-1]
    assert "# in the cell" in cell.traceback[-1]
    assert notebook.must("list(trx.launch(rank, **SETTINGS))") == "[0, 1]"


@pytest.mark.gpu
@pytest.mark.timeout(180)
def test_a_kernel_that_has_used_cuda_may_launch(notebook: Notebook) -> None:
    notebook.must("import torch\nhere = torch.ones(2, device='cuda')")
    notebook.must("def work():\n    return (torch.ones(2, device='cuda') + rank()).sum().item(), here.device.type")
    code = "list(trx.launch(work, hostnames=['localhost'], workers_per_host=1, backend='nccl'))"
    assert notebook.must(code) == "[(2.0, 'cpu')]"  # tensors travel to the CPU


# ---- how it is interrupted ------------------------------------------------------------------------------------------

WORK = """
def save():
    def on_sigterm(*_):
        Path("saved-" + os.environ["RANK"]).touch()
        os._exit(0)
    signal.signal(signal.SIGTERM, on_sigterm)
    wait()

def refuse():
    def on_sigterm(*_):
        print("refuses", flush=True)
    signal.signal(signal.SIGTERM, on_sigterm)
    wait()

def wait():
    Path("ready-" + os.environ["RANK"]).write_text(os.environ["TRX_LAUNCH"])
    while not all(Path(f"ready-{rank}").exists() for rank in range(2)):
        time.sleep(0.01)
    print("ready", flush=True)
    while True:
        time.sleep(60)
"""


def assert_nothing_left(folder: Path) -> None:
    cookie = (folder / "ready-0").read_text()
    wait_until(lambda: not with_cookie(cookie), "the end of the launch's processes", GONE)


def test_an_interrupt_is_gentle_and_the_kernel_stays_good(notebook: Notebook, tmp_path: Path) -> None:
    notebook.must(WORK)
    cell = notebook.run("trx.launch(save, **SETTINGS, grace_period=30)", Once("ready", notebook.interrupt))
    assert cell.error == "KeyboardInterrupt"
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()
    assert_nothing_left(tmp_path)
    assert notebook.must("list(trx.launch(rank, **SETTINGS))") == "[0, 1]"


def test_a_second_interrupt_does_not_wait(notebook: Notebook, tmp_path: Path) -> None:
    notebook.must(WORK)
    interrupts = [Once(word, notebook.interrupt) for word in ("ready", "refuses")]

    def interrupt(cell: Cell) -> None:
        for each in interrupts:
            each(cell)

    cell = notebook.run("trx.launch(refuse, **SETTINGS, grace_period=600)", interrupt)
    assert cell.error == "KeyboardInterrupt"
    assert_nothing_left(tmp_path)
    assert notebook.must("list(trx.launch(rank, **SETTINGS))") == "[0, 1]"


def test_an_open_launcher_is_good_after_an_interrupt(notebook: Notebook, tmp_path: Path) -> None:
    notebook.must(WORK + "launcher = trx.Launcher(**SETTINGS).__enter__()")
    assert notebook.run("launcher.run(save)", Once("ready", notebook.interrupt)).error == "KeyboardInterrupt"
    assert notebook.must("list(launcher.run(rank))") == "[0, 1]"
    notebook.must("launcher.__exit__(None, None, None)")
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("how", ["interrupted first", "at once"])
def test_a_restart_of_the_kernel_leaves_nothing(notebook: Notebook, tmp_path: Path, how: str) -> None:
    notebook.must(WORK)
    notebook.client.execute("trx.launch(refuse, **SETTINGS, grace_period=0.5)")
    wait_until(lambda: (tmp_path / "ready-0").exists() and (tmp_path / "ready-1").exists(), "both workers", ANSWER)
    if how == "interrupted first":
        notebook.interrupt()
    notebook.manager.shutdown_kernel(now=True)
    assert_nothing_left(tmp_path)


# ---- IPython --------------------------------------------------------------------------------------------------------

IPYTHON_SCRIPT = """
print("begins")
import trx, os
class Own: pass
def work(): return Own(), int(os.environ["RANK"])
launched = trx.launch(work, hostnames=["localhost"], workers_per_host=2, backend=None)
print([(type(own) is Own, rank) for own, rank in launched])
"""


@pytest.mark.parametrize("how", ["a script", "typed", "%run"])
def test_ipython(tmp_path: Path, how: str) -> None:
    (tmp_path / "script.py").write_text(IPYTHON_SCRIPT)
    typed = {"a script": "", "typed": IPYTHON_SCRIPT, "%run": "%run script.py\n"}[how]
    command = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--no-confirm-exit"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "agent")])
    done = subprocess.run(
        command if typed else [*command, "script.py"],
        input=typed,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "IPYTHONDIR": str(tmp_path)},
        timeout=50,
    )
    assert done.stdout.count("begins") == 1
    assert "[(True, 0), (True, 1)]" in done.stdout, done.stdout + done.stderr
