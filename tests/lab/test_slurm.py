"""Launches in allocations of a real Slurm: where they work, what their signals do, and that nothing is left."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .faults import are_gone
from .harness import Host, Lab, Slurm, slurm_unavailable, wait_until
from .harness.shell import PATH
from .test_security import command_lines, launch_files, listening, machines

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.xdist_group("slurm"),  # one Slurm for the module
    pytest.mark.skipif(slurm_unavailable() is not None, reason=slurm_unavailable() or ""),
]

GPUS = {"node1": 4, "node2": 2, "node3": 1}

OPENING = """
import json, os, signal, socket, sys, time
import trx

HERE = os.path.dirname(os.path.abspath(__file__))
settings = {"grace_period": 2.0, "start_timeout": 60, **json.loads(sys.argv[1])}

def note(what):
    with open(os.path.join(HERE, "notes"), "a") as notes:
        notes.write(f"{what} {os.environ.get('RANK', 'launcher')}\\n")

def await_file(name):
    while not os.path.exists(os.path.join(HERE, name)):
        time.sleep(0.01)
"""

LOOK = """
def look():
    import torch, torch.distributed as dist
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_STEP_ID", "SLURM_SUBMIT_DIR", "OF_THE_SCRIPT")
    return {"host": socket.gethostname(), "sum": total.item(), **{name: os.environ.get(name) for name in names}}

os.environ["OF_THE_SCRIPT"] = "seen"
print(json.dumps(list(trx.launch(look, **settings))))
"""

BUSY = """
def work():
    note("works")
    await_file("go")
    return os.environ["RANK"]

try:
    print(json.dumps(list(trx.launch(work, backend=None, **settings))))
except trx.AgentFailedError as error:
    print(json.dumps([[failure.hostname, failure.reason] for failure in error.failures]))
    note("failed")
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Slurm]]:
    with Lab(4, exchange=[tmp_path_factory.getbasetemp()]) as lab, Slurm(lab, gpus=GPUS) as slurm:
        yield lab, slurm


@pytest.fixture
def slurm(cluster: tuple[Lab, Slurm]) -> Iterator[Slurm]:
    """Four idle hosts, which are idle and clean again when the test is over."""
    lab, slurm = cluster
    lab.snapshot()
    yield slurm
    lab.heal()
    slurm.cancel_all()
    lab.launcher.end_commands()
    slurm.await_idle()
    assert lab.leftovers() == []


@pytest.fixture(params=["allowed", "forbidden"])
def ssh(request: pytest.FixtureRequest, slurm: Slurm) -> str:
    """Whether the hosts answer at the port of SSH."""
    if request.param == "forbidden":
        for host in slurm.lab:
            host.cut("both", extra="tcp dport 22")
    return str(request.param)


class Program:
    """A Python script with a directory of its own, in which it keeps notes."""

    _numbers = itertools.count(1)

    def __init__(self, slurm: Slurm, source: str, **settings: Any) -> None:
        self.script = slurm.lab.script_file(OPENING + source)
        self.directory = self.script.parent
        self.words = [sys.executable, str(self.script), json.dumps(settings)]

    def notes(self) -> list[str]:
        try:
            return sorted((self.directory / "notes").read_text().splitlines())
        except FileNotFoundError:
            return []

    def await_notes(self, *expected: str, within: float = 40.0) -> None:
        """Waits for these notes, which may be among others."""
        try:
            wait_until(lambda: set(expected) <= set(self.notes()), within, f"the notes {expected}")
        except TimeoutError as error:
            printed = [f"{path}:\n{path.read_text()}" for path in self.directory.glob("*.out")]
            raise AssertionError(f"{error}; there are {self.notes()}\n" + "\n".join(printed)) from None

    def go(self) -> None:
        (self.directory / "go").touch()


def run_by(slurm: Slurm, how: str, options: str, program: Program) -> list[Any]:
    """Runs a program in an allocation, to its end, and returns what it printed last."""
    env = {"TRX_LOG_DIR": ""}
    if how == "sbatch":
        printed = slurm.sbatch(options.split(), program.words, program.directory, env=env).ends()
    else:
        step = ["srun", "--nodes=1", "--ntasks=1"] if how == "srun" else []
        finished = slurm.run(["salloc", "--quiet", *options.split(), *step, *program.words], env=env, check=False)
        printed = finished.stdout
        assert finished.returncode == 0, printed + finished.stderr
    values: list[Any] = json.loads(printed.splitlines()[-1])
    return values


