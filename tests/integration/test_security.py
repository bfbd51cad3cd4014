"""Who gets in: nobody but the agents of this launch, whatever is sent to the launcher's port. See SECURITY.md."""

from __future__ import annotations

import logging
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import psutil
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

import trx
import trx.engine
import trx.hosts
from trx.hub import Hub, HubError
from trx_agent.doors import Doors, Knocking
from trx_agent.protocol import payload, records
from trx_agent.protocol.bootstrap import HEAD, MARKER, NOISE, Bootstrap, Keys, Ready, Status, status_line, unframe
from trx_agent.protocol.link import Body, Packet
from trx_agent.protocol.messages import (
    AnyMessage,
    Beat,
    Bye,
    Data,
    DataInFile,
    Door,
    Drained,
    Ended,
    Envelope,
    Gone,
    Hello,
    Kind,
    Raised,
    Returned,
    Start,
    Stop,
    Stream,
    Up,
    decode,
    encode,
)
from trx_agent.uplink import Uplink

from .helpers import Script, rank, signal_file, travels_by_value, wait_until

travels_by_value(__name__)

MEGABYTE = 1 << 20
ROOM = 16 * MEGABYTE
"""What a stranger may cost."""

MANY = 500
"""Idle connections."""

GREETING = b"\xff" + 8 * b"\0" + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + 32 * b"\0"
"""How ZeroMQ's protocol (ZMTP 3.0) begins, for a client that will use CURVE."""


class Canary:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def canary_bytes(path: Path) -> bytes:
    return b"".join(bytes(piece) for piece in payload.dumps(Canary(path)).encode())


# ---- a launch that goes on while it is attacked ---------------------------------------------------------------------


class SpiedHub(Hub):
    """The launcher's own, which the tests can ask for its keys."""

    made: ClassVar[list[SpiedHub]] = []

    def __init__(self, agents: int, beat: float) -> None:
        super().__init__(agents, beat)
        self.made.append(self)

    @property
    def port(self) -> int:
        (endpoint,) = self._endpoints.values()
        return int(endpoint.rpartition(":")[2])


@dataclass
class Target:
    """An open launcher of two agents, and what listened in this process before."""

    launcher: trx.Launcher
    hub: SpiedHub
    before: set[tuple[str, int]]


@pytest.fixture(scope="module")
def workers(open_log_base: Path) -> Iterator[Target]:  # named so that xdist keeps its users together
    before = listening(os.getpid())
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TRX_LOG_DIR", str(open_log_base / "attacked"))
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # as in every test: a change would make new processes
        monkeypatch.setattr(trx.engine, "Hub", SpiedHub)
        launcher = trx.Launcher(["localhost", "localhost"], 1, backend=None, grace_period=1.0)
        with launcher:
            launcher.run(os.getpid)
            yield Target(launcher, SpiedHub.made[-1], before)


@dataclass(frozen=True)
class Present:
    """The run that is going on."""

    number: int
    store: tuple[str, int]


