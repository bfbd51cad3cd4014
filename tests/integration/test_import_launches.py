"""Modules that launch when they are imported: once where the user's code does so, never while a function is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers import ROOT

SETTINGS = 'hostnames=["localhost"], workers_per_host=1, backend=None'

COUNTED = """
import os, trx
with open(os.environ["IMPORTS"], "a") as file:
    file.write("x")
def work():
    return "worked"
class Argument:
    def __call__(self):
        return "worked"
"""
"""How the modules begin."""

LAUNCH = f"value = trx.launch(work, {SETTINGS}).rank(0)\n"


class Folder:
    """Where a user works: modules, and a count of how often a module was imported."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.imports = path / "imports"
        self.imports.touch()

    def write(self, name: str, source: str) -> None:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join(map(str, (self.path, ROOT, ROOT / "agent")))
        environment = {**os.environ, "PYTHONPATH": paths, "IMPORTS": str(self.imports)}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True, timeout=50)

    def count(self) -> int:
        return len(self.imports.read_text())

    def refusal(self, name: str) -> str:
        return f'{self.path / name} launches when it is imported: put the launch under `if __name__ == "__main__"`'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# ---- a worker loads the function ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "launch",
    [
        pytest.param(LAUNCH, id="launch"),
        pytest.param(f"trx.Launcher({SETTINGS}).run(work)\n", id="launcher"),
        pytest.param(f"with trx.Launcher({SETTINGS}) as launcher:\n    launcher.run(work)\n", id="open launcher"),
        pytest.param(f"trx.launch(len, ([Argument()],), {SETTINGS})\n", id="argument"),
        pytest.param(
            f"def launch():\n    {LAUNCH}"
            "import multiprocessing\nprocess = multiprocessing.get_context('fork').Process(target=launch)\n"
            "process.start()\nprocess.join()\nassert process.exitcode == 0\n",
            id="fork",
        ),
    ],
)
def test_a_module_that_launches_is_refused_in_the_worker(folder: Folder, launch: str) -> None:
    folder.write("train.py", COUNTED + launch)

    done = folder.run("-c", "import train")

    assert folder.refusal("train.py") in done.stderr
    assert "while loading the function" in done.stderr
    assert folder.count() == 2  # here and in the worker


def test_the_traceback_shows_the_line_of_the_launch(folder: Folder) -> None:
    folder.write("train.py", COUNTED + LAUNCH)

    _, _, theirs = folder.run("-c", "import train").stderr.partition("its traceback, on localhost:")

    assert f'train.py", line {len(COUNTED.splitlines()) + 1}, in <module>' in theirs


@pytest.mark.parametrize("way", ["import package.train", "import importlib; importlib.import_module('package.train')"])
def test_a_module_that_another_one_imports_is_named(folder: Folder, way: str) -> None:
    folder.write("package/__init__.py", "")
    folder.write("package/train.py", COUNTED + LAUNCH)
    folder.write("other.py", way + "\n")

    done = folder.run("-c", "import other")

    assert folder.refusal("package/train.py") in done.stderr
    assert folder.count() == 2


@pytest.mark.parametrize(
    "launch",
    [
        pytest.param(LAUNCH, id="launch"),
        pytest.param(
            "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as pool:\n"
            f"    pool.submit(trx.launch, os.getpid, {SETTINGS}).result()\n",
            id="thread",
        ),
    ],
)
def test_a_preloaded_module_that_launches_is_refused(folder: Folder, launch: str) -> None:
    folder.write("train.py", COUNTED + launch)
    folder.write("script.py", f"import os, trx\ntrx.launch(os.getpid, {SETTINGS}, preload=['train'])\n")

    done = folder.run("script.py")

    assert "AgentFailedError: localhost, importing torch and what is to be preloaded" in done.stderr
    assert folder.refusal("train.py") in done.stderr
    assert folder.count() == 1


def test_a_module_that_catches_the_refusal_is_loaded(folder: Folder) -> None:
    folder.write("train.py", f"{COUNTED}try:\n    {LAUNCH}except RuntimeError:\n    value = 'refused'\n")

    done = folder.run("-c", "import train; print(train.value)")

    assert done.stdout == "worked\n", done.stderr
    assert folder.count() == 2


