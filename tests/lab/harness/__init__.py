"""A multi-host lab on one Linux machine, for tests: see `lab` for the picture.

Files, in the order in which they build on each other: `waiting`, `shell`; `leaks`, `cgroups`, `switch`; `machine`;
`launcher`, `host`; `sshfiles`, `directory`, `filesystem`; `lab`; `pool`, `slurm`.
"""

from .host import Host, HostOptions
from .lab import Lab
from .launcher import Launcher
from .leaks import Leftover
from .machine import Machine
from .pool import LabPool
from .probe import lab_unavailable
from .shell import CommandFailed, LabError
from .slurm import Slurm, slurm_unavailable
from .waiting import wait_until

__all__ = [
    "CommandFailed",
    "Host",
    "HostOptions",
    "Lab",
    "LabError",
    "LabPool",
    "Launcher",
    "Leftover",
    "Machine",
    "Slurm",
    "lab_unavailable",
    "slurm_unavailable",
    "wait_until",
]
