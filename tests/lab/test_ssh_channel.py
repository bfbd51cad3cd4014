"""SSHChannel against real sshds: what works, every failure that can be provoked, and how it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from trx.hosts.shell import command

from .harness import HostOptions, Lab

ROOT = Path(__file__).parents[2]
MakeLab = Callable[..., Lab]

NO_BASHRC = "SetEnv SHLVL=1"
"""Under sshd, Debian's bash reads ~/.bashrc unless it believes to be an inner one: tests are not to run root's."""

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT / "agent"), str(ROOT)])}

HELPERS = """
import contextlib, dataclasses, json, os, socket, sys, threading, time
from trx.hosts.channel import HostUnusable
from trx.hosts.ssh import SSHChannel

def new_channel(hostname, *, python=sys.executable, timeout=10.0, environment={}):
    return SSHChannel(hostname, python=python, environment=environment, config_file=sys.argv[1], timeout=timeout)

@contextlib.contextmanager
def opened(hostname, code, **options):
    with contextlib.closing(new_channel(hostname, **options)) as opened:
        opened.open()
        opened.write(f"exec({code!r})\\n".encode())
        yield opened

def all_of(channel):
    return b"".join(iter(channel.read, b"")).decode()

def output(hostname, code, **options):
    with opened(hostname, code, **options) as channel:
        return all_of(channel)

def failure(hostname, **options):
    started = time.monotonic()
    try:
        with contextlib.closing(new_channel(hostname, **options)) as opened:
            opened.open()
    except HostUnusable as unusable:
        return {**dataclasses.asdict(unusable.failure), "seconds": time.monotonic() - started}
    return None

def left_over():
    open_files = [os.readlink(file.path) for file in os.scandir("/proc/self/fd") if os.path.lexists(file.path)]
    return [str(thread) for thread in threading.enumerate()[1:]] + [file for file in open_files if "socket" in file]

def serve(answer):
    def accept():
        while True:
            connection, _ = listener.accept()
            kept.append(connection)
            answer(connection)
    kept, listener = [], socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]

def tell(fact, clean=True):
    deadline = time.monotonic() + 2
    while clean and left_over() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not clean or not left_over(), left_over()
    print(json.dumps(fact))
"""


class Runs:
    """Runs scripts at a lab's launcher."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __call__(self, source: str, *, extra: str = "", config: str = "", env: Mapping[str, str] | None = None) -> Any:
        """What a script tells.

        Args:
            source: Its source, after `HELPERS`.
            extra: Stanzas before those of the lab's ssh_config.
            config: What is to be read instead of the lab's ssh_config.
            env: Variables above a plain environment.
        """
        path = self.lab.write_ssh_config(extra) if extra or config else self.lab.ssh_config
        if config:
            path.write_text(config)
        done = self.lab.script(HELPERS + source, str(path), env={**ENVIRONMENT, **(env or {})}, timeout=40)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return json.loads(done.stdout)


def three_hosts(make_lab: MakeLab, **options: HostOptions) -> Lab:
    plain = HostOptions(sshd_lines=(NO_BASHRC,))
    return make_lab(3, options={name: options.get(name, plain) for name in ("node1", "node2", "node3")})


@pytest.fixture
def run(make_lab: MakeLab) -> Iterator[Runs]:
    lab = three_hosts(make_lab)
    yield Runs(lab)
    lab.heal()
    assert lab.leftovers() == []


@pytest.fixture
def run_among_odd_hosts(make_lab: MakeLab) -> Runs:
    """A host without a known key, one with another key than is known, and one that forwards nothing."""
    return Runs(
        three_hosts(
            make_lab,
            node1=HostOptions(host_key="unknown", sshd_lines=(NO_BASHRC,)),
            node2=HostOptions(host_key="changed", sshd_lines=(NO_BASHRC,)),
            node3=HostOptions(sshd_lines=(NO_BASHRC, "AllowTcpForwarding no")),
        )
    )


PEER = "import os; print(os.environ['SSH_CONNECTION'].split()[0])"


# -- what works -------------------------------------------------------------------------------------------------------