@contextmanager
def running(target: Target, directory: Path) -> Iterator[Present]:
    """A run that goes on until the block is left, and must then end well."""

    def work() -> int:
        if rank() == 0:
            names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
            (directory / "run").write_text(" ".join(os.environ[name] for name in names))
        signal_file(directory / f"up.{rank()}")
        deadline = time.monotonic() + 50
        while not (directory / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return rank()

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(target.launcher.run, work)
        try:
            wait_until(lambda: run.done() or all((directory / f"up.{each}").exists() for each in (0, 1)), "workers up")
            run_id, address, port = (directory / "run").read_text().split()
            yield Present(int(run_id.rpartition("-")[2]), (address, int(port)))
        finally:
            signal_file(directory / "go")
        assert list(run.result(20)) == [0, 1]


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports at which a process waits for strangers, by TCP or UDP."""
    return {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }


# ---- 1. nothing is unpickled before its sender is authenticated -----------------------------------------------------


def forged_run(canary: bytes, run: int) -> list[tuple[bytes, bytes]]:
    """Packets that end any run of one worker with the canary as its value, however many were received before."""
    packets: list[tuple[bytes, bytes]] = []
    for number in range(1, 80):
        messages: list[tuple[AnyMessage, bytes]] = [
            (Ended(run, 0, 1, Returned(), len(canary), ""), b""),
            (Data(Stream(run, 0, Kind.VALUE), 0), canary),
            (Gone(run, ()), b""),
            (Drained(run), b""),
        ]
        packets += [(encode(Envelope(number + i, 0, message)), body) for i, (message, body) in enumerate(messages)]
    return packets


Configure = Callable[[zmq.Socket[bytes], Hub], None]


def with_null(peer: zmq.Socket[bytes], hub: Hub) -> None:
    pass


def with_plain(peer: zmq.Socket[bytes], hub: Hub) -> None:
    peer.plain_username, peer.plain_password = b"0", b"0"


def use(peer: zmq.Socket[bytes], server: bytes, public: bytes, secret: bytes) -> None:
    peer.curve_serverkey, peer.curve_publickey, peer.curve_secretkey = server, public, secret


def without_the_server_key(peer: zmq.Socket[bytes], hub: Hub) -> None:
    use(peer, zmq.curve_keypair()[0], *zmq.curve_keypair())


def with_an_agents_key_but_not_the_servers(peer: zmq.Socket[bytes], hub: Hub) -> None:
    use(peer, zmq.curve_keypair()[0], hub.keys(0).agent_public, hub.keys(0).agent_secret)


def with_keys_of_its_own(peer: zmq.Socket[bytes], hub: Hub) -> None:
    use(peer, hub.keys(0).launcher_public, *zmq.curve_keypair())


def with_the_servers_own_public_key(peer: zmq.Socket[bytes], hub: Hub) -> None:
    use(peer, hub.keys(0).launcher_public, hub.keys(0).launcher_public, zmq.curve_keypair()[1])


def with_an_agents_public_key_but_not_its_secret(peer: zmq.Socket[bytes], hub: Hub) -> None:
    use(peer, hub.keys(0).launcher_public, hub.keys(0).agent_public, zmq.curve_keypair()[1])


def with_all_keys_of_another_launch(peer: zmq.Socket[bytes], hub: Hub) -> None:
    keys = keys_of_another_launch()
    use(peer, keys.launcher_public, keys.agent_public, keys.agent_secret)


def with_an_agents_keys_of_another_launch(peer: zmq.Socket[bytes], hub: Hub) -> None:
    keys = keys_of_another_launch()
    use(peer, hub.keys(0).launcher_public, keys.agent_public, keys.agent_secret)


def keys_of_another_launch() -> Keys:
    other = Hub(1, 1.0)
    try:
        return other.keys(0)
    finally:
        other.close(0.0)


@contextmanager
def dealer(endpoint: str, configure: Callable[[zmq.Socket[bytes]], object]) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    try:
        peer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        configure(peer)
        peer.connect(endpoint)
        yield peer
    finally:
        context.destroy(linger=0)


def is_let_in(monitor: Any, within: float = 10.0) -> bool:
    """Whether the first handshake of a socket that is monitored succeeds."""
    deadline = time.monotonic() + within
    while monitor.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        event = recv_monitor_message(monitor)["event"]
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            return True
        if event in (zmq.Event.DISCONNECTED, zmq.Event.HANDSHAKE_FAILED_AUTH, zmq.Event.HANDSHAKE_FAILED_PROTOCOL):
            return False
    raise TimeoutError("the launcher neither let the peer in nor refused it")


@pytest.mark.parametrize(
    "configure",
    [
        with_null,
        with_plain,
        without_the_server_key,
        with_an_agents_key_but_not_the_servers,
        with_keys_of_its_own,
        with_the_servers_own_public_key,
        with_an_agents_public_key_but_not_its_secret,
        with_all_keys_of_another_launch,
        with_an_agents_keys_of_another_launch,
    ],
)
def test_peers_without_keys_of_this_launch_are_refused(workers: Target, tmp_path: Path, configure: Configure) -> None:
    canary = tmp_path / "canary"
    monitors: list[Any] = []

    def prepare(peer: zmq.Socket[bytes]) -> None:
        configure(peer, workers.hub)
        monitors.append(peer.get_monitor_socket())
        peer.sndhwm = 0

    with running(workers, tmp_path) as run, dealer(f"tcp://127.0.0.1:{workers.hub.port}", prepare) as peer:
        with suppress(zmq.Again):  # refused already
            for packet in forged_run(canary_bytes(canary), run.number):
                peer.send_multipart(packet, zmq.NOBLOCK)
        let_in = is_let_in(monitors[0])
        if let_in:  # they would arrive now
            with pytest.raises(TimeoutError):
                wait_until(canary.exists, "unpickled", 2)

    assert not let_in
    assert not canary.exists()


@pytest.mark.parametrize("beginning", [b"", GREETING], ids=["at once", "after a greeting"])
def test_what_a_plain_tcp_client_sends_is_never_unpickled(workers: Target, tmp_path: Path, beginning: bytes) -> None:
    canary = tmp_path / "canary"
    data = canary_bytes(canary)
    with running(workers, tmp_path) as run:
        packets = forged_run(data, run.number)
        for message in (data, payload.dumps(Canary(canary)).pickle, b"".join(b"".join(each) for each in packets)):
            with socket.create_connection(("127.0.0.1", workers.hub.port), 10) as stranger:
                assert b"READY" not in answer_to(stranger, beginning + message)

    assert not canary.exists()


def answer_to(stranger: socket.socket, data: bytes) -> bytes:
    """Sends, and returns everything that comes back until the connection ends, which it must."""
    answer = b""
    try:
        stranger.sendall(data)
        while chunk := stranger.recv(65536):
            answer += chunk
    except (ConnectionResetError, BrokenPipeError):
        pass
    return answer


# ---- agents of this launch ------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The socket of a launch of two agents."""
    made = Hub(2, 1.0)
    made.listen("127.0.0.1")
    yield made
    made.close(0.0)


def as_agent(hub: Hub, agent: int) -> Callable[[zmq.Socket[bytes]], None]:
    keys = hub.keys(agent)
    return lambda peer: use(peer, keys.launcher_public, keys.agent_public, keys.agent_secret)


def hears(hub: Hub, until: Callable[[list[Any]], object], within: float = 10.0) -> list[Any]:
    """What arrives: messages with the agents that they are from, and breaches of the protocol."""
    heard: list[Any] = []
    deadline = time.monotonic() + within
    while not until(heard):
        assert time.monotonic() < deadline, f"{len(heard)} heard, the last of them {heard[-1:]}"
        hub.poll(0.05)
        try:
            for agent, message, body in hub.receive():
                heard.append((agent, message, body))
        except HubError as error:
            heard.append(error)
    return heard


def packet(number: int, message: AnyMessage, body: bytes = b"") -> list[bytes]:
    return [encode(Envelope(number, 0, message)), body]


def test_an_agent_is_known_by_its_key_whatever_it_claims_to_be(hub: Hub) -> None:
    hello, up = Hello(1, 0, 1, (), 7), Up(1, 2, (3,))

    def claims(agent: int, name: bytes) -> zmq.Socket[bytes]:
        def configure(peer: zmq.Socket[bytes]) -> None:
            as_agent(hub, agent)(peer)
            peer.routing_id = name

        return stack.enter_context(dealer(hub.listen("127.0.0.1"), configure))

    with ExitStack() as stack:
        honest = claims(0, b"first")
        honest.send_multipart(packet(1, hello))
        assert hears(hub, len) == [(0, hello, b"")]
        for number, name in enumerate([b"0", b"second", b"localhost"], start=1):
            claims(1, name).send_multipart(packet(number, up))
            assert hears(hub, len) == [(1, up, b"")]
        namesake = claims(1, b"first")
        namesake.send_multipart(packet(4, up))

        hub.send(0, Stop(1, 0.5))
        assert honest.poll(5000)
        honest.send_multipart(packet(2, Drained(1)))
        assert [each for each in hears(hub, lambda heard: (0, Drained(1), b"") in heard) if each[0] == 0]
        assert namesake.poll(0) == 0


@pytest.mark.parametrize("seed", range(3))
def test_mutated_packets_of_an_agent_are_breaches_of_that_agent_and_of_nobody_else(
    hub: Hub, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    canary = tmp_path / "canary"
    originals = [
        packet(1, Hello(1, 0, 1, (Door("127.0.0.1", 1),), 7)),
        packet(2, Ended(1, 0, 1, Returned(), 999, "text")),
        packet(3, Data(Stream(1, 0, Kind.VALUE), 0), canary_bytes(canary)),
        packet(4, Gone(1, ("one", "two"))),
    ]
    last = [encode(Envelope(1, 999_999, Beat())), b""]
    with (
        dealer(hub.listen("127.0.0.1"), as_agent(hub, 1)) as rogue,
        dealer(hub.listen("127.0.0.1"), as_agent(hub, 0)) as honest,
    ):
        for _ in range(400):
            rogue.send_multipart(mutated(chance, chance.choice(originals)))
        rogue.send_multipart(last)
        heard = hears(hub, lambda heard: heard and "999999" in str(heard[-1]))
        honest.send_multipart(originals[0])
        assert hears(hub, len)[-1][0] == 0

    breaches = [each for each in heard if isinstance(each, HubError)]
    assert len(breaches) > 100
    assert {each.agent for each in breaches} == {1}
    assert {each[0] for each in heard if not isinstance(each, HubError)} <= {1}
    assert not canary.exists()


def mutated(chance: random.Random, frames: list[bytes]) -> list[bytes]:
    header = bytearray(frames[0])
    how = chance.randrange(6)
    if how == 0:
        del header[chance.randrange(len(header)) :]
    elif how == 1:
        header[chance.randrange(len(header))] ^= 1 << chance.randrange(8)
    elif how == 2:
        header = bytearray(chance.randbytes(chance.randrange(1, 50)))
    elif how == 3:
        header += chance.randbytes(4)
    elif how == 4:
        return [bytes(header)]
    else:
        return [bytes(header), *frames[1:], b"one more"]
    return [bytes(header), *frames[1:]]


class Puppet:
    """An agent that says what a test wants, at the other end of the launcher's channel to it."""

    def __init__(self) -> None:
        self._written: SimpleQueue[bytes] = SimpleQueue()
        self._printed: SimpleQueue[bytes] = SimpleQueue()
        self._number = 0

    # what the launcher uses of a channel

    def open(self) -> None:
        pass

    def launcher_address(self) -> str:
        return "127.0.0.1"

    def forward(self, port: int) -> int:
        return port

    def write(self, data: bytes) -> None:
        self._written.put(data)

    def read(self) -> bytes:
        return self._printed.get()

    def wait(self, timeout: float) -> int:
        return 0

    def close(self) -> None:
        self._printed.put(b"")

    # what a test does

    def bootstrap(self) -> Bootstrap:
        _, _, frame = self._written.get(timeout=20).partition(b"\n")
        return unframe(frame[HEAD:])

    def answer(self, status: Status) -> None:
        self.print(b"\n" + status_line(status))

    def print(self, data: bytes) -> None:
        self._printed.put(data)

    def connect(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        self._socket = socket
        self.endpoint = endpoint

    def say(self, message: AnyMessage, body: bytes = b"") -> None:
        self._number += 1
        self._socket.send_multipart(packet(self._number, message, body))

    def say_raw(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def hear(self, kind: type[Any]) -> Any:
        """Waits for a message of a kind."""
        while self._socket.poll(20_000):
            header, _ = self._socket.recv_multipart()
            message = decode(header).message
            if isinstance(message, kind):
                return message
        raise TimeoutError(f"no {kind.__name__} came")

    def end(self) -> None:
        """Does what an agent does when it is told goodbye."""
        self.hear(Bye)
        self.close()


@contextmanager
def launched(puppet: Puppet, hostname: str = "localhost") -> Iterator[Future[Any]]:
    """A launch on one host, whose agent is the puppet."""
    with pytest.MonkeyPatch.context() as monkeypatch, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(trx.hosts, "make_channel", lambda *_, **__: puppet)
        settings: Any = {"workers_per_host": 1, "backend": None, "grace_period": 0.5, "start_timeout": 20}
        settings |= {"lease": 100}  # so that no puppet is given up for its silence, whatever else it has done
        try:
            yield pool.submit(trx.Launcher([hostname], **settings).run, os.getpid)
        finally:
            puppet.close()


@contextmanager
def greeting_puppet(
    endpoint_for: Callable[[str], str] = str, hostname: str = "localhost"
) -> Iterator[tuple[Puppet, Future[Any]]]:
    """A launch that waits for the puppet to say hello."""
    puppet = Puppet()
    with launched(puppet, hostname) as run:
        bootstrap = puppet.bootstrap()
        puppet.answer(Ready())
        keys = bootstrap.keys
        with dealer(
            endpoint_for(bootstrap.endpoints[0]),
            lambda peer: use(peer, keys.launcher_public, keys.agent_public, keys.agent_secret),
        ) as socket:
            puppet.connect(socket, bootstrap.endpoints[0])
            yield puppet, run


@contextmanager
def running_puppet(
    endpoint_for: Callable[[str], str] = str, hostname: str = "localhost"
) -> Iterator[tuple[Puppet, Future[Any]]]:
    """A launch whose function is called on the puppet's one worker."""
    with greeting_puppet(endpoint_for, hostname) as (puppet, run):
        puppet.say(Hello(1, 0, 1, (Door("127.0.0.1", 1),), 4242))
        puppet.hear(Start)
        puppet.say(Up(1, 4243, (4244,)))
        yield puppet, run


def finish(puppet: Puppet, value: bytes) -> None:
    puppet.say(Ended(1, 0, 4244, Returned(), len(value), ""))
    puppet.say(Data(VALUE, 0), value)
    puppet.say(Gone(1, ()))
    puppet.say(Drained(1))
    puppet.end()


def test_what_an_agent_of_this_launch_sends_is_unpickled(tmp_path: Path) -> None:
    """The canary does show what it is to show."""
    with running_puppet() as (puppet, run):
        finish(puppet, canary_bytes(tmp_path / "canary"))
        run.result(20)
    assert (tmp_path / "canary").exists()


VALUE, ERROR = Stream(1, 0, Kind.VALUE), Stream(1, 0, Kind.ERROR)

SOON = 15.0
"""Seconds within which what is wrong must be said, on a busy machine."""


def garbage(puppet: Puppet) -> None:
    puppet.say_raw(b"\xc1garbage", b"")


BEAT = b"\x91\xa4Beat"
DEEP = b"\x91" * 100_000 + b"\x01"
"""Nested more deeply than anybody may follow."""


def deep_header(puppet: Puppet) -> None:
    puppet.say_raw(DEEP, b"")


def deep_field_behind_a_header(puppet: Puppet) -> None:
    puppet.say_raw(b"\x94\x00\x00" + BEAT + DEEP, b"")


def deep_field_of_a_message(puppet: Puppet) -> None:
    puppet.say_raw(b"\x93\x03\x00\x92\xa4Beat" + DEEP, b"")


def header_that_is_no_text(puppet: Puppet) -> None:
    puppet.say_raw(b"\x93\x03\x00\x91\xa4\xff\xfe\xfd\xfc", b"")


def header_that_promises_very_much(puppet: Puppet) -> None:
    puppet.say_raw(b"\x93\x03\x00\x92\xa7Reached\xdd\xff\xff\xff\xff", b"")


def stream_that_only_the_launcher_sends(puppet: Puppet) -> None:
    puppet.say(Data(Stream(1, 0, Kind.PAYLOAD), 0), b"1234")


def one_frame(puppet: Puppet) -> None:
    puppet.say_raw(encode(Envelope(3, 0, Beat())))


def three_frames(puppet: Puppet) -> None:
    puppet.say_raw(encode(Envelope(3, 0, Beat())), b"", b"")


def no_frame_at_all(puppet: Puppet) -> None:
    puppet.say_raw(b"")


def acknowledges_what_was_never_sent(puppet: Puppet) -> None:
    puppet.say_raw(encode(Envelope(3, 999, Beat())), b"")


def exception_that_was_not_announced(puppet: Puppet) -> None:
    puppet.say(Data(ERROR, 0), b"much too early")


def outcome_of_a_worker_that_does_not_exist(puppet: Puppet) -> None:
    puppet.say(Ended(1, 7, 4244, Returned(), 4, ""))
    puppet.say(Data(Stream(1, 7, Kind.VALUE), 0), b"1234")


def value_of_a_worker_that_does_not_exist(puppet: Puppet) -> None:
    puppet.say(Data(Stream(1, 7, Kind.VALUE), 0), b"1234")


def outcome_of_a_negative_size(puppet: Puppet) -> None:
    puppet.say(Ended(1, 0, 4244, Returned(), -5, ""))
    puppet.say(Data(VALUE, 0), b"1234")
    puppet.say(Gone(1, ()))
    puppet.say(Drained(1))


def outcome_of_more_bytes_than_were_announced(puppet: Puppet) -> None:
    puppet.say(Ended(1, 0, 4244, Returned(), 100, ""))
    puppet.say(Data(VALUE, 0), bytes(200))
    puppet.say(Gone(1, ()))
    puppet.say(Drained(1))
    puppet.end()


def outcome_of_more_than_all_memory(puppet: Puppet) -> None:
    puppet.say(Ended(1, 0, 4244, Returned(), 1 << 60, ""))
    puppet.say(Data(VALUE, 0), payload.HEADER.pack(payload.MAGIC, (1 << 57) - 5))
    puppet.say(Gone(1, ()))
    puppet.say(Drained(1))
    puppet.end()


def description_of_an_exception_that_is_cut_off(puppet: Puppet) -> None:
    puppet.say(Ended(1, 0, 4244, Raised("Error: here"), 6, ""))
    puppet.say(Data(ERROR, 0), b"\x00\x00\xff\xff12")
    puppet.say(Gone(1, ()))
    puppet.say(Drained(1))
    puppet.end()


def description_of_an_exception_that_is_none(puppet: Puppet) -> None:
    puppet.say(Ended(1, 0, 4244, Raised("Error: here"), 6, ""))
    puppet.say(Data(ERROR, 0), b"\x00\x00\x00\x0212")
    puppet.say(Gone(1, ()))
    puppet.say(Drained(1))
    puppet.end()


def file_of(puppet: Puppet, path: str, size: int, offset: int = 0) -> None:
    puppet.say(Ended(1, 0, 4244, Returned(), 100, ""))
    puppet.say(DataInFile(VALUE, offset, size, path))


def file_that_is_not_there(puppet: Puppet) -> None:
    file_of(puppet, "/nonexistent/file", 10)


def file_that_is_a_directory(puppet: Puppet) -> None:
    file_of(puppet, "/", 10)


def file_of_no_name(puppet: Puppet) -> None:
    file_of(puppet, "a\0b", 10)


def file_that_fills_all_memory(puppet: Puppet) -> None:
    file_of(puppet, "/dev/zero", 1 << 60)


def file_of_a_negative_size(puppet: Puppet) -> None:
    file_of(puppet, "/dev/zero", -1)


def file_before_its_beginning(puppet: Puppet) -> None:
    file_of(puppet, "/dev/zero", 10, -10)


def end_that_is_told_twice(puppet: Puppet) -> None:
    puppet.say(Ended(1, 0, 4244, Returned(), 100, ""))
    puppet.say(Ended(1, 0, 4244, Returned(), 100, ""))


def second_hello(puppet: Puppet) -> None:
    puppet.say(Hello(1, 0, 1, (), 4242))


def more_output_than_there_is_credit_for(puppet: Puppet) -> None:
    for number in range(100):  # much faster than credit comes
        puppet.say(Data(Stream(0, -1, Kind.AGENT), number * MEGABYTE), bytes(MEGABYTE))


def output_that_was_sent_before(puppet: Puppet) -> None:
    puppet.say(Data(Stream(1, 0, Kind.STDERR), 0), b"12345")
    puppet.say(Data(Stream(1, 0, Kind.STDERR), 0), b"12345")


MADE_BY_A_WORKER = (
    outcome_of_more_bytes_than_were_announced,
    description_of_an_exception_that_is_cut_off,
    description_of_an_exception_that_is_none,
)
"""The agent passes on what is in files that the worker's process can write to."""


NOTICED = ("talking to the launcher", "handing over outcomes", "handing over the outcomes")
"""Stages of failures for what an agent says, and not for how long it takes."""


@pytest.mark.parametrize(
    "misbehave",
    [
        garbage,
        deep_header,
        deep_field_behind_a_header,
        deep_field_of_a_message,
        header_that_is_no_text,
        header_that_promises_very_much,
        stream_that_only_the_launcher_sends,
        one_frame,
        three_frames,
        no_frame_at_all,
        acknowledges_what_was_never_sent,
        exception_that_was_not_announced,
        value_of_a_worker_that_does_not_exist,
        outcome_of_a_worker_that_does_not_exist,
        outcome_of_a_negative_size,
        outcome_of_more_bytes_than_were_announced,
        outcome_of_more_than_all_memory,
        description_of_an_exception_that_is_cut_off,
        description_of_an_exception_that_is_none,
        end_that_is_told_twice,
        second_hello,
        more_output_than_there_is_credit_for,
        output_that_was_sent_before,
        file_that_is_not_there,
        file_that_is_a_directory,
        file_of_no_name,
        file_that_fills_all_memory,
        file_of_a_negative_size,
        file_before_its_beginning,
    ],
)
def test_malformed_messages_of_an_agent_are_errors_that_name_it(misbehave: Callable[[Puppet], None]) -> None:
    start = time.monotonic()
    with running_puppet() as (puppet, run):
        misbehave(puppet)
        error = run.exception(20)
    if misbehave in MADE_BY_A_WORKER:
        assert isinstance(error, trx.WorkerFailedError), repr(error)
    else:
        assert isinstance(error, trx.AgentFailedError), repr(error)
        assert error.failures[0].stage in NOTICED, repr(error)
    assert error.hostname == "localhost"
    assert time.monotonic() - start < SOON


class SpoiltHub(Hub):
    """Sends agents a malformed header in place of each `Start`."""

    def send(self, agent: int, message: AnyMessage, body: Body = b"") -> None:
        if isinstance(message, Start):
            self._transmit(agent, Packet(b"\x94\x00\x00" + BEAT + DEEP))
        else:
            super().send(agent, message, body)


def test_a_malformed_message_of_the_launcher_ends_the_agent_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trx.engine, "Hub", SpoiltHub)
    with pytest.raises(trx.AgentFailedError, match="the launcher sent what is no message: malformed header") as caught:
        trx.launch(os.getpid, hostnames=["localhost"], workers_per_host=1, backend=None, grace_period=0.5)
    assert caught.value.hostname == "localhost"


# ---- what a worker writes where trx reads ---------------------------------------------------------------------------


def own_folder() -> tuple[Path, int]:
    """Of a worker: where its files are, and the descriptor of its records."""
    descriptor: int = next(each._descriptor for each in logging.root.handlers if hasattr(each, "_descriptor"))
    return Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent, descriptor


def writes_records(bodies: list[bytes]) -> Callable[[], int]:
    def work() -> int:
        if rank() == 0:
            _, descriptor = own_folder()
            logging.warning("before")
            for body in bodies:
                os.write(descriptor, len(body).to_bytes(4, "big") + body)
            logging.warning("after")
        return rank()

    return work


GOOD_RECORD = records.encode(records.Record("a", 30, 1.5, "good"))[4:]
RECORDS = {
    "deep behind its fields": b"\x99" + GOOD_RECORD[1:] + DEEP,
    "deep": DEEP,
    "no text": b"\x94\xa2\xff\xfe\x14\xcb" + bytes(8) + b"\xa1m",
    "cut off": GOOD_RECORD[:-2],
    "level out of range": b"\x94\xa1a\xcf" + b"\xff" * 8 + b"\xcb" + bytes(8) + b"\xa1m",
}


@pytest.mark.parametrize("bad", RECORDS.values(), ids=RECORDS)
def test_a_malformed_record_of_a_worker_is_left_out_and_told_of_once(
    bad: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRX_LOG_DIR", str(tmp_path))
    result = trx.launch(writes_records([bad, bad]), hostnames=["localhost"], workers_per_host=2, backend=None)
    assert list(result) == [0, 1]
    (log,) = tmp_path.glob("*/localhost?0?.log")
    assert [line.rpartition(" ")[2] for line in log.read_text().splitlines()] == ["before", "after"]
    (warning,) = [text for text in caplog.messages if "malformed" in text]
    assert "localhost[0]" in warning
    assert "rank 0" in warning


def test_times_of_records_that_are_none_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRX_LOG_DIR", str(tmp_path))
    times = (float("nan"), float("inf"), float("-inf"), 1e300, -1e18)
    bodies = [records.encode(records.Record("a", 30, created, "odd"))[4:] for created in times]
    trx.launch(writes_records(bodies), hostnames=["localhost"], workers_per_host=1, backend=None)
    (log,) = tmp_path.glob("*/localhost?0?.log")
    words = [line.rpartition(" ")[2] for line in log.read_text().splitlines()]
    assert words == ["before", *["odd"] * len(times), "after"]
    assert not [text for text in caplog.messages if "malformed" in text or "no more output" in text]


RAISED_FILES = {
    "garbage": b"\x00\x00\x00\x05hello",
    "empty": b"",
    "deep": len(DEEP).to_bytes(4, "big") + DEEP,
    "longer than it is": b"\xff\xff\xff\xff",
    "deep behind its fields": (lambda body: len(body).to_bytes(4, "big") + body)(
        b"\x85\xa5stage\xa1s\xa4kind\xa1k\xa7message\xa1m\xa9traceback\xa1t\xa1x" + DEEP
    ),
}


@pytest.mark.parametrize("content", RAISED_FILES.values(), ids=RAISED_FILES)
def test_an_outcome_that_cannot_be_read_is_a_failure_of_its_worker(content: bytes) -> None:
    def work() -> None:
        if rank() == 1:
            folder, _ = own_folder()
            (folder / "other").write_bytes(content)
            (folder / "other").rename(folder / "raised")
        time.sleep(60)

    with pytest.raises(trx.WorkerFailedError, match="its outcome could not be read") as caught:
        trx.launch(work, hostnames=["localhost"], workers_per_host=2, backend=None, grace_period=0.5)
    assert (caught.value.rank, caught.value.hostname) == (1, "localhost")


def test_marks_of_a_worker_are_bounded() -> None:
    def work() -> None:
        folder, _ = own_folder()
        with open(folder / "marks", "a") as file:
            file.write("function called\tnan\nfunction called\t-1e308\n" + "function loaded\t1\n" * 300_000)

    timeline = trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None).timeline
    assert len(timeline.marks) < 20
    assert timeline.last("function loaded") is not None
    assert "function loaded" in str(timeline)


@pytest.mark.parametrize("arrived", [0, 3])
def test_an_agent_that_lives_and_does_not_hand_over_what_it_announced_is_given_up(
    arrived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trx.engine, "_HANDING_OVER", 1.0)
    with running_puppet() as (puppet, run):
        puppet.say(Ended(1, 0, 4244, Returned(), 10, ""))
        if arrived:
            puppet.say(Data(VALUE, 0), bytes(arrived))
        puppet.say(Gone(1, ()))
        error = run.exception(SOON)
    assert isinstance(error, trx.AgentFailedError), repr(error)
    assert error.failures[0].stage == "handing over its output"


def test_a_pipe_instead_of_a_file_does_not_stop_the_launcher(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with running_puppet() as (puppet, run):
        file_of(puppet, str(tmp_path / "pipe"), 10)
        error = run.exception(SOON)
    assert isinstance(error, trx.AgentFailedError), repr(error)


def test_an_agent_on_another_machine_cannot_have_files_of_this_one_read(tmp_path: Path) -> None:
    value = canary_bytes(tmp_path / "canary")
    (tmp_path / "file").write_bytes(value)
    with running_puppet(hostname="elsewhere.invalid") as (puppet, run):
        puppet.say(Ended(1, 0, 4244, Returned(), len(value), ""))
        puppet.say(DataInFile(VALUE, 0, len(value), str(tmp_path / "file")))
        error = run.exception(20)
    assert isinstance(error, trx.AgentFailedError), repr(error)
    assert error.hostname == "elsewhere.invalid"
    assert "it names a file, but is on another machine" in str(error)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("workers", [0, -1, -(1 << 40), 2, 1 << 40])
def test_a_host_that_offers_other_workers_than_were_asked_for_is_an_error_that_names_it(workers: int) -> None:
    with greeting_puppet() as (puppet, run):
        puppet.say(Hello(workers, 0, 1, (Door("127.0.0.1", 1),), 4242))
        error = run.exception(20)
    assert isinstance(error, trx.AgentFailedError), repr(error)
    assert error.hostname == "localhost"
    assert f"it is to have 1 workers, and offers {workers}" in str(error)


@pytest.mark.parametrize("line", [b"", b"{}", b"not json", b'{"type": "Ready", ', b"\xff\xfe", b"[" * 5000])
def test_a_status_that_is_none_is_an_error_that_names_its_host(line: bytes) -> None:
    puppet = Puppet()
    start = time.monotonic()
    with launched(puppet) as run:
        puppet.bootstrap()
        puppet.print(MARKER + line + b"\n")
        error = run.exception(20)
    assert isinstance(error, trx.AgentFailedError), repr(error)
    assert error.hostname == "localhost"
    assert time.monotonic() - start < SOON


def test_a_login_shell_that_prints_without_end_is_an_error_that_names_its_host() -> None:
    puppet = Puppet()
    start = time.monotonic()
    with launched(puppet) as run:
        puppet.bootstrap()
        for _ in range(NOISE // 1000 + 1):
            puppet.print(b"welcome " * 125)
        error = run.exception(SOON)
    assert isinstance(error, trx.AgentFailedError), repr(error)
    assert "its login shell printed more than" in error.failures[0].reason
    assert time.monotonic() - start < SOON


# ---- 2. keys, and recorded sessions ---------------------------------------------------------------------------------


def test_every_launch_and_every_agent_has_keys_of_its_own() -> None:
    hubs = [Hub(3, 1.0) for _ in range(2)]
    keys = [hub.keys(agent) for hub in hubs for agent in range(3)]
    for hub in hubs:
        hub.close(0.0)

    assert len({each.launcher_public for each in keys}) == 2
    assert len({key for each in keys for key in (each.agent_public, each.agent_secret)}) == 12
    assert not any(key.decode() in repr(keys) for each in keys for key in (each.agent_public, each.agent_secret))


class Tap:
    """A port that leads to another one, remembers what passes, and can change it.

    Args:
        endpoint: Where it leads.
        change: Is given each piece, and whether it goes "up" or "down"; returns what goes on instead.
    """

    def __init__(self, endpoint: str, change: Callable[[bytes, str], bytes] = lambda data, _: data) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._target = host, int(port)
        self._change = change
        self._server = socket.create_server(("127.0.0.1", 0))
        self.connections: list[socket.socket] = []
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.up, self.down = bytearray(), bytearray()
        self.conversation: list[tuple[bytes, int]] = []  # what went up, and how many bytes came down thereafter
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, function: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=function, args=args, daemon=True))
        self._threads[-1].start()

    def close(self) -> None:
        for each in (self._server, *self.connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self.connections.append(near)
                self._start(self._carry, near, far, self._upwards)
                self._start(self._carry, far, near, self._downwards)

    def _carry(self, source: socket.socket, target: socket.socket, look: Callable[[bytes], bytes]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(look(data))
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()  # the other thread sees to the other one

    def _upwards(self, data: bytes) -> bytes:
        self.up += data
        self.conversation.append((data, 0))
        return self._change(data, "up")

    def _downwards(self, data: bytes) -> bytes:
        self.down += data
        said, answered = self.conversation.pop() if self.conversation else (b"", 0)
        self.conversation.append((said, answered + len(data)))
        return self._change(data, "down")


def replayed(conversation: list[tuple[bytes, int]], port: int) -> bytes:
    """Says all of it again, each piece after as much of an answer as there was then. Returns what was answered."""
    answer = b""
    expected = 0
    with socket.create_connection(("127.0.0.1", port), 10) as stranger, suppress(ConnectionError):
        for said, answered in conversation:
            stranger.sendall(said)
            expected += answered
            while len(answer) < expected:
                if not select.select([stranger], [], [], 1.0)[0]:
                    break
                if not (data := stranger.recv(65536)):
                    return answer
                answer += data
    return answer


def test_a_recorded_session_is_refused_when_it_is_replayed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    taps: list[Tap] = []

    def tapped(endpoint: str) -> str:
        taps.append(Tap(endpoint))
        return taps[0].endpoint

    def replay(target: str) -> bytes:
        return replayed(list(taps[0].conversation), int(target.rpartition(":")[2]))

    with running_puppet(tapped) as (puppet, run), closing(taps[0]):
        assert b"READY" in taps[0].down  # which is how the launcher tells an agent that it is in
        value = canary_bytes(canary)
        size = len(taps[0].up)
        puppet.say(Ended(1, 0, 4244, Returned(), len(value), ""))
        puppet.say(Data(VALUE, 0), value)
        wait_until(lambda: len(taps[0].up) > size + len(value), "the outcome has passed")
        assert b"READY" not in replay(puppet.endpoint)
        puppet.say(Gone(1, ()))
        puppet.say(Drained(1))
        puppet.end()
        run.result(20)
    canary.rmdir()

    with running_puppet() as (puppet, run):  # another launch
        assert b"READY" not in replay(puppet.endpoint)
        puppet.say_raw(b"")
        assert isinstance(run.exception(20), trx.AgentFailedError)
    assert not canary.exists()


@pytest.mark.parametrize("way", ["up", "down"])
def test_bytes_that_are_changed_on_the_way_change_no_message(hub: Hub, way: str) -> None:
    """Whoever sits on the way can cut a connection; the next one makes up for it."""

    to_flip: list[str] = []

    def flip(data: bytes, passes: str) -> bytes:
        if passes not in to_flip:
            return data
        to_flip.remove(passes)
        return data[:-1] + bytes([data[-1] ^ 1])

    up = [(0, Up(1, number, (number,)), b"body") for number in range(30)]
    down = [(Stop(number, 0.5), b"body") for number in range(30)]
    heard_above: list[Any] = []
    heard_below: list[Any] = []
    with closing(Tap(hub.listen("127.0.0.1"), flip)) as tap:
        uplink = Uplink(cast(Bootstrap, SimpleNamespace(keys=hub.keys(0), beat=0.5)), tap.endpoint)

        def go_on_until(over: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 5  # sooner than ZeroMQ misses a sign of life
            while not over():
                assert time.monotonic() < deadline, f"{len(heard_above)} and {len(heard_below)} arrived"
                uplink.poll(0.02)
                hub.poll(0.02)
                uplink.tick()
                hub.tick()
                heard_below.extend(uplink.receive())
                heard_above.extend(hub.receive())

        uplink.send(*up[0][1:])
        go_on_until(lambda: heard_above == up[:1])
        hub.send(0, *down[0])
        go_on_until(lambda: heard_below == down[:1])
        to_flip.append(way)
        for (_, message, body), answer in zip(up[1:], down[1:], strict=True):
            uplink.send(message, body)
            hub.send(0, *answer)
        go_on_until(lambda: len(heard_above) >= 30 and len(heard_below) >= 30)
        uplink.close()
    assert len(tap.connections) == 2
    assert heard_above == up
    assert heard_below == down


# ---- 3. listening sockets -------------------------------------------------------------------------------------------


def test_only_the_launcher_and_the_rendezvous_listen_and_only_on_loopback(workers: Target, tmp_path: Path) -> None:
    with running(workers, tmp_path) as run:
        below = [process.pid for process in psutil.Process().children(recursive=True)]
        found = {socket for pid in below for socket in listening(pid)}
        ours = listening(os.getpid())

    assert ours - workers.before == {("127.0.0.1", workers.hub.port)}
    assert found == {run.store}
    assert run.store[0] == "127.0.0.1"


# ---- 4. what a stranger costs ---------------------------------------------------------------------------------------


SOURCE = """
import time
from pathlib import Path
import trx

def work():
    Path("up").touch()
    deadline = time.monotonic() + 50
    while not Path("go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return "undisturbed"

print(trx.launch(work, hostnames=["localhost"], workers_per_host=1, backend=None).rank(0))
"""


@contextmanager
def cheap(pid: int, what: str) -> Iterator[None]:
    """What happens meanwhile must not cost a process much memory, not even for a moment."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is forgotten
    before = memory(pid, "VmRSS")
    yield
    grown = memory(pid, "VmHWM") - before
    assert grown < ROOM, f"{what} cost {grown / MEGABYTE:.1f} MB"


def memory(pid: int, name: str) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def send_400_megabytes(address: tuple[str, int], beginning: bytes) -> None:
    """Sends them unless the other side hangs up."""
    chunk = bytes(MEGABYTE)
    with socket.create_connection(address, 10) as stranger, suppress(ConnectionError):
        stranger.sendall(beginning)
        for _ in range(400):
            stranger.sendall(chunk)


class Slow:
    """A stranger who sends a byte at a time, until the other side has had enough."""

    PAUSE = 0.25
    """Seconds between two bytes."""

    def __init__(self, address: tuple[str, int], data: bytes) -> None:
        self._socket = socket.create_connection(address, 10)
        self._data = data
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()

    def ends(self, within: float) -> bool:
        self._thread.join(within)
        return not self._thread.is_alive()

    def _drip(self) -> None:
        start = time.monotonic()
        with self._socket, suppress(ConnectionError):
            for byte in self._data:
                self._socket.sendall(bytes([byte]))
                if select.select([self._socket], [], [], self.PAUSE)[0] and not self._socket.recv(4096):
                    break
        self.seconds = time.monotonic() - start


@contextmanager
def idle_connections(address: tuple[str, int]) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(socket.create_connection(address, 10))
        yield


FRAME_OF_400_MEGABYTES = b"\x06" + (400 * MEGABYTE).to_bytes(8, "big")


def test_strangers_cost_the_launcher_little(tmp_path: Path) -> None:
    with Script(tmp_path, SOURCE) as script:
        pid = script.process.pid
        wait_until((tmp_path / "up").exists, "the worker is up", 40)
        ((host, port),) = listening(pid)
        slow = Slow((host, port), GREETING + bytes(200))
        for beginning in (GREETING + FRAME_OF_400_MEGABYTES, FRAME_OF_400_MEGABYTES, GREETING[:10], b"GET / HTTP/1.1"):
            with cheap(pid, f"400 MB after {beginning!r}"):
                send_400_megabytes((host, port), beginning)
        with cheap(pid, f"{MANY} idle connections"), idle_connections((host, port)):
            wait_until(lambda: connections_to(pid, port) >= MANY, "they are accepted")
            wait_until(lambda: connections_to(pid, port) < MANY, "they are let go of, after five seconds")
        assert slow.ends(within=12), "the slow one is borne"
        assert slow.seconds < len(GREETING) * Slow.PAUSE, "it was let go of only for what it said in the end"
        signal_file(tmp_path / "go")
        assert script.ends() == (0, "undisturbed\n", "")


def connections_to(pid: int, port: int) -> int:
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
        for connection in psutil.Process(pid).net_connections("tcp")
    )


def test_strangers_cost_the_rendezvous_door_little() -> None:
    doors = Doors(one_machine=True, nonce=b"0123456789abcdef")
    (door,) = doors.all()
    (descriptor,) = doors.descriptors()
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            if select.select([descriptor], [], [], 0.05)[0]:
                doors.answer(descriptor)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        address = (door.address, door.port)
        slow = Slow(address, bytes(100))
        with cheap(os.getpid(), "400 MB"):
            send_400_megabytes(address, b"")
        with cheap(os.getpid(), f"{MANY} idle connections"), idle_connections(address):
            before = len(os.listdir("/proc/self/fd"))
            knocking = Knocking(doors.all(), b"0123456789abcdef")
            assert select.select([knocking.descriptor], [], [], 10)[0]
            assert knocking.reached() == (door,)
            assert len(os.listdir("/proc/self/fd")) < before + 10
        assert slow.ends(within=5)
    finally:
        over.set()
        serving.join()
    doors.choose(door).close()
