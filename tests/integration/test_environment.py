"""Which variables the workers have, and that they work as if they had been exported before Python started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import trx

from .helpers import Script, is_alive, run_script, travels_by_value, wait_until

travels_by_value(__name__)


def variables(*names: str) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def launch_with(func: Any, *args: Any, workers: int = 1, **settings: Any) -> Any:
    return trx.launch(func, args, hostnames=["localhost"], workers_per_host=workers, backend=None, **settings)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / "variables.sh"


# ---- copied variables -----------------------------------------------------------------------------------------------


def test_variables_that_match_are_those_of_the_moment_and_others_those_of_the_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["MY_ONE", "MY_TWO", "YOURS", "NCCL_MADE_UP", "PYTHON_MADE_UP", "MY.DOT"]
    for name in names:
        monkeypatch.setenv(name, "before")

    settings: Any = {"extra_env_vars": ["MY_*", "YOUR?"], "backend": None}
    with trx.Launcher(["localhost"], 1, **settings) as launcher:
        assert launcher.run(variables, *names).rank(0) == dict.fromkeys(names, "before")
        for name in names:
            monkeypatch.setenv(name, "after")

        now = launcher.run(variables, *names).rank(0)

    assert now == {**dict.fromkeys(names, "after"), "MY.DOT": "before"}


def test_default_patterns_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_MADE_UP", "before")
    monkeypatch.setenv("MINE", "before")

    with trx.Launcher(["localhost"], 1, backend=None, default_env_vars=["MINE"]) as launcher:
        monkeypatch.setenv("NCCL_MADE_UP", "after")
        monkeypatch.setenv("MINE", "after")

        assert launcher.run(variables, "NCCL_MADE_UP", "MINE").rank(0) == {"NCCL_MADE_UP": "before", "MINE": "after"}


def test_mapping_sets_values_above_those_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    wanted = {"NCCL_DEBUG": "WARN", "NEW": "a=b 'c' \"d\" $e\nf", "EMPTY": "", "SNOW": "\N{SNOWMAN}"}

    assert launch_with(variables, *wanted, extra_env_vars=wanted).rank(0) == wanted
    assert os.environ["NCCL_DEBUG"] == "INFO"


def test_value_that_is_no_text_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_BYTES", os.fsdecode(b"\xff\xfe/path"))

    with pytest.raises(ValueError, match="MY_BYTES"):
        launch_with(variables, extra_env_vars=["MY_BYTES"])


def test_run_does_not_see_what_an_earlier_run_set(workers: trx.Launcher) -> None:
    def set_and_tell() -> str | None:
        before = os.environ.get("SET_BY_A_RUN")
        os.environ["SET_BY_A_RUN"] = "1"
        return before

    assert list(workers.run(set_and_tell)) == [None, None]
    assert list(workers.run(set_and_tell)) == [None, None]


# ---- env_file -------------------------------------------------------------------------------------------------------


def test_env_file_is_a_shell_script(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "given")
    monkeypatch.setenv("UNWANTED", "1")
    env_file.write_text(
        """# variables of this cluster
