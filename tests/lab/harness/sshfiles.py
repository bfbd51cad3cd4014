"""Keys and configuration files of SSH for a lab, all in the lab's own directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from .host import Host
from .shell import run

Family = Literal["ipv4", "ipv6"]

_SSHD = """\
Port 22
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
PrintMotd no
Subsystem sftp internal-sftp
"""

_SSH = """\
Host *
  User root
  IdentityFile {lab}/client_key
  IdentitiesOnly yes
  UserKnownHostsFile {lab}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 5
  ServerAliveInterval 2
  ServerAliveCountMax 3
"""


def make_key(path: Path, comment: str) -> str:
    """Makes a key pair, and returns the public half."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return path.with_suffix(".pub").read_text()


def write_sshd_files(host: Host, client_key: str) -> None:
    """Writes what the host's sshd needs."""
    make_key(host.directory / "host_key", host.name)
    (host.directory / "authorized_keys").write_text(client_key)
    lines = host.options.sshd_lines
    if not any(line.startswith("MaxStartups") for line in lines):  # of this keyword, the last value counts
        lines = (*lines, "MaxStartups 100:30:200")
    extra = "".join(f"{line}\n" for line in lines)
    (host.directory / "sshd_config").write_text(extra + _SSHD.format(directory=host.directory))


def write_known_hosts(lab: Path, hosts: Iterable[Host]) -> None:
    """Writes what the launcher knows of the hosts' keys."""
    lines = []
    for host in hosts:
        if host.options.host_key == "unknown":
            continue
        key = (host.directory / "host_key.pub").read_text()
        if host.options.host_key == "changed":
            key = make_key(host.directory / "former_key", host.name)
        kind, data, *_ = key.split()
        lines.append(f"{host.name},{host.ip},{host.ip6} {kind} {data}\n")
    (lab / "known_hosts").write_text("".join(lines))


def ssh_config(lab: Path, hosts: Iterable[Host], family: Family, extra: str) -> str:
    """The text of the launcher's ssh_config; ``extra`` comes first, so that it wins."""
    stanzas = [f"Host {host.name}\n  HostName {host.ip6 if family == 'ipv6' else host.ip}\n" for host in hosts]
    return "\n".join([extra.rstrip() + "\n", *stanzas, _SSH.format(lab=lab)])
