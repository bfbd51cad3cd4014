"""What a function is given, and what it gives back, is what it was."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import trx
from trx_agent.protocol.messages import Kind, Stream

from .helpers import Script, is_alive, log_files, on_rank, rank, run_script, travels_by_value, wait_until

travels_by_value(__name__)

MIB, GIB = 1 << 20, 1 << 30


@dataclass
class Measured:
    name: str
    values: list[float]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.decoder = nn.Linear(3, 4)
        self.decoder.weight = nn.Parameter(self.encoder.weight.t())
        self.register_buffer("steps", torch.tensor(7))


class Scaler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scale(self, number: int) -> int:
        return self.factor * number

    def __call__(self, number: int) -> int:
        return self.factor * number + rank()

    @classmethod
    def named(cls) -> str:
        return cls.__name__

    @staticmethod
    def doubled(number: int) -> int:
        return 2 * number


# ---- return values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        2**20000,
        -0.0,
        float("inf"),
        "héllo \N{SNOWMAN} \0",
        b"\0\xff" * 1000,
        {"a": [1, (2, {3})], None: frozenset("xy")},
        Counter("abracadabra"),
        ValueError("an exception that is returned is a value"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_come_back_equal(workers: trx.Launcher, value: object) -> None:
    for returned in workers.run(lambda: value):
        assert type(returned) is type(value)
        assert returned == value or repr(returned) == repr(value)


def test_object_of_a_class_that_workers_cannot_import_comes_back_as_one_of_it(
    workers: trx.Launcher,
) -> None:
    result = workers.run(lambda: Measured("loss", [0.5, rank()]))

    assert list(result) == [Measured("loss", [0.5, 0]), Measured("loss", [0.5, 1])]


def test_tensors_come_back_with_dtype_shape_and_values(workers: trx.Launcher) -> None:
    def tensors() -> list[torch.Tensor]:
        return [
            torch.full((2, 3), 0.5),
            torch.arange(12, dtype=torch.int16).reshape(3, 4).t(),
            torch.tensor(True),
            torch.ones(5, dtype=torch.bfloat16),
            torch.empty(0, 4),
            torch.ones(2, requires_grad=True),
            torch.eye(3).to_sparse(),
        ]

    for returned in workers.run(tensors):
        for one, other in zip(returned, tensors(), strict=True):
            assert [one.dtype, one.layout, one.requires_grad] == [other.dtype, other.layout, other.requires_grad]
            assert torch.equal(one.to_dense(), other.to_dense())


def test_tensors_that_shared_storage_still_do_and_can_be_written_to(workers: trx.Launcher) -> None:
    def views() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        base = torch.zeros(4, 4)
        return base, base[1], base.t()

    base, row, transposed = workers.run(views).rank(1)
    row[2] = 5.0

    assert base[1, 2] == 5.0
    assert transposed[2, 1] == 5.0


def test_sharded_tensor_comes_back_as_the_shard_that_its_rank_had(group: trx.Launcher) -> None:
    def shard() -> object:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        return distribute_tensor(torch.arange(8.0), init_device_mesh("cpu", (2,)), [Shard(0)])

    first, second = (returned.to_local() for returned in group.run(shard))  # type: ignore[attr-defined]  # DTensor
    second[0] = 9.0

    assert first.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert second.tolist() == [9.0, 5.0, 6.0, 7.0]


def test_view_of_a_large_tensor_does_not_bring_the_whole_of_it_along(workers: trx.Launcher) -> None:
    view = workers.run(lambda: torch.zeros(1 << 20)[:10]).rank(0)

    assert view.shape == (10,)
    assert view.untyped_storage().nbytes() < 1 << 16


def test_module_comes_back_with_tied_weights_and_can_be_called(workers: trx.Launcher) -> None:
    def train() -> Network:
        network = Network()
        network.encoder(torch.ones(4)).sum().backward()
        return network

    network = workers.run(train).rank(1)

    assert isinstance(network, Network)
    assert network.steps == 7
    network.decoder.weight.data[0, 0] = 42.0
    assert network.encoder.weight[0, 0] == 42.0
    assert network.encoder(torch.ones(4)).shape == (3,)


def test_numpy_arrays_come_back_writable(workers: trx.Launcher) -> None:
    def arrays() -> dict[str, Any]:
        return {
            "grid": numpy.arange(6.0).reshape(2, 3),
            "columns": numpy.asfortranarray(numpy.eye(3)),
            "strings": numpy.array(["a", "bc"]),
            "objects": numpy.array([{"a": 1}, None], dtype=object),
            "scalar": numpy.float32(0.5),
        }

    returned = workers.run(arrays).rank(0)

    for name, expected in arrays().items():
        assert numpy.array_equal(returned[name], expected)
        assert returned[name].dtype == expected.dtype
    returned["grid"][0, 0] = 9.0
    assert returned["columns"].flags.f_contiguous


def test_functions_can_be_returned(workers: trx.Launcher) -> None:
    def make() -> tuple[Callable[[int], int], Callable[[], int]]:
        number = 10 + rank()
        return lambda x: x + number, functools.partial(max, number, 3)

    add, largest = workers.run(make).rank(1)

    assert add(1) == 12
    assert largest() == 11


def test_value_with_cycles_comes_back_with_cycles(workers: trx.Launcher) -> None:
    def cycle() -> list[Any]:
        ring: list[Any] = [1]
        ring.append(ring)
        return ring

    ring = workers.run(cycle).rank(0)

    assert ring[1] is ring


def test_values_of_all_sizes_around_a_chunk_come_back_whole(workers: trx.Launcher) -> None:
    sizes = [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (4 << 20) + 3, 9_000_001]

    returned = workers.run(lambda: [bytes([rank() + 1]) * size for size in sizes])

    for number, values in enumerate(returned):
        assert [len(value) for value in values] == sizes
        assert all(set(value) <= {number + 1} for value in values)


def test_value_that_cannot_be_pickled_fails_with_rank_and_culprit(workers: trx.Launcher) -> None:
    def make() -> dict[str, Any]:
        return {"ok": 1, "state": [2, threading.Lock()]}

    with pytest.raises(trx.WorkerFailedError) as caught:
        workers.run(on_rank(1, make))

    assert caught.value.rank == 1
    assert "cannot return the value → ['state'] → [1]: cannot pickle '_thread.lock' object" in str(caught.value)


def test_value_that_cannot_be_loaded_fails_with_rank_and_reason(workers: trx.Launcher) -> None:
    class Fragile:
        def __reduce__(self) -> tuple[Any, ...]:
            return _only_in_a_worker, ()

    with pytest.raises(trx.WorkerFailedError, match="cannot be loaded here: RuntimeError: not in a worker") as caught:
        workers.run(lambda: Fragile() if rank() == 1 else None)

    assert caught.value.rank == 1
    assert "in _only_in_a_worker" in caught.value.worker_traceback
    assert workers.run(rank).by_ranks() == [0, 1]


def _only_in_a_worker() -> object:
    if "TRX_LAUNCH" not in os.environ:
        raise RuntimeError("not in a worker")
    return None


def test_worker_that_is_killed_while_it_writes_its_value_fails_its_rank_and_others_values_are_kept(
    workers: trx.Launcher, tmp_path: Path
) -> None:
    def kill_half_way(worker: int, folder: Path) -> None:
        while not any(path.stat().st_size > 1 << 20 for path in folder.iterdir()):
            pass
        os.kill(worker, signal.SIGKILL)
        os._exit(0)

    def work() -> object:
        other = tmp_path / "pid"
        if rank() == 0:
            other.write_text(str(os.getpid()))
            return "good"
        wait_until(lambda: other.exists() and not is_alive(int(other.read_text() or 1)), "rank 0 has returned")
        worker = os.getpid()
        if os.fork() == 0:
            kill_half_way(worker, Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parent)
        return torch.ones(256 << 20, dtype=torch.uint8)

    with pytest.raises(trx.WorkerFailedError, match=r"rank 1 .* was killed by SIGKILL") as caught:
        workers.run(work)

    assert (caught.value.rank, caught.value.signal) == (1, signal.SIGKILL)
    assert dict(caught.value.values) == {0: "good"}


def test_class_of_the_script_itself_comes_back_as_that_class(tmp_path: Path) -> None:
    out = run_script(
        tmp_path,
        """
