"""Code that users have anywhere but in installed modules: workers get it, and what they return fits what is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers import ROOT, run_script

# ---- of the script itself -------------------------------------------------------------------------------------------


def test_classes_of_the_script_come_back_as_themselves(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
import abc, dataclasses, enum, typing
import trx

T = typing.TypeVar("T")

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Config:
    width: int = 3
    colour: Colour = Colour.RED
    inner: "Config | None" = None

@dataclasses.dataclass(slots=True)
class Slotted:
    width: int = 3

class Bare:
    __slots__ = ("width", "__weakref__")
    def __init__(self):
        self.width = 3

class Named(typing.NamedTuple):
    width: int = 3

class Base(abc.ABC):
    kinds = {}
    def __init_subclass__(cls):
        super().__init_subclass__()
        Base.kinds[cls.__name__] = cls
    @abc.abstractmethod
    def story(self): ...

class Child(Base, typing.Generic[T]):
    def story(self):
        return [*(super().story() or ["base"]), __class__.__name__]
    def other(self):
        return Other()

class Other(Child[int]):
    class Deep:
        pass
    def other(self):
        return Child()

class Problem(Exception):
    def __init__(self, what, where):
        super().__init__(f"{what} in {where}")
        self.where = where

def fail():
    raise Problem("a leak", "the cellar")

def echo(value):
    return value

with trx.Launcher(["localhost"], 1, backend=None) as launcher:
    def run(function, *args):
        return launcher.run(function, *args).rank(0)

    config = Config(4, Colour.RED, Config())
    back = run(echo, config)
    assert back == config and type(back) is type(back.inner) is Config and back.colour is Colour.RED
    assert run(lambda: isinstance(config, Config) and config.colour is Colour.RED)
    for kind in (Config, Slotted, Bare, Named, Child, Other, Other.Deep):
        assert type(run(kind)) is kind, kind
        assert type(run(echo, kind())) is kind, kind
        assert run(echo, kind) is kind, kind
    assert run(lambda: Slotted(5).width) == 5 and not hasattr(run(Slotted), "__dict__")
    assert not run(lambda: hasattr(Slotted(5), "__dict__"))
    assert run(Other().story) == ["base", "Child"]
    assert type(run(Other().other)) is Child and type(run(Child().other)) is Other
    assert run(lambda: sorted(Base.kinds)) == ["Child", "Other"]
    try:
        run(fail)
    except Problem as error:
        assert isinstance(error, trx.WorkerFailedError) and error.where == "the cellar"
    else:
        raise AssertionError
""",
    )


def test_classes_of_the_script_stay_as_they_are_when_instances_come_back(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
import enum
import trx

OFFSET = 1

class Colour(enum.Enum):
    RED = 1
    def offset(self):
        return OFFSET

class Model:
    kinds = []
    count = 0
    def __init_subclass__(cls):
        Model.kinds.append(cls)
    def offset(self):
        return OFFSET
    def counted(self):
        Model.count += 1
        return self, Colour.RED

class Child(Model):
    pass

functions = Model.offset, Colour.offset
with trx.Launcher(["localhost"], 2, backend=None) as launcher:
    for _ in range(2):
        for model, colour in launcher.run(Child().counted):
            assert type(model) is Child and colour is Colour.RED
        assert launcher.run(lambda: (Model.kinds, Model.count)).rank(0) == ([Child], 0)
    OFFSET = 2
    assert (model.offset(), Model.count, Model.kinds) == (2, 0, [Child])
    assert (Model.offset, Colour.offset) == functions and Colour.RED.offset() == 2
    assert launcher.run(model.offset).rank(0) == 2

    def make():
        class Local:
            def offset(self):
                return OFFSET
        return Local()
    made = launcher.run(make)
    assert [local.offset() for local in made] == [2, 2]
    assert launcher.run(made.rank(0).offset).rank(1) == 2
""",
    )


def test_what_pickle_would_send_by_its_name_though_it_is_of_the_script(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
import functools, typing
import trx

P = typing.ParamSpec("P")
UserId = typing.NewType("UserId", int)

@functools.lru_cache(maxsize=7)
def fibonacci(n: UserId) -> int:
    "Recursive."
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

power = functools.lru_cache(functools.partial(pow, 2))  # which has no name at all

@functools.singledispatch
def describe(value):
    "Also."
    return "anything"

@describe.register
def _(value: list):
    return [describe(each) for each in value]

@describe.register
def _(value: int):
    return "a number"

def twice(function: typing.Callable[P, int]) -> typing.Callable[P, int]:
    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> int:
        return 2 * function(*args, **kwargs)
    return inner

@twice
def three(user: UserId) -> int:
    return 3

class Model:
    @functools.cached_property
    def width(self):
        return 5
    @functools.lru_cache
    def depth(self):
        return 6
    @classmethod
    @functools.cache
    def height(cls):
        return 7
    @functools.singledispatchmethod
    def kind(self, value):
        return "anything"
    @kind.register
    def _(self, value: int):
        return "a number"

with trx.Launcher(["localhost"], 1, backend=None) as launcher:
    def run(function, *args):
        return launcher.run(function, *args).rank(0)

    assert run(fibonacci, 30) == 832040
    assert run(lambda: (fibonacci(9), fibonacci.cache_parameters()["maxsize"])) == (34, 7)
    assert fibonacci.cache_info().misses == 0
    assert run(lambda: power(5)) == 32
    assert run(describe, [1, "a"]) == ["a number", "anything"]
    assert run(lambda: describe.__doc__) == "Also."
    assert run(three, UserId(1)) == 6
    model = Model()
    assert run(lambda: (model.width, model.depth(), model.height(), model.kind(1))) == (5, 6, 7, "a number")
    back = run(lambda: (model.width, model)[1])
    assert type(back) is Model and vars(back) == {"width": 5}
""",
    )


