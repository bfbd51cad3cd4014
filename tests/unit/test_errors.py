"""What a launch raises: a worker's exception that is also a WorkerFailedError, and hosts that failed."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import trx
from trx.errors import AgentFailedError, HostFailure, LaunchError, WorkerFailedError, WorkerFailure, worker_failed

TRACEBACK = """Traceback (most recent call last):
  File "train.py", line 3, in train
    step()
  File "train.py", line 7, in step
    raise ValueError("no")
ValueError: no
"""


def failure(rank: int = 3, **changes: Any) -> WorkerFailure:
    summary = f"rank {rank} (local rank 1 on node1, pid 42) raised ValueError: no"
    return dataclasses.replace(
        WorkerFailure(rank, 1, "node1", 42, None, None, summary, traceback=TRACEBACK, last_lines="step 1\nstep 2"),
        **changes,
    )


FAILURES = (failure(),)


def shown(error: BaseException) -> list[str]:
    """As a person sees it."""
    try:
        raise error
    except BaseException as caught:
        return "".join(traceback.format_exception(type(caught), caught, caught.__traceback__)).splitlines()


# ---- exceptions of all kinds ----------------------------------------------------------------------------------------


class Several(Exception):
    """Wants other arguments than those that it keeps in `args`."""

    def __init__(self, code: int, where: str, *, hint: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code
        self.where = where
        self.hint = hint


class Forgetful(Exception):
    """Does not call the __init__ above it."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Slotted(Exception):
    __slots__ = ("__hidden", "code", "never_set", "nothing")

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.nothing = None
        self.__hidden = code + 1

    def hidden(self) -> int:
        return self.__hidden


class Propertied(ValueError):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self._code = code

    @property
    def code(self) -> int:
        return self._code

    @property
    def doubled(self) -> int:
        return 2 * self._code


@dataclass
class Data(Exception):
    code: int
    words: list[str]


@dataclass(frozen=True)
class Frozen(Exception):
    code: int
    word: str = "w"


@dataclass(frozen=True, slots=True)
class FrozenSlots(Exception):
    code: int


class Uncallable(RuntimeError):
    def __init__(self, one: int, two: int, three: int) -> None:
        super().__init__(one)
        self.sum = one + two + three


class ManyArguments(Exception):
    def __new__(cls, code: int, where: str) -> ManyArguments:
        return super().__new__(cls, code, where)

    def __init__(self, code: int, where: str) -> None:
        super().__init__(code, where)
        self.code = code


