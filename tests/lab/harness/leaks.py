"""What a machine of the lab holds just now: processes, listening ports, files. Read from outside, through /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_LISTEN = "0A"
_SYN_SENT = "02"


@dataclass(frozen=True)
class Leftover:
    """Something that should have gone."""

    where: str
    kind: Literal["process", "port", "file"]
    what: str


def all_pids() -> list[int]:
    """Every process of the real machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def pids_sharing(namespace: Literal["pid", "mnt"], with_pid: int) -> list[int]:
    """The living processes in the same namespace as another."""

    def identity(pid: int) -> tuple[int, int] | None:
        try:
            status = os.stat(f"/proc/{pid}/ns/{namespace}")
        except OSError:
            return None
        return status.st_dev, status.st_ino

    wanted = identity(with_pid)
    return [] if wanted is None else [pid for pid in all_pids() if identity(pid) == wanted and is_alive(pid)]


def inner_pid(pid: int) -> int | None:
    """The number of a process inside its own PID namespace; None when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None


def describe(pid: int) -> str:
    """The process's number and command line."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return f"{pid} {' '.join(words).strip()}"
    return str(pid)


def pids_with(cookie: str) -> list[int]:
    """The living processes of the real machine whose environment or command line holds a text; never this one."""
    wanted = cookie.encode()

    def holds(pid: int) -> bool:
        for name in ("environ", "cmdline"):
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{pid}/{name}").read_bytes():
                    return True
        return False

    return [pid for pid in all_pids() if pid != os.getpid() and holds(pid) and is_alive(pid)]


def listening_ports(pid: int) -> set[int]:
    """The TCP ports, of IPv4 and IPv6, listened on in the network namespace of a process."""
    return {int(fields[1].rpartition(":")[2], 16) for fields in _sockets(pid) if fields[3] == _LISTEN}


def is_connecting(pid: int) -> bool:
    """Whether there is a TCP connection in the network namespace of a process that nobody has answered yet."""
    return any(fields[3] == _SYN_SENT for fields in _sockets(pid))


def _sockets(pid: int) -> Iterator[list[str]]:
    """The lines of the kernel's tables of TCP sockets."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                yield line.split()


def files_seen_by(pid: int, directory: str) -> set[str]:
    """All paths below a directory as a process sees it, without those on other file systems mounted there."""
    root = Path(f"/proc/{pid}/root")
    with contextlib.suppress(OSError):
        top = root / directory.lstrip("/")
        return {"/" + str(path.relative_to(root)) for path in _walk(top, top.stat().st_dev)}
    return set()


def _walk(directory: Path, device: int) -> Iterator[Path]:
    for entry in directory.iterdir():
        with contextlib.suppress(OSError):
            if entry.lstat().st_dev != device:
                continue
            yield entry
            if entry.is_dir() and not entry.is_symlink():
                yield from _walk(entry, device)
