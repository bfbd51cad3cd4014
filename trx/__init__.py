"""trx: run a Python function on every GPU of every host, and get back what it returned."""

from trx.environment import DEFAULT_ENV_VARS
from trx.errors import AgentFailedError, HostFailure, LaunchError, WorkerFailedError, WorkerFailure
from trx.launcher import Launcher, launch
from trx.output import add_filter_to_handler, file_handler, stream_handler
from trx.results import LaunchResult
from trx.timeline import Timeline


def __getattr__(name: str) -> str:
    if name == "__version__":  # only when it is asked for: reading it costs more than all else here
        from importlib.metadata import version

        return version("trx-launch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    "add_filter_to_handler",
    "file_handler",
    "launch",
    "stream_handler",
]
