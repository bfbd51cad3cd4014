"""CURVE alone: how long so many megabytes take from one host to another, in frames of 1 MB, with nothing around.

The receiver answers the driver; the sender is started by it on the other host, once for each question.
"""

from __future__ import annotations

import time

import zmq

from benchmarks.programs.talk import answer, settings

wanted = settings()
FRAME = 1 << 20


def send() -> None:
    """All of it, as fast as the receiver takes it."""
    socket = zmq.Context().socket(zmq.PUSH)
    socket.curve_secretkey, socket.curve_publickey = wanted["sender_secret"].encode(), wanted["sender_public"].encode()
    socket.curve_serverkey = wanted["receiver_public"].encode()
    socket.connect(wanted["endpoint"])
    frame = bytes(FRAME)
    for _ in range(wanted["megabytes"]):
        socket.send(frame, copy=False)
    zmq.Context.instance().term()
    socket.context.destroy(linger=60_000)


def receive(socket: zmq.Socket[bytes]) -> dict[str, float]:
    """From the first frame to the last."""
    socket.recv()
    began = time.perf_counter()
    target = bytearray(wanted["megabytes"] * FRAME)
    view = memoryview(target)
    for number in range(1, wanted["megabytes"]):
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