def test_interpreter_runs_with_its_environment_and_stdin(run: Runs) -> None:
    source = """
code = "import os, sys; print(os.environ['TRX_A'], os.getcwd(), sys.stdin.read(5)); sys.exit(3)"
with opened("node1", code, environment={"TRX_A": "a 'b' $c"}) as channel:
    channel.write(b"hello")
    facts = [all_of(channel), channel.wait(5), channel.launcher_address()]
tell(facts)
"""
    assert run(source) == ["a 'b' $c / hello\n", 3, run.lab.launcher.ip]


def test_errors_come_with_the_output(run: Runs) -> None:
    assert run("""tell(output("node1", "import sys; print('out', flush=True); sys.exit('err')"))""") == "out\nerr\n"


def test_status_tells_of_the_signal(run: Runs) -> None:
    source = """
def status(name):
    with opened("node1", f"import os, signal; os.kill(os.getpid(), signal.{name})") as channel:
        all_of(channel)
        return channel.wait(5)
tell([status("SIGKILL"), status("SIGHUP")])
"""
    assert run(source) == [-9, -1]


def test_there_is_no_status_before_the_end(run: Runs) -> None:
    source = """
with opened("node1", "import sys; sys.stdin.read()") as channel:
    early = channel.wait(0.2)
tell([early, channel.read(), channel.wait(1)] == [None, b"", None])
"""
    assert run(source) is True


def test_process_that_reads_stdin_ends_when_the_channel_is_closed(run: Runs) -> None:
    run("""
with opened("node1", "import sys; print('there', flush=True); sys.stdin.read()") as channel:
    channel.read()
tell(None)
""")
    assert run.lab["node1"].leftovers() == []


def test_writing_to_an_agent_that_has_ended_is_an_error(run: Runs) -> None:
    source = """
with opened("node1", "pass") as channel:
    all_of(channel)
    try:
        while channel.wait(1) == 0:
            channel.write(bytes(100))
    except OSError as error:
        name = "OSError"
tell(name)
"""
    assert run(source) == "OSError"


def test_ways_to_name_a_host(run: Runs) -> None:
    lab = run.lab
    ip, ip6 = lab["node1"].ip, lab["node1"].ip6
    names = ["root@node1:22", ip, ip6, f"root@{ip6}", f"[{ip6}]:22", f"root@[{ip6}]"]
    source = f"""
facts = []
for name in {names!r}:
    with opened(name, {PEER!r}) as channel:
        facts.append([channel.launcher_address(), all_of(channel).strip()])
tell(facts)
"""
    found = run(source)
    assert found[:2] == [[lab.launcher.ip] * 2] * 2
    assert found[2:] == [[lab.launcher.ip6] * 2] * 4


def test_many_at_once(run: Runs) -> None:
    source = """
from concurrent.futures import ThreadPoolExecutor
names = ["node1", "node2", "node3"] * 4
with ThreadPoolExecutor(12) as pool:
    found = list(pool.map(lambda name: output(name, "import os; print(os.uname().nodename)").strip(), names))
tell(found == names)
"""
    assert run(source) is True


CROWDED = """
from concurrent.futures import ThreadPoolExecutor
def come(_):
    try:
        return output("node2", "print('in')")
    except HostUnusable as unusable:
        return str(unusable.failure)
with ThreadPoolExecutor(30) as pool:
    tell(sorted(set(pool.map(come, range(30)))), clean=False)
"""


def test_thirty_hosts_behind_a_jump_host_that_greets_few_at_a_time(make_lab: MakeLab) -> None:
    """As sshd's default does (`MaxStartups 10:30:100`), here without its leniency."""
    crowded = HostOptions(sshd_lines=(NO_BASHRC, "MaxStartups 4:100:4"))
    run = Runs(three_hosts(make_lab, node1=crowded))
    assert run(CROWDED, extra="Host node2\n  ProxyJump node1\n") == ["in\n"]
    turned_away = (run.lab["node1"].directory / "sshd.log").read_text().count("MaxStartups")
    assert turned_away > 0


def config_with(lab: Lab, key: str | Path) -> str:
    """A configuration that names one key."""
    return f"Host *\n  IdentityFile {key}\n  UserKnownHostsFile {lab.known_hosts}\n"


