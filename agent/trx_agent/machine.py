"""What a host has: CPUs, GPUs, addresses, and the packages that workers need."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import importlib.util
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

NEEDED = ("zmq", "cloudpickle", "psutil", "inotify_simple", "torch")


def missing_packages() -> list[str]:
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def torch_version() -> str:
    """Like "2.13.0", without importing torch; what follows a plus sign (the kind of build) is left out."""
    return (_version_in_its_files() or _version_of_its_distribution()).partition("+")[0]


def _version_in_its_files() -> str | None:
    """What `torch.__version__` would be."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(OSError, ValueError, SyntaxError), open(f"{folder}/version.py") as file:
            line = next((line for line in file if line.startswith("__version__ = ")), "''")
            return str(ast.literal_eval(line.partition("=")[2].strip())) or None
    return None


def _version_of_its_distribution() -> str:
    from importlib.metadata import version  # here, since this takes longer than all else that an agent does at first

    return version("torch")


def is_slurms(variables: Mapping[str, str]) -> bool:
    """Whether Slurm has started this process here, or an ancestor of it: a batch script, or a step of a job."""
    return "SLURMD_NODENAME" in variables


def count_cpus(variables: Mapping[str, str]) -> int:
    """CPUs that a process may use: no more than its Slurm job has here, even where Slurm does not enforce it."""
    allowed = len(os.sched_getaffinity(0))
    given = variables.get("SLURM_CPUS_ON_NODE", "") if is_slurms(variables) else ""
    return min(allowed, int(given)) if given else allowed


def count_gpus(variables: Mapping[str, str]) -> int:
    """GPUs that a process with these variables could use, asked of NVML, which opens no CUDA context."""
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is None and is_slurms(variables):
        return 0  # Slurm names those that it gives, and enforces it or not
    present = _present_gpus()
    if visible is None:
        return present
    named = []
    for name in (part.strip() for part in visible.split(",")):
        if (name.isdigit() and int(name) >= present) or name in ("", "-1"):
            break  # as CUDA does: what follows an invalid entry does not count
        named.append(name)
    return min(len(named), present)


def _present_gpus() -> int:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:  # no driver, no GPUs: which pynvml would say as well, had it been imported
        return 0
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


@dataclass(frozen=True)
class Resources:
    """What there is for workers, and how many of them there will be."""

    gpus: int
    cpus: int
    workers: int


def look(wanted: int | str, variables: Mapping[str, str]) -> Resources:
    """Counts what this host has, and works out what `workers_per_host` means here."""
    gpus, cpus = count_gpus(variables), count_cpus(variables)
    return Resources(gpus, cpus, count_workers(wanted, gpus, cpus))


def count_workers(wanted: int | str, gpus: int, cpus: int) -> int:
    """How many workers "auto" (GPUs, else CPUs), "gpu", "cpu" or a number mean on this host."""
    if isinstance(wanted, int):
        return wanted
    return {"auto": gpus or cpus, "gpu": gpus, "cpu": cpus}[wanted]


def addresses() -> dict[str, str]:
    """This host's own addresses and the interfaces that they belong to, loopback and link-local ones left out.

    IPv4 comes first.
    """
    import psutil  # here, since it is not needed before torch is being imported

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found: dict[str, str] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for interface, entries in psutil.net_if_addrs().items():
            if interface not in up:
                continue
            for entry in entries:
                if entry.family == family and _usable(entry.address):
                    found[entry.address] = interface
    return found


def _usable(address: str) -> bool:
    if "%" in address:
        return False
    import ipaddress  # here, like psutil

    parsed = ipaddress.ip_address(address)
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified)


def interface_of(address: str) -> str:
    """The interface that has `address`, "lo" for loopback, "" where none has it."""
    import ipaddress

    if ipaddress.ip_address(address).is_loopback:
        return "lo"
    return addresses().get(address, "")
