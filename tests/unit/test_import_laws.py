"""The first law of docs/architecture.md: imports run one way, and what is heavy is imported where it is needed only."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {"trx": ROOT / "trx", "trx_agent": ROOT / "agent" / "trx_agent"}

MAY_IMPORT_ZMQ = {"trx.hub", "trx_agent.uplink"}
MAY_IMPORT_TORCH = {"trx_agent.forkserver", "trx_agent.runner", "trx_agent.worker"}
MAY_IMPORT_TORCH_LATE = {"trx_agent.protocol.payload"}
"""Inside functions, or for type checkers."""

HEAVY = {"asyncssh", "cryptography", "fabric", "invoke", "numpy", "paramiko", "torch", "zmq"}
"""Not to be imported by `import trx`."""

LATER = {
    "cloudpickle",
    "email",
    "importlib.metadata",
    "inotify_simple",
    "psutil",
    "torch",
    "trx_agent.agent",
    "trx_agent.run",
}
"""Not to be imported by an agent before its hello: each costs milliseconds, and most of them tens."""

MANY = 250
"""`import trx` may load fewer modules than this; a count, unlike a clock, says the same on a busy machine."""


@dataclass(frozen=True)
class Import:
    module: str
    """Who imports."""
    name: str
    """What is imported, in full: `from a import b` is `a.b`."""
    line: int
    is_late: bool
    """Not run when the module is imported: in a function, or for type checkers only."""

    def is_of(self, package: str) -> bool:
        return self.name == package or self.name.startswith(package + ".")

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


class Imports(ast.NodeVisitor):
    """Collects every import of one module: at its top, in functions, and by `import_module("name")`."""

    def __init__(self, module: str, package: str) -> None:
        self.module = module
        self.package = package.split(".")
        self.found: list[Import] = []
        self.depth = 0

    def add(self, name: str, node: ast.stmt | ast.expr) -> None:
        self.found.append(Import(self.module, name, node.lineno, self.depth > 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self.package[: len(self.package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            self.add(f"{base}.{alias.name}", node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self.add(str(node.args[0].value), node)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        is_for_checkers = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        self.depth += is_for_checkers
        for statement in node.body:
            self.visit(statement)
        self.depth -= is_for_checkers
        self.visit(node.test)
        for statement in node.orelse:
            self.visit(statement)

    def visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = visit_function


def imports_in(source: str, module: str, is_package: bool = False) -> list[Import]:
    visitor = Imports(module, module if is_package else module.rpartition(".")[0])
    visitor.visit(ast.parse(source))
    return visitor.found


def imports_of(package: str) -> Iterator[Import]:
    folder = SOURCES[package]
    for path in sorted(folder.rglob("*.py")):
        parts = (package, *path.relative_to(folder).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        yield from imports_in(path.read_text(), ".".join(parts[:-1] if is_package else parts), is_package)


def all_imports() -> list[Import]:
    return [found for package in SOURCES for found in imports_of(package)]


def in_a_fresh_interpreter(code: str, cwd: Path) -> str:
    """What `code` prints when it is a script in `cwd`, run with the packages of this checkout."""
    script = cwd / "script.py"
    script.write_text(code)
    paths = os.pathsep.join(str(folder.parent) for folder in SOURCES.values())
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- who imports whom -----------------------------------------------------------------------------------------------


def test_trx_imports_nothing_of_the_agent_but_its_protocol():
    breaches = [i for i in imports_of("trx") if i.is_of("trx_agent") and not i.is_of("trx_agent.protocol")]
    assert not breaches, "\n".join(map(str, breaches))


def test_the_agent_never_imports_trx():
    breaches = [i for i in imports_of("trx_agent") if i.is_of("trx")]
    assert not breaches, "\n".join(map(str, breaches))


def test_only_the_two_socket_modules_import_zmq():
    breaches = [i for i in all_imports() if i.is_of("zmq") and i.module not in MAY_IMPORT_ZMQ]
    assert not breaches, "\n".join(map(str, breaches))


def test_torch_is_imported_below_the_runner_only():
    breaches = [
        i
        for i in all_imports()
        if i.is_of("torch")
        and i.module not in MAY_IMPORT_TORCH
        and not (i.module in MAY_IMPORT_TORCH_LATE and i.is_late)
    ]
    assert not breaches, "\n".join(map(str, breaches))


def test_unit_tests_import_neither_torch_nor_sockets():
    breaches = [
        found
        for path in sorted(Path(__file__).parent.rglob("*.py"))
        for found in imports_in(path.read_text(), path.stem)
        if found.is_of("torch") or found.is_of("zmq")
    ]
    assert not breaches, "\n".join(map(str, breaches))


def test_the_laws_name_modules_that_exist():
    missing = [
        module
        for module in MAY_IMPORT_ZMQ | MAY_IMPORT_TORCH | MAY_IMPORT_TORCH_LATE
        if not SOURCES[module.split(".")[0]].joinpath(*module.split(".")[1:]).with_suffix(".py").exists()
    ]
    assert not missing


@pytest.mark.parametrize(
    ("source", "name", "is_late"),
    [
        ("import torch.distributed as dist", "torch.distributed", False),
        ("from torch import nn", "torch.nn", False),
        ("def f():\n    import torch", "torch", True),
        ("async def f():\n    from torch import nn", "torch.nn", True),
        ("class C:\n    import torch", "torch", False),
        ("if True:\n    import torch", "torch", False),
        ("if TYPE_CHECKING:\n    import torch", "torch", True),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import torch", "torch", False),
        ("import importlib\nimportlib.import_module('torch')", "torch", False),
        ("__import__('torch')", "torch", False),
        ("from . import hub", "trx.hosts.hub", False),
        ("from ..hub import Hub", "trx.hub.Hub", False),
    ],
)
def test_every_way_to_import_is_seen(source: str, name: str, is_late: bool):
    last = imports_in(source, "trx.hosts.ssh")[-1]
    assert (last.name, last.is_late) == (name, is_late)


# ---- what an import costs -------------------------------------------------------------------------------------------


def test_importing_trx_loads_little(tmp_path):
    code = (
        "import json, sys; before = set(sys.modules); import trx; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = json.loads(in_a_fresh_interpreter(code, tmp_path))
    assert not HEAVY.intersection(loaded)
    assert len(loaded) < MANY, f"{len(loaded)} modules: {' '.join(loaded)}"


def test_an_agent_says_hello_before_it_imports_what_its_work_needs(tmp_path):
    """A launch on many hosts waits for the slowest hello; torch stands for itself, and is looked at, not imported."""
    code = """
import json, sys
from trx_agent import __main__, environment, greeting, guardian, machine
machine.missing_packages()
machine.look(1, {})
assert machine.torch_version()[0].isdigit()
print(json.dumps(sorted(sys.modules)))
"""
    loaded = set(json.loads(in_a_fresh_interpreter(code, tmp_path)))
    assert {"zmq", "msgspec"} <= loaded
    assert not loaded & LATER
    assert not {name for name in loaded if name.startswith("encodings.idna")}


# ---- names ----------------------------------------------------------------------------------------------------------


def test_no_module_of_ours_is_called_agent():
    assert not (ROOT / "agent.py").exists()
    assert not (ROOT / "agent" / "__init__.py").exists()


def test_an_agent_module_of_the_user_is_his_own(tmp_path):
    (tmp_path / "agent.py").write_text("owner = 'user'\n")
    assert in_a_fresh_interpreter("import trx, trx_agent, agent; print(agent.owner)", tmp_path) == "user\n"
