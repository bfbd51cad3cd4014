"""The switch between the machines of a lab: a bridge in a network namespace of its own, and its firewall."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from .shell import HARNESS, Keeper, batch, run
from .waiting import wait_until


def mac(index: int) -> str:
    """The hardware address of a machine; it stays the same over power-off and power-on."""
    high, low = divmod(index, 256)
    return f"02:77:00:00:{high:02x}:{low:02x}"


def port_name(index: int) -> str:
    """The name of the switch's end of a machine's cable."""
    return f"v{index}"


class Switch:
    """Cables and packet filters.

    Args:
        log: Where its helper process writes errors.
        freezers: Path prefix of the control groups that must not stay frozen when the lab's process dies.

    Attributes:
        is_disturbed: Frames may have been lost since the owner last set this to False.
    """

    def __init__(self, log: Path, freezers: str) -> None:
        self._keeper = Keeper(
            ["unshare", "--net", "/bin/sh", str(HARNESS / "switch.sh")], log, env={"FREEZERS": freezers}
        )
        self._rules: list[str] = []
        self.is_disturbed = False

    def start(self) -> None:
        """Waits for the namespace and makes the bridge."""
        self._keeper.expect("ready")
        self.ip(["link add name br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br0 up"])

    def plug(self, machines: Iterable[tuple[int, int]]) -> None:
        """Gives machines, as pairs of index and a PID in their network namespace, an eth0 that ends here."""
        lines = []
        for index, pid in machines:
            port = port_name(index)
            lines.append(f"link add name {port} type veth peer name eth0 address {mac(index)} netns {pid}")
            lines.append(f"link set {port} master br0 up")
        self.ip(lines)

    def unplug(self, index: int) -> None:
        """Removes a cable, which may have gone with the machine already."""
        self.is_disturbed = True
        self._run(["ip", "link", "del", port_name(index)], check=False)

    def set_carrier(self, index: int, up: bool) -> None:
        """Switches a port on or off; the machine sees its carrier come or go."""
        self.is_disturbed = True
        self.ip([f"link set {port_name(index)} {'up' if up else 'down'}"])

    def await_forwarding(self, indices: Iterable[int]) -> None:
        """Waits until ports pass frames: the kernel may take a second to act on a change of the carrier."""
        wanted = {port_name(index) for index in indices}
        wait_until(lambda: wanted <= self._forwarding_ports(), 10, f"ports {sorted(wanted)} forward")

    def _forwarding_ports(self) -> set[str]:
        links = json.loads(self._run(["ip", "-json", "-details", "link", "show", "master", "br0"]))
        return {link["ifname"] for link in links if link["linkinfo"]["info_slave_data"]["state"] == "forwarding"}

    def add_rules(self, rules: Iterable[str]) -> None:
        """Appends nft rules to the filter of forwarded frames."""
        self.is_disturbed = True
        self._rules += rules
        self._load_rules()

    def clear_rules(self) -> None:
        """Lets everything pass."""
        if self._rules:
            self._rules = []
            self._load_rules()

    def ip(self, lines: Iterable[str]) -> None:
        """Runs a batch of ``ip`` commands in the switch's namespace."""
        self._run(["ip", "-batch", "-"], input=batch(lines))

    def stop(self) -> None:
        """Takes the switch away."""
        self._keeper.close()

    def _load_rules(self) -> None:
        self._run(
            ["nft", "-f", "-"],
            input=batch(
                [
                    "table bridge lab {}",
                    "delete table bridge lab",
                    "table bridge lab { chain forward {",
                    "type filter hook forward priority 0;",
                    *self._rules,
                    "}",
                    "}",
                ]
            ),
        )

    def _run(self, argv: Sequence[str], input: str | None = None, check: bool = True) -> str:
        return run(["nsenter", "-t", str(self._keeper.pid), "-n", *argv], input=input, check=check).stdout
