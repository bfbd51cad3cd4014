"""Inside a worker: load the function, join the process group, call, and write down what became of it."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from trx_agent.linux import die_with_parent, ignore_warnings_unseen, write_lines_at_once
from trx_agent.orders import (
    BLOCKED,
    CALLED,
    HOLD,
    JOINED,
    LOADED,
    MARKS,
    PART,
    PAYLOAD,
    RAISED,
    RETURNED,
    VALUE,
    WORDS,
    WRITTEN,
    private_file,
)
from trx_agent.protocol import diagnose, outcome, payload, records
from trx_agent.protocol.loading import loading
from trx_agent.protocol.messages import Start

TORCH_HANDLES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals whose handlers torch's process context replaces in the process that starts the workers."""

_LONGEST_SOCKET_DIRECTORY = 80
"""Bytes: the path of a socket may have 107, and its name needs some of them."""

_INIT_BARRIER = "TORCH_DIST_INIT_BARRIER"

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def main(order: Start, local_rank: int, directory: Path, runner: int, inherited: list[int]) -> NoReturn:
    """The entry point that torch's process context calls, stdout and stderr being redirected already.

    Args:
        order: What to run.
        local_rank: Of this worker.
        directory: Of the run; this worker's files are in a folder named after its local rank.
        runner: Pid of the parent.
        inherited: The runner's own descriptors, which are not for workers.
    """
    _become_worker(runner, inherited)
    folder = directory / str(local_rank)
    _keep_multiprocessing_below(folder)
    _send_records_to(folder / "records", order.log_level)
    stage = _Stage(folder / MARKS)
    try:
        with stage("loading the function", LOADED):
            function, args, kwargs = _load(directory / PAYLOAD, order.import_paths)
        with stage("joining the process group", JOINED):
            _join_process_group(order, local_rank)
        with stage(outcome.CALLING, CALLED):
            value = _call(function, args, kwargs)
        with stage("pickling what the function returned", WRITTEN):
            _write_value(folder, value)
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures too: there is no result
        _write_error(folder, stage.name, error)
        _wait_for_the_end(folder)
    else:
        _leave_process_group()
    # None, since torch swallows an exit of 0 and would then wait for the other workers.
    sys.exit(None)


class _Stage:
    """Remembers what the worker was doing when it failed, and notes what it has done by when."""

    def __init__(self, marks: Path) -> None:
        self.name = "starting"
        self._marks = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @contextmanager
    def __call__(self, name: str, mark: str) -> Iterator[None]:
        self.name = name
        yield
        with contextlib.suppress(OSError):  # a full disk must not make a failure of it
            os.write(self._marks, f"{mark}\t{time.monotonic()}\n".encode())


def _become_worker(runner: int, inherited: list[int]) -> None:
    die_with_parent(runner)
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (*TORCH_HANDLES, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    ignore_warnings_unseen()
    for descriptor in inherited:
        os.close(descriptor)
    tempfile.tempdir = None
    # Line by line, so that the last line before a crash is in the file.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # TextIOWrapper, as nobody replaced it yet
    write_lines_at_once()
    faulthandler.enable()
    _seed_afresh()


def _seed_afresh() -> None:
    """Gives this worker random numbers of its own: all workers are forked from one process, and so from one state.

    CUDA's generators are seeded when CUDA is initialised. Python itself seeds `random` after each fork.
    """
    import torch

    torch.seed()
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()


def _keep_multiprocessing_below(folder: Path) -> None:
    """Has its sockets (a DataLoader's workers make some) go with the run: the killed cannot remove them from /tmp."""
    if len(os.fsencode(folder)) <= _LONGEST_SOCKET_DIRECTORY:
        multiprocessing.current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]  # private


def _send_records_to(path: Path, level: int) -> None:
    logging.root.addHandler(_RecordHandler(path))
    logging.root.setLevel(level)


class _RecordHandler(logging.Handler):
    """Writes logging records, with their levels, to the worker's records stream."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(self._descriptor, records.encode(_encodable(record)))
        except Exception:
            self.handleError(record)


def _encodable(record: logging.LogRecord) -> records.Record:
    """The record without any object of the worker's."""
    formatter = logging.Formatter()
    traceback_text = formatter.formatException(record.exc_info) if record.exc_info else record.exc_text
    stack = formatter.formatStack(record.stack_info) if record.stack_info else None
    return records.Record(
        name=_encodable_text(record.name, records.LONGEST_NAME),
        level=_encodable_number(record.levelno),
        created=float(record.created or 0.0),
        message=_encodable_text(record.getMessage(), records.LONGEST),
        exc_text=_encodable_text("\n".join(filter(None, (traceback_text, stack))), records.LONGEST),
        pathname=_encodable_text(record.pathname, records.LONGEST_NAME),
        lineno=_encodable_number(record.lineno),
        funcName=_encodable_text(record.funcName, records.LONGEST_NAME),
    )


