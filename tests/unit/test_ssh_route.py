"""What the ssh configuration makes of a hostname."""

from __future__ import annotations

from pathlib import Path

import pytest

from trx.hosts import ssh_config
from trx.hosts.route import Named, parse_name, plan
from trx.hosts.ssh_config import BadConfiguration


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("node1", Named(None, "node1", None)),
        ("node1:2222", Named(None, "node1", 2222)),
        ("ann@node1.example.com:2222", Named("ann", "node1.example.com", 2222)),
        ("ann@example.com@node1", Named("ann@example.com", "node1", None)),
        ("fe80::1%eth0", Named(None, "fe80::1%eth0", None)),
        ("ann@::1", Named("ann", "::1", None)),
        ("[::1]", Named(None, "::1", None)),
        ("ann@[fd77::1]:22", Named("ann", "fd77::1", 22)),
        ("ssh://ann@node1:22/", Named("ann", "node1", 22)),
        ("_internal-name_", Named(None, "_internal-name_", None)),
    ],
)
def test_names_of_hosts(text: str, named: Named) -> None:
    assert parse_name(text) == named


NO_HOSTS = ["", "-l", "-oProxyCommand=id", "a b", "a\n", "a;b", "$(id)", "`id`", "a|b", "a/b", "a:b", "a:b:c", "::1:x"]
NO_HOSTS += ["@a", "-x@a", "a b@c", "$(id)@c", "[a", "a]", "[]", "[a;b]", "a*", "a'b", '"', "a\\b", "a%h", "::1%$(id)"]


@pytest.mark.parametrize("text", NO_HOSTS)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(BadConfiguration, match="is not a hostname"):
        parse_name(text)


@pytest.mark.parametrize("text", ["a:", "a:0", "a:65536", "[::1]:"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(BadConfiguration, match="does not name a port"):
        parse_name(text)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


def way(config: Path, hostname: str) -> list[str]:
    return [f"{hop.user}@{hop.hostname}:{hop.port}" for hop in plan(hostname, config)]


def test_options_of_the_host(config: Path) -> None:
    config.write_text("Host a\n  HostName a.example\n  User ann\n  Port 2222\nHost *\n  User all\n")
    assert way(config, "a") == ["ann@a.example:2222"]
    assert way(config, "b") == ["all@b:22"]


def test_what_the_hostname_says_comes_first_also_in_other_options(config: Path) -> None:
    options = "User all\nPort 1\nIdentityFile /keys/%r\nProxyCommand nc %h %p\nUserKnownHostsFile /%r/%p/%n\n"
    config.write_text(options)
    (hop,) = plan("ann@a:2222", config)
    assert (hop.user, hop.port, hop.proxy_command) == ("ann", 2222, "nc a 2222")
    assert hop.identity_files() == [Path("/keys/ann")]
    assert hop.files("userknownhostsfile", "") == [Path("/ann/2222/a")]


@pytest.mark.parametrize(
    ("jumps", "hops"),
    [
        ("x", ["all@x:22", "all@a:22"]),
        ("ann@x:23,y", ["ann@x:23", "all@y:22", "all@a:22"]),
        ("ssh://x:23, [::1]:24", ["all@x:23", "all@::1:24", "all@a:22"]),
        ("none", ["all@a:22"]),
        ("via", ["all@first:22", "all@second:22", "all@a:22"]),
        ("x,via", ["all@x:22", "all@second:22", "all@a:22"]),
    ],
)
def test_jump_hosts_are_passed_in_their_order(config: Path, jumps: str, hops: list[str]) -> None:
    config.write_text(
        f"Host a\n  ProxyJump {jumps}\nHost via\n  HostName second\n  ProxyJump first\nHost *\n  User all\n"
    )
    assert way(config, "a") == hops


def test_jump_host_of_all_hosts_is_not_its_own(config: Path) -> None:
    config.write_text("Host gate\n  HostName gate.example\nHost *\n  User all\n  ProxyJump gate\n")
    assert way(config, "a") == ["all@gate.example:22", "all@a:22"]
    assert way(config, "gate") == ["all@gate.example:22"]


def test_circle_of_jump_hosts(config: Path) -> None:
    config.write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(BadConfiguration, match="circle at a"):
        plan("a", config)


def test_first_of_jump_and_command_counts(config: Path) -> None:
    config.write_text("Host a\n  ProxyCommand x\nHost b\n  ProxyCommand none\nHost *\n  ProxyJump gate\n")
    assert [hop.proxy_command for hop in plan("a", config)] == ["x"]
    assert [hop.proxy_command for hop in plan("b", config)] == [None]
    assert [hop.proxy_command for hop in plan("c", config)] == [None, None]


def test_command_that_shows_the_user_what_is_wrong(config: Path) -> None:
    config.write_text("Host a\n  ProxyJump x,y\n")
    x, y, a = plan("ann@a:23", config)
    assert x.ssh_command() == f"ssh -F {config} x true"
    assert y.ssh_command("-o", "A=b c") == f"ssh -F {config} -J x -o 'A=b c' y true"
    assert a.ssh_command() == f"ssh -F {config} -p 23 -l ann a true"


def test_files_are_expanded(config: Path) -> None:
    config.write_text('Host a\n  UserKnownHostsFile ~/a "/b c/%%h_%h" none\n')
    (hop,) = plan("a", config)
    assert hop.files("userknownhostsfile", "") == [Path("~/a").expanduser(), Path("/b c/%h_a")]
    assert hop.files("globalknownhostsfile", "/x /y") == [Path("/x"), Path("/y")]


def test_included_files_stand_in_their_place(config: Path) -> None:
    config.write_text(f"Host a\n  Include {config}.d/*\n  Port 4\nHost *\n  User all\n  Port 5\n")
    folder = config.with_name("config.d")
    folder.mkdir()
    (folder / "1").write_text("User one\n")
    (folder / "2").write_text("Host b\n  Port 2\n")
    assert way(config, "a") == ["one@a:4"]
    assert way(config, "b") == ["all@b:5"]  # the section that includes the file is not for this host


def test_files_that_include_themselves(config: Path) -> None:
    config.write_text(f"Include {config}\n")
    with pytest.raises(BadConfiguration, match="too many levels"):
        plan("a", config)


@pytest.mark.parametrize("text", ["Host\n", "Host a\n  Port many\n", "Match nonsense\n", "Host 'a\n"])
def test_configuration_that_cannot_be_understood(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(BadConfiguration, match="the ssh configuration"):
        plan("a", config)


def test_configuration_that_is_missing(config: Path) -> None:
    with pytest.raises(BadConfiguration, match="cannot be read: No such file"):
        plan("a", config)


def test_configuration_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Include more\n")
    (tmp_path / ".ssh" / "more").write_text("Host a\n  HostName elsewhere\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan("a", None)[0].hostname == "elsewhere"


@pytest.mark.parametrize(
    ("text", "number"), [("5", 5), ("90s", 90), ("1m30s", 90), ("1H", 3600), ("none", None), ("", None), ("soon", None)]
)
def test_times(text: str, number: float | None) -> None:
    assert ssh_config.seconds(text) == number
