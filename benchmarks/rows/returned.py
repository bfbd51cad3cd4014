"""A state dict that a worker returns: on this machine, and from another host."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import zmq

from benchmarks.bench import Bench, Sessions, at_launcher, lab
from benchmarks.session import ROOT, Popen, popen
from benchmarks.shape import Aim, Contestant, Row, Sample, at_most, at_most_more, faster
from tests.lab.harness import Lab

_MEGABYTES, _QUICK_MEGABYTES = 512, 64
_MADE = "trx: not returned"
_RETURN = "trx: the return alone"
_BY_FILE = "CURVE, by way of a file"
_GIVEN_BACK = "the same, its room given back"


def _megabytes(bench: Bench) -> int:
    return _QUICK_MEGABYTES if bench.quick else _MEGABYTES


def _ask(sessions: Sessions, name: str, argv: list[str], start: Popen = popen) -> Sample:
    numbers = sessions.ask(argv, start)
    peaks = {f"{name}: {key}": value for key, value in numbers.items() if key.endswith("peak")}
    return {name: numbers["seconds"], **peaks}


@contextmanager
def _local(bench: Bench) -> Iterator[Sequence[Contestant]]:
    work = {"work": "returned", "arguments": [_megabytes(bench)], "workers": 1}
    with Sessions() as sessions:
        ask = partial(_ask, sessions)
        torchrunx = bench.argv("torchrunx_session", "torchrunx", settings=work)
        yield [
            Contestant("trx", partial(ask, "trx", bench.argv("trx_session", settings={**work, "peaks": True}))),
            Contestant(_MADE, partial(ask, _MADE, bench.argv("trx_session", settings={**work, "work": "made"}))),
            Contestant("torchrunx", partial(ask, "torchrunx", torchrunx), "torchrunx", 2),
        ]


@contextmanager
def _remote(bench: Bench) -> Iterator[Sequence[Contestant]]:
    with lab(1) as hosts, Sessions() as sessions:
        there = {"hostnames": hosts.names, "workers": 1, "ssh_config": str(hosts.ssh_config)}
        work = {**there, "work": "returned", "arguments": [_megabytes(bench)]}
        start = at_launcher(hosts)
        ask = partial(_ask, sessions, start=start)
        torchrunx = bench.argv("torchrunx_session", "torchrunx", settings=work)
        curve = _curve(bench, hosts)
        by_file = {**curve, "by_file": True}
        given_back = {**by_file, "given_back": True}

        def trx() -> Sample:
            made = ask(_MADE, bench.argv("trx_session", settings={**work, "work": "made"}))
            returned = ask("trx", bench.argv("trx_session", settings=work))
            return {**returned, **made, _RETURN: returned["trx"] - made[_MADE]}

        yield [
            Contestant("trx", trx),
            Contestant("CURVE alone", lambda: {"CURVE alone": _send(bench, hosts, sessions, curve)}),
            Contestant(_BY_FILE, lambda: {_BY_FILE: _send(bench, hosts, sessions, by_file)}),
            Contestant(_GIVEN_BACK, lambda: {_GIVEN_BACK: _send(bench, hosts, sessions, given_back)}),
            Contestant("torchrunx", lambda: ask("torchrunx", torchrunx), "torchrunx", 2),
        ]


def _curve(bench: Bench, hosts: Lab) -> dict[str, Any]:
    """Settings of sender and receiver, which know each other's keys."""
    receiver, sender = zmq.curve_keypair(), zmq.curve_keypair()
    return {
        "megabytes": _megabytes(bench),
        "endpoint": f"tcp://{hosts.launcher.ip}:{random.randrange(20000, 30000)}",
        "receiver_public": receiver[0].decode(),
        "receiver_secret": receiver[1].decode(),
        "sender_public": sender[0].decode(),
        "sender_secret": sender[1].decode(),
    }


def _send(bench: Bench, hosts: Lab, sessions: Sessions, settings: dict[str, Any]) -> float:
    argv = bench.argv("curve_session", settings={**settings, "sends": True})
    sender = hosts["node1"].popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=ROOT)
    receiver = {**settings, "by_file": False, "given_back": False}  # it is the same one for all
    seconds = sessions.ask(bench.argv("curve_session", settings=receiver), at_launcher(hosts))["seconds"]
    sender.wait()
    return seconds


_RATE = Aim(
    f"{_RETURN} ≥ 70 % of the rate of CURVE alone",
    lambda medians: 100 * medians["CURVE alone"] / medians[_RETURN],
    "≥",
    70,
    "%",
)

ROWS = [
    Row(
        name="returned",
        title=f"a state dict of {_MEGABYTES} MB returned by a local worker",
        unit="s",
        aims=[
            at_most_more(0.7, "s", _MADE),
            faster(15, "torchrunx"),
            at_most(1.2 * _MEGABYTES, "MB", "trx: launcher peak"),
            at_most(100, "MB", "trx: agent peak"),
        ],
        contestants=_local,
        units={"trx: launcher peak": "MB", "trx: agent peak": "MB"},
        note="“not returned”: the worker makes it and returns nothing; peaks of memory are what the return adds",
    ),
    Row(
        name="returned_host",
        title=f"a state dict of {_MEGABYTES} MB returned from a lab host",
        unit="s",
        aims=[_RATE],
        contestants=_remote,
        floor=frozenset({"CURVE alone", _BY_FILE, _GIVEN_BACK}),
        compared=_RETURN,
        note="“the return alone”: what it takes more than the same that returns nothing",
        if_missed=(
            "a value goes by way of a file on its host, so that it outlives its worker and a lost connection, and what "
            "was sent of it is given back: of what that leaves of CURVE's rate, the last floor tells"
        ),
    ),
]
