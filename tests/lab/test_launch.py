"""Whole launches on several hosts: what the README promises, over real SSH and with real process groups."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from .faults import SLACK, Measured
from .harness import HostOptions, Lab
from .harness.shell import find_tool

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.timeout(120)

PROMISED = 15.0
"""Seconds within which hosts that cannot be used are told."""

ALL_REDUCE = """
import json, os, socket, sys
import trx

def total(bias):
    import torch
    import torch.distributed as dist

    value = torch.tensor([float(dist.get_rank() + bias)])
    dist.all_reduce(value)
    keys = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    return {"host": socket.gethostname(), "sum": value.item(), **{key: os.environ[key] for key in keys}}

config, settings = json.loads(sys.argv[1]), json.loads(sys.argv[2])
result = trx.launch(total, (1,), ssh_config_file=config, **settings)
print(json.dumps(result.by_ranks()))
"""

FAILING = """
import json, sys
import trx

def nothing():
    return None

config, settings = json.loads(sys.argv[1]), json.loads(sys.argv[2])
try:
    trx.launch(nothing, ssh_config_file=config, **settings)
except trx.AgentFailedError as error:
    print(json.dumps({failure.hostname: [failure.stage, failure.reason, failure.advice] for failure in error.failures}))
"""


def run(lab: Lab, source: str, *, config: Path | None = None, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs a script at the launcher that launches with `settings`; without log files."""
    arguments = [json.dumps(str(config or lab.ssh_config)), json.dumps(settings)]
    return lab.script(source, *arguments, env={"TRX_LOG_DIR": ""}, cwd="/", timeout=90)


