"""The agent: one event loop that starts, watches, streams and ends what the launcher orders on this host.

It imports neither torch nor pickle, so it is small, starts at once, and cannot be stopped by what the workers do. All
its waiting happens in one place (`Uplink.poll`), on the launcher's messages, the runner's reports, files that change,
and children that end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from trx_agent import machine
from trx_agent.doors import Doors, Knocking
from trx_agent.environment import Composing, EnvFileError, for_workers
from trx_agent.forkserver import ForkServer
from trx_agent.linux import inherit_orphans, reap
from trx_agent.orders import AGENT_LOG, LAUNCHER_GONE
from trx_agent.protocol.bootstrap import Bootstrap
from trx_agent.protocol.decoding import Malformed
from trx_agent.protocol.link import Body
from trx_agent.protocol.messages import (
    AnyMessage,
    Broken,
    Bye,
    Credit,
    Data,
    Door,
    Drained,
    Gone,
    Kind,
    Probe,
    Reached,
    Signal,
    Start,
    Stop,
    Stream,
)
from trx_agent.run import Run, write_order
from trx_agent.streams import Outflow, last_lines
from trx_agent.uplink import Uplink
from trx_agent.watching import FileWatch

_LONGEST_NAP = 0.5
_FIRST_CONTACT = 60.0
"""Seconds that the launcher has to answer at all: it may be busy greeting a thousand others."""

_FAREWELL = 2.0


class Agent:
    """See the module.

    Args:
        bootstrap: From the launcher.
        uplink: To the launcher, who has been greeted.
        doors: Of this host, where it is the first one.
        environment: Of the forkserver.
        directory: For all files of this launch.
        pulse: Descriptor that is written to as long as the agent's loop goes round, for the guardian.
        resources: Of this host.
        forkserver: Which is importing torch already.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        uplink: Uplink,
        doors: Doors | None,
        environment: Mapping[str, str],
        directory: Path,
        pulse: int,
        resources: machine.Resources,
        forkserver: ForkServer,
    ) -> None:
        self._bootstrap = bootstrap
        self._pulse = pulse
        self._next_pulse = 0.0
        self._directory = directory
        self._log = directory / AGENT_LOG
        self._resources = resources
        self._environment = dict(environment)
        self._preparation = bootstrap.preparation
        self._forkserver: ForkServer | None = forkserver
        inherit_orphans()
        self._uplink = uplink
        self._watched: dict[int, Callable[[], None]] = {}
        self._files = FileWatch()
        self._doors = doors
        self._knocking: Knocking | None = None
        self._run: Run | None = None
        self._composing: Composing | None = None  # variables that the next run waits for
        self._next_order: Start | None = None
        self._postponed: list[tuple[AnyMessage, bytes]] = []  # what has come meanwhile
        self._leaving: float | None = None  # when to end at the latest
        self._guardian = os.getppid()
        self._launcher_gone = False  # both are set by signal handlers, seen by the loop
        self._terminated = False
        self._orphaned = False

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def live(self) -> None:
        """The agent's life, to `Bye` or the end of the launcher."""
        self._set_up()
        try:
            while not self._has_left():
                self._go_round()
        except EnvFileError as error:
            self._send(Broken("applying env_file", str(error)))
            self._uplink.flush(_FAREWELL)
        except OSError as error:  # no room, no descriptors, ...
            self._send(Broken("running", f"{error.strerror}: {error.filename or self._directory}"))
            self._uplink.flush(_FAREWELL)
            raise
        except Malformed as error:
            self._send(Broken("talking to the launcher", f"the launcher sent what is no message: {error}"))
            with contextlib.suppress(Malformed):
                self._uplink.flush(_FAREWELL)
            raise
        finally:
            if self._forkserver:
                self._forkserver.close()
            self._uplink.close()
            self._files.close()

    def _go_round(self) -> None:
        for descriptor in self._uplink.poll(self._patience()):
            if handler := self._watched.get(descriptor):
                handler()
        for message, body in self._uplink.receive():
            self._obey(message, body)
        self._advance(time.monotonic())

    def _set_up(self) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        os.write(writing, b".")  # the forkserver may have ended before: of that no signal will come
        signal.signal(LAUNCHER_GONE, lambda *_: setattr(self, "_launcher_gone", True))
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_terminated", True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._watch(reading, lambda: self._children_ended(reading))
        if self._forkserver:
            self._watch(self._forkserver.fileno(), self._forkserver_spoke)
        self._log_outflow = Outflow(Stream(0, -1, Kind.AGENT), self._log, self._bootstrap.local)
        self._files.watch_file(self._log, self._pump_log)
        self._watch(self._files.fileno(), lambda: self._files.handle(time.monotonic()))
        for descriptor in self._doors.descriptors() if self._doors else ():
            self._watch(descriptor, partial(self._answer, descriptor))

    def _patience(self) -> float:
        now = time.monotonic()
        patience = min(_LONGEST_NAP, self._files.patience(now))
        if self._run:
            patience = min(patience, self._run.patience(now))
        return patience

    def _advance(self, now: float) -> None:
        self._uplink.tick()
        if now >= self._next_pulse:
            self._next_pulse = now + self._bootstrap.beat
            with contextlib.suppress(BrokenPipeError):  # the guardian is dead, of which a signal will tell
                os.write(self._pulse, b".")
        self._files.look(now)
        if self._run:
            self._run.look_after_workers(now)
            if self._run.patience(now) == 0.0:
                self._run.step(now)
            if self._run.finished and self._uplink.settled:  # the launcher has read its files
                self._forget_run()
        if self._composing:
            self._composing.check_time()
        lease = self._bootstrap.lease if self._uplink.was_answered else max(_FIRST_CONTACT, self._bootstrap.lease)
        if not self._orphaned:
            if self._launcher_gone or self._uplink.silence > lease:
                self._launcher_lost()
            elif self._terminated:
                self._told_to_end()

    # ---- orders -----------------------------------------------------------------------------------------------------

    def _obey(self, message: AnyMessage, body: bytes) -> None:
        if self._composing and not isinstance(message, (Stop, Bye)):
            self._postponed.append((message, body))
            return
        match message:
            case Probe(doors, nonce):
                self._stop_knocking()
                self._knocking = Knocking(doors, nonce)
                self._watch(self._knocking.descriptor, self._door_answered)
            case Start():
                self._prepare(message)
            case Data(stream, offset):
                if self._run and self._run.number == stream.run and self._run.take_payload(offset, body):
                    self._launch(self._run)
            case Credit(stream, upto):
                if stream.kind is Kind.AGENT:
                    if self._log_outflow.grant(upto):
                        self._pump_log()
                elif self._run and self._run.number == stream.run:
                    self._run.grant(stream, upto)
            case Stop(number, grace):
                if self._next_order and self._next_order.run == number:
                    self._give_up_composing(number)
                elif self._run and self._run.number == number:
                    self._run.stop(time.monotonic(), grace)
            case Signal(number, warning):
                if self._run and self._run.number == number:
                    self._run.warn(warning)
            case Bye():
                self._leave(0.0)
            case _:
                pass

    def _prepare(self, order: Start) -> None:
        """Makes ready for the payload, which follows the order."""
        if self._run:  # that a new run is ordered tells that the last one was taken note of
            self._forget_run()
        forkserver = self._forkserver
        if forkserver is not None and order.preparation == self._preparation and not forkserver.condemned:
            self._begin(order, forkserver)
            return
        if forkserver is not None:
            self._drop_forkserver()  # it ends by itself then
        self._composing = Composing(os.environ, order.preparation, self._bootstrap.cookie)
        self._next_order = order
        if self._composing.pid is None:
            self._composed(0)

    def _composed(self, code: int) -> None:
        """The variables for another forkserver are there: goes on where `_prepare` had to wait."""
        assert self._composing is not None
        assert self._next_order is not None
        variables = self._composing.variables(code)
        order, self._composing, self._next_order = self._next_order, None, None
        self._preparation = order.preparation
        self._environment = for_workers(variables, self._resources.workers)
        self._forkserver = ForkServer(self._environment, order.preparation.preload, self._log)
        self._watch(self._forkserver.fileno(), self._forkserver_spoke)
        self._begin(order, self._forkserver)
        postponed, self._postponed = self._postponed, []
        for message, body in postponed:
            self._obey(message, body)

    def _give_up_composing(self, run: int) -> None:
        """The run is stopped before it has begun here: nothing of it is left, and there is nothing to hand over."""
        assert self._composing is not None
        self._composing.kill()
        self._composing, self._next_order = None, None
        self._postponed.clear()
        self._send(Gone(run, ()))
        self._send(Drained(run))

    def _begin(self, order: Start, forkserver: ForkServer) -> None:
        self._stop_knocking()  # a door was chosen
        directory = self._directory / f"run-{order.run}"
        directory.mkdir(mode=0o700)
        bootstrap = self._bootstrap
        self._run = Run(order, directory, self._send, forkserver, bootstrap.grace, bootstrap.local, self._files)
        write_order(self._localized(order), directory)

    def _drop_forkserver(self) -> None:
        assert self._forkserver is not None
        self._unwatch(self._forkserver.fileno())
        self._forkserver.close()
        self._forkserver = None

    def _forkserver_spoke(self) -> None:
        assert self._forkserver is not None
        self._forkserver.hear()
        self._unwatch(self._forkserver.fileno())

    def _launch(self, run: Run) -> None:
        if self._forkserver is None:
            return  # it has just died, and the launcher was told
        door: socket.socket | None = None
        if self._doors:
            door = self._choose_door(run)
        connection = self._forkserver.fork_runner(self._directory / f"run-{run.number}", door)
        run.launch(connection, partial(self._unwatch, connection.fileno()))
        self._watch(connection.fileno(), lambda: run.hear_runner(time.monotonic()))

    def _choose_door(self, run: Run) -> socket.socket:
        assert self._doors is not None
        for descriptor in self._doors.descriptors():
            self._unwatch(descriptor)
        return self._doors.choose(run.rendezvous)

    def _localized(self, order: Start) -> Start:
        """Adds variables that only this host can know, below what the user has set."""
        ours = {**self._interfaces(order.rendezvous), **self._gpus(order)}
        environments = tuple({**ours, **environment} for environment in order.environments)
        return order.with_environments(environments)

    def _interfaces(self, door: Door) -> dict[str, str]:
        """Names the interface to gloo and NCCL, which otherwise trust what the host's own name resolves to."""
        own = self._knocking.own_address(door) if self._knocking else door.address
        interface = machine.interface_of(own) if own else ""
        if not interface:
            return {}
        ours = {"GLOO_SOCKET_IFNAME": interface}
        if interface != "lo":
            ours["NCCL_SOCKET_IFNAME"] = f"={interface}"
        return {name: value for name, value in ours.items() if name not in self._environment}

    def _gpus(self, order: Start) -> dict[str, str]:
        """Gives this agent GPUs of its own, where another agent of the launch has the host's first ones."""
        if not order.first_gpu:
            return {}
        visible = self._environment.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(self._resources.gpus)]
        return {"CUDA_VISIBLE_DEVICES": ",".join(names[order.first_gpu :][: len(order.ranks)])}

    # ---- events of this host ----------------------------------------------------------------------------------------

    def _answer(self, descriptor: int) -> None:
        if self._doors:
            self._doors.answer(descriptor)

    def _door_answered(self) -> None:
        if self._knocking:
            self._send(Reached(self._knocking.reached()))

    def _stop_knocking(self) -> None:
        if self._knocking:
            self._unwatch(self._knocking.descriptor)
            self._knocking.give_up()

    def _children_ended(self, wakeup: int) -> None:
        os.read(wakeup, 4096)
        ended = reap()
        if self._forkserver and self._forkserver.pid in ended:
            self._forkserver_died(ended[self._forkserver.pid])
        if self._composing and self._composing.pid in ended:
            self._composed(ended[self._composing.pid])
        if self._run:
            self._run.step(time.monotonic())

    def _forkserver_died(self, code: int) -> None:
        assert self._forkserver is not None
        importing = self._forkserver.ready_since is None
        self._drop_forkserver()
        if self._leaving is None and not (self._run and self._run.stopped):
            self._tell_forkservers_end(importing, code)
        if self._run:
            self._run.abandon(time.monotonic())

    def _tell_forkservers_end(self, importing: bool, code: int) -> None:
        stage = "importing torch and what is to be preloaded" if importing else "watching the workers"
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        self._send(Broken(stage, f"the process that they are forked from ended ({how}): {last_lines([self._log])}"))

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _leave(self, grace: float) -> None:
        self._pump_log()  # nobody looks at it once more
        now = time.monotonic()
        self._leaving = min(self._leaving or float("inf"), now + grace + _FAREWELL)
        if self._run:
            self._run.stop(now, grace)

    def _launcher_lost(self) -> None:
        """Nobody listens any more: end the workers as gently as they were promised, and go."""
        reason = "its connection to the launcher ended"
        if not self._launcher_gone:
            reason = f"it heard nothing from the launcher for {self._uplink.silence:.0f} s, and ended its workers"
        elif os.getppid() != self._guardian:
            reason = "the guardian of its agent was killed"
        self._orphaned = True
        self._send(Broken("running", reason))  # where only one direction is cut, it may arrive
        with contextlib.suppress(OSError):
            os.write(1, reason.encode() + b"\n")  # this too, through SSH
        self._leave(self._bootstrap.grace)

    def _told_to_end(self) -> None:
        """By Slurm, as a rule, which tells every process of a job: the workers have been told as well."""
        self._terminated = False
        by_slurm = machine.is_slurms(os.environ)
        if by_slurm and self._run:
            self._run.spare_the_asking()
        who = "Slurm has cancelled the job, or its time is up" if by_slurm else "somebody has ended it"
        self._send(Broken("running", f"its agent was sent SIGTERM: {who}"))
        self._leave(self._bootstrap.grace)

    def _has_left(self) -> bool:
        if self._leaving is None:
            return False
        nothing_runs = self._run is None or self._run.gone
        everything_said = self._orphaned or self._uplink.settled
        return (nothing_runs and everything_said) or time.monotonic() > self._leaving

    def _forget_run(self) -> None:
        assert self._run is not None
        self._run.remove_files()
        self._run = None

    def _pump_log(self) -> None:
        for message, body in self._log_outflow.news():
            self._send(message, body)

    def _send(self, message: AnyMessage, body: Body = b"") -> None:
        self._uplink.send(message, body)

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._watched[descriptor] = handler
        self._uplink.watch(descriptor)

    def _unwatch(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None):
            self._uplink.unwatch(descriptor)