# -- hosts and workers of the allocation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "options", "settings", "hosts", "gpus"),
    [
        pytest.param(
            "sbatch", "-N3 --gpus=5", {"workers_per_host": "slurm"}, "node1 node1 node1 node2 node3",
            ["0,1,2", "0,1,2", "0,1,2", "0", "0"], id="sbatch-uneven-gpus",
        ),
        pytest.param(
            "salloc", "-N2 -n3", {"hostnames": "slurm", "workers_per_host": "slurm"}, "node1 node1 node2",
            [None] * 3, id="salloc-uneven-tasks",
        ),
        pytest.param(
            "salloc", "-N1 -n2 --gpus=1 : -N2 -n2", {"workers_per_host": "slurm"}, "node1 node1 node2 node3",
            ["0", "0", None, None], id="salloc-components",
        ),
        pytest.param("srun", "-N2 -c2", {"start": "srun"}, "node1 node1 node2 node2", [None] * 4, id="srun-cpus"),
    ],
)  # fmt: skip
def test_a_launch_takes_what_the_allocation_has(
    slurm: Slurm, ssh: str, how: str, options: str, settings: dict[str, Any], hosts: str, gpus: list[str | None]
) -> None:
    """Whoever writes nothing gets all hosts and, fake GPUs being none to NVML, a worker for each CPU of the job."""
    values = run_by(slurm, how, options, Program(slurm, LOOK, **settings))
    assert [value["host"] for value in values] == hosts.split()
    assert {value["sum"] for value in values} == {len(values) * (len(values) + 1) / 2}
    assert [value["CUDA_VISIBLE_DEVICES"] for value in values] == gpus
    assert [value["SLURM_STEP_GPUS"] for value in values] == gpus
    assert {value["OF_THE_SCRIPT"] for value in values} == {"seen"}
    steps = {value["host"]: value["SLURM_STEP_ID"] for value in values}
    assert len(set(steps.values())) == len(steps), "each host has a step of its own"


def test_ssh_in_an_allocation_is_told_its_gpus(slurm: Slurm) -> None:
    config = str(slurm.lab.ssh_config)
    program = Program(slurm, LOOK, start="ssh", workers_per_host="slurm", ssh_config_file=config)
    values = run_by(slurm, "sbatch", "-N3 --gpus=5", program)
    assert [value["host"] for value in values] == ["node1", "node1", "node1", "node2", "node3"]
    assert [value["CUDA_VISIBLE_DEVICES"] for value in values] == ["0,1,2", "0,1,2", "0,1,2", "0", "0"]
    assert {value["SLURM_STEP_ID"] for value in values} == {None}


def test_tasks_of_an_array_have_gpus_of_their_own(slurm: Slurm) -> None:
    """Slurm, asked for the task with the number of the whole array, tells of all of its tasks."""
    source = """
def look():
    return os.environ["CUDA_VISIBLE_DEVICES"]

note("here")
while open(os.path.join(HERE, "notes")).read().count("here") < 2:
    time.sleep(0.01)
note(look() + " " + " ".join(trx.launch(look, backend=None, workers_per_host=1, **settings)))
"""
    program = Program(slurm, source, start="ssh", ssh_config_file=str(slurm.lab.ssh_config))
    options = ["--array=0-1", "-N2", "-w", "node1,node2", "--gpus-per-node=1"]
    slurm.sbatch(options, program.words, program.directory, env={"TRX_LOG_DIR": ""})
    program.await_notes("0 0 0 launcher", "1 1 1 launcher")


def test_a_host_outside_of_the_allocation_is_reached_by_ssh(slurm: Slurm) -> None:
    """One that is of it may be called by its full name."""
    settings = {
        "hostnames": ["node1.lab", "node4"],
        "workers_per_host": 1,
        "ssh_config_file": str(slurm.lab.ssh_config),
    }
    inside, outside = run_by(slurm, "salloc", "-N1 -w node1", Program(slurm, LOOK, **settings))
    assert (inside["host"], outside["host"]) == ("node1", "node4")
    assert inside["SLURM_STEP_ID"] is not None
    assert outside["SLURM_STEP_ID"] is None


def test_all_tasks_but_the_first_are_refused(slurm: Slurm) -> None:
    source = """
try:
    print(len(trx.Launcher("slurm").planned_hosts()), "hosts")
except RuntimeError as error:
    print(error)
"""
    printed = slurm.run(["srun", "-N2", "-n2", "--label", *Program(slurm, source).words]).stdout.splitlines()
    assert sorted(line[:60] for line in printed) == [
        "0: 2 hosts",
        "1: srun has started this program 2 times, and this is task 1"[:60],
    ]