export EXPORTED=one
PLAIN=two
SINGLE='quoted $GIVEN "x"'
DOUBLE="$GIVEN and \\"more\\""
export MANY="first line
second line
"
COMPUTED=$(printf '%s' "$EXPORTED" | tr a-z A-Z)
helper() { PLAIN=$1; }
helper three
unset UNWANTED
PATH="$PATH:/added"
IFS= read -r ANSWER || ANSWER="no input"
echo "printed by the env_file"
false
"""
    )

    names = ["EXPORTED", "PLAIN", "SINGLE", "DOUBLE", "MANY", "COMPUTED", "UNWANTED", "ANSWER", "PATH"]
    seen = launch_with(variables, *names, env_file=env_file).rank(0)

    path = seen.pop("PATH")
    assert path.endswith(":/added")
    assert path.startswith(os.environ["PATH"])
    assert seen == {
        "EXPORTED": "one",
        "PLAIN": "three",
        "SINGLE": 'quoted $GIVEN "x"',
        "DOUBLE": 'given and "more"',
        "MANY": "first line\nsecond line\n",
        "COMPUTED": "ONE",
        "UNWANTED": None,
        "ANSWER": "no input",
    }


def test_env_file_sees_and_may_overrule_extra_env_vars(env_file: Path) -> None:
    env_file.write_text('BOTH="$BOTH, then by the file"\n')

    result = launch_with(variables, "BOTH", env_file=env_file, extra_env_vars={"BOTH": "set by the mapping"})

    assert result.rank(0) == {"BOTH": "set by the mapping, then by the file"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo 'no module cuda/12 here' >&2\nexit 3\n", ["status 3", "no module cuda/12 here"]),
        ("export A=1\nexit 0\n", ["ended by `exit`"]),
        ('A="never closed\n', ["status 2", "unexpected EOF"]),
        ("set -e\necho 'about to fail'\nfalse\nA=1\n", ["status 1", "about to fail"]),
        ("kill -9 $$\n", ["status -9"]),
    ],
    ids=["exit", "exit-0", "syntax", "errexit", "killed"],
)
def test_env_file_that_fails_is_reported_with_what_it_said(env_file: Path, text: str, words: Iterable[str]) -> None:
    env_file.write_text(text)

    with pytest.raises(trx.AgentFailedError, match="localhost, applying env_file: ") as caught:
        launch_with(variables, env_file=env_file)

    for word in words:
        assert word in str(caught.value)


def test_env_file_that_fails_is_reported_for_every_host(env_file: Path) -> None:
    env_file.write_text("exit 1\n")

    with pytest.raises(trx.AgentFailedError) as caught:
        trx.launch(variables, hostnames=["localhost", "localhost"], workers_per_host=1, env_file=env_file)

    assert [failure.hostname for failure in caught.value.failures] == ["localhost", "localhost#2"]


def test_env_file_with_which_python_cannot_start_is_reported_with_what_it_said(env_file: Path) -> None:
    """The process that imports torch ends before its agent has said hello."""
    env_file.write_text("export PYTHONHOME=/nonexistent")
    with pytest.raises(trx.AgentFailedError, match="No module named 'encodings'") as caught:
        launch_with(os.getpid, env_file=env_file, start_timeout=20)
    assert caught.value.failures[0].stage == "importing torch and what is to be preloaded"


def test_env_file_that_leaves_something_running_does_not_hold_anybody_up(env_file: Path) -> None:
    env_file.write_text("sleep 50 & setsid sleep 50 &\nSET=yes\n")

    start = time.monotonic()
    assert launch_with(variables, "SET", env_file=env_file).rank(0) == {"SET": "yes"}
    assert time.monotonic() - start < 30


SLOW = """
if [ -n "$MY_OWN" ]; then
  touch begun
  while [ ! -e go ]; do sleep 0.05; done
fi
FROM_FILE="after $MY_OWN"
"""


def test_slow_env_file_of_a_later_run_does_not_make_the_host_seem_lost(
    env_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env_file.write_text(SLOW)
    settings: Any = {"extra_env_vars": ["MY_*"], "backend": None, "env_file": env_file, "lease": 3}
    with trx.Launcher(["localhost"], 1, **settings) as launcher:
        assert launcher.run(variables, "FROM_FILE").rank(0) == {"FROM_FILE": "after "}
        monkeypatch.setenv("MY_OWN", "value")
        threading.Timer(6.0, (tmp_path / "go").touch).start()
        assert launcher.run(variables, "FROM_FILE", bytes(10_000_000).hex()).rank(0)["FROM_FILE"] == "after value"
        assert (tmp_path / "begun").exists()


def test_ctrl_c_while_env_file_is_running_ends_it(tmp_path: Path) -> None:
    (tmp_path / "variables.sh").write_text(SLOW)
    source = """
