"""Decides which lines of an ssh configuration count for a host, as OpenSSH's `Host` and `Match` do."""

from __future__ import annotations

import fnmatch
import functools
import getpass
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trx import open_files
from trx.hosts.ssh_config import BadConfiguration, Setting, substitute

_FLAGS = ("all", "canonical", "final")
_PATTERNS = ("host", "originalhost", "user", "localuser")
_UNDECIDED = ("localnetwork", "tagged", "command", "sessiontype", "version")
_WORD = re.compile(r"""(["'])(?P<quoted>.*?)\1\s*|(?!')(?P<plain>[^\s"=]*)(?:"(?P<rest>[^"]*)"\s*|\s*=\s*|\s+|$)""")
_EXEC_TIMEOUT = 30.0
_ADVICE = "write a `Host` section in place of this line, in a file that only trx reads: ssh_config_file=... names it"


class Criterion(NamedTuple):
    """One criterion of a `Match` line; `value` is empty for those that take none."""

    name: str
    value: str
    negated: bool


@dataclass
class _Pass:
    """One reading of the whole configuration on behalf of one host.

    Attributes:
        original: The host as the user named it.
        host: What `Host` lines are compared with.
        final: Whether this is the second reading, with the hostname that the first one gave.
        given: The first value of each option so far.
        settings: All that count so far.
        final_asked_for: Whether a `Match final` wants a second reading.
    """

    original: str
    host: str
    final: bool = False
    given: dict[str, str] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)
    final_asked_for: bool = False

    @property
    def hostname(self) -> str:
        if self.final:
            return self.host
        given = self.given.get("hostname")
        return self.original if given is None else substitute(given, {"h": self.original, "%": "%"})

    @property
    def user(self) -> str:
        return self.given.get("user") or getpass.getuser()

    def read(self, settings: Iterable[Setting], outer: bool) -> None:
        """Goes through the lines of one file; `outer` says whether the section that includes it counts."""
        counts = outer
        for setting in settings:
            if setting.keyword == "host":
                counts = outer and host_matches(host_patterns(setting), self.host)
            elif setting.keyword == "match":
                asked = criteria(setting)  # a line that cannot be understood is an error wherever it stands
                self.final_asked_for |= any(criterion.name == "final" for criterion in asked)
                counts = outer and self._fulfils(asked, setting)
            elif setting.keyword == "include":
                self.read(setting.included, counts)
            elif counts:
                self.given.setdefault(setting.keyword, setting.value.strip('"'))
                self.settings.append(setting)

    def _fulfils(self, asked: tuple[Criterion, ...], line: Setting) -> bool:
        if not all(self._holds(c, line) != c.negated for c in asked if c.name not in _UNDECIDED):
            return False
        for name in (criterion.name for criterion in asked if criterion.name in _UNDECIDED):
            raise BadConfiguration(
                f"the ssh configuration, {line.where}: trx cannot decide whether `Match {name}` is fulfilled", _ADVICE
            )
        return True

    def _holds(self, criterion: Criterion, line: Setting) -> bool:
        match criterion.name:
            case "all":
                return True
            case "final" | "canonical":
                return self.final
            case "exec":
                return _succeeds(self._command(criterion.value, line), line)
            case "host":
                return list_matches(criterion.value.lower(), self.hostname.lower())
            case "originalhost":
                return list_matches(criterion.value.lower(), self.original.lower())
            case "user":
                return list_matches(criterion.value, self.user)
        return list_matches(criterion.value, getpass.getuser())

    def _command(self, value: str, line: Setting) -> str:
        own_name = socket.gethostname()
        tokens = {
            "%": "%",
            "d": str(Path.home()),
            "h": self.hostname,
            "i": str(os.getuid()),
            "k": self.given.get("hostkeyalias", self.original),
            "L": own_name.partition(".")[0],
            "l": own_name,
            "n": self.original,
            "p": self.given.get("port", "22"),
            "r": self.user,
            "u": getpass.getuser(),
        }
        unknown = [token for token in re.findall("%(.|$)", value) if token not in tokens]
        if unknown:
            raise BadConfiguration(
                f"the ssh configuration, {line.where}: `Match exec` has %{unknown[0]}, which trx does not know", _ADVICE
            )
        return substitute(value, tokens)


