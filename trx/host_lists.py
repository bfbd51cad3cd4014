"""Hosts as people write them down: host lists ("node[01-16],login") and hostfiles ("node1 slots=8"). Pure."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass

MOST_HOSTS = 1 << 16
"""Hosts that one list may name: more than any cluster has. A slip such as "n[1-30000000]" must not fill the memory."""

_NAME = re.compile(r"(?:\[[^\]]*\]?|[^\s,\[])+")
"""One name of a host list: commas and white space part names, but not within brackets."""

_COUNTED = re.compile(r"(?P<host>[^:]+):(?P<slots>\d+)")
"""`node1:8`; an address of IPv6 has more colons than that."""

_HOST = re.compile(r"(?![-@])[^\s'\"`$;&|<>(){}*?!^#,]+")
"""A name, as far as it is harmless: a user, an address and a port may be in it."""

_BRACKETED = re.compile(r"[^\[\]]*(?:\[[0-9,/-]*\][^\[\]]*)+")

_RANGE = re.compile(r"(?P<first>[0-9]{1,18})(?:-(?P<last>[0-9]{1,18})(?:/(?P<step>[0-9]{1,18}))?)?")

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
    return "/" in re.sub(r"\[[^\]]*\]", "", text)


def check_name(name: str, what: str = "hostnames") -> None:
    """Refuses what can be the name of no host, with or without a user and a port.

    Nothing here interprets a name. But names end up in the words of shells and of other programs, which might.

    Raises:
        ValueError: Where the name is empty, begins with a dash or an at sign, or holds spaces or a shell's syntax.
    """
    if not _HOST.fullmatch(name) or not name.isprintable():
        raise ValueError(f"{what}: {_shortened(name)} cannot be the name of a host")


def expand(text: str, what: str = "hostnames") -> NamedHosts:
    """Reads a host list, such as Slurm writes it.

    The expansion is our own, since that of ClusterShell looks groups up by a shell, reorders and merges numbers, and
    has no bound.

    Args:
        text: Names that are parted by commas or white space. Brackets within them hold ranges: "r[0-1]n[01-16/2,20]".
        what: Says in errors where the text comes from.

    Raises:
        ValueError: Where brackets are wrong, or hold no ranges of numbers, or a name can be none of a host, or there
            are more hosts than `MOST_HOSTS`.
    """
    parts = [_Part.read(name, what) for name in _NAME.findall(text)]
    count = sum(part.count for part in parts)
    if count > MOST_HOSTS:
        raise ValueError(f"{what}: {_shortened(text)} names {count} hosts, which is more than {MOST_HOSTS}")
    return NamedHosts(tuple(name for part in parts for name in part.names()))


@dataclass(frozen=True)
class _Range:
    """The numbers from `first` to `last`, written with at least `width` digits."""

    first: int
    last: int
    step: int
    width: int

    @property
    def count(self) -> int:
        return (self.last - self.first) // self.step + 1

    def texts(self) -> list[str]:
        return [f"{number:0{self.width}}" for number in range(self.first, self.last + 1, self.step)]


@dataclass(frozen=True)
class _Part:
    """One name of a list: texts, and ranges in place of some of them."""

    pieces: tuple[str | tuple[_Range, ...], ...]

    @classmethod
    def read(cls, name: str, what: str) -> _Part:
        if "[" not in name and "]" not in name:
            check_name(name, what)
            return cls((name,))
        why = f"{what}: {_shortened(name)} cannot be read as a host list: "
        if not _BRACKETED.fullmatch(name):
            raise ValueError(why + "brackets must hold numbers and ranges of them, as in node[01-16,20]")
        pieces = re.split(r"\[([^\]]*)\]", name)
        check_name("".join("0" if index % 2 else piece for index, piece in enumerate(pieces)), what)
        return cls(tuple(read_ranges(each, why) if index % 2 else each for index, each in enumerate(pieces)))

    @property
    def count(self) -> int:
        return math.prod(sum(each.count for each in piece) for piece in self.pieces if not isinstance(piece, str))

    def names(self) -> list[str]:
        choices = [
            [piece] if isinstance(piece, str) else [text for each in piece for text in each.texts()]
            for piece in self.pieces
        ]
        return ["".join(choice) for choice in itertools.product(*choices)]


def read_ranges(text: str, why: str) -> tuple[_Range, ...]:
    """Reads numbers and ranges such as "01-16/2,20". Zeros before the first number are those of all of a range."""
    ranges = []
    for each in text.split(","):
        if not (found := _RANGE.fullmatch(each)):
            raise ValueError(f"{why}{_shortened(each)} is no range of numbers")
        first, last, step = found["first"], found["last"] or found["first"], int(found["step"] or 1)
        if int(last) < int(first) or not step:
            raise ValueError(f"{why}the range {each} holds no number")
        ranges.append(_Range(int(first), int(last), step, len(first) if first.startswith("0") else 1))
    return tuple(ranges)


def expand_numbers(text: str, what: str) -> tuple[int, ...]:
    """The numbers of a list like "0,2-3".

    Raises:
        ValueError: Where it is something else, or they are more than `MOST_HOSTS`.
    """
    ranges = read_ranges(text, f"{what}: {_shortened(text)}: ")
    if sum(each.count for each in ranges) > MOST_HOSTS:
        raise ValueError(f"{what}: {_shortened(text)} holds more than {MOST_HOSTS} numbers")
    return tuple(number for each in ranges for number in range(each.first, each.last + 1, each.step))


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]} ...")


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
    for host in lines:
        check_name(host, path)
    if bare and len(bare) < lines.total():
        raise ValueError(f"{bare[0]} has no slots, but other lines have: say them for all hosts, or for none")
    says_nothing = bare and max(lines.values()) == 1
    return NamedHosts(tuple(lines), None if says_nothing else tuple(slots[host] for host in lines))


def _read_line(words: list[str], where: str) -> tuple[str, int | None]:
    host, *settings = words
    found: dict[str, int] = {}
    if counted := _COUNTED.fullmatch(host):
        host, found["slots"] = counted["host"], int(counted["slots"])
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
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"{what} must be a number, not {text!r}")
    return int(text)
