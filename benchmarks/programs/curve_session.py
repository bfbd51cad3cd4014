"""CURVE alone: how long so many megabytes take from one host to another, in frames of 1 MB, with nothing around.

The receiver answers the driver; the sender is started by it on the other host, once for each question. Where the driver
wants ("by_file": true), the bytes are in memory and written to a file meanwhile, as what a worker returns is; and what
has been sent of the file is given back to its file system ("given_back": true).
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterable

import zmq

from benchmarks.programs.talk import answer, settings
from trx_agent.linux import punch_hole

wanted = settings()
FRAME, HOLE = 1 << 20, 8 << 20


def send() -> None:
    """An empty frame when it begins, then all of it, as fast as the receiver takes it."""
    value = b"x" * wanted["megabytes"] * FRAME if wanted.get("by_file") else b""
    socket = zmq.Context().socket(zmq.PUSH)
    socket.curve_secretkey, socket.curve_publickey = wanted["sender_secret"].encode(), wanted["sender_public"].encode()
    socket.curve_serverkey = wanted["receiver_public"].encode()
    socket.connect(wanted["endpoint"])
    socket.send(b"")
    for frame in by_file(value) if value else [bytes(FRAME)] * wanted["megabytes"]:
        socket.send(frame, copy=False)
    socket.context.destroy(linger=60_000)


def by_file(value: bytes) -> Iterable[bytes]:
    """Frames of a value that is written to a file, each read from there as soon as it is written."""
    starts = range(0, len(value), FRAME)
    written = threading.Semaphore(0)
    with tempfile.TemporaryFile(buffering=0) as file:

        def write() -> None:
            for start in starts:
                file.write(memoryview(value)[start : start + FRAME])
                written.release()

        threading.Thread(target=write).start()
        for start in starts:
            written.acquire()
            yield os.pread(file.fileno(), FRAME, start)
            if wanted.get("given_back") and start % HOLE == 0:
                punch_hole(file.fileno(), max(0, start - HOLE), start)


def receive(socket: zmq.Socket[bytes]) -> dict[str, float]:
    """From the beginning to the last frame."""
    socket.recv()
    began = time.perf_counter()
    target = bytearray(wanted["megabytes"] * FRAME)
    view = memoryview(target)
    for number in range(wanted["megabytes"]):
        frame = socket.recv(copy=False)
        view[number * FRAME : (number + 1) * FRAME] = frame.buffer
    return {"seconds": time.perf_counter() - began}


if wanted.get("sends"):
    send()
else:
    receiver = zmq.Context().socket(zmq.PULL)
    receiver.curve_secretkey = wanted["receiver_secret"].encode()
    receiver.curve_publickey = wanted["receiver_public"].encode()
    receiver.curve_server = True
    receiver.bind(wanted["endpoint"])
    answer()
    while input() is not None:
        answer(**receive(receiver))
