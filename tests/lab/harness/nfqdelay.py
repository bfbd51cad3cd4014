"""Latency, jitter and loss for one network namespace, for kernels without sch_netem: a consumer of an NFQUEUE.

Run inside the namespace as ``nfqdelay.py QUEUE DELAY_MS JITTER_MS LOSS_PERCENT``; prints "ready"; ends with its stdin.
Only the numbers of packets come to user space: they wait in the kernel, and their verdict is simply late.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator

NETLINK_NETFILTER = 12
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 8 << 20
QUEUE_LENGTH = 100_000

NFQUEUE = 3 << 8
MESSAGE_PACKET, MESSAGE_VERDICT, MESSAGE_CONFIG = 0, 1, 2
CONFIG_COMMAND, CONFIG_COPY, CONFIG_LENGTH, CONFIG_MASK, CONFIG_FLAGS = 1, 2, 3, 4, 5
COMMAND_BIND = 1
COPY_META = 1
FAIL_OPEN_AND_GSO = 5
PACKET_HEADER = 1
VERDICT_HEADER = 2
DROP, ACCEPT = 0, 1


def attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + b"\0" * (-length % 4)


class Queue:
    """The netlink socket that belongs to one queue."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self.socket.bind((0, 0))
        self._configure(attribute(CONFIG_COMMAND, struct.pack(">BBH", COMMAND_BIND, 0, 0)))
        self._configure(
            attribute(CONFIG_COPY, struct.pack(">IB", 0, COPY_META))
            + attribute(CONFIG_LENGTH, struct.pack(">I", QUEUE_LENGTH))
            + attribute(CONFIG_MASK, struct.pack(">I", FAIL_OPEN_AND_GSO))
            + attribute(CONFIG_FLAGS, struct.pack(">I", FAIL_OPEN_AND_GSO))
        )

    def decide(self, packet: int, verdict: int) -> None:
        self._send(MESSAGE_VERDICT, attribute(VERDICT_HEADER, struct.pack(">II", verdict, packet)))

    def packets(self) -> Iterator[int]:
        """The numbers of the packets that one read of the socket tells of."""
        try:
            data = self.socket.recv(1 << 18)
        except OSError:  # ENOBUFS: the kernel lost some notices, and lets those packets pass
            return
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            if kind == NFQUEUE | MESSAGE_PACKET:
                yield from self._packet_numbers(data, offset + 20, offset + length)
            offset += max(16, (length + 3) & ~3)

    @staticmethod
    def _packet_numbers(data: bytes, offset: int, end: int) -> Iterator[int]:
        while offset + 4 <= end:
            length, kind = struct.unpack_from("=HH", data, offset)
            if kind & 0x7FFF == PACKET_HEADER:
                yield struct.unpack_from(">I", data, offset + 4)[0]
            offset += max(4, (length + 3) & ~3)

    def _send(self, kind: int, body: bytes, flags: int = 0) -> None:
        message = struct.pack("=BBH", 0, 0, socket.htons(self._number)) + body
        self.socket.send(struct.pack("=IHHII", 16 + len(message), NFQUEUE | kind, 1 | flags, 0, 0) + message)

    def _configure(self, body: bytes) -> None:
        self._send(MESSAGE_CONFIG, body, flags=4)
        error = struct.unpack_from("=i", self.socket.recv(1 << 16), 16)[0]
        if error:
            raise OSError(-error, "the NFQUEUE cannot be configured")


def hold(queue: Queue, delay: float, jitter: float, loss: float) -> None:
    """Holds every packet for its time, until standard input ends."""
    waiting: list[tuple[float, int, int, int]] = []
    latest = 0.0
    count = 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, packet, verdict = heapq.heappop(waiting)
            queue.decide(packet, verdict)
        pause = max(0.0, waiting[0][0] - now) if waiting else None
        readable, _, _ = select.select([queue.socket, sys.stdin], [], [], pause)
        if sys.stdin in readable:
            return
        for packet in queue.packets() if readable else ():
            due = time.monotonic() + delay + random.uniform(-jitter, jitter)
            if not jitter:
                due = latest = max(due, latest)  # without jitter nothing may overtake
            count += 1
            heapq.heappush(waiting, (due, count, packet, DROP if random.random() < loss else ACCEPT))


if __name__ == "__main__":
    number, delay_ms, jitter_ms, loss_percent = sys.argv[1:]
    the_queue = Queue(int(number))
    print("ready", flush=True)
    hold(the_queue, float(delay_ms) / 1e3, float(jitter_ms) / 1e3, float(loss_percent) / 100)
