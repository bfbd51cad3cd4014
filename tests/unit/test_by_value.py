"""Which modules workers would find by their name, where they look at the same places."""

from __future__ import annotations

import importlib
import importlib.util
import json.decoder
import linecache
import os
import shutil
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import pytest

from trx_agent.protocol import payload
from trx_agent.protocol.by_value import can_be_imported, send_by_value


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """On `sys.path`, with a module and a package; what is imported meanwhile is forgotten."""
    (tmp_path / "byvalue_module.py").touch()
    (tmp_path / "byvalue_package").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "byvalue_package" / f"{name}.py").touch()
    (tmp_path / "byvalue_namespace").mkdir()
    (tmp_path / "byvalue_namespace" / "part.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    before, registered = set(sys.modules), set(cloudpickle.list_registry_pickle_by_value())
    yield tmp_path
    for name in cloudpickle.list_registry_pickle_by_value() - registered:
        cloudpickle.unregister_pickle_by_value(sys.modules[name])
    for name in set(sys.modules) - before:
        del sys.modules[name]


def loaded(path: Path, name: str) -> types.ModuleType:
    """As pytest loads test modules with --import-mode=importlib."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


NAMES = ["byvalue_module", "byvalue_package", "byvalue_package.part", "byvalue_namespace.part"]


@pytest.mark.parametrize("name", NAMES)
def test_modules_of_the_path_are_found(name: str, folder: Path) -> None:
    assert can_be_imported(importlib.import_module(name))


@pytest.mark.parametrize("name", NAMES)
def test_modules_of_a_directory_that_has_left_the_path_are_not(name: str, folder: Path) -> None:
    module = importlib.import_module(name)
    sys.path.remove(str(folder))
    assert not can_be_imported(module)


@pytest.mark.parametrize("module", [os, os.path, sys, json.decoder, pytest, msgspec, types, importlib.machinery])
def test_those_of_the_interpreter_and_installed_ones_are_found(module: types.ModuleType) -> None:
    assert can_be_imported(module)


def test_every_module_that_is_imported_now_is_found() -> None:
    """Nothing that anybody installs may be taken for a script's own: it would travel with all that it refers to."""
    here = str(Path(__file__).parents[1])  # as pytest imports these, others would not
    others = [each for each in list(sys.modules.values()) if not str(getattr(each, "__file__", "")).startswith(here)]
    assert [module for module in others if not can_be_imported(module)] == []


@pytest.mark.parametrize("name", ["byvalue_loaded", "byvalue_package.loaded", "byvalue_nowhere.loaded"])
def test_modules_that_were_loaded_by_their_path_are_not(name: str, folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / "byvalue_module.py", elsewhere / "byvalue_loaded.py")
    assert not can_be_imported(loaded(elsewhere / "byvalue_loaded.py", name))


def test_another_module_of_the_same_name_is_not_taken_for_it(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    shutil.copy(folder / "byvalue_module.py", folder / "elsewhere" / "byvalue_module.py")
    assert not can_be_imported(loaded(folder / "elsewhere" / "byvalue_module.py", "byvalue_module"))


def test_another_package_of_the_same_name_is_not_taken_for_its_own(folder: Path) -> None:
    elsewhere = folder / "elsewhere" / "byvalue_package"
    elsewhere.mkdir(parents=True)
    (elsewhere / "test_it.py").touch()
    sys.modules["byvalue_package"] = parent = types.ModuleType("byvalue_package")
    parent.__path__ = [str(elsewhere)]
    assert not can_be_imported(loaded(elsewhere / "test_it.py", "byvalue_package.test_it"))


def test_packages_may_add_places_of_their_own(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "more.py").touch()
    importlib.import_module("byvalue_package").__path__.append(str(elsewhere))
    assert can_be_imported(importlib.import_module("byvalue_package.more"))


def test_modules_without_a_file_are_left_to_whoever_makes_them(folder: Path) -> None:
    assert can_be_imported(importlib.import_module("byvalue_namespace"))
    assert can_be_imported(types.ModuleType("byvalue_made"))
    assert not can_be_imported(types.ModuleType("__mp_main__"))


def test_finders_that_fail_leave_it_to_the_import(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, *_: object) -> None:
            raise RuntimeError

    module = importlib.import_module("byvalue_module")
    monkeypatch.setattr(sys, "meta_path", [Finder(), object(), *sys.meta_path])
    assert can_be_imported(module)


def test_modules_that_are_found_are_not_registered_and_others_are(folder: Path) -> None:
    found = importlib.import_module("byvalue_module")
    send_by_value(found)
    assert found.__name__ not in cloudpickle.list_registry_pickle_by_value()
    sys.path.remove(str(folder))
    send_by_value(found)
    assert found.__name__ in cloudpickle.list_registry_pickle_by_value()


def test_main_is_cloudpickles_own_affair() -> None:
    send_by_value(sys.modules["__main__"])
    assert "__main__" not in cloudpickle.list_registry_pickle_by_value()


def test_code_keeps_its_file_for_tracebacks() -> None:
    def outer() -> Any:
        return lambda: None

    pickled = payload.dumps(outer)
    copy = payload.loads(pickled.pickle, pickled.buffers)
    assert (copy.__code__.co_filename, copy().__code__.co_filename) == (__file__, __file__)
    assert copy.__code__ == outer.__code__


def failing(file: str, lines: list[str]) -> Any:
    """A function of a file that only this process knows, such as a notebook's cell."""
    linecache.cache[file] = len("".join(lines)), None, lines, file
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("".join(lines), file, "exec"), namespace)
    return namespace["fail"]


LINES = ["def fail():\n", "    raise ValueError('no')  # as it says here\n"]


@pytest.mark.parametrize("there", [None, "", "x = 1\n" * 20])
def test_code_keeps_its_lines_where_the_file_is_not_there_or_another_one(there: str | None, tmp_path: Path) -> None:
    file = str(tmp_path / "cell")
    pickled = payload.dumps(failing(file, LINES))
    del linecache.cache[file]
    if there is not None:
        Path(file).write_text(there)
    copy = payload.loads(pickled.pickle, pickled.buffers)
    with pytest.raises(ValueError, match="no") as caught:
        copy()
    assert "# as it says here" in "".join(traceback.format_exception(caught.value))
    del linecache.cache[file]


def test_a_file_that_is_there_is_read_when_a_traceback_needs_it(tmp_path: Path) -> None:
    file = str(tmp_path / "cell")
    pickled = payload.dumps(failing(file, LINES))
    del linecache.cache[file]
    Path(file).write_text("".join(LINES))
    payload.loads(pickled.pickle, pickled.buffers)
    assert file not in linecache.cache


def test_lines_travel_once_for_all_functions_of_a_file_and_not_for_what_is_installed(tmp_path: Path) -> None:
    lines = [f"# line {number}\n" for number in range(10_000)]
    fail = failing(str(tmp_path / "cell"), LINES + lines)
    one = payload.dumps(fail).nbytes
    assert one < len("".join(lines)) * 2
    assert payload.dumps([types.FunctionType(fail.__code__.replace(), {}) for _ in range(10)]).nbytes < 2 * one
    assert payload.dumps(types.FunctionType(shutil.copytree.__code__, {})).nbytes < 10_000
    del linecache.cache[str(tmp_path / "cell")]
