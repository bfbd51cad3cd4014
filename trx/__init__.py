"""trx: run a Python function on every GPU of every host, and get back what it returned."""

from trx.environment import DEFAULT_ENV_VARS
from trx.errors import AgentFailedError, HostFailure, LaunchError, WorkerFailedError, WorkerFailure
from trx.launcher import Launcher, launch
from trx.results import LaunchResult
from trx.timeline import Timeline

__all__ = [
    "DEFAULT_ENV_VARS",
    "AgentFailedError",
    "HostFailure",
    "LaunchError",
    "LaunchResult",
    "Launcher",
    "Timeline",
    "WorkerFailedError",
    "WorkerFailure",
    "launch",
]
