"""What a Slurm allocation gives: its hosts, their GPUs, and how many workers each of them is meant for."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from trx import host_lists

Start = Literal["auto", "ssh", "srun"]

_PATIENCE = 60.0
"""Seconds that the controller has for an answer: a busy one may take long."""

_OF_ONE_HOST = (
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "SLURMD_*",
    "SLURM_*_ON_NODE",
    "SLURM_JOB_GPUS",
    "SLURM_STEP*",
    "SLURM_NODEID",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_GTIDS",
    "SLURM_TASK_PID",
)
"""Variables that Slurm sets for one host or task, and that mean something else, or nothing, on another."""

_NO_OPTIONS = (
    "SLURM_CONF",
    "SLURM_CLUSTER_NAME",
    "SLURM_WORKING_CLUSTER",
    "SLURM_JOB_NAME",
    "SLURM_RESTART_COUNT",
    "SLURM_ARRAY_*",
    "SLURM_SUBMIT_*",
)
"""Slurm's variables that srun takes for no option of the step, and that the user's function may ask for."""

_INTERACTIVE_STEP = "4294967290"
"""The number of the step that salloc's shell is, where the cluster starts it on the first node. It tells of the job."""

_RECORD = re.compile(r"JobId=(\d+)(?: HetJobId=(\d+))?")
_GRANTED = re.compile(r"^\s*Nodes=(\S+).* GRES=(\S*)", re.MULTILINE)
_GPUS = re.compile(r"(?:^|,)gpu(?::[^:(,]+)?:(\d+)(?:\(IDX:([\d,-]+)\))?")
_COUNT = re.compile(r"([0-9]{1,18})(?:\(x([0-9]{1,18})\))?")


@dataclass(frozen=True)
class Share:
    """What the job has on one host.

    Attributes:
        tasks: Where the user has asked for tasks.
        cpus: In units of `--cpus-per-task`.
        component: Of a heterogeneous job, that which the host belongs to.
    """

    tasks: int | None
    cpus: int
    component: int | None = None


@dataclass(frozen=True)
class Allocation:
    """The Slurm allocation that this process belongs to.

    Attributes:
        job_id: The job's; of a heterogeneous one, that of its first component.
        hosts: By the names of its nodes, in Slurm's order.
        here: The one that this process runs on as a part of the job; "" where it does not, as below `salloc`.
        in_step: Whether srun has started this process, or an ancestor of it; a batch script is no step.
        several_tasks: Whether the user has asked for more than one task on some host.
    """

    job_id: str
    hosts: Mapping[str, Share]
    here: str
    in_step: bool
    several_tasks: bool

    def node(self, hostname: str) -> str | None:
        """Slurm's name of a host, which may be called by its full name ("node1.example.org"); None if it has none."""
        names = (hostname, hostname.partition(".")[0])
        return next((name for name in names if name in self.hosts), None)

    def workers(self, hostname: str) -> int:
        """How many workers the allocation was made for on a host.

        The tasks that were asked for, where they are more than one on some host; else one for each GPU; else the tasks
        as Slurm counts them: one for each CPU, unless --ntasks or --cpus-per-task says otherwise.

        Raises:
            RuntimeError: Where the host is not of the allocation, or has no GPU though others have.
        """
        if (node := self.node(hostname)) is None:
            raise RuntimeError(f'workers_per_host="slurm": {hostname} is not in the Slurm allocation {self.job_id}')
        share = self.hosts[node]
        if self.several_tasks and share.tasks:
            return share.tasks
        gpus = granted_gpus(self.job_id)
        if gpus and node not in gpus:
            raise RuntimeError(
                f'workers_per_host="slurm": the Slurm allocation {self.job_id} has GPUs, but none on {hostname}; '
                "say how many workers it has, or leave it out of hostnames"
            )
        return len(gpus.get(node, ())) or share.tasks or share.cpus


def allocation(environment: Mapping[str, str] = os.environ) -> Allocation | None:
    """The allocation that this process belongs to; None outside of one.

    Raises:
        ValueError: Where one of Slurm's variables cannot be read.
    """
    return _read(tuple((name, value) for name, value in environment.items() if name.startswith("SLURM")))


@functools.lru_cache(maxsize=1)  # it is asked for each host, and there may be thousands
def _read(variables: tuple[tuple[str, str], ...]) -> Allocation | None:
    environment = dict(variables)
    components = _components(environment)
    job_id = environment.get("SLURM_JOB_ID") or next(iter(components), "")  # which is all that salloc says of several
    if not job_id or (job_id not in components and not environment.get("SLURM_JOB_NODELIST")):
        return None
    hosts: dict[str, Share] = {}
    for component in range(len(components)) if job_id in components else (None,):
        hosts |= _shares(environment, component)
    return Allocation(
        job_id=components[0] if job_id in components else job_id,
        hosts=hosts,
        here=environment.get("SLURMD_NODENAME", ""),
        in_step=_in_step(environment, hosts),
        several_tasks=any((share.tasks or 0) > 1 for share in hosts.values()),
    )


