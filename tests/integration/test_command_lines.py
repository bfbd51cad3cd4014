"""The settings of a launcher on command lines: argparse, tyro and jsonargparse, each in a script as users write it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trx

from .helpers import ROOT

SHOW = """
import dataclasses, json
print(json.dumps(dataclasses.asdict(launcher), default=str))
"""

ARGPARSE = f"""
import argparse
import trx
parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
trx.add_argument_group(parser)
args = parser.parse_args()
launcher = trx.launcher_from_args(args)
{SHOW}
"""

TYRO = f"""
import tyro
import trx
launcher = tyro.cli(trx.Launcher)
{SHOW}
"""

JSONARGPARSE = f"""
import jsonargparse
import trx
parser = jsonargparse.ArgumentParser()
parser.add_argument("--config", action="config")
parser.add_class_arguments(trx.Launcher, "launcher")
args = parser.parse_args()
launcher = trx.Launcher(**args.launcher)
{SHOW}
"""

MAIN = """
def rank():
    import os
    return int(os.environ["RANK"])

def main(launcher: trx.Launcher, steps: int = 200) -> None:
    print(steps, list(launcher.run(rank)))
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "script.py").write_text(source)
        paths = os.pathsep.join([str(ROOT), str(ROOT / "agent")])
        environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "PYTHONWARNINGS": "error"}
        command = [sys.executable, "script.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    return run


def given(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The settings that differ from their defaults."""
    assert done.returncode == 0, done.stderr
    defaults = json.loads(json.dumps({each.name: each.default for each in dataclasses.fields(trx.Launcher)}))
    settings: dict[str, Any] = json.loads(done.stdout)
    return {name: value for name, value in settings.items() if value != defaults[name]}


# ---- what is understood ---------------------------------------------------------------------------------------------

COMMON: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["--hostnames", "node[01-16]"], {"hostnames": "node[01-16]"}),
    (["--workers-per-host", "8"], {"workers_per_host": 8}),
    (["--workers-per-host", "gpu", "--timeout", "3"], {"workers_per_host": "gpu", "timeout": 3.0}),
    (["--hostnames", "a", "b", "--workers-per-host", "2", "4"], {"hostnames": ["a", "b"], "workers_per_host": [2, 4]}),
    (
        ["--hostnames", "a", "b", "--workers-per-host", "2", "cpu"],
        {"hostnames": ["a", "b"], "workers_per_host": [2, "cpu"]},
    ),
    (["--backend", "None"], {"backend": None}),
    (
        ["--backend", "gloo", "--python", "/bin/python3", "--cwd", "/tmp"],
        {"backend": "gloo", "python": "/bin/python3", "cwd": "/tmp"},
    ),
    (["--extra-env-vars", "HF_*", "OMP_NUM_THREADS=4"], {"extra_env_vars": ["HF_*", "OMP_NUM_THREADS=4"]}),
    (
        ["--default-env-vars", "PATH", "--preload", "numpy", "json.tool"],
        {"default_env_vars": ["PATH"], "preload": ["numpy", "json.tool"]},
    ),
    (["--env-file", "script.py"], {"env_file": "script.py"}),
    (["--log-handlers", "None", "--start", "ssh"], {"log_handlers": None, "start": "ssh"}),
]


@pytest.mark.parametrize(("arguments", "settings"), COMMON)
@pytest.mark.parametrize("source", [ARGPARSE, TYRO], ids=["argparse", "tyro"])
def test_options_become_settings(run: Run, source: str, arguments: list[str], settings: dict[str, Any]) -> None:
    assert given(run(source, *arguments)) == settings


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ([], {}),
        (["hostnames=node[01-16]", "workers_per_host=8"], {"hostnames": "node[01-16]", "workers_per_host": 8}),
        (["hostnames=a,b", "workers_per_host=[2,cpu]"], {"hostnames": "a,b", "workers_per_host": [2, "cpu"]}),
        (
            ["workers_per_host=gpu", "backend=null", "timeout=3"],
            {"workers_per_host": "gpu", "backend": None, "timeout": 3},
        ),
        (["extra_env_vars=[HF_*,A=1]", "preload=[numpy]"], {"extra_env_vars": ["HF_*", "A=1"], "preload": ["numpy"]}),
        (['extra_env_vars={"A": "1"}', "env_file=x"], {"extra_env_vars": {"A": "1"}, "env_file": "x"}),
    ],
)
def test_jsonargparse_knows_the_settings(run: Run, arguments: list[str], settings: dict[str, Any]) -> None:
    assert given(run(JSONARGPARSE, *[f"--launcher.{each}" for each in arguments])) == settings


def test_jsonargparse_reads_them_from_a_file(run: Run, tmp_path: Path) -> None:
    text = "launcher:\n  hostnames: [node1, node2]\n  workers_per_host: [2, gpu]\n  extra_env_vars: {A: '1'}\n"
    (tmp_path / "settings.yaml").write_text(text)
    assert given(run(JSONARGPARSE, "--config", "settings.yaml")) == {
        "hostnames": ["node1", "node2"],
        "workers_per_host": [2, "gpu"],
        "extra_env_vars": {"A": "1"},
    }


def test_argparse_goes_on_with_options_of_the_users_own_and_reads_lower_case_none(run: Run) -> None:
    source = ARGPARSE + "assert args.steps == 7 and args.lease == 9.0 and args.hostnames == 'auto'"
    done = run(source, "--steps", "7", "--lease", "9", "--backend", "none")
    assert given(done) == {"lease": 9.0, "backend": None}


# ---- and works ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "prefix", "none"),
    [
        (f"import tyro, trx\n{MAIN}\ntyro.cli(main)", "--launcher.", "None"),
        (f"import jsonargparse, trx\n{MAIN}\njsonargparse.CLI(main)", "--launcher.", "null"),
        (ARGPARSE.replace(SHOW, f"{MAIN}\nmain(launcher, args.steps)"), "--", "none"),
    ],
    ids=["tyro", "jsonargparse", "argparse"],
)
def test_a_script_with_a_command_line_launches(run: Run, source: str, prefix: str, none: str) -> None:
    settings = {"hostnames": "localhost,localhost", "workers-per-host": "2", "backend": none}
    if "jsonargparse" in source:
        settings = {name.replace("-", "_"): value for name, value in settings.items()}
    arguments = [word for name, value in settings.items() for word in (prefix + name, value)]
    done = run(source, "--steps", "7", *arguments)
    assert done.stdout == "7 [0, 1, 2, 3]\n", done.stderr


# ---- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [ARGPARSE, TYRO, JSONARGPARSE], ids=["argparse", "tyro", "jsonargparse"])
def test_help_is_that_of_the_docstring(run: Run, source: str) -> None:
    done = run(source, "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.replace("│", " ").split())
    for setting in (each.name for each in dataclasses.fields(trx.Launcher)):
        assert f"--{setting.replace('_', '-')}" in words or f"--launcher.{setting}" in words
    assert "Modules that hosts import once, before the workers are forked" in words
    assert "Seconds between SIGTERM and SIGKILL for workers that are stopped. " in words
    assert "lines like " in words
    assert "default: 300" in words


def test_options_are_there_where_python_leaves_docstrings_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    done = run(ARGPARSE, "--help")
    assert "--hostnames" in done.stdout
    assert "hostfile" not in done.stdout


# ---- what is no good ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--timeout", "long"], "argument --timeout: invalid float value: 'long'"),
        (["--lease", "1"], "lease must be at least 3.0 seconds, not 1.0"),
        (["--workers-per-host", "many"], "workers_per_host must be a number or one of"),
        (["--workers-per-host", "-2"], "workers_per_host must be at least 1, not -2"),
        (
            ["--hostnames", "a", "b", "--workers-per-host", "1", "2", "3"],
            "workers_per_host names 3 hosts, but there are 2",
        ),
        (["--hostnames", "node[1"], "'node[1' cannot be read as a host list"),
        (["--hostnames", "./hosts"], "hostnames: there is no file 'hosts'"),
        (["--hostnames"], "argument --hostnames: expected at least one argument"),
        (["--backend", "glue"], "torch knows no backend 'glue'"),
        (["--env-file", "nowhere.sh"], "env_file: there is no file 'nowhere.sh'"),
        (["--extra-env-vars", "A B=1"], "extra_env_vars: 'A B' cannot be an environment variable"),
        (["--start", "rsh"], "argument --start: invalid choice: 'rsh'"),
        (["--log-handlers", "files"], "argument --log-handlers: invalid choice: 'files'"),
        (["--nodes", "3"], "unrecognized arguments: --nodes 3"),
    ],
)
def test_a_bad_option_ends_the_script_as_argparse_does(run: Run, arguments: list[str], words: str) -> None:
    done = run(ARGPARSE, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("script.py: error: ")
    assert words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("source", [TYRO, JSONARGPARSE], ids=["tyro", "jsonargparse"])
def test_an_option_of_the_wrong_type_is_refused_by_the_others_too(run: Run, source: str) -> None:
    prefix = "--" if source is TYRO else "--launcher."
    done = run(source, f"{prefix}timeout", "long")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "timeout" in done.stderr


def test_importing_trx_does_not_import_argparse_helpers(run: Run) -> None:
    source = "import sys, trx\nprint('trx.command_line' in sys.modules, 'docstring_parser' in sys.modules)"
    assert run(source).stdout == "False False\n"
    assert run("from trx import *\nprint(add_argument_group.__module__)").stdout == "trx.command_line\n"
