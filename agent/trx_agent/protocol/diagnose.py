"""Finds the part of an object that keeps it from being pickled."""

from __future__ import annotations

import dis
import functools
import io
import types
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from reprlib import Repr
from typing import Any

from cloudpickle import CloudPickler

from trx_agent.protocol.payload import Pickler

MAX_DEPTH = 40
MAX_CHILDREN = 10_000
MAX_ATTEMPTS = 2_000
MAX_MESSAGE = 500
ATOMS = frozenset({bool, bytes, complex, float, int, str, type(None)})

_Child = tuple[str, object]
_Found = tuple[tuple[str, ...], Exception]

_repr = Repr()
_repr.maxstring = _repr.maxother = 80


def why_unpicklable(obj: object, name: str = "") -> str:
    """Says which part of an object cannot be pickled, and why.

    Args:
        obj: The object. Give a call as `functools.partial(function, *args, **kwargs)`; its arguments count from 1.
        name: What to call the object, such as "the value".

    Returns:
        Such as "argument 2 → ['model'] → .lock: cannot pickle '_thread.lock' object".
    """
    error = _failure(obj)
    if error is None:
        return f"{name or 'the object'}: nothing is wrong with it, it can be pickled"
    path, cause = _Search().find(obj, (name,), error) or ((name,), error)
    message = (str(cause) or type(cause).__name__)[:MAX_MESSAGE]
    where = " → ".join(label for label in path if label)
    return f"{where}: {message}" if where else message


class _Search:
    """A walk down the parts that fail, to one that fails although all its parts can be pickled."""

    def __init__(self) -> None:
        self._attempts = MAX_ATTEMPTS
        self._failed: dict[int, object] = {}

    def find(self, obj: object, path: tuple[str, ...], error: Exception) -> _Found | None:
        """Returns the path to the culprit in `obj`, or None if `obj` fails because of something seen before."""
        self._failed[id(obj)] = obj
        explained_elsewhere = False
        for label, child in islice(_children(obj), MAX_CHILDREN) if len(path) < MAX_DEPTH else ():
            if id(child) in self._failed:
                explained_elsewhere = True
                continue
            child_error = self._try(child)
            if child_error is None:
                continue
            found = self.find(child, (*path, label), child_error)
            if found is not None:
                return found
            explained_elsewhere = True
        return None if explained_elsewhere else (path, error)

    def _try(self, obj: object) -> Exception | None:
        if type(obj) in ATOMS or self._attempts == 0:
            return None
        self._attempts -= 1
        return _failure(obj)


def _failure(obj: object) -> Exception | None:
    try:
        Pickler(io.BytesIO()).dump(obj)
    except Exception as error:
        return error
    return None


def _children(obj: object) -> Iterator[_Child]:
    """Yields the parts of an object that are pickled with it, and how to name them."""
    if isinstance(obj, types.FunctionType):
        return _of_function(obj)
    if isinstance(obj, types.MethodType):
        return iter([(f"method {obj.__name__} → its object", obj.__self__), ("", obj.__func__)])
    if isinstance(obj, type):
        return _of_class(obj)
    if isinstance(obj, functools.partial):
        return _of_partial(obj)
    return chain(_of_collection(obj), _of_reduced(obj))


def _of_function(function: types.FunctionType) -> Iterator[_Child]:
    name = f"function {function.__name__}"
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for variable, cell in cells:
        try:
            yield f"{name} → closure variable {variable}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for variable in _globals_used(function.__code__):
        if variable in function.__globals__:
            yield f"{name} → global variable {variable}", function.__globals__[variable]
    for default in chain(function.__defaults__ or (), (function.__kwdefaults__ or {}).values()):
        yield f"{name} → default value {_repr.repr(default)}", default
    for attribute, value in vars(function).items():
        yield f"{name} → .{attribute}", value


def _globals_used(code: types.CodeType) -> list[str]:
    """Returns the global names in a function's code and in the functions defined in it, each once and in order."""
    names = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _globals_used(constant)
    return list(dict.fromkeys(names))


def _of_class(cls: type) -> Iterator[_Child]:
    for base in cls.__bases__:
        yield f"class {cls.__name__} → base class", base
    for attribute, value in vars(cls).items():
        if attribute not in ("__dict__", "__weakref__", "_abc_impl"):  # cloudpickle leaves these out
            yield f"class {cls.__name__} → .{attribute}", value


def _of_partial(partial: functools.partial[Any]) -> Iterator[_Child]:
    yield "", partial.func
    for number, argument in enumerate(partial.args, 1):
        yield f"argument {number}", argument
    for name, argument in partial.keywords.items():
        yield f"argument {name}", argument


def _of_collection(obj: object) -> Iterator[_Child]:
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield f"key {_repr.repr(key)}", key
            yield f"[{_repr.repr(key)}]", value
    elif isinstance(obj, (list, tuple)):
        for index, value in enumerate(obj):
            yield f"[{index}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield f"element {_repr.repr(value)}", value


def _of_reduced(obj: object) -> Iterator[_Child]:
    """Yields what the object itself tells pickle to pickle in its stead."""
    if type(obj) in (dict, list, tuple, set, frozenset):
        return
    reducer: Callable[[object], Any] | None = CloudPickler.dispatch_table.get(type(obj))
    try:
        reduced: Any = reducer(obj) if reducer else obj.__reduce_ex__(5)
    except Exception:  # the object itself is the culprit
        return
    if isinstance(reduced, str):
        return
    args, state, listitems, dictitems = (*reduced[1:5], None, None, None)[:4]
    if not isinstance(obj, (tuple, set, frozenset)):
        for number, argument in enumerate(args, 1):
            yield "" if isinstance(argument, type) else f"{type(obj).__name__} argument {number}", argument
    yield from _of_state(state)
    if not isinstance(obj, (list, dict)):
        yield from _of_collection(list(listitems or ()))
        yield from _of_collection(dict(dictitems or ()))


def _of_state(state: object) -> Iterator[_Child]:
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # with __slots__
        attributes: Iterable[tuple[Any, Any]] = chain((state[0] or {}).items(), state[1].items())
    elif isinstance(state, dict):
        attributes = state.items()
    else:
        yield "state", state
        return
    for name, value in attributes:
        yield f".{name}", value
