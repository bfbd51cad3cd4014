"""An engine and its agents, from start to end, on behalf of one `Launcher`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.metadata
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trx import checks, hosts, open_files, signals, slurm
from trx.engine import Engine, LaunchSettings
from trx.environment import select
from trx.interrupts import interruptible
from trx.output import HandlerSink, LogFiles, Sink, Source, Terminal, make_log_directory
from trx.present_run import RunReport
from trx.results import LaunchResult
from trx.verdict import judge
from trx_agent.protocol.messages import Preparation
from trx_agent.protocol.payload import Pickled

if TYPE_CHECKING:
    from trx.launcher import Launcher
    from trx.plan import Host

BEAT = 1.0
"""Seconds of silence after which either side gives a sign of life."""


_FOR_EACH_RUN = frozenset({"default_env_vars", "extra_env_vars", "env_file", "preload"})
"""Settings that the user may change from one run of a session to the next."""


class Session:
    """An engine and its agents, from start to end.

    Args:
        launcher: Whose settings are good.
        planned: The hosts that it has planned.
    """

    def __init__(self, launcher: Launcher, planned: Sequence[Host]) -> None:
        self._grace = launcher.grace_period
        self._turn = threading.Lock()
        self._abandoned = False
        self._launcher = launcher
        self._lasting_settings = _lasting_settings(launcher)
        allocation = slurm.reached_by_srun(launcher.start)
        self._terminal = _terminal_size()  # once, since another one would cost another import of torch
        preparation = self._preparation()
        python = launcher.python or sys.executable
        open_files.check(len(planned))
        slurm.ask_for_gpus([host.hostname for host in planned])
        by_srun = frozenset(host.index for host in planned if allocation and allocation.node(host.hostname))
        self._warned_by_slurm = by_srun if allocation and allocation.in_step else frozenset()
        open_channel = partial(
            hosts.make_channel,
            python=python,
            environment=preparation.variables,
            ssh_config_file=launcher.ssh_config_file,
            timeout=launcher.start_timeout,
            lease=launcher.lease,
            allocation=allocation,
        )
        settings = _launch_settings(launcher, preparation)
        handlers = _handlers(launcher, planned)
        directory = _log_directory(launcher)  # last, since nothing fails any more once it is there
        self._files = LogFiles(directory) if directory else None
        sinks: list[Sink] = [Terminal()] if launcher.log_handlers == "auto" else []
        sinks += [self._files] if self._files else []
        sinks += [*handlers, HandlerSink()]
        explain = [partial(hosts.explain_exit, host, python) for host in planned]
        self._lasting = contextlib.ExitStack()
        self._lasting.enter_context(open_files.allowed(len(planned)))
        self._engine = Engine(planned, [open_channel(host) for host in planned], explain, settings, sinks)
        self._engine.start()
        self._lasting.enter_context(signals.outlived())

    @property
    def usable(self) -> bool:
        return self._engine.usable and not self._abandoned

    def run(self, call: Pickled) -> LaunchResult[Any]:
        """Runs a function on all hosts.

        Raises:
            ValueError: Where a setting was changed that had its effect when the session was opened.
        """
        now = _lasting_settings(self._launcher)
        if changed := [name for name, value in self._lasting_settings.items() if now[name] != value]:
            raise ValueError(f"{changed[0]} cannot be changed while the launcher is open: open another one")
        with self._turn:
            future = self._engine.run(call, self._preparation())
            with signals.heeded(self._warn, lambda: self._engine.interrupt(self._grace)) as heard:
                report = self._wait(future)
                if heard.terminated:
                    self.close()
                    signals.end_by(signal.SIGTERM)
            # Whoever has told of a failure of its host may be about to end: not to be counted on in another run.
            self._abandoned |= bool(report.job.host_failures)
        return judge(report, self._log_path)

    def _preparation(self) -> Preparation:
        """What workers' processes are to be made with now: the user may have changed variables since the last run."""
        launcher = self._launcher
        env_file = checks.check_file("env_file", launcher.env_file)
        variables = select(slurm.for_all_hosts(os.environ), launcher.default_env_vars, launcher.extra_env_vars)
        try:
            text = env_file.read_text(encoding="utf-8") if env_file else ""
        except UnicodeDecodeError as error:
            raise ValueError(f"env_file: {env_file} is not UTF-8: {error}") from None
        return Preparation({**self._terminal, **variables}, text, tuple(launcher.preload))

    def close(self) -> None:
        with self._lasting:
            self._engine.close(self._grace + 5.0)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warn(self, number: int) -> None:
        """Passes on a warning, but not to steps, where this process is in one too: Slurm warns all steps of a job."""
        self._engine.warn(number, self._warned_by_slurm)

    def _wait(self, future: Future[RunReport]) -> RunReport:
        """Waits for the end of a run. Ctrl-C ends it gently, a second Ctrl-C at once."""
        try:
            return interruptible(future)
        except KeyboardInterrupt:
            self._engine.interrupt(self._grace)
        with contextlib.suppress(KeyboardInterrupt):
            return future.result()
        self._engine.interrupt(0.0)
        self._abandoned = True  # should there be a third one
        report = future.result()
        self._abandoned = False
        return report

    def _log_path(self, source: Source) -> str:
        path = self._files.path(source) if self._files else None
        return str(path) if path and path.exists() else ""


