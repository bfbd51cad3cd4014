"""How a worker ended: whether it failed, whose doing it was, and what is said about it. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from trx.plan import Worker
from trx_agent.protocol.messages import Ended, Ending, Exited, Killed, Raised, Returned

_SUDDEN = frozenset({signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker ended.

    Attributes:
        ended: What its agent said.
        stopped: Whether it was a signal of ours, after another failure, that ended it.
    """

    worker: Worker
    ended: Ended
    stopped: bool

    @property
    def failed(self) -> bool:
        return not self.stopped and not isinstance(self.ended.ending, Returned)


def is_sudden(ending: Ending) -> bool:
    """Whether it died of a signal that leaves no time for a word; runs are stopped by none of them at first."""
    return isinstance(ending, Killed) and ending.signal in _SUDDEN


def may_be_our_doing(ending: Ending) -> bool:
    """Whether this is how a worker ends that was told to."""
    match ending:
        case Killed(number):
            return number in (signal.SIGTERM, signal.SIGKILL)
        case Raised():
            return False
        case _:
            return True


def describe(end: WorkerEnd) -> str:
    """Says in one line who failed, where, and how."""
    worker, ended = end.worker, end.ended
    who = f"rank {worker.rank} (local rank {worker.local_rank} on {worker.host.label}, pid {ended.pid})"
    match ended.ending:
        case Raised(summary):
            how = f"raised {' '.join(summary.splitlines())}"  # one line, whatever the worker calls its exceptions
        case Killed(number, oom):
            how = f"was killed by {signal_name(number)}" + (", since the host is out of memory" if oom else "")
        case Exited(code):
            how = f"ended without a result, with exit status {code}"
        case _:
            how = "returned"
    return f"{who} {how}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