from dataclasses import dataclass
import enum
import os
import trx

class Colour(enum.Enum):
    RED = 1

@dataclass(frozen=True)
class Found:
    rank: int
    colour: Colour

def find():
    return Found(int(os.environ["RANK"]), Colour.RED)

result = trx.launch(find, hostnames=["localhost"], workers_per_host=2, backend=None)
assert result.by_ranks() == [Found(0, Colour.RED), Found(1, Colour.RED)], result
assert all(type(each) is Found and each.colour is Colour.RED for each in result)
print("same class")
""",
    )

    assert out == "same class\n"


@pytest.mark.timeout(180)  # on a machine that others use, too
@pytest.mark.skipif(shutil.disk_usage("/dev/shm").free < 3 * GIB, reason="less than 3 GiB free in /dev/shm")
def test_gibibyte_of_tensor_comes_back_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher holds it once; the agent never does."""
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    source = """
import os
import psutil
import torch
import trx

def peak(pid):  # unlike ru_maxrss, not that of the parent before the exec
    status = open(f"/proc/{pid}/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024

def make():
    value = torch.ones(1 << 30, dtype=torch.uint8)
    value[12345] = value[-1] = 7
    return value

def agents_peak():
    agent = psutil.Process().parents()[2]
    assert "trx_agent" not in " ".join(agent.cmdline())
    return peak(agent.pid)

with trx.Launcher(["localhost"], 1, backend=None) as launcher:
    launcher.run(int)
    before = peak(os.getpid())
    value = launcher.run(make).rank(0)
    grown = peak(os.getpid()) - before
    assert value.numel() == 1 << 30 and value[12345] == value[-1] == 7 and int(value.count_nonzero()) == 1 << 30
    print(grown, launcher.run(agents_peak).rank(0))
"""
    with Script(tmp_path, source) as script:
        status, out, err = script.ends(170)

    assert status == 0, err
    launcher_grew, agents_peak = (int(word) for word in out.split())
    assert 900 <= launcher_grew < 1400
    assert agents_peak < 200