def _lasting_settings(launcher: Launcher) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(launcher)} - _FOR_EACH_RUN
    return {name: copy.copy(getattr(launcher, name)) for name in sorted(names)}  # a list might be changed in place


def _handlers(launcher: Launcher, planned: Sequence[Host]) -> list[HandlerSink]:
    """For the user's own handlers. Those that a function makes for this launch end with it."""
    given = launcher.log_handlers
    if given is None or given == "auto":
        return []
    made = callable(given)
    found = checks.check_handlers(given() if callable(given) else given)
    checks.check_sources(found, planned)
    return [HandlerSink(each, close=made) for each in found]


def _log_directory(launcher: Launcher) -> Path | None:
    """None for no log files: where there are handlers instead, they are written only if `TRX_LOG_DIR` asks for them."""
    handlers = launcher.log_handlers
    if handlers is None or (handlers != "auto" and "TRX_LOG_DIR" not in os.environ):
        return None
    try:
        return make_log_directory(None, datetime.now())
    except OSError as error:
        hint = 'set TRX_LOG_DIR to another directory, or to "" for no log files'
        raise OSError(
            error.errno, f"cannot make a directory for logs ({hint}): {error.strerror}", error.filename
        ) from None


def _terminal_size() -> dict[str, str]:
    """For progress bars, which cannot ask a file how wide it is."""
    if not sys.stderr.isatty():
        return {}
    columns, lines = shutil.get_terminal_size()
    return {"COLUMNS": str(columns), "LINES": str(lines), "TQDM_NCOLS": str(columns - 1)}


def _launch_settings(launcher: Launcher, preparation: Preparation) -> LaunchSettings:
    try:
        torch = importlib.metadata.version("torch").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        torch = ""
    return LaunchSettings(
        backend=launcher.backend,
        timeout=float(launcher.timeout),
        cwd=os.path.abspath(os.path.expanduser(launcher.cwd or os.getcwd())),
        python_version="{}.{}".format(*sys.version_info[:2]),
        preparation=preparation,
        torch=torch,
        log_level=_log_level(),
        beat=BEAT,
        lease=float(launcher.lease),
        grace=float(launcher.grace_period),
        start_timeout=float(launcher.start_timeout),
    )


def _log_level() -> int:
    """Of the workers' root logger: `TRX_LOG_LEVEL`, a name or a number."""
    name = os.environ.get("TRX_LOG_LEVEL") or "INFO"
    level = int(name) if name.isdecimal() else logging.getLevelName(name.upper())
    if not isinstance(level, int):
        raise ValueError(f"TRX_LOG_LEVEL must be a level of logging, not {name!r}")
    return level
