"""trx: run a Python function on every GPU of every host, and get back what it returned."""

from typing import TYPE_CHECKING, Any

from trx.environment import DEFAULT_ENV_VARS
from trx.errors import AgentFailedError, HostFailure, LaunchError, WorkerFailedError, WorkerFailure
from trx.launcher import Launcher, launch
from trx.results import LaunchResult
from trx.timeline import Timeline

if TYPE_CHECKING:
    from trx.command_line import add_argument_group, launcher_from_args


def __getattr__(name: str) -> Any:
    """What is looked up only when it is asked for: `import trx` would take longer by it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("trx-launch")
    if name in ("add_argument_group", "launcher_from_args"):
        from trx import command_line

        return getattr(command_line, name)
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
    "add_argument_group",
    "launch",
    "launcher_from_args",
]
