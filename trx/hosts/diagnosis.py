"""Says in words, and with an advice, why a host cannot be used."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

from trx.errors import HostFailure
from trx.hosts.host_keys import ChangedKey, RevokedKey, UnknownKey
from trx.hosts.identities import NotAuthenticated
from trx.hosts.route import Hop
from trx.hosts.sockets import Unreached, Unresolved
from trx.hosts.ssh_config import BadConfiguration
from trx.hosts.teardown import Closed
from trx.worker_end import signal_name

_CHECKING = "checking its key"
_LAST_LINES = 10
_NO_BANNER = "Error reading SSH protocol banner"


class Finding(NamedTuple):
    """What a `HostFailure` says, but for the host's name."""

    stage: str
    reason: str
    advice: str = ""


class NotCarriedOn(Exception):
    """Raised where a jump host does not connect to the next hop: `reason` is its own word for why."""

    def __init__(self, jump_host: str, reason: str, prohibited: bool) -> None:
        super().__init__(reason)
        self.jump_host, self.reason, self.prohibited = jump_host, reason, prohibited


class ProxyEnded(Exception):
    """Raised where a `ProxyCommand` ends before an SSH server has answered through it."""


def diagnose(error: BaseException, hop: Hop | None, stage: str, timeout: float | None) -> Finding:
    """Says why a hop cannot be used.

    Args:
        error: How the attempt ended.
        hop: Where it ended; None if it is not known yet which hops there are.
        stage: What was being done.
        timeout: The number of seconds that had been given, if they were over.
    """
    if isinstance(error, BadConfiguration):
        return Finding("reading the ssh configuration", str(error), error.advice)
    if isinstance(error, Closed):
        return Finding(stage, str(error))
    if hop is None:
        return Finding(stage, f"{type(error).__name__}: {error}")
    for kind, explain in _EXPLANATIONS.items():
        if isinstance(error, kind):
            return explain(hop, error)
    if stage == "connecting" and (finding := _unanswered(hop, error)) is not None:
        return finding
    return _broken(hop, error, stage, timeout)


def _unresolved(hop: Hop, error: Unresolved) -> Finding:
    reason = f"the name {hop.hostname} cannot be resolved: {error}"
    return Finding("resolving its name", reason, "check its spelling, or give it a HostName in the ssh configuration")


def _unreached(hop: Hop, error: Unreached) -> Finding:
    reasons = dict.fromkeys(f"{address} {_in_words(cause)}" for address, cause in error.attempts)
    if all(cause.errno == errno.ECONNREFUSED for _, cause in error.attempts):
        advice = f"is sshd running there, and is {hop.port} its port?"
    else:
        advice = f"is the host up, and does every firewall let port {hop.port} through? Try: {hop.ssh_command()}"
    return Finding("connecting", f"port {hop.port} cannot be connected to: {', '.join(reasons)}", advice)


def _in_words(cause: OSError) -> str:
    if isinstance(cause, TimeoutError):
        return "does not answer"
    if cause.errno == errno.ECONNREFUSED:
        return "refuses the connection"
    return f"is unreachable ({cause.strerror or cause})"


def _not_carried_on(hop: Hop, error: NotCarriedOn) -> Finding:
    if error.prohibited:
        advice = f"allow it in the sshd_config of {error.jump_host}: AllowTcpForwarding yes (or local), PermitOpen any"
    else:
        advice = f"can {hop.hostname} be reached from {error.jump_host}?"
    reason = f"the jump host {error.jump_host} cannot connect to port {hop.port} of {hop.hostname}: {error.reason}"
    return Finding("connecting", reason, advice)


def _proxy_ended(hop: Hop, error: ProxyEnded) -> Finding:
    said = f": {error}" if str(error) else " without a word"
    return Finding("connecting", f"its ProxyCommand ended{said}", f"try it by hand: {hop.proxy_command}")


def _changed(_: Hop, error: ChangedKey) -> Finding:
    reason = (
        f"its key has changed: {error.key_type} {error.fingerprint} is not the {error.known.entry.key_type} key "
        f"in {error.known}: "
        "the host was installed anew, or somebody else answers in its place (an attack)"
    )
    remedy = shlex.join(["ssh-keygen", "-R", error.name, "-f", str(error.known.file)])
    return Finding(_CHECKING, reason, f"ask the host's administrator; only if the new key is right: {remedy}")


def _revoked(_: Hop, error: RevokedKey) -> Finding:
    reason = f"its {error.key_type} key {error.fingerprint} is revoked by {error.known}"
    return Finding(_CHECKING, reason, "ask the host's administrator")


