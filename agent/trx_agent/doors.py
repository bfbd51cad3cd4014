"""Finding an address of rank 0's host that every host can really reach, before any worker is told of it.

The host of rank 0 opens a door (a listening socket) at each of its addresses; the others knock at all of them. Whoever
answers with the launch's nonce is that host, and not some other machine, or the knocker's own network bridge, that has
the same address. The door that the launcher then chooses stays open, and becomes the store's socket: its port cannot be
taken by anybody else in between.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterable

from trx_agent import machine
from trx_agent.protocol.messages import Door

PATIENCE = 10.0
"""Seconds for which a door is knocked at: as long as the launcher waits for an answer (`trx.job.Settings`)."""

ATTEMPT = 2.0
"""Seconds for one attempt: the kernel repeats what was lost after 1 s, 3 s, 7 s, and a new attempt is sooner there."""

PAUSE = 0.2
HEAD_START = 0.5
_BACKLOG = 4096


class Doors:
    """The listening sockets of rank 0's host."""

    def __init__(self, one_machine: bool, nonce: bytes) -> None:
        self._nonce = nonce
        addresses = ["127.0.0.1"] if one_machine else list(machine.addresses()) or ["127.0.0.1"]
        self._sockets: dict[Door, socket.socket] = {}
        for address in addresses:
            with contextlib.suppress(OSError):  # such as an IPv6 address that is still being checked for duplicates
                listener = _listen(address)
                self._sockets[Door(address, listener.getsockname()[1])] = listener

    def all(self) -> tuple[Door, ...]:
        return tuple(self._sockets)

    def descriptors(self) -> list[int]:
        return [listener.fileno() for listener in self._sockets.values()]

    def answer(self, descriptor: int) -> None:
        """Tells whoever knocks at this door that it is the right one."""
        listener = next(each for each in self._sockets.values() if each.fileno() == descriptor)
        with contextlib.suppress(OSError):
            visitor, _ = listener.accept()
            with visitor:
                visitor.setblocking(False)
                visitor.send(self._nonce)

    def choose(self, door: Door) -> socket.socket:
        """Closes all doors but one, which is returned."""
        for other in [each for each in self._sockets if each != door]:
            self._sockets.pop(other).close()
        return self._sockets[door]


def _listen(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind((address, 0))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class Knocking:
    """Knocks at all doors at the same time, in threads, since connecting to a filtered address takes its time.

    An attempt that fails is repeated: a network that is gone for some seconds is no reason to end a launch.
    `descriptor` becomes readable whenever one more door has answered; then `reached` has the result so far. It is -1
    once nobody knocks any more.
    """

    def __init__(self, doors: Iterable[Door], nonce: bytes) -> None:
        self._nonce = nonce
        self._reached: list[tuple[Door, str]] = []
        self._over = threading.Event()
        self._telling = threading.Lock()  # so that no thread writes to what has been closed
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        before = threading.Event()
        before.set()
        for door in doors:
            tried = threading.Event()
            threading.Thread(target=self._knock, args=(door, before, tried), daemon=True).start()
            before = tried

    def reached(self) -> tuple[Door, ...]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        return tuple(door for door, _ in self._reached)

    def own_address(self, door: Door) -> str:
        """This host's address on the way to `door`."""
        return next((address for each, address in self._reached if each == door), "")

    def give_up(self) -> None:
        """Begins no further attempt, and tells of no further answer. What was found out stays."""
        with self._telling:
            if not self._over.is_set():
                self._over.set()
                os.close(self.descriptor)
                self.descriptor = -1

    def _knock(self, door: Door, before: threading.Event, tried: threading.Event) -> None:
        until = time.monotonic() + PATIENCE
        while not self._is_settled(door, before):
            tried.set()
            if self._over.wait(PAUSE) or time.monotonic() > until:
                break
        tried.set()

    def _is_settled(self, door: Door, before: threading.Event) -> bool:
        """Makes one attempt. Earlier doors are better: this one is told after them, if they do not take too long."""
        try:
            with socket.create_connection((door.address, door.port), ATTEMPT) as visitor:
                if _read(visitor, len(self._nonce)) == self._nonce:
                    before.wait(HEAD_START)
                    self._reached.append((door, visitor.getsockname()[0]))
                    self._tell()
                return True  # also where it is the door of somebody else
        except (OSError, ValueError):  # of an address that is none, and cannot be looked up either
            return False

    def _tell(self) -> None:
        with self._telling:
            if not self._over.is_set():
                os.eventfd_write(self.descriptor, 1)


def _read(visitor: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := visitor.recv(size - len(data))):
        data += chunk
    return data
