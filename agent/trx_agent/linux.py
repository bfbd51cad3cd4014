"""The few Linux calls that Python does not offer: who dies with whom, and who inherits orphans."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IOLBF = 1
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_SIG_IGN = ctypes.c_void_p(1)
_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel send a signal to this process when its parent ends.

    To be called in the child, after each fork (which clears the setting) and early.

    Args:
        parent: The pid that the parent had: where it has died already, this process sends itself the signal.
        number: The signal.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def ignore_warnings() -> None:
    """Has this process, and all that it will start, outlive SIGUSR1 and SIGUSR2, unless they catch them.

    Slurm sends such a signal, shortly before it ends a job, to every process of a step.
    """
    for number in _WARNINGS:
        signal.signal(number, signal.SIG_IGN)


def ignore_warnings_unseen() -> None:
    """The same, but Python takes them for signals that nobody has dealt with yet.

    Whoever asks, so as not to take a handler's place (as Lightning does), may then set one of his own.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _WARNINGS)
    for number in _WARNINGS:
        signal.signal(number, signal.SIG_DFL)
        _libc.signal(int(number), _SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WARNINGS)


def unblock_signals() -> None:
    """Whatever the thread had blocked that has started this process."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def inherit_orphans() -> None:
    """Makes this process the new parent of every orphan among its descendants, daemons included."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def punch_hole(descriptor: int, start: int, end: int) -> None:
    """Gives the room of a file's range back to the file system; where that has no holes, nothing happens."""
    if end > start:
        _libc.fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(start), ctypes.c_int64(end - start))


def write_lines_at_once() -> None:
    """Has C write each line of stdout when it ends, and not keep it until some buffer is full.

    Half a line at the very end is written by torch's redirection.
    """
    _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, "stdout"), None, _IOLBF, 0)


def reap() -> dict[int, int]:
    """Collects every child that has ended, adopted ones too.

    Returns:
        For each pid its exit code, negative for a signal, as in `subprocess`.
    """
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)
