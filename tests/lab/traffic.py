"""Small servers and clients by which tests see who reaches whom in a lab."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .harness import Lab, Machine

_LISTEN = """
import socket, sys
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello")
    connection.close()
"""
CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.5) as connection:
    print(connection.recv(5).decode())
"""


def ssh(lab: Lab, name: str, command: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command on a host by the launcher's ssh."""
    return lab.sh(["ssh", "-F", config or lab.ssh_config, name, command], check=False)


def listen(machine: Machine, port: int = 5000) -> subprocess.Popen[str]:
    """Starts a server that greets, and ends with the test."""
    process = machine.popen([sys.executable, "-c", _LISTEN, str(port)])
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


def reaches(source: Machine, target: Machine | str, port: int = 5000) -> bool:
    """Whether that server is reached, at a machine's IPv4 address or at any other, within half a second."""
    address = target if isinstance(target, str) else target.ip
    result = source.run([sys.executable, "-c", CONNECT, address, str(port)], check=False)
    return result.stdout == "hello\n"


def milliseconds(source: Machine, target: Machine) -> float:
    """The time of a ping, the second one: the first may have to ask for the address."""
    output = source.run(["ping", "-c", "2", "-i", "0.01", target.ip]).stdout
    return float(output.split("icmp_seq=2")[1].split("time=")[1].split()[0])
