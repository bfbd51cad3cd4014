"""Hosts as people write them down: host lists ("node[01-16],login") and hostfiles ("node1 slots=8"). Pure."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MOST_HOSTS = 65536
"""A list may name so many hosts: Slurm's own bound."""

_LONGEST_NAME = 1024
"""The longest that getaddrinfo takes (`NI_MAXHOST`, without its NUL)."""

_MOST_SHOWN = 120
"""An error shows so many characters of a text."""

_NAME = re.compile(
    r"(?:ssh://)?"
    r"(?:[\w.+][\w.+@-]*@)?"  # the user
    r"(?:\[[\w.:][\w.:%-]*\]|[\w.:][\w.:%-]*)"  # a name or an address; one of IPv6 may stand in brackets
    r"(?::[0-9]+)?/?"
)
"""The name of a host. No character of it means anything to a shell, or is an operator of a host list."""

_PART = re.compile(r"(?:\[[^\]]*\]?|[^\s,\[]++)++")
"""One part of a host list: commas and white space end it, but not within brackets."""

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")

_RANGE = re.compile(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*(?:/\s*([0-9]{1,18})\s*)?)?")
"""`7`, `08-10` or `1-9/2`. Numbers of 18 digits fit into 64 bits, and so does the length of their range."""

_COUNTED = re.compile(r"(?P<host>[^:]+):(?P<slots>[0-9]+)")
"""`node1:8`; an address of IPv6 has more colons than that."""

_SETTING = re.compile(r"(?P<key>[\w-]+)=(?P<value>.*)")


@dataclass(frozen=True)
class NamedHosts:
    """What somebody wrote down.

    Attributes:
        names: In the order in which they are written, which is that of the ranks.
        slots: How many workers each of them is for; None where nothing says so.
    """

    names: tuple[str, ...]
    slots: tuple[int, ...] | None = None


def is_path(text: str) -> bool:
    """Whether this can only be the path of a hostfile: no host has a slash in its name ("node[1-9/2]" has none)."""
    return "/" in _BRACKETS.sub("", text)


@dataclass(frozen=True)
class _Range:
    """Numbers that are written with zeros in front of them, up to a width."""

    numbers: range
    width: int

    @property
    def longest(self) -> int:
        return max(len(str(self.numbers[-1])), self.width)

    def words(self) -> list[str]:
        return [str(number).zfill(self.width) for number in self.numbers]


@dataclass(frozen=True)
class _Part:
    """A part of a host list: its text, with a `{}` for each of its brackets, and what these hold."""

    template: str
    brackets: tuple[tuple[_Range, ...], ...]

    def count(self) -> int:
        return math.prod(_count(ranges) for ranges in self.brackets)

    def names(self) -> list[str]:
        choices = [[word for each in ranges for word in each.words()] for ranges in self.brackets]
        return [self.template.format(*words) for words in itertools.product(*choices)]


def is_name(text: str) -> bool:
    """Whether this may be the name of a host: `node1`, `user@node1:22`, or an address."""
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None


def expand(text: str, source: str = "hostnames") -> NamedHosts:
    """Reads a host list, such as Slurm writes it.

    Hosts are counted before any name is made, since a few characters can stand for very many.

    Args:
        text: What somebody wrote.
        source: The setting or the variable that has this text, for errors.

    Raises:
        ValueError: Where a name cannot be one, brackets are wrong or hold no ranges of numbers, or hosts are too many.
    """
    parts = [_read_part(part, source) for part in _PART.findall(text)]
    if (count := sum(part.count() for part in parts)) > MOST_HOSTS:
        raise ValueError(f"{source}: {shown(text)} names {_figure(count)} hosts, which may be at most {MOST_HOSTS}")
    return NamedHosts(tuple(name for part in parts for name in part.names()))


