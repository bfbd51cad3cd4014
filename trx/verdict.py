"""From a run that is over to what the user gets: the values, or an exception."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from traceback import format_exception
from typing import Any

from trx.errors import AgentFailedError, HostFailure, WorkerFailedError, WorkerFailure, worker_failed
from trx.job import State
from trx.output import Source
from trx.output.escapes import plain
from trx.plan import Worker
from trx.present_run import RunReport
from trx.results import LaunchResult
from trx.worker_end import WorkerEnd, describe
from trx_agent.protocol import outcome, payload
from trx_agent.protocol.messages import Exited, Killed, Returned

_logger = logging.getLogger("trx")

LogPath = Callable[[Source], str]
"""Where the log of a worker is; "" where there is none."""


def judge(report: RunReport, log_path: LogPath) -> LaunchResult[Any]:
    """Returns the values of a run that succeeded.

    Raises:
        WorkerFailedError: Where a worker failed, or its value cannot be loaded here.
        AgentFailedError: Where hosts could not be used, or were lost.
        KeyboardInterrupt: Where the user interrupted the run.
    """
    job = report.job
    if job.leftovers:
        _logger.warning("these processes could not be ended, not even by SIGKILL: %s", plain("; ".join(job.leftovers)))
    if job.interrupted:
        raise KeyboardInterrupt
    if job.state is State.DONE:
        return _result(report, log_path)
    if isinstance(job.blame, WorkerEnd):
        raise _worker_error(report, job.failures(), log_path)
    raise _agent_error(job.blame, job.host_failures)


def _result(report: RunReport, log_path: LogPath) -> LaunchResult[Any]:
    ends = sorted(report.job.worker_ends, key=lambda end: end.worker.rank)
    values, failures = _load(report, ends, log_path)
    if failures:
        raise WorkerFailedError(tuple(failures), values)
    hostnames = tuple(end.worker.host.hostname for end in ends)
    return LaunchResult(tuple(values.values()), hostnames, report.timeline)


def _load(
    report: RunReport, ends: Sequence[WorkerEnd], log_path: LogPath
) -> tuple[dict[int, Any], list[WorkerFailure]]:
    """The values that have arrived and can be loaded here, by rank; and of the others, why not."""
    values, failures = {}, []
    for end in ends:
        worker, ended = end.worker, end.ended
        reason = report.outcomes.refused.get(worker.rank)
        traceback = ""
        if arrived := report.outcomes.values.get(worker.rank):
            try:
                values[worker.rank] = arrived.result()
            except Exception as error:
                reason = f"it cannot be loaded here: {type(error).__name__}: {error}"
                traceback = "".join(format_exception(error))
        if reason:
            where = f"rank {worker.rank} (local rank {worker.local_rank} on {worker.host.label}, pid {ended.pid})"
            failures.append(_failure(end, f"{where} returned a value, but {reason}", traceback, log_path))
    return values, failures


def _worker_error(report: RunReport, ends: Sequence[WorkerEnd], log_path: LogPath) -> WorkerFailedError:
    failures = []
    for end in ends:
        words = report.outcomes.errors.get(end.worker.rank)
        traceback = ""
        if words:
            with contextlib.suppress(ValueError):  # the worker's process can write there what it likes
                traceback = outcome.unframe(words)[0].traceback
        failures.append(_failure(end, describe(end), traceback, log_path))
    returned = [end for end in report.job.worker_ends if isinstance(end.ended.ending, Returned)]
    values, _ = _load(report, returned, log_path)
    return worker_failed(tuple(failures), _original(report, ends[0].worker), values)


def _original(report: RunReport, worker: Worker) -> Exception | None:
    """The exception object that a worker raised, where it came along and can be loaded here."""
    words = report.outcomes.errors.get(worker.rank)
    if not words:
        return None
    try:
        _, start = outcome.unframe(words)
        if start == len(words):
            return None
        original = payload.read(words[start:])
    except BaseException:  # its own methods may raise anything at all
        return None
    return original if isinstance(original, Exception) else None


def _failure(end: WorkerEnd, summary: str, traceback: str, log_path: LogPath) -> WorkerFailure:
    worker, ended = end.worker, end.ended
    return WorkerFailure(
        rank=worker.rank,
        local_rank=worker.local_rank,
        hostname=worker.host.label,
        pid=ended.pid,
        exitcode=ended.ending.code if isinstance(ended.ending, Exited) else None,
        signal=ended.ending.signal if isinstance(ended.ending, Killed) else None,
        summary=plain(summary),
        traceback=traceback,
        last_lines=ended.last_lines,
        log_file=log_path(Source(worker.host.label, worker.local_rank, worker.rank)),
    )


def _agent_error(blame: HostFailure | None, failures: dict[int, HostFailure]) -> AgentFailedError:
    ordered = [failures[agent] for agent in sorted(failures)]
    first = [blame] if blame else []
    return AgentFailedError(tuple(first + [failure for failure in ordered if failure is not blame]))
