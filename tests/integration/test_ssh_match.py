"""Which `Match` blocks are about a host: as the installed `ssh` sees it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from trx.hosts import ssh_config

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")

HOSTS = ("node1", "node2", "other")

MATCHES = [
    "all",
    "ALL",
    "!all",
    "final all",
    "Final All",
    "final",
    "host node1 all",
    "!final",
    "canonical",
    "canonical all",
    "!canonical",
    "host node1",
    "Host node1",
    "HOST node1",
    "host=node1",
    'host "node1"',
    "host node1,node2",
    "host node*,!node2",
    "!host node1",
    "!Host node1",
    "originalhost node1",
    "OriginalHost node?",
    "final host node1",
    "Final Host node1",
    "final !host node1",
    "host node1 originalhost node2",
    "host node1 # a comment",
    "user nobody",
    "!User nobody",
    "localuser nobody",
]

REFUSED_BY_SSH = ["nonsense node1", "nonsense", "host", "all host node1", "canonical final all", "#"]
REFUSED_BY_NAME = ["tagged x", "localnetwork 10.0.0.0/8", "command x", "sessiontype shell", "version 9"]


def configuration(folder: Path, match: str) -> Path:
    path = folder / "config"
    path.write_text(f"Host nothing\n  Port 1\nMatch {match}\n  Port 2222\nHost *\n  Port 3333\n")
    return path


def by_ssh(path: Path, host: str) -> str | None:
    asked = subprocess.run(["ssh", "-G", "-F", path, host], capture_output=True, text=True, timeout=20)
    if asked.returncode:
        return None
    return next(line.split()[1] for line in asked.stdout.splitlines() if line.startswith("port "))


def by_trx(path: Path, host: str) -> str:
    return str(ssh_config.parse(ssh_config.read(path)).lookup(host)["port"])


@pytest.mark.parametrize("match", MATCHES)
def test_the_same_hosts_match_as_with_ssh(tmp_path: Path, match: str) -> None:
    path = configuration(tmp_path, match)
    wanted = [by_ssh(path, host) for host in HOSTS]
    assert None not in wanted
    assert [by_trx(path, host) for host in HOSTS] == wanted


@pytest.mark.parametrize("match", REFUSED_BY_SSH)
def test_what_ssh_refuses_is_refused(tmp_path: Path, match: str) -> None:
    path = configuration(tmp_path, match)
    assert by_ssh(path, "node1") is None
    with pytest.raises(ssh_config.BadConfiguration, match="Match"):
        by_trx(path, "node1")


@pytest.mark.parametrize("match", REFUSED_BY_NAME)
def test_what_trx_cannot_decide_is_refused_by_name(tmp_path: Path, match: str) -> None:
    with pytest.raises(ssh_config.BadConfiguration, match=match.split()[0]):
        by_trx(configuration(tmp_path, match), "node1")


def test_included_files_are_read_in_the_same_way(tmp_path: Path) -> None:
    included = configuration(tmp_path, "Final All")
    (tmp_path / "outer").write_text(f"Include {included}\n")
    assert by_trx(tmp_path / "outer", "node1") == by_ssh(tmp_path / "outer", "node1")
