"""What runs at the launcher of a soak: opens a `trx.Launcher` as the plan says, and notes in a file what becomes of it.

    python program.py CONFIG

CONFIG is a JSON file with "settings" (of `trx.Launcher`), "open", "deeds" (see `plan.Deed`), and "notes": the path of
the file, a line of JSON for each note; before each run but the first, the program waits until there is "<notes>.<run>".
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import trx

CONFIG = json.loads(Path(sys.argv[1]).read_text())
FOREVER = 600.0
PATIENCE = 20.0


# ---- on the workers -------------------------------------------------------------------------------------------------


def work(run: int, deed: dict[str, Any]) -> dict[str, Any]:
    rank = int(os.environ["RANK"])
    fails = deed["end"] != "return"
    if deed["stubborn"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kept = have_offspring(deed["offspring"])
    for line in range(1, deed["lines"] + 1):
        print(f"soak: run {run} rank {rank} line {line} pid {os.getpid()}", flush=True)
        flood(deed["flood"])
        if deed["reduces"]:
            reduce()
        if deed["seconds"] < FOREVER:
            time.sleep(deed["seconds"] / deed["lines"])
    if fails and rank == deed["culprit"]:
        fail(deed["end"])
    if deed["seconds"] >= FOREVER or (fails and deed["others_stay"]):
        stay(deed["reduces"])
    value = {"rank": rank, "run": run, "host": socket.gethostname(), "blob": bytes([rank + 1]) * deed["size"]}
    del kept
    return value


def have_offspring(kind: str) -> object:
    if kind == "daemon":
        subprocess.run(["/bin/sh", "-c", "setsid sleep 600 & setsid setsid sleep 601 &"], check=True)
    if kind == "loader":
        import torch.utils.data

        data = torch.utils.data.TensorDataset(torch.arange(64))
        batches = iter(torch.utils.data.DataLoader(data, batch_size=4, num_workers=1, persistent_workers=True))
        next(batches)
        return batches
    return None


def flood(size: int) -> None:
    line = "x" * 99 + "\n"
    for _ in range(size // 10_000):
        sys.stdout.write(line * 100)


def reduce() -> None:
    import torch
    import torch.distributed

    value = torch.ones(1)
    torch.distributed.all_reduce(value)
    assert value.item() == torch.distributed.get_world_size()


def stay(reduces: bool) -> None:
    end = time.monotonic() + FOREVER
    while time.monotonic() < end:
        if reduces:
            reduce()
        time.sleep(0.2)


def fail(end: str) -> None:
    if end == "raise":
        raise ValueError("a fault of the user's")
    if end == "exit":
        os._exit(7)
    if end == "system exit":
        sys.exit("enough")
    os.kill(os.getpid(), signal.Signals[end])
    time.sleep(FOREVER)


# ---- at the launcher ------------------------------------------------------------------------------------------------


def note(what: str, **facts: Any) -> None:
    with open(CONFIG["notes"], "a") as notes:
        notes.write(json.dumps({"what": what, "at": time.monotonic(), **facts}) + "\n")


def await_go(run: int) -> None:
    while not os.path.exists(f"{CONFIG['notes']}.{run}"):
        time.sleep(0.005)


def told(error: BaseException) -> dict[str, Any]:
    return {
        "kind": type(error).__name__,
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        "text": str(error),
        "hosts": [failure.hostname for failure in getattr(error, "failures", ())],
        "rank": getattr(error, "rank", None),
        "signal": getattr(error, "signal", None),
        "exitcode": getattr(error, "exitcode", None),
    }


def summary(value: dict[str, Any]) -> list[Any]:
    return [value["rank"], value["run"], value["host"], len(value["blob"]), zlib.crc32(value["blob"])]


def run_all(launcher: trx.Launcher) -> None:
    for run, deed in enumerate(CONFIG["deeds"]):
        if run:
            await_go(run)
        note("begins", run=run)
        try:
            values = launcher.run(work, run, deed)
        except BaseException as error:
            note("ended", run=run, **told(error))
            if not isinstance(error, Exception):
                raise
        else:
            note("ended", run=run, kind="values", values=[summary(value) for value in values])


def threads_left() -> list[str]:
    """The library's threads, once they have had the time to end."""
    end = time.monotonic() + PATIENCE
    while (left := [each.name for each in threading.enumerate() if each.name.startswith("trx-")]) and (
        time.monotonic() < end
    ):
        time.sleep(0.01)
    return left


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the soak may have ignored it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    launcher = trx.Launcher(**CONFIG["settings"])
    try:
        if CONFIG["open"]:
            with launcher:
                run_all(launcher)
                note("closes")
        else:
            run_all(launcher)
    except KeyboardInterrupt:
        note("interrupted")
    with contextlib.suppress(KeyboardInterrupt):
        note("closed")
        note("done", threads=threads_left())


if __name__ == "__main__":
    main()