def test_a_step_that_slurm_refuses_is_explained(slurm: Slurm) -> None:
    """Somebody has cancelled the job since."""
    source = 'import subprocess; subprocess.run(["scancel", os.environ["SLURM_JOB_ID"]], check=True)'
    program = Program(slurm, f"{source}\n{BUSY}")
    job = slurm.salloc(["-N1"], program.words, program.directory, env={"TRX_LOG_DIR": ""})
    ((hostname, reason),) = json.loads(job.ends().splitlines()[-1])
    job.leave()
    assert hostname == "node1"
    assert "expired" in reason or "already completing or completed" in reason


def test_an_allocation_that_slurm_does_not_know(slurm: Slurm) -> None:
    """Such as that of a terminal which has outlived it. What does not ask for its hosts is not concerned."""
    logs = slurm.lab.directory / "logs_of_nothing"
    stale = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node1", "TRX_LOG_DIR": str(logs)}
    for start in ("auto", "ssh"):
        finished = slurm.run(Program(slurm, LOOK, start=start).words, env=stale, check=False)
        assert "RuntimeError: cannot ask Slurm for the GPUs of the allocation 4711" in finished.stderr
        assert not logs.exists(), "nothing was begun"
    stale["TRX_LOG_DIR"] = ""
    finished = slurm.run(Program(slurm, LOOK, hostnames=["localhost"], workers_per_host=1).words, env=stale)
    assert json.loads(finished.stdout.splitlines()[-1])[0]["host"] == "launcher"


# -- signals ----------------------------------------------------------------------------------------------------------

WARNED = """
def work():
    rank = int(os.environ["RANK"])
    if rank % 2 == 0:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, _: note(signal.Signals(number).name))
    note("works")
    await_file("go")
    return rank

print(json.dumps(list(trx.launch(work, backend=None, workers_per_host=2, **settings))))
"""

SAVING = """
def work():
    def save(*_):
        note("saves")
        time.sleep(0.7)
        note("saved")
        sys.exit()
    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGUSR1, lambda *_: note("warned"))
    note("works")
    while True:
        time.sleep(0.1)

trx.launch(work, backend=None, workers_per_host=1, **settings)
note("returned")
"""

STUBBORN = """
def work():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    note("works")
    while True:
        time.sleep(0.1)

trx.launch(work, backend=None, workers_per_host=2, **settings)
"""


def test_a_warning_reaches_workers_that_catch_it_once_and_kills_nobody(slurm: Slurm) -> None:
    """That of Slurm, which goes to every process of every step, and one that the launcher alone is sent."""
    program = Program(slurm, WARNED)
    job = slurm.sbatch(["-N2"], program.words, program.directory, env={"TRX_LOG_DIR": ""})
    program.await_notes(*(f"works {rank}" for rank in range(4)))
    slurm.run(["scancel", "--signal=USR1", job.id])
    program.await_notes("SIGUSR1 0", "SIGUSR1 2")
    os.kill(job.process(str(program.script)), signal.SIGUSR2)
    program.await_notes("SIGUSR2 0", "SIGUSR2 2")
    program.go()
    assert json.loads(job.ends().splitlines()[-1]) == [0, 1, 2, 3]
    assert [note for note in program.notes() if note.startswith("SIG")] == [
        "SIGUSR1 0", "SIGUSR1 2", "SIGUSR2 0", "SIGUSR2 2",
    ]  # fmt: skip


def test_the_time_of_a_job_runs_out(slurm: Slurm) -> None:
    """Its workers are warned as the job's script asked; they have their grace, and the launcher ends, by SIGTERM.

    Slurm looks at the times of jobs twice a minute. So that one look will do, there are two jobs.
    """
    warned, ended = Program(slurm, SAVING), Program(slurm, SAVING)
    env = {"TRX_LOG_DIR": ""}
    first = slurm.sbatch(["-N2", "--signal=USR1@30"], warned.words, warned.directory, env=env)
    second = slurm.sbatch(["-N2"], ended.words, ended.directory, env=env)
    for program in (warned, ended):
        program.await_notes("works 0", "works 1")
    slurm.run(["scontrol", "update", f"jobid={first.id}", "EndTime=now+55"])
    slurm.run(["scontrol", "update", f"jobid={second.id}", "EndTime=now"])
    warned.await_notes("warned 0", "warned 1")
    printed = second.ends(status=128 + signal.SIGTERM)
    assert "Traceback" not in printed
    assert [ended.notes().count(f"saved {rank}") for rank in (0, 1)] == [1, 1]
    assert "returned launcher" not in ended.notes()
    assert [warned.notes().count(f"warned {rank}") for rank in (0, 1)] == [1, 1]


