"""`Host` and `Match` sections: what trx makes of them is what the ssh program makes of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from trx.hosts import ssh_match
from trx.hosts.route import plan
from trx.hosts.ssh_config import BadConfiguration

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="the ssh program is not installed")
COMPARED = ("user", "hostname", "port", "identityfile")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


def of_trx(config: Path, host: str) -> dict[str, list[str]] | None:
    """What trx reads; None where it refuses the file."""
    try:
        hop = plan(host, config)[-1]
    except BadConfiguration:
        return None
    files = [str(path) for path in hop.identity_files()]
    return {"user": [hop.user], "hostname": [hop.hostname], "port": [str(hop.port)], "identityfile": files}


def of_ssh(config: Path, host: str) -> dict[str, list[str]] | None:
    done = subprocess.run(["ssh", "-G", "-F", config, host], capture_output=True, text=True, timeout=30)
    if done.returncode:
        return None
    pairs = [line.split(" ", 1) for line in done.stdout.splitlines() if " " in line]
    said = {name: [value for key, value in pairs if key == name] for name in COMPARED}
    return {**said, "identityfile": [file for file in said["identityfile"] if not file.startswith("~")]}


CRITERIA = """\
final all|Final ALL|FINAL|canonical all|canonical|!canonical|!final|!final all|final !all|!all|all
all # why|final canonical all|canonical final all|host node1 all|all host node1|final=all|final,all
host=node1|HOST=node1|Host node1|host node2|HOST node2|host = "node1,x"|host="node1"|"host" node1
host NODE1|host node[1]|host node?|host !node1,*|host *,!node2|host !node2|!host x|! host x
originalhost=node1 port 1|originalhost node1 host node1|originalhost other|final host node1
final host other|host node1 # a comment|# a comment||host|host # x|host ""|host "node1|foo x|Foo all
all#c|exec true|!exec false|exec "test %n%h%p = node1node122"|exec "test %Z = x"|host other exec true
exec=false|user nobody-else|!user nobody-else|!localuser nobody-else|localuser=nobody-else""".replace("\n", "|").split(
    "|"
)


@needs_ssh
@pytest.mark.parametrize("line", CRITERIA)
def test_a_match_line_means_what_it_means_to_ssh(config: Path, line: str) -> None:
    config.write_text(f"Match {line}\n  User hit\n  IdentityFile /keys/hit\nHost *\n  User other\n  Port 22\n")
    assert of_trx(config, "node1") == of_ssh(config, "node1")


FILES = {
    "final reads a second time, with the hostname": (
        "Host node1\n HostName 10.0.0.1\nHost 10.*\n Port 7\nMatch final host none\n Port 3\nHost *\n User z\n"
    ),
    "without final there is no second time": "Host node1\n HostName 10.0.0.1\nHost 10.*\n User ten\nHost *\n User x\n",
    "what is set is kept": "Match !final\n Port 1\n User a\nMatch final all\n Port 2\n HostName b\n IdentityFile /x\n",
    "host is the HostName so far": "Host *\n HostName A%h\n User z\nMatch host anode1\n Port 7\n",
    "final knows the new name": "Host *\n HostName %h.lan\n User z\nMatch final host node1.lan\n Port 7\n",
    "user is the User so far": "User z\nMatch user z\n Port 7\nMatch user y\n Port 8\n",
    "canonical holds where final has read again": "User z\nMatch canonical\n Port 3\nMatch final host none\n Port 4\n",
    "negated hosts": "Host * !node1\n Port 3\nHost !other\n Port 5\nHost *\n User z\n",
    "comments and quotes": 'Host other # node1\n Port 3\nHost "node1"\n User z\n',
    "brackets are no pattern": "Host node[1]\n Port 3\nHost *\n User z\n",
    "commas part no hosts": "Host node1,node2\n Port 3\nHost *\n User z\n",
    "a file in a section that counts": "Match host node1\n Include {here}/plain\n Port 7\n",
    "a file in a section that does not": "Match host other\n Include {here}/all\n Port 7\nHost *\n User z\n Port 9\n",
    "a section of a file ends with it": "Match host node1\n Include {here}/other\n Port 7\n User z\n",
    "final in a file that does not count": "User z\nHost other\n Include {here}/final\nMatch canonical\n Port 7\n",
    "nonsense in a section that does not count": "Host other\n Include {here}/nonsense\n",
}


@needs_ssh
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("host", ["node1", "other"])
def test_a_file_means_what_it_means_to_ssh(config: Path, host: str, name: str) -> None:
    here = config.parent
    (here / "plain").write_text("User plain\nIdentityFile /keys/a\nIdentityFile /keys/b\n")
    (here / "all").write_text("Host *\n User all\n")
    (here / "other").write_text("Host other\n User other\n")
    (here / "final").write_text("Match final all\n User final\n")
    (here / "nonsense").write_text("Match nonsense\n")
    config.write_text(FILES[name].replace("{here}", str(here)))
    assert of_trx(config, host) == of_ssh(config, host)


@pytest.mark.parametrize("name", ["localnetwork", "tagged", "Command", "sessiontype", "version"])
def test_what_trx_cannot_decide_is_refused_by_name(config: Path, name: str) -> None:
    config.write_text(f"Match host node1 !{name} x\n  User hit\n")
    with pytest.raises(BadConfiguration, match=f"config line 1: .*`Match {name.lower()}`") as caught:
        plan("node1", config)
    assert "Host" in caught.value.advice
    assert plan("node2", config)[0].user != "hit"  # decided by the other criterion


def test_a_command_that_does_not_end_is_ended(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_match, "_EXEC_TIMEOUT", 0.1)
    config.write_text('Match exec "sleep 600"\n  User hit\n')
    with pytest.raises(BadConfiguration, match="line 1: the command of `Match exec` has not ended"):
        plan("node1", config)


def test_an_interface_behind_an_address_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host *\n  Port 22\n")
    [hop] = plan("fe80::1%Eth0", tmp_path / "config")
    assert hop.hostname == "fe80::1%Eth0"


def test_a_pattern_of_many_stars_is_compared_at_once() -> None:
    assert not ssh_match.list_matches("*a" * 30 + "*b", "a" * 60)
    assert ssh_match.list_matches("*a" * 30 + "*b", "a" * 60 + "b")
    assert ssh_match.list_matches("n[1]", "n[1]")
    assert not ssh_match.list_matches("n[1]", "n1")
