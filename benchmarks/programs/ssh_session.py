"""Bare SSH connections to many hosts, by the library that trx uses; where the driver wants, each starts a program."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import fabric

from benchmarks.programs.talk import answer, settings

wanted = settings()
config = fabric.Config(runtime_ssh_path=wanted["ssh_config"])


def connect(hostname: str) -> fabric.Connection:
    """Logs in, and runs the program to its end."""
    connection = fabric.Connection(hostname, config=config)
    connection.open()
    if wanted.get("command"):
        connection.run(wanted["command"], hide=True, in_stream=False)
    return connection


began = time.perf_counter()
with ThreadPoolExecutor(wanted["threads"]) as pool:
    connections = list(pool.map(connect, wanted["hostnames"]))
seconds = time.perf_counter() - began
for each in connections:
    each.close()
answer(seconds=seconds)