def _read_part(text: str, source: str) -> _Part:
    example = _BRACKETS.sub("0", text)
    if "[" in example or "]" in example:
        raise ValueError(f"{source}: {shown(text)} cannot be read as a host list: its brackets do not match")
    if not is_name(example):
        raise ValueError(f"{source}: {shown(text)} cannot be the name of a host")
    try:
        brackets = tuple(_read_ranges(inner) for inner in _BRACKETS.findall(text))
    except ValueError as error:
        raise ValueError(f"{source}: {shown(text)} cannot be read as a host list: {error}") from None
    longest = len(_BRACKETS.sub("", text)) + sum(max(each.longest for each in ranges) for ranges in brackets)
    if longest > _LONGEST_NAME:
        raise ValueError(f"{source}: {shown(text)} makes names of {longest} characters, more than {_LONGEST_NAME}")
    return _Part(_BRACKETS.sub("{}", text), brackets)


def expand_numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list like "0,2-3".

    Raises:
        ValueError: Where it is something else, or they are too many.
    """
    ranges = _read_ranges(text)
    if (count := _count(ranges)) > MOST_HOSTS:
        raise ValueError(f"{shown(text)} stands for {_figure(count)} numbers, which may be at most {MOST_HOSTS}")
    return tuple(number for each in ranges for number in each.numbers)


def _read_ranges(text: str) -> tuple[_Range, ...]:
    return tuple(map(_read_range, text.split(",")))


def _read_range(text: str) -> _Range:
    if not (match := _RANGE.fullmatch(text)):
        raise ValueError(f"{shown(text)} is no range of numbers, such as 7, 08-10 or 1-9/2")
    first, last, step = match[1], match[2] or match[1], match[3] or "1"
    if int(last) < int(first) or int(step) == 0:
        raise ValueError(f"{shown(text)} is a range without numbers")
    if len(last) > len(first) and last.startswith("0"):
        raise ValueError(f"{shown(text)} has zeros in front of its end only")
    return _Range(range(int(first), int(last) + 1, int(step)), len(first))


def _count(ranges: Sequence[_Range]) -> int:
    return sum(len(each.numbers) for each in ranges)


def _figure(count: int) -> str:
    """A number as digits, unless they would be too many to read."""
    return str(count) if count < 10**18 else "more than 10**18"


def shown(text: str) -> str:
    """A text as an error shows it: cut where it is long."""
    return repr(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…")


def read_hostfile(text: str, path: str) -> NamedHosts:
    """Reads a hostfile of MPI's or DeepSpeed's kind.

    Each line names a host: `node1`, `node1:8` or `node1 slots=8`; `#` begins a comment. A host that is named several
    times has the sum of its slots. Where no line has slots, a host that is named n times has n of them; and where no
    host is named twice either, the file says nothing about workers.

    Args:
        text: What the file holds.
        path: Of the file, for errors.

    Raises:
        ValueError: Where a line is something else, or some lines have slots and others have not.
    """
    slots: Counter[str] = Counter()
    bare: list[str] = []
    lines: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := re.sub(r"\s*=\s*", "=", line.partition("#")[0]).split()):
            continue
        where = f"{path}, line {number}"
        host, count = _read_line(words, where)
        lines[host] += 1
        slots[host] += 1 if count is None else count
        if count is None:
            bare.append(f"{where}: {host}")
    if not lines:
        raise ValueError(f"{path} names no host")
    if bare and len(bare) < lines.total():
        raise ValueError(f"{bare[0]} has no slots, but other lines have: say them for all hosts, or for none")
    says_nothing = bare and max(lines.values()) == 1
    return NamedHosts(tuple(lines), None if says_nothing else tuple(slots[host] for host in lines))


def _read_line(words: list[str], where: str) -> tuple[str, int | None]:
    host, *settings = words
    found: dict[str, int] = {}
    if counted := _COUNTED.fullmatch(host):
        host, found["slots"] = counted["host"], _number(counted["slots"], f"{where}: slots")
    if not is_name(host):
        raise ValueError(f"{where}: {shown(host)} cannot be the name of a host")
    for setting in settings:
        match = _SETTING.fullmatch(setting)
        key = match["key"].replace("-", "_") if match else ""
        if not match or key not in ("slots", "max_slots") or key in found:
            raise ValueError(f"{where}: {setting!r} is not understood; lines are like 'node1 slots=8' or 'node1:8'")
        found[key] = _number(match["value"], f"{where}: {key}")
    if found.get("slots") == 0:
        raise ValueError(f"{where}: {host} has no slots: leave its line out")
    return host, found.get("slots")


def _number(text: str, what: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{what} must be a number, not {shown(text)}")
    return int(text)
