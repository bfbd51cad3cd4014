"""Whether this machine can carry a lab."""

from __future__ import annotations

import functools
import os
import sys

from .shell import find_tool, run

_TOOLS = (
    "sshd",
    "ssh",
    "ssh-keygen",
    "nft",
    "iptables",
    "ip6tables",
    "ip",
    "unshare",
    "nsenter",
    "setpriv",
    "pivot_root",
    "mount",
    "find",
)
_TRIAL = "mount -t tmpfs trial /tmp && ip link add trial type bridge && nft add table bridge trial"


@functools.cache
def lab_unavailable() -> str | None:
    """Returns what this machine lacks for a lab, in words; None if nothing."""
    if sys.platform != "linux":
        return "the lab needs Linux"
    if os.geteuid() != 0:
        return "the lab needs root"
    missing = [tool for tool in _TOOLS if find_tool(tool) is None]
    if missing:
        return f"the lab needs programs that are not installed: {', '.join(missing)}"
    namespaces = ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    trial = run(["unshare", *namespaces, "/bin/sh", "-c", _TRIAL], check=False)
    if trial.returncode:
        return f"the lab may not make namespaces, bridges or packet filters here: {trial.stderr.strip()}"
    return None
