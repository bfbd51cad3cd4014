"""Tests of the lab itself: what can go wrong on a host and between hosts."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from .harness import Host, Lab, LabError, wait_until
from .traffic import CONNECT, listen, milliseconds, reaches, ssh


def carrier(host: Host) -> str:
    return host.run(["cat", "/sys/class/net/eth0/carrier"]).stdout.strip()


def test_link_down_and_up(lab: Lab) -> None:
    host = lab["node1"]
    host.link_down()
    wait_until(lambda: carrier(host) == "0", 5, "no carrier")
    host.link_up()
    wait_until(lambda: carrier(host) == "1", 5, "carrier")
    assert milliseconds(lab["node2"], host) < 1000


def test_cut_and_heal(lab: Lab) -> None:
    listen(lab["node1"])
    lab["node1"].cut()
    assert not reaches(lab["node2"], lab["node1"])
    lab.heal()
    assert reaches(lab["node2"], lab["node1"])


def test_cut_from_one_peer_only(lab: Lab) -> None:
    listen(lab["node1"])
    lab["node1"].cut(peer=lab["node2"])
    assert not reaches(lab["node2"], lab["node1"])
    assert reaches(lab["node3"], lab["node1"])


def test_cut_of_one_port_only(lab: Lab) -> None:
    for port in (5000, 5001):
        listen(lab["node1"], port)
    lab["node1"].cut("in", extra="tcp dport 5000")
    assert not reaches(lab["node2"], lab["node1"], 5000)
    assert not reaches(lab["node2"], lab["node1"].ip6, 5000)
    assert reaches(lab["node2"], lab["node1"], 5001)


def test_cut_of_one_direction_spares_the_other(lab: Lab) -> None:
    """What node1 sends is lost, what node2 sends arrives, even when node2 has to ask for node1's address first."""
    host = lab["node1"]
    source = "import socket, sys; s = socket.socket(); s.bind(('', 5002)); s.listen(); print('listening', flush=True)"
    listener = host.popen([sys.executable, "-c", f"{source}; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert listener.stdout is not None
    listener.stdout.readline()
    lab["node2"].run(["ip", "neigh", "flush", "all"])
    host.cut("out")
    connecting = lab["node2"].popen([sys.executable, "-c", CONNECT, host.ip, "5002"])
    wait_until(lambda: " 03 " in host.run(["cat", "/proc/net/tcp"]).stdout, 5, "a half-open connection")
    assert "timed out" in connecting.communicate()[0]


def test_loss(lab: Lab) -> None:
    lab["node1"].cut(loss=50)
    output = lab["node2"].run(["ping", "-q", "-c", "100", "-i", "0.005", "-W", "0.2", lab["node1"].ip], check=False)
    assert 0 < int(output.stdout.split(" received")[0].split()[-1]) < 90


def test_partition(lab: Lab) -> None:
    listen(lab["node1"])
    lab.partition([lab["node1"], lab["node2"]], [lab["node3"], lab["node4"]])
    assert reaches(lab["node2"], lab["node1"])
    assert not reaches(lab["node3"], lab["node1"])
    assert reaches(lab.launcher, lab["node1"])


def test_delay(lab: Lab) -> None:
    lab["node1"].delay(50)
    assert 90 < milliseconds(lab["node2"], lab["node1"]) < 500
    lab["node1"].delay(0)
    assert milliseconds(lab["node2"], lab["node1"]) < 50


def test_delay_of_ipv6(lab: Lab) -> None:
    listen(lab["node1"])
    lab["node1"].delay(100)
    begin = time.monotonic()
    assert reaches(lab["node2"], lab["node1"].ip6)
    assert time.monotonic() - begin > 0.4


def test_power_off_says_nothing_to_the_others(lab: Lab) -> None:
    lab["node1"].popen(["nc", "-l", "-p", "5003"])
    wait_until(lambda: [x for x in lab["node1"].leftovers(0) if x.kind == "port"], 5, "nc listens")
    source = (
        f"import socket; s = socket.create_connection(('{lab['node1'].ip}', 5003)); print('up', flush=True); s.recv(1)"
    )
    client = lab["node2"].popen([sys.executable, "-c", source])
    assert client.stdout is not None
    assert client.stdout.readline() == "up\n"
    lab["node1"].power_off()
    assert lab["node1"].pid is None
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(0.3)
    lab["node1"].power_on()
    assert ssh(lab, "node1", "hostname").stdout == "node1\n"


def test_power_on_finds_fresh_directories(cow_lab: Lab) -> None:
    host = cow_lab["node1"]
    for path in ("/tmp/old", "/root/old"):
        host.run(["touch", path])
    host.power_off()
    with pytest.raises(LabError, match="node1 is off"):
        host.run(["true"])
    host.power_on()
    for path in ("/tmp/old", "/root/old"):
        assert host.run(["test", "-e", path], check=False).returncode == 1


def test_freeze_and_thaw(lab: Lab) -> None:
    listen(lab["node1"])
    lab["node1"].freeze()
    assert not reaches(lab["node2"], lab["node1"])
    assert milliseconds(lab["node2"], lab["node1"]) < 1000
    lab["node1"].thaw()
    assert reaches(lab["node2"], lab["node1"])


@pytest.mark.alone  # the machine counts such kills, also for the workers of other tests
def test_memory_limit(lab: Lab) -> None:
    host = lab["node1"]
    try:
        host.mem_limit("64M")
    except LabError as error:
        pytest.skip(str(error))
    before = host.oom_kills()
    assert host.run([sys.executable, "-c", "x = b'x' * (256 << 20)"], check=False).returncode != 0
    assert host.oom_kills() > before
    lab.heal()
    assert host.run([sys.executable, "-c", "x = b'x' * (256 << 20)"]).returncode == 0


def test_cpu_limit(lab: Lab) -> None:
    host = lab["node1"]
    try:
        host.cpu_limit(0.1)
    except LabError as error:
        pytest.skip(str(error))
    source = "import time; a = time.monotonic(); b = time.process_time()\nwhile time.monotonic() < a + 1: pass\n"
    share = float(host.run([sys.executable, "-c", f"{source}print(time.process_time() - b)"]).stdout)
    assert share < 0.3


def test_heal_ends_every_fault(lab: Lab) -> None:
    one, two, three, four = lab
    one.power_off()
    two.freeze()
    three.link_down()
    four.delay(2000)
    four.cut()
    lab.launcher.cut()
    lab.heal()
    assert [ssh(lab, name, "hostname").stdout.strip() for name in lab.names] == lab.names
