"""One run on this host, as the agent sees it: its runner, its workers, their files, and their end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from trx_agent import orders, tree
from trx_agent.forkserver import ForkServer
from trx_agent.oom import OomCounter
from trx_agent.orders import HOLD, MARKS, ORDER, PAYLOAD, RAISED, RETURNED, TORCH_IMPORTED, WORDS, WORKER_MARKS
from trx_agent.protocol import outcome
from trx_agent.protocol.decoding import Malformed
from trx_agent.protocol.link import Body
from trx_agent.protocol.messages import (
    WINDOWS,
    AnyMessage,
    Broken,
    Credit,
    Door,
    Drained,
    Ended,
    Ending,
    Exited,
    Gone,
    Killed,
    Kind,
    Mark,
    Preparation,
    Raised,
    Returned,
    Start,
    Stream,
    Up,
)
from trx_agent.streams import Outflow, last_lines
from trx_agent.watching import FileWatch

_LOGS = (Kind.STDOUT, Kind.STDERR, Kind.RECORDS)
_SENT_WHILE_GROWING = (*_LOGS, Kind.VALUE)
_STEP = 0.02
_LOOKING = 0.5
_LOOKS = 10
"""Times that a worker may be found ended before its runner has told of it, or pickling what it raises, of which there
are words already. A host that slept has looked only once."""

_LONGEST_MARKS = 4096
"""Bytes that a worker's marks have at the most, and there is room for more."""

Send = Callable[[AnyMessage, Body], None]


