"""Which keys of hosts are trusted."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from trx.hosts.host_keys import ChangedKey, KnownHosts, RevokedKey, UnknownKey, fingerprint
from trx.hosts.route import plan


class Key:
    def __init__(self, data: bytes, name: str = "ssh-ed25519") -> None:
        self.data, self.name = data, name

    def get_name(self) -> str:
        return self.name

    def asbytes(self) -> bytes:
        return self.data

    def __str__(self) -> str:
        return f"{self.name} {base64.b64encode(self.data).decode()} some comment"


GOOD, OTHER, RSA = Key(b"good key"), Key(b"other key"), Key(b"rsa key", "ssh-rsa")


class Trust:
    """Known hosts in a file, and an ssh configuration that names it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "known_hosts"
        self.config = folder / "config"

    def of(self, hostname: str, *lines: str, options: str = "") -> KnownHosts:
        self.file.write_text("".join(f"{line}\n" for line in lines))
        files = f"UserKnownHostsFile {self.file}\nGlobalKnownHostsFile none\n"
        self.config.write_text(f"Host *\n{options}{files}")
        return KnownHosts(plan(hostname, self.config)[-1])


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path)


def check(known_hosts: KnownHosts, key: Key) -> None:
    known_hosts.missing_host_key(None, "", key)


@pytest.mark.parametrize(
    ("hostname", "names"),
    [
        ("node1", "node1"),
        ("NODE1", "node1"),
        ("node1", "a,Node1,b"),
        ("node1", "node*"),
        ("node1", "node?,!node2"),
        ("node1:2222", "[node1]:2222"),
        ("node1:2222", "[node1]:*"),
        ("node1:2222", "node1"),
        ("10.0.0.1", "10.0.0.*"),
        ("[fd77::1]:2222", "[fd77::1]:2222"),
        ("fd77::1", "fd77::1"),
    ],
)
def test_key_is_found(trust: Trust, hostname: str, names: str) -> None:
    check(trust.of(hostname, "# comment", "", "garbage", f"{names} {GOOD}"), GOOD)


@pytest.mark.parametrize(
    "names", ["node2", "!node1,node*", "[node1]:2222", "nod", "node1.example", "|1|x|y", "|1|", "|"]
)
def test_key_is_not_found(trust: Trust, names: str) -> None:
    with pytest.raises(UnknownKey) as caught:
        check(trust.of("node1", f"{names} {GOOD}"), GOOD)
    assert (caught.value.name, caught.value.files) == ("node1", [trust.file])


def test_unknown_port_of_a_known_host(trust: Trust) -> None:
    with pytest.raises(UnknownKey) as caught:
        check(trust.of("node1:2222", f"node1 {OTHER}"), GOOD)
    assert caught.value.name == "[node1]:2222"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_hashed_names_are_those_of_openssh(trust: Trust, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    kind, data, _ = (tmp_path / "key.pub").read_text().split()
    key = Key(base64.b64decode(data), kind)
    known_hosts = trust.of("node1:2222", f"[node1]:2222 {kind} {data}")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", trust.file], check=True, capture_output=True)
    assert "node1" not in trust.file.read_text()
    check(known_hosts, key)
    listed = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key"], capture_output=True, text=True, check=True).stdout
    assert listed.split()[1] == fingerprint(key.asbytes())


def test_one_of_several_keys_of_a_type_is_enough(trust: Trust) -> None:
    check(trust.of("node1", f"node1 {OTHER}", f"node1 {GOOD}"), GOOD)


@pytest.mark.parametrize("options", ["", "StrictHostKeyChecking accept-new\n", "StrictHostKeyChecking no\n"])
@pytest.mark.parametrize("known", [OTHER, RSA])
def test_other_key_is_refused(trust: Trust, known: Key, options: str) -> None:
    with pytest.raises(ChangedKey) as caught:
        check(trust.of("node1", "", f"node1 {known}", options=options), GOOD)
    assert str(caught.value.known) == f"line 2 of {trust.file}"
    assert trust.file.read_text() == f"\nnode1 {known}\n"


def test_revoked_key_is_refused(trust: Trust) -> None:
    with pytest.raises(RevokedKey):
        check(trust.of("node1", f"@revoked * {GOOD}", f"node1 {GOOD}"), GOOD)


def test_key_of_an_authority_is_no_key_of_a_host(trust: Trust) -> None:
    with pytest.raises(UnknownKey):
        check(trust.of("node1", f"@cert-authority * {GOOD}"), GOOD)


def test_host_key_alias_is_looked_for_without_its_port(trust: Trust) -> None:
    check(trust.of("node1:2222", f"cluster {GOOD}", options="HostKeyAlias cluster\n"), GOOD)


def test_known_types_are_asked_for_first(trust: Trust) -> None:
    assert trust.of("node1", f"node1 {RSA}", f"node1 {GOOD}").algorithms() == [
        "rsa-sha2-512",
        "rsa-sha2-256",
        "ssh-ed25519",
    ]


@pytest.mark.parametrize("answer", ["yes", "ask"])
def test_unknown_key_is_not_written_down(trust: Trust, answer: str) -> None:
    with pytest.raises(UnknownKey):
        check(trust.of("node1", options=f"StrictHostKeyChecking {answer}\n"), GOOD)
    assert trust.file.read_text() == ""


@pytest.mark.parametrize("answer", ["accept-new", "no", "off"])
def test_unknown_key_is_written_down_once(trust: Trust, answer: str) -> None:
    known_hosts = trust.of("node1:2222", f"node2 {OTHER}", options=f"StrictHostKeyChecking {answer}\n")
    trust.file.write_text(trust.file.read_text().rstrip("\n"))
    for _ in range(2):
        check(known_hosts, GOOD)
    kind, data, *_ = str(GOOD).split()
    assert trust.file.read_text() == f"node2 {OTHER}\n[node1]:2222 {kind} {data}\n"


def test_unknown_key_is_written_to_a_file_that_is_made(trust: Trust, tmp_path: Path) -> None:
    known_hosts = trust.of("node1", options=f"StrictHostKeyChecking no\nUserKnownHostsFile {tmp_path}/new/file\n")
    check(known_hosts, GOOD)
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("file", ["/dev/null", "none", "/proc/no/such/file"])
def test_key_that_cannot_be_written_down_is_accepted_all_the_same(trust: Trust, file: str) -> None:
    check(trust.of("node1", options=f"StrictHostKeyChecking no\nUserKnownHostsFile {file}\n"), GOOD)