def test_ssh_agent_holds_the_key(run: Runs) -> None:
    key = run.lab.directory / "client_key"
    lone_key = run.lab.directory / "client_key_without_public_half"
    lone_key.write_bytes(key.read_bytes())
    lone_key.chmod(0o600)
    lone_config = run.lab.directory / "lone_config"
    lone_config.write_text(f"{config_with(run.lab, lone_key)}  IdentitiesOnly yes\n")
    script = f"""
import subprocess
agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True).stdout
os.environ["SSH_AUTH_SOCK"] = agent.split("SSH_AUTH_SOCK=")[1].split(";")[0]
pid = int(agent.split("SSH_AGENT_PID=")[1].split(";")[0])
try:
    facts = [failure("node1")["reason"]]
    subprocess.run(["ssh-add", "-q", {str(key)!r}], check=True)
    facts.append(output("node1", "print('in')"))
    sys.argv[1] = {str(lone_config)!r}
    facts.append(output("node1", "print('in')"))
finally:
    os.kill(pid, 15)
tell(facts)
"""
    before, by_agent, by_file = run(script, config=config_with(run.lab, "/no/such/key"))
    assert "/no/such/key does not exist" in before
    assert by_agent == by_file == "in\n"


def test_host_whose_cable_was_out_is_tried_again(run: Runs) -> None:
    """The network tells that it finds nobody there; the cable is in again before the next attempt ends."""
    lab = run.lab
    lab["node1"].link_down()
    lab.launcher.forget_neighbours()
    source = """
from trx.hosts.teardown import Teardown
pause = Teardown.pause

def tell_and_pause(self, seconds):
    print("tries again", flush=True)
    pause(self, seconds)

Teardown.pause = tell_and_pause
print(output("node1", "print('there')"))
"""
    script = lab.popen([sys.executable, lab.script_file(HELPERS + source), lab.ssh_config], env=ENVIRONMENT)
    assert script.stdout is not None
    assert script.stdout.readline() == "tries again\n"
    lab["node1"].link_up()
    assert script.communicate(timeout=20)[0].splitlines()[-2:] == ["there", ""]
    assert script.returncode == 0


# -- through others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        "Host node3\n  ProxyJump root@node1:22,node2\n",
        "Host node3\n  ProxyJump node2\nHost node2\n  ProxyJump node1\n",
        "Host *\n  ProxyJump node1,node2\n",
    ],
)
def test_jump_hosts_are_passed_in_the_order_of_the_configuration(run: Runs, extra: str) -> None:
    lab = run.lab
    lab["node3"].cut(peer=lab.launcher)
    lab["node3"].cut(peer=lab["node1"])
    lab["node2"].cut(peer=lab.launcher)
    source = f"""
with opened("node3", {PEER!r}) as channel:
    facts = [channel.launcher_address(), all_of(channel).strip()]
tell(facts)
"""
    assert run(source, extra=extra) == [lab.launcher.ip, lab["node2"].ip]


def test_proxy_command(run: Runs) -> None:
    lab = run.lab
    command = shlex.join(["ssh", "-F", str(lab.ssh_config), "-W", "%h:%p", "node1"])
    source = f"""
import subprocess
with opened("node2", {PEER!r}) as channel:
    facts = [channel.launcher_address(), all_of(channel).strip()]
tell([*facts, subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.count(chr(10))])
"""
    facts = run(source, extra=f"Host node2\n  ProxyCommand {command}\n")
    assert facts == [lab.launcher.ip, lab["node1"].ip, 0]


def test_proxy_command_may_open_as_many_files_as_ever(run: Runs) -> None:
    source = """
import resource, subprocess
from trx import open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000))
with open_files.allowed(hosts=100), opened("node2", "") as channel:
    child = int(subprocess.run(["pgrep", "-P", str(os.getpid()), "ssh"], capture_output=True, text=True).stdout)
    facts = [resource.getrlimit(resource.RLIMIT_NOFILE)[0], resource.prlimit(child, resource.RLIMIT_NOFILE)[0]]
tell(facts)
"""
    command = shlex.join(["ssh", "-F", str(run.lab.ssh_config), "-W", "%h:%p", "node1"])
    assert run(source, extra=f"Host node2\n  ProxyCommand {command}\n") == [448, 100]


def test_broken_proxy_command_tells_what_it_said(run: Runs) -> None:
    found = run("tell(failure('node2'))", extra="Host node2\n  ProxyCommand sh -c 'echo no way >&2; exit 1'\n")
    assert found["reason"] == "its ProxyCommand ended: no way"
    assert found["stage"] == "connecting"