def _unknown(hop: Hop, error: UnknownKey) -> Finding:
    files = ", ".join(map(str, error.files)) or "no file at all (UserKnownHostsFile none)"
    reason = f"its {error.key_type} key {error.fingerprint} is not known; {error.name} was looked for in {files}"
    # ssh-keyscan would believe whoever answers; this shows the fingerprint and asks.
    batch = ("-o", "BatchMode=no") if hop.says("batchmode", "yes") else ()
    command = hop.ssh_command("-o", "StrictHostKeyChecking=ask", *batch)
    return Finding(_CHECKING, reason, f"run this once, and compare the fingerprint before you say yes: {command}")


def _not_authenticated(hop: Hop, error: NotAuthenticated) -> Finding:
    tried = f"none of these keys is accepted: {', '.join(error.tried)}" if error.tried else "there is no key to try"
    facts = [f"{error.user} cannot log in: {tried}", *error.unusable]
    if error.ended:
        facts.append(f"it ended with: {error.ended}")
    if error.tried and error.accepted and "publickey" not in error.accepted:
        facts.append(f"the host wants {' or '.join(error.accepted)}, for which trx cannot ask")
    if error.protected:
        advice = f"load the key into the ssh-agent: {shlex.join(['ssh-add', str(error.protected[0])])}"
    elif error.ended and len(error.tried) > 1:
        advice = "if the host gives up after too many keys, name the right one: IdentityFile, and IdentitiesOnly yes"
    elif error.tried:
        advice = f"is {error.user} the right user, and one of these keys in its .ssh/authorized_keys on the host?"
    else:
        advice = "make a key (ssh-keygen) and install it (ssh-copy-id), or name one by IdentityFile"
    return Finding("authenticating", "; ".join(facts), f"{advice} Try: {hop.ssh_command()}" if error.tried else advice)


_EXPLANATIONS: dict[type[BaseException], Callable[[Hop, Any], Finding]] = {
    Unresolved: _unresolved,
    Unreached: _unreached,
    NotCarriedOn: _not_carried_on,
    ProxyEnded: _proxy_ended,
    RevokedKey: _revoked,
    ChangedKey: _changed,
    UnknownKey: _unknown,
    NotAuthenticated: _not_authenticated,
}


def _unanswered(hop: Hop, error: BaseException) -> Finding | None:
    """What it means that no SSH server has introduced itself."""
    text = str(error)
    if text.startswith(("Indecipherable protocol version", "Invalid SSH banner")):
        return Finding("connecting", f"what answers at port {hop.port} is no SSH server", "is this the right port?")
    if turned_away(error):
        advice = "it may have too many connections at a time (MaxStartups in its sshd_config), or refuse this address"
        return Finding("connecting", "it closed the connection at once", advice)
    if text.startswith(_NO_BANNER):
        reason = f"port {hop.port} is open, but no SSH server answers there"
        return Finding("connecting", reason, "is this the right port, and is the host not overloaded?")
    return None


def turned_away(error: BaseException) -> bool:
    """Whether a server closed the connection before it had introduced itself."""
    if str(error).startswith(_NO_BANNER):
        return not isinstance(error.__context__, TimeoutError)
    return isinstance(error, (EOFError, ConnectionError))


def _broken(hop: Hop, error: BaseException, stage: str, timeout: float | None) -> Finding:
    if timeout is not None:
        reason = f"it did not answer within {timeout:g} s"
    elif isinstance(error, (EOFError, ConnectionError)):
        reason = f"it closed the connection ({str(error) or type(error).__name__})"
    else:
        reason = str(error) or type(error).__name__
    return Finding(stage, reason, f"try: {hop.ssh_command()}")


def diagnose_forwarding(error: Exception) -> Finding:
    """Says why a port of a host cannot be forwarded to the launcher."""
    stage = "forwarding a port"
    if isinstance(error, (Closed, TimeoutError)):
        return Finding(stage, str(error))
    reason = f"its sshd does not forward a port to the launcher ({error})"
    return Finding(stage, reason, "allow it in its sshd_config: AllowTcpForwarding yes (or remote), PermitListen any")


def exit_failure(hostname: str, python: str, status: int | None, output: str) -> HostFailure:
    """Says why the interpreter ended before there was an agent.

    Args:
        hostname: As the user named it.
        python: The interpreter that was to run.
        status: What `Channel.wait` gave: None where the connection was lost.
        output: What was printed meanwhile.
    """
    lines = output.strip().splitlines()[-_LAST_LINES:]
    words = "\n    ".join(["the last that was printed:", *lines]) if lines else ""
    if status == 127:
        reason = f"there is no interpreter {python}"
        words = "is the environment installed there, at the same path? The path on the hosts is set by python="
    elif status == 126:
        reason = f"the interpreter {python} cannot be executed"
    elif status is None:
        reason = "the connection was lost"
    elif status < 0:
        reason = f"{python} was killed by {signal_name(-status)}"
    else:
        reason = f"{python} ended with status {status}"
    return HostFailure(hostname, "starting Python", reason, words)
