"""The agent's first word to the launcher, said before it has imported what it needs for its work.

That is a third of what an agent costs until its hello, which counts where a launch has more hosts than the launcher has
time for: `tests/unit/test_import_laws.py` holds what may be imported so far.
"""

from __future__ import annotations

import os

from trx_agent import machine
from trx_agent.doors import Doors
from trx_agent.protocol.bootstrap import Bootstrap
from trx_agent.protocol.messages import Hello
from trx_agent.uplink import Uplink


def greet(bootstrap: Bootstrap, endpoint: str, resources: machine.Resources) -> tuple[Uplink, Doors | None]:
    """Connects to the launcher, and tells it what this host has; the first host's agent opens its doors for that."""
    uplink = Uplink(bootstrap, endpoint)
    doors = Doors(bootstrap.one_machine, bootstrap.nonce) if bootstrap.index == 0 else None
    offered = doors.all() if doors else ()
    uplink.send(Hello(resources.workers, resources.gpus, resources.cpus, offered, os.getpid(), machine.torch_version()))
    return uplink, doors
