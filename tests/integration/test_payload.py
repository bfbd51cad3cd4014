"""Objects that travel: nothing is copied on the way out, and everything comes back as it was."""

from __future__ import annotations

import ctypes
import functools
import gc
import io
import mmap
import pickle
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trx.pieces import Received
from trx_agent.protocol import payload
from trx_agent.protocol.diagnose import why_unpicklable

AGENT = Path(payload.__file__).parents[2]
MIB = 1 << 20

Trip = Callable[[Any], Any]


def encoded(obj: object) -> bytes:
    return b"".join(payload.dumps(obj).encode())


def take(assembler: payload.Assembler, data: bytes | memoryview) -> None:
    assembler.take(len(data), Received(memoryview(data)).pour)


def assemble(data: bytes, step: int) -> Any:
    assembler = payload.Assembler()
    for start in range(0, len(data), step):
        take(assembler, memoryview(data)[start : start + step])
    return assembler.result()


def mapped(obj: object, path: Path) -> Any:
    with open(path, "wb") as file:
        payload.write(file, payload.dumps(obj))
    with open(path, "rb") as file:
        return payload.read(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


@pytest.fixture(params=["buffers", "bytes", "mapped", "pieces of 7", "pieces of 4096"])
def trip(request: pytest.FixtureRequest, tmp_path: Path) -> Trip:
    """There and back, each way there is."""

    def buffers(obj: object) -> Any:
        pickled = payload.dumps(obj)
        return payload.loads(pickled.pickle, [bytearray(buffer) for buffer in pickled.buffers])

    trips: dict[str, Trip] = {
        "buffers": buffers,
        "bytes": lambda obj: payload.read(encoded(obj)),
        "mapped": lambda obj: mapped(obj, tmp_path / "payload"),
        "pieces of 7": lambda obj: assemble(encoded(obj), 7),
        "pieces of 4096": lambda obj: assemble(encoded(obj), 4096),
    }
    return trips[request.param]


def content(tensor: torch.Tensor) -> list[int]:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().flatten()
    return plain.view(torch.uint8).tolist() if plain.numel() else []


def assert_same(new: torch.Tensor, old: torch.Tensor) -> None:
    assert type(new) is type(old)
    assert (new.dtype, new.shape, new.layout, new.device) == (old.dtype, old.shape, old.layout, torch.device("cpu"))
    assert new.requires_grad == old.requires_grad
    if new.layout is torch.strided:
        assert new.stride() == old.stride()
        assert content(new) == content(old)
    else:
        assert content(new.to_dense()) == content(old.to_dense())


# ---- tensors --------------------------------------------------------------------------------------------------------

NUMBERS = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
DTYPES = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
SHAPES = {
    "contiguous": NUMBERS,
    "transposed": NUMBERS.transpose(0, 2),
    "strided": NUMBERS[:, ::2, 1::2],
    "expanded": torch.ones(1).expand(5, 3),
    "0-dim": torch.tensor(3.5),
    "0-dim view": NUMBERS[1, 2, 3],
    "empty": torch.empty(0),
    "empty of shape": torch.empty(3, 0, 2),
    "empty view at the end": torch.arange(1000)[1000:],
    "channels last": torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "requires grad": torch.ones(3, requires_grad=True),
    "conjugate": torch.tensor([1 + 2j, 3j]).conj(),
    "negative": torch.tensor([1 + 2j, 3j]).conj().imag,
    "parameter": nn.Parameter(torch.ones(4)),
    "frozen parameter": nn.Parameter(torch.ones(4), requires_grad=False),
    "coo": torch.eye(3).to_sparse(),
    "coo, not coalesced": torch.sparse_coo_tensor(
        torch.tensor([[0, 0, 1]]), torch.tensor([1.0, 2.0, 3.0]), (3,), check_invariants=False
    ),
    "first of many": torch.arange(10_000)[:2],
    "middle of many": torch.arange(10_000, dtype=torch.int16)[5001:5007:2],
    "last of many": torch.arange(10_000.0).reshape(100, 100)[-1, -3:],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype, trip: Trip) -> None:
    old = torch.arange(7, dtype=torch.float32).to(dtype)
    assert_same(trip(old), old)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape(name: str, trip: Trip) -> None:
    assert_same(trip(SHAPES[name]), SHAPES[name])


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta", "ignore:Sparse invariant checks")
def test_compressed_sparse(trip: Trip) -> None:
    for layout in (torch.sparse_csr, torch.sparse_csc):
        old = torch.eye(4).to_sparse(layout=layout)
        assert_same(trip(old), old)


@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor", "ignore:The PyTorch API of nested", "ignore:TypedStorage"
)
def test_quantized_and_nested(trip: Trip) -> None:
    quantized = torch.quantize_per_tensor(torch.arange(8.0), 0.1, 3, torch.qint8)[2:5]
    new = trip(quantized)
    assert (new.q_scale(), new.q_zero_point()) == (quantized.q_scale(), 3)
    assert new.int_repr().tolist() == quantized.int_repr().tolist()
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=layout)
        assert [part.tolist() for part in trip(nested).unbind()] == [[1, 1], [0, 0, 0]]