def test_failure_behind_a_jump_host_is_told_apart_from_its_own(run: Runs) -> None:
    extra = "Host there\n  HostName node2\n  Port 2222\n  ProxyJump node1\nHost here\n  ProxyJump lost\n"
    there, here = run("tell([failure('there'), failure('here')])", extra=extra)
    assert there["reason"] == "the jump host node1 cannot connect to port 2222 of node2: Connection refused"
    assert here["reason"].startswith("the jump host lost cannot be used: the name lost cannot be resolved")
    assert {there["hostname"], here["hostname"]} == {"there", "here"}


def test_jump_host_that_may_not_forward(run_among_odd_hosts: Runs) -> None:
    found = run_among_odd_hosts("tell(failure('node2'))", extra="Host node2\n  ProxyJump node3\n")
    assert "the jump host node3 cannot connect to port 22" in found["reason"]
    assert "AllowTcpForwarding" in found["advice"]


def test_unknown_key_of_a_jump_host(run_among_odd_hosts: Runs) -> None:
    found = run_among_odd_hosts("tell(failure('node3'))", extra="Host node3\n  ProxyJump node1\n")
    assert found["stage"] == "checking its key"
    assert found["reason"].startswith("the jump host node1 cannot be used: its ssh-ed25519 key SHA256:")


# -- keys of hosts ----------------------------------------------------------------------------------------------------


def shown_key(lab: Lab, name: str) -> str:
    key = lab[name].directory / "host_key.pub"
    return subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True).stdout.split()[1]


def test_unknown_key_is_refused_with_a_command_that_adds_it(run_among_odd_hosts: Runs) -> None:
    lab = run_among_odd_hosts.lab
    found = run_among_odd_hosts("tell(failure('root@node1:22'))")
    assert found["stage"] == "checking its key"
    assert f"ssh-ed25519 key {shown_key(lab, 'node1')} is not known" in found["reason"]
    assert str(lab.known_hosts) in found["reason"]
    command = ["ssh", "-F", str(lab.ssh_config), "-p", "22", "-l", "root", "-o", "StrictHostKeyChecking=ask"]
    assert shlex.join([*command, "-o", "BatchMode=no", "node1", "true"]) in found["advice"]


@pytest.mark.parametrize("answer", ["accept-new", "no"])
def test_unknown_key_is_accepted_and_written_down_where_allowed(run_among_odd_hosts: Runs, answer: str) -> None:
    lab = run_among_odd_hosts.lab
    file = lab.directory / f"known-{answer}" / "hosts"
    extra = (
        f"Host *\n  StrictHostKeyChecking {answer}\n  UserKnownHostsFile {file} /no/such/file\n  HashKnownHosts yes\n"
    )
    assert run_among_odd_hosts("tell([output('node1', 'print(1)') for _ in range(2)])", extra=extra) == ["1\n", "1\n"]
    assert len(file.read_text().splitlines()) == 1
    check = f"Host *\n  StrictHostKeyChecking yes\n  UserKnownHostsFile {file}\n"
    lab.sh(["ssh", "-F", lab.write_ssh_config(check), "node1", "true"])  # OpenSSH reads what was written


@pytest.mark.parametrize("answer", ["yes", "accept-new", "no"])
def test_changed_key_is_fatal(run_among_odd_hosts: Runs, answer: str) -> None:
    lab = run_among_odd_hosts.lab
    found = run_among_odd_hosts("tell(failure('node2'))", extra=f"Host *\n  StrictHostKeyChecking {answer}\n")
    assert shown_key(lab, "node2") in found["reason"]
    assert f"line 1 of {lab.known_hosts}" in found["reason"]
    assert "an attack" in found["reason"]
    assert shlex.join(["ssh-keygen", "-R", lab["node2"].ip, "-f", str(lab.known_hosts)]) in found["advice"]


# -- hosts that cannot be connected to --------------------------------------------------------------------------------


def test_name_that_is_not_known(run: Runs) -> None:
    found = run("tell(failure('nowhere'))")
    assert found["stage"] == "resolving its name"
    assert "the name nowhere cannot be resolved" in found["reason"]


def test_refused(run: Runs) -> None:
    found = run("tell(failure('node1:2222'))")
    assert (found["hostname"], found["stage"]) == ("node1:2222", "connecting")
    assert found["reason"] == f"port 2222 cannot be connected to: {run.lab['node1'].ip} refuses the connection"


