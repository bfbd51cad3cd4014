"""Which entries of the launcher's sys.path go to the workers."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from trx.import_paths import import_paths


def test_what_belongs_to_the_interpreter_stays_with_it() -> None:
    ours = sysconfig.get_paths()
    dynamic = f"{ours['platstdlib']}/lib-dynload"
    archive = f"{sys.base_prefix}/lib/python{sys.version_info[0]}{sys.version_info[1]}.zip"
    assert import_paths([archive, ours["stdlib"], dynamic, ours["purelib"], ours["platlib"]]) == ()


def test_the_scripts_folder_comes_first_and_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert import_paths(["", "/on/pythonpath", "src"]) == (str(tmp_path), "/on/pythonpath", str(tmp_path / "src"))