@pytest.mark.parametrize("how", ["sbatch", "salloc"])
def test_scancel_leaves_nothing_behind(slurm: Slurm, how: str) -> None:
    program = Program(slurm, STUBBORN)
    if how == "sbatch":
        job = slurm.sbatch(["-N2"], program.words, program.directory, env={"TRX_LOG_DIR": ""})
    else:
        job = slurm.salloc(["-N2"], program.words, program.directory, env={"TRX_LOG_DIR": ""})
    program.await_notes(*(f"works {rank}" for rank in range(4)))
    slurm.run(["scancel", job.id])
    if how == "salloc":
        job.ends(status=1)
        job.leave()
    slurm.await_idle()
    assert slurm.lab.leftovers() == []


def test_workers_of_a_cancelled_job_are_asked_once(slurm: Slurm) -> None:
    """Slurm has asked them already. The launcher, which Slurm tells nothing, says what has happened."""
    program = Program(slurm, SAVING)
    job = slurm.salloc(["-N1"], program.words, program.directory, env={"TRX_LOG_DIR": ""})
    program.await_notes("works 0")
    slurm.run(["scancel", job.id])
    printed = job.ends(status=1).splitlines()
    job.leave()
    assert printed[-1].startswith("trx.errors.AgentFailedError: node1, running: its agent was sent SIGTERM: Slurm has")
    assert program.notes() == ["saved 0", "saves 0", "works 0"]


# -- secrets ----------------------------------------------------------------------------------------------------------

SECRETIVE = """
import secrets
from pathlib import Path
import trx.engine

hidden = Path(HERE, "hidden")
secret = secrets.token_hex(16)
hidden.write_text(secret + "\\n")

class Spy(trx.engine.Hub):
    def keys(self, agent):
        keys = super().keys(agent)
        with open(hidden, "ab") as file:
            file.write(b"\\n".join([keys.launcher_public, keys.agent_public, keys.agent_secret]) + b"\\n")
        return keys

trx.engine.Hub = Spy

def work():
    print("printed by", os.environ["RANK"])
    note("works")
    await_file("go")
    assert os.environ["SECRET"]
    raise ValueError("as it must be")

handlers = [trx.file_handler("node1", 0, os.path.join(HERE, "handled.log"))]
trx.launch(work, backend=None, extra_env_vars={"SECRET": secret}, log_handlers=handlers, **settings)
"""


def test_nothing_secret_shows_and_only_the_intended_sockets_listen(slurm: Slurm) -> None:
    lab = slurm.lab
    before = {machine.name: listening(machine) for machine in machines(lab)}
    program = Program(slurm, SECRETIVE, workers_per_host=1)
    job = slurm.salloc(["-N2"], program.words, program.directory, env={"TRX_LOG_DIR": str(program.directory / "logs")})
    program.await_notes("works 0", "works 1")
    new = {machine.name: listening(machine) - before[machine.name] for machine in machines(lab)}
    hidden = (program.directory / "hidden").read_bytes().split()
    shown = {"a command line": b"\n".join(command_lines())}
    of_slurm = [Path(f"/proc/{machine.pid}/root/run/slurm") for machine in machines(lab)]
    files = [path for machine in machines(lab) for path in launch_files(machine)]
    files += [path for directory in of_slurm for path in directory.rglob("*")]
    shown.update({str(path): path.read_bytes() for path in files if path.is_file()})
    program.go()
    printed = job.ends(status=1)
    job.leave()
    logs = [program.directory / "handled.log", *program.directory.glob("logs/*/*")]
    shown.update({str(path): path.read_bytes() for path in logs})

    assert len(set(hidden)) == 1 + 5  # the value; the launcher's key, and a pair for each agent
    assert {"order", "handled.log", "slurmctld.log", "node1[0].log"} <= {Path(where).name for where in shown}
    assert "as it must be" in printed
    shown["what is printed"] = printed.encode()
    assert {where for where, data in shown.items() for text in hidden if text in data} == set()
    assert len([address for address, _ in new["launcher"] if address == lab.launcher.ip]) == 1
    assert {address for address, _ in new["launcher"]} <= {lab.launcher.ip, "0.0.0.0", "::"}  # srun's
    assert [len(new[name]) for name in lab.names] == [1, 0, 0, 0]  # the store


