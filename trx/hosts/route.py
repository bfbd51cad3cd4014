"""Finds out from the ssh configuration over which hops, and how, a host is reached."""

from __future__ import annotations

import getpass
import ipaddress
import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trx.hosts import ssh_config, ssh_match
from trx.hosts.ssh_config import BadConfiguration, Setting

_USER = re.compile(r"[\w.+@][\w.+@-]*")
_HOST = re.compile(r"[\w.][\w.-]*")
_NAMED = re.compile(r"(?:(?P<user>.*)@)?(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<host>[^\[\]]*?))(?::(?P<port>\d*))?")


@dataclass(frozen=True)
class Named:
    """A host as somebody wrote it: `user@host:port`, of which user and port may be missing."""

    user: str | None
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.port and ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class Hop:
    """One SSH server on the way to a host; the last hop is the host itself.

    Attributes:
        named: As the user or a `ProxyJump` names it.
        connection: A `fabric.Connection` to it, not opened yet, which has been told of no gateway.
        options: What the ssh configuration says about it.
        before: The hops that lead to it, where its own configuration does not say so.
    """

    named: Named
    connection: Any
    options: Mapping[str, Any]
    config_file: str | None
    before: tuple[Named, ...] = ()

    @property
    def hostname(self) -> str:
        return str(self.connection.host)

    @property
    def port(self) -> int:
        return int(self.connection.port)

    @property
    def user(self) -> str:
        return str(self.connection.user)

    def option(self, name: str, default: str = "") -> str:
        return str(self.options.get(name) or default)

    def says(self, name: str, *answers: str) -> bool:
        return self.option(name).lower() in answers

    @property
    def proxy_command(self) -> str | None:
        return self.option("proxycommand") or None if _way_through(self.options) == "proxycommand" else None

    @property
    def connect_timeout(self) -> float | None:
        return ssh_config.seconds(self.option("connecttimeout"))

    def files(self, option: str, default: str) -> list[Path]:
        """The files that an option like `UserKnownHostsFile` names."""
        names = shlex.split(self.option(option, default))
        return [Path(ssh_config.expand(name, self._tokens())) for name in names if name.lower() != "none"]

    def identity_files(self) -> list[Path]:
        """The `IdentityFile`s that the configuration names; empty means that it names none."""
        names = self.options.get("identityfile") or []
        return [Path(ssh_config.expand(name, self._tokens())) for name in names if name.lower() != "none"]

    def _tokens(self) -> dict[str, str]:
        return {
            "%": "%",
            "d": str(Path.home()),
            "h": self.hostname,
            "k": self.option("hostkeyalias", self.named.host),
            "n": self.named.host,
            "p": str(self.port),
            "r": self.user,
            "u": getpass.getuser(),
        }

    def ssh_command(self, *options: str) -> str:
        """What a user would type to try this hop with the `ssh` program."""
        words = ["ssh", *(["-F", self.config_file] if self.config_file else [])]
        if self.before:
            words += ["-J", ",".join(map(str, self.before))]
        words += ["-p", str(self.named.port)] if self.named.port else []
        words += ["-l", self.named.user] if self.named.user else []
        return shlex.join([*words, *options, self.named.host, "true"])


def parse_name(text: str) -> Named:
    """Reads `user@host:port`, where the host may be an IPv6 address (in brackets if a port follows).

    Raises:
        BadConfiguration: Where it is no such thing, or holds what could be mistaken for an option or a shell's syntax.
    """
    given = text.removeprefix("ssh://").rstrip("/")
    found = _NAMED.fullmatch(given)
    if found is None:
        raise BadConfiguration(f"{text!r} is not a hostname")
    user, port = found.group("user"), found.group("port")
    host = found.group("bracketed") or found.group("host") or ""
    if ":" in host and found.group("bracketed") is None:  # an IPv6 address, whose last part is not a port
        host, port = given.rpartition("@")[2], None
    if not _is_host(host) or (user is not None and not _USER.fullmatch(user)):
        raise BadConfiguration(f"{text!r} is not a hostname")
    if port is not None and not (port and 0 < int(port) < 65536):
        raise BadConfiguration(f"{text!r} does not name a port")
    return Named(user, host, int(port) if port else None)


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _HOST.fullmatch(text) is not None
    with suppress(ValueError):
        return ipaddress.ip_address(text).version == 6 and re.search(r"[^\w.:%-]", text) is None
    return False


def plan(hostname: str, config_file: str | os.PathLike[str] | None) -> list[Hop]:
    """The hops from here to `hostname`, which is the last of them.

    Raises:
        BadConfiguration: Where the hostname or the ssh configuration cannot be understood.
    """
    settings = ssh_config.read(config_file)
    given = None if config_file is None else str(Path(config_file).expanduser())
    return _hops(parse_name(hostname), settings, given, ())


def _hops(named: Named, settings: tuple[Setting, ...], given: str | None, on_behalf_of: tuple[Named, ...]) -> list[Hop]:
    if named in on_behalf_of:
        raise BadConfiguration(f"the ssh configuration's ProxyJump leads in a circle at {named}")
    hop = _hop(named, settings, given)
    jumps = _jumps(hop)
    if not jumps:
        return [hop]
    # The first jump host may need jumps of its own; the others are reached through their predecessor, whatever the
    # configuration says about them.
    hops = _hops(jumps[0], settings, given, (*on_behalf_of, named))
    for jump in jumps[1:]:
        hops.append(_hop(jump, settings, given, before=tuple(previous.named for previous in hops)))
    return [*hops, hop]


def _hop(named: Named, settings: tuple[Setting, ...], given: str | None, before: tuple[Named, ...] = ()) -> Hop:
    import fabric

    # As the options of a command line would, these come before what any file says.
    user = [Setting("user", named.user)] if named.user else []
    port = [Setting("port", str(named.port))] if named.port else []
    counting = ssh_match.settings_for([*user, *port, *settings], named.host)
    config = fabric.Config(lazy=True, ssh_config=ssh_config.parse(counting))
    try:
        # Fabric would take the hops of `ProxyJump a,b` in the wrong order, and "none" for a host's name.
        connection = fabric.Connection(named.host, config=config, gateway=False, forward_agent=False, connect_timeout=1)
    except ValueError as error:
        raise BadConfiguration(f"the ssh configuration for {named} cannot be understood: {error}") from error
    return Hop(named, connection, connection.ssh_config, given, before)


def _jumps(hop: Hop) -> list[Named]:
    if _way_through(hop.options) != "proxyjump" or hop.says("proxyjump", "none"):
        return []
    jumps = [parse_name(jump.strip()) for jump in hop.option("proxyjump").split(",")]
    # `Host *` with `ProxyJump gateway` is meant for everything but the gateway itself.
    return [] if any(jump.host in (hop.named.host, hop.hostname) for jump in jumps) else jumps


def _way_through(options: Mapping[str, Any]) -> str | None:
    """Which of the two options counts: the one that was set first."""
    return next((name for name in options if name in ("proxyjump", "proxycommand")), None)