def test_host_that_does_not_answer(run: Runs) -> None:
    run.lab["node1"].cut()
    found = run("tell(failure('node1', timeout=1.5))")
    assert found["reason"] == f"port 22 cannot be connected to: {run.lab['node1'].ip} does not answer"
    assert 1.4 < found["seconds"] < 3


def test_time_limit_of_the_configuration_counts_too(run: Runs) -> None:
    run.lab["node1"].cut()
    assert run("tell(failure('node1', timeout=30))", extra="Host *\n  ConnectTimeout 1\n")["seconds"] < 3


def test_network_without_a_route(run: Runs) -> None:
    assert "192.0.2.1 is unreachable (Network is unreachable)" in run("tell(failure('192.0.2.1'))")["reason"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("lambda connection: None", "is open, but no SSH server answers there"),
        ("lambda connection: connection.sendall(b'220 mail ready' + bytes([13, 10]) * 200)", "is no SSH server"),
        ("lambda connection: connection.close()", "it closed the connection at once"),
    ],
)
def test_something_else_than_an_ssh_server(run: Runs, answer: str, reason: str) -> None:
    source = f"port = serve({answer})\ntell(failure(f'127.0.0.1:{{port}}', timeout=2), clean=False)"
    found = run(source)
    assert found["stage"] == "connecting"
    assert reason in found["reason"]
    assert found["seconds"] < 3


def test_frozen_host(run: Runs) -> None:
    run.lab["node1"].freeze()
    found = run("tell(failure('node1', timeout=2))")
    assert "no SSH server answers" in found["reason"]


def test_what_is_no_hostname_goes_nowhere(run: Runs) -> None:
    names = ["-oProxyCommand=id", "", "a b", "a;id", "$(id)", "-x@node1", "`id`@node1", "node1:ssh", "[node1", "%h"]
    source = f"tell([failure(name)['reason'] for name in {names!r}])"
    found = run(source, extra="Host *\n  ProxyCommand touch /tmp/executed-%h-%r\n")
    assert found == [f"{name!r} is not a hostname" for name in names]


def test_configuration_that_does_not_exist(run: Runs) -> None:
    found = run("sys.argv[1] = '/no/such/config'\ntell(failure('node1'))")
    assert found["reason"] == "the ssh configuration /no/such/config cannot be read: No such file or directory"


# -- logging in -------------------------------------------------------------------------------------------------------


def make_key(path: Path, passphrase: str = "") -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def test_key_that_the_host_does_not_accept(run: Runs) -> None:
    key = make_key(run.lab.directory / "stranger")
    found = run("tell(failure('guest@node1'))", config=config_with(run.lab, key))
    assert found["stage"] == "authenticating"
    assert found["reason"] == f"guest cannot log in: none of these keys is accepted: {key}"
    assert "authorized_keys" in found["advice"]


def test_key_with_a_passphrase_is_not_asked_for(run: Runs) -> None:
    key = make_key(run.lab.directory / "protected", passphrase="secret")
    found = run("tell(failure('node1'))", config=config_with(run.lab, key))
    assert found["reason"] == f"root cannot log in: there is no key to try; {key} is protected by a passphrase"
    assert found["advice"] == f"load the key into the ssh-agent: ssh-add {key}"


# -- starting ---------------------------------------------------------------------------------------------------------


def test_interpreter_that_does_not_exist(run: Runs) -> None:
    source = """
from trx.hosts.diagnosis import exit_failure
with contextlib.closing(new_channel("node1", python="/no/python")) as channel:
    channel.open()
    output = all_of(channel)
    status = channel.wait(5)
tell([status, exit_failure("node1", "/no/python", status, output).reason])
"""
    assert run(source) == [127, "there is no interpreter /no/python"]


# -- forwarding -------------------------------------------------------------------------------------------------------

