"""Bad input gets one clear error before anything is started."""

from __future__ import annotations

import functools
import logging
import re
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trx
from trx import checks, host_lists
from trx.plan import Host
from trx_agent.protocol import payload


class Started(AssertionError):
    """A session was made."""


class NoSession:
    """In the place of `trx.session.Session`."""

    def __init__(self, launcher: trx.Launcher, planned: tuple[Host, ...]) -> None:
        raise Started("something was started")


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would start something fails instead; and no allocation is around."""
    session = types.ModuleType("trx.session")
    session.Session = NoSession  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trx.session", session)
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)


def work() -> None:
    """What a user may launch."""


async def async_work() -> None: ...


class AsyncCallable:
    async def __call__(self) -> None: ...


class Callables:
    def __call__(self) -> None: ...

    async def async_method(self) -> None: ...


Bad = tuple[dict[str, Any], type[Exception], str]


def _bad_seconds(name: str) -> list[Bad]:
    return [
        ({name: 0}, ValueError, f"{name} must be more than 0 seconds"),
        ({name: -1.5}, ValueError, f"{name} must be more than 0 seconds"),
        ({name: float("nan")}, ValueError, f"{name} must be more than 0 seconds"),
        ({name: float("inf")}, ValueError, f"{name} must be more than 0 seconds, and finite"),
        ({name: "600"}, TypeError, f"{name} must be a number of seconds, not '600'"),
        ({name: None}, TypeError, f"{name} must be a number of seconds"),
        ({name: True}, TypeError, f"{name} must be a number of seconds"),
    ]


BAD_SETTINGS: list[Bad] = [
    # hostnames
    ({"hostnames": []}, ValueError, "hostnames is empty"),
    ({"hostnames": ()}, ValueError, "hostnames is empty"),
    ({"hostnames": None}, TypeError, "hostnames must be a list"),
    ({"hostnames": 3}, TypeError, "hostnames must be a list"),
    ({"hostnames": {"node1"}}, TypeError, "hostnames must be a list"),
    ({"hostnames": {"node1": 8}}, TypeError, "hostnames must be a list"),
    ({"hostnames": ["node1", None]}, TypeError, "hostnames must be strings, not None"),
    ({"hostnames": [["node1"]]}, TypeError, "hostnames must be strings, not ['node1']"),
    ({"hostnames": b"node1"}, TypeError, "hostnames must be"),
    ({"hostnames": ["node1", ""]}, ValueError, "'' cannot be the name of a host"),
    ({"hostnames": ["-oProxyCommand=evil"]}, ValueError, "'-oProxyCommand=evil' cannot be"),
    ({"hostnames": ["node1 node2"]}, ValueError, "'node1 node2' cannot be"),
    ({"hostnames": ["node1\n"]}, ValueError, "'node1\\n' cannot be"),
    ({"hostnames": ["node\x001"]}, ValueError, "cannot be the name of a host"),
    # workers
    ({"hostnames": ["a", "b"], "workers_per_host": [1]}, ValueError, "names 1 hosts, but there are 2"),
    ({"hostnames": ["a", "b"], "workers_per_host": [1, 2, 3]}, ValueError, "names 3 hosts, but there are 2"),
    ({"hostnames": ["a"], "workers_per_host": []}, ValueError, "names 0 hosts, but there are 1"),
    ({"hostnames": ["a"], "workers_per_host": 0}, ValueError, "workers_per_host must be at least 1, not 0"),
    ({"hostnames": ["a"], "workers_per_host": -2}, ValueError, "must be at least 1, not -2"),
    ({"hostnames": ["a", "b"], "workers_per_host": [1, 0]}, ValueError, "must be at least 1, not 0"),
    ({"hostnames": ["a"], "workers_per_host": "many"}, ValueError, "not 'many'"),
    ({"hostnames": ["a", "b"], "workers_per_host": ["cpu", "tpu"]}, ValueError, "not 'tpu'"),
    ({"hostnames": ["a"], "workers_per_host": 1.0}, TypeError, "workers_per_host must be a number"),
    ({"hostnames": ["a"], "workers_per_host": True}, TypeError, "not True"),
    ({"hostnames": ["a"], "workers_per_host": None}, TypeError, "not None"),
    ({"hostnames": ["a"], "workers_per_host": {"a": 1}}, TypeError, "workers_per_host must be a number"),
    ({"hostnames": ["a", "b"], "workers_per_host": [1, None]}, TypeError, "not None"),
    ({"workers_per_host": 0}, ValueError, "must be at least 1, not 0"),
    ({"workers_per_host": None}, TypeError, "not None"),
    ({"workers_per_host": [0]}, ValueError, "must be at least 1, not 0"),
    ({"workers_per_host": [1, 1]}, ValueError, "names 2 hosts, but there are 1"),
    # backend
    ({"backend": "glue"}, ValueError, "torch knows no backend 'glue'; it knows"),
    ({"backend": ""}, ValueError, "torch knows no backend ''"),
    ({"backend": "cpu:gloo,cuda:nickel"}, ValueError, "no backend 'nickel'"),
    ({"backend": 3}, TypeError, "backend must be a name"),
    ({"backend": ["gloo"]}, TypeError, "backend must be a name"),
    # seconds
    *[bad for name in ("timeout", "start_timeout", "grace_period", "lease") for bad in _bad_seconds(name)],
    ({"lease": 1}, ValueError, "lease must be at least 3"),
    # environment
    ({"default_env_vars": "PATH"}, TypeError, "default_env_vars must be a list of patterns"),
    ({"extra_env_vars": "HF_*"}, TypeError, "extra_env_vars must be a list of patterns, such as ['HF_*']"),
    ({"extra_env_vars": {"A": 1}}, TypeError, "extra_env_vars must map names to strings"),
    ({"extra_env_vars": {"A B": "1"}}, ValueError, "'A B' cannot be an environment variable"),
    ({"extra_env_vars": ["A B=1"]}, ValueError, "'A B' cannot be an environment variable"),
    ({"preload": "numpy"}, TypeError, "preload must be a list of modules, not 'numpy'"),
    ({"preload": None}, TypeError, "preload must be a list of modules"),
    ({"preload": ["numpy", "two words"]}, ValueError, "preload: 'two words' cannot be the name of a module"),
    ({"preload": ["numpy."]}, ValueError, "'numpy.' cannot be"),
    ({"preload": [""]}, ValueError, "'' cannot be"),
    ({"preload": [3]}, ValueError, "3 cannot be"),
    ({"env_file": "/nowhere/env.sh"}, FileNotFoundError, "env_file: there is no file '/nowhere/env.sh'"),
    ({"env_file": "/"}, FileNotFoundError, "env_file: there is no file '/'"),
    (
        {"log_handlers": "none"},
        TypeError,
        'log_handlers must be "auto", None, a list of handlers of logging, or a func',
    ),
    ({"log_handlers": logging.NullHandler()}, TypeError, "or a function that returns one, not <NullHandler (NOTSET)>"),
    ({"log_handlers": ["stdout"]}, TypeError, "log_handlers must be handlers of logging, not 'stdout'"),
    ({"ssh_config_file": "/nowhere/config"}, FileNotFoundError, "ssh_config_file: there is no file '/nowhere/config'"),
]


def _id(value: object) -> str:
    return repr(value) if isinstance(value, dict) else ""


@pytest.mark.parametrize(("bad", "kind", "words"), BAD_SETTINGS, ids=_id)
def test_bad_settings_are_refused_before_anything_is_started(
    bad: dict[str, Any], kind: type[Exception], words: str
) -> None:
    def by_launch() -> None:
        trx.launch(work, **bad)

    def by_run() -> None:
        trx.Launcher(**bad).run(work)

    def by_entering() -> None:
        with trx.Launcher(**bad):
            pass

    for start in (by_launch, by_run, by_entering):
        with pytest.raises(kind) as caught:
            start()
        assert type(caught.value) is kind
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


GOOD_SETTINGS: list[dict[str, Any]] = [
    {},
    {"hostnames": "auto", "workers_per_host": "auto"},
    {"hostnames": "auto", "workers_per_host": [3]},
    {"hostnames": ["node1", "10.0.0.2", "fe80::1%eth0", "ada@node2", "localhost"], "workers_per_host": 2},
    {"hostnames": ("node1", "node1"), "workers_per_host": ("cpu", 8)},
    {"hostnames": ["a", "b", "c", "d"], "workers_per_host": ["auto", "gpu", "cpu", 1]},
    {"backend": None},
    {"backend": "nccl"},
    {"backend": "GLOO"},
    {"backend": "cpu:gloo,cuda:nccl"},
    {"timeout": 0.5, "lease": 3},
    {"preload": ["numpy", "torch.nn.functional"]},
    {"default_env_vars": [], "extra_env_vars": {"A": "1"}},
]


@pytest.mark.parametrize("good", GOOD_SETTINGS, ids=repr)
def test_good_settings_lead_to_a_start(good: dict[str, Any]) -> None:
    with pytest.raises(Started):
        trx.launch(work, **good)
    with pytest.raises(Started), trx.Launcher(**good):
        pass


@pytest.mark.parametrize("source", [("node1", 0), ("node1#2", 3), ("node1#2", None), ("node2", 99)])
def test_handlers_for_what_there_will_be_are_good(source: tuple[str, int | None]) -> None:
    handler = logging.NullHandler()
    trx.add_filter_to_handler(handler, *source)
    handler.addFilter(lambda record: True)
    checks.check_sources(
        [handler, logging.NullHandler()], trx.Launcher(["node1", "node1", "node2"], [1, 4, "gpu"]).planned_hosts()
    )


def test_a_handler_for_none_of_many_hosts_names_some_of_them() -> None:
    handler = trx.stream_handler("login", 0)
    with pytest.raises(ValueError, match=r"'login', which is none of the hosts: node1, .*, node16 and 984 more$"):
        checks.check_sources([handler], trx.Launcher("node[1-1000]", 1).planned_hosts())


def test_files_that_are_there_are_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env.sh").write_text("export A=1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (tmp_path / "env.sh", str(tmp_path / "env.sh"), "~/env.sh"):
        with pytest.raises(Started):
            trx.launch(work, env_file=path, ssh_config_file=path)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"func_args": "hello"}, "func_args must be a list or a tuple, not str: for one argument, (argument,)"),
        ({"func_args": 3}, "func_args must be a list or a tuple, not int"),
        ({"func_args": {"steps": 3}}, "func_args must be a list or a tuple, not dict"),
        ({"func_kwargs": [3]}, "func_kwargs must be a dict of arguments by their names, not list"),
    ],
)
def test_arguments_that_are_none_are_refused(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        trx.launch(work, **bad)


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="workers"):
        trx.launch(work, workers=3)


def test_the_length_of_a_list_is_held_against_the_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[1-3]")
    with pytest.raises(ValueError, match="names 2 hosts, but there are 3"):
        trx.launch(work, workers_per_host=[1, 2])
    with pytest.raises(Started):
        trx.launch(work, workers_per_host=[1, 2, 3])
    assert [host.label for host in trx.Launcher(workers_per_host=1).planned_hosts()] == ["gpu1", "gpu2", "gpu3"]


class FakeSession:
    """In the place of `trx.session.Session`: a run returns the labels of the hosts."""

    usable = True

    def __init__(self, launcher: trx.Launcher, planned: tuple[Host, ...]) -> None:
        self._labels = [host.label for host in planned]

    def run(self, call: payload.Pickled) -> list[str]:
        return self._labels

    def close(self) -> None: ...

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hostfiles that were read; launches go well."""
    monkeypatch.setattr(sys.modules["trx.session"], "Session", FakeSession)
    paths: list[str] = []
    read = host_lists.read_hostfile

    def counted(text: str, path: str) -> host_lists.NamedHosts:
        paths.append(path)
        return read(text, path)

    monkeypatch.setattr(host_lists, "read_hostfile", counted)
    return paths


