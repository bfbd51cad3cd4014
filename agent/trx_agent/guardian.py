"""The guardian: a small process that outlives the agent, and sees to it that nothing of a launch outlives *it*.

It is the parent of the agent and the heir of every orphan below. It ends with the agent or with the launcher, whichever
goes first: the end of its stdin is the end of the launcher. Before it ends, it has ended every process below itself and
removed the launch's directory. Should the guardian itself be killed, the kernel tells the agent, which does the same in
its place; should the agent be killed, the kernel kills the forkserver, and so on downwards (`die_with_parent`).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import NoReturn

from trx_agent import machine
from trx_agent.directory import clear, find_abandoned
from trx_agent.environment import for_workers
from trx_agent.forkserver import ForkServer
from trx_agent.linux import die_with_parent, reap
from trx_agent.orders import AGENT_LOG, LAUNCHER_GONE
from trx_agent.protocol.bootstrap import Bootstrap

SLACK = 2.0
"""Seconds that the agent has, above the grace of its workers, to end in good order when the launcher is gone."""

_ENDINGS = (LAUNCHER_GONE, signal.SIGTERM)


def guard(stdin: FileIO, bootstrap: Bootstrap, endpoint: str, environment: Mapping[str, str], directory: Path) -> None:
    """Forks the agent, watches over it, and never returns."""
    if os.getpid() != os.getpgrp():  # Slurm makes it the leader of a group, which cannot have a session of its own
        os.setsid()  # signals of the launcher's terminal are for the launcher
    guardian = os.getpid()
    listening, pulse = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)  # until both know what to do then
    agent = os.fork()
    if agent == 0:
        os.close(listening)
        _become_agent(stdin, bootstrap, endpoint, environment, directory, pulse, guardian)
    os.close(pulse)
    _clear_up_after_others(guardian)
    code = _watch(stdin, agent, listening, bootstrap)
    _clear(directory)
    os._exit(code if code >= 0 else 128 - code)


def _become_agent(
    stdin: FileIO,
    bootstrap: Bootstrap,
    endpoint: str,
    environment: Mapping[str, str],
    directory: Path,
    pulse: int,
    guardian: int,
) -> None:
    code = 1
    try:
        for number in _ENDINGS:
            signal.signal(number, _end_once)  # until the agent has handlers of its own
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)
        die_with_parent(guardian, LAUNCHER_GONE)
        stdin.close()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        resources = machine.look(bootstrap.workers, environment)
        variables = for_workers(environment, resources.workers)
        # First of all, since it takes longest: the import of torch goes on while everything else does.
        forkserver = ForkServer(variables, bootstrap.preparation.preload, directory / AGENT_LOG)
        from trx_agent.greeting import greet

        uplink, doors = greet(bootstrap, endpoint, resources)
        from trx_agent.agent import Agent

        Agent(bootstrap, uplink, doors, variables, directory, pulse, resources, forkserver).live()
        code = 0
    except SystemExit:
        pass
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if os.getppid() != guardian:
            _clear(directory)  # there is nobody else left who would
        os._exit(code)


def _end_once(*_: object) -> NoReturn:
    """A further signal, of which there may be one for each reason to end, must not interrupt the clearing up."""
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(1)


def _clear_up_after_others(guardian: int) -> None:
    """In a process of its own: there may be much to remove."""
    abandoned = find_abandoned()
    if abandoned and os.fork() == 0:
        try:
            die_with_parent(guardian)
            clear(abandoned)
        finally:
            os._exit(0)


def _watch(stdin: FileIO, agent: int, pulse: int, bootstrap: Bootstrap) -> int:
    """Returns the agent's exit code, once it has ended.

    It is killed where it is stopped or stuck, which the missing of its pulse tells, and where the launcher is gone and
    it has had the time to end its workers gracefully.
    """
    pidfd = os.pidfd_open(agent)

    def pass_on(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and the guardian is clearing up
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)
    watched = [pidfd, stdin.fileno(), pulse]
    leaving = float("inf")
    alive_until = time.monotonic() + bootstrap.lease
    while True:
        patience = min(leaving, alive_until) - time.monotonic()
        ready, _, _ = select.select(watched, [], [], max(0.0, patience) if patience < float("inf") else None)
        ended = reap()  # whoever has cleared up after others, too
        if agent in ended:
            return ended[agent]
        if pulse in ready:
            os.read(pulse, 4096)
            alive_until = time.monotonic() + bootstrap.lease
        if stdin.fileno() in ready and not os.read(stdin.fileno(), 65536):
            watched.remove(stdin.fileno())
            leaving = time.monotonic() + bootstrap.grace + SLACK
            os.kill(agent, LAUNCHER_GONE)
        if not ready:
            os.kill(agent, signal.SIGKILL)
            watched = [pidfd]
            leaving = alive_until = float("inf")


def _clear(directory: Path) -> None:
    """Ends whatever the agent left below, and removes its files."""
    from trx_agent.tree import end_everything

    end_everything()
    shutil.rmtree(directory, ignore_errors=True)