ECHO = """
listener = socket.create_server(("127.0.0.1", 0))
def echo():
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(1 << 18):
                    connection.sendall(data)
threading.Thread(target=echo, daemon=True).start()
port = listener.getsockname()[1]
"""
SEND_AND_RECEIVE = """
import hashlib, random, socket, sys, threading
megabytes, port = int(sys.stdin.readline()), int(sys.stdin.readline())
sent, received = hashlib.sha256(), hashlib.sha256()
def send():
    for seed in range(megabytes):
        data = random.Random(seed).randbytes(1 << 20)
        sent.update(data)
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
with socket.create_connection(("127.0.0.1", port)) as connection:
    sender = threading.Thread(target=send)
    sender.start()
    size = 0
    while data := connection.recv(1 << 18):
        size += len(data)
        received.update(data)
    sender.join()
print(size, sent.digest() == received.digest())
"""


@pytest.mark.parametrize("extra", ["", "Host node1\n  ProxyJump node2\n"])
def test_forwarding_carries_bulk_data_both_ways(run: Runs, extra: str) -> None:
    source = f"""{ECHO}
with opened("node1", {SEND_AND_RECEIVE!r}) as channel:
    channel.write(f"50\\n{{channel.forward(port)}}\\n".encode())
    facts = [all_of(channel), channel.wait(5)]
listener.shutdown(socket.SHUT_RDWR)
listener.close()
tell(facts)
"""
    assert run(source, extra=extra) == [f"{50 << 20} True\n", 0]


def test_forwarding_to_several_ports_with_several_connections(run: Runs) -> None:
    connect = """
import socket, sys
ports = [int(word) for word in sys.stdin.readline().split()]
connections = [socket.create_connection(("127.0.0.1", port)) for port in ports * 3]
print(*(connection.makefile().readline().strip() for connection in connections))
"""
    source = f"""
def serve_name(name):
    def answer(connection):
        connection.sendall(name + b"\\n")
        connection.close()
    return serve(answer)
with opened("node1", {connect!r}) as channel:
    ports = [channel.forward(serve_name(name)) for name in (b"one", b"two")]
    channel.write(f"{{ports[0]}} {{ports[1]}}\\n".encode())
    fact = all_of(channel)
tell(fact, clean=False)
"""
    assert run(source) == "one two one two one two\n"


def test_forwarding_to_a_port_where_nobody_listens_ends_the_connection(run: Runs) -> None:
    connect = "import socket, sys; print(socket.create_connection(('127.0.0.1', int(sys.stdin.readline()))).recv(1))"
    source = f"""
with socket.create_server(("127.0.0.1", 0)) as listener:
    free = listener.getsockname()[1]
with opened("node1", {connect!r}) as channel:
    channel.write(b"%d\\n" % channel.forward(free))
    fact = all_of(channel)
tell(fact)
"""
    assert run(source) == "b''\n"


def test_closing_ends_what_is_being_forwarded(run: Runs) -> None:
    flood = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.stdin.readline())))
print("connected", flush=True)
while True:
    connection.sendall(bytes(1 << 20))
"""
    source = f"""
kept = []
arrived = threading.Event()
def keep(connection):  # without ever reading
    kept.append(connection)
    arrived.set()
port = serve(keep)
with opened("node1", {flood!r}) as channel:
    channel.write(b"%d\\n" % channel.forward(port))
    channel.read()
    assert arrived.wait(5)
    started = time.monotonic()
seconds = time.monotonic() - started
tell([seconds, [thread.name for thread in threading.enumerate() if "relay" in thread.name]], clean=False)
"""
    seconds, threads = run(source)
    assert seconds < 1
    assert threads == []


def test_forwarding_that_the_host_does_not_allow(run_among_odd_hosts: Runs) -> None:
    source = """
try:
    with opened("node3", "import sys; sys.stdin.read()") as channel:
        channel.forward(1)
except HostUnusable as unusable:
    tell(dataclasses.asdict(unusable.failure))
"""
    found = run_among_odd_hosts(source)
    assert found["hostname"] == "node3"
    assert found["stage"] == "forwarding a port"
    assert "AllowTcpForwarding" in found["advice"]


# -- closing ----------------------------------------------------------------------------------------------------------

CLOSE_SOON = """
import fabric  # whose import takes as long as what is measured

def close_soon(hostname, after=0.5):
    channel = new_channel(hostname, timeout=30)
    closed_after = []
    def close():
        started = time.monotonic()
        channel.close()
        closed_after.append(time.monotonic() - started)
    timer = threading.Timer(after, close)
    timer.start()
    started = time.monotonic()
    try:
        channel.open()
    except HostUnusable as unusable:
        reason = unusable.failure.reason
    seconds = time.monotonic() - started
    timer.join()
    return [reason, seconds < after + 0.5, closed_after[0] < 0.5]
