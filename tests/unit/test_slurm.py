"""What a Slurm allocation says, read from variables and words as a real Slurm (22.05) gave them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

import trx
from trx import slurm
from trx.hosts import srun
from trx.plan import make_hosts
from trx_agent import machine

SALLOC = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "node[1-4]",
    "SLURM_JOB_CPUS_PER_NODE": "4,1(x3)",
    "SLURM_TASKS_PER_NODE": "4,1(x3)",
}
BATCH = {**SALLOC, "SLURMD_NODENAME": "node1", "SLURM_CPUS_ON_NODE": "4", "SLURM_PROCID": "0"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_TASKS_PER_NODE": "1", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}

HETEROGENEOUS = {
    **BATCH,
    "SLURM_JOB_NODELIST": "node1",
    "SLURM_JOB_CPUS_PER_NODE": "2",
    "SLURM_NTASKS": "2",
    "SLURM_TASKS_PER_NODE": "2",
    "SLURM_HET_SIZE": "2",
    "SLURM_JOB_ID_HET_GROUP_0": "7",
    "SLURM_JOB_NODELIST_HET_GROUP_0": "node1",
    "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_0": "2",
    "SLURM_NTASKS_HET_GROUP_0": "2",
    "SLURM_TASKS_PER_NODE_HET_GROUP_0": "2",
    "SLURM_JOB_ID_HET_GROUP_1": "8",
    "SLURM_JOB_NODELIST_HET_GROUP_1": "node[2-3]",
    "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_1": "1(x2)",
    "SLURM_NTASKS_HET_GROUP_1": "2",
    "SLURM_TASKS_PER_NODE_HET_GROUP_1": "1(x2)",
}
WITHIN_A_STEP = {
    "SLURM_JOB_ID": "8",
    "SLURM_JOB_NODELIST": "node3",
    "SLURM_JOB_CPUS_PER_NODE": "4",
    "SLURM_TASKS_PER_NODE": "4",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURMD_NODENAME": "node2",
}
"""Below an salloc within a step of another job, whose variables some of these are."""

ARRAY = """\
JobId=1 ArrayJobId=1 ArrayTaskId=1 JobName=job.sh
     Nodes=node1 CPU_IDs=6 Mem=0 GRES=gpu:1(IDX:1)
JobId=2 ArrayJobId=1 ArrayTaskId=0 JobName=job.sh
     Nodes=node1 CPU_IDs=7 Mem=0 GRES=gpu:1(IDX:0)
"""
COMPONENTS = """\
JobId=3 HetJobId=3 HetJobOffset=0 JobName=job.sh
     Nodes=node1 CPU_IDs=6-7 Mem=0 GRES=gpu:1(IDX:0)
JobId=4 HetJobId=3 HetJobOffset=1 JobName=job.sh
     Nodes=node[2-3] CPU_IDs=0 Mem=0 GRES=gpu:2(IDX:0-1)
"""
UNEVEN = """\
JobId=7 JobName=job.sh
   JobState=RUNNING Reason=None Dependency=(null)
   JOB_GRES=gpu:5
     Nodes=node1 CPU_IDs=0 Mem=0 GRES=gpu:3(IDX:0-2)
     Nodes=node[2-3] CPU_IDs=0 Mem=0 GRES=gpu:1(IDX:0)
   TresPerJob=gres:gpu:5
