"""Checks a host's key against the user's and the system's known hosts, as OpenSSH does.

paramiko's own reader knows neither patterns nor `@revoked`, stops at `@cert-authority`, and takes only the first key of
a type: it would call a good host changed.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import functools
import hashlib
import hmac
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trx.hosts.route import Hop

_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
_storing = threading.Lock()


class Key(Protocol):
    """What is used of `paramiko.PKey`."""

    def get_name(self) -> str: ...
    def asbytes(self) -> bytes: ...


def fingerprint(blob: bytes) -> str:
    """The fingerprint of a public key, as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class Entry:
    """One line of a file of known hosts."""

    line: int
    marker: str
    names: tuple[str, ...]
    key_type: str
    blob: bytes

    def is_about(self, name: str) -> bool:
        """Whether one of its patterns matches, and none that forbids it."""
        if any(_matches(name, pattern[1:]) for pattern in self.names if pattern.startswith("!")):
            return False
        return any(_matches(name, pattern) for pattern in self.names)


@dataclass(frozen=True)
class Known:
    """An entry, and the file that it stands in."""

    file: Path
    entry: Entry

    def __str__(self) -> str:
        return f"line {self.entry.line} of {self.file}"


class UntrustedKey(Exception):
    """Raised where a host's key is not to be trusted.

    Attributes:
        name: The name under which keys of this host are known.
        key_type: The type of the key that the host shows.
        fingerprint: The fingerprint of that key.
    """

    def __init__(self, name: str, key: Key) -> None:
        super().__init__(f"{key.get_name()} key of {name}")
        self.name, self.key_type, self.fingerprint = name, key.get_name(), fingerprint(key.asbytes())


class UnknownKey(UntrustedKey):
    """Nothing is known about this host, in any of the `files`."""

    def __init__(self, name: str, key: Key, files: list[Path]) -> None:
        super().__init__(name, key)
        self.files = files


class ChangedKey(UntrustedKey):
    """The host is `known` by another key."""

    def __init__(self, name: str, key: Key, known: Known) -> None:
        super().__init__(name, key)
        self.known = known


class RevokedKey(ChangedKey):
    """The key is marked as `@revoked`."""


class KnownHosts:
    """The keys by which a hop may be known; serves paramiko as the policy for a host that it does not know."""

    def __init__(self, hop: Hop) -> None:
        alias = hop.option("hostkeyalias").lower()
        plain = hop.hostname.lower()
        self.name = alias or (plain if hop.port == 22 else f"[{plain}]:{hop.port}")
        self._portless = None if alias or hop.port == 22 else plain
        self._user_files = hop.files("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
        self._files = [
            *self._user_files,
            *hop.files("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"),
        ]
        self._accepts_new = hop.says("stricthostkeychecking", "accept-new", "no", "off")
        self._hashes = hop.says("hashknownhosts", "yes")

    def algorithms(self) -> list[str]:
        """The algorithms of the keys that are known: a host that has several keys should show one of these."""
        types = dict.fromkeys(known.entry.key_type for known in self._known())
        return [algorithm for kind in types for algorithm in _ALGORITHMS.get(kind, (kind,))]

    def missing_host_key(self, _client: object, _hostname: str, key: Key) -> None:
        """Called by paramiko with every key, since it is told of no known hosts.

        Raises:
            UntrustedKey: Where the key is not to be trusted.
        """
        if self._is_known(key):
            return
        with _storing:
            if not self._is_known(key):
                self._store(key)

    def _is_known(self, key: Key) -> bool:
        known, blob = list(self._known()), key.asbytes()
        same = [one for one in known if one.entry.blob == blob]
        for one in same:
            if one.entry.marker == "@revoked":
                raise RevokedKey(self.name, key, one)
        valid = [one for one in known if not one.entry.marker]
        if any(one in valid for one in same):
            return True
        if self._portless and any(
            one.entry.blob == blob for one in self._known(self._portless) if not one.entry.marker
        ):
            return True
        if valid:
            same_type = [one for one in valid if one.entry.key_type == key.get_name()]
            raise ChangedKey(self.name, key, (same_type or valid)[0])
        return False

    def _known(self, name: str | None = None) -> Iterator[Known]:
        for file in self._files:
            with suppress(OSError):
                for entry in _parse(file.read_text(errors="replace")):
                    if entry.is_about(name or self.name):
                        yield Known(file, entry)

    def _store(self, key: Key) -> None:
        if not self._accepts_new:
            raise UnknownKey(self.name, key, self._files)
        if not self._user_files:
            return
        file = self._user_files[0]
        name = _hashed(self.name, os.urandom(20)) if self._hashes else self.name
        line = f"{name} {key.get_name()} {base64.b64encode(key.asbytes()).decode()}\n"
        # As with OpenSSH, a host is not refused because it cannot be written down.
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b") as store:
                before = store.read()
                store.write((b"\n" if before and not before.endswith(b"\n") else b"") + line.encode())


@functools.lru_cache(maxsize=16)
def _parse(text: str) -> tuple[Entry, ...]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or marker == "@cert-authority":
            continue
        with suppress(binascii.Error):
            blob = base64.b64decode(words[2])
            entries.append(Entry(number, marker, tuple(words[0].split(",")), words[1], blob))
    return tuple(entries)


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("|1|"):
        with suppress(binascii.Error, ValueError):
            salt = base64.b64decode(pattern.split("|")[2])
            return hmac.compare_digest(_hashed(name, salt), pattern)
        return False
    if "*" in pattern or "?" in pattern:  # brackets are literal here: "[host]:port"
        return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))
    return name == pattern.lower()


def _hashed(name: str, salt: bytes) -> str:
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