class Run:
    """From `Start` to `Drained`.

    Args:
        order: What the launcher wants.
        directory: The run's own, made by the caller; with a folder for each worker.
        send: Sends a message to the launcher.
        forkserver: Of all below the agent, the one process that does not belong to the run.
        grace: Seconds that processes have which the workers left running.
        local: Whether the launcher is on this machine, and reads the workers' files itself.
        watch: Tells which of the workers' files grow, and which appear.
    """

    def __init__(
        self,
        order: Start,
        directory: Path,
        send: Send,
        forkserver: ForkServer,
        grace: float,
        local: bool,
        watch: FileWatch,
    ) -> None:
        self.number = order.run
        self.finished = False
        self.stopped = False
        self.runner: socket.socket | None = None
        self._order = order
        self._directory = directory
        self._send = send
        self._forkserver = forkserver
        self._spare = {forkserver.pid}
        self._asked: frozenset[int] = frozenset()
        self._grace = grace
        self._local = local
        self._watch = watch
        self._pids: tuple[int, ...] = ()
        self._codes: dict[int, int] = {}
        self._reported: set[int] = set()
        self._runner_pid = 0
        self._headless: set[int] = set()
        self._untold: Counter[int] = Counter()  # how often a worker was found ended, by pid
        self._worded: Counter[int] = Counter()  # how often one was found pickling what it raises, by local rank
        self._next_look = 0.0
        self._held: set[int] = set()  # raised, but only after another worker had died
        self._received = 0
        self._felling: tree.Felling | None = None
        self.gone = False
        self._next_step = float("inf")
        self._oom = OomCounter()
        self._outflows: dict[Stream, Outflow] = {}
        self._holds: list[int] = []  # locks, on which workers that raised wait until the run is ended
        self._payload = orders.private_file(directory / PAYLOAD)  # filled while it arrives
        for local_rank in range(len(order.ranks)):
            self._make_folder(local_rank)

    def folder(self, local_rank: int) -> Path:
        return self._directory / str(local_rank)

    @property
    def rendezvous(self) -> Door:
        return self._order.rendezvous

    @property
    def _serves_others(self) -> bool:
        """Whether the runner holds the store of a group that has other hosts: then it stays until the launcher says."""
        first = self._order.environments[0]
        return self._order.ranks[0] == 0 and int(first["GROUP_WORLD_SIZE"]) > 1

    def remove_files(self) -> None:
        self._watch.forget(self._directory)
        if not self.finished:  # it was interrupted twice: nobody waits for the rest of its output
            self._close_runner()
            self._close_files()
        shutil.rmtree(self._directory, ignore_errors=True)

    # ---- what arrives from the launcher -----------------------------------------------------------------------------

    def take_payload(self, offset: int, body: bytes) -> bool:
        """Stores a range of the function and its arguments; returns whether it is whole now."""
        if self.gone:
            return False  # it was still under way when the run was ended
        self._payload.seek(offset)
        self._payload.write(body)
        self._received = offset + len(body)
        stream = Stream(self.number, -1, Kind.PAYLOAD)
        self._send(Credit(stream, self._received + WINDOWS[Kind.PAYLOAD]), b"")
        if self._received < self._order.payload:
            return False
        self._payload.close()
        return True

    def grant(self, stream: Stream, upto: int) -> None:
        if (outflow := self._outflows.get(stream)) and not self.finished:
            if outflow.grant(upto):
                self._pump(stream)
            if self.gone:
                self._finish_if_drained()

    def stop(self, now: float, grace: float) -> None:
        """The launcher wants the run to end; where no process of it is left here, the store for others too."""
        if self.finished:
            return  # the order was still under way
        self.stopped = True
        if self.gone:
            self._close_runner()
            self._finish_if_drained()
        else:
            self._end(now, grace)

    def warn(self, number: int) -> None:
        """Passes a signal on to the workers, which ignore it unless they catch it."""
        for local_rank, pid in enumerate(self._pids):
            if local_rank not in self._codes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def spare_the_asking(self) -> None:
        """The workers have had their SIGTERM: from whoever ends this host's part of the run."""
        self._asked = frozenset(self._pids)

    def abandon(self, now: float) -> None:
        """The runner is gone, and with it everything that could still happen in this run."""
        self._close_runner()
        self._codes = dict.fromkeys(range(len(self._pids)), -signal.SIGKILL)
        self._end(now, 0.0)

    def _end(self, now: float, grace: float) -> None:
        if self._felling is None:
            if self.runner is not None and not self._pids:
                self._spare.clear()  # the order for the runner cannot be taken back otherwise
                self._forkserver.condemned = True
            while self._holds:
                os.close(self._holds.pop())
            working = {pid for local_rank, pid in enumerate(self._pids) if local_rank not in self._reported}
            self._felling = tree.Felling(os.getpid(), self._spare, working, now, grace, self._asked)
        self._felling.hurry(now + grace)
        self.step(now)

    # ---- what happens on this host ----------------------------------------------------------------------------------

    def launch(self, connection: socket.socket, unwatch: Callable[[], object]) -> None:
        """The forkserver was asked for the runner.

        Args:
            connection: Leads to it; `hear_runner` is to be called when it is readable.
            unwatch: Called before the connection is closed.
        """
        self.runner = connection
        self._unwatch = unwatch

    def hear_runner(self, now: float) -> None:
        """Reads one report of the runner, or notices that it has died."""
        assert self.runner is not None
        data = b""
        with contextlib.suppress(ConnectionError):
            data = self.runner.recv(65536)
        if not data:
            self._runner_died(now)
            return
        try:
            report = orders.decode(data)
        except Malformed as error:
            self._send(Broken("watching the workers", str(error)), b"")
            self.abandon(now)
            return
        if isinstance(report, orders.Started):
            self._pids = report.workers
            self._runner_pid = report.runner
            self._spare.add(report.runner)
            self._send(Up(self.number, report.runner, report.workers, self._torch_imported(now)), b"")
            for local_rank in range(len(self._pids)):
                self._look_for_outcome(local_rank)
        elif isinstance(report, orders.WorkerGone):
            self._worker_gone(report, now)
        else:
            self._send(Broken("starting the workers", report.reason), b"")

    def patience(self, now: float) -> float:
        """Seconds after which `step` must be called, whatever happens."""
        return max(0.0, self._next_step - now)

    def step(self, now: float) -> None:
        """Goes on with ending the run, where it is being ended."""
        if self._felling and not self.gone:
            left = self._felling.step(now)
            self._next_step = now + _STEP
            if left is not None and (len(self._codes) == len(self._pids) or left):
                self._has_gone(tuple(tree.describe(process) for process in left))

    def look_after_workers(self, now: float) -> None:
        """Deals with what nobody will tell of: the end of a worker's first thread alone, or of a worker whose runner is
        stuck; and an exception that cannot be pickled, since a method of its own, or a device, does not answer."""
        if now < self._next_look:
            return
        self._next_look = now + _LOOKING
        for local_rank, pid in enumerate(self._pids):
            if local_rank in self._codes:
                continue
            if tree.has_lost_its_head(pid):
                self._headless.add(local_rank)
                _kill(pid)
            elif tree.has_ended(pid):
                self._untold[pid] += 1
                if self._untold[pid] == _LOOKS:
                    _kill(self._runner_pid)
            elif local_rank not in self._reported and (self.folder(local_rank) / WORDS).exists():
                self._worded[local_rank] += 1
                if self._worded[local_rank] == _LOOKS:
                    self._take_words(local_rank)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _make_folder(self, local_rank: int) -> None:
        folder = self.folder(local_rank)
        folder.mkdir(mode=0o700)
        for kind in _SENT_WHILE_GROWING:
            path = folder / kind.value
            path.touch(0o600)  # here, since torch would make the logs as public as the umask lets it
            stream = Stream(self.number, local_rank, kind)
            self._add_outflow(stream, path)
            self._watch.watch_file(path, partial(self._grown, stream))
        self._watch.watch_folder(folder, partial(self._file_appeared, local_rank))
        self._holds.append(os.open(folder / HOLD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        fcntl.flock(self._holds[-1], fcntl.LOCK_EX)

    def _grown(self, stream: Stream) -> None:
        self._pump(stream)
        if self.gone:  # what was left could not be ended, and has written something more
            self._finish_if_drained()

    def _file_appeared(self, local_rank: int, name: str) -> None:
        if name in (RETURNED, RAISED) and not self.finished:  # else it is old news
            self._look_for_outcome(local_rank)

    def _worker_gone(self, report: orders.WorkerGone, now: float) -> None:
        self._codes[report.local_rank] = report.code
        self._take_words(report.local_rank)
        self._look_for_outcome(report.local_rank)
        if report.local_rank not in self._reported:
            code = report.code
            if report.local_rank in self._headless and code == -signal.SIGKILL:
                code = 0  # we have killed what was left of it
            oom = code == -signal.SIGKILL and self._oom.has_risen()
            self._ended(report.local_rank, Exited(code) if code >= 0 else Killed(-code, oom), 0)
        held, self._held = self._held, set()
        for local_rank in held:
            self._look_for_outcome(local_rank)
        if len(self._codes) == len(self._pids):  # what the workers left running goes with them
            self._end(now, self._grace)
        else:
            self.step(now)

    def _runner_died(self, now: float) -> None:
        self._close_runner()
        if self.gone:
            self._finish_if_drained()
            return
        if not self._pids and self._forkserver.ready_since is None:
            return  # there never was one: the forkserver's imports have failed, and of its end will be heard
        # Once the run is stopped it is ours to end: no failure, whatever else has failed then.
        if not self.stopped and (len(self._codes) < len(self._pids) or not self._pids):
            self._send(Broken("watching the workers", "the process that held them died"), b"")
        self.abandon(now)

    def _look_for_outcome(self, local_rank: int) -> None:
        if local_rank in self._reported or self.gone:
            return
        if not self._pids:  # a worker can be faster than the runner's report of it
            return
        path = self._outcome(local_rank)
        if path is None:
            return
        if path.name == RAISED and self._is_preceded_by_a_death():
            self._held.add(local_rank)
            return
        ending: Ending
        if path.name == RETURNED:
            ending, stream = Returned(), Stream(self.number, local_rank, Kind.VALUE)
        else:
            ending, stream = Raised(_summary(path)), Stream(self.number, local_rank, Kind.ERROR)
            if _is_regular(path):
                self._add_outflow(stream, path)
        outflow = self._outflows.get(stream)
        self._ended(local_rank, ending, outflow.size() if outflow else 0)
        self._pump(stream)

    def _outcome(self, local_rank: int) -> Path | None:
        paths = [self.folder(local_rank) / name for name in (RETURNED, RAISED)]
        return next((path for path in paths if path.exists()), None)

    def _take_words(self, local_rank: int) -> None:
        """The words alone are the outcome where there is no other."""
        words = self.folder(local_rank) / WORDS
        if self._outcome(local_rank) is None and words.exists():
            words.rename(words.with_name(RAISED))

    def _is_preceded_by_a_death(self) -> bool:
        """Whether a worker died without a word, of which the runner will tell in a moment.

        It may be why another one raised ("connection reset by peer"), so it is reported first.
        """
        silent = [rank for rank in range(len(self._pids)) if rank not in self._reported and rank not in self._codes]
        return any(tree.has_ended(self._pids[rank]) and self._outcome(rank) is None for rank in silent)

    def _ended(self, local_rank: int, ending: Ending, size: int) -> None:
        self._reported.add(local_rank)
        for kind in _LOGS:  # what it has printed comes before the news of its end
            self._pump(Stream(self.number, local_rank, kind))
        if not isinstance(ending, Returned):
            self._drop_value(local_rank)
        folder = self.folder(local_rank)
        printed = last_lines([folder / "stdout", folder / "stderr"])
        marks = _read_marks(folder / MARKS, time.monotonic())
        self._send(Ended(self.number, local_rank, self._pids[local_rank], ending, size, printed, marks), b"")

    def _torch_imported(self, now: float) -> tuple[Mark, ...]:
        since = self._forkserver.ready_since
        return (Mark(TORCH_IMPORTED, now - since),) if since is not None else ()

    def _has_gone(self, leftovers: tuple[str, ...]) -> None:
        for local_rank in range(len(self._order.ranks)):  # whose news was not dealt with yet
            self._look_for_outcome(local_rank)
        self.gone = True
        self._next_step = float("inf")
        self._send(Gone(self.number, leftovers), b"")
        if self.stopped or not self._serves_others:
            self._close_runner()
        for local_rank in set(range(len(self._order.ranks))) - self._reported:
            self._drop_value(local_rank)
        for stream in self._outflows:
            self._pump(stream)
        self._finish_if_drained()

    def _drop_value(self, local_rank: int) -> None:
        """It is not, and will not be, whole."""
        if outflow := self._outflows.pop(Stream(self.number, local_rank, Kind.VALUE), None):
            outflow.close()

    def _close_runner(self) -> None:
        if self.runner is not None:
            self._unwatch()
            self.runner.close()
            self.runner = None

    def _add_outflow(self, stream: Stream, path: Path) -> None:
        self._outflows[stream] = Outflow(stream, path, self._local)

    def _pump(self, stream: Stream) -> None:
        if self.finished:  # nothing can have come since, but older events may have been waiting
            return
        if outflow := self._outflows.get(stream):
            for message, body in outflow.news():
                self._send(message, body)

    def _finish_if_drained(self) -> None:
        if self.finished or self.runner is not None:
            return
        if not all(outflow.drained for outflow in self._outflows.values()):
            return
        self._close_files()
        self._send(Drained(self.number), b"")

    def _close_files(self) -> None:
        self.finished = True
        for outflow in self._outflows.values():
            outflow.close()
        self._payload.close()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _summary(path: Path) -> str:
    """The worker's process can write there what it likes."""
    try:
        error, _ = outcome.unframe(_read_beginning(path, outcome.LONGEST_FRAME))
    except (OSError, Malformed) as unreadable:
        return f"something, but its outcome could not be read: {unreadable}"
    return error.summary


def _read_marks(path: Path, now: float) -> tuple[Mark, ...]:
    """The first mark of each name. On a full disk, say, there are fewer: marks are not worth failing for."""
    try:
        *lines, _ = _read_beginning(path, _LONGEST_MARKS).decode(errors="replace").split("\n")
    except OSError:
        return ()
    marks: dict[str, Mark] = {}
    for line in lines:
        name, _, at = line.partition("\t")
        if name in WORKER_MARKS and (ago := _ago(at, now)) is not None:
            marks.setdefault(name, Mark(name, ago))
    return tuple(marks.values())


def _ago(at: str, now: float) -> float | None:
    """How long before now something was done; None where it is no time of the past."""
    try:
        ago = now - float(at)
    except ValueError:
        return None
    return ago if 0 <= ago <= now else None


def _read_beginning(path: Path, size: int) -> bytes:
    """Reads a worker's file, which may be a pipe or a link by now: neither is waited for, nor followed.

    Raises:
        OSError: Where it is no regular file.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOFOLLOW)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(size)


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def write_order(order: Start, directory: Path) -> None:
    """Where the runner finds what to do. The user's variables, which it has already, are not for files."""
    order = msgspec.structs.replace(order, preparation=Preparation({}, "", ()))
    with orders.private_file(directory / ORDER) as file:
        file.write(msgspec.msgpack.encode(order))
