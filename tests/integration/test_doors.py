"""Knocking at the first host's doors, over a network that is not always there."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from trx_agent.doors import Knocking
from trx_agent.protocol.messages import Door

NONCE = b"0123456789abcdef"
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def door_of(listener: socket.socket) -> Door:
    return Door(*listener.getsockname())


def answered(knocking: Knocking) -> bool:
    return bool(select.select([knocking.descriptor], [], [], 20)[0])


def test_door_is_knocked_at_again_when_the_connection_breaks(listener: socket.socket) -> None:
    knocking = Knocking([door_of(listener)], NONCE)
    for _ in range(3):
        visitor, _ = listener.accept()
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        visitor.close()
    visitor, _ = listener.accept()
    with visitor:
        visitor.sendall(NONCE)
        assert answered(knocking)
    assert knocking.reached() == (door_of(listener),)
    assert knocking.own_address(door_of(listener)) == "127.0.0.1"


def test_door_that_does_not_answer_is_knocked_at_again(listener: socket.socket) -> None:
    knocking = Knocking([door_of(listener)], NONCE)
    silent, _ = listener.accept()
    with silent:
        visitor, _ = listener.accept()
    with visitor:
        visitor.sendall(NONCE)
        assert answered(knocking)


def test_door_that_cannot_be_reached_holds_up_no_other_one(listener: socket.socket) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # refuses, since it does not listen
        knocking = Knocking([door_of(closed), door_of(listener)], NONCE)
        visitor, _ = listener.accept()
        with visitor:
            visitor.sendall(NONCE)
            assert answered(knocking)
        assert knocking.reached() == (door_of(listener),)
        knocking.give_up()


def test_door_of_somebody_else_is_knocked_at_once(listener: socket.socket) -> None:
    before = set(threading.enumerate())
    knocking = Knocking([door_of(listener)], NONCE)
    (thread,) = set(threading.enumerate()) - before
    visitor, _ = listener.accept()
    with visitor:
        visitor.sendall(b"SSH-2.0-OpenSSH_")
    thread.join(20)
    assert not thread.is_alive()
    assert knocking.reached() == ()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_nobody_knocks_any_more_once_a_door_is_chosen(listener: socket.socket) -> None:
    before = set(threading.enumerate())
    knocking = Knocking([door_of(listener)], NONCE)
    (thread,) = set(threading.enumerate()) - before
    visitor, _ = listener.accept()
    knocking.give_up()
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    visitor.close()
    thread.join(20)
    assert not thread.is_alive()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_nothing_stays_open_once_a_door_is_chosen_and_an_answer_that_comes_late_disturbs_nobody(
    listener: socket.socket,
) -> None:
    before, threads = os.listdir("/proc/self/fd"), set(threading.enumerate())
    knocking = Knocking([door_of(listener)], NONCE)
    (thread,) = set(threading.enumerate()) - threads
    descriptor = knocking.descriptor
    visitor, _ = listener.accept()
    with visitor:
        knocking.give_up()
        knocking.give_up()
        somebody_elses = os.eventfd(0, os.EFD_NONBLOCK)
        assert somebody_elses == descriptor
        visitor.sendall(NONCE)
        thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(somebody_elses)
    os.close(somebody_elses)
    assert knocking.own_address(door_of(listener)) == "127.0.0.1"
    assert os.listdir("/proc/self/fd") == before