"""
GIVEN_UP = ["the connection was given up", True, True]


def test_closing_while_the_host_does_not_answer(run: Runs) -> None:
    run.lab["node1"].cut()
    assert run(f"{CLOSE_SOON}\ntell(close_soon('node1'))", extra="Host *\n  ConnectTimeout 30\n") == GIVEN_UP


def test_closing_while_waiting_for_a_frozen_host(run: Runs) -> None:
    run.lab["node1"].freeze()
    assert run(f"{CLOSE_SOON}\ntell(close_soon('node1'))") == GIVEN_UP


def test_closing_while_waiting_for_a_frozen_host_behind_another(run: Runs) -> None:
    run.lab["node2"].freeze()
    assert run(f"{CLOSE_SOON}\ntell(close_soon('node2'))", extra="Host node2\n  ProxyJump node1\n") == GIVEN_UP


def test_closing_while_a_proxy_command_says_nothing(run: Runs) -> None:
    assert run(f"{CLOSE_SOON}\ntell(close_soon('node1'))", extra="Host *\n  ProxyCommand sleep 100\n") == GIVEN_UP


def test_closing_while_the_name_is_being_resolved(run: Runs) -> None:
    source = f"""{CLOSE_SOON}
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
tell(close_soon("nowhere.example"), clean=False)  # nothing can end the thread that waits for the name
"""
    assert run(source, env={"RES_OPTIONS": "timeout:3 attempts:1"}) == GIVEN_UP


def test_closing_before_and_after(run: Runs) -> None:
    source = """
early = new_channel("node1")
early.close()
try:
    early.open()
except HostUnusable as unusable:
    reason = unusable.failure.reason
with opened("node1", "import sys; sys.stdin.read()") as late:
    late.close()
    late.close()
try:
    late.write(b"too late")
except OSError:
    tell([reason, late.read() == b""])
"""
    assert run(source) == ["the connection was given up", True]


def test_closing_wakes_the_reader(run: Runs) -> None:
    source = """
with opened("node1", "import sys; sys.stdin.read()") as channel:
    threading.Timer(0.3, channel.close).start()
    started = time.monotonic()
    fact = [channel.read() == b"", channel.wait(5), time.monotonic() - started < 1]
tell(fact)
"""
    assert run(source) == [True, None, True]


def test_closing_while_writing_to_a_host_that_is_cut_off(run: Runs) -> None:
    source = """
def write():
    with contextlib.suppress(OSError):
        while True:
            channel.write(bytes(1 << 20))
            written.set()
written = threading.Event()
with opened("node1", "import sys\\nwhile sys.stdin.buffer.read(4096): pass") as channel:
    writer = threading.Thread(target=write)
    writer.start()
    written.wait()
    print("writing", flush=True)
    while written.wait(0.5):
        written.clear()
    started = time.monotonic()
seconds = time.monotonic() - started
writer.join(2)
tell([seconds < 1, writer.is_alive()])
"""
    lab = run.lab
    argv: list[str | Path] = [sys.executable, lab.script_file(HELPERS + source), lab.ssh_config]
    process = lab.popen(argv, env=ENVIRONMENT)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    lab["node1"].cut()
    assert json.loads(process.communicate(timeout=30)[0]) == [True, False]


# -- the terminal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setup", ["", "import logging; logging.basicConfig(level=logging.INFO)"])
def test_paramiko_stays_silent(run_among_odd_hosts: Runs, setup: str) -> None:
    source = f"""
{setup}
port = serve(lambda connection: connection.close())
tell([bool(failure(f"127.0.0.1:{{port}}")), bool(failure("node2")), output("node3", "print(1)")], clean=False)
"""
    assert run_among_odd_hosts(source) == [True, True, "1\n"]  # and nothing on stderr


def test_login_that_stays_silent_ends(run: Runs) -> None:
    """As that of a launcher which is cut off before its first word; this one keeps silent, so its status is seen."""
    lab = run.lab
    process = lab.launcher.popen(["ssh", "-F", str(lab.ssh_config), "node1", command(1)], stdin=subprocess.PIPE)
    assert process.wait(20) == 128 + signal.SIGALRM  # what bash says of a time limit
    process.communicate()
