"""Refuses a launch at the top level of a module that a worker, or a child of one, imports to load a function.

Such a launch would never end: its workers load a function of the same module, and launch again.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from trx_agent.protocol import loading

_RECEIVERS = {"multiprocessing.connection", "multiprocessing.queues", "torch.multiprocessing.queue"}
"""Modules in which a process of a pool unpickles what it is to call, and imports the modules that this is from."""


def check_not_importing() -> None:
    """Passes where a user's code launches, and not a module that is imported on its behalf.

    Raises:
        RuntimeError: Where a module launches while this process loads a function.
    """
    ours = list(_frames(sys._getframe()))
    if not (loading.is_loading() or _is_being_spawned() or _is_receiving(ours)):
        return
    # A module may launch in a thread, and wait for it: then the main thread is the one that imports.
    theirs = _frames(sys._current_frames().get(threading.main_thread().ident or 0))
    top = next(filter(_is_of_an_import, itertools.chain(ours, theirs)), None)
    file = top.f_code.co_filename if top else "a module"
    raise RuntimeError(
        f'{file} launches when it is imported: put the launch under `if __name__ == "__main__"`. '
        "Workers import the module to load a function, and each of them would launch again"
    )


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Goes from a frame to its callers."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_of_an_import(frame: FrameType) -> bool:
    """Whether it is the top level of a module, and not that of the program, which nobody calls."""
    return frame.f_code.co_name == "<module>" and frame.f_back is not None


def _is_receiving(frames: list[FrameType]) -> bool:
    """Whether a module is imported because an object that refers to it has come from another process."""
    callers = itertools.dropwhile(lambda frame: not _is_of_an_import(frame), frames)
    return any(frame.f_globals.get("__name__") in _RECEIVERS for frame in callers)


def _is_being_spawned() -> bool:
    """Whether multiprocessing is still loading what this process is to call; it asks itself the same way."""
    from multiprocessing.process import current_process  # here, so that `import trx` stays quick

    return getattr(current_process(), "_inheriting", False)
