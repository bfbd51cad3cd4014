"""How an agent comes to life: what goes down its stdin, and what it answers."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Callable

import msgspec
import pytest

from trx_agent.protocol.bootstrap import (
    HEAD,
    MARKER,
    AnyStatus,
    Bootstrap,
    Detour,
    Keys,
    Ready,
    Refused,
    Unreachable,
    detour_line,
    frame,
    loader,
    read_detour,
    read_head,
    read_status,
    status_line,
    unframe,
)
from trx_agent.protocol.messages import VERSION, Preparation

HERE = "{}.{}".format(*sys.version_info[:2])
KEYS = Keys(b"launcher-public", b"agent-public", b"agent-secret")
BOOTSTRAP = Bootstrap(
    index=3,
    label="node1#2",
    cookie="c00c1e",
    keys=KEYS,
    endpoints=("tcp://10.0.0.1:5000", "tcp://[fe80::1]:5000"),
    workers="auto",
    local=False,
    one_machine=False,
    cwd="/home/ada",
    preparation=Preparation({"PASSWORD": "swordfish", "EMPTY": ""}, "export A=1\n", ("numpy",)),
    nonce=bytes(16),
    beat=1.0,
    lease=8.0,
    grace=5.0,
)


# ---- the bootstrap --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["auto", "gpu", "cpu", 1, 8])
def test_a_bootstrap_comes_back_as_it_was_sent(workers: int | str) -> None:
    sent = msgspec.structs.replace(BOOTSTRAP, workers=workers)
    data = frame(sent)
    version, size = read_head(data[:HEAD])
    assert version == VERSION
    assert len(data) == HEAD + size
    assert unframe(data[HEAD:]) == sent


def test_the_version_comes_first_whatever_a_later_one_may_make_of_the_rest() -> None:
    assert frame(BOOTSTRAP)[:2] == VERSION.to_bytes(2, "big")
    assert read_head(b"\x01\x02\x00\x00\x00\x05") == (0x0102, 5)


@pytest.mark.parametrize("body", [b"", b"\x80", frame(BOOTSTRAP)[HEAD:-1], msgspec.msgpack.encode({"index": "one"})])
def test_what_is_no_bootstrap_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unframe(body)


@pytest.mark.parametrize("thing", [BOOTSTRAP, KEYS, BOOTSTRAP.preparation, [BOOTSTRAP], {"keys": KEYS}])
def test_secrets_are_not_shown(thing: object) -> None:
    for text in (repr(thing), str(thing), f"{thing}"):
        assert "secret" not in text
        assert "swordfish" not in text
        assert "c00c1e" not in text


# ---- what the agent answers -----------------------------------------------------------------------------------------

STATUSES: list[AnyStatus] = [
    Ready(),
    Refused("starting Python", "it is too old", "name another with python="),
    Refused("starting Python", "zwei\nZeilen „“"),
    Unreachable("connection refused"),
]


@pytest.mark.parametrize("status", STATUSES, ids=repr)
def test_a_status_is_one_line_behind_the_marker(status: AnyStatus) -> None:
    line = status_line(status)
    assert line.startswith(MARKER)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert read_status(line[len(MARKER) :]) == status


@pytest.mark.parametrize(
    "line", [b"", b"{}", b'{"type": "Lost"}', b"Welcome to node1!", b'{"type": "Refused"}', b"\xff"]
)
def test_what_is_no_status_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_status(line)


def test_a_detour_is_one_line() -> None:
    line = detour_line(Detour("tcp://127.0.0.1:40000"))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert read_detour(line) == Detour("tcp://127.0.0.1:40000")
    with pytest.raises(ValueError, match=r"."):
        read_detour(b"{}")


# ---- the loader -----------------------------------------------------------------------------------------------------


@pytest.fixture
def stdout(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[[], bytes]:
    """What was printed; and a copy of sys.path, which the loader changes."""
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    return lambda: capsysbinary.readouterr().out


def execute(line: bytes) -> object:
    """As the one static command of the command line does; returns the stream, which the agent reads on."""
    stream = io.BytesIO(line + b"the rest")
    exec(stream.readline(), {"f": stream})
    return stream


def test_the_loader_is_one_line_of_ascii() -> None:
    line = loader(HERE)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert line.isascii()


def test_the_loader_hands_the_stream_to_the_agent(stdout: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[io.BytesIO] = []
    agent = types.ModuleType("trx_agent.__main__")
    agent.main = given.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trx_agent.__main__", agent)
    stream = execute(loader(HERE))
    assert given == [stream]
    assert given[0].read() == b"the rest"
    assert stdout() == b""
    assert "" not in sys.path


def test_another_minor_version_of_python_is_refused(stdout: Callable[[], bytes]) -> None:
    execute(loader("2.7"))
    line = stdout()
    assert line.startswith(MARKER)
    status = read_status(line[len(MARKER) :])
    assert isinstance(status, Refused)
    assert status.stage == "starting Python"
    assert f"{sys.executable} is Python {HERE}, the launcher is Python 2.7" in status.reason
    assert "python=" in status.advice


def test_a_missing_package_is_named(stdout: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trx_agent.__main__", None)  # so that its import fails
    execute(loader(HERE))
    status = read_status(stdout()[len(MARKER) :])
    assert isinstance(status, Refused)
    assert "cannot import trx_agent" in status.reason
    assert "pip install trx-launch" in status.advice


def test_the_loader_refuses_in_the_words_of_the_protocol() -> None:
    # It is written down twice, since the loader runs where nothing of trx may be installed.
    status = json.loads(msgspec.json.encode(Refused("a", "b", "c")))
    assert status == {"type": "Refused", "stage": "a", "reason": "b", "advice": "c"}
