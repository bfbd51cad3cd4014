"""The loop of one launch: brings together its agents, the wire, the present run and its output.

It lives in a thread of its own, so that agents stay alive and hear from the launcher whatever the user's own thread
does between runs. Other threads talk to it by `_call`, and wait for futures.
"""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from trx.errors import HostFailure
from trx.events import Announce, Arrived, Event, Finish, Interrupted, Launch, Lost, Said, Send, Tick
from trx.hosts.channel import Channel
from trx.hosts.steward import Steward
from trx.hub import Hub, HubError
from trx.import_paths import import_paths
from trx.intake import Intake
from trx.job import Job, Settings
from trx.mailbox import Mailbox
from trx.output import Outputs, Sink, Source
from trx.output.escapes import plain
from trx.payload_flow import PayloadFlow
from trx.pieces import Piece, Received, Unreadable, in_file
from trx.plan import Host
from trx.present_run import PresentRun, RunReport
from trx.timeline import Moment, Recorder
from trx_agent.protocol import messages
from trx_agent.protocol.bootstrap import Bootstrap, frame, loader
from trx_agent.protocol.messages import (
    AnyMessage,
    Bye,
    Credit,
    Data,
    DataInFile,
    Door,
    Ended,
    Gone,
    Hello,
    Kind,
    Mark,
    Preparation,
    Signal,
    Start,
    Stream,
    Up,
)
from trx_agent.protocol.payload import Pickled

_logger = logging.getLogger("trx")

_TICK = 0.25
_FAREWELL = 1.0
_HANDING_OVER = 60.0
"""Seconds for which an agent may send nothing but signs of life when all that is left to do is to send what it has."""

_MOST_WORKERS = 1 << 16
"""Of one host: more than any has CPUs."""

_MOMENTS = frozenset(moment.value for moment in Moment)

T = TypeVar("T")


@dataclass(frozen=True)
class LaunchSettings:
    """What an engine needs to know, worked out of the user's settings.

    Attributes:
        backend, timeout, cwd: See `Launcher`.
        python_version: Like "3.11".
        preparation: Of the workers' processes, in the first run.
        torch: The launcher's version of it; "" where it is not installed.
        log_level: Of the workers' root logger.
        beat, lease, grace, start_timeout: Seconds; see `Bootstrap` and `job.Settings`.
    """

    backend: str | None
    timeout: float
    cwd: str
    python_version: str
    preparation: Preparation
    torch: str
    log_level: int
    beat: float
    lease: float
    grace: float
    start_timeout: float


