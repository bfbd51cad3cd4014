"""One plan is played: a lab, the program at its launcher, the fault, and what the oracle says about it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..harness import Lab, Leftover, wait_until
from ..harness.leaks import describe, pids_with
from . import oracle, processes
from .faults import Striker, machine_of
from .oracle import Note
from .plan import INTERRUPTING, KILLING, Fault, Plan
from .watching import Lines, Notes, Output, told

_PROGRAM = Path(__file__).with_name("program.py")
_CHECKOUT = Path(__file__).parents[3]
_LONGEST_REASON = 100
_GOING = 2.0
"""Seconds in which what a run left goes from the tables of processes, after the run was reported as over."""


@dataclass
class Report:
    """What became of a plan. It is good where there are no problems."""

    plan: Plan
    seconds: float = 0.0
    ends: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    story: str = ""

    def __str__(self) -> str:
        head = f"seed {self.plan.seed}: {'FAILED' if self.problems else 'ok'} in {self.seconds:.1f} s: {self.plan}"
        lines = [head, "    → " + ("; ".join(self.ends) or "nothing was reported")]
        if self.problems:
            lines += [f"    problem: {problem}" for problem in self.problems]
            lines += [f"    {self.plan!r}", self.story]
        return "\n".join(lines)


def play(plan: Plan) -> Report:
    """Plays a plan in a lab of its own."""
    report = Report(plan)
    begun = time.monotonic()
    with Lab(max(1, plan.nodes), fs="shared" if plan.shared else "cow") as lab:
        scene = _Scene(lab, plan, report)
        try:
            scene.play()
        finally:
            scene.end()
    report.seconds = time.monotonic() - begun
    return report


class _Scene:
    def __init__(self, lab: Lab, plan: Plan, report: Report) -> None:
        self._lab = lab
        self._plan = plan
        self._report = report
        self._zero = time.monotonic()
        self._notes = Notes(lab.directory / "notes")
        self._lines = Lines(lab.directory / "logs")
        self._program = self._start()
        self._output = Output(self._program)
        self._striker = Striker(lab, plan, self._program, self._notes, self._lines)
        self._cookies: set[str] = set()
        self._felt = False

    def _start(self) -> subprocess.Popen[str]:
        plan, directory = self._plan, self._lab.directory
        settings = {
            "hostnames": plan.hosts,
            "workers_per_host": plan.workers,
            "ssh_config_file": str(self._lab.ssh_config),
            "backend": plan.backend,
            "timeout": 120,
            "lease": plan.lease,
            "grace_period": plan.grace,
            "start_timeout": plan.start_timeout,
            "cwd": "/",
        }
        deeds = [deed.as_json() for deed in plan.deeds]
        config = {"settings": settings, "open": plan.is_open, "deeds": deeds, "notes": str(directory / "notes")}
        (directory / "config").write_text(json.dumps(config))
        words = [sys.executable, "-X", "faulthandler", str(_PROGRAM), str(directory / "config")]
        # The code beside this file, wherever the environment's own installation comes from.
        environment = {"TRX_LOG_DIR": str(directory / "logs"), "PYTHONPATH": f"{_CHECKOUT}:{_CHECKOUT}/agent"}
        return self._lab.launcher.popen(words, env=environment, cwd="/")

    # ---- while it runs ----------------------------------------------------------------------------------------------

    def play(self) -> None:
        try:
            wait_until(self._step, 600.0, "the program ends")
        except TimeoutError:
            self._problem("the program did not end")
        self._step()
        self._look_at_the_end()

    def _step(self) -> bool:
        """Returns whether the program is over."""
        over = self._program.poll() is not None
        self._lines.read()
        new = self._notes.read()
        self._striker.step()  # before the next run may begin
        for note in new:
            if note["what"] == "ended":
                self._run_ended(note)
        if not over and time.monotonic() > self._deadline():
            self._problem(f"it should have ended {time.monotonic() - self._deadline():.1f} s ago")
            self._abort()
            over = True
        return over

    def _deadline(self) -> float:
        struck, notes = self._striker.struck, self._notes.all
        last: Note = notes[-1] if notes else {"what": "starts", "at": self._zero + oracle.START}
        if last["what"] == "begins":
            by = oracle.run_ends_by(self._plan, last["run"], last["at"], struck)
        else:
            by = oracle.program_ends_by(self._plan, last["at"], struck)
        stopped = self._plan.strike.fault is Fault.STOP_LAUNCHER and struck is not None and struck.over == struck.done
        return by + (self._plan.lease + oracle.SETTLE + oracle.BUSY if stopped else 0.0)

    def _abort(self) -> None:
        self._program.send_signal(signal.SIGABRT)  # faulthandler tells where it was
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(5.0)
        self._program.kill()

    def _run_ended(self, ended: Note) -> None:
        run, struck = ended["run"], self._striker.struck
        begins = self._notes.find("begins", run)
        assert begins is not None
        legal = oracle.legal_results(self._plan, run, begins["at"], ended["at"], struck, self._felt)
        took = f"run {run}: {_outcome(ended)} after {ended['at'] - begins['at']:.1f} s"
        if struck and begins["at"] <= struck.begun <= ended["at"]:
            took += f", {ended['at'] - struck.begun:.1f} s after the fault"
        self._report.ends.append(took)
        if not any(oracle.fits(self._plan, ended, each) for each in legal):
            self._problem(f"run {run} may not end so; legal: {', '.join(map(str, legal)) or 'nothing'}")
        late = ended["at"] - oracle.run_ends_by(self._plan, run, begins["at"], struck)
        if struck and oracle.is_effect(self._plan, ended):
            late = max(late, ended["at"] - oracle.effect_by(self._plan, begins["at"], struck))
        if late > 0:
            self._problem(f"run {run} ended {late:.1f} s too late")
        if struck and ended["at"] >= struck.begun:
            self._felt = self._felt or oracle.is_effect(self._plan, ended)
        self._look_between_runs(ended)
        if run + 1 < len(self._plan.deeds):  # else the isolated host is looked at first
            self._striker.heal()
        (self._lab.directory / f"notes.{run + 1}").touch()

    def _look_between_runs(self, ended: Note) -> None:
        """A run that is over has left nothing but agents and forkservers."""
        struck = self._striker.struck
        for index, hostname in enumerate(self._plan.hosts):
            machine = machine_of(self._lab, hostname)
            hit = struck is not None and self._plan.strike.host == index and ended["at"] >= struck.begun
            if machine.pid is None or hit or _lost(ended, hostname):
                continue
            if family := processes.find_family(machine):
                self._cookies.add(family.cookie)
            if left := _what_stays(partial(processes.of_runs, machine), _GOING):
                self._problem(f"run {ended['run']} is over, but on {hostname} there is {left}")

    # ---- once it is over --------------------------------------------------------------------------------------------

    def _look_at_the_end(self) -> None:
        plan, struck = self._plan, self._striker.struck
        self._report.problems += self._striker.problems
        ended_at = time.monotonic()
        status = self._program.poll()
        legal = oracle.legal_statuses(plan, struck)
        if status not in legal:
            self._problem(f"the program ended with status {status}; legal: {sorted(legal)}")
        self._look_at_the_notes(status)
        clean_by = oracle.hosts_clean_by(plan, struck, ended_at)
        host = self._striker.isolated
        if host and (left := _what_stays(partial(processes.all_of, host), clean_by - ended_at)):
            self._problem(f"{host.name}, which was cut off, still runs {left}")
        self._striker.clear()
        patience = max(oracle.BUSY, clean_by - time.monotonic())
        if host and struck:  # its sshd sends again after pauses that are as long as the cut was
            patience = max(patience, time.monotonic() - struck.begun + oracle.BUSY)
        for leftover in self._leftovers(patience):
            self._problem(f"left on {leftover.where}: {leftover.kind} {leftover.what}")

    def _look_at_the_notes(self, status: int | None) -> None:
        fault = self._plan.strike.fault if self._striker.struck else Fault.NONE
        if status != 0:
            self._report.ends.append(f"the program ended with status {status}")
        elif fault not in INTERRUPTING:
            for run in range(len(self._plan.deeds)):
                if self._notes.find("ended", run) is None:
                    self._problem(f"run {run} was not reported")
        if self._notes.find("interrupted") and fault not in INTERRUPTING:
            self._problem("a KeyboardInterrupt from nowhere")
        done = self._notes.find("done")
        if done and done["threads"] and fault is not Fault.SIGINT_TWICE:
            self._problem(f"threads are left at the launcher: {done['threads']}")
        if done is None and fault not in KILLING | INTERRUPTING:
            self._problem("the program did not come to its end")

    def _leftovers(self, within: float) -> list[Leftover]:
        found = self._lab.leftovers(within=within)
        strays = [pid for cookie in self._cookies for pid in pids_with(cookie)]
        return found + [Leftover("anywhere", "process", describe(pid)) for pid in strays]

    def end(self) -> None:
        """Ends the program in any case, and keeps the story where there is a problem."""
        if self._program.poll() is None:
            self._program.kill()
            self._program.wait()
        if not self._report.problems and sys.exc_info()[0] is None:
            return
        struck = self._striker.struck
        when = f"struck at {struck.begun - self._zero:.2f}, {struck}" if struck else "not struck"
        facts = [f"zero is {self._zero:.2f}; {when}", *told(self._notes.all, self._zero), "-- the launcher's output"]
        logs = [
            f"-- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted((self._lab.directory / "logs").glob("*/*"))
            if "[" not in path.name
        ]
        self._report.story = "\n".join([*facts, self._output.text(), *logs])

    def _problem(self, text: str) -> None:
        self._report.problems.append(text)


def _lost(ended: Note, hostname: str) -> bool:
    return ended["kind"] == "AgentFailedError" and hostname in ended["hosts"]


def _what_stays(look: Callable[[], list[str]], within: float) -> list[str]:
    """What is still there after some time; nothing as soon as it is gone: the next moment may bring something else."""
    left: list[str] = []

    def is_gone() -> bool:
        left[:] = look()
        return not left

    with contextlib.suppress(TimeoutError):
        wait_until(is_gone, within, "it is gone")
    return left


def _outcome(ended: Note) -> str:
    if ended["kind"] == "values":
        return "values"
    if ended["kind"] == "AgentFailedError":
        first = ended["text"].split("\n")[1 if len(ended["hosts"]) > 1 else 0]
        return f"AgentFailedError({', '.join(ended['hosts'])}: {first[:_LONGEST_REASON]})"
    if ended["rank"] is None:
        return str(ended["kind"])
    how = ""
    if ended["signal"] is not None:
        how = f", signal {ended['signal']}"
    elif ended["exitcode"] is not None:
        how = f", exit {ended['exitcode']}"
    return f"{ended['kind']}(rank {ended['rank']}{how})"
