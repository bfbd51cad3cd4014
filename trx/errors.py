"""What a launch can raise, and how a worker's own exception comes back.

`LaunchError` is the base of both kinds: `WorkerFailedError` (the user's function failed on a rank) and
`AgentFailedError` (a host could not be used, or was lost). A worker's exception is raised as an object of a class that
derives from both the exception's own class and `WorkerFailedError`, so that either `except` clause catches it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import GetSetDescriptorType, MappingProxyType, MemberDescriptorType
from typing import Any

from trx.output.escapes import plain


class LaunchError(Exception):
    """Base class of what a launch raises, once its settings and arguments were found good."""


@dataclass(frozen=True)
class HostFailure:
    """Why one host cannot be used, or was lost.

    Attributes:
        hostname: As the user named it.
        stage: What was being done: "resolving its name", "connecting", "checking its key", "authenticating",
            "starting the agent", "running", ...
        reason: What went wrong, in one sentence without a full stop.
        advice: What the user can do about it, often a command; "" where nothing can be said.
    """

    hostname: str
    stage: str
    reason: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.hostname}, {self.stage}: {self.reason}"
        return plain(f"{text}\n    {self.advice}" if self.advice else text)  # hosts have had their say in it


class AgentFailedError(LaunchError):
    """One or more hosts could not be used, or were lost during a run.

    Attributes:
        failures (tuple[HostFailure, ...]): One for each host concerned, in the order of `hostnames`.
        hostname (str): Of the first of them.
    """

    def __init__(self, failures: tuple[HostFailure, ...]) -> None:
        self.failures = failures
        count = len(failures)
        head = "" if count == 1 else f"{count} hosts failed\n"
        super().__init__(head + "\n".join(str(failure) for failure in failures))

    @property
    def hostname(self) -> str:
        return self.failures[0].hostname

    def __reduce__(self) -> tuple[Any, ...]:
        return AgentFailedError, (self.failures,)


@dataclass(frozen=True)
class WorkerFailure:
    """What became of one rank that failed.

    Attributes:
        rank: Of all.
        local_rank: On its host.
        hostname: The host's label: its name, numbered where it is named twice ("node1", "node1#2").
        pid: Of the worker's process, on its host.
        exitcode: Of a process that ended by itself without an outcome, else None.
        signal: Number of the signal that killed the process, else None.
        summary: Who, where and how, in one line.
        traceback: The worker's, as text; "" where there is none.
        last_lines: The end of what it printed.
        log_file: Path of the rank's log on the launcher's machine; "" where logs are not written.
    """

    rank: int
    local_rank: int
    hostname: str
    pid: int
    exitcode: int | None
    signal: int | None
    summary: str
    traceback: str = ""
    last_lines: str = ""
    log_file: str = ""


class WorkerFailedError(LaunchError):
    """The function failed on a rank: it raised, or its process died.

    Where it raised, the object that a launch raises is of the exception's own class too, and looks like it: its
    `str()`, its `args` and its attributes are the original's. What a person needs to know is in its notes, the worker's
    traceback last.

    Attributes:
        rank (int): Of the worker that failed first. All down to `worker_traceback` is about it, and `WorkerFailure`
            says what each is.
        local_rank (int): On its host.
        hostname (str): The host's label.
        pid (int): Of its process.
        exitcode (int | None): Of a process that ended by itself, without having returned or raised.
        signal (int | None): That killed the process.
        worker_traceback (str): The traceback there; "" where there is none.
        failures: Of every rank that failed, the first one first.
        values: What other ranks had returned by then, by rank.
    """

    failures: tuple[WorkerFailure, ...] = ()
    values: Mapping[int, Any] = MappingProxyType({})

    def __init__(self, failures: tuple[WorkerFailure, ...], values: Mapping[int, Any] = values) -> None:
        super().__init__(failures[0].summary)
        self.failures = failures
        self.values = values
        self.add_note(_note(failures, failures[0].summary))

    @property
    def rank(self) -> int:
        return self.failures[0].rank

    @property
    def local_rank(self) -> int:
        return self.failures[0].local_rank

    @property
    def hostname(self) -> str:
        return self.failures[0].hostname

    @property
    def pid(self) -> int:
        return self.failures[0].pid

    @property
    def exitcode(self) -> int | None:
        return self.failures[0].exitcode

    @property
    def signal(self) -> int | None:
        return self.failures[0].signal

    @property
    def worker_traceback(self) -> str:
        return self.failures[0].traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return worker_failed, (self.failures, self.__dict__.get("_original"), dict(self.values))

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:  # the original's class may have one
        return self.__reduce__()


def worker_failed(
    failures: tuple[WorkerFailure, ...],
    original: Exception | None,
    values: Mapping[int, Any] = WorkerFailedError.values,
) -> WorkerFailedError:
    """Makes the error of a failed run.

    Args:
        failures: The first one is raised.
        original: The exception that the first worker raised, where it arrived.
        values: What other ranks returned.

    Returns:
        An object that is both a `WorkerFailedError` and of the original's class; where the class cannot be combined, a
        plain `WorkerFailedError` with the original as its cause.
    """
    if original is None:
        return WorkerFailedError(failures, values)
    try:
        error = _combine(failures, original)
        error.__dict__["values"] = values
        return error
    except Exception:
        error = WorkerFailedError(failures, values)
        error.__cause__ = original
        error.__dict__["_original"] = original
        return error


def _combine(failures: tuple[WorkerFailure, ...], original: Exception) -> WorkerFailedError:
    kind = type(original)
    combined = type(f"WorkerFailedError[{kind.__name__}]", (WorkerFailedError, kind), {"__module__": "trx"})
    error: WorkerFailedError = combined.__new__(combined, *original.args)
    # The original's own __init__ may want other arguments than `args`, and has run already: copy what it left.
    _builtin_base(kind).__init__(error, *original.args)
    # By object.__setattr__, since the class may be a frozen dataclass.
    object.__setattr__(error, "args", original.args)
    for base in kind.__mro__:
        for name, member in vars(base).items():
            if isinstance(member, MemberDescriptorType | GetSetDescriptorType) and not name.startswith("__"):
                with contextlib.suppress(AttributeError, TypeError):
                    value = getattr(original, name)
                    if value is not None or base.__module__ != "builtins":  # in C, None differs from "not set"
                        object.__setattr__(error, name, value)
    error.__dict__.update(original.__dict__)
    if type(error) is not combined or str(error) != str(original):
        raise TypeError(f"{kind.__name__} does not survive being combined")
    notes = [*getattr(original, "__notes__", ()), _note(failures, str(original))]
    error.__dict__.update(failures=failures, _original=original, __notes__=notes)
    return error


def _builtin_base(kind: type) -> Any:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


_TRACEBACK_LINES = 20
_OTHERS = 4
_LAST_LINES = 8


def _note(failures: tuple[WorkerFailure, ...], message: str) -> str:
    """What a person needs to find the cause, which comes last."""
    first, *others = failures
    lines = [] if message == first.summary else [first.summary]
    for other in others[:_OTHERS]:
        lines.append(f"afterwards: {other.summary}")
    if len(others) > _OTHERS:
        lines.append(f"afterwards: {len(others) - _OTHERS} more ranks, see `failures`")
    if first.last_lines:
        lines.append("the last lines that it printed:")
        lines += [f"  | {line}" for line in first.last_lines.splitlines()[-_LAST_LINES:]]
    if first.log_file:
        lines.append(f"all that it printed: {first.log_file}")
    if first.traceback:
        text = first.traceback.rstrip().splitlines()
        if len(text) > _TRACEBACK_LINES:
            hint = f"  ... {len(text) - _TRACEBACK_LINES} lines left out, see `worker_traceback` ..."
            text = [text[0], hint, *text[1 - _TRACEBACK_LINES :]]
        lines += [f"its traceback, on {first.hostname}:", *text]
    return plain("\n".join(lines))