class Engine:
    """See the module.

    Args:
        hosts: Of the launch.
        channels: One for each host, in the same order.
        explain: For each host, turns an interpreter's early end (exit status, output) into a failure.
        settings: See there.
        sinks: Where output goes.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        channels: Sequence[Channel],
        explain: Sequence[Callable[[int | None, str], HostFailure]],
        settings: LaunchSettings,
        sinks: Sequence[Sink],
    ) -> None:
        self._hosts = tuple(hosts)
        self._settings = settings
        self._cookie = secrets.token_hex(16)
        self._nonce = secrets.token_bytes(16)
        self._hub = Hub(len(self._hosts), settings.beat)
        self._mailbox = Mailbox(self._hub.wake)
        self._outputs = Outputs(sinks, self._output_consumed)
        self._hellos: dict[int, Hello] = {}
        self._rendezvous: Door | None = None
        self._ended: dict[int, HostFailure] = {}
        self._runs = 0
        self._run: PresentRun | None = None
        self._granted: dict[tuple[int, Stream], int] = {}
        self._heard: dict[tuple[int, Stream], int] = {}  # up to where streams have come
        self._moved: dict[int, float] = {}  # when an agent last sent something, or could begin to
        self._recorder = Recorder(time.monotonic())
        self._closing = False
        self._next_tick = 0.0
        self._stewards = [
            Steward(host.index, host.label, channel, self, each)
            for host, channel, each in zip(self._hosts, channels, explain, strict=True)
        ]
        self._thread = threading.Thread(target=self._live, name="trx-engine", daemon=True)

    # ---- for the user's thread --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts all agents, at the same time."""
        self._thread.start()
        for steward in self._stewards:
            steward.start()

    def run(self, call: Pickled, preparation: Preparation) -> Future[RunReport]:
        """Runs a function and its arguments on all hosts; one run at a time."""
        future: Future[RunReport] = Future()
        self._mailbox.post(partial(self._start_run, call, preparation, future))
        self._mailbox.expect(future)
        return future

    def interrupt(self, grace: float) -> None:
        """Ends the present run."""
        self._mailbox.post(lambda: self._interrupt(grace))

    def warn(self, number: int, warned: Collection[int]) -> None:
        """Passes a signal on to the workers of the present run, but for those of the agents in `warned`."""
        self._mailbox.post(lambda: self._warn(number, warned))

    @property
    def usable(self) -> bool:
        """Whether every agent is still there for another run."""
        return not self._ended and self._thread.is_alive()

    def close(self, timeout: float) -> bool:
        """Ends all agents; returns whether all of them were seen to end in good time."""
        self._mailbox.post(self._say_goodbye)
        deadline = time.monotonic() + timeout
        try:
            ended = [steward.join(max(0.0, deadline - time.monotonic())) for steward in self._stewards]
        finally:  # also where Ctrl-C ends the wait
            for steward in self._stewards:
                steward.close()
            self._mailbox.post(self._end)
            self._thread.join(_FAREWELL + 1.0)
            written = self._outputs.close(max(1.0, deadline - time.monotonic()))
        return all(ended) and written

    # ---- for the stewards' threads (`steward.Front`) ----------------------------------------------------------------

    def bootstrap(self, agent: int, address: str) -> bytes:
        self._mark(agent, Moment.CONNECTED)
        endpoint = self._mailbox.call(lambda: self._hub.listen(address))
        return loader(self._settings.python_version) + frame(self._make_bootstrap(agent, endpoint))

    def port(self, address: str) -> int:
        return int(self._mailbox.call(lambda: self._hub.listen(address)).rpartition(":")[2])

    def agent_printed(self, agent: int, text: bytes) -> None:
        self._outputs.feed(Source(self._hosts[agent].label, None, None), Kind.AGENT, text, None)

    def agent_ended(self, agent: int, failure: HostFailure) -> None:
        self._mailbox.post(lambda: self._lose(agent, failure))

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            while not self._closing:
                self._hub.poll(_TICK)
                self._mailbox.empty()
                self._receive()
                self._tick(time.monotonic())
        except BaseException as error:
            if self._run and not self._run.future.done():
                self._run.future.set_exception(error)
            _logger.exception("trx's own thread failed")
        finally:
            self._closing = True
            self._hub.close(_FAREWELL)
            self._mailbox.close()

    def _tick(self, now: float) -> None:
        """What depends on time alone. Not at each event: it costs something for every agent."""
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK
        self._check_leases()
        self._check_handing_over(now)
        self._feed_job(Tick())
        self._outputs.watch(now, hurry=bool(self._run and self._run.job.processes_gone))
        self._hub.tick()

    def _receive(self) -> None:
        try:
            for agent, message, body in self._hub.receive():
                self._hear(agent, message, body)
        except HubError as error:
            failure = HostFailure(self._hosts[error.agent].label, "talking to the launcher", str(error))
            self._stewards[error.agent].close()
            self._lose(error.agent, failure)

    def _hear(self, agent: int, message: AnyMessage, body: memoryview) -> None:
        self._moved[agent] = time.monotonic()
        match message:
            case Data(stream) | DataInFile(stream) if stream.run and not self._present(stream.run):
                pass  # of a run that was interrupted twice, whose output nobody waits for
            case Data(stream, offset):
                self._check_range(agent, stream, offset, len(body))
                self._feed_job(Said(agent, message))
                self._take(agent, stream, offset, Received(body))
            case DataInFile(stream, offset, size):
                self._check_range(agent, stream, offset, size)
                self._feed_job(Said(agent, message))
                self._take_from_file(agent, message)
            case Credit(stream, upto):
                if (run := self._present(stream.run)) and agent in run.payloads:
                    run.payloads[agent].grant(upto)
            case Hello() as hello:
                self._check_hello(agent, hello)
                self._mark(agent, Moment.AGENT_UP)
                self._hellos[agent] = hello
                self._feed_job(Said(agent, hello))
            case Ended() as ended:
                if run := self._present(ended.run):
                    self._worker_ended(run, agent, ended)
            case Up(marks=marks):
                self._mark(agent, Moment.FORKED, marks=marks)
                self._feed_job(Said(agent, message))
            case Gone():
                self._mark(agent, Moment.ALL_GONE)
                self._feed_job(Said(agent, message))
            case _:
                self._feed_job(Said(agent, message))

    def _check_hello(self, agent: int, hello: Hello) -> None:
        """Each worker costs the launcher memory, and the number of them stays what it is."""
        wanted = self._hosts[agent].workers
        if agent in self._hellos:
            raise HubError(agent, "it said hello twice")
        if hello.workers > _MOST_WORKERS or (isinstance(wanted, int) and hello.workers != wanted):
            raise HubError(agent, f"it is to have {wanted} workers, and offers {hello.workers}")

    def _check_range(self, agent: int, stream: Stream, offset: int, size: int) -> None:
        """What is sent without credit would be kept in memory, as much of it as there is."""
        if stream.kind is Kind.PAYLOAD:
            raise HubError(agent, "it sent what only the launcher sends")
        key = agent, stream
        expected = self._heard.get(key, 0)
        if offset < expected or offset + size > self._granted.get(key, messages.WINDOWS[stream.kind]):
            what = f"{size} bytes of {stream.kind.value} at {offset}, after {expected}"
            raise HubError(agent, f"it sent what it has no credit for: {what}")
        self._heard[key] = offset + size

    def _worker_ended(self, run: PresentRun, agent: int, ended: Ended) -> None:
        try:
            whole = run.intake.expect(agent, ended)
        except ValueError as error:
            raise HubError(agent, str(error)) from error
        self._mark(agent, Moment.ENDED, ended.local_rank, ended.marks)
        self._feed_job(Said(agent, ended))
        if whole:
            self._outcome_arrived(agent, ended.local_rank)

    def _take(self, agent: int, stream: Stream, offset: int, piece: Piece) -> None:
        """Passes on what a worker or an agent produced; credit is given when it was dealt with."""
        if stream.kind in (Kind.VALUE, Kind.ERROR):
            if run := self._present(stream.run):
                self._take_outcome(run.intake, agent, stream, piece)
                self._give_credit(agent, stream, offset + piece.size)
            return
        source = self._source(agent, stream.local_rank)
        # By the size that was announced: where a worker has cut off its file, fewer bytes were there.
        self._outputs.feed(source, stream.kind, piece.read(), (agent, stream, offset + piece.size))

    def _take_from_file(self, agent: int, message: DataInFile) -> None:
        """The same, of a file of an agent on this machine."""
        if not self._hosts[agent].local:
            raise HubError(agent, "it names a file, but is on another machine")
        if not 0 < message.size <= messages.CHUNK_IN_FILE:
            raise HubError(agent, f"it names {message.size} bytes of a file")
        try:
            with in_file(message.path, message.offset, message.size) as piece:
                self._take(agent, message.stream, message.offset, piece)
        except Unreadable as error:
            raise HubError(agent, f"it names a file that cannot be read: {error}") from error

    def _take_outcome(self, intake: Intake, agent: int, stream: Stream, piece: Piece) -> None:
        try:
            whole = intake.take_outcome(agent, stream.local_rank, stream.kind, piece)
        except KeyError:
            reason = f"it sent an outcome of local rank {stream.local_rank} that cannot be"
            self._lose(agent, HostFailure(self._hosts[agent].label, "handing over outcomes", reason))
            return
        if whole:
            self._outcome_arrived(agent, stream.local_rank)

    def _outcome_arrived(self, agent: int, local_rank: int) -> None:
        self._mark(agent, Moment.OUTCOME_IN, local_rank)
        self._feed_job(Arrived(agent, local_rank))

    def _check_leases(self) -> None:
        for host in self._hosts:
            silence = self._hub.silence(host.index)
            if silence is not None and silence > self._settings.lease and host.index not in self._ended:
                reason = f"nothing was heard of it for {silence:.0f} s"
                advice = "the host or its network is down, or it is stuck; its own lease ends the workers there"
                self._lose(host.index, HostFailure(host.label, "running", reason, advice))
                self._stewards[host.index].close()

    def _check_handing_over(self, now: float) -> None:
        """Who is alive, and may send, and does not say that it has sent everything, never will."""
        for agent in self._run.job.handing_over if self._run else ():
            if now - self._moved[agent] < _HANDING_OVER or self._waits_for_credit(agent):
                continue
            reason = f"for {_HANDING_OVER:.0f} s it has sent nothing, and not said that this is all"
            self._lose(agent, HostFailure(self._hosts[agent].label, "handing over its output", reason))
            self._stewards[agent].close()

    def _waits_for_credit(self, agent: int) -> bool:
        """Whether it is this side that is slow, say because a terminal is paused."""
        return any(
            upto >= self._granted.get((number, stream), messages.WINDOWS[stream.kind])
            for (number, stream), upto in self._heard.items()
            if number == agent
        )

    def _lose(self, agent: int, failure: HostFailure) -> None:
        if agent not in self._ended:
            self._ended[agent] = failure
            self._hub.drop(agent)
            self._feed_job(Lost(agent, failure))

    # ---- the present run --------------------------------------------------------------------------------------------

    def _start_run(self, call: Pickled, preparation: Preparation, future: Future[RunReport]) -> None:
        self._runs += 1
        if self._runs > 1:
            self._recorder = Recorder(time.monotonic())
        settings = Settings(
            backend=self._settings.backend,
            nonce=self._nonce,
            torch=self._settings.torch,
            run_id=f"{self._cookie[:8]}-{self._runs}",
            start_timeout=self._settings.start_timeout,
            grace=self._settings.grace,
        )
        job = Job(self._runs, self._hosts, settings, time.monotonic(), self._hellos, self._rendezvous)
        self._run = PresentRun(self._runs, call, preparation, job, future)
        for agent, failure in self._ended.items():
            self._feed_job(Lost(agent, failure))
        self._feed_job(Tick())

    def _interrupt(self, grace: float) -> None:
        if self._run and self._run.job.over:
            self._report(self._run.number)  # only its output is waited for
        else:
            self._feed_job(Interrupted(grace))

    def _warn(self, number: int, warned: Collection[int]) -> None:
        if self._run is None:
            return
        for agent in self._hellos.keys() - self._ended.keys() - set(warned):
            self._hub.send(agent, Signal(self._run.number, number))

    def _feed_job(self, event: Event) -> None:
        if self._run is None:
            return
        for action in self._run.job.handle(event, time.monotonic()):
            match action:
                case Send(agent, message):
                    self._hub.send(agent, message)
                case Launch():
                    self._order(self._run, action)
                case Announce(text):
                    self._outputs.say(plain(text), logging.ERROR)
                case Finish():
                    self._finish(self._run)

    def _order(self, run: PresentRun, launch: Launch) -> None:
        self._rendezvous = launch.rendezvous
        for each in launch.assignments:
            flow = PayloadFlow(run.call, partial(self._send_payload, run.number, each.host.index))
            start = Start(
                run=run.number,
                generation=0,
                ranks=tuple(worker.rank for worker in each.workers),
                environments=each.environments,
                payload=flow.size,
                backend=launch.backend,
                timeout=self._settings.timeout,
                import_paths=import_paths(sys.path),
                log_level=self._settings.log_level,
                preparation=run.preparation,
                rendezvous=launch.rendezvous,
                first_gpu=each.first_gpu,
            )
            self._hub.send(each.host.index, start)
            self._mark(each.host.index, Moment.ORDERED)
            run.payloads[each.host.index] = flow
            for worker in each.workers:
                run.intake.name(each.host.index, worker)
        for flow in run.payloads.values():
            flow.pump()

    def _send_payload(self, run: int, agent: int, offset: int, body: bytes | memoryview) -> None:
        self._hub.send(agent, Data(Stream(run, -1, Kind.PAYLOAD), offset), body)

    def _finish(self, run: PresentRun) -> None:
        """The run is over; it is reported once all that it printed is written."""
        for source in run.intake.sources():
            self._outputs.end(source)
        self._outputs.when_written(partial(self._mailbox.post, partial(self._report, run.number)))

    def _report(self, number: int) -> None:
        run = self._present(number)
        if run is None:
            return  # an interrupt was faster than the output
        self._run = None
        self._outputs.say_losses()
        self._granted, self._heard = (
            {key: upto for key, upto in each.items() if key[1].run == 0} for each in (self._granted, self._heard)
        )
        run.future.set_result(RunReport(run.job, run.intake.outcomes(), self._recorder.timeline()))

    def _present(self, number: int) -> PresentRun | None:
        """The present run, if it is the one of this number: what comes of earlier ones is late."""
        return self._run if self._run and self._run.number == number else None

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _make_bootstrap(self, agent: int, endpoint: str) -> Bootstrap:
        host = self._hosts[agent]
        settings = self._settings
        return Bootstrap(
            index=agent,
            label=host.label,
            cookie=self._cookie,
            keys=self._hub.keys(agent),
            endpoints=(endpoint,),
            workers=host.workers,
            local=host.local,
            one_machine=all(each.local for each in self._hosts) or len({each.hostname for each in self._hosts}) == 1,
            cwd=settings.cwd,
            preparation=settings.preparation,
            nonce=self._nonce,
            beat=settings.beat,
            lease=settings.lease,
            grace=settings.grace,
        )

    def _mark(self, agent: int, moment: Moment, local_rank: int | None = None, marks: Sequence[Mark] = ()) -> None:
        """Notes what a host or a worker has done now, and what it says it had done before."""
        now = time.monotonic()
        rank = self._source(agent, local_rank).rank if local_rank is not None else None
        label = self._hosts[agent].label
        for mark in marks:
            if mark.name in _MOMENTS:
                self._recorder.mark(Moment(mark.name), now - mark.ago, label, rank)
        self._recorder.mark(moment, now, label, rank)

    def _source(self, agent: int, local_rank: int) -> Source:
        source = self._run.intake.source(agent, local_rank) if self._run else None
        return source or Source(self._hosts[agent].label, None, None)

    def _output_consumed(self, token: object, size: int) -> None:
        """Called by the output's threads."""
        if isinstance(token, tuple):
            self._mailbox.post(partial(self._give_credit, *token))

    def _give_credit(self, agent: int, stream: Stream, consumed: int) -> None:
        window = messages.WINDOWS[stream.kind]
        if consumed + window - self._granted.get((agent, stream), window) >= window // 4:
            self._granted[agent, stream] = consumed + window
            self._moved[agent] = time.monotonic()
            self._hub.send(agent, Credit(stream, consumed + window))

    def _say_goodbye(self) -> None:
        for host in self._hosts:
            if host.index not in self._ended and host.index in self._hellos:
                self._hub.send(host.index, Bye())
            else:
                self._stewards[host.index].close()

    def _end(self) -> None:
        self._closing = True
