"""What of a script, a notebook or a test travels as it is, because workers cannot import it.

cloudpickle does so for functions and classes of `__main__` and those made within functions. Here is what it leaves out:

- modules that workers would not find by their name: loaded by path, by pytest's importlib mode, from a directory that
  has left `sys.path`;
- objects that pickle themselves by their name, although they are of `__main__` (cached and dispatching functions, types
  made by `NewType` and the like, which functions have in their annotations), or not at all (`cached_property`);
- the file that code is from, and its lines where a host may not have them (a notebook's cell, a script that is only
  here): without them a traceback of a worker shows none;
- slots of classes, without which an instance made by a worker would not fit its class in the launcher;
- that a class which comes back to where it was defined is left as it is: cloudpickle would replace its functions by
  those that came back, which see other global variables than the script's own.
"""

from __future__ import annotations

import functools
import linecache
import os
import sys
import sysconfig
import typing
import uuid
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import cloudpickle

Reduced = tuple[Any, ...]
"""As `object.__reduce_ex__` returns it."""

_WITH_SETTER = 6
"""Parts of a reduced object that is made first, and then filled by a function."""

_MAIN = "__main__"
_MAIN_OF_A_CHILD = "__mp_main__"
"""What the script is called in processes that multiprocessing spawns."""


# ---- modules --------------------------------------------------------------------------------------------------------


def module_of(obj: object) -> ModuleType | None:
    """The module by whose name workers would look for a function, a class or the like; itself, if it is a module."""
    if isinstance(obj, ModuleType):
        return obj
    name = getattr(obj, "__module__", None)
    module: object = sys.modules.get(name) if isinstance(name, str) else None
    return module if isinstance(module, ModuleType) else None


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


# ---- classes --------------------------------------------------------------------------------------------------------

_names: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_classes: WeakValueDictionary[str, type] = WeakValueDictionary()
_empty: WeakSet[type] = WeakSet()
"""Made, but without what cloudpickle fills them with."""


def reduce_class(cls: type, reduced: Any) -> Any:
    """What cloudpickle makes of a class, made so that it is known where it comes from.

    Args:
        cls: The class.
        reduced: What cloudpickle says; a class that travels by name is none of our business.
    """
    if not isinstance(reduced, tuple) or len(reduced) != _WITH_SETTER:
        return reduced
    make, args, state, *_, fill = reduced
    name = _names.setdefault(cls, uuid.uuid4().hex)
    _classes[name] = cls
    return _make_class, (name, make, _with_slots(cls, args)), (fill, state), None, None, _fill_class


def _with_slots(cls: type, args: Reduced) -> Reduced:
    if type(cls) not in (type, ABCMeta) or "__slots__" not in vars(cls) or issubclass(cls, tuple):
        return args
    metaclass, name, bases, attributes, *others = args
    return metaclass, name, bases, {**attributes, "__slots__": vars(cls)["__slots__"]}, *others


def _make_class(name: str, make: Callable[..., type], args: Reduced) -> type:
    known = _classes.get(name)
    if known is None:
        known = _classes[name] = make(*args)
        _names[known] = name
        _empty.add(known)
    return known


def _fill_class(cls: type, filling: tuple[Callable[[type, Any], object], Any]) -> None:
    if cls in _empty:
        fill, state = filling
        fill(cls, state)
        _empty.discard(cls)


# ---- objects --------------------------------------------------------------------------------------------------------


def reduce(obj: Any) -> Reduced | None:
    """How to pickle an object that has no name by which workers find it; None where cloudpickle knows."""
    if always := _ALWAYS.get(type(obj)):
        return always(obj)
    reducer = _REDUCERS.get(type(obj))
    if reducer is None and isinstance(obj, FunctionType) and obj.__code__ is _DISPATCH_CODE:
        reducer = _reduce_dispatcher
    return None if reducer is None or _has_name(obj) else reducer(obj)


def _has_name(obj: Any) -> bool:
    module = module_of(obj)
    if module is None or module.__name__ == _MAIN:
        return False
    if module.__name__ in cloudpickle.list_registry_pickle_by_value():
        return False
    path: str = getattr(obj, "__qualname__", getattr(obj, "__name__", ""))  # a cached partial has neither
    found: object = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is obj