"""


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Outside of any allocation, with a way into one."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    return monkeypatch


def enter(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], gpus: dict[str, tuple[int, ...]]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "granted_gpus", lambda job_id: gpus)


# ---- lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("node1", "node1"),
        ("gpu[08-10,12]", "gpu08 gpu09 gpu10 gpu12"),
        ("b[1-2],a7,c", "b1 b2 a7 c"),  # in this order, by which Slurm counts tasks and CPUs
        ("r[1-2]n[1-2]", "r1n1 r1n2 r2n1 r2n2"),
    ],
)
def test_lists_of_hosts(nodes: str, hosts: str) -> None:
    assert slurm.expand_hosts(nodes) == tuple(hosts.split())


@pytest.mark.parametrize(("counts", "numbers"), [("8", [8]), ("2(x3),1", [2, 2, 2, 1]), ("1,2(x2),16", [1, 2, 2, 16])])
def test_lists_of_counts(counts: str, numbers: list[int]) -> None:
    assert slurm.expand_counts(counts) == tuple(numbers)


@pytest.mark.parametrize("counts", ["2(x30000000)", "1(x65536),1", "1(x999999999999999999)"])
def test_counts_are_added_up_before_they_are_listed(counts: str) -> None:
    with pytest.raises(ValueError, match=r"has numbers for \d+ hosts, which may be at most 65536"):
        slurm.expand_counts(counts)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SLURM_JOB_NODELIST", "node[1-", "'node[1-' cannot be read as a host list: its brackets do not match"),
        ("SLURM_JOB_NODELIST", "node[1-30000000]", "'node[1-30000000]' names 30000000 hosts"),
        ("SLURM_JOB_NODELIST", "@z$(id)[1-2]", "'@z$(id)[1-2]' cannot be the name of a host"),
        ("SLURM_JOB_NODELIST", ",", "names no host: ','"),
        ("SLURM_STEP_NODELIST", "node[2-1]", "'node[2-1]' cannot be read as a host list"),
        ("SLURM_JOB_CPUS_PER_NODE", "4,1(x", "'1(x' is no number, such as 8 or 2(x3)"),
        ("SLURM_JOB_CPUS_PER_NODE", "many", "'many' is no number"),
        ("SLURM_TASKS_PER_NODE", "2(x30000000)", "'2(x30000000)' has numbers for 30000000 hosts"),
        ("SLURM_CPUS_PER_TASK", "some", "must be a number, not 'some'"),
        ("SLURM_HET_SIZE", "-1", "must be a number, not '-1'"),
    ],
)
@pytest.mark.parametrize("hostnames", ["auto", "slurm"])
def test_a_variable_that_cannot_be_read_is_named(
    name: str, value: str, words: str, hostnames: str, allocated: pytest.MonkeyPatch
) -> None:
    enter(allocated, {**BATCH, name: value}, {})
    with pytest.raises(ValueError, match=f"^{name}:? {re.escape(words)}"):
        trx.Launcher(hostnames, 1).planned_hosts()


def test_a_number_of_components_that_are_not_there_costs_nothing(allocated: pytest.MonkeyPatch) -> None:
    enter(allocated, {**HETEROGENEOUS, "SLURM_HET_SIZE": "9" * 18}, {})
    assert [host.hostname for host in trx.Launcher("slurm", 1).planned_hosts()] == ["node1", "node2", "node3"]


@pytest.mark.parametrize("resources", ["gpu:2(IDX:0-30000000)", "gpu:30000000", "gpu:2(IDX:1-)", "gpu:2(IDX:3-1)"])
def test_gpus_that_cannot_be_read(resources: str) -> None:
    with pytest.raises(ValueError, match="numbers"):
        slurm.read_gpus(f"JobId=7\n     Nodes=n1 CPU_IDs=0-1 Mem=0 GRES={resources}\n", "7")


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ("gpu:4(IDX:0-3)", (0, 1, 2, 3)),
        ("gpu:a100:3(IDX:0,2-3)", (0, 2, 3)),
        ("nic:2(IDX:0-1),gpu:kepler:1(IDX:1),gpu:tesla:1(IDX:0)", (1, 0)),
        ("gpu:2(CNT:2)", (0, 1)),
        ("gpu:0", ()),
        ("", ()),
        ("shard:gpu:4(0/4)", ()),
    ],
)
def test_gpus_of_a_job(resources: str, gpus: tuple[int, ...]) -> None:
    told = f"JobId=7 JobName=x\n   JOB_GRES=gpu:9\n     Nodes=n[1-2] CPU_IDs=0-1 Mem=0 GRES={resources}\n"
    assert slurm.read_gpus(told, "7") == ({"n1": gpus, "n2": gpus} if gpus else {})


def test_uneven_gpus_of_a_job() -> None:
    assert slurm.read_gpus(UNEVEN, "7") == {"node1": (0, 1, 2), "node2": (0,), "node3": (0,)}


def test_gpus_of_other_tasks_of_the_array_are_not_the_jobs() -> None:
    """Slurm is asked for the job 1, which is also the whole array."""
    assert slurm.read_gpus(ARRAY, "1") == {"node1": (1,)}


def test_gpus_of_all_components() -> None:
    assert slurm.read_gpus(COMPONENTS, "3") == {"node1": (0,), "node2": (0, 1), "node3": (0, 1)}


# ---- workers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "gpus", "workers"),
    [
        pytest.param({}, [], [4, 1, 1, 1], id="nothing: CPUs"),
        pytest.param({"SLURM_CPUS_PER_TASK": "2"}, [], [2, 1, 1, 1], id="--cpus-per-task"),
        pytest.param({"SLURM_NTASKS": "7"}, [], [4, 1, 1, 1], id="--ntasks, uneven"),
        pytest.param({"SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "1(x4)"}, [], [1] * 4, id="a task for each host"),
        pytest.param({}, [2, 8, 2, 8], [2, 8, 2, 8], id="GPUs, uneven"),
        pytest.param({"SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "1(x4)"}, [8] * 4, [8] * 4, id="one: GPUs"),
        pytest.param({"SLURM_NTASKS": "7"}, [8] * 4, [4, 1, 1, 1], id="several: tasks"),
    ],
)
def test_workers_that_the_allocation_was_made_for(
    allocated: pytest.MonkeyPatch, asked: dict[str, str], gpus: list[int], workers: list[int]
) -> None:
    """Several tasks, where they were asked for; else one for each GPU; else the tasks as Slurm counts them."""
    granted = {f"node{number}": tuple(range(count)) for number, count in enumerate(gpus, 1)}
    enter(allocated, {**BATCH, **asked}, granted)
    hosts = trx.Launcher("slurm", "slurm").planned_hosts()
    assert [host.hostname for host in hosts] == ["node1", "node2", "node3", "node4"]
    assert [host.workers for host in hosts] == workers


def test_in_a_step_only_the_tasks_per_node_of_the_job_are_known(allocated: pytest.MonkeyPatch) -> None:
    enter(allocated, {**STEP, "SLURM_NTASKS_PER_NODE": "2"}, {})
    assert [host.workers for host in trx.Launcher("auto", "slurm").planned_hosts()] == [2, 2, 2, 2]
    allocated.delenv("SLURM_NTASKS_PER_NODE")
    assert [host.workers for host in trx.Launcher("auto", "slurm").planned_hosts()] == [4, 1, 1, 1]


def test_the_shell_of_an_salloc_may_be_a_step(allocated: pytest.MonkeyPatch) -> None:
    """`LaunchParameters=use_interactive_step`: its variables tell of the job."""
    asked = {"SLURM_NTASKS": "3", "SLURM_TASKS_PER_NODE": "2,1", "SLURM_JOB_CPUS_PER_NODE": "8(x2)"}
    step = {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NODELIST": "node1", "SLURM_JOB_NODELIST": "node[1-2]"}
    enter(allocated, {**BATCH, **asked, **step}, {})
    assert [host.workers for host in trx.Launcher("auto", "slurm").planned_hosts()] == [2, 1]


def test_a_job_that_was_submitted_within_a_step(allocated: pytest.MonkeyPatch) -> None:
    """It has inherited the number of a task, and of tasks that nobody has asked for."""
    enter(allocated, WITHIN_A_STEP, {"node3": (0, 1)})
    assert [host.workers for host in trx.Launcher("slurm", "slurm").planned_hosts()] == [2]
    found = slurm.allocation()
    assert found is not None
    assert not found.in_step, "nobody but the launcher is warned"


def test_a_job_of_several_components(allocated: pytest.MonkeyPatch) -> None:
    enter(allocated, HETEROGENEOUS, {})
    hosts = trx.Launcher("slurm", "slurm").planned_hosts()
    assert [(host.hostname, host.workers) for host in hosts] == [("node1", 2), ("node2", 1), ("node3", 1)]
    found = slurm.allocation()
    assert found is not None
    assert "--het-group=1" in srun.step(found, "node3", {}, 60.0)
    assert slurm.allocation({**HETEROGENEOUS, "SLURM_JOB_ID": "8"}) == found, "in a step of the second component"
    below_salloc = {name: value for name, value in HETEROGENEOUS.items() if "HET" in name}
    at_the_login_node = slurm.allocation(below_salloc)
    assert at_the_login_node is not None
    assert at_the_login_node.hosts == found.hosts


def test_a_job_that_was_submitted_within_one_of_several_components(allocated: pytest.MonkeyPatch) -> None:
    enter(allocated, {**HETEROGENEOUS, "SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": "node4"}, {})
    assert [host.hostname for host in trx.Launcher("slurm").planned_hosts()] == ["node4"]


def test_a_host_of_the_allocation_by_its_full_name(allocated: pytest.MonkeyPatch) -> None:
    enter(allocated, BATCH, {"node1": (2,)})
    (host,) = trx.Launcher(["node1.example.org"], "slurm").planned_hosts()
    assert (host.hostname, host.workers, host.local) == ("node1.example.org", 1, True)
    assert slurm.gpus_for_ssh("node1.example.org") == {"CUDA_VISIBLE_DEVICES": "2"}


def test_an_allocation_of_very_many_hosts(allocated: pytest.MonkeyPatch) -> None:
    """Nothing is worked out for each host anew: that would take minutes."""
    counts = {"SLURM_JOB_CPUS_PER_NODE": "8(x20000)", "SLURM_NTASKS": "40000", "SLURM_TASKS_PER_NODE": "2(x20000)"}
    enter(allocated, {**BATCH, **counts, "SLURM_JOB_NODELIST": "node[00001-20000]"}, {})
    assert {host.workers for host in trx.Launcher("slurm", "slurm").planned_hosts()} == {2}
    assert {len(slurm.gpus_for_ssh(f"node{number:05}")) for number in range(1, 20001)} == {1}


def test_some_hosts_of_the_allocation_can_be_named(allocated: pytest.MonkeyPatch) -> None:
    enter(allocated, {**BATCH, "SLURM_NTASKS": "7"}, {})
    hosts = trx.Launcher(["node2", "node1"], ["slurm", "slurm"]).planned_hosts()
    assert [host.workers for host in hosts] == [1, 4]
    assert [host.workers for host in trx.Launcher(["node1", "node2"], [3, "slurm"]).planned_hosts()] == [3, 1]
    with pytest.raises(RuntimeError, match="elsewhere is not in the Slurm allocation 7"):
        trx.Launcher(["elsewhere"], "slurm").planned_hosts()


def test_a_host_without_gpus_among_hosts_with_some(allocated: pytest.MonkeyPatch) -> None:
    enter(allocated, BATCH, {"node1": (0,), "node2": (0,), "node3": (0,)})
    with pytest.raises(RuntimeError, match="has GPUs, but none on node4"):
        trx.Launcher("slurm", "slurm").planned_hosts()


# ---- where there is no allocation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"hostnames": "slurm"}, {"workers_per_host": "slurm"}, {"start": "srun"}], ids=lambda each: str(each)
)
def test_outside_of_an_allocation(allocated: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    """Before anything is started, and with the setting's name."""
    ((name, value),) = settings.items()
    with pytest.raises(RuntimeError, match=f'{name}="{value}": this is no Slurm allocation'):
        trx.launch(int, **settings)  # type: ignore[arg-type]


