"""What a user may ask for: each check raises one clear error, before anything is started."""

from __future__ import annotations

import inspect
import itertools
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from trx import host_lists
from trx.environment import is_text
from trx.host_lists import NamedHosts
from trx.output.handlers import SourceFilter
from trx.plan import Host
from trx.slurm import Start
from trx_agent.protocol import diagnose, payload
from trx_agent.protocol.payload import Pickled

WORDS_FOR_WORKERS = ("auto", "gpu", "cpu", "slurm")
SHORTEST_LEASE = 3.0
_MOST_SHOWN = 16
_BACKENDS = {"gloo", "nccl", "mpi", "ucc", "xccl", "fake"}


def check_hostnames(hostnames: object) -> NamedHosts:
    """Returns the hosts that a list, a host list or a hostfile names.

    Raises:
        TypeError: Where it is neither a string or path, nor a list of strings.
        ValueError: Where it is empty, or cannot be read, or a name cannot be one.
        FileNotFoundError: Where it is the path of a hostfile that is not there.
    """
    named = _named_hosts(hostnames)
    if not named.names:
        raise ValueError("hostnames is empty: name at least one host")
    for name in named.names:
        if not isinstance(name, str):
            raise TypeError(f"hostnames must be strings, not {name!r}")
        if not host_lists.is_name(name):
            raise ValueError(f"{host_lists.shown(name)} cannot be the name of a host")
    return named


def _named_hosts(hostnames: object) -> NamedHosts:
    if isinstance(hostnames, str) and not is_hostfile(hostnames):
        return host_lists.expand(hostnames)
    if isinstance(hostnames, str | os.PathLike):
        path = check_file("hostnames", hostnames) or Path()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"hostnames: {path} is not UTF-8: {error}") from None
        return host_lists.read_hostfile(text, str(path))
    if not isinstance(hostnames, Sequence):
        raise TypeError(f'hostnames must be a list of names, a host list, a hostfile or "auto", not {hostnames!r}')
    return NamedHosts(tuple(hostnames))


def is_hostfile(hostnames: str, folder: Path = Path()) -> bool:
    """Whether a string is the path of a hostfile, which may be relative to `folder`; else it is a host list."""
    return host_lists.is_path(hostnames) or os.path.isfile(folder / hostnames)


def check_workers(workers: object, hosts: int) -> list[int | str]:
    """Returns what each host was given.

    Raises:
        TypeError: Where it is neither a number, nor a word, nor a list of them.
        ValueError: Where a number is not positive, a word unknown, or the list of the wrong length.
    """
    if isinstance(workers, Sequence) and not isinstance(workers, str):
        if len(workers) != hosts:
            raise ValueError(f"workers_per_host names {len(workers)} hosts, but there are {hosts}")
        return [_check_count(each) for each in workers]
    return [_check_count(workers)] * hosts


def _check_count(count: object) -> int | str:
    words = ", ".join(f'"{word}"' for word in WORDS_FOR_WORKERS)
    if isinstance(count, str):
        if count not in WORDS_FOR_WORKERS:
            raise ValueError(f"workers_per_host must be a number or one of {words}, not {count!r}")
        return count
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(
            f"workers_per_host must be a number, one of {words}, or a list of one for each host, not {count!r}"
        )
    if count < 1:
        raise ValueError(f"workers_per_host must be at least 1, not {count}")
    return count


def check_start(start: object) -> None:
    """Raises ValueError where agents cannot be started in this way."""
    ways = get_args(Start)
    if start not in ways:
        words = ", ".join(f'"{word}"' for word in ways)
        raise ValueError(f"start must be one of {words}, not {start!r}")


def check_backend(backend: object) -> None:
    """Raises TypeError or ValueError where torch knows no such backend."""
    if backend is None or backend == "auto":
        return
    if not isinstance(backend, str):
        raise TypeError(f'backend must be a name, "auto" or None, not {backend!r}')
    names = {part.rpartition(":")[2] for part in backend.lower().split(",")}
    if names <= _BACKENDS:
        return
    from_torch = set(_registered_backends())
    if unknown := names - _BACKENDS - from_torch:
        known = ", ".join(sorted(_BACKENDS | from_torch))
        raise ValueError(f"torch knows no backend {', '.join(sorted(unknown))!r}; it knows {known}")


def _registered_backends() -> list[str]:
    """Those that the user's own imports have added to torch."""
    distributed = sys.modules.get("torch.distributed")
    return list(distributed.Backend.backend_list) if distributed else []


