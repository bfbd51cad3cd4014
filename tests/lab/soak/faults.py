"""The one fault of a plan: waits for its moment, brings it about, and ends it where it is to end by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

from ..harness import Host, Lab, Machine
from . import oracle, processes
from .oracle import Struck
from .plan import INTERRUPTING, KILLING, LOCALHOST, OF_WORKER, PERSISTENT, Fault, Plan, When
from .watching import Lines, Notes

_MEMBERS = {
    Fault.KILL_RUNNER: "runner",
    Fault.STOP_RUNNER: "runner",
    Fault.KILL_FORKSERVER: "forkserver",
    Fault.STOP_FORKSERVER: "forkserver",
    Fault.KILL_AGENT: "agent",
    Fault.STOP_AGENT: "agent",
    Fault.KILL_GUARDIAN: "guardian",
    Fault.STOP_GUARDIAN: "guardian",
}
_KILLS = {Fault.KILL_WORKER, Fault.KILL_RUNNER, Fault.KILL_FORKSERVER, Fault.KILL_AGENT, Fault.KILL_GUARDIAN}
_LATE_MS, _LOST_PERCENT = 50.0, 3.0


def machine_of(lab: Lab, hostname: str) -> Machine:
    return lab.launcher if hostname == LOCALHOST else lab[hostname]


class Striker:
    """`step` is to be called often, while the program runs.

    Attributes:
        struck: When it was; None before.
        problems: What the fault itself has brought to light.
    """

    def __init__(self, lab: Lab, plan: Plan, program: subprocess.Popen[str], notes: Notes, lines: Lines) -> None:
        self.struck: Struck | None = None
        self.problems: list[str] = []
        self._lab = lab
        self._plan = plan
        self._strike = plan.strike
        self._fault = plan.strike.fault
        self._program = program
        self._notes = notes
        self._lines = lines
        self._machine = machine_of(lab, plan.hosts[plan.strike.host])
        self._due: float | None = None
        self._lasting = False
        self._stopped: int | None = None

    def step(self) -> None:
        now = time.monotonic()
        if self._fault is Fault.NONE or self._program.poll() is not None:
            return
        if self._due is None and self._has_come():
            self._due = now + self._strike.delay
        if self._due is not None and self.struck is None and now >= self._due and self._bring_about():
            done = time.monotonic()
            self.struck = Struck(now, done, done)
            # A signal may be the end of the program at once; all that lasts is ended by `_end`.
            self._lasting = self._fault in (
                Fault.STOP_WORKER,
                Fault.BLACKOUT,
                Fault.SIGINT_TWICE,
                Fault.STOP_LAUNCHER,
            )
        if self._lasting and self.struck and self._is_to_end(now - self.struck.done):
            self._lasting = False
            self._end()
            self.struck = Struck(self.struck.begun, self.struck.done, time.monotonic())
        if self._fault is Fault.STOP_GUARDIAN and self._notes.find("closed"):
            self._go_on()  # nobody is above it on its host; on the launcher's, a thread waits for its end

    def heal(self) -> None:
        """Called between two runs."""
        if self.struck and self.struck.healed is None and self._fault in PERSISTENT and self._strike.healed:
            self._lab.heal()
            self.struck = Struck(self.struck.begun, self.struck.done, self.struck.over, time.monotonic())

    def clear(self) -> None:
        """Ends what is left of it, once the program is over and the isolated hosts were looked at."""
        self._go_on()
        self._lab.heal()

    @property
    def isolated(self) -> Host | None:
        """The host that runs, but cannot be reached now."""
        if self.struck and self.struck.healed is None and self._fault in PERSISTENT and isinstance(self._machine, Host):
            return self._machine if self._machine.pid is not None else None
        return None

    # ---- its moment -------------------------------------------------------------------------------------------------

    def _has_come(self) -> bool:
        strike = self._strike
        if strike.when is When.BEGINS:
            return self._notes.find("begins", strike.run) is not None
        if strike.when is When.ENDED:
            return self._notes.find("ended", strike.run) is not None
        if strike.when is When.CLOSES:
            return self._notes.find("closes") is not None
        if strike.when is When.LINE:
            return self._lines.printed(strike.run, strike.line_rank) >= strike.line
        hosts = dict.fromkeys(self._plan.hosts)
        return all(processes.find_family(machine_of(self._lab, host)) is not None for host in hosts)

    # ---- what it does -----------------------------------------------------------------------------------------------

    def _bring_about(self) -> bool:
        """Returns whether there was something that it could hit."""
        fault = self._fault
        if fault in OF_WORKER:
            return self._signal(self._worker())
        if fault in _MEMBERS:
            family = processes.find_family(self._machine)
            pid: int | None = getattr(family, _MEMBERS[fault], None)
            return self._signal(pid)
        if fault in KILLING | INTERRUPTING | {Fault.STOP_LAUNCHER}:
            numbers = {Fault.STOP_LAUNCHER: signal.SIGSTOP, Fault.SIGINT_TWICE: signal.SIGINT}
            self._program.send_signal(numbers.get(fault) or signal.Signals[fault.name])
            return True
        self._disturb()
        return True

    def _signal(self, pid: int | None) -> bool:
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL if self._fault in _KILLS else signal.SIGSTOP)
        except ProcessLookupError:
            return False
        if self._fault in (Fault.STOP_WORKER, Fault.STOP_GUARDIAN):
            self._stopped = pid
        return True

    def _worker(self) -> int | None:
        strike = self._strike
        inner = self._lines.pid(strike.run, strike.rank)
        return None if inner is None else processes.outer_pid(self._machine, inner)

    def _disturb(self) -> None:
        host = self._machine
        assert isinstance(host, Host)
        if self._fault is Fault.POWER_OFF:
            host.power_off()
        elif self._fault is Fault.LINK_DOWN:
            host.link_down()
        elif self._fault is Fault.LATENCY:
            host.delay(_LATE_MS, _LATE_MS / 5, _LOST_PERCENT)
        elif self._fault in (Fault.CUT_BOTH, Fault.BLACKOUT):
            host.cut()
        else:
            host.cut("in" if self._fault is Fault.CUT_IN else "out", extra="meta protocol { ip, ip6 }")

    # ---- its end ----------------------------------------------------------------------------------------------------

    def _is_to_end(self, age: float) -> bool:
        if self._fault is not Fault.STOP_LAUNCHER:
            return age >= self._strike.lasts
        # Whoever was greeted by the launcher ends by itself; the others wait longer for the first word.
        greeted = self._strike.when in (When.LINE, When.ENDED)
        if age < self._plan.lease + 1.0:
            return False
        left = [each for host in self._lab for each in processes.all_of(host)] if greeted else []
        patience = self._plan.lease + self._plan.grace + oracle.LEAVING + oracle.BUSY
        if left and age > patience:
            self.problems.append(f"the launcher is stopped for {age:.0f} s, and there is still {left}")
        return not left or age > patience

    def _end(self) -> None:
        if self._fault is Fault.BLACKOUT:
            self._lab.heal()
        elif self._fault is Fault.SIGINT_TWICE:
            self._program.send_signal(signal.SIGINT)
        elif self._fault is Fault.STOP_LAUNCHER:
            self._program.send_signal(signal.SIGCONT)
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._stopped is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._stopped, signal.SIGCONT)
            self._stopped = None
