"""The launcher host: where tests run the program that starts everything else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from . import leaks
from .machine import Machine
from .shell import HARNESS, Keeper, LabError

_GRACE_AFTER_ABORT = 5.0


class Launcher(Machine):
    """The launcher: own network, name, /etc/hosts, /tmp and /dev/shm, but the PIDs of the real machine.

    So what `popen` returns is the command itself, and can be signalled.
    """

    _keeper: Keeper | None = None

    def spawn(self, env: Mapping[str, str]) -> None:
        """Starts it as far as to be plugged in."""
        argv = ["unshare", "--net", "--uts", "--ipc", "--mount", "--propagation", "private"]
        variables = {**env, "NAME": self.name, "DIR": str(self.directory), "HARNESS": str(HARNESS)}
        log = self.directory / "launcher.log"
        self._keeper = Keeper([*argv, "/bin/sh", str(HARNESS / "launcher.sh")], log, variables)

    def await_socket(self) -> int:
        """Waits until the cable can be plugged in, and returns a PID in the network namespace."""
        assert self._keeper is not None
        self._keeper.expect("ready")
        self.pid = self._keeper.pid
        return self.pid

    def start(self) -> None:
        """Brings the network up, once the cable is plugged in."""
        assert self._keeper is not None
        self._keeper.tell("go")
        self._keeper.expect("ready")
        self.await_carrier()
        self._switch.await_forwarding([self.index])
        self._begin()

    def stop(self) -> None:
        """Kills everything that runs there."""
        self._end_delayer()
        if self._keeper is not None:
            self._keeper.close()
        self._keeper = self.pid = None

    def pids(self) -> list[int]:
        return leaks.pids_sharing("mnt", self._required_pid())

    def kill_strays(self) -> None:
        """Kills every process there."""
        for pid in self._stray_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def script(
        self,
        path: Path,
        *args: str,
        python: str | Path = sys.executable,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a Python script to its end, whatever its status.

        Args:
            path: The script.
            *args: Its arguments.
            python: The interpreter.
            env: Variables added to a plain environment; nothing of the caller's gets there.
            cwd: Working directory; default: the script's own.
            timeout: Seconds. A script that needs longer has its stacks printed by faulthandler and is killed.

        Raises:
            LabError: It took too long; the message holds its output, and where it was.
        """
        argv = [python, "-X", "faulthandler", path, *args]
        process = self.popen(argv, env=env, cwd=cwd or path.parent, stderr=subprocess.PIPE)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            stdout, stderr = _abort(process)
            raise LabError(f"{path} not done in {timeout:g} s\n-- stdout\n{stdout}\n-- stderr\n{stderr}") from None
        return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)

    def _entrance(self) -> list[str]:
        return ["nsenter", "-t", str(self._required_pid()), "-m", "-u", "-i", "-n", "-r"]

    def _stray_pids(self) -> list[int]:
        return [pid for pid in self.pids() if pid != self.pid and pid not in self._own_pids]


def _abort(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Makes faulthandler print the stacks, and ends the process in any case."""
    process.send_signal(signal.SIGABRT)
    try:
        return process.communicate(timeout=_GRACE_AFTER_ABORT)
    except subprocess.TimeoutExpired as error:  # it ignores the signal, or a descendant holds its pipes
        process.kill()
        stdout, stderr = ((part or b"").decode(errors="replace") for part in (error.stdout, error.stderr))
        return stdout, stderr
