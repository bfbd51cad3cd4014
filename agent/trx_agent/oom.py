"""Whether the kernel killed a process because memory ran out: it counts such kills, by control group or by machine."""

from __future__ import annotations

from pathlib import Path


class OomCounter:
    """Kills for want of memory since this object was made."""

    def __init__(self) -> None:
        self._file = _find_file()
        self._before = _read(self._file)

    def has_risen(self) -> bool:
        """Whether there was a kill since the last time that this was asked."""
        now = _read(self._file)
        rose, self._before = now > self._before, now
        return rose


def _find_file(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Path:
    """The counter of this process's own control group where it can be read, else that of the whole machine."""
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        relative = path.lstrip("/")
        version_2 = cgroups / relative / "memory.events"
        version_1 = cgroups / "memory" / relative / "memory.oom_control"
        if not controllers and version_2.is_file():
            return version_2
        if "memory" in controllers.split(",") and version_1.is_file():
            return version_1
    return proc / "vmstat"


def _read(file: Path) -> int:
    try:
        counters = dict(line.split(maxsplit=1) for line in file.read_text().splitlines())
    except OSError:
        return 0
    return int(counters.get("oom_kill", 0))
