"""Settings in TOML files, those of the examples among them."""

from __future__ import annotations

from pathlib import Path

import pytest

import trx
from trx import Launcher

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user with an SSH configuration file, and outside of any allocation."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    return tmp_path


def load(home: Path, text: str) -> Launcher:
    path = home / "cluster.toml"
    path.write_text(text, encoding="utf-8")
    return Launcher.from_config(path)


# ---- the examples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    launcher = Launcher.from_config(path)
    assert launcher.planned_hosts()
    assert Launcher.from_config(str(path)) == launcher


def test_there_are_examples() -> None:
    assert {"one_machine", "two_nodes", "slurm", "through_a_jump_host"} <= {path.stem for path in CONFIGS}


def test_the_slurm_example_takes_the_hosts_of_the_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(path for path in CONFIGS if path.stem == "slurm")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[08-10,12]")
    assert [host.label for host in Launcher.from_config(path).planned_hosts()] == ["gpu08", "gpu09", "gpu10", "gpu12"]


# ---- what a file may hold -------------------------------------------------------------------------------------------


def test_a_file_holds_the_fields_of_launcher(home: Path) -> None:
    launcher = load(
        home,
        """
        hostnames = ["node1", "fe80::2"]
        workers_per_host = [8, "gpu"]
        backend = "gloo"
        timeout = 12.5
        default_env_vars = ["A*"]
        python = "/venv/bin/python"
        cwd = "/data/ü"

        [extra_env_vars]
        OMP_NUM_THREADS = "4"
        """,
    )
    assert launcher == Launcher(
        ["node1", "fe80::2"],
        [8, "gpu"],
        backend="gloo",
        timeout=12.5,
        default_env_vars=["A*"],
        extra_env_vars={"OMP_NUM_THREADS": "4"},
        python="/venv/bin/python",
        cwd="/data/ü",
    )
    assert [(host.label, host.workers) for host in launcher.planned_hosts()] == [("node1", 8), ("fe80::2", "gpu")]


def test_what_a_file_leaves_out_has_its_default(home: Path) -> None:
    assert load(home, "") == Launcher()
    assert load(home, "").default_env_vars == trx.DEFAULT_ENV_VARS


def test_a_list_for_an_allocation_can_be_loaded_outside_of_it(home: Path) -> None:
    assert load(home, "workers_per_host = [8, 4]").workers_per_host == [8, 4]


def test_paths_of_files_are_relative_to_the_folder_of_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hosts", "variables.sh", "ssh_config"):
        (home / name).write_text("node1 slots=8")
    text = "hostnames = '{}hosts'\nenv_file = 'variables.sh'\nssh_config_file = 'ssh_config'"
    for there in ("", "./", "~/"):
        launcher = load(home, text.format(there))
        assert [(host.label, host.workers) for host in launcher.planned_hosts()] == [("node1", 8)]
        assert launcher.env_file == str(home / "variables.sh")
        assert launcher.ssh_config_file == str(home / "ssh_config")
    monkeypatch.chdir(home)
    assert Launcher.from_config("cluster.toml") == launcher


def test_a_host_list_in_a_file_is_no_path(home: Path) -> None:
    assert load(home, "hostnames = 'node[1-2]'\nworkers_per_host = 1").hostnames == "node[1-2]"


# ---- what it may not ------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(home: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.toml"):
        Launcher.from_config(home / "nothing.toml")


@pytest.mark.parametrize("text", ["hostnames = [", "= 3", "hostnames = ['a'] workers = 3", "a = 1\na = 2"])
def test_what_is_not_toml_is_refused_with_the_name_of_the_file(home: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"cluster\.toml: .* \(at "):
        load(home, text)


def test_a_file_that_is_not_text_is_refused(home: Path) -> None:
    (home / "cluster.toml").write_bytes(b"cwd = '\xff'")
    with pytest.raises(ValueError, match="utf-8"):
        Launcher.from_config(home / "cluster.toml")


@pytest.mark.parametrize("key", ["workers", "Hostnames", "_session", "_", "run"])
def test_a_setting_that_does_not_exist_is_refused_with_those_that_do(home: Path, key: str) -> None:
    with pytest.raises(ValueError, match=rf"cluster\.toml: there is no setting '{key}'; there are .*hostnames"):
        load(home, f"{key} = 3")


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("hostnames = []", ValueError, "hostnames is empty"),
        ("hostnames = 3", TypeError, "hostnames must be a list"),
        ("hostnames = './nothing'", FileNotFoundError, "hostnames: there is no file '/"),
        ("hostnames = ['a', 'b']\nworkers_per_host = [1]", ValueError, "names 1 hosts, but there are 2"),
        ("workers_per_host = [0]", ValueError, "at least 1"),
        ("backend = 'glue'", ValueError, "no backend 'glue'"),
        ("timeout = 0", ValueError, "timeout must be more than 0"),
        ("lease = inf", ValueError, "lease must be more than 0 seconds, and finite"),
        ("extra_env_vars = {A = 1}", TypeError, "extra_env_vars must map"),
        ("env_file = '/nowhere.sh'", FileNotFoundError, "env_file"),
        ("timeout = 2026-01-01", TypeError, "timeout must be a number of seconds"),
    ],
)
def test_bad_settings_are_refused_when_the_file_is_read(
    home: Path, text: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        load(home, text)
