"""The settings of a `Launcher` as options of an `argparse` parser.

Names, types and defaults are those of its fields, help texts those of its docstring. Which values are any good is for
`Launcher` to say, on the command line as everywhere else.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse

from trx.launcher import Launcher

_SCALARS = (str, int, float, Path, NoneType)
_COLLECTIONS = (Sequence, Mapping, tuple)


def add_argument_group(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each setting of `Launcher`: `--hostnames`, `--workers-per-host` and so on.

    Args:
        parser: Of the script; its other options must have other names.
    """
    group = parser.add_argument_group("launcher", "Where and how the function is run.")
    texts = _help_texts()
    types = get_type_hints(Launcher)
    for field in fields(Launcher):
        kinds = _kinds(types[field.name])
        if kinds is None:  # not for a command line
            continue
        default = "" if field.default in (None, ()) else " (default: %(default)s)"
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            default=field.default,
            help=texts.get(field.name, "").replace("%", "%%") + default,
            **_how(kinds),
        )


def launcher_from_args(args: argparse.Namespace) -> Launcher:
    """Makes a launcher of what a parser with `add_argument_group` has parsed.

    Settings that are no good end the script, as any other bad option does: with an error on stderr and exit status 2.
    """
    names = {field.name for field in fields(Launcher)}
    launcher = Launcher(**{name: value for name, value in vars(args).items() if name in names})
    try:
        launcher._check()
    except (TypeError, ValueError, OSError) as error:
        _refuse(error)
    return launcher


def _refuse(error: Exception) -> NoReturn:
    argparse.ArgumentParser(usage=argparse.SUPPRESS).error(str(error))


def _help_texts() -> dict[str, str]:
    """Of each setting; none where Python was told to leave docstrings out."""
    described = parse(Launcher.__doc__ or "").params
    return {each.arg_name: " ".join((each.description or "").split()) for each in described}


def _kinds(type_hint: Any) -> tuple[Any, ...] | None:
    """The members of a union; None where one of them cannot be written on a command line."""
    members = get_args(type_hint) if get_origin(type_hint) in (Union, UnionType) else (type_hint,)
    expressible = (
        each in _SCALARS or get_origin(each) is Literal or get_origin(each) in _COLLECTIONS for each in members
    )
    return members if all(expressible) else None


def _how(kinds: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments of `add_argument` that say how a setting of these types is read."""
    if kinds == (float,):
        return {"type": float, "metavar": "SECONDS"}
    if all(get_origin(kind) is Literal or kind is NoneType for kind in kinds):
        words = [word for kind in kinds for word in get_args(kind) or (None,)]
        return {"type": _word_or_none, "choices": words}
    convert = _number_or_word if int in kinds else _word_or_none if NoneType in kinds else str
    if not any(get_origin(kind) in _COLLECTIONS for kind in kinds):
        return {"type": convert}
    if str in kinds or int in kinds:
        return {"type": convert, "nargs": "+", "action": _OneOrMore}
    return {"type": convert, "nargs": "*"}


class _OneOrMore(argparse.Action):
    """A single value stands for itself, several for a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def _number_or_word(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _word_or_none(text: str) -> str | None:
    return None if text.lower() == "none" else text
