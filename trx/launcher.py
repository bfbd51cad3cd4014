"""The story of a launch, top to bottom: check, plan, start agents, run, judge, end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from trx import checks, import_guard, slurm
from trx.environment import DEFAULT_ENV_VARS, EnvVars, check_patterns
from trx.output.handlers import LogHandlers
from trx.plan import Host, make_hosts
from trx.results import LaunchResult

if TYPE_CHECKING:
    from trx.session import Session

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Launcher:
    """Settings of launches, and, as a context manager, agents that stay up from one run to the next.

    Attributes:
        hostnames: Names or addresses, one agent each; or a host list ("node[01-16],login"); or the path of a hostfile
            (lines like "node1 slots=8"); "slurm": those of the Slurm allocation; "auto": the same, where there is one,
            else "localhost".
        workers_per_host: A number, or a list of one for each host; "gpu": one for each GPU; "cpu": one for each
            CPU that the agent may use; "auto": the slots of the hostfile, else GPUs where there are any, else CPUs;
            "slurm": what the Slurm allocation was made for: its tasks, or one for each GPU. See the guide on Slurm.
        start: How agents are started on other hosts: "ssh"; "srun", as steps of the Slurm allocation, on its hosts (on
            others by SSH even so); "auto": by srun where there are an allocation and an srun, else by SSH.
        ssh_config_file: Instead of the user's and the system's own.
        backend: Of the process group that workers find initialised: a name that torch knows, "auto" (nccl where every
            worker has a GPU, else gloo), or None for no process group.
        timeout: Of the process group, seconds.
        default_env_vars: Patterns (as in a shell) of variables that are copied to the workers, and variables with their
            values (NAME=VALUE); or a mapping of variables to values.
        extra_env_vars: Further ones, of the same kinds.
        env_file: A shell script, sourced on every host, whose variables the workers get.
        preload: Modules that hosts import once, before the workers are forked; torch always is.
        python: Absolute path of the interpreter on the hosts, or a name on their PATH; by default the launcher's path.
        cwd: Working directory of the workers; by default that of the launcher.
        start_timeout: Seconds for all agents to come up, and again for all workers to be started.
        grace_period: Seconds between SIGTERM and SIGKILL for workers that are stopped.
        lease: Seconds without a sign of life after which a host counts as lost; a host that hears nothing from the
            launcher for as long ends its workers.
        log_handlers: Handlers of `logging` for what workers and agents print and log, or a function that makes them
            for each launch; "auto": the terminal, for rank 0, and log files; None: nothing. See the guide on logs.
    """

    # The order in a union matters to tools that make command lines of types: they take the first that fits.
    hostnames: str | Path | Sequence[str] = "auto"
    workers_per_host: int | Literal["auto", "gpu", "cpu", "slurm"] | Sequence[int | str] = "auto"
    _: KW_ONLY
    start: slurm.Start = "auto"
    ssh_config_file: str | Path | None = None
    backend: str | None = "auto"
    timeout: float = 600
    default_env_vars: EnvVars = DEFAULT_ENV_VARS
    extra_env_vars: EnvVars = ()
    env_file: str | Path | None = None
    preload: Sequence[str] = ()
    python: str | None = None
    cwd: str | Path | None = None
    start_timeout: float = 300
    grace_period: float = 5
    lease: float = 8
    log_handlers: LogHandlers = "auto"

    def __post_init__(self) -> None:
        # No field: tools that make a command line of the fields resolve the types of all of them.
        self._session: Session | None = None

    def run(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> LaunchResult[R]:
        """Calls `func(*args, **kwargs)` on every worker, and returns what each returned.

        Raises:
            WorkerFailedError: Where a worker failed; also of the class of the exception that it raised.
            AgentFailedError: Where hosts cannot be used, or were lost.
            TypeError, ValueError, FileNotFoundError: Where a setting or the function is no good; nothing was started.
            RuntimeError: Where a setting needs a Slurm allocation and there is none, or where a module launches while
                a worker imports it; nothing was started.
        """
        import_guard.check_not_importing()
        self._check_settings()
        if self._session is not None and self._session.usable:  # which keeps its hosts, whatever a hostfile says now
            return self._session.run(checks.pickle_call(func, args, kwargs))
        hosts = self.planned_hosts()
        from trx.session import Session  # here, so that `import trx` stays quick

        call = checks.pickle_call(func, args, kwargs)
        if self._session is None:
            with Session(self, hosts) as session:
                return session.run(call)
        self._session.close()
        self._session = Session(self, hosts)
        return self._session.run(call)

    def __enter__(self) -> Launcher:
        import_guard.check_not_importing()
        self._check_settings()
        hosts = self.planned_hosts()
        from trx.session import Session

        self._session = Session(self, hosts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    @classmethod
    def from_config(cls, path: str | os.PathLike[str]) -> Launcher:
        """Reads the settings from a TOML file whose keys are the attributes of this class.

        A relative `env_file`, `ssh_config_file` or hostfile is looked for beside the TOML file.

        Raises:
            FileNotFoundError: Where there is no such file.
            ValueError: Where the file is not TOML, or names a setting that does not exist.
        """
        from trx.config import read_settings

        settings = read_settings(path)
        known = {each.name for each in fields(cls) if each.init}
        if unknown := sorted(settings.keys() - known):
            raise ValueError(f"{path}: there is no setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
        launcher = cls(**settings)
        launcher._check()
        return launcher

    def _check(self) -> None:
        """Whatever can be checked where nothing is launched yet: it need not be within the allocation."""
        if self.hostnames not in ("auto", "slurm"):
            checks.check_workers(self.workers_per_host, len(checks.check_hostnames(self.hostnames).names))
        else:  # how many hosts there are is known within the allocation only
            workers = self.workers_per_host
            checks.check_workers(workers, len(workers) if isinstance(workers, Sequence) else 1)
        self._check_settings()

    def _check_settings(self) -> None:
        """All but what `planned_hosts` finds out, before each run: a user may change them in between."""
        checks.check_start(self.start)
        checks.check_backend(self.backend)
        for name in ("timeout", "start_timeout", "grace_period", "lease"):
            checks.check_seconds(name, getattr(self, name))
        checks.check_lease(self.lease)
        checks.check_python(self.python)
        check_patterns("default_env_vars", self.default_env_vars)
        check_patterns("extra_env_vars", self.extra_env_vars)
        checks.check_modules("preload", self.preload)
        checks.check_path("python", self.python)
        checks.check_path("cwd", self.cwd)
        checks.check_file("env_file", self.env_file)
        checks.check_file("ssh_config_file", self.ssh_config_file)
        if self.log_handlers not in ("auto", None) and not callable(self.log_handlers):
            checks.check_handlers(self.log_handlers)

    def planned_hosts(self) -> tuple[Host, ...]:
        """The agents that a launch with these settings starts."""
        named = checks.check_hostnames(slurm.hostnames(self.hostnames))
        wanted = named.slots if named.slots and self.workers_per_host == "auto" else self.workers_per_host
        workers = slurm.workers(named.names, checks.check_workers(wanted, len(named.names)))
        return make_hosts(named.names, workers, slurm.reached_by_srun(self.start))


def launch(
    func: Callable[..., R],
    func_args: Sequence[Any] = (),
    func_kwargs: Mapping[str, Any] | None = None,
    *,
    hostnames: str | Path | Sequence[str] = "auto",
    workers_per_host: int | Literal["auto", "gpu", "cpu", "slurm"] | Sequence[int | str] = "auto",
    ssh_config_file: str | Path | None = None,
    backend: str | None = "auto",
    timeout: float = 600,
    default_env_vars: EnvVars = DEFAULT_ENV_VARS,
    extra_env_vars: EnvVars = (),
    env_file: str | Path | None = None,
    **settings: Any,
) -> LaunchResult[R]:
    """Calls a function on every worker of every host, and returns what each returned.

    Args:
        func: What to call. Functions of scripts and notebooks, closures, lambdas and bound methods will do.
        func_args: Its positional arguments.
        func_kwargs: Its keyword arguments.
        hostnames: This and all that follow are settings of `Launcher`, which says what each of them is.
        settings: Those of `Launcher` that are not named here.

    Raises:
        WorkerFailedError: Where a worker failed; also of the class of the exception that it raised.
        AgentFailedError: Where hosts cannot be used, or were lost.
        TypeError, ValueError, FileNotFoundError: Where an argument is no good; nothing was started.
        RuntimeError: Where an argument needs a Slurm allocation and there is none, or where a module launches while a
            worker imports it; nothing was started.
    """
    checks.check_arguments(func_args, func_kwargs)
    launcher = Launcher(
        hostnames,
        workers_per_host,
        ssh_config_file=ssh_config_file,
        backend=backend,
        timeout=timeout,
        default_env_vars=default_env_vars,
        extra_env_vars=extra_env_vars,
        env_file=env_file,
        **settings,
    )
    return launcher.run(func, *func_args, **(func_kwargs or {}))
