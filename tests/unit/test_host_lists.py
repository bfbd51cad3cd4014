"""Hosts as people write them down: host lists, hostfiles, and which string is which."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trx import Launcher
from trx.host_lists import MOST_HOSTS, NamedHosts, expand, is_path, read_hostfile


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
        ("n[3,1-2]", ["n3", "n1", "n2"]),  # in this order, which is that of Slurm's counts
        ("n[1,1]", ["n1", "n1"]),
        ("n[01-3]", ["n01", "n02", "n03"]),
        ("ada@n[1-2]-ib:22", ["ada@n1-ib:22", "ada@n2-ib:22"]),
        ("", []),
    ],
)
def test_a_host_list_names_hosts_in_the_order_in_which_they_are_written(text: str, names: list[str]) -> None:
    assert expand(text) == NamedHosts(tuple(names))


@pytest.mark.parametrize("text", ["node[1-2", "node1-2]", "node[a-b]", "node[2-1]", "node[]", "['a', 'b']", "[::1]"])
def test_brackets_that_hold_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^hostnames: .* cannot be read as a host list: "):
        expand(text)


@pytest.mark.parametrize(
    "text",
    [
        "@z';id>$F;echo'[1-2]",
        "@group",
        "@*",
        "a[1-2]!b",
        "a&b[1-2]",
        "a^b",
        "n*",
        "n?[1-2]",
        "$(id)",
        "`id`[1-2]",
        "n[1-2];id",
        "n[1-2]|id",
        "n[$(id)]",
        "-oProxyCommand=id[1-2]",
        "a\x1b[1]",
        "{n[1-2]}",
    ],
)
def test_what_other_programs_would_interpret_is_no_name(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^hostnames: .* (cannot be the name of a host|cannot be read as a host list)"
    ):
        expand(text)
    with pytest.raises(ValueError, match=r"cannot be the name of a host"):
        Launcher([text])._check()


@pytest.mark.parametrize(
    "text",
    [
        "n[1-30000000]",
        "n[1-999999999999999999]",
        f"n[1-{'9' * 5000}]",
        f"n[{'0' * 100_000}1-2]",
        "r[1-999]n[1-999]",
        "a[1-9]b[1-9]c[1-9]d[1-9]e[1-9]f[1-9]",
        "a[1-60000],b[1-60000]",
        f"n[{','.join(['1-60000'] * 2)}]",
        ",".join(["n"] * (MOST_HOSTS + 1)),
    ],
)
def test_a_list_is_counted_before_it_is_expanded(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^hostnames: ") as raised:
            expand(text)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert len(str(raised.value)) < 2000


def test_as_many_hosts_as_may_be() -> None:
    assert len(expand(f"n[1-{MOST_HOSTS}]").names) == MOST_HOSTS
    with pytest.raises(ValueError, match="more than"):
        Launcher(["n"] * (MOST_HOSTS + 1))._check()


@pytest.mark.parametrize("text", [",", " ", "\n"])
def test_a_list_of_nothing_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="hostnames is empty"):
        Launcher(text)._check()


def test_no_host_list_runs_a_program(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the API, a file of settings, and Slurm's variable."""
    canary = here / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    text = "@z';id>$CANARY;echo'[1-2]"
    (here / "settings.toml").write_text(f'hostnames = "{text}"\nworkers_per_host = 1\n')
    with pytest.raises(ValueError, match="cannot be"):
        Launcher(text).planned_hosts()
    with pytest.raises(ValueError, match="cannot be"):
        Launcher.from_config(here / "settings.toml")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", text)
    with pytest.raises(ValueError, match=r"^SLURM_JOB_NODELIST: "):
        Launcher().planned_hosts()
    assert not canary.exists()


@pytest.mark.parametrize("line", ["a;id", "$(id) slots=2", "@all", "n[1-2]'"])
def test_names_of_a_hostfile_are_checked(line: str) -> None:
    with pytest.raises(ValueError, match=r"^hosts: .* cannot be the name of a host"):
        read_hostfile(line, "hosts")


@given(st.text(alphabet="ab1[]-,/ \n", max_size=20))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        names = expand(text).names
    except ValueError:
        return
    assert not any("[" in name or "]" in name or "," in name for name in names)


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