def settings_for(settings: Iterable[Setting], host: str) -> list[Setting]:
    """All lines that count for `host`, the most important first; the first of them is its `HostName`.

    As OpenSSH does, the configuration is read a second time with the hostname that came out of the first reading, where
    a `Match final` or `CanonicalizeHostname` asks for it. What the first reading has set is kept.

    Raises:
        BadConfiguration: Where a line cannot be understood, or decided.
    """
    settings = tuple(settings)
    reading = _Pass(host, host)
    reading.read(settings, outer=True)
    hostname = reading.hostname if ":" in reading.hostname else reading.hostname.lower()  # an interface may follow
    canonical = reading.given.get("canonicalizehostname", "").lower() in ("yes", "always")
    if canonical:
        hostname = _canonical(hostname, reading.given)
    if canonical or reading.final_asked_for:
        reading = _Pass(host, hostname, final=True, given=reading.given, settings=reading.settings)
        reading.read(settings, outer=True)
    rest = (s for s in dict.fromkeys(reading.settings) if s.keyword != "hostname" and "canonical" not in s.keyword)
    return [Setting("hostname", hostname), *rest]


def _canonical(hostname: str, given: Mapping[str, str]) -> str:
    import paramiko

    try:
        if hostname.count(".") > int(given.get("canonicalizemaxdots", "1")):
            return hostname
        domains = given.get("canonicaldomains", "").split()
        return str(paramiko.SSHConfig().canonicalize(hostname, given, domains)).lower()
    except (ValueError, paramiko.SSHException) as error:
        raise BadConfiguration(
            f"the ssh configuration's CanonicalizeHostname gives no name for {hostname}: {error}"
        ) from error


def criteria(line: Setting) -> tuple[Criterion, ...]:
    """Reads a `Match` line.

    Raises:
        BadConfiguration: Where it is none that OpenSSH understands.
    """
    words = iter(_words(line))
    found: list[Criterion] = []
    for word in words:
        name = word.removeprefix("!").lower()
        if name not in (*_FLAGS, *_PATTERNS, *_UNDECIDED, "exec"):
            raise _not_understood(line, f"there is no criterion {word!r}")
        value = "" if name in _FLAGS else next(words, "")
        if name not in _FLAGS and not value:
            raise _not_understood(line, f"the criterion {name!r} has no value")
        found.append(Criterion(name, value, word.startswith("!")))
    if not found:
        raise _not_understood(line, "it has no criterion")
    names = [criterion.name for criterion in found]
    if "all" in names and (names.index("all") != len(names) - 1 or len(names) > 2):
        raise _not_understood(line, "`all` stands alone, or last after one other criterion")
    return tuple(found)


def host_patterns(line: Setting) -> tuple[str, ...]:
    """Reads a `Host` line.

    Raises:
        BadConfiguration: Where a quote is not closed.
    """
    return _words(line)


@functools.lru_cache(maxsize=1 << 14)
def _words(line: Setting) -> tuple[str, ...]:
    """The words up to a comment: quotes keep blanks together, and on `Match` lines an equals sign parts words too."""
    text = line.value.strip()
    position = 0
    words = []
    while position < len(text) and text[position] != "#":
        found = _WORD.match(text, position)
        if found is None or found.end() == position:
            raise _not_understood(line, "a quote is not closed, or a word is missing")
        position = found.end()
        words.append(found["quoted"] if found["quoted"] is not None else found["plain"] + (found["rest"] or ""))
    return tuple(words)


def _not_understood(line: Setting, why: str) -> BadConfiguration:
    text = f"{line.keyword.capitalize()} {line.value}".strip()
    return BadConfiguration(
        f"the ssh configuration cannot be understood: {line.where}: {text!r}: {why}",
        "put this line right: `man ssh_config` says what it may hold, and `ssh -G HOST` what ssh makes of it",
    )


def host_matches(patterns: Iterable[str], host: str) -> bool:
    """Whether one of the patterns fits, and none of the negated ones."""
    fitting = [pattern for pattern in patterns if _fits(pattern.removeprefix("!"), host)]
    return bool(fitting) and not any(pattern.startswith("!") for pattern in fitting)


def list_matches(patterns: str, text: str) -> bool:
    """Whether `text` fits a list of patterns with commas between them."""
    return host_matches(patterns.split(","), text)


def _fits(pattern: str, text: str) -> bool:
    return _compiled(pattern).match(text) is not None


@functools.lru_cache(maxsize=1 << 14)  # each is compared with every host
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern in which only `*` and `?` have a meaning; its time is linear in the number of stars."""
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


def _succeeds(command: str, line: Setting) -> bool:
    """Runs a command of the user's own configuration in the user's shell, as OpenSSH does."""
    process = subprocess.Popen(
        [os.environ.get("SHELL") or "/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    open_files.spare(process.pid)
    try:
        return process.wait(_EXEC_TIMEOUT) == 0
    except subprocess.TimeoutExpired as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise BadConfiguration(
            f"the ssh configuration, {line.where}: the command of `Match exec` has not ended in {_EXEC_TIMEOUT:.0f} s"
        ) from error