def _encodable_text(text: object, longest: int) -> str:
    """Whoever makes a record may leave fields out, and a text may hold surrogates, which UTF-8 has not."""
    return "" if text is None else str(text)[:longest].encode("utf-8", "backslashreplace").decode()[:longest]


def _encodable_number(number: Any) -> int:
    return max(-records.HIGHEST, min(int(number or 0), records.HIGHEST))


def _load(path: Path, import_paths: tuple[str, ...]) -> Call:
    sys.path[:0] = [path for path in import_paths if path not in sys.path]
    with open(path, "rb") as file:
        # Private pages: arguments are shared with the other workers until somebody writes to them.
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    with loading():
        call: Call = payload.read(mapping)
    return call


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    worker = os.getpid()
    try:
        return function(*args, **kwargs)
    finally:
        if os.getpid() != worker:
            _end_copy(sys.exc_info()[1])


def _end_copy(error: BaseException | None) -> NoReturn:
    """Ends a process that the function has forked, and that left the function: only the worker has an outcome."""
    code: object = 0
    if isinstance(error, SystemExit):
        code = error.code or 0
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


def _join_process_group(order: Start, local_rank: int) -> None:
    if not order.backend:
        return
    import torch
    import torch.distributed

    device = None
    if "nccl" in order.backend:
        if not torch.backends.cuda.is_built():  # which torch says by a missing attribute of a private module
            raise RuntimeError(f'backend "{order.backend}" needs a torch with CUDA, and this is {torch.__version__}')
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    with _barrier_at_the_end():
        torch.distributed.init_process_group(order.backend, timeout=timedelta(seconds=order.timeout), device_id=device)


@contextmanager
def _barrier_at_the_end() -> Iterator[None]:
    """Has torch wait, through the store, until all ranks have joined.

    Else one whose function is done at once leaves while others are still connecting to it: for them, it has failed.
    """
    asked = os.environ.setdefault(_INIT_BARRIER, "ours")
    if asked == "ours":
        os.environ[_INIT_BARRIER] = "1"
    yield
    if asked == "ours":
        del os.environ[_INIT_BARRIER]  # groups that the user makes later are the user's affair


def _leave_process_group() -> None:
    """Quietly, since the outcome is written already."""
    import torch.distributed

    if torch.distributed.is_initialized():
        try:
            torch.distributed.destroy_process_group()
        except Exception:
            traceback.print_exc()


def _write_value(folder: Path, value: object) -> None:
    try:
        pickled = payload.dumps(value)
    except Exception as error:
        raise pickle.PicklingError(f"cannot return {diagnose.why_unpicklable(value, 'the value')}") from error
    try:
        with private_file(folder / VALUE, "ab") as file:
            payload.write(file, pickled)
    except BaseException:
        with contextlib.suppress(OSError):
            os.truncate(folder / VALUE, 0)  # on a full disk there must be room for the words
        raise
    with _whole(folder, RETURNED):
        pass


def _write_error(folder: Path, stage: str, error: BaseException) -> None:
    _leave_out_our_frames(error)
    words = outcome.WorkerError(
        stage=stage,
        kind=outcome.cut(_name(type(error))),
        message=outcome.cut(_message(error)),
        traceback=outcome.cut("".join(traceback.format_exception(type(error), error, error.__traceback__))),
    )
    with _whole(folder, WORDS) as file:
        file.write(outcome.frame(words))
    with _whole(folder, RAISED) as file:
        file.write(outcome.frame(words))
        if isinstance(error, Exception):
            _write_exception(file, error)


def _write_exception(file: Any, error: Exception) -> None:
    """The object itself, where it survives pickling; the words are there already."""
    survivors = [each for each in map(_that_survives, (error, outcome.Remade(error))) if each is not None]
    # One whose __init__ words its message from a single argument is loaded without complaint, and words it twice.
    survivors.sort(key=lambda each: each[1] != _message(error))
    if survivors:
        payload.write(file, survivors[0][0])


def _that_survives(error: object) -> tuple[payload.Pickled, str] | None:
    """What an exception, or what stands for it, is once pickled, and the message of what is loaded from that."""
    try:
        pickled = payload.dumps(error)
        return pickled, _message(payload.loads(pickled.pickle, pickled.buffers))
    except BaseException:  # its own methods may raise anything at all
        return None


def _wait_for_the_end(folder: Path) -> None:
    with open(folder / HOLD) as hold:
        fcntl.flock(hold, fcntl.LOCK_SH)


@contextmanager
def _whole(folder: Path, name: str) -> Iterator[Any]:
    """A file that appears under its name only when it is complete."""
    part = folder / PART
    with private_file(part) as file:
        yield file
    os.rename(part, folder / name)


def _leave_out_our_frames(error: BaseException) -> None:
    """Cuts off the frames of this module, by which every traceback would begin."""
    while (tb := error.__traceback__) is not None and _is_ours(tb):
        error.__traceback__ = tb.tb_next


def _is_ours(tb: TracebackType) -> bool:
    return tb.tb_frame.f_code.co_filename == __file__


def _name(kind: type) -> str:
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message cannot be read)"