def test_meta_tensors_stay_without_data() -> None:
    meta = torch.empty(1000, 1000, device="meta")
    pickled = payload.dumps(meta)
    new = payload.loads(pickled.pickle, pickled.buffers)
    assert (new.device.type, new.shape, pickled.buffers) == ("meta", meta.shape, ())


class Marked(torch.Tensor):
    """A subclass, which torch pickles with its attributes."""

    mark: str


def test_subclasses_and_attributes(trip: Trip) -> None:
    for dtype in (torch.float32, torch.uint16):
        marked = torch.arange(1000).to(dtype)[10:13].as_subclass(Marked)
        marked.mark = "here"
        new = trip(marked)
        assert (type(new), new.mark, new.tolist()) == (Marked, "here", [10, 11, 12])
    plain = torch.arange(3)
    plain.mark = "there"  # type: ignore[attr-defined]
    assert trip(plain).mark == "there"


def test_a_result_that_needs_a_gradient_comes_back_as_from_torch_save(trip: Trip) -> None:
    layer = nn.Linear(2, 2)
    output = layer(torch.ones(1, 2))
    file = io.BytesIO()
    torch.save(output, file)
    file.seek(0)
    saved, new = torch.load(file), trip(output)
    assert_same(new, saved)
    assert (new.is_leaf, new.grad_fn) == (saved.is_leaf, saved.grad_fn) == (True, None)
    (new * 2).sum().backward()
    assert new.grad is not None


def test_loaded_tensors_are_writable(trip: Trip) -> None:
    new = trip([torch.zeros(3), torch.zeros(1000)[5:7]])
    for tensor in new:
        tensor += 1
        assert tensor.tolist() == [1] * len(tensor)


def test_sharing_survives(trip: Trip) -> None:
    base = torch.zeros(10)
    bits = base.view(torch.int32)
    new_base, row, same, new_bits = trip([base, base[2:4], base, bits])
    assert same is new_base
    row.fill_(7)
    assert new_base.tolist() == [0, 0, 7, 7, 0, 0, 0, 0, 0, 0]
    new_bits[0] = 0x3F800000
    assert new_base[0] == 1


def test_storages_have_a_fixed_size_as_after_torch_load(trip: Trip) -> None:
    for tensor in (torch.empty(0), torch.zeros(2)):
        with pytest.raises(RuntimeError, match="not resizable"):
            trip(tensor).resize_(10)


def test_a_tensor_whose_storage_was_freed_is_refused_as_by_torch_load(trip: Trip) -> None:
    freed = torch.zeros(10)
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="not resizable"):
        trip(freed)


def test_of_a_large_storage_only_what_is_needed_is_sent(trip: Trip) -> None:
    big = torch.arange(100_000, dtype=torch.int64)
    left, right = big[50_000:50_010], big[50_005:50_020]
    assert payload.dumps([left, right]).nbytes < 2000
    new_left, new_right = trip([left, right])
    new_right[0] = -1
    assert new_left.tolist() == [*range(50_000, 50_005), -1, *range(50_006, 50_010)]
    assert new_left.untyped_storage().nbytes() < 1000


