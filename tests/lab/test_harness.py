"""Tests of the lab itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import CommandFailed, HostOptions, Lab, LabError, Leftover, lab_unavailable, wait_until
from .traffic import listen, reaches, ssh

HARNESS = Path(__file__).parent / "harness"
MakeLab = Callable[..., Lab]

HANG = """
import threading
def wait_for_ever():
    threading.Event().wait()
print("before", flush=True)
wait_for_ever()
"""


# -- hosts and names --------------------------------------------------------------------------------------------------


def test_ssh_reaches_every_host_by_its_name(lab: Lab) -> None:
    assert lab.names == ["node1", "node2", "node3", "node4"]
    assert [ssh(lab, name, "hostname").stdout.strip() for name in lab.names] == lab.names


def test_launcher_is_a_machine_of_its_own(lab: Lab) -> None:
    assert lab.sh(["hostname"]).stdout == "launcher\n"
    assert lab.sh(["getent", "hosts", "node2"]).stdout.split() == ["10.77.0.2", "node2"]
    links = json.loads(lab.sh(["ip", "-json", "link"]).stdout)
    assert {link["ifname"] for link in links} == {"lo", "eth0"}


def test_hosts_reach_each_other_by_both_families(lab: Lab) -> None:
    listen(lab["node1"])
    assert reaches(lab["node2"], "10.77.0.1")
    assert reaches(lab["node2"], "fd77::1")
    assert reaches(lab.launcher, "fd77::1")


def test_names_may_resolve_to_ipv6(make_lab: MakeLab) -> None:
    lab = make_lab(2, family="ipv6")
    assert lab["node1"].run(["getent", "hosts", "node2"]).stdout.split() == ["fd77::2", "node2"]
    assert ssh(lab, "node2", "echo $SSH_CONNECTION").stdout.split()[2] == "fd77::2"


def test_own_name_may_be_loopback(make_lab: MakeLab) -> None:
    lab = make_lab(2, options={"node2": HostOptions(own_name_is_loopback=True)})
    assert lab["node2"].run(["getent", "hosts", "node2"]).stdout.split()[0] == "127.0.1.1"
    assert lab["node1"].run(["getent", "hosts", "node2"]).stdout.split()[0] == "10.77.0.2"
    assert lab["node1"].run(["getent", "hosts", "node1"]).stdout.split()[0] == "10.77.0.1"


def test_host_keys_may_be_changed_or_unknown(make_lab: MakeLab) -> None:
    lab = make_lab(2, options={"node1": HostOptions(host_key="changed"), "node2": HostOptions(host_key="unknown")})
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in ssh(lab, "node1", "true").stderr
    assert "No ED25519 host key is known" in ssh(lab, "node2", "true").stderr


def test_sshd_takes_further_lines(make_lab: MakeLab) -> None:
    lab = make_lab(2, options={"node1": HostOptions(sshd_lines=("ForceCommand echo forced",))})
    assert ssh(lab, "node1", "hostname").stdout == "forced\n"
    assert ssh(lab, "node2", "hostname").stdout == "node2\n"


def test_shell_start_up_may_print(make_lab: MakeLab) -> None:
    lab = make_lab(2, options={"node1": HostOptions(bashrc="echo noise\n")})
    assert ssh(lab, "node1", "hostname").stdout == "noise\nnode1\n"
    assert ssh(lab, "node2", "hostname").stdout == "node2\n"


def test_unusable_sshd_is_an_error() -> None:
    options = {"node1": HostOptions(sshd_lines=("NoSuchKeyword yes",))}
    with pytest.raises(LabError, match="NoSuchKeyword"), Lab(1, options=options):
        pass


def test_options_for_unknown_hosts_are_an_error() -> None:
    with pytest.raises(ValueError, match="node3"), Lab(2, options={"node3": HostOptions()}):
        pass


def test_jump_host(lab: Lab) -> None:
    config = lab.write_ssh_config(f"Host inner\n  HostName {lab['node3'].ip}\n  ProxyJump node1\n")
    lab["node3"].cut(peer=lab.launcher)
    assert ssh(lab, "inner", "hostname", config).stdout == "node3\n"
    assert ssh(lab, "node2", "hostname", config).stdout == "node2\n"
    assert "inner" not in lab.ssh_config.read_text()


def test_more_hosts_than_neighbour_tables_like() -> None:
    with Lab(18) as lab:
        assert "PERMANENT" in lab["node18"].run(["ip", "neigh", "show", "to", "10.77.0.1"]).stdout
        assert ssh(lab, "node17", "hostname").stdout == "node17\n"


# -- file systems -----------------------------------------------------------------------------------------------------


def test_temporary_directories_and_shared_memory_are_private(lab: Lab) -> None:
    for directory in ("/tmp", "/dev/shm"):
        lab["node1"].run(["touch", f"{directory}/mine"])
        for machine in (lab["node2"], lab.launcher):
            assert machine.run(["test", "-e", f"{directory}/mine"], check=False).returncode == 1
        assert not Path(directory, "mine").exists()


def test_shared_files_are_seen_by_all(lab: Lab, tmp_path: Path) -> None:
    lab.sh(["touch", tmp_path / "here"])
    assert (tmp_path / "here").exists()
    assert lab["node1"].run(["ls", tmp_path]).stdout == "here\n"


def test_copied_hosts_have_the_interpreter_and_the_checkout(cow_lab: Lab) -> None:
    result = cow_lab["node1"].run([sys.executable, "-c", "import pytest; print(pytest.__version__)"])
    assert result.stdout.strip() == pytest.__version__
    assert cow_lab["node1"].run(["cat", __file__]).stdout == Path(__file__).read_text()


@pytest.mark.parametrize("directory", [Path(__file__).parent, Path("/root"), Path("/var/tmp"), Path("/tmp")], ids=str)
def test_copied_hosts_do_not_see_new_files_of_the_launcher(cow_lab: Lab, directory: Path) -> None:
    path = directory / f"{cow_lab.id}.txt"
    cow_lab.sh(["touch", path])
    assert cow_lab.sh(["test", "-e", path], check=False).returncode == 0
    assert cow_lab["node1"].run(["test", "-e", path], check=False).returncode == 1
    assert not path.exists()


def test_copied_hosts_see_neither_scripts_nor_exchanged_files(cow_lab: Lab, tmp_path: Path) -> None:
    script = cow_lab.script_file("print('hello')")
    cow_lab.sh(["touch", tmp_path / "here"])
    assert (tmp_path / "here").exists()
    assert cow_lab.script(script).stdout == "hello\n"
    for path in (script, tmp_path / "here"):
        assert cow_lab["node1"].run(["test", "-e", path], check=False).returncode == 1


def test_kept_directories_are_copied(make_lab: MakeLab, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = tmp_path_factory.mktemp("kept")
    (kept / "before").touch()
    lab = make_lab(2, fs="cow", keep=[kept])
    lab["node1"].run(["touch", kept / "on-node1"])
    assert lab["node1"].run(["ls", kept]).stdout == "before\non-node1\n"
    assert lab["node2"].run(["ls", kept]).stdout == "before\n"
    assert os.listdir(kept) == ["before"]


def test_checkout_on_a_file_system_of_its_own(tmp_path: Path) -> None:
    source = (
        "import harness; lab = harness.Lab(1, fs='cow').__enter__(); print(lab['node1'].run(['ls', '-R', '.'], cwd="
    )
    script = tmp_path / "script.py"
    script.write_text(f"{source}{str(tmp_path / 'mount/tests')!r}).stdout); lab.__exit__(None, None, None)")
    mount = tmp_path / "mount"
    mount.mkdir()
    command = 'mount -t tmpfs own "$1" && mkdir -p "$1/tests/lab" && cp -r "$2" "$1/tests/lab/" && exec "$3" "$4"'
    words = [str(mount), str(HARNESS), sys.executable, str(script)]
    result = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", command, "sh", *words],
        env={**os.environ, "PYTHONPATH": str(mount / "tests/lab")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "root.sh" in result.stdout, result.stderr


# -- scripts ----------------------------------------------------------------------------------------------------------


def test_script_result(lab: Lab, tmp_path: Path) -> None:
    source = "import os, sys; print(os.getcwd(), *sys.argv[1:], os.environ['GREETING']); print('oh', file=sys.stderr)"
    result = lab.script(f"{source}; sys.exit(3)", "a", "b", env={"GREETING": "hello"}, cwd=tmp_path)
    assert (result.stdout, result.stderr, result.returncode) == (f"{tmp_path} a b hello\n", "oh\n", 3)


def test_script_sees_a_plain_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKED", "yes")
    assert lab.script("import os; print(os.environ.get('LEAKED'), os.environ['HOME'])").stdout == "None /root\n"


def test_popen_at_the_launcher_returns_the_command_itself(lab: Lab) -> None:
    process = lab.popen([sys.executable, "-c", "import os; print(os.getpid(), flush=True); os.kill(os.getpid(), 9)"])
    assert process.communicate()[0] == f"{process.pid}\n"
    assert process.returncode == -signal.SIGKILL


def test_script_that_hangs_tells_where(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"(?s)before.*in wait_for_ever"):
        lab.script(HANG, timeout=1)


def test_failed_command_tells_its_output(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match="No such file"):
        lab["node1"].run(["ls", "/nowhere"])


# -- what is left behind ----------------------------------------------------------------------------------------------


def kinds(leftovers: list[Leftover]) -> list[str]:
    return sorted({leftover.kind for leftover in leftovers})


def test_idle_lab_is_clean_also_just_after_ssh(lab: Lab) -> None:
    for name in lab.names:
        ssh(lab, name, "true")
    assert lab.leftovers() == []


def test_leftovers_on_a_host(lab: Lab) -> None:
    host = lab["node2"]
    ssh(lab, "node2", "touch /tmp/early; setsid sleep 1000 > /dev/null 2>&1 < /dev/null &")
    host.snapshot()
    host.run(["touch", "/tmp/late", "/dev/shm/segment"])
    listen(host, 5004)
    found = lab.leftovers(within=0.2)
    assert {leftover.where for leftover in found} == {"node2"}
    assert [leftover.what for leftover in found if leftover.kind == "port"] == ["5004"]
    assert [leftover.what for leftover in found if leftover.kind == "file"] == ["/dev/shm/segment", "/tmp/late"]
    processes = [leftover.what for leftover in found if leftover.kind == "process"]
    assert any("sleep 1000" in process for process in processes)


def test_leftovers_of_the_launcher(lab: Lab) -> None:
    listen(lab.launcher, 5005)
    lab.sh(["touch", "/dev/shm/segment"])
    found = lab.leftovers(within=0.2)
    assert {leftover.where for leftover in found} == {"launcher"}
    assert kinds(found) == ["file", "port", "process"]


def test_zombies_count_as_gone(lab: Lab) -> None:
    source = "import os, sys\nif os.fork() == 0: os._exit(0)\nos.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)"
    parent = lab["node1"].popen([sys.executable, "-c", f"{source}\nprint('z', flush=True); sys.stdin.read()"], stdin=-1)
    assert parent.stdout is not None
    parent.stdout.readline()
    assert len(lab["node1"].leftovers(0)) == 1


def test_cookie_finds_processes_anywhere(lab: Lab) -> None:
    cookie = f"COOKIE={lab.id}"
    stray = subprocess.Popen(["sleep", "1000"], env={"COOKIE": lab.id})
    assert kinds(lab.leftovers(cookie)) == ["process"]
    stray.kill()
    assert lab.leftovers(cookie) == []  # a zombie
    stray.wait()


def test_reset_removes_what_a_test_left(lab: Lab) -> None:
    ssh(lab, "node1", "setsid sleep 1000 > /dev/null 2>&1 < /dev/null &")
    lab.sh(["/bin/sh", "-c", "setsid sleep 1000 > /dev/null 2>&1 < /dev/null &"])
    lab["node2"].run(["touch", "/tmp/file"])
    listen(lab["node3"])
    lab.reset()
    assert lab.leftovers(within=0) == []


# -- the lab leaves nothing behind either -----------------------------------------------------------------------------

VICTIM = """
import harness, os, signal
with harness.Lab(2) as lab:
    machines = [lab.launcher, *lab]
    sleepers = [machine.popen(["sleep", "1000"]) for machine in machines]
    harness.wait_until(lambda: all(len(machine.leftovers(0)) == 1 for machine in machines), 10, "all sleep")
    lab["node1"].delay(1)
    lab["node2"].freeze()
    print(lab.directory, *(pid for machine in machines for pid in machine.pids()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def start_victim() -> tuple[Path, list[int]]:
    environment = {**os.environ, "PYTHONPATH": str(HARNESS.parent)}
    result = subprocess.run(
        [sys.executable, "-c", VICTIM], env=environment, stdout=-1, text=True, timeout=60, check=False
    )
    assert result.returncode == -signal.SIGKILL
    directory, *pids = result.stdout.split()
    return Path(directory), [int(pid) for pid in pids]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_everything_dies_with_a_killed_python() -> None:
    directory, pids = start_victim()
    assert len(pids) >= 10
    wait_until(lambda: not any(map(is_alive, pids)), 10, "all processes of the lab are gone")
    with Lab(1):
        assert not directory.exists()
    # `os.walk` does not mind that other labs remove theirs meanwhile.
    groups = [Path(folder).name for folder, _, _ in os.walk("/sys/fs/cgroup")]
    assert not [name for name in groups if name.startswith(f"{directory.name}.")]


def test_labs_side_by_side_do_not_collide() -> None:
    with Lab(2) as one, Lab(2) as other:
        listen(one["node1"])
        assert reaches(one["node2"], one["node1"])
        assert not reaches(other["node2"], other["node1"])
        other["node1"].cut()
        assert reaches(one["node2"], one["node1"])
    assert not one.directory.exists()


def test_real_machine_is_untouched(lab: Lab) -> None:
    links = {link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-json", "link"]))}
    assert not {"br0", "v1", "v254"} & links
    assert "table bridge lab" not in subprocess.check_output(["nft", "list", "tables"], text=True)
    assert f"{lab.id}" not in Path("/proc/self/mountinfo").read_text()


def test_lack_of_tools_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{lab_unavailable.__module__}.find_tool", lambda name: None if name == "nft" else name)
    reason = lab_unavailable.__wrapped__()
    assert reason == "the lab needs programs that are not installed: nft"


def test_lack_of_root_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert lab_unavailable.__wrapped__() == "the lab needs root"


def test_wait_until_gives_up_in_time() -> None:
    with pytest.raises(TimeoutError, match=r"not within 0.05 s: the moon"):
        wait_until(lambda: False, 0.05, "the moon")


def test_ssh_does_not_write_to_the_home_directory(lab: Lab) -> None:
    known = Path("/root/.ssh/known_hosts")
    before = known.read_bytes() if known.exists() else None
    ssh(lab, "node1", "true")
    assert (known.read_bytes() if known.exists() else None) == before