import os, signal, threading, time
from pathlib import Path
import trx

def interrupt():
    while not Path("begun").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

with trx.Launcher(["localhost"], 1, backend=None, env_file="variables.sh", extra_env_vars=["MY_*"]) as launcher:
    launcher.run(os.getpid)
    os.environ["MY_OWN"] = "value"
    threading.Thread(target=interrupt).start()
    try:
        launcher.run(os.getpid)
    except KeyboardInterrupt:
        Path("go").touch()
        print(launcher.run(os.getenv, "FROM_FILE").rank(0))
"""
    assert run_script(tmp_path, source) == "after value\n"


# ---- variables that count at the start of a process -----------------------------------------------------------------


NEVER_ENDS = """
import sys
import trx
from pathlib import Path

Path("variables.sh").write_text("echo $$ >pid.part; mv pid.part pid; sleep 40")
trx.launch(print, hostnames=["localhost"], workers_per_host=1, env_file="variables.sh")
"""


def test_env_file_ends_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    with Script(tmp_path, NEVER_ENDS) as script:
        wait_until((tmp_path / "pid").exists, "env_file is running")
        shell = int((tmp_path / "pid").read_text())
        assert is_alive(shell)
        script.process.kill()
        wait_until(lambda: not is_alive(shell), "env_file has ended", 10)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs: torch takes no more threads than those")
def test_omp_num_threads_works() -> None:
    def threads() -> int:
        import torch

        return torch.get_num_threads()

    assert list(launch_with(threads, workers=2, extra_env_vars={"OMP_NUM_THREADS": "2"})) == [2, 2]
    assert list(launch_with(threads, workers=2)) == [1, 1]


def test_hash_seed_works() -> None:
    seeded = subprocess.run(
        [sys.executable, "-c", "print(hash('seeded'))"],
        env={**os.environ, "PYTHONHASHSEED": "42"},
        capture_output=True,
        check=True,
    )

    result = launch_with(lambda: hash("seeded"), workers=2, extra_env_vars={"PYTHONHASHSEED": "42"})

    assert list(result) == [int(seeded.stdout)] * 2


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A shared library that no Python loads by itself."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    libc = next(Path(line.split()[-1]) for line in maps if "/libc.so" in line or "/libc-2" in line)
    harmless = libc.parent / "libBrokenLocale.so.1"
    if not harmless.exists():
        pytest.skip(f"needs a library to preload: {harmless} is missing")
    return Path(shutil.copy(harmless, tmp_path / "preloaded.so"))


def is_mapped(path: str) -> bool:
    return path in Path("/proc/self/maps").read_text()


def test_library_is_preloaded_by_extra_env_vars(library: Path) -> None:
    assert not is_mapped(str(library))

    result = launch_with(is_mapped, str(library), workers=2, extra_env_vars={"LD_PRELOAD": str(library)})

    assert list(result) == [True, True]


def test_library_is_preloaded_by_env_file(library: Path, env_file: Path) -> None:
    env_file.write_text(f'export LD_PRELOAD="{library}${{LD_PRELOAD:+:$LD_PRELOAD}}"\n')

    assert launch_with(is_mapped, str(library), env_file=env_file).rank(0)


# ---- preloaded modules ----------------------------------------------------------------------------------------------


def test_module_is_preloaded_with_cuda_questions_answered_by_nvml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only there: what a worker asks is its own affair."""
    (tmp_path / "eager.py").write_text(
        "import os\nASKED = os.environ.get('PYTORCH_NVML_BASED_CUDA_CHECK')\nPID = os.getpid()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def look() -> tuple[str | None, bool, str | None]:
        import eager  # type: ignore[import-not-found]

        return eager.ASKED, os.getpid() == eager.PID, os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")

    assert launch_with(look, preload=["eager"]).rank(0) == ("1", False, None)