def check_seconds(name: str, value: object) -> None:
    """Raises TypeError or ValueError where a duration is not a positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be more than 0 seconds, and finite, not {value}")


def check_lease(seconds: float) -> None:
    """Raises ValueError where a lease is so short that signs of life, one a second, could not renew it."""
    if seconds < SHORTEST_LEASE:
        raise ValueError(f"lease must be at least {SHORTEST_LEASE} seconds, not {seconds}")


def check_python(path: object) -> None:
    """Raises TypeError or ValueError where hosts would not agree on which interpreter is meant."""
    if path is None:
        return
    if not isinstance(path, str):
        raise TypeError(f"python must be the path of an interpreter, not {path!r}")
    if not path or ("/" in path and not path.startswith("/")):
        raise ValueError(f"python must be an absolute path, or a name on the hosts' PATH, not {path!r}")


def check_modules(setting: str, names: object) -> None:
    """Raises TypeError or ValueError where these are not names of modules."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"{setting} must be a list of modules, not {names!r}")
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{setting}: {name!r} cannot be the name of a module")


def check_handlers(handlers: object) -> list[logging.Handler]:
    """Returns the handlers.

    Raises:
        TypeError: Where it is not a list of handlers of `logging`.
    """
    if isinstance(handlers, str) or not isinstance(handlers, Sequence):
        raise TypeError(
            'log_handlers must be "auto", None, a list of handlers of logging, or a function that returns one, '
            f"not {handlers!r}"
        )
    for handler in handlers:
        if not isinstance(handler, logging.Handler):
            raise TypeError(f"log_handlers must be handlers of logging, not {handler!r}")
    return list(handlers)


def check_sources(handlers: Sequence[logging.Handler], hosts: Sequence[Host]) -> None:
    """Raises ValueError where a handler would stay silent: it is for a host, or a worker, that there will not be."""
    workers = {host.label: host.workers for host in hosts}
    for handler in handlers:
        for wanted in handler.filters:
            if not isinstance(wanted, SourceFilter):
                continue
            hostname, local_rank = wanted.hostname, wanted.local_rank
            if hostname not in workers:
                there = f"which is none of the hosts: {_some(workers)}"
                raise ValueError(f"log_handlers: {handler!r} is for {hostname!r}, {there}")
            count = workers[hostname]
            if isinstance(count, int) and local_rank is not None and local_rank not in range(count):
                there = f"whose local ranks are {_some(range(count))}"
                raise ValueError(f"log_handlers: {handler!r} is for local rank {local_rank} of {hostname!r}, {there}")


def _some(things: Collection[object]) -> str:
    """All, or so many that a reader sees what they are like."""
    shown = ", ".join(str(each) for each in itertools.islice(things, _MOST_SHOWN))
    return shown if len(things) <= _MOST_SHOWN else f"{shown} and {len(things) - _MOST_SHOWN} more"


def check_path(name: str, path: object) -> None:
    """Raises TypeError or ValueError where a path on the hosts could not be one, or be taken for something else."""
    if path is None:
        return
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be a path, not {path!r}")
    text = os.fspath(path)
    if not text or text.startswith("-") or "\0" in text or "\n" in text:
        raise ValueError(f"{name} must not be empty, begin with a dash, or hold a newline or a NUL: {text!r}")
    if not is_text(text):
        raise ValueError(f"{name} must be UTF-8: {text!r}")


def check_file(name: str, path: object) -> Path | None:
    """Raises FileNotFoundError where a file that was named is not there."""
    if path is None:
        return None
    file = Path(str(path)).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{name}: there is no file {str(file)!r}")
    return file


def check_arguments(args: object, kwargs: object) -> None:
    """Raises TypeError where these are no arguments for a function: `func_args=("hello")` is not a tuple."""
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise TypeError(
            f"func_args must be a list or a tuple, not {type(args).__name__}: for one argument, (argument,)"
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"func_kwargs must be a dict of arguments by their names, not {type(kwargs).__name__}")


def pickle_call(func: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pickled:
    """The function and its arguments, ready for the workers.

    Raises:
        TypeError: Where `func` cannot be called, is a coroutine function, or a part cannot be pickled.
    """
    if not callable(func):
        raise TypeError(f"the first argument must be a function to be called on every worker, not {func!r}")
    if _is_async(func) or _is_async(type(func).__call__):
        raise TypeError(
            f"{getattr(func, '__qualname__', func)} is a coroutine function: wrap it, as in lambda: asyncio.run(...)"
        )
    try:
        return payload.dumps((func, args, kwargs))
    except Exception as error:
        parts = {"the function": func} | {f"argument {number}": arg for number, arg in enumerate(args, 1)}
        parts |= {f"argument {name!r}": value for name, value in kwargs.items()}
        for name, part in parts.items():
            if not _survives(part):
                raise TypeError(f"cannot send to the workers: {diagnose.why_unpicklable(part, name)}") from error
        raise TypeError(f"cannot send the function and its arguments to the workers: {error}") from error


def _is_async(func: Any) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


def _survives(part: object) -> bool:
    try:
        payload.dumps(part)
    except Exception:
        return False
    return True
