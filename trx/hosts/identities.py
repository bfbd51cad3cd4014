"""Proves who the user is: by keys of the ssh-agent and of files, never by a password, never by asking."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from trx.hosts.route import Hop
from trx.hosts.teardown import Teardown

_DEFAULTS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


class NotAuthenticated(Exception):
    """Raised where a host accepts none of the user's keys.

    Attributes:
        user: As whom it was tried.
        tried: The keys that the host did not accept.
        unusable: The identity files that could not be tried, each with the reason.
        protected: Those of them that want a passphrase.
        accepted: The methods that the host would accept.
        ended: Why it ended before all keys were tried, or "".
    """

    def __init__(self, user: str) -> None:
        super().__init__(user)
        self.user = user
        self.tried: list[str] = []
        self.unusable: list[str] = []
        self.protected: list[Path] = []
        self.accepted: list[str] = []
        self.ended = ""


class Keys:
    """Tries one key after the other; serves paramiko as its authentication strategy."""

    def __init__(self, hop: Hop, deadline: float, teardown: Teardown) -> None:
        self._hop, self._deadline, self._teardown = hop, deadline, teardown
        self._failure = NotAuthenticated(hop.user)

    def authenticate(self, transport: Any) -> None:
        """Called by paramiko once the host's key was found good.

        Raises:
            NotAuthenticated: Where no key is accepted.
        """
        import paramiko

        agent = self._agent()
        try:
            for name, key in self._keys(agent):
                self._failure.tried.append(name)
                if self._accepts(transport, partial(transport.auth_publickey, self._hop.user, key)):
                    return
            if self._accepts(transport, partial(transport.auth_none, self._hop.user)):
                return
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._failure.ended = str(error) or type(error).__name__
            raise self._failure from error
        finally:
            if agent is not None:
                agent.close()
        raise self._failure

    def _accepts(self, transport: Any, attempt: Callable[[], list[str]]) -> bool:
        import paramiko

        transport.auth_timeout = max(0.1, self._deadline - time.monotonic())
        try:
            self._failure.accepted = attempt()
        except paramiko.BadAuthenticationType as error:
            self._failure.accepted = error.allowed_types
            return False
        except paramiko.AuthenticationException:
            if not transport.is_active() or time.monotonic() >= self._deadline:
                raise
            return False
        return not self._failure.accepted  # a host that accepts the key may want something else in addition

    def _agent(self) -> Any:
        """A connection to the ssh-agent, or None where there is none that answers."""
        import paramiko

        if self._hop.says("identityagent", "none"):
            return None
        with suppress(paramiko.SSHException, OSError):
            return self._teardown.wait_for(paramiko.Agent, (self._deadline - time.monotonic()) / 2)
        return None

    def _keys(self, agent: Any) -> Iterator[tuple[str, Any]]:
        files = self._hop.identity_files()
        paths = files or [path for path in map(Path.expanduser, map(Path, _DEFAULTS)) if path.is_file()]
        held = {key.asbytes(): key for key in agent.get_keys()} if agent is not None else {}
        wanted = {path: blob for path in paths if (blob := _public(path)) in held}
        only_these = self._hop.says("identitiesonly", "yes")
        offered = set()
        for blob, key in sorted(held.items(), key=lambda item: item[0] not in wanted.values()):
            if blob in wanted.values() or not only_these:
                offered.add(blob)
                yield f"{getattr(key, 'comment', '') or key.get_name()} (ssh-agent)", key
        for path in paths:
            if path not in wanted:
                key = self._load(path)
                if key is not None and key.asbytes() not in offered:
                    yield str(path), key

    def _load(self, path: Path) -> Any:
        import cryptography.exceptions
        import paramiko

        reason = "is not a private key that can be used here"
        try:
            return paramiko.PKey.from_path(path)
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        except (TypeError, paramiko.PasswordRequiredException):  # cryptography's way to say that it needs a passphrase
            reason = "is protected by a passphrase"
            self._failure.protected.append(path)
        except (
            ValueError,
            paramiko.SSHException,
            paramiko.pkey.UnknownKeyType,
            cryptography.exceptions.UnsupportedAlgorithm,
        ):
            pass
        self._failure.unusable.append(f"{path} {reason}")
        return None


def _public(path: Path) -> bytes | None:
    """The public half of an identity file, which stands beside it, or may itself be what the configuration names."""
    with suppress(OSError, IndexError, binascii.Error):
        public = path if path.suffix == ".pub" else path.with_name(path.name + ".pub")
        return base64.b64decode(public.read_text(errors="replace").split()[1])
    return None