@pytest.mark.parametrize("arguments", [["-m", "package"], ["-m", "package.start"]])
def test_a_module_that_is_run_by_its_name_imports_relatively_in_workers_too(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "parts.py").write_text("class Part:\n    pass\n")
    source = """
print("begins")
import trx
from .parts import Part
class Own: pass
def work():
    from . import parts
    assert parts.Part is Part
    return __name__, Part(), Own()
name, part, own = trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None).rank(0)
print(name, type(part) is Part, type(own) is Own)
"""
    for name in ("__main__", "start"):
        (tmp_path / "package" / f"{name}.py").write_text(source)

    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path)

    assert done.stdout == "begins\n__main__ True True\n", done.stderr


def test_a_process_that_multiprocessing_has_spawned_may_launch(tmp_path: Path) -> None:
    out = run_script(
        tmp_path,
        """
import multiprocessing
import trx

def work():
    return __name__

def launch():
    print(trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None).rank(0), flush=True)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=launch)
    process.start()
    process.join()
""",
    )

    assert out == "__mp_main__\n"


# ---- of modules that workers cannot import --------------------------------------------------------------------------


def test_modules_that_no_worker_would_find(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    code = "NUMBER = 3\nclass Part:\n    pass\ndef part():\n    return Part()\ndef number():\n    return NUMBER\n"
    for name in ("by_path", "on_path"):
        (tmp_path / "elsewhere" / f"{name}.py").write_text(code)
    (tmp_path / "beside.py").write_text(code)

    run_script(
        tmp_path,
        """
import importlib.util, pathlib, sys
import trx
import beside

folder = pathlib.Path(__file__).parent / "elsewhere"
spec = importlib.util.spec_from_file_location("by_path", folder / "by_path.py")
by_path = importlib.util.module_from_spec(spec)
sys.modules["by_path"] = by_path
spec.loader.exec_module(by_path)
sys.path.insert(0, str(folder))
import on_path
sys.path.pop(0)

with trx.Launcher(["localhost"], 1, backend=None) as launcher:
    for module in (by_path, on_path, beside):
        module.NUMBER = 4
        number = 3 if module is beside else 4  # which is imported, as always
        assert launcher.run(module.number).rank(0) == number, module
        assert launcher.run(lambda: module.number()).rank(0) == number, module
        assert type(launcher.run(module.part).rank(0)) is module.Part, module
        assert type(launcher.run(lambda part: part, module.Part()).rank(0)) is module.Part, module
""",
    )


PYTEST_PROJECT = {
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = ['-p', 'no:cacheprovider']\nfilterwarnings = ['error']\n",
    "tests/conftest.py": """
import pytest
import trx

class Given:
    pass

@pytest.fixture(scope="session")
def launcher():
    with trx.Launcher(["localhost"], 2, backend=None) as launcher:
        yield launcher

@pytest.fixture
def given():
    return Given()
""",
    "tests/unit/test_launches.py": """
import dataclasses
import os
import pytest

@dataclasses.dataclass
class Config:
    width: int = 3

def rank():
    rank = int(os.environ["RANK"])
    assert rank in (0, 1), "a statement that pytest has rewritten"
    return rank

def expects():
    with pytest.raises(ValueError, match="wrong"):
        raise ValueError("wrong")
    return True

def fails():
    width = 3
    assert width == 4

def test_functions_of_the_module(launcher):
    assert list(launcher.run(rank)) == [0, 1]
    assert all(launcher.run(expects))

def test_classes_of_the_module(launcher):
    assert list(launcher.run(Config, 4)) == [Config(4)] * 2
    assert list(launcher.run(lambda config: config, Config(5))) == [Config(5)] * 2

def test_classes_of_the_conftest(launcher, given):
    assert type(launcher.run(lambda: given).rank(1)) is type(given)

def test_closures_over_fixtures(launcher, tmp_path):
    def there():
        return tmp_path.exists()
    assert all(launcher.run(there))

def test_failures(launcher):
    with pytest.raises(AssertionError) as caught:
        launcher.run(fails)
    assert "assert width == 4" in caught.value.worker_traceback

class TestMethods:
    def name(self):
        return type(self).__name__

    def test_of_the_test_itself(self, launcher):
        assert launcher.run(self.name).rank(0) == "TestMethods"
""",
}
PYTEST_PROJECT["tests/other/test_launches_again.py"] = PYTEST_PROJECT["tests/unit/test_launches.py"]


@pytest.mark.parametrize("mode", ["importlib", "prepend", "append"])
def test_tests_of_a_users_own(tmp_path: Path, mode: str) -> None:
    for name, text in PYTEST_PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "agent")])}
    command = [sys.executable, "-m", "pytest", "-q", f"--import-mode={mode}", "--rootdir", str(tmp_path), str(tmp_path)]

    (tmp_path / "start").mkdir()  # elsewhere, so that nothing is found by the working directory
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "start", env=environment)

    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout
