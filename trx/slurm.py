"""What a Slurm allocation says about its hosts."""

from __future__ import annotations

import os
from collections.abc import Mapping


def allocated_hosts(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The hosts of the Slurm allocation that this process runs in; none outside of one."""
    nodes = environment.get("SLURM_JOB_NODELIST")
    if not nodes:
        return []
    from ClusterShell.NodeSet import NodeSet

    return list(NodeSet(nodes, resolver=None))