def answers(finished: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    values: list[dict[str, object]] = json.loads(finished.stdout.splitlines()[-1])
    return values


def failures(finished: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found: dict[str, list[str]] = json.loads(finished.stdout.splitlines()[-1])
    return found


def assert_complete(values: list[dict[str, object]], hosts: list[str], per_host: int) -> None:
    """All ranks answered, in order, each from its host, and took part in one all-reduce."""
    world = len(hosts) * per_host
    assert [value["RANK"] for value in values] == [str(rank) for rank in range(world)]
    assert [value["host"] for value in values] == [host for host in hosts for _ in range(per_host)]
    assert {value["sum"] for value in values} == {world * (world + 1) / 2}


# -- where launches work ----------------------------------------------------------------------------------------------


def test_four_hosts_with_two_workers_each(lab: Lab) -> None:
    values = answers(run(lab, ALL_REDUCE, hostnames=lab.names, workers_per_host=2))
    assert_complete(values, lab.names, 2)
    assert {value["MASTER_ADDR"] for value in values} == {lab["node1"].ip}
    assert [value["LOCAL_RANK"] for value in values] == ["0", "1"] * 4
    assert [value["GROUP_RANK"] for value in values] == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert lab.leftovers() == []


def test_hosts_without_a_shared_file_system(cow_lab: Lab) -> None:
    values = answers(run(cow_lab, ALL_REDUCE, hostnames=cow_lab.names[:2], workers_per_host=2))
    assert_complete(values, ["node1", "node2"], 2)
    assert cow_lab.leftovers() == []


RAISING = """
import sys, json
import trx

def work():
    raise ValueError("no")  # where it went wrong

try:
    trx.launch(work, hostnames=json.loads(sys.argv[2])["hostnames"], workers_per_host=1, backend=None,
               ssh_config_file=json.loads(sys.argv[1]))
except ValueError as error:
    print(json.dumps(error.worker_traceback))
"""


def test_a_traceback_shows_lines_of_a_script_that_is_only_at_the_launcher(cow_lab: Lab) -> None:
    finished = run(cow_lab, RAISING, hostnames=["node2"])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = json.loads(finished.stdout.splitlines()[-1]).splitlines()
    assert lines[-1] == "ValueError: no"
    assert any(line.strip() == 'raise ValueError("no")  # where it went wrong' for line in lines)


def test_different_numbers_of_workers(lab: Lab) -> None:
    values = answers(run(lab, ALL_REDUCE, hostnames=["node1", "node2"], workers_per_host=[1, 3]))
    assert [value["host"] for value in values] == ["node1", "node2", "node2", "node2"]
    assert [value["LOCAL_WORLD_SIZE"] for value in values] == ["1", "3", "3", "3"]


def test_hosts_of_a_host_list_and_of_a_hostfile(lab: Lab, tmp_path: Path) -> None:
    values = answers(run(lab, ALL_REDUCE, hostnames="node[2-3],node1", workers_per_host=1))
    assert_complete(values, ["node2", "node3", "node1"], 1)
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node2 slots=1\nnode1 slots=2\n")
    values = answers(run(lab, ALL_REDUCE, hostnames=str(hostfile)))
    assert [value["host"] for value in values] == ["node2", "node1", "node1"]


def test_through_a_jump_host(lab: Lab) -> None:
    lab["node2"].cut("both", peer=lab.launcher, extra="tcp dport 22")
    config = lab.write_ssh_config("Host inner\n  HostName 10.77.0.2\n  HostKeyAlias node2\n  ProxyJump node1\n")
    values = answers(run(lab, ALL_REDUCE, config=config, hostnames=["inner", "node3"], workers_per_host=1))
    assert_complete(values, ["node2", "node3"], 1)
    assert lab.leftovers() == []


def test_host_that_reaches_the_launcher_only_through_ssh(lab: Lab) -> None:
    lab["node2"].cut("both", peer=lab.launcher)
    config = lab.write_ssh_config("Host inner\n  HostName 10.77.0.2\n  HostKeyAlias node2\n  ProxyJump node1\n")
    values = answers(run(lab, ALL_REDUCE, config=config, hostnames=["inner", "node3"], workers_per_host=1))
    assert_complete(values, ["node2", "node3"], 1)
    lab.heal()
    assert lab.leftovers() == []


def test_localhost_and_remote_hosts_together(lab: Lab) -> None:
    values = answers(run(lab, ALL_REDUCE, hostnames=["localhost", "node1"], workers_per_host=2))
    assert_complete(values, ["launcher", "node1"], 2)
    assert {value["MASTER_ADDR"] for value in values} == {lab.launcher.ip}


def test_remote_host_first_and_localhost_last(lab: Lab) -> None:
    values = answers(run(lab, ALL_REDUCE, hostnames=["node1", "localhost"], workers_per_host=1))
    assert_complete(values, ["node1", "launcher"], 1)


def test_hosts_whose_own_names_resolve_to_loopback(make_lab: MakeLab) -> None:
    lab = make_lab(2, options={name: HostOptions(own_name_is_loopback=True) for name in ("node1", "node2")})
    values = answers(run(lab, ALL_REDUCE, hostnames=lab.names, workers_per_host=2))
    assert_complete(values, lab.names, 2)


def test_addresses_instead_of_names(lab: Lab) -> None:
    values = answers(run(lab, ALL_REDUCE, hostnames=["10.77.0.1", "fd77::2"], workers_per_host=1))
    assert_complete(values, ["node1", "node2"], 1)


def test_hosts_that_are_reached_by_ipv6(make_lab: MakeLab) -> None:
    lab = make_lab(2, family="ipv6")
    values = answers(run(lab, ALL_REDUCE, hostnames=lab.names, workers_per_host=1))
    assert_complete(values, lab.names, 1)


def test_one_host_named_twice_is_two_agents(lab: Lab) -> None:
    values = answers(run(lab, ALL_REDUCE, hostnames=["node1", "node1"], workers_per_host=2))
    assert_complete(values, ["node1", "node1"], 2)
    assert [value["GROUP_RANK"] for value in values] == ["0", "0", "1", "1"]


def test_rank_0s_host_is_met_at_an_address_that_is_really_its(lab: Lab) -> None:
    """Container bridges have the same address on every host: whoever knocks there knocks at his own door."""
    both = [lab["node1"], lab["node2"]]
    for host in both:
        host.run(["ip", "address", "add", "172.17.0.1/32", "dev", "lo"])
    try:
        values = answers(run(lab, ALL_REDUCE, hostnames=["node1", "node2"], workers_per_host=1))
    finally:
        for host in both:
            host.run(["ip", "address", "del", "172.17.0.1/32", "dev", "lo"])
    assert_complete(values, ["node1", "node2"], 1)
    assert {value["MASTER_ADDR"] for value in values} == {lab["node1"].ip}


# -- what a noisy host does -------------------------------------------------------------------------------------------


def test_login_shell_that_prints(make_lab: MakeLab) -> None:
    lab = make_lab(1, options={"node1": HostOptions(bashrc="echo welcome; echo to this host >&2")})
    values = answers(run(lab, ALL_REDUCE, hostnames=["node1"], workers_per_host=1))
    assert_complete(values, ["node1"], 1)


def test_login_shell_that_prints_without_end(make_lab: MakeLab) -> None:
    lab = make_lab(2, options={"node2": HostOptions(bashrc="yes welcome")})
    begun = time.monotonic()
    found = failures(run(lab, FAILING, hostnames=["node1", "node2"], workers_per_host=1))
    assert time.monotonic() - begun < PROMISED + SLACK
    assert list(found) == ["node2"]
    assert "its login shell printed more than" in found["node2"][1]
    assert lab.leftovers() == []


@pytest.mark.parametrize("shell", ["fish", "csh", "tcsh", "dash"])
def test_login_shells_of_all_kinds(make_lab: MakeLab, shell: str) -> None:
    path = find_tool(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    lab = make_lab(1, options={"node1": HostOptions(login_shell=path)})
    assert path in lab["node1"].run(["getent", "passwd", "root"]).stdout
    values = answers(run(lab, ALL_REDUCE, hostnames=["node1"], workers_per_host=1))
    assert_complete(values, ["node1"], 1)
    assert lab.leftovers() == []


# -- hosts that cannot be used ----------------------------------------------------------------------------------------


def test_all_hosts_that_cannot_be_used_are_reported_at_once(make_lab: MakeLab, measured: Measured) -> None:
    options = {
        "node2": HostOptions(host_key="unknown"),
        "node3": HostOptions(host_key="changed"),
        "node4": HostOptions(sshd_lines=("AuthorizedKeysFile /dev/null",)),
    }
    lab = make_lab(6, options=options)
    lab["node5"].cut()
    extra = "Host refusing\n  HostName 10.77.0.6\n  Port 2222\n"
    names = ["node1", "node2", "node3", "node4", "node5", "refusing", "nowhere.invalid"]
    begun = time.monotonic()
    found = failures(run(lab, FAILING, config=lab.write_ssh_config(extra), hostnames=names, workers_per_host=1))
    taken = time.monotonic() - begun
    measured("ssh", "the whole script, one of the hosts being silent,", taken)
    assert taken < PROMISED + SLACK
    assert list(found) == names[1:]
    told = {name: " ".join(words) for name, words in found.items()}
    assert "not known" in told["node2"]
    assert "ssh " in told["node2"]
    assert "changed" in told["node3"]
    assert "ssh-keygen -R" in told["node3"]
    assert "authentic" in told["node4"]
    assert "root" in told["node4"]
    assert "refuse" in told["refusing"]
    assert "resolve" in told["nowhere.invalid"]
    assert "10.77.0.5" in told["node5"] or "reach" in told["node5"] or "answer" in told["node5"]
    assert lab.leftovers() == []


def test_host_whose_logins_may_open_few_files(make_lab: MakeLab) -> None:
    lab = make_lab(2, options={"node2": HostOptions(bashrc="ulimit -n 30")})
    found = failures(run(lab, FAILING, hostnames=["node1", "node2"], workers_per_host=1))
    assert list(found) == ["node2"]
    assert "only 30 open files" in found["node2"][1]
    assert "ulimit -n" in found["node2"][2]
    assert lab.leftovers() == []


def test_host_on_which_python_itself_can_open_no_file(make_lab: MakeLab) -> None:
    lab = make_lab(1, options={"node1": HostOptions(bashrc="ulimit -n 4")})
    found = failures(run(lab, FAILING, hostnames=["node1"], workers_per_host=1))
    assert "Too many open files" in " ".join(found["node1"])


def test_launcher_that_may_open_few_files(lab: Lab) -> None:
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
    finished = run(lab, ALL_REDUCE.replace("\nconfig,", f"\n{limited}config,"), hostnames=lab.names)
    assert finished.returncode == 1
    assert "this process may open only 16 files, and 4 hosts take" in finished.stderr.splitlines()[-1]
    assert "ulimit -n" in finished.stderr.splitlines()[-1]


def test_launcher_that_may_open_few_files_unless_it_asks_for_more(lab: Lab) -> None:
    few = "import resource\nhard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
    few += "resource.setrlimit(resource.RLIMIT_NOFILE, (20, hard))\n"
    finished = run(lab, ALL_REDUCE.replace("\nconfig,", f"\n{few}config,"), hostnames=lab.names)
    assert finished.returncode == 0, finished.stderr


TAKES_ALL_PORTS = """
import socket, sys
for family in (socket.AF_INET, socket.AF_INET6):
    for port in (40000, 40001):
        taken = socket.create_server(("", port), family=family)
        sys.__dict__.setdefault("taken", []).append(taken)
print("taken", flush=True)
sys.stdin.read()
"""


def test_host_whose_ports_are_all_taken(lab: Lab) -> None:
    host, knob = lab["node1"], "net.ipv4.ip_local_port_range"
    before = host.run(["sysctl", "-n", knob]).stdout.strip()
    host.run(["sysctl", "-w", f"{knob}=40000 40001"])
    try:
        taking = host.popen([sys.executable, "-c", TAKES_ALL_PORTS], stdin=subprocess.PIPE)
        assert taking.stdout is not None
        assert taking.stdout.readline() == "taken\n"
        found = failures(run(lab, FAILING, hostnames=["node1", "node2"], workers_per_host=1))
        taking.kill()
    finally:
        host.run(["sysctl", "-w", f"{knob}={before}"])
    assert list(found) == ["node1"]
    assert "cannot connect to the launcher" in found["node1"][1]
    assert "Cannot assign requested address" in found["node1"][1]


def test_no_such_interpreter(lab: Lab) -> None:
    found = failures(run(lab, FAILING, hostnames=["node1", "node2"], workers_per_host=1, python="/no/such/python"))
    assert list(found) == ["node1", "node2"]
    assert "/no/such/python" in found["node1"][1]
    assert "python=" in found["node1"][2]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of the same version without any package."""
    directory = tmp_path_factory.mktemp("bare")
    venv.create(directory, with_pip=False, symlinks=True)
    return directory / "bin" / "python"


def test_interpreter_without_trx(make_lab: MakeLab, bare_python: Path) -> None:
    lab = make_lab(1, keep=[bare_python.parent.parent])
    found = failures(run(lab, FAILING, hostnames=["node1"], workers_per_host=1, python=str(bare_python)))
    assert str(bare_python) in found["node1"][1]
    assert "trx_agent" in found["node1"][1]
    assert "pip install" in found["node1"][2]


def test_interpreter_without_torch(make_lab: MakeLab, bare_python: Path) -> None:
    lab = make_lab(1, keep=[bare_python.parent.parent])
    packages = next(bare_python.parent.parent.glob("lib/python*/site-packages"))
    ours = Path(__file__).parents[2]
    for source in [ours / "trx", ours / "agent" / "trx_agent", *_packages("msgspec", "cloudpickle", "zmq", "psutil")]:
        (packages / source.name).symlink_to(source)
    found = failures(run(lab, FAILING, hostnames=["node1"], workers_per_host=1, python=str(bare_python)))
    assert "torch" in found["node1"][1]


def _packages(*names: str) -> list[Path]:
    found = [importlib.util.find_spec(name) for name in names]
    return [Path(spec.origin).parent for spec in found if spec and spec.origin]


def test_another_version_of_torch(lab: Lab) -> None:
    pretend = """
import importlib.metadata
real = importlib.metadata.version
importlib.metadata.version = lambda name: "2.6.0+cu124" if name == "torch" else real(name)
"""
    found = failures(run(lab, pretend + FAILING, hostnames=["node1", "node2"], workers_per_host=1))
    assert list(found) == ["node1", "node2"]
    assert "the launcher has torch 2.6.0" in found["node2"][1]
    assert "torch==2.6.0" in found["node2"][2]
    assert lab.leftovers() == []


def test_another_minor_version_of_python(lab: Lab) -> None:
    pretend = """
import trx.engine
real = trx.engine.loader
trx.engine.loader = lambda version: real("3.9")
"""
    found = failures(run(lab, pretend + FAILING, hostnames=["node1"], workers_per_host=1))
    assert "the launcher is Python 3.9" in found["node1"][1]
    assert "python=" in found["node1"][2]


def test_working_directory_that_a_host_lacks(cow_lab: Lab) -> None:
    directory = cow_lab.directory / "only-at-the-launcher"
    directory.mkdir(exist_ok=True)
    found = failures(run(cow_lab, FAILING, hostnames=["node1"], workers_per_host=1, cwd=str(directory)))
    assert str(directory) in found["node1"][1]
    assert "cwd=" in found["node1"][2]


def test_first_host_that_no_other_reaches(lab: Lab) -> None:
    lab.partition([lab["node1"]], [lab["node2"]])
    found = failures(run(lab, FAILING, hostnames=["node1", "node2"], workers_per_host=1, start_timeout=8))
    assert list(found) == ["node2"]
    assert "node1" in found["node2"][1]
    lab.heal()
    assert lab.leftovers() == []


def test_gpus_where_there_are_none(lab: Lab) -> None:
    found = failures(run(lab, FAILING, hostnames=["node1", "node2"], workers_per_host="gpu"))
    assert list(found) == ["node1", "node2"]
    assert "GPU" in found["node1"][1]