def test_auto_is_localhost_outside_of_an_allocation(allocated: pytest.MonkeyPatch) -> None:
    assert [host.hostname for host in trx.Launcher().planned_hosts()] == ["localhost"]


def test_an_unknown_way_to_start(allocated: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="start must be one of"):
        trx.launch(int, start="rsh")


@pytest.mark.parametrize("hostnames", ["auto", "slurm"])
def test_only_the_first_task_of_a_step_launches(allocated: pytest.MonkeyPatch, hostnames: str) -> None:
    enter(allocated, {**STEP, "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, {})
    with pytest.raises(RuntimeError, match="started this program 4 times, and this is task 3"):
        trx.launch(int, hostnames=hostnames)
    assert trx.Launcher(["localhost"]).planned_hosts()  # a launch of its own for each task


# ---- starting -------------------------------------------------------------------------------------------------------


def test_whom_srun_reaches(allocated: pytest.MonkeyPatch, tmp_path: os.PathLike[str]) -> None:
    enter(allocated, BATCH, {})
    assert slurm.reached_by_srun("ssh") is None
    allocated.setenv("PATH", str(tmp_path))
    assert slurm.reached_by_srun("auto") is None
    with pytest.raises(RuntimeError, match="no program srun"):
        slurm.reached_by_srun("srun")


def test_the_launchers_own_machine_is_the_one_that_slurm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell of salloc on one of the nodes is no part of the job: what it has in /tmp may be another /tmp."""
    monkeypatch.setattr("trx.plan.is_local", lambda hostname: hostname == "node1")
    names, workers = ["node1", "node2"], [1, 1]
    assert [host.local for host in make_hosts(names, workers)] == [True, False]
    assert [host.local for host in make_hosts(names, workers, slurm.allocation(BATCH))] == [True, False]
    assert [host.local for host in make_hosts(names, workers, slurm.allocation(SALLOC))] == [False, False]


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ({"node1": (0, 1, 2), "node2": (0,)}, {"--gpus=3"}),
        ({"node2": (0,)}, {"--gres=none"}),
        ({}, set()),
    ],
)
def test_a_step_asks_for_all_gpus_of_the_job_on_its_host(gpus: dict[str, tuple[int, ...]], words: set[str]) -> None:
    allocation = slurm.allocation(BATCH)
    assert allocation is not None
    command = srun.step(allocation, "node1", gpus, 60.0)
    assert {word for word in command if word.startswith(("--gpus", "--gres"))} == words
    assert {"--jobid=7", "--nodelist=node1", "--overlap", "--cpu-bind=none"} < set(command)


def test_an_srun_that_is_too_old(allocated: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has ended before the first word to it is written: what it says counts, and not that it does not listen."""
    program = tmp_path / "srun"
    program.write_text("#!/bin/sh\nexec <&-\necho \"srun: unrecognized option '--overlap'\"\nexit 1\n")
    program.chmod(0o755)
    enter(allocated, {**BATCH, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, {})
    allocated.setattr(srun, "granted_gpus", slurm.granted_gpus)
    found = slurm.allocation()
    assert found is not None
    much = {"LD_LIBRARY_PATH": "x" * 500_000}  # more than a pipe holds
    channel = srun.SrunChannel(
        "node1", "node1", allocation=found, local=True, python=sys.executable, environment=much, timeout=60.0
    )
    channel.open()
    printed = b"".join(iter(channel.read, b""))
    assert channel.wait(20.0) == 1
    failure = srun.explain_exit("node1", printed.decode())
    assert failure is not None
    assert "unrecognized option" in failure.reason
    assert "Slurm 20.11 or later" in failure.advice
    channel.close()


# ---- variables ------------------------------------------------------------------------------------------------------


def test_srun_gets_no_options_of_other_steps() -> None:
    options = {"SLURM_NTASKS": "8", "SLURM_GPUS": "5", "SRUN_CPUS_PER_TASK": "1", "SLURM_CPU_BIND": "cores"}
    about_the_job = {"SLURM_SUBMIT_DIR": "/x", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CONF": "/c", "HOME": "/root"}
    assert slurm.for_srun({**BATCH, **options, **about_the_job, "CUDA_VISIBLE_DEVICES": "0"}) == about_the_job


def test_what_slurm_has_set_for_one_host_is_not_copied_to_another() -> None:
    own = {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2", "SLURM_STEP_GPUS": "0,1", "SLURM_NODEID": "0"}
    copied = slurm.for_all_hosts({**BATCH, **own, "CUDA_HOME": "/cuda"})
    assert copied.keys() & own.keys() == set()
    assert {"CUDA_HOME", "SLURM_JOB_ID"} <= copied.keys()
    assert slurm.for_all_hosts(own) == own  # there is no allocation


def test_agents_by_ssh_are_told_which_gpus_are_the_jobs(allocated: pytest.MonkeyPatch) -> None:
    assert slurm.gpus_for_ssh("node1") == {}
    enter(allocated, BATCH, {"node1": (2, 3)})
    assert slurm.gpus_for_ssh("node1") == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert slurm.gpus_for_ssh("node2") == {"CUDA_VISIBLE_DEVICES": ""}
    assert slurm.gpus_for_ssh("elsewhere") == {}


# ---- what an agent counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({}, 4),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 2),
        ({"SLURMD_NODENAME": "n"}, 0),  # the node's GPUs are other jobs'
        ({"SLURMD_NODENAME": "n", "CUDA_VISIBLE_DEVICES": "0,1"}, 2),
        ({"SLURMD_NODENAME": "n", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, 4),  # what Slurm says, NVML does not know
    ],
)
def test_an_agent_counts_the_gpus_that_slurm_gives(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], gpus: int
) -> None:
    monkeypatch.setattr(machine, "_present_gpus", lambda: 4)
    assert machine.count_gpus(variables) == gpus


@pytest.mark.parametrize(
    ("variables", "cpus"),
    [
        ({}, 64),
        ({"SLURMD_NODENAME": "n"}, 64),
        ({"SLURMD_NODENAME": "n", "SLURM_CPUS_ON_NODE": "8"}, 8),
        ({"SLURM_CPUS_ON_NODE": "8"}, 64),  # copied from somewhere: Slurm has not started this
    ],
)
def test_an_agent_counts_the_cpus_that_slurm_gives(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert machine.count_cpus(variables) == cpus