# -- faults -----------------------------------------------------------------------------------------------------------


def test_launcher_killed(slurm: Slurm) -> None:
    """Its hosts clean up, though the job goes on."""
    program = Program(slurm, STUBBORN)
    job = slurm.salloc(["-N2"], program.words, program.directory, env={"TRX_LOG_DIR": ""})
    program.await_notes(*(f"works {rank}" for rank in range(4)))
    os.kill(job.process(str(program.script)), signal.SIGKILL)
    for host in slurm.lab:
        are_gone(host, within=15.0)
    assert job.id in slurm.run(["squeue", "--noheader", "--format=%i %T"]).stdout
    job.leave()


@pytest.fixture
def doomed(slurm: Slurm) -> Iterator[Host]:
    """A host that is brought back when the test is over."""
    host = slurm.lab["node2"]
    yield host
    host.power_on()
    slurm.start(host)


def test_a_node_that_is_lost_is_named(slurm: Slurm, doomed: Host) -> None:
    program = Program(slurm, BUSY, lease=4.0)
    job = slurm.salloc(["-N3", "--no-kill"], program.words, program.directory, env={"TRX_LOG_DIR": ""})
    program.await_notes("works 0", "works 1", "works 2")
    doomed.power_off()
    program.await_notes("failed launcher", within=20.0)
    ((hostname, reason),) = json.loads(job.ends().splitlines()[-1])
    # Slurm itself has not given the node up yet: but for the launcher, its srun would go on waiting.
    assert not [left.what for left in slurm.lab.launcher.leftovers(within=0.0) if "srun" in left.what]
    job.leave()
    assert hostname == doomed.name
    assert "nothing was heard of it" in reason


# -- those who call launches ------------------------------------------------------------------------------------------

SUBMITTING = """
import submitit

def train(steps):
    import trx

    def work(steps):
        return os.environ["RANK"], socket.gethostname(), steps

    return list(trx.launch(work, (steps,), workers_per_host=1, backend=None))

executor = submitit.AutoExecutor(folder=HERE, cluster="slurm")
executor.update_parameters(timeout_min=5, slurm_partition="main", **settings_of_submitit)
print(json.dumps(executor.submit(train, 3).task(0).result()))
"""


@pytest.mark.parametrize(
    "settings", ["{'nodes': 2, 'slurm_use_srun': False}", "{'nodes': 1}"], ids=["two-nodes-without-srun", "one-node"]
)
def test_a_job_of_submitit_launches(slurm: Slurm, settings: str) -> None:
    program = Program(slurm, f"settings_of_submitit = {settings}\n{SUBMITTING}")
    finished = slurm.run(program.words, check=False)
    logs = [path.read_text() for path in Path(program.directory).glob("*.err")]
    assert finished.returncode == 0, "\n".join([finished.stderr, *logs])
    hosts = ["node1", "node2"][: 2 if "2" in settings else 1]
    expected = [[str(rank), host, 3] for rank, host in enumerate(hosts)]
    assert json.loads(finished.stdout.splitlines()[-1]) == expected


# -- what is documented -----------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def at_the_login_node(slurm: Slurm, words: list[str], directory: Path) -> str:
    """What a command prints that a user runs with the environment active in which trx is installed."""
    path = f"{Path(sys.executable).parent}:{PATH}"
    # torch's optimizers make that cache's directory, in /tmp where nothing else is said.
    env = {"TRX_LOG_DIR": "", "PATH": path, "TORCHINDUCTOR_CACHE_DIR": str(directory / "cache")}
    process = slurm.lab.launcher.popen(words, env=env, cwd=directory)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    return printed


def test_the_example(slurm: Slurm) -> None:
    directory = slurm.lab.directory / "example"
    shutil.copytree(ROOT / "examples" / "slurm", directory)
    at_the_login_node(slurm, ["sbatch", "--output=out", "train.sbatch"], directory)
    out = directory / "out"  # which --wait would look for more and more rarely
    wait_until(lambda: out.exists() and "slope" in out.read_text(), 60, "the job has ended")
    assert out.read_text().splitlines()[-2:] == ["2 workers on node1, node2", "slope 3.0, offset 1.0"]
