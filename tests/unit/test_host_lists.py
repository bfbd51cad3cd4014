"""Hosts as people write them down: host lists, hostfiles, and which string is which."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trx import Launcher, host_lists, launch
from trx.host_lists import NamedHosts, expand, is_path, read_hostfile


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(launcher: Launcher) -> list[tuple[str, int | str]]:
    launcher._check()
    return [(host.label, host.workers) for host in launcher.planned_hosts()]


# ---- host lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ["node1"]),
        ("node[01-03]", ["node01", "node02", "node03"]),
        ("a[1-2],b3", ["a1", "a2", "b3"]),
        ("b, a", ["b", "a"]),
        ("b2 b1\n", ["b2", "b1"]),
        ("gpu[08-10,12]", ["gpu08", "gpu09", "gpu10", "gpu12"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("n[1-5/2]", ["n1", "n3", "n5"]),
        ("n[1-2].example.org", ["n1.example.org", "n2.example.org"]),
        ("ada@node1:2222,fe80::1%eth0", ["ada@node1:2222", "fe80::1%eth0"]),
        ("node1,node1", ["node1", "node1"]),
        ("b[5-7,1-2],a7", ["b5", "b6", "b7", "b1", "b2", "a7"]),
        ("n[001-003]", ["n001", "n002", "n003"]),
        ("n[08-100/46]", ["n08", "n54", "n100"]),
        ("n[1-2,01-02]", ["n1", "n2", "n01", "n02"]),
        ("n[ 1 - 3 , 5 ]", ["n1", "n2", "n3", "n5"]),
        ("n0[9-10]", ["n09", "n010"]),
        ("rack[0-1]node[0-1]-ib", ["rack0node0-ib", "rack0node1-ib", "rack1node0-ib", "rack1node1-ib"]),
        ("[1-2][3-4]", ["13", "14", "23", "24"]),
        ("ada@n[1-2]:22,10.0.0.[8-9]", ["ada@n1:22", "ada@n2:22", "10.0.0.8", "10.0.0.9"]),
        ("", []),
    ],
)
def test_a_host_list_names_hosts_in_the_order_in_which_they_are_written(text: str, names: list[str]) -> None:
    assert expand(text) == NamedHosts(tuple(names))


@pytest.mark.parametrize(
    "text",
    [
        *("node[1-2", "node1-2]", "node[a-b]", "node[2-1]", "node[]", "['a', 'b']", "[::1]"),
        *("n[1-3/0]", "n[1/2]", "n[1-3/]", "n[1-]", "n[-1]", "n[1--3]", "n[1,]", "n[,]", "n[ ]", "n[1-010]", "n[1 2]"),
        *("n[1-1e9]", "n[0x1-0x9]", "n[1_0]", "n[+1]", "n[\u0661-\u0663]", f"n[{'0' * 5000}1]", f"n[1-{'9' * 5000}]"),
        *("n[1-3]]", "n[[1-3]]", "n[1-2[3-4]]", "n[1-9!2]", "n[1-9&2]", "n[1-9^2]", "n[*]", "n[@all]", "n[$(id)]"),
    ],
)
def test_brackets_that_hold_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^hostnames: .* cannot be read as a host list: ") as raised:
        expand(text)
    assert len(str(raised.value)) < 500


def by_argument(text: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(int, hostnames=text, workers_per_host=1, backend=None)


def by_toml(text: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "cluster.toml").write_text(f"hostnames = {json.dumps(text)}\nworkers_per_host = 1\nbackend = 'gloo'")
    Launcher.from_config(here / "cluster.toml").run(int)


def by_hostfile(text: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "hosts").write_text(text)
    launch(int, hostnames=here / "hosts", workers_per_host=1, backend=None)


def by_slurm(text: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", text)
    launch(int, workers_per_host=1, backend=None)


def by_slurm_of_a_launch_that_names_its_hosts(text: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", text)
    launch(int, hostnames=["localhost"], workers_per_host=1, backend=None, start="ssh")


@pytest.mark.parametrize(
    "text",
    [
        "@z';id>$CANARY;echo'[1-2]",
        "@z;id>$CANARY[1-2]",
        "a,@z$(id>$CANARY)[1-2]",
        "a[1-2],@z`id>$CANARY`[1-2],b",
        "@z:y';id>$CANARY;echo'[1-2]",
        "a!@z';id>$CANARY;echo'[1-2]",
        "n[1-2]&@z';id>$CANARY;echo'",
        "@*[1-2]",
        "n[1-2]@z';id>$CANARY;echo'[1-2]",
        "n[1-2';id>$CANARY;echo']",
        "a;id>$CANARY",
    ],
)
@pytest.mark.parametrize(
    "way", [by_argument, by_toml, by_hostfile, by_slurm, by_slurm_of_a_launch_that_names_its_hosts]
)
def test_no_shell_reads_a_host_list(
    way: Callable[[str, Path, pytest.MonkeyPatch], None], text: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = here / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    monkeypatch.setenv("TRX_LOG_DIR", "")
    with pytest.raises(ValueError, match=r"cannot be|names no host"):
        way(text, here, monkeypatch)
    assert not canary.exists()


@pytest.mark.parametrize("numbers", ["", "[1-2]"])
@pytest.mark.parametrize(
    "name",
    [
        *("@group", "@g:sub", "@*", "@@x", "@z';id>$F;echo'", "$(id)", "`id`", "a;id", "a|id", "a&id", "a>b", "a<b"),
        *("a!b", "a^b", "a&b", "*", "n?", "a*", "-oProxyCommand=evil", "ada@-x", "-n", "{}", "{0}", "a%(b)s", "a\\b"),
        *("a'b", 'a"b', "a#b", "a=b", "a\0", "a\x1b", "a\u200b", "~", "n" * 1025),
    ],
)
def test_what_is_no_name_of_a_host_is_refused_wherever_it_stands(name: str, numbers: str, here: Path) -> None:
    text = name + numbers
    for attempt in (
        lambda: expand(text),
        lambda: expand(f"a,{text},b"),
        lambda: Launcher(text, 1).planned_hosts(),
        lambda: Launcher([text], 1).planned_hosts(),
    ):
        with pytest.raises(ValueError, match="cannot be the name of a host") as raised:
            attempt()
        assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("n[1-65537]", "65537"),
        ("n[1-30000000]", "30000000"),
        ("n[00000001-30000000]", "30000000"),
        ("n[1-300000000/2]", "150000000"),
        ("a[1-999]b[1-999]", "998001"),
        ("a[1-9]b[1-9]c[1-9]d[1-9]e[1-9]f[1-9]", "531441"),
        ("a[1-40000],b[1-40000]", "80000"),
        ("a[1-40000,1-40000]", "80000"),
        ("a[1-65536] b", "65537"),
        ("n[0-999999999999999999]", "more than 10**18"),
        ("[0-9]" * 1024, "more than 10**18"),
        (",".join(f"n{number}" for number in range(65537)), "65537"),
    ],
)
def test_hosts_are_counted_before_their_names_are_made(text: str, count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_lists._Part, "names", lambda part: pytest.fail(f"{part} was expanded"))
    with pytest.raises(ValueError, match=re.escape(f" names {count} hosts, which may be at most 65536")) as raised:
        expand(text)
    assert str(raised.value).startswith(f"hostnames: {text[:120]!r}"[:-1])


def test_so_many_hosts_may_be_named() -> None:
    assert len(expand("a[1-256]b[001-255],c[1-256]").names) == 65536


@given(st.text(alphabet="ab1[]-,/ \n", max_size=20))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        names = expand(text).names
    except ValueError:
        return
    assert all(map(host_lists.is_name, names))


@given(st.text(max_size=30), st.sampled_from(["", "[1-2]"]))
def test_no_name_holds_anything_that_means_something_to_a_shell(text: str, numbers: str) -> None:
    try:
        names = expand(text + numbers).names
    except ValueError:
        return
    assert not any(set(name) & set("\\'\"`$;&|<>(){}*?!^#~= \t\r\n\0") or name.startswith(("-", "@")) for name in names)


@pytest.mark.parametrize(
    "name",
    [
        *("node1", "node-1.example.org", "n_1", "10.0.0.1", "ada@node1:2222", "ada.b+c@node1", "ada@realm@node1"),
        *("::1", "fe80::1%eth0", "[::1]", "[::1]:22", "ada@[fe80::1%eth0]:22", "ssh://ada@node1:22/", "bücher.example"),
    ],
)
def test_names_that_stay_names(name: str) -> None:
    assert [host.label for host in Launcher([name], 1).planned_hosts()] == [name]


@pytest.mark.parametrize("text", ["./hosts", "/etc/hosts", "a/b", "~/hosts", "n[1-2]/n"])
def test_no_host_has_a_slash(text: str) -> None:
    assert is_path(text)


@pytest.mark.parametrize("text", ["hosts", "hosts.txt", "n[1-9/2]", ""])
def test_what_has_no_slash_may_be_a_host(text: str) -> None:
    assert not is_path(text)


# ---- hostfiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names", "slots"),
    [
        ("node1 slots=8\nnode2 slots=4\n", ["node1", "node2"], [8, 4]),
        ("node1:8\nnode2:4", ["node1", "node2"], [8, 4]),
        ("node1 slots = 8 max_slots=16\nnode2 max-slots=4 slots=2", ["node1", "node2"], [8, 2]),
        ("# all\n\n  node2   slots=1 # slow\r\n\tnode1 slots=2", ["node2", "node1"], [1, 2]),
        ("node1 slots=2\nnode2 slots=1\nnode1:3", ["node1", "node2"], [5, 1]),
        ("node1\nnode1\nnode2", ["node1", "node2"], [2, 1]),
        ("node1\nnode2", ["node1", "node2"], None),
        ("node1 max_slots=8\nnode2", ["node1", "node2"], None),
        ("fe80::2\nada@node1", ["fe80::2", "ada@node1"], None),
    ],
)
def test_a_hostfile_names_hosts_and_their_slots(text: str, names: list[str], slots: list[int] | None) -> None:
    assert read_hostfile(text, "hosts") == NamedHosts(tuple(names), tuple(slots) if slots else None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "hosts names no host"),
        ("# nobody\n", "hosts names no host"),
        ("\nnode1 slots=many", "hosts, line 2: slots must be a number, not 'many'"),
        ("node1 slots=-1", "hosts, line 1: slots must be a number, not '-1'"),
        ("node1 slots=", "hosts, line 1: slots must be a number, not ''"),
        ("node1 slots=0", "hosts, line 1: node1 has no slots: leave its line out"),
        ("node1:0", "hosts, line 1: node1 has no slots"),
        (f"node1:{'9' * 5000}", "hosts, line 1: slots must be a number, not '999"),
        (f"node1 slots={'9' * 5000}", "hosts, line 1: slots must be a number, not '999"),
        ("node[1-3] slots=8", "hosts, line 1: 'node[1-3]' cannot be the name of a host"),
        ("node1 slots=8\n@z';id' slots=8", """hosts, line 2: "@z';id'" cannot be the name of a host"""),
        ("node1 8", "hosts, line 1: '8' is not understood; lines are like 'node1 slots=8' or 'node1:8'"),
        ("node1 gpus=8", "'gpus=8' is not understood"),
        ("node1:8 slots=8", "'slots=8' is not understood"),
        ("node1 slots=8\nnode2", "hosts, line 2: node2 has no slots, but other lines have"),
        ("node1\nnode1 slots=8", "hosts, line 1: node1 has no slots, but other lines have"),
    ],
)
def test_a_line_that_says_something_else_is_refused_with_its_number(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_hostfile(text, "hosts")


# ---- as a setting ---------------------------------------------------------------------------------------------------


def test_a_string_is_a_host_list() -> None:
    assert planned(Launcher("node[01-02],login", 4)) == [("node01", 4), ("node02", 4), ("login", 4)]
    assert planned(Launcher("node[1-2]", [1, "gpu"])) == [("node1", 1), ("node2", "gpu")]


def test_names_in_a_list_stand_for_themselves(here: Path) -> None:
    (here / "hosts").write_text("node1 slots=8")
    assert planned(Launcher(["hosts"], 1)) == [("hosts", 1)]


@pytest.mark.parametrize("name", ["hosts", "./hosts", "~/hosts", "/hosts"])
def test_a_string_that_names_a_file_is_a_hostfile(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "hosts").write_text("node1 slots=8\nnode2 slots=4")
    hostnames = str(here) + name if name[0] == "/" else name
    assert planned(Launcher(hostnames)) == [("node1", 8), ("node2", 4)]
    assert planned(Launcher(here / "hosts")) == [("node1", 8), ("node2", 4)]


def test_a_directory_is_no_hostfile_and_a_very_long_list_is_no_error(here: Path) -> None:
    (here / "node1").mkdir()
    assert planned(Launcher("node1", 1)) == [("node1", 1)]
    assert len(Launcher(",".join(f"node{number}" for number in range(5000)), 1).planned_hosts()) == 5000


def test_workers_per_host_goes_before_the_slots(here: Path) -> None:
    (here / "hosts").write_text("node1 slots=8\nnode2 slots=4")
    assert planned(Launcher("hosts", 2)) == [("node1", 2), ("node2", 2)]
    assert planned(Launcher("hosts", "gpu")) == [("node1", "gpu"), ("node2", "gpu")]
    assert planned(Launcher("hosts", [1, 2])) == [("node1", 1), ("node2", 2)]


def test_a_hostfile_without_slots_leaves_it_to_the_hosts(here: Path) -> None:
    (here / "hosts").write_text("node1\nnode2")
    assert planned(Launcher("hosts")) == [("node1", "auto"), ("node2", "auto")]


def test_auto_is_no_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    (here / "auto").write_text("node1")
    assert planned(Launcher("auto", 1)) == [("localhost", 1)]


@pytest.mark.parametrize(
    ("hostnames", "kind", "words"),
    [
        ("", ValueError, "hostnames is empty"),
        (" ,", ValueError, "hostnames is empty"),
        ("node[1", ValueError, "hostnames: 'node[1' cannot be read as a host list"),
        ("a,-oProxyCommand=evil", ValueError, "'-oProxyCommand=evil' cannot be the name of a host"),
        ("./hosts", FileNotFoundError, "hostnames: there is no file 'hosts'"),
        (Path("hosts"), FileNotFoundError, "hostnames: there is no file 'hosts'"),
        ("binary", ValueError, "hostnames: binary is not UTF-8"),
        ("option", ValueError, "'-oProxyCommand=evil' cannot be the name of a host"),
    ],
)
def test_hosts_that_cannot_be_read_are_refused(
    hostnames: str | Path, kind: type[Exception], words: str, here: Path
) -> None:
    (here / "binary").write_bytes(b"node\xff")
    (here / "option").write_text("-oProxyCommand=evil slots=1")
    with pytest.raises(kind) as raised:
        Launcher(hostnames)._check()
    assert words in str(raised.value)


def test_names_are_measured_before_they_are_made() -> None:
    text = "n" + "[100000000000000000]" * 1000 + "[1-65536]"
    with pytest.raises(ValueError, match="makes names of"):
        expand(text)
