"""What users are told."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from trx.hosts.diagnosis import diagnose, exit_failure
from trx.hosts.identities import NotAuthenticated
from trx.hosts.route import Hop, plan
from trx.hosts.sockets import Unreached


@pytest.fixture
def hop(tmp_path: Path) -> Hop:
    (tmp_path / "config").write_text("")
    return plan("node1", tmp_path / "config")[0]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (127, "there is no interpreter /opt/python"),
        (126, "the interpreter /opt/python cannot be executed"),
        (-9, "/opt/python was killed by SIGKILL"),
        (-99, "/opt/python was killed by signal 99"),
        (1, "/opt/python ended with status 1"),
        (None, "the connection was lost"),
    ],
)
def test_end_of_the_interpreter(status: int | None, reason: str) -> None:
    failure = exit_failure("node1", "/opt/python", status, "")
    assert (failure.hostname, failure.stage, failure.reason) == ("node1", "starting Python", reason)


def test_last_lines_of_the_output_are_told() -> None:
    printed = "".join(f"line {number}\n" for number in range(100))
    advice = exit_failure("node1", "/opt/python", 1, printed).advice
    assert advice.splitlines()[1:] == [f"    line {number}" for number in range(90, 100)]


def test_each_address_is_told_with_its_reason(hop: Hop) -> None:
    attempts = [
        ("fd77::1", OSError(errno.EHOSTUNREACH, "No route to host")),
        ("10.0.0.1", ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")),
        ("10.0.0.2", TimeoutError("timed out")),
    ]
    reason = diagnose(Unreached(attempts), hop, "connecting", None).reason
    assert reason == (
        "port 22 cannot be connected to: fd77::1 is unreachable (No route to host), "
        "10.0.0.1 refuses the connection, 10.0.0.2 does not answer"
    )


def refused(**facts: object) -> NotAuthenticated:
    error = NotAuthenticated("ann")
    for name, value in facts.items():
        setattr(error, name, value)
    return error


def test_host_that_wants_a_password(hop: Hop) -> None:
    finding = diagnose(refused(tried=["/key"], accepted=["password"]), hop, "connecting", None)
    assert finding.stage == "authenticating"
    assert finding.reason == (
        "ann cannot log in: none of these keys is accepted: /key; the host wants password, for which trx cannot ask"
    )


def test_host_that_gives_up_after_too_many_keys(hop: Hop) -> None:
    finding = diagnose(refused(tried=["/a", "/b"], ended="EOF"), hop, "connecting", None)
    assert finding.reason.endswith("/a, /b; it ended with: EOF")
    assert "IdentitiesOnly yes" in finding.advice


def test_what_is_not_foreseen_is_told_as_it_is(hop: Hop) -> None:
    assert diagnose(ValueError("strange"), hop, "connecting", None).reason == "strange"
    assert diagnose(ValueError("strange"), None, "anything", None).reason == "ValueError: strange"
    assert diagnose(ValueError("strange"), hop, "starting Python", 3.0).reason == "it did not answer within 3 s"
    assert diagnose(EOFError(), hop, "starting Python", None).reason == "it closed the connection (EOFError)"
