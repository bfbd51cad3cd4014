"""Every code block of the README and of the documentation's pages that need hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guide.page import Page, pages_that_run
from tests.guide.play import PYTHON_DIRECTORY, VARIABLES, play

from .harness import Lab, LabPool, Slurm, slurm_unavailable
from .harness.shell import PATH

pytestmark = pytest.mark.timeout(120)


class AtTheLauncher:
    """The lab's launcher, as a user's machine whose `~/.ssh/config` knows the hosts."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._launcher = lab.launcher
        home = directory / "home"
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh" / "config").write_text(lab.ssh_config.read_text())
        (home / "bin").mkdir()
        # OpenSSH's own asks /etc/passwd, not HOME, where its configuration is.
        ssh = home / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {lab.ssh_config} "$@"\n')
        ssh.chmod(0o755)
        path = os.pathsep.join([str(home / "bin"), PYTHON_DIRECTORY, PATH])
        self._variables = {**VARIABLES, "HOME": str(home), "PATH": path}

    def run(self, argv: list[str], directory: Path) -> tuple[int, str]:
        process = self._launcher.popen(argv, env=self._variables, cwd=directory)
        printed, _ = process.communicate(timeout=100)
        return process.returncode, printed


def play_at_the_launcher(page: Page, lab: Lab) -> None:
    own = lab.directory / "guide" / page.name
    directory = own / "work"  # which all hosts have
    directory.mkdir(parents=True)
    play(page, AtTheLauncher(lab, own), directory)
    assert lab.leftovers() == []


@pytest.mark.parametrize("page", pages_that_run("lab"), ids=lambda page: page.name)
def test_page(page: Page, lab: Lab) -> None:
    play_at_the_launcher(page, lab)


@pytest.fixture(scope="module")
def slurm_lab(lab_pool: LabPool) -> Iterator[Lab]:
    """Two hosts in a Slurm, whose login node the launcher is."""
    lab = lab_pool.get(2)
    with Slurm(lab):
        yield lab


@pytest.mark.timeout(240)
@pytest.mark.skipif(slurm_unavailable() is not None, reason=slurm_unavailable() or "")
@pytest.mark.parametrize("page", pages_that_run("slurm"), ids=lambda page: page.name)
def test_page_in_slurm(page: Page, slurm_lab: Lab) -> None:
    play_at_the_launcher(page, slurm_lab)