def test_a_launch_reads_its_hostfile_once(reads: list[str], tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("node1 slots=1\n")
    trx.launch(work, hostnames=tmp_path / "hosts")
    assert len(reads) == 1


def test_an_open_launcher_keeps_the_hosts_that_it_has_started_agents_on(
    reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hosts").write_text("node1 slots=1\n")
    launcher: Any
    with trx.Launcher(tmp_path / "hosts") as launcher:
        for text in ("node2 slots=1\n", "no hostfile\n"):
            (tmp_path / "hosts").write_text(text)
            assert launcher.run(work) == ["node1"]
        assert len(reads) == 1
        monkeypatch.setattr(FakeSession, "usable", False)
        (tmp_path / "hosts").write_text("node3 slots=1\n")
        assert launcher.run(work) == ["node3"]
        assert len(reads) == 2


@pytest.mark.parametrize("bad", [{"grace_period": -1}, {"env_file": "/nowhere"}, {"preload": "torch"}])
def test_settings_that_are_changed_between_two_runs_are_checked(reads: list[str], bad: dict[str, Any]) -> None:
    with trx.Launcher(["node1"]) as launcher:
        launcher.run(work)
        vars(launcher).update(bad)
        with pytest.raises((TypeError, ValueError, FileNotFoundError), match=next(iter(bad))):
            launcher.run(work)


def test_a_backend_that_the_users_imports_have_added_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = types.SimpleNamespace(Backend=types.SimpleNamespace(backend_list=["undefined", "gloo", "mine"]))
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)
    checks.check_backend("mine")
    with pytest.raises(ValueError, match=r"no backend 'yours'; it knows .*mine"):
        checks.check_backend("yours")


# ---- the function ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("func", [None, 3, "train", ["train"]], ids=repr)
def test_what_cannot_be_called_is_refused(func: Any) -> None:
    with pytest.raises(TypeError, match="the first argument must be a function") as caught:
        trx.launch(func)
    assert repr(func) in str(caught.value)


async def async_generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    "func",
    [
        async_work,
        async_generator,
        functools.partial(async_work),
        Callables().async_method,
        AsyncCallable(),
    ],
    ids=["function", "generator", "partial", "method", "callable object"],
)
def test_a_coroutine_function_is_refused_with_what_to_do(func: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"is a coroutine function: .*asyncio\.run"):
        trx.launch(func)