def _components(environment: Mapping[str, str]) -> list[str]:
    """The numbers of a heterogeneous job's components; of another job's, where this one was submitted within it."""
    numbers = range(_number(environment, "SLURM_HET_SIZE") or 0)
    job_ids = (environment.get(f"SLURM_JOB_ID_HET_GROUP_{component}", "") for component in numbers)
    return list(itertools.takewhile(bool, job_ids))


def _shares(environment: Mapping[str, str], component: int | None = None) -> dict[str, Share]:
    """What there is on each host of a job, or of one component of a heterogeneous one."""
    suffix = "" if component is None else f"_HET_GROUP_{component}"
    nodes = "SLURM_JOB_NODELIST" + suffix
    if not (hosts := expand_hosts(environment.get(nodes, ""), nodes)):
        raise ValueError(f"{nodes} names no host: {environment.get(nodes)!r}")
    cpus = _counts(environment, "SLURM_JOB_CPUS_PER_NODE" + suffix, hosts) or (1,) * len(hosts)
    per_task = _number(environment, "SLURM_CPUS_PER_TASK" + suffix) or 1
    tasks = _tasks(environment, suffix, hosts) or (None,) * len(hosts)
    return {
        host: Share(task_count, max(1, cpu_count // per_task), component)
        for host, task_count, cpu_count in zip(hosts, tasks, cpus, strict=True)
    }


def _tasks(environment: Mapping[str, str], suffix: str, hosts: Sequence[str]) -> tuple[int, ...] | None:
    """Those of the job for each host, where the user has asked for any: only then has Slurm a number of them.

    A number that is not theirs was handed down, by the job within which this one was submitted.
    """
    if not suffix and _in_step(environment, hosts) and environment["SLURM_STEP_ID"] != _INTERACTIVE_STEP:
        per_host = _number(environment, "SLURM_NTASKS_PER_NODE")  # all else is about this process's own step
        return (per_host,) * len(hosts) if per_host else None
    tasks = _counts(environment, "SLURM_TASKS_PER_NODE" + suffix, hosts)
    return tasks if tasks and environment.get("SLURM_NTASKS" + suffix) == str(sum(tasks)) else None


def _counts(environment: Mapping[str, str], name: str, hosts: Sequence[str]) -> tuple[int, ...] | None:
    """The numbers of a variable's list, if there is one for each host."""
    listed = environment.get(name)
    try:
        counts = expand_counts(listed) if listed else ()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return counts if len(counts) == len(hosts) else None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """The number that a variable holds, if it is set."""
    if not (text := environment.get(name)):
        return None
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{name} must be a number, not {host_lists.shown(text)}")
    return int(text)


def _in_step(environment: Mapping[str, str], hosts: Collection[str]) -> bool:
    """Whether this is a step of the very job: one that was submitted within a step has inherited its variables."""
    nodes = expand_hosts(environment.get("SLURM_STEP_NODELIST", ""), "SLURM_STEP_NODELIST")
    return "SLURM_STEP_ID" in environment and set(nodes) <= set(hosts)


def expand_hosts(nodes: str, source: str = "SLURM_JOB_NODELIST") -> tuple[str, ...]:
    """The hosts of a list like "b[1-2],a7", in its order, by which Slurm gives all that it says of each host.

    Args:
        nodes: The list.
        source: The variable or command that has given it, for errors.

    Raises:
        ValueError: See `host_lists.expand`.
    """
    return host_lists.expand(nodes, source).names


def expand_counts(counts: str) -> tuple[int, ...]:
    """The numbers of a list like "2(x3),1".

    Raises:
        ValueError: Where it is something else, or has numbers for more hosts than there may be.
    """
    pairs: list[tuple[int, int]] = []
    for each in counts.split(","):
        if not (match := _COUNT.fullmatch(each)):
            raise ValueError(f"{host_lists.shown(each)} is no number, such as 8 or 2(x3)")
        pairs.append((int(match[1]), int(match[2] or 1)))
    if (length := sum(times for _, times in pairs)) > host_lists.MOST_HOSTS:
        most = f"which may be at most {host_lists.MOST_HOSTS}"
        raise ValueError(f"{host_lists.shown(counts)} has numbers for {length} hosts, {most}")
    return tuple(count for count, times in pairs for _ in range(times))


def read_gpus(told: str, job_id: str) -> dict[str, tuple[int, ...]]:
    """Which GPUs a job has, for each host with any, of what `scontrol show job --details` says.

    Slurm may tell of other jobs too: a task of an array has the number of the whole array.

    Raises:
        ValueError: Where hosts or numbers cannot be read.
    """
    gpus: dict[str, tuple[int, ...]] = {}
    for record in re.split(r"^(?=JobId=)", told, flags=re.MULTILINE):
        heading = _RECORD.match(record)
        if heading is None or job_id not in heading.groups():
            continue
        for nodes, resources in _GRANTED.findall(record):
            numbers: list[int] = []
            for count, indices in _GPUS.findall(resources):
                if indices or int(count):
                    numbers += host_lists.expand_numbers(indices or f"0-{int(count) - 1}")
            if numbers:
                gpus |= dict.fromkeys(expand_hosts(nodes, "Nodes"), tuple(numbers))
    return gpus


@functools.lru_cache(maxsize=1)
def granted_gpus(job_id: str) -> dict[str, tuple[int, ...]]:
    """See `read_gpus`. A batch script's variables tell of its own host alone, so Slurm is asked.

    Raises:
        RuntimeError: Where Slurm does not say.
    """
    import subprocess  # here, so that `import trx` stays quick

    command = ["scontrol", "show", "job", "--details", job_id]
    try:
        asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"cannot ask Slurm for the GPUs of the allocation {job_id}: {error}") from None
    if asked.returncode:
        raise RuntimeError(f"cannot ask Slurm for the GPUs of the allocation {job_id}: {asked.stderr.strip()}")
    try:
        return read_gpus(asked.stdout, job_id)
    except ValueError as error:
        raise RuntimeError(f"cannot read the GPUs of the allocation {job_id} from scontrol's answer: {error}") from None


def ask_for_gpus(hosts: Sequence[str]) -> None:
    """Asks once, and early, for what is needed for each host of the allocation.

    Raises:
        RuntimeError: See `granted_gpus`.
    """
    found = allocation()
    if found is not None and any(found.node(host) for host in hosts):
        granted_gpus(found.job_id)


# ---- what settings mean in an allocation ----------------------------------------------------------------------------


def hostnames(wanted: Any) -> Any:
    """What `hostnames` means here: "slurm" and "auto" are the allocation's hosts.

    Raises:
        RuntimeError: For "slurm" outside of an allocation; and in all tasks of a step but the first one.
    """
    if wanted not in ("auto", "slurm"):
        return wanted
    if wanted == "auto" and allocation() is None:
        return ["localhost"]
    found = _required(f'hostnames="{wanted}"')
    if found.in_step and os.environ.get("SLURM_PROCID", "0") != "0":
        raise RuntimeError(
            f"srun has started this program {os.environ.get('SLURM_STEP_NUM_TASKS', 'several')} times, and this is "
            f"task {os.environ['SLURM_PROCID']}: one launch starts the workers of all hosts, so call it in one task "
            "(srun --nodes=1 --ntasks=1, or no srun at all)"
        )
    return list(found.hosts)


def workers(hosts: Sequence[str], wanted: Sequence[int | str]) -> list[int | str]:
    """What `workers_per_host` means here for each host: "slurm" is a number.

    Raises:
        RuntimeError: See `Allocation.workers`; and for "slurm" outside of an allocation.
    """
    if "slurm" not in wanted:
        return list(wanted)
    found = _required('workers_per_host="slurm"')
    return [found.workers(host) if each == "slurm" else each for host, each in zip(hosts, wanted, strict=True)]


def reached_by_srun(start: Start) -> Allocation | None:
    """The allocation, if srun is to start the agents on its hosts.

    Raises:
        RuntimeError: For "srun" where there is no allocation, or no srun.
    """
    import shutil  # as above

    if start == "ssh":
        return None
    found = _required('start="srun"') if start == "srun" else allocation()
    if found is not None and shutil.which("srun") is None:
        if start == "srun":
            raise RuntimeError('start="srun": there is no program srun on the PATH')
        return None
    return found


def _required(setting: str) -> Allocation:
    if (found := allocation()) is None:
        raise RuntimeError(f"{setting}: this is no Slurm allocation; start the program below sbatch, salloc or srun")
    return found


# ---- variables ------------------------------------------------------------------------------------------------------


def for_all_hosts(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the variables that Slurm has set for this host alone."""
    if allocation(environment) is None:
        return dict(environment)
    return {name: value for name, value in environment.items() if not _matches(name, _OF_ONE_HOST)}


def for_srun(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the variables that srun takes for options: they were meant for the job, or for another step."""
    return {
        name: value
        for name, value in for_all_hosts(environment).items()
        if not name.startswith(("SLURM_", "SRUN_")) or _matches(name, _NO_OPTIONS)
    }


def gpus_for_ssh(hostname: str) -> dict[str, str]:
    """The variable by which an agent that srun has not started finds the allocation's GPUs of its host."""
    found = allocation()
    if found is None or (node := found.node(hostname)) is None:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, granted_gpus(found.job_id).get(node, ())))}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
