"""The launcher's loggers `trx.<hostname>.<local_rank>`, as far as the user has configured them.

A logger passes on to those above it up to "trx". The root logger is left out, its level too: who has called
`logging.basicConfig` sees nothing twice. Loggers are looked up and never made, so that a later `dictConfig`, which
disables all loggers that there are, disables none of these.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

from trx.output.outputs import Source

ROOT = "trx"


def logger_name(source: Source) -> str:
    """`trx.<hostname>.<local_rank>` for a worker, `trx.<hostname>` for an agent."""
    name = f"{ROOT}.{source.hostname}"
    return name if source.local_rank is None else f"{name}.{source.local_rank}"


def threshold(name: str) -> int:
    """The level below which a logger takes nothing."""
    own = _existing(name)
    if own is not None and own.disabled:
        return sys.maxsize
    level = next((each.level for each in _upwards(name) if each.level), logging.NOTSET)
    return max(level, logging.root.manager.disable + 1)


def lets_pass(name: str, record: logging.LogRecord) -> bool:
    """Whether the logger's own filters let a record pass; they may change it."""
    own = _existing(name)
    return own is None or bool(own.filter(record))


def handlers(name: str) -> list[logging.Handler]:
    """Those of a logger, and of all that it passes on to."""
    found: list[logging.Handler] = []
    for logger in _upwards(name):
        found += logger.handlers
        if not logger.propagate:
            break
    return found


def _upwards(name: str) -> Iterator[logging.Logger]:
    while name:
        logger = _existing(name)
        if logger is not None:
            yield logger
        name = name.rpartition(".")[0]


def _existing(name: str) -> logging.Logger | None:
    logger = logging.root.manager.loggerDict.get(name)
    return logger if isinstance(logger, logging.Logger) else None