@pytest.mark.parametrize(
    "func",
    [work, Callables, AsyncCallable, Callables(), functools.partial(work), lambda: None, print, [].append],
    ids=lambda func: getattr(func, "__qualname__", type(func).__name__),
)
def test_whatever_else_can_be_called_is_good(func: Callable[..., Any]) -> None:
    with pytest.raises(Started):
        trx.launch(func)


LOCK = threading.Lock()
"""Cannot be pickled."""


class Model:
    def __init__(self) -> None:
        self.layers = [{"lock": LOCK}]


def uses_a_global() -> None:
    LOCK.acquire()


def makes_closure() -> Callable[[], None]:
    lock = threading.Lock()

    def closure() -> None:
        lock.acquire()

    return closure


# Pickled by value, as the functions of a script are.
uses_a_global.__module__ = "__main__"


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "words"),
    [
        (work, (1, LOCK), {}, ["argument 2: "]),
        (work, (1, [Model()]), {}, ["argument 2 → [0]", ".layers", "['lock']"]),
        (work, (), {"steps": 3, "model": Model()}, ["argument 'model'", ".layers", "['lock']"]),
        (makes_closure(), (), {}, ["the function", "closure variable lock"]),
        (functools.partial(print, LOCK), (), {}, ["the function", "argument 1"]),
    ],
    ids=["argument", "inside an argument", "keyword", "closure", "partial"],
)
def test_what_cannot_be_pickled_is_named_part_by_part(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(TypeError, match=r"^cannot send to the workers: ") as caught:
        trx.launch(func, args, kwargs)
    message = str(caught.value)
    for word in [*words, "cannot pickle '_thread.lock' object"]:
        assert word in message
    assert caught.value.__cause__ is not None


def test_a_function_of_a_script_that_uses_a_global_that_cannot_be_pickled_is_told_so() -> None:
    with pytest.raises(TypeError, match=r"the function → .*global variable LOCK: cannot pickle '_thread.lock' object"):
        trx.launch(uses_a_global)


def test_a_call_that_can_be_pickled_comes_out_whole() -> None:
    pickled = checks.pickle_call(work, (1, [2]), {"three": 3})
    function, args, kwargs = payload.loads(pickled.pickle, pickled.buffers)
    assert function.__name__ == "work"
    assert (args, kwargs) == ((1, [2]), {"three": 3})
