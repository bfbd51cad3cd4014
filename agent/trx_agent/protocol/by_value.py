"""What of a script, a notebook or a test travels as it is, because workers cannot import it.

cloudpickle does so for functions and classes of `__main__` and those made within functions. Here is what it leaves out:

- modules that workers would not find by their name: loaded by path, by pytest's importlib mode, from a directory that
  has left `sys.path`;
- objects that pickle themselves by their name, although they are of `__main__`: cached and dispatching functions, types
  made by `NewType` and the like, which functions have in their annotations;
- slots of classes, without which an instance made by a worker would not fit its class in the launcher.
"""

from __future__ import annotations

import functools
import os
import sys
import typing
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle

Reduced = tuple[Any, ...]
"""As `object.__reduce_ex__` returns it."""

_MAIN = "__main__"
_MAIN_OF_A_CHILD = "__mp_main__"
"""What the script is called in processes that multiprocessing spawns."""


# ---- modules --------------------------------------------------------------------------------------------------------


def module_of(obj: object) -> ModuleType | None:
    """The module by whose name workers would look for a function, a class or the like; itself, if it is a module."""
    if isinstance(obj, ModuleType):
        return obj
    if isinstance(obj, FunctionType | type) or type(obj) in _REDUCERS:
        name = getattr(obj, "__module__", None)
        return sys.modules.get(name) if isinstance(name, str) else None
    return None


def send_by_value(module: ModuleType) -> None:
    """Has cloudpickle send what is of this module as it is, from now on, unless workers find the module."""
    name = module.__name__
    if name != _MAIN and sys.modules.get(name) is module and not can_be_imported(module):
        cloudpickle.register_pickle_by_value(module)


def can_be_imported(module: ModuleType) -> bool:
    """Whether another process finds this very module by its name, where it looks at the same places.

    The question is asked of what was loaded from Python files only: what other modules made (`torch.ops`) is theirs to
    make again, and what is compiled cannot travel as it is.
    """
    if module.__name__ == _MAIN_OF_A_CHILD:
        return False
    ours = getattr(module, "__spec__", None)
    if ours is None or ours.name != module.__name__ or not str(ours.origin).endswith(".py"):
        return True
    try:
        return _is_found(ours.name, ours.origin)
    except Exception:  # whatever finders do: an import in the worker tells more
        return True


def _is_found(module: str, file: str) -> bool:
    spec: ModuleSpec | None = None
    name = ""
    for part in module.split("."):
        places = _places(name, spec)
        name = f"{name}.{part}" if name else part
        spec = _find(name, places)
        if spec is None:
            return False
    if spec is None or not spec.has_location or not spec.origin:  # such as those frozen into the interpreter
        return True
    return os.path.realpath(spec.origin) == os.path.realpath(file)


def _places(package: str, found: ModuleSpec | None) -> Sequence[str] | None:
    """Where a package's modules are looked for; it may have added places itself, if it is the one that is loaded."""
    if found is None:
        return None
    places = list(found.submodule_search_locations or ())
    loaded = sys.modules.get(package)
    ours = getattr(loaded, "__spec__", None)
    if ours is not None and ours.origin and ours.origin == found.origin:
        places += getattr(loaded, "__path__", ())
    return places


def _find(name: str, places: Sequence[str] | None) -> ModuleSpec | None:
    """What an import would find, had the module not been imported before."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find and (spec := find(name, places)):
            return typing.cast(ModuleSpec, spec)
    return None


# ---- objects --------------------------------------------------------------------------------------------------------


def reduce(obj: Any) -> Reduced | None:
    """How to pickle an object that has no name by which workers find it; None where cloudpickle knows."""
    if isinstance(obj, functools.cached_property):  # before Python 3.12 it has a lock
        return functools.cached_property, (obj.func,), {"attrname": obj.attrname}
    reducer = _REDUCERS.get(type(obj))
    if reducer is None and isinstance(obj, FunctionType) and obj.__code__ is _DISPATCH_CODE:
        reducer = _reduce_dispatcher
    return None if reducer is None or _has_name(obj) else reducer(obj)


def with_slots(obj: Any, reduced: Any) -> Any:
    """What cloudpickle makes of a class, and its slots with it."""
    if type(obj) not in (type, ABCMeta) or not isinstance(reduced, tuple):
        return reduced
    function, args, *rest = reduced
    if "__slots__" not in vars(obj) or function is not _MAKE_CLASS or issubclass(obj, tuple):
        return reduced
    metaclass, name, bases, attributes, *others = args
    return function, (metaclass, name, bases, {**attributes, "__slots__": vars(obj)["__slots__"]}, *others), *rest


def _has_name(obj: Any) -> bool:
    module = module_of(obj)
    if module is None or module.__name__ == _MAIN:
        return False
    if module.__name__ in cloudpickle.list_registry_pickle_by_value():
        return False
    found: object = module
    for part in getattr(obj, "__qualname__", obj.__name__).split("."):
        found = getattr(found, part, None)
    return found is obj


def _reduce_cached(function: Any) -> Reduced:
    return _cached, (function.__wrapped__, function.cache_parameters())


def _cached(function: Callable[..., Any], parameters: Mapping[str, Any]) -> object:
    """An empty cache: what a worker computes is the worker's."""
    return functools.lru_cache(**parameters)(function)


def _reduce_dispatcher(function: Any) -> Reduced:
    return _new_dispatcher, (), dict(function.registry), None, None, _fill_dispatcher


def _new_dispatcher() -> Any:
    return functools.singledispatch(_to_be_filled)


def _to_be_filled(_: object) -> None: ...


def _fill_dispatcher(dispatcher: Any, registry: Mapping[type, Callable[..., Any]]) -> None:
    for kind, function in registry.items():
        dispatcher.register(kind, function)
    functools.update_wrapper(dispatcher, registry[object])


def _reduce_new_type(new_type: Any) -> Reduced:
    return typing.NewType, (new_type.__name__, new_type.__supertype__)


def _reduce_parameters(variable: Any) -> Reduced:
    return type(variable), (variable.__name__,)


_DISPATCH_CODE = _new_dispatcher().__code__
_MAKE_CLASS = getattr(cloudpickle.cloudpickle, "_make_skeleton_class", None)  # private, and in every version so far

_REDUCERS: dict[type, Callable[[Any], Reduced]] = {
    type(functools.lru_cache(_to_be_filled)): _reduce_cached,
    typing.NewType: _reduce_new_type,
    typing.ParamSpec: _reduce_parameters,
    getattr(typing, "TypeVarTuple", typing.ParamSpec): _reduce_parameters,
}