def _reduce_cached(function: Any) -> Reduced:
    return _cached, (function.__wrapped__, function.cache_parameters())


def _cached(function: Callable[..., Any], parameters: Mapping[str, Any]) -> object:
    """An empty cache: what a worker computes is the worker's."""
    return functools.lru_cache(**parameters)(function)


Lines = tuple[int, list[str]]
"""Of a file: its size in bytes, or characters, and the lines themselves."""

_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _reduce_code(code: CodeType) -> Reduced:
    """With the file that tracebacks name, which cloudpickle leaves out since 3.1.3, and with its lines."""
    make, args = cloudpickle.CloudPickler.dispatch_table[CodeType](code)
    return _code_of_file, (make, args, code.co_filename, _lines(code.co_filename))


def _lines(file: str) -> Lines | None:
    """What Python shows of a file in tracebacks; None for those that every host has, and where there is nothing."""
    if file.startswith(_INSTALLED) or not (lines := linecache.getlines(file)):
        return None
    known = linecache.cache.get(file)
    if known is None or len(known) == 1:  # whoever replaces parts of linecache, as IPython does, may not keep it
        return None
    return known[0], lines  # the same list each time, so that it is pickled once


def _code_of_file(make: Callable[..., CodeType], args: tuple[Any, ...], file: str, lines: Lines | None) -> CodeType:
    if lines and not _is_there(file, lines[0]):
        linecache.cache[file] = lines[0], None, lines[1], file  # no time: it is not looked for on the disk
    return make(*args).replace(co_filename=file)


def _is_there(file: str, size: int) -> bool:
    """Whether this host has the file; one of another size is another version of it."""
    if file in linecache.cache:
        return True
    try:
        return os.stat(file).st_size == size
    except (OSError, ValueError):
        return False


def _reduce_dispatcher(function: Any) -> Reduced:
    return _new_dispatcher, (), dict(function.registry), None, None, _fill_dispatcher


def _reduce_dispatching_method(method: Any) -> Reduced:
    """From Python 3.13 on it has weak references."""
    return functools.singledispatchmethod, (method.func,), dict(method.dispatcher.registry), None, None, _register_all


def _register_all(dispatcher: Any, registry: Mapping[type, Callable[..., Any]]) -> None:
    for kind, function in registry.items():
        dispatcher.register(kind, function)


def _reduce_cached_property(cached: Any) -> Reduced:
    """Before Python 3.12 it has a lock."""
    return functools.cached_property, (cached.func,), {"attrname": cached.attrname}


def _new_dispatcher() -> Any:
    return functools.singledispatch(_to_be_filled)


def _to_be_filled(_: object) -> None: ...


def _fill_dispatcher(dispatcher: Any, registry: Mapping[type, Callable[..., Any]]) -> None:
    _register_all(dispatcher, registry)
    functools.update_wrapper(dispatcher, registry[object])


def _reduce_new_type(new_type: Any) -> Reduced:
    return typing.NewType, (new_type.__name__, new_type.__supertype__)


def _reduce_parameters(variable: Any) -> Reduced:
    return type(variable), (variable.__name__,)


_DISPATCH_CODE = _new_dispatcher().__code__

_REDUCERS: dict[type, Callable[[Any], Reduced]] = {
    type(functools.lru_cache(_to_be_filled)): _reduce_cached,
    typing.NewType: _reduce_new_type,
    typing.ParamSpec: _reduce_parameters,
    getattr(typing, "TypeVarTuple", typing.ParamSpec): _reduce_parameters,
}

_ALWAYS: dict[type, Callable[[Any], Reduced]] = {
    CodeType: _reduce_code,
    functools.cached_property: _reduce_cached_property,
    functools.singledispatchmethod: _reduce_dispatching_method,
}
"""Those that never have a name."""

KINDS = frozenset({FunctionType, ModuleType, *_REDUCERS, *_ALWAYS})
"""Types of what is looked at here, besides classes."""