# ---- a child of a worker loads its target ---------------------------------------------------------------------------

CHILDREN = {
    "process": """
    process = context.Process(target=tools.call, args=(tools.Of("train"),))
    process.start()
    process.join()
    assert process.exitcode == 1
""",
    "grandchild": """
    process = context.Process(target=tools.child, args=(context.get_start_method(),))
    process.start()
    process.join()
    assert process.exitcode == 0
""",
    "executor": """
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        error = pool.submit(tools.call, tools.Of("train")).exception()
    assert isinstance(error, concurrent.futures.process.BrokenProcessPool)
""",
    "loader": """
    import torch.utils.data
    loader = torch.utils.data.DataLoader(tools.Of("train"), num_workers=1, multiprocessing_context=context)
    try:
        next(iter(loader))
    except RuntimeError as error:
        assert "exited unexpectedly" in str(error), error
    else:
        raise AssertionError("the child has loaded its data")
""",
}

TOOLS = """
import importlib, multiprocessing

class Of:
    def __init__(self, module):
        self.module = module
    def __reduce__(self):
        return importlib.import_module, (self.module,)
    def __len__(self):
        return 1
    def __getitem__(self, index):
        return index

def call(of):
    raise AssertionError("the child has loaded its argument")

def child(method):
    process = multiprocessing.get_context(method).Process(target=call, args=(Of("train"),))
    process.start()
    process.join()
    assert process.exitcode == 1
"""
"""`Of` stands for any object of a module: to unpickle it is to import the module."""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("kind", CHILDREN)
def test_a_module_that_launches_is_refused_in_a_child_of_the_worker(folder: Folder, kind: str, method: str) -> None:
    folder.write("train.py", COUNTED + LAUNCH)
    folder.write("tools.py", TOOLS)
    folder.write(
        "script.py",
        f"""
import concurrent.futures.process, multiprocessing, trx
def parent():
    import tools
    context = multiprocessing.get_context({method!r}){CHILDREN[kind]}
trx.launch(parent, {SETTINGS})
""",
    )

    done = folder.run("script.py")

    assert done.returncode == 0, done.stderr
    assert folder.refusal("train.py") in done.stdout + done.stderr
    assert folder.count() == 1


# ---- the function launches ------------------------------------------------------------------------------------------


def test_a_pool_that_a_module_made_when_it_was_imported_may_launch(folder: Folder) -> None:
    """It was forked while the function was being loaded, and launches when it no longer is."""
    folder.write(
        "plain.py", f"import trx\ndef work():\n    return 'worked'\ndef launch():\n    {LAUNCH}    return value\n"
    )
    folder.write(
        "pooled.py",
        """
import multiprocessing, plain
POOL = multiprocessing.get_context("fork").Pool(1)
def outer():
    return POOL.apply(plain.launch)
""",
    )
    folder.write(
        "script.py",
        f"import pooled, trx\nprint(trx.launch(pooled.outer, {SETTINGS}).rank(0))\npooled.POOL.terminate()\n",
    )

    done = folder.run("script.py")

    assert (done.returncode, done.stdout) == (0, "worked\n"), done.stderr


def test_what_the_function_runs_may_launch(folder: Folder) -> None:
    """By itself, in a child that has loaded its target, by a script, and by an import, which its own workers refuse."""
    folder.write(
        "plain.py", f"import trx\ndef work():\n    return 'worked'\ndef launch():\n    {LAUNCH}    print(value)\n"
    )
    folder.write("train.py", COUNTED + LAUNCH)
    folder.write(
        "outer.py",
        """
import multiprocessing, subprocess, sys
import plain, trx
def outer():
    plain.launch()
    for method in ("fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=plain.launch)
        process.start()
        process.join()
        assert process.exitcode == 0, method
    subprocess.run([sys.executable, "train.py"], check=True)
    try:
        import train
    except trx.WorkerFailedError as error:
        return str(error)
""",
    )
    folder.write("script.py", f"import outer, trx\nprint(trx.launch(outer.outer, {SETTINGS}).rank(0))\n")

    done = folder.run("script.py")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("worked\n") == 4
    assert folder.refusal("train.py") in done.stdout
    assert folder.count() == 3  # the script, the import, and the import of the import's worker