# ---- arguments ------------------------------------------------------------------------------------------------------


def test_arguments_arrive_by_position_and_by_name() -> None:
    def echo(*args: object, **kwargs: object) -> tuple[object, object]:
        return args, kwargs

    result = trx.launch(
        echo, (1, [2]), {"func": "f", "self": 3}, hostnames=["localhost"], workers_per_host=1, backend=None
    )

    assert result.rank(0) == ((1, [2]), {"func": "f", "self": 3})


def test_tensor_written_to_by_one_worker_is_not_changed_for_the_other(workers: trx.Launcher) -> None:
    weights = torch.zeros(1 << 20)

    def work(argument: torch.Tensor, done: Path) -> float:
        if rank() == 0:
            argument.fill_(5.0)
            done.touch()
        else:
            while not done.exists():
                pass
        return float(argument.sum()) / argument.numel()

    directory = Path(os.environ["TRX_LOG_DIR"]).parent
    result = workers.run(work, weights, directory / "written")

    assert list(result) == [5.0, 0.0]
    assert float(weights.sum()) == 0.0


def test_tensor_arguments_share_pages_until_they_are_written_to(workers: trx.Launcher) -> None:
    def mebibytes_of_its_own(argument: torch.Tensor) -> tuple[int, int]:
        start = _own_memory()
        argument.sum()
        read = _own_memory()
        argument += 1
        return (read - start) >> 20, (_own_memory() - read) >> 20

    for by_reading, by_writing in workers.run(mebibytes_of_its_own, torch.ones(64 << 20, dtype=torch.uint8)):
        assert by_reading < 8
        assert 60 <= by_writing < 80


def _own_memory() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


def test_arguments_that_share_storage_still_do(workers: trx.Launcher) -> None:
    def write_through(base: torch.Tensor, *, view: torch.Tensor) -> float:
        view[0] = 3.0
        return float(base[1])

    base = torch.zeros(4)

    assert list(workers.run(write_through, base, view=base[1:])) == [3.0, 3.0]


def test_large_argument_arrives_whole(workers: trx.Launcher) -> None:
    blob = os.urandom(1 << 20) * 21 + b"end"

    assert list(workers.run(hash_of, blob)) == [hash_of(blob)] * 2


def hash_of(blob: bytes) -> str:
    import hashlib

    return hashlib.sha256(blob).hexdigest()


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (lambda x: x + 1, [6, 6]),
        (functools.partial(pow, 2), [32, 32]),
        (functools.partial(lambda x, y: x * y, y=3), [15, 15]),
        (Scaler(3).scale, [15, 15]),
        (Scaler(3), [15, 16]),
        (Scaler.doubled, [10, 10]),
        (Scaler, [5, 5]),
        (abs, [5, 5]),
        ([9, 8, 7, 6, 5, 4].__getitem__, [4, 4]),
    ],
    ids=["lambda", "partial", "partial of lambda", "method", "object", "static", "class", "builtin", "slot"],
)
def test_anything_that_can_be_called_can_be_run(
    workers: trx.Launcher, func: Callable[[int], Any], expected: list[int]
) -> None:
    returned = [each.factor if isinstance(each, Scaler) else each for each in workers.run(func, 5)]

    assert returned == expected


def test_class_method_can_be_run(workers: trx.Launcher) -> None:
    assert list(workers.run(Scaler.named)) == ["Scaler", "Scaler"]


def test_closures_carry_what_they_close_over(workers: trx.Launcher) -> None:
    table = {"base": 100}

    def outer(x: int) -> int:
        def inner() -> int:
            return table["base"] + x + rank()

        return inner()

    assert list(workers.run(outer, 1)) == [101, 102]


def test_recursive_function_can_be_run(workers: trx.Launcher) -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert list(workers.run(factorial, 30)) == [265252859812191058636308480000000] * 2