class Immutable(Exception):
    """Refuses every change once it was made."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.__dict__["code"] = code

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("immutable")


class WithReduce(Exception):
    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code, self.where = code, where

    def __reduce__(self) -> tuple[Any, ...]:
        return WithReduce, (self.code, self.where)


class WithReduceEx(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return WithReduceEx, (self.code,)


class WithOurNames(Exception):
    """Has attributes that a WorkerFailedError has too."""

    def __init__(self) -> None:
        super().__init__("no")
        self.failures = "mine"
        self.rank = 99
        self.other = "kept"


def unicode_error() -> Exception:
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        return error
    raise AssertionError


def attribute_error() -> Exception:
    try:
        object().nothing  # type: ignore[attr-defined]  # noqa: B018  # that is the point
    except AttributeError as error:
        return error
    raise AssertionError


def json_error() -> Exception:
    try:
        json.loads("{")
    except json.JSONDecodeError as error:
        return error
    raise AssertionError


def syntax_error() -> Exception:
    try:
        compile("x = (", "config.py", "exec")
    except SyntaxError as error:
        return error
    raise AssertionError


class Case:
    """An exception, and what else than `str` and `args` must be as it was."""

    def __init__(self, make: Callable[[], Exception], *names: str) -> None:
        self.make = make
        self.names = names


CASES = {
    "ValueError": Case(lambda: ValueError("no")),
    "no arguments": Case(ValueError),
    "two arguments": Case(lambda: RuntimeError("no", 3)),
    "an argument that is no text": Case(lambda: RuntimeError({"a": [1]})),
    "many lines": Case(lambda: ValueError("one\ntwo\n\nthree")),
    "KeyError": Case(lambda: KeyError("learning rate")),
    "IndexError": Case(lambda: IndexError(3)),
    "StopIteration": Case(lambda: StopIteration(7), "value"),
    "ZeroDivisionError": Case(lambda: ZeroDivisionError("division by zero")),
    "AssertionError": Case(AssertionError),
    "OSError": Case(lambda: OSError("it broke"), "errno", "filename"),
    "OSError with a number": Case(lambda: OSError(5, "Input/output error"), "errno", "strerror", "filename"),
    "FileNotFoundError": Case(lambda: FileNotFoundError(2, "No such file", "data.pt"), "errno", "strerror", "filename"),
    "OSError with two files": Case(lambda: OSError(18, "Cross-device", "a", None, "b"), "filename", "filename2"),
    "UnicodeDecodeError": Case(unicode_error, "encoding", "object", "start", "end", "reason"),
    "UnicodeEncodeError": Case(lambda: UnicodeEncodeError("ascii", "é", 0, 1, "no"), "encoding", "object", "start"),
    "ImportError": Case(lambda: ImportError("no", name="apex", path="/x"), "name", "path", "msg"),
    "AttributeError": Case(attribute_error, "name"),
    "NameError": Case(lambda: NameError("no", name="x"), "name"),
    "SyntaxError": Case(syntax_error, "filename", "lineno", "offset", "text", "msg"),
    "JSONDecodeError": Case(json_error, "msg", "doc", "pos", "lineno", "colno"),
    "CalledProcessError": Case(lambda: subprocess.CalledProcessError(3, ["ls"], b"out"), "returncode", "cmd", "output"),
    "TimeoutExpired": Case(lambda: subprocess.TimeoutExpired("ls", 1.5), "cmd", "timeout"),
    "several arguments": Case(lambda: Several(3, "home", hint="look"), "code", "where", "hint"),
    "an __init__ that is not called": Case(lambda: Forgetful(3), "code"),
    "slots": Case(lambda: Slotted(3), "code", "nothing"),
    "properties": Case(lambda: Propertied(3), "code", "doubled"),
    "dataclass": Case(lambda: Data(3, ["a"]), "code", "words"),
    "frozen dataclass": Case(lambda: Frozen(3), "code", "word"),
    "frozen dataclass with slots": Case(lambda: FrozenSlots(3), "code"),
    "an __init__ that cannot be called again": Case(lambda: Uncallable(1, 2, 3), "sum"),
    "a __new__ with arguments": Case(lambda: ManyArguments(3, "home"), "code"),
    "immutable": Case(lambda: Immutable(3), "code"),
    "its own __reduce__": Case(lambda: WithReduce(3, "home"), "code", "where"),
    "its own __reduce_ex__": Case(lambda: WithReduceEx(3), "code"),
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def assert_like(error: Exception, original: Exception, names: tuple[str, ...]) -> None:
    assert isinstance(error, WorkerFailedError)
    assert isinstance(error, type(original))
    assert str(error) == str(original)
    assert error.args == original.args
    for name in names:
        assert getattr(error, name) == getattr(original, name)


@each_case
def test_both_except_clauses_catch_it(case: Case) -> None:
    original = case.make()
    for clause in (type(original), WorkerFailedError, LaunchError, trx.LaunchError, Exception):
        with pytest.raises(clause) as caught:
            raise worker_failed(FAILURES, case.make())
        assert caught.value.__cause__ is None


@each_case
def test_it_looks_like_the_original(case: Case) -> None:
    original = case.make()
    assert_like(worker_failed(FAILURES, original), original, case.names)


@each_case
def test_it_knows_who_failed_and_what_the_worker_said(case: Case) -> None:
    error = worker_failed(FAILURES, case.make())
    assert (error.rank, error.local_rank, error.hostname, error.pid) == (3, 1, "node1", 42)
    assert (error.exitcode, error.signal) == (None, None)
    assert error.worker_traceback == TRACEBACK
    assert error.failures == FAILURES


@each_case
def test_its_last_note_ends_with_the_workers_traceback(case: Case) -> None:
    error = worker_failed(FAILURES, case.make())
    (note,) = error.__notes__
    assert FAILURES[0].summary in note
    assert note.endswith(TRACEBACK.rstrip())
    assert shown(error)[-1] == "ValueError: no"


Copier = Callable[[Any], Any]
COPIERS: dict[str, Copier] = {
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
each_copier = pytest.mark.parametrize("there_and_back", COPIERS.values(), ids=COPIERS)


def survives(case: Case) -> bool:
    """Whether the original can be pickled. Otherwise no object comes from the worker, which tries it."""
    try:
        return str(COPIERS["pickle"](case.make())) == str(case.make())
    except Exception:
        return False


SURVIVORS = {name: case for name, case in CASES.items() if survives(case)}


@pytest.mark.parametrize("case", SURVIVORS.values(), ids=SURVIVORS)
@each_copier
def test_it_can_be_pickled_and_copied(case: Case, there_and_back: Copier) -> None:
    original = COPIERS["pickle"](case.make())
    error = worker_failed(FAILURES, original)
    for _ in range(2):
        error = there_and_back(error)
        assert_like(error, original, case.names)
        assert error.failures == FAILURES
        assert len(error.__notes__) == 1


def test_most_exceptions_can_be_pickled() -> None:
    assert len(SURVIVORS) >= 25
    assert {"several arguments", "immutable"}.isdisjoint(SURVIVORS)


@each_case
def test_the_original_stays_as_it_was(case: Case) -> None:
    original = case.make()
    before = dict(original.__dict__)
    worker_failed(FAILURES, original)
    assert original.__dict__ == before


def test_slots_come_along_whatever_they_hold() -> None:
    error = worker_failed(FAILURES, Slotted(3))
    assert isinstance(error, Slotted)
    assert error.hidden() == 4
    assert error.nothing is None
    assert not hasattr(error, "never_set")


def test_what_a_worker_failed_error_says_itself_goes_before_attributes_of_the_same_name() -> None:
    error: Any = worker_failed(FAILURES, WithOurNames())
    assert (error.failures, error.rank, error.other) == (FAILURES, 3, "kept")


def test_values_of_other_ranks_are_kept_and_travel_along() -> None:
    for original in (ValueError("no"), Final("no"), None):
        error = worker_failed(FAILURES, original, {0: [1], 2: None})
        for each in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert each.values == {0: [1], 2: None}
    assert worker_failed(FAILURES, ValueError("no")).values == {}


def test_a_class_tells_that_it_is_a_combination_and_of_what() -> None:
    assert type(worker_failed(FAILURES, KeyError(1))).__name__ == "WorkerFailedError[KeyError]"
    assert any(
        line.startswith("trx.WorkerFailedError[KeyError]: 1") for line in shown(worker_failed(FAILURES, KeyError(1)))
    )


# ---- notes ----------------------------------------------------------------------------------------------------------


def test_notes_of_the_original_come_first_and_are_not_added_to() -> None:
    original: Any = ValueError("no")
    original.add_note("in epoch 3")
    error = worker_failed(FAILURES, original)
    assert error.__notes__[0] == "in epoch 3"
    assert len(error.__notes__) == 2
    assert original.__notes__ == ["in epoch 3"]
    again = pickle.loads(pickle.dumps(error))
    assert again.__notes__ == error.__notes__


# ---- groups ---------------------------------------------------------------------------------------------------------


def test_an_exception_group_is_caught_as_one_and_keeps_what_is_in_it() -> None:
    group = errors_of_a_group()
    error: Any = worker_failed(FAILURES, group)
    assert_like(error, group, ("message",))
    assert [repr(each) for each in error.exceptions] == ["ValueError('a')", "ExceptionGroup('inner', [KeyError('b')])"]
    matching, rest = error.split(ValueError)
    assert [repr(each) for each in matching.exceptions] == ["ValueError('a')"]
    assert len(rest.exceptions) == 1
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, type(group))
    assert repr(again.exceptions) == repr(error.exceptions)
    assert any("ValueError: no" in line for line in shown(error))


def errors_of_a_group() -> Any:
    return ExceptionGroup("outer", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])])


# ---- classes that cannot be combined --------------------------------------------------------------------------------


class Final(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("final")


class OnlyOne(type):
    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> OnlyOne:
        if any(isinstance(base, OnlyOne) for base in bases):
            raise RuntimeError("no subclasses")
        return super().__new__(cls, name, bases, namespace)


class OfMetaclass(Exception, metaclass=OnlyOne): ...


class PickyNew(Exception):
    def __new__(cls, *args: Any) -> PickyNew:
        if cls is not PickyNew:
            raise ValueError("not for subclasses")
        return super().__new__(cls, *args)


class OtherNew(Exception):
    def __new__(cls, *args: Any) -> Any:
        return Exception.__new__(OtherNew if cls is OtherNew else ValueError, *args)


class Arity(Exception):
    """Its __new__ wants more than `args` holds."""

    def __new__(cls, code: int, where: str) -> Arity:
        error = super().__new__(cls, code)
        error.args = (code,)
        return error

    def __init__(self, code: int, where: str) -> None:
        self.args = (code,)


class ByName(Exception):
    """What it says depends on its class."""

    def __str__(self) -> str:
        return type(self).__name__


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not today")


UNCOMBINABLE: list[Callable[[], Exception]] = [
    lambda: Final("no"),
    lambda: OfMetaclass("no"),
    lambda: PickyNew("no"),
    lambda: OtherNew("no"),
    lambda: Arity(1, "home"),
    lambda: ByName("no"),
    lambda: Unprintable("no"),
    lambda: BlockingIOError(11, "full", 7),  # whose third argument means another thing to a class below it
    lambda: WorkerFailedError((failure(0),)),  # of a launch within the launch
    lambda: worker_failed((failure(0),), ValueError("no")),
]


@pytest.mark.parametrize("make", UNCOMBINABLE, ids=lambda make: type(make()).__name__)
def test_a_class_that_cannot_be_combined_becomes_the_cause(make: Callable[[], Exception]) -> None:
    original = make()
    error = worker_failed(FAILURES, original)
    assert type(error) is WorkerFailedError
    assert error.__cause__ is original
    assert str(error).splitlines()[0] == FAILURES[0].summary
    assert error.failures == FAILURES
    assert shown(error)[-1] == "ValueError: no"


@pytest.mark.parametrize("make", [UNCOMBINABLE[0], UNCOMBINABLE[1], UNCOMBINABLE[5]])
def test_its_cause_survives_pickling_and_copying(make: Callable[[], Exception]) -> None:
    error = worker_failed(FAILURES, make())
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is WorkerFailedError
        assert type(again.__cause__) is type(make())
        assert again.__cause__.args == ("no",)
        assert again.failures == FAILURES


# ---- without an exception object ------------------------------------------------------------------------------------


def test_a_worker_that_died_is_a_plain_worker_failed_error() -> None:
    summary = "rank 0 (local rank 0 on a, pid 7) was killed by SIGSEGV"
    dead = WorkerFailure(0, 0, "a", 7, None, 11, summary, last_lines="Fatal Python error: Segmentation fault")
    error = worker_failed((dead,), None)
    assert type(error) is WorkerFailedError
    assert str(error).splitlines()[0] == summary
    assert error.signal == 11
    assert error.exitcode is None
    assert error.__cause__ is None
    assert "Fatal Python error" in shown(error)[-1]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is WorkerFailedError
    assert str(again) == str(error)
    assert again.failures == (dead,)
    assert again.__notes__ == error.__notes__


def test_an_exit_status_is_told() -> None:
    error = worker_failed((failure(exitcode=0, traceback=""),), None)
    assert error.exitcode == 0
    assert error.signal is None


def test_an_exception_that_did_not_survive_pickling_is_told_in_words() -> None:
    error = worker_failed(FAILURES, None)
    assert type(error) is WorkerFailedError
    assert shown(error)[-1] == "ValueError: no"
    assert shown(error).count(next(line for line in shown(error) if FAILURES[0].summary in line)) == 1


# ---- what a person sees ---------------------------------------------------------------------------------------------


def long_traceback(frames: int) -> str:
    lines = [f'  File "deep.py", line {number}, in f{number}\n    f{number + 1}()' for number in range(frames)]
    return "\n".join(["Traceback (most recent call last):", *lines, "ValueError: the cause"]) + "\n"


@pytest.mark.parametrize("original", [ValueError("the cause"), Final("the cause"), None], ids=repr)
def test_a_long_traceback_is_cut_in_its_middle(original: Exception | None) -> None:
    first = failure(traceback=long_traceback(500), last_lines="", log_file="/logs/node1[1].log")
    lines = shown(worker_failed((first,), original))
    assert len(lines) <= 35
    assert lines[-1] == "ValueError: the cause"
    assert "Traceback (most recent call last):" in lines[-25:]
    assert any("in f499" in line for line in lines)
    assert not any("in f3\n" in line for line in lines)
    (hint,) = [line for line in lines if "lines left out" in line]
    assert "worker_traceback" in hint
    assert int(hint.split()[1]) == 1002 - 20


def test_a_traceback_of_sensible_length_is_shown_whole() -> None:
    text = long_traceback(9)
    assert "\n".join(shown(worker_failed((failure(traceback=text),), ValueError("x")))).endswith(text.rstrip())


def test_the_end_of_what_the_worker_printed_is_shown() -> None:
    printed = "\n".join(f"step {number}" for number in range(100))
    lines = shown(worker_failed((failure(last_lines=printed, log_file="/logs/a.log"),), ValueError("no")))
    assert "  | step 99" in lines
    assert "  | step 9" not in lines
    assert sum(line.startswith("  | ") for line in lines) <= 16
    assert "all that it printed: /logs/a.log" in lines


def test_other_ranks_that_failed_are_named_or_counted() -> None:
    everyone = tuple(failure(rank) for rank in range(10))
    lines = shown(worker_failed(everyone, ValueError("no")))
    named = [line for line in lines if line.startswith("afterwards: rank ")]
    assert [line.split()[2] for line in named] == ["1", "2", "3", "4"]
    assert "afterwards: 5 more ranks, see `failures`" in lines
    assert lines[-1] == "ValueError: no"


def test_nothing_makes_the_report_endless() -> None:
    printed = "\n".join(f"step {number}" for number in range(1000))
    first = failure(traceback=long_traceback(500), last_lines=printed, log_file="/logs/a.log")
    lines = shown(worker_failed((first, *[failure(rank) for rank in range(100)]), ValueError("no")))
    assert len(lines) <= 60
    assert lines[-1] == "ValueError: the cause"


# ---- hosts ----------------------------------------------------------------------------------------------------------

UNKNOWN = HostFailure("node1", "checking its key", "its key is not known", "ssh-keyscan node1 >> ~/.ssh/known_hosts")
SILENT = HostFailure("node2", "connecting", "it does not answer")


def test_a_host_failure_says_who_when_what_and_what_to_do() -> None:
    assert str(SILENT) == "node2, connecting: it does not answer"
    assert str(UNKNOWN).splitlines() == [
        "node1, checking its key: its key is not known",
        "    ssh-keyscan node1 >> ~/.ssh/known_hosts",
    ]


def test_one_host_is_told_without_ado() -> None:
    error = AgentFailedError((SILENT,))
    assert str(error) == str(SILENT)
    assert error.hostname == "node2"
    assert error.failures == (SILENT,)


def test_several_hosts_are_told_together() -> None:
    text = str(AgentFailedError((UNKNOWN, SILENT)))
    assert text.startswith("2 hosts failed\n")
    assert str(UNKNOWN) in text
    assert text.endswith(str(SILENT))


@pytest.mark.parametrize("there_and_back", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_failed_hosts_can_be_pickled_and_copied(there_and_back: Callable[[Any], Any]) -> None:
    error = there_and_back(AgentFailedError((UNKNOWN, SILENT)))
    assert type(error) is AgentFailedError
    assert error.failures == (UNKNOWN, SILENT)
    assert str(error) == str(AgentFailedError((UNKNOWN, SILENT)))


def test_hosts_and_workers_have_one_base() -> None:
    assert issubclass(trx.AgentFailedError, trx.LaunchError)
    assert issubclass(trx.WorkerFailedError, trx.LaunchError)
    assert not issubclass(trx.AgentFailedError, trx.WorkerFailedError)
    assert not issubclass(trx.LaunchError, OSError)
