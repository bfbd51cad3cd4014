"""What the lab does with control groups: freezing a host, and limits of memory and CPU."""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from .shell import LabError
from .waiting import wait_until

_CPU_PERIOD_US = 100_000


@dataclass(frozen=True)
class CgroupRoots:
    """Where the machine's writable hierarchies are mounted; None where there is none (freezer: version 2 only)."""

    freezer: Path | None = None
    memory: Path | None = None
    cpu: Path | None = None

    @classmethod
    def find(cls) -> CgroupRoots:
        """Looks through the machine's mounts."""
        found: dict[str, Path] = {}
        for line in Path("/proc/mounts").read_text().splitlines():
            _, where, kind, options, *_ = line.split()
            root = Path(where)
            if kind not in ("cgroup", "cgroup2") or not os.access(root, os.W_OK):
                continue
            if kind == "cgroup2":
                found["freezer"] = root
                controllers = (root / "cgroup.subtree_control").read_text().split()
            else:
                controllers = options.split(",")
            for name in ("memory", "cpu"):
                if name in controllers:
                    found.setdefault(name, root)
        return cls(**found)

    def existing(self) -> list[Path]:
        """The distinct roots there are."""
        return list(dict.fromkeys(root for root in (self.freezer, self.memory, self.cpu) if root))


class Cgroup:
    """The control groups of one host: a directory of the same name in every hierarchy there is."""

    def __init__(self, roots: CgroupRoots, name: str) -> None:
        self._roots = roots
        self._name = name
        for path in self.paths():
            path.mkdir(exist_ok=True)

    def paths(self) -> list[Path]:
        """The directories."""
        return [root / self._name for root in self._roots.existing()]

    def join_command(self) -> str:
        """Shell text by which a shell, and what it executes afterwards, enters."""
        return "".join(f"echo $$ > {shlex.quote(str(path))}/cgroup.procs; " for path in self.paths())

    @property
    def can_freeze(self) -> bool:
        """Whether there is a freezer."""
        return self._roots.freezer is not None

    def freeze(self, frozen: bool) -> None:
        """Stops or continues all processes; returns when they have stopped."""
        group = self._directory(self._roots.freezer, "freezer")
        (group / "cgroup.freeze").write_text(str(int(frozen)))
        if frozen:
            events = group / "cgroup.events"
            wait_until(lambda: "frozen 1" in events.read_text(), 10, f"{group} is frozen")

    def limit_memory(self, limit: int | str | None) -> None:
        """Sets the limit, in bytes or as "64M"; None lifts it."""
        group = self._directory(self._roots.memory, "memory")
        if (group / "memory.max").exists():
            (group / "memory.max").write_text("max" if limit is None else str(limit))
        else:
            (group / "memory.limit_in_bytes").write_text("-1" if limit is None else str(limit))

    def oom_kills(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        group = self._directory(self._roots.memory, "memory")
        name = "memory.events" if (group / "memory.events").exists() else "memory.oom_control"
        counts = dict(line.split() for line in (group / name).read_text().splitlines())
        return int(counts["oom_kill"])

    def limit_cpu(self, cpus: float | None) -> None:
        """Sets the limit in cores, such as 0.1; None lifts it."""
        group = self._directory(self._roots.cpu, "CPU")
        quota = None if cpus is None else int(cpus * _CPU_PERIOD_US)
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{'max' if quota is None else quota} {_CPU_PERIOD_US}")
        else:
            (group / "cpu.cfs_quota_us").write_text(str(-1 if quota is None else quota))

    def remove(self) -> None:
        """Removes the directories, whose processes have been killed but may not be gone yet."""
        for path in self.paths():
            remove_cgroup(path)

    def _directory(self, root: Path | None, what: str) -> Path:
        if root is None:
            raise LabError(f"this machine has no {what} control group that the lab may use")
        return root / self._name


def remove_cgroup(path: Path) -> None:
    """Removes one control group as soon as its last process is gone; leaves it where one stays."""

    def removed() -> bool:
        try:
            path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:  # EBUSY: a killed process is not reaped yet
            return False
        return True

    with contextlib.suppress(TimeoutError):
        wait_until(removed, 2, f"{path} is empty")


def remove_stale_cgroups(roots: CgroupRoots, lab: str) -> None:
    """Removes the control groups of a lab whose process is dead."""
    for root in roots.existing():
        for group in root.glob(f"{lab}.*"):
            with contextlib.suppress(OSError):
                (group / "cgroup.freeze").write_text("0")
            remove_cgroup(group)