def test_module_as_argument_keeps_its_weights(workers: trx.Launcher) -> None:
    network = Network()

    def same(given: Network, weight: torch.Tensor) -> tuple[bool, bool]:
        return torch.equal(given.encoder.weight, weight), given.decoder.weight.requires_grad

    assert list(workers.run(same, network, network.encoder.weight)) == [(True, True)] * 2


# ---- a value on its way ---------------------------------------------------------------------------------------------


def go_on() -> None:
    pass


def fail() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def return_in_two_steps(signpost: Path, between: Callable[[], None]) -> torch.Tensor:
    """Rank 0 writes half of its value, and waits for the signpost."""
    from trx_agent.protocol import payload

    def write_in_two_steps(file: Any, pickled: payload.Pickled) -> None:
        encoded = b"".join(pickled.encode())
        file.write(encoded[: len(encoded) // 2])
        file.flush()
        wait_until(signpost.exists, "half of the value has arrived")
        between()
        file.write(encoded[len(encoded) // 2 :])

    if rank() == 0:
        payload.write = write_in_two_steps  # type: ignore[assignment]
    return torch.arange(1 << 23)


@contextlib.contextmanager
def watching_the_value(launcher: trx.Launcher, signpost: Path) -> Iterator[None]:
    """Puts up the signpost when the launcher has 1 MiB of what rank 0 returns."""
    engine: Any = launcher._session._engine  # type: ignore[union-attr]

    def heard() -> bool:
        return any(
            stream.kind is Kind.VALUE and stream.local_rank == 0 and upto >= MIB
            for (_, stream), upto in list(engine._heard.items())
        )

    def watch() -> None:
        wait_until(heard, "half of the value")
        signpost.touch()

    with ThreadPoolExecutor() as pool:
        watched = pool.submit(watch)
        yield
        watched.result()


def test_a_value_arrives_while_it_is_written(tmp_path: Path) -> None:
    signpost = tmp_path / "signpost"
    with trx.Launcher(["localhost"], 2, backend=None) as launcher:
        launcher.run(rank)
        with watching_the_value(launcher, signpost):
            result = launcher.run(return_in_two_steps, signpost, go_on)
    assert all(torch.equal(value, torch.arange(1 << 23)) for value in result)


@pytest.mark.parametrize("between", [fail, die])
def test_a_value_whose_worker_fails_halfway_is_none_and_the_next_run_works(
    tmp_path: Path, between: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    signpost = tmp_path / "signpost"
    with trx.Launcher(["localhost"], 2, backend=None) as launcher:
        launcher.run(rank)
        engine: Any = launcher._session._engine  # type: ignore[union-attr]
        give_credit = engine._give_credit

        def give_none_for_values(agent: int, stream: Stream, consumed: int) -> None:
            """So that there is something left to be sent when the worker fails."""
            if stream.kind is not Kind.VALUE or stream.local_rank != 0:
                give_credit(agent, stream, consumed)

        with monkeypatch.context() as changed, watching_the_value(launcher, signpost):
            changed.setattr(engine, "_give_credit", give_none_for_values)
            with pytest.raises(trx.WorkerFailedError) as caught:
                launcher.run(return_in_two_steps, signpost, between)
        assert launcher.run(rank).by_ranks() == [0, 1]
    error = caught.value
    assert error.rank == 0
    if between is die:
        assert error.failures[0].signal == signal.SIGKILL
    else:
        assert "No space left on device" in str(error.worker_traceback)


# ---- processes that the function forks ------------------------------------------------------------------------------


def end_as_the_worker_does() -> None:
    pass


def raise_something() -> None:
    raise ValueError("of a copy")


def exit_in_order() -> None:
    sys.exit()


def exit_with_a_number() -> None:
    sys.exit(3)


def exit_with_a_text() -> None:
    sys.exit("no more to do")


def fork(end: Callable[[], None]) -> int:
    """Returns the exit status of a copy of the worker, which leaves the function in some way."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print("printed by a copy")
    end()
    return -1


@pytest.mark.parametrize(
    ("end", "status", "printed"),
    [
        (end_as_the_worker_does, 0, ""),
        (raise_something, 1, "ValueError: of a copy"),
        (exit_in_order, 0, ""),
        (exit_with_a_number, 3, ""),
        (exit_with_a_text, 1, "no more to do"),
    ],
)
def test_a_copy_of_a_worker_that_leaves_the_function_has_no_outcome(
    end: Callable[[], None], status: int, printed: str, log_base: Path
) -> None:
    result = trx.launch(fork, (end,), hostnames=["localhost"], workers_per_host=2, backend=None)
    assert result.by_ranks() == [status, status]
    text = log_files(log_base)["localhost[0].log"].read_text()
    assert "printed by a copy" in text
    assert printed in text
