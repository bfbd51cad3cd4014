"""Hosts as people write them down: host lists ("node[01-16],login") and hostfiles ("node1 slots=8"). Pure."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_NAME = re.compile(r"(?:\[[^\]]*\]?|[^\s,\[])+")
"""One name of a host list: commas and white space part names, but not within brackets."""

_COUNTED = re.compile(r"(?P<host>[^:]+):(?P<slots>\d+)")
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
    return "/" in re.sub(r"\[[^\]]*\]", "", text)


def expand(text: str) -> NamedHosts:
    """Reads a host list, such as Slurm writes it.

    Raises:
        ValueError: Where brackets are wrong, or hold no ranges of numbers.
    """
    return NamedHosts(tuple(name for part in _NAME.findall(text) for name in _expand_one(part)))


def _expand_one(name: str) -> list[str]:
    if "[" not in name and "]" not in name:
        return [name]
    from ClusterShell.NodeSet import NodeSet, NodeSetException  # here, so that `import trx` stays quick

    try:
        return list(NodeSet(name, resolver=None))
    except NodeSetException as error:
        raise ValueError(f"hostnames: {name!r} cannot be read as a host list: {error}") from None


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