@pytest.mark.parametrize("other", ["tensor", "storage", "subclass"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_storage_that_is_needed_as_a_whole_is_sent_whole(other: str, order: int, trip: Trip) -> None:
    big = torch.arange(1000)
    others = {"tensor": big, "storage": big.untyped_storage(), "subclass": big[:3].as_subclass(Marked)}
    new = trip([big[500:503], others[other]][::order])[::order][0]
    assert new.tolist() == [500, 501, 502]
    assert new.untyped_storage().nbytes() == 8000


def test_storages_come_back_as_from_torch_load(trip: Trip) -> None:
    old = torch.arange(4)
    new = trip(old.untyped_storage())
    assert new.dtype == torch.uint8
    assert list(new._untyped_storage) == list(old.untyped_storage())


def test_arrays(trip: Trip) -> None:
    numpy = pytest.importorskip("numpy")
    fixed = numpy.arange(5)
    fixed.flags.writeable = False
    arrays = {"C": numpy.arange(6).reshape(2, 3), "F": numpy.arange(6.0).reshape(3, 2).T, "fixed": fixed}
    arrays["strided"] = numpy.arange(10)[::2]
    arrays["objects"] = numpy.array([None, "x"], dtype=object)
    new = trip(arrays)
    for name, array in arrays.items():
        assert (new[name].dtype, new[name].tolist()) == (array.dtype, array.tolist())
    assert not new["fixed"].flags.writeable


@pytest.mark.gpu
def test_what_lay_on_a_gpu_comes_back_on_the_cpu(trip: Trip) -> None:
    big = torch.arange(10_000, device="cuda")
    layer = nn.Linear(3, 2).cuda()
    view, new_layer, sparse = trip([big[5000:5003], layer, torch.eye(2).to_sparse().cuda()])
    assert (view.device.type, view.tolist(), sparse.device.type) == ("cpu", [5000, 5001, 5002], "cpu")
    assert torch.equal(new_layer.weight, layer.weight.cpu())


# ---- what tensors are in --------------------------------------------------------------------------------------------


@dataclass
class Batch:
    images: torch.Tensor
    labels: list[torch.Tensor]
    parent: Any = None


def test_structures(trip: Trip) -> None:
    batch = Batch(torch.ones(2, 2), [torch.tensor(1), torch.tensor(2)])
    batch.parent = batch
    new = trip(batch)
    assert new.parent is new
    assert_same(new.images, batch.images)
    assert [label.item() for label in new.labels] == [1, 2]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.second(self.norm(self.first(inputs)))


def test_modules_and_optimizers(trip: Trip) -> None:
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    new_model, new_optimizer, state = trip((model, optimizer, optimizer.state_dict()))
    assert new_model.second.weight is new_model.first.weight
    assert new_optimizer.param_groups[0]["params"][0] is new_model.first.weight
    assert torch.equal(state["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    inputs = torch.randn(4, 3)
    assert torch.equal(new_model(inputs), model(inputs))
    new_model(inputs).sum().backward()
    new_optimizer.step()


def test_functions_and_exceptions(trip: Trip) -> None:
    offset = torch.arange(3)

    def add(value: int) -> torch.Tensor:
        return offset + value if value < 10 else add(value - 10)

    new_add, error = trip((add, ValueError("wrong", offset)))
    assert new_add(12).tolist() == [2, 3, 4]
    assert error.args[0] == "wrong"
    assert torch.equal(error.args[1], offset)


def test_function_of_a_script_that_names_torch_ops(trip: Trip) -> None:
    """Which is a module of a class of its own, as are modules that are imported lazily."""
    script = {"__name__": "__main__", "torch": torch}
    exec("def add(value):\n    return torch.ops.aten.add(value, 1)", script)
    assert trip(script["add"])(torch.tensor([1])).tolist() == [2]
    assert trip(torch.ops) is torch.ops


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_buffers_are_the_memory_of_the_tensors() -> None:
    for tensor in (NUMBERS, NUMBERS.transpose(0, 1), NUMBERS.to(torch.bfloat16), nn.Parameter(NUMBERS.clone())):
        _, buffer = payload.dumps(tensor).buffers
        assert torch.frombuffer(buffer, dtype=torch.uint8).data_ptr() == tensor.untyped_storage().data_ptr()
        assert (buffer.format, buffer.c_contiguous, buffer.nbytes) == ("B", True, tensor.untyped_storage().nbytes())


def test_buffers_keep_the_memory_alive_and_nothing_else_does() -> None:
    memory = (ctypes.c_ubyte * 1000)(*[7] * 1000)
    watch = weakref.ref(memory)
    gc.disable()
    try:
        pickled = payload.dumps([torch.frombuffer(memory, dtype=torch.uint8)])
        del memory
        assert bytes(pickled.buffers[1]) == b"\7" * 1000
        del pickled
        assert watch() is None
    finally:
        gc.enable()


def test_a_mapped_tensor_is_private_and_outlives_mapping_and_file(tmp_path: Path) -> None:
    path = tmp_path / "payload"
    new = mapped([torch.zeros(10_000), torch.ones(3)], path)
    before = path.read_bytes()
    assert new[0].data_ptr() % 64 == 0
    new[0] += 1
    assert path.read_bytes() == before
    path.unlink()
    gc.collect()
    assert new[0].sum() == 10_000
    assert new[1].tolist() == [1, 1, 1]


def test_a_small_tensor_keeps_no_large_one_alive() -> None:
    data = encoded({"large": torch.zeros(MIB // 4), "small": torch.ones(3)})
    tracemalloc.start()
    try:
        new = assemble(data, 100_000)
        assert tracemalloc.get_traced_memory()[0] > MIB
        del new["large"]
        assert tracemalloc.get_traced_memory()[0] < MIB // 4
    finally:
        tracemalloc.stop()
    assert new["small"].tolist() == [1, 1, 1]


def test_an_assembler_that_is_given_up_frees_its_memory() -> None:
    small, large = encoded(torch.zeros(MIB // 4)), encoded(torch.zeros(MIB))
    gc.disable()
    tracemalloc.start()
    try:
        assembler = payload.Assembler()
        take(assembler, small[: MIB // 2])
        assert tracemalloc.get_traced_memory()[0] > MIB
        assembler = payload.Assembler()
        take(assembler, large[: 2 * MIB])
        part = assembler._parts[-1]
        assert isinstance(part, mmap.mmap)  # of which tracemalloc knows nothing
        watch = weakref.ref(part)
        del assembler, part
        assert watch() is None
        assert tracemalloc.get_traced_memory()[0] < MIB // 4
    finally:
        tracemalloc.stop()
        gc.enable()


def test_memory_that_is_not_to_be_had_is_told_as_that() -> None:
    with pytest.raises(MemoryError):
        payload._memory(1 << 60)


def test_memory_is_had_from_a_kernel_that_takes_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutAdvice(mmap.mmap):
        def madvise(self, *_: object) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", WithoutAdvice)
    data = encoded(torch.arange(5 * MIB))
    assert torch.equal(assemble(data, 3 * MIB), torch.arange(5 * MIB))


@pytest.mark.parametrize(
    ("seconds", "advice"),
    [
        ([0.0005, 0.0005, 0.0005], ["huge", "huge"]),
        ([0.0005, 0.016, 0.0005], ["huge", "small", "small"]),
        ([0.016, 0.016, 0.016], ["huge", "small", "small"]),
        ([0.0005, 0.0005, 0.016], ["huge", "huge"]),  # too little to judge by
    ],
)
def test_huge_pages_are_given_up_where_they_take_long(
    seconds: list[float], advice: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {mmap.MADV_HUGEPAGE: "huge", mmap.MADV_NOHUGEPAGE: "small"}
    given: list[str] = []
    clock = [0.0]

    class Advised(mmap.mmap):
        def madvise(self, option: int, *span: int) -> None:
            if option in names:
                given.append(names[option])
            else:
                clock[0] += seconds[span[0] // payload._STEP]

    monkeypatch.setattr(mmap, "mmap", Advised)
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])
    pages = payload._Pages()
    steps = [len(step) for step in pages.steps(payload._memory(17 * MIB))]
    assert steps == [8 * MIB, 8 * MIB, MIB]
    clock = [0.0]
    list(pages.steps(payload._memory(2 * MIB)))  # what was found of one part counts for the next
    assert given == advice


def test_bytes_that_could_not_be_had_do_not_count() -> None:
    data = encoded(torch.zeros(1000))
    assembler = payload.Assembler()
    take(assembler, data[:-10])

    def fail(_: memoryview) -> None:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        assembler.take(10, fail)
    with pytest.raises(ValueError, match=f"only {len(data) - 10} bytes"):
        assembler.result()


def test_loaded_sparse_tensors_are_let_go() -> None:
    new = payload.read(encoded(torch.eye(3).to_sparse()))
    watch = weakref.ref(new)
    del new
    assert watch() is None


ASSEMBLE = """
import sys
from trx_agent.protocol import payload

def resident(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

with open(sys.argv[1], "rb") as file:
    total = file.seek(0, 2)
    file.seek(0)
    before = resident("VmRSS")
    assembler = payload.Assembler()
    while file.tell() < total:
        assembler.take(min(1 << 20, total - file.tell()), file.readinto)
    result = assembler.result()
assert [len(part) for part in result] == [100 << 20, 28 << 20, 128 << 20], result
assert resident("VmHWM") - before < 256 + 8, (before, resident("VmHWM"))
assert not {"torch", "numpy"} & set(sys.modules)
"""


def test_peak_memory_is_that_of_the_object(tmp_path: Path) -> None:
    path = tmp_path / "payload"
    sizes = [100 * MIB, 28 * MIB, 128 * MIB]
    with open(path, "wb", buffering=0) as file:
        payload.write(file, payload.dumps([pickle.PickleBuffer(bytearray(size)) for size in sizes]))
    run(ASSEMBLE, str(path))
    path.unlink()


# ---- without torch --------------------------------------------------------------------------------------------------

DUMP = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None  # as if not installed
from trx_agent.protocol import payload

class Greeting:
    def __init__(self, name):
        self.name = name
        self.itself = self

    def __call__(self):
        return greet(self.name)

def greet(name):
    return f"hello {name}"

payload.write(sys.stdout.buffer, payload.dumps({"call": Greeting("you"), "raw": b"x" * 100_000}))
"""
LOAD = """
import sys
from trx_agent.protocol import payload, diagnose
greeting = payload.read(sys.stdin.buffer.read())
assert greeting["call"].itself is greeting["call"] and greeting["raw"] == b"x" * 100_000
assert not {"torch", "numpy"} & set(sys.modules)
print(greeting["call"]())
"""


def run(script: str, *args: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", script, *args], input=stdin, env={"PYTHONPATH": str(AGENT)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_plain_objects_and_what_main_defines_need_no_torch() -> None:
    assert run(LOAD, stdin=run(DUMP)) == b"hello you\n"


# ---- the encoding ---------------------------------------------------------------------------------------------------


class Dribble(io.RawIOBase):
    """Takes few bytes at a time, as a raw stream may."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Any) -> int:
        taken = memoryview(data)[:1000]
        self.data += taken
        return len(taken)


def test_layout() -> None:
    pickled = payload.Pickled(b"p" * 5, (memoryview(b""), memoryview(b"b" * 65), memoryview(b"")))
    stream = Dribble()
    written = payload.write(stream, pickled)  # type: ignore[arg-type]
    head = b"TRXPAY1\0" + struct.pack("<5Q", 4, 5, 0, 65, 0)
    assert bytes(stream.data) == head.ljust(64, b"\0") + (b"p" * 5).ljust(64, b"\0") + b"b" * 65 + bytes(63)
    assert written == len(stream.data)
    assert pickled.nbytes == 70


def test_a_raw_stream_takes_all() -> None:
    stream = Dribble()
    payload.write(stream, payload.dumps(NUMBERS.repeat(100, 1, 1)))  # type: ignore[arg-type]
    assert torch.equal(payload.read(stream.data), NUMBERS.repeat(100, 1, 1))


GOOD = encoded(torch.arange(100))
BAD = {
    "empty": b"",
    "too short for a header": GOOD[:10],
    "another mark": b"x" + GOOD[1:],
    "no parts": GOOD[:8] + struct.pack("<Q", 0) + GOOD[16:],
    "more parts than there is memory for": GOOD[:8] + struct.pack("<Q", 1 << 40) + GOOD[16:],
    "too many parts": GOOD[:8] + struct.pack("<Q", 1 << 63) + GOOD[16:],
    "a part too long": GOOD[:16] + struct.pack("<Q", (1 << 64) - 1) + GOOD[24:],
    "cut off": GOOD[:-1],
    "something behind": GOOD + b"\0",
    "only zeros": bytes(1000),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_encoded_object_is_refused(name: str) -> None:
    data = BAD[name]
    with pytest.raises(ValueError, match="encoded object"):
        payload.read(data)
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, MemoryError)):
            assemble(data, 5)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_after_a_refusal_an_assembler_refuses_all() -> None:
    assembler = payload.Assembler()
    with pytest.raises(ValueError, match="not an encoded object"):
        take(assembler, b"x" * 20)
    with pytest.raises(ValueError, match="more than an encoded object of 16 bytes"):
        take(assembler, b"x" * 980)
    with pytest.raises(ValueError, match="refused"):
        assembler.result()


def test_an_assembler_that_had_no_room_for_a_part_refuses_all(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = payload._memory

    def none_for_buffers(size: int) -> payload.Memory:
        if size == 8000:
            raise MemoryError
        return memory(size)

    monkeypatch.setattr(payload, "_memory", none_for_buffers)
    data = encoded(torch.arange(1000))
    assembler = payload.Assembler()
    with pytest.raises(MemoryError):
        take(assembler, data)
    with pytest.raises(ValueError, match="refused"):
        assembler.result()


def test_an_assembler_wants_exactly_one_encoded_object() -> None:
    assembler = payload.Assembler()
    take(assembler, GOOD[:-1])
    with pytest.raises(ValueError, match=f"only {len(GOOD) - 1} bytes"):
        assembler.result()
    take(assembler, GOOD[-1:])
    with pytest.raises(ValueError, match=f"more than an encoded object of {len(GOOD)} bytes"):
        take(assembler, b"x")
    assert torch.equal(assembler.result(), torch.arange(100))
    with pytest.raises(ValueError, match="handed out before"):
        assembler.result()


# ---- what cannot be pickled -----------------------------------------------------------------------------------------

LOCK = threading.Lock()
CANNOT = "cannot pickle '_thread.lock' object"


class Holder:
    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)

    def method(self) -> None:
        """Nothing."""


class Slotted:
    __slots__ = ("lock",)

    def __init__(self, lock: object) -> None:
        self.lock = lock


class Selective(Holder):
    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "left_out"}


def in_closure() -> Callable[[], object]:
    captured = {"lock": LOCK}
    return lambda: captured


def in_globals() -> Any:
    space: dict[str, Any] = {"the_lock": [LOCK], "unused": LOCK, "__name__": "__main__"}
    exec("def outer():\n    def inner():\n        return the_lock\n    return inner", space)
    return space["outer"]


def with_default(lock: object) -> Callable[[], object]:
    def function(argument: object = lock) -> object:
        return argument

    return function


def in_class() -> type:
    class Local:
        lock = LOCK

        @property
        def value(self) -> int:
            return 1

    return Local


def circular() -> Holder:
    child = Holder()
    parent = Holder(child=child, others=[1, 2, child], resource={"lock": LOCK})
    child.parent = parent  # type: ignore[attr-defined]
    return parent


def call(*args: object, **kwargs: object) -> functools.partial[object]:
    return functools.partial(print, *args, **kwargs)


CULPRITS = {
    "": LOCK,
    "argument 2 → ['model'] → .lock": call(1, {"model": Holder(lock=LOCK)}),
    "argument device → [1]": call(1, device=(2, LOCK)),
    "function <lambda> → closure variable captured → ['lock']": functools.partial(in_closure()),
    "function outer → global variable the_lock → [0]": in_globals(),
    "argument 1 → class Local → .lock": call(in_class()),
    ".thing → class Local → .lock": Holder(thing=in_class()()),
    "method method → its object → .lock": Holder(lock=LOCK).method,
    "[0] → .lock": [Slotted(LOCK)],
    ".images": Batch(LOCK, []),  # type: ignore[arg-type]
    ".kept": Selective(left_out=LOCK, kept=LOCK),
    "['a'] → [3]": defaultdict(list, a=[0, 1, 2, LOCK]),
    "['b']": OrderedDict(a=1, b=LOCK),
    "ValueError argument 2": ValueError("x", LOCK),
    ".resource → ['lock']": circular(),
    "._modules → ['0'] → .lock": nn.Sequential(nn.Linear(1, 1)),
}
CULPRITS["._modules → ['0'] → .lock"][0].lock = LOCK


@pytest.mark.parametrize("path", CULPRITS)
def test_the_culprit_is_named(path: str) -> None:
    told = why_unpicklable(CULPRITS[path])
    assert told == (f"{path}: {CANNOT}" if path else CANNOT)


def test_a_default_value_is_named() -> None:
    assert why_unpicklable(with_default(LOCK)).startswith("function function → default value <")


def test_elements_of_sets_are_named() -> None:
    assert why_unpicklable([{LOCK}]).startswith("[0] → element <")


def test_the_object_can_be_given_a_name() -> None:
    assert why_unpicklable([LOCK], "the value") == f"the value → [0]: {CANNOT}"
    assert why_unpicklable([1], "the value") == "the value: nothing is wrong with it, it can be pickled"


def test_an_object_that_refuses_is_the_culprit() -> None:
    class Refuses:
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

    assert why_unpicklable({"x": Refuses()}) == "['x']: not me"


def test_the_search_is_bounded() -> None:
    deep: Any = LOCK
    for _ in range(200):
        deep = [deep]
    assert why_unpicklable(deep).endswith(CANNOT)
    wide = [[number] for number in range(5000)]
    assert CANNOT in why_unpicklable([*wide, LOCK])
