"""How Python objects become bytes and come back without their tensors and arrays being copied.

Objects are pickled by cloudpickle with protocol 5. The memory of tensors and of numpy arrays stays beside the pickle,
as buffers. Both ends must run on machines of the same byte order.

**Layout of an encoded object**, in a file or on a network. Numbers are unsigned, little-endian, 64 bits wide:

| bytes | what |
|---|---|
| 8 | `TRXPAY1` and a zero byte |
| 8 | number of parts: the pickle is the first, the others are its buffers, in order |
| 8 for each part | length of the part |
| the rest | the parts, each at the next multiple of 64 bytes from the start, zeros between; nothing after the last |

**Tensors** come back as `torch.load` brings back what `torch.save` saved: those that share storage still do, non-leaf
tensors are leaves that keep `requires_grad`, and storages have a fixed size. Whatever lay on another device is on the
CPU. Of a storage more than twice as large as what the pickled tensors span of it, only that span is sent, unless it is
needed as a whole: by a storage object, a quantized tensor, or a tensor with attributes or of a subclass.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import mmap
import pickle as pickling
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pickle import PickleBuffer
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

from cloudpickle import CloudPickler

from trx_agent.protocol import by_value

if TYPE_CHECKING:
    import torch
    from typing_extensions import Buffer

    Loaded = tuple[torch.UntypedStorage, int]  # a storage, and which byte of the original one it begins with

MAGIC = b"TRXPAY1\0"
HEADER = struct.Struct("<8sQ")
ALIGNMENT = 64
_AT_ONCE = 1 << 20  # bytes; whoever reads the file meanwhile, or makes a hole in it, waits for the end of each write
_HUGE_PAGE = 2 << 20
_TABLE_STEP = 1 << 16
_STEP = 4 * _HUGE_PAGE
_SLOW = 0.4e-9  # seconds for each byte
_MADV_POPULATE_WRITE = 23  # since Linux 5.14; Python has no name for it

Memory = bytearray | mmap.mmap
"""What a part of an object lies in once it has arrived."""

Pour = Callable[[memoryview], None]
"""Fills a part of memory with the next bytes of something."""

TORCH_TYPES = frozenset({"Tensor", "TypedStorage", "UntypedStorage"})


@dataclass(frozen=True)
class Pickled:
    """An object as a pickle and the buffers that lie beside it.

    The buffers are the object's own memory: until they are sent, changes to the object show in them.
    """

    pickle: bytes
    buffers: tuple[memoryview, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the pickle and the buffers, without what `write` puts around them."""
        return sum(self._lengths)

    def encode(self) -> Iterator[bytes | memoryview]:
        """Yields the encoded object in pieces, in order and uncopied."""
        lengths = self._lengths
        parts: tuple[bytes | memoryview, ...] = (self.pickle, *self.buffers)
        yield HEADER.pack(MAGIC, len(parts)) + struct.pack(f"<{len(parts)}Q", *lengths)
        position = HEADER.size + 8 * len(parts)
        for span, part in zip(_spans(lengths), parts, strict=True):
            yield bytes(span.start - position)
            yield part
            position = span.stop

    @property
    def _lengths(self) -> list[int]:
        return [len(self.pickle), *(buffer.nbytes for buffer in self.buffers)]


def dumps(obj: object) -> Pickled:
    """Pickles an object, and raises whatever the pickling of it raises."""
    pickler = Pickler(stream := io.BytesIO())
    pickler.dump(obj)
    return Pickled(stream.getvalue(), pickler.buffers())


def loads(pickle: Buffer, buffers: Sequence[Buffer]) -> Any:
    """Loads a pickle; tensors and arrays use the memory of the buffers (a tensor copies one that is read-only)."""
    obj = pickling.loads(pickle, buffers=buffers)  # noqa: S301  # running each other's code is what trx is for
    # torch keeps every sparse tensor that it rebuilds in a global list, until torch.load calls this private function.
    validate = getattr(sys.modules.get("torch._utils"), "_validate_loaded_sparse_tensors", None)
    if validate is not None:
        validate()
    return obj


def write(stream: BinaryIO, pickled: Pickled) -> int:
    """Writes an encoded object to a stream, buffered or raw, and returns its size."""
    total = 0
    for piece in pickled.encode():
        rest = memoryview(piece)
        total += len(rest)
        while rest:
            rest = rest[stream.write(rest[:_AT_ONCE]) :]
    return total


def read(data: Buffer) -> Any:
    """Loads an encoded object that goes on using `data`, such as a file mapped with `mmap.ACCESS_COPY`.

    Raises:
        ValueError: Where `data` is not one whole encoded object.
    """
    view = memoryview(data).cast("B")
    body = HEADER.size + _table_size(bytes(view[: HEADER.size]))
    if body > len(view):
        raise ValueError(f"only {len(view)} bytes of an encoded object")
    spans = _parse_table(view[HEADER.size : body])
    if spans[-1].stop != len(view):
        raise ValueError(f"an encoded object of {spans[-1].stop} bytes, not {len(view)}")
    pickle, *buffers = (view[span] for span in spans)
    return loads(pickle, buffers)


class Assembler:
    """Receives an encoded object in pieces, each part into memory of its own.

    What comes back is writable, and no tensor keeps alive another storage than its own. Memory for a part is
    allocated when its turn comes.
    """

    def __init__(self) -> None:
        self._received = 0
        self._parts: list[Memory] = []
        self._targets = _targets(self._parts, _Pages())
        self._target = memoryview(b"")

    def take(self, size: int, pour: Pour) -> None:
        """Takes the next bytes, any number of them, right into the memory in which they stay.

        Raises:
            ValueError: Where this is no encoded object, or goes on behind its end.
            MemoryError: Where there is no room for it.
        """
        while size:
            if not self._target:
                if (target := next(self._targets, None)) is None:
                    raise ValueError(f"there is more than an encoded object of {self._received} bytes")
                self._target = target
            part = self._target[:size]
            pour(part)
            self._target = self._target[size:] or memoryview(b"")
            self._received += len(part)
            size -= len(part)

    def result(self) -> Any:
        """Loads the object, once: the memory becomes the object's own.

        Raises:
            ValueError: Where bytes are missing, or the object was refused or handed out before.
        """
        if self._target or any(self._targets):  # what else is left has no bytes
            raise ValueError(f"only {self._received} bytes of an encoded object arrived")
        if not self._parts:
            raise ValueError("the object was refused or handed out before")
        pickle, *buffers = self._parts
        self._parts = []
        return loads(pickle, buffers)


def _memory(size: int) -> Memory:
    """Memory for one part; of a large one the pages are still to be made."""
    if size < _HUGE_PAGE:
        return bytearray(size)
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError from error


class _Pages:
    """Has the kernel make the pages of large parts, a step at a time.

    It makes many for less than one after the other, and huge ones in a quarter of the time; but not in a virtual
    machine that has given free memory back to the machine that it runs on. There they take five times as long as small
    ones, which are made of what is left in pieces. So it is tried.
    """

    def __init__(self) -> None:
        self._advice = mmap.MADV_HUGEPAGE

    def steps(self, memory: Memory) -> Iterator[memoryview]:
        """Yields the memory of one part."""
        view = memoryview(memory)
        if isinstance(memory, bytearray):
            yield view
            return
        _advise(memory, self._advice)
        for start in range(0, len(view), _STEP):
            step = view[start : start + _STEP]
            began = time.thread_time()
            _advise(memory, _MADV_POPULATE_WRITE, start, len(step))
            slow = time.thread_time() - began > len(step) * _SLOW
            if slow and self._advice == mmap.MADV_HUGEPAGE and len(step) >= _HUGE_PAGE:
                self._advice = mmap.MADV_NOHUGEPAGE
                _advise(memory, self._advice)
            yield step


def _advise(memory: mmap.mmap, advice: int, *span: int) -> None:
    """A kernel that does not know an advice makes the pages when they are filled."""
    with contextlib.suppress(OSError):
        memory.madvise(advice, *span)


def _targets(parts: list[Memory], pages: _Pages) -> Iterator[memoryview]:
    """Yields the memory that arriving bytes belong in, and adds each part when its turn comes."""
    header = bytearray(HEADER.size)
    yield memoryview(header)
    table, size = bytearray(), _table_size(header)
    while len(table) < size:  # step by step: it may be said to be longer than all memory
        step = bytearray(min(_TABLE_STEP, size - len(table)))
        yield memoryview(step)
        table += step
    position = HEADER.size + len(table)
    for span in _parse_table(table):
        yield memoryview(bytearray(span.start - position))
        try:
            parts.append(_memory(span.stop - span.start))
        except MemoryError:
            parts.clear()  # it is refused
            raise
        yield from pages.steps(parts[-1])
        position = span.stop


def _table_size(header: bytes | bytearray) -> int:
    magic, count = HEADER.unpack(header.ljust(HEADER.size, b"\0"))
    if magic != MAGIC or not 1 <= count <= sys.maxsize // 8:
        raise ValueError("not an encoded object")
    return int(count) * 8


def _parse_table(table: Buffer) -> list[slice]:
    return _spans([length for (length,) in struct.iter_unpack("<Q", table)])


def _spans(lengths: Sequence[int]) -> list[slice]:
    """Returns where the parts of an encoded object lie."""
    end, spans = HEADER.size + 8 * len(lengths), []
    for length in lengths:
        start = end + -end % ALIGNMENT
        end = start + length
        spans.append(slice(start, end))
    return spans


class Pickler(CloudPickler):  # type: ignore[misc]
    """Pickles what cloudpickle does, and leaves the memory of tensors and arrays beside the pickle."""

    def __init__(self, stream: BinaryIO) -> None:
        self._buffers: list[PickleBuffer] = []
        self._storages: dict[int, _Storage] = {}
        self._modules: set[ModuleType] = set()
        super().__init__(stream, protocol=5, buffer_callback=self._buffers.append)

    def buffers(self) -> tuple[memoryview, ...]:
        """Returns the buffers of what was pickled."""
        storages = {id(storage.placeholder): storage for storage in self._storages.values()}
        return tuple(storages[id(b)].memory() if id(b) in storages else b.raw() for b in self._buffers)

    def reducer_override(self, obj: Any) -> Any:
        """Has cloudpickle say how to pickle an object, unless it is a plain tensor or a storage, or it cannot know."""
        kind = type(obj)
        if isinstance(obj, ModuleType) and kind is not ModuleType and sys.modules.get(obj.__name__) is obj:
            return importlib.import_module, (obj.__name__,)  # such as torch.ops: cloudpickle knows plain modules only
        if kind.__name__ in TORCH_TYPES and getattr(sys.modules.get("torch"), kind.__name__, None) is kind:
            return self._reduce_tensor(obj) if kind.__name__ == "Tensor" else self._reduce_storage(obj)
        if kind not in by_value.KINDS and not isinstance(obj, type):
            return super().reducer_override(obj)
        module = by_value.module_of(obj)
        if module is not None and module not in self._modules:
            self._modules.add(module)
            by_value.send_by_value(module)
        if reduced := by_value.reduce(obj):
            return reduced
        reduced = super().reducer_override(obj)
        return by_value.reduce_class(obj, reduced) if isinstance(obj, type) else reduced

    def _reduce_tensor(self, tensor: Any) -> Any:
        rebuild, args = reduced = tensor.__reduce_ex__(5)
        # For a strided tensor, `args` is (storage, offset, size, stride, ...), as in the files that torch.save writes.
        # For others (sparse, meta, with attributes, ...), the tensors and storages in `args` come by here themselves.
        if tensor.is_quantized or not type(args[0]).__name__.endswith("Storage"):
            return reduced
        start = tensor.storage_offset()
        strides = zip(tensor.size(), tensor.stride(), strict=True)
        end = start + 1 + sum((size - 1) * stride for size, stride in strides) if tensor.numel() else start
        storage = self._storage(tensor.untyped_storage())
        storage.need(start * tensor.element_size(), end * tensor.element_size())
        return _rebuild_tensor, (rebuild, storage, tensor.dtype, *args[1:])

    def _reduce_storage(self, storage: Any) -> Any:
        whole = self._storage(getattr(storage, "_untyped_storage", storage))  # private: the public way to it warns
        whole.need(0, sys.maxsize)
        return _rebuild_storage, (whole, getattr(storage, "dtype", None))

    def _storage(self, untyped: torch.UntypedStorage) -> _Storage:
        # A storage has one Python object for as long as it lives, which `_Storage` sees to.
        return self._storages.setdefault(id(untyped), _Storage(untyped))


class _Storage:
    """A storage that is being pickled: how much of it is needed is known only when everything is."""

    def __init__(self, untyped: Any) -> None:
        self._untyped = untyped
        self._low, self._high = untyped.nbytes(), 0
        self._origin = bytearray(8)
        self.placeholder = PickleBuffer(bytearray())

    def need(self, low: int, high: int) -> None:
        self._low, self._high = min(self._low, low), max(self._high, high)

    def __reduce__(self) -> tuple[Callable[..., Loaded], tuple[PickleBuffer, PickleBuffer]]:
        return _load_storage, (PickleBuffer(self._origin), self.placeholder)

    def memory(self) -> memoryview:
        """Returns the memory that is needed, having noted where in the storage it begins."""
        untyped, low = self._untyped, self._low - self._low % ALIGNMENT
        if 2 * (self._high - low) < untyped.nbytes():
            self._origin[:] = low.to_bytes(8, "little")
            untyped = untyped[low : self._high]
        untyped = untyped.cpu()
        array = (ctypes.c_ubyte * untyped.nbytes()).from_address(untyped.data_ptr())
        array.owner = untyped  # keeps the memory alive
        return PickleBuffer(array).raw()


def _load_storage(origin: Buffer, data: Buffer) -> Loaded:
    import torch

    view = memoryview(data)
    memory = data if view.nbytes and not view.readonly else bytearray(view) or bytearray(1)
    untyped = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    return untyped if view.nbytes else untyped[:0], int.from_bytes(origin, "little")


def _rebuild_storage(storage: Loaded, dtype: torch.dtype | None) -> Any:
    """Returns what torch's functions that rebuild tensors take, and torch.load returns for an untyped storage, too."""
    import torch

    make: Any = torch.TypedStorage
    return make(wrap_storage=storage[0], dtype=dtype or torch.uint8, _internal=True)  # private: without it, this warns


def _rebuild_tensor(rebuild: Callable[..., Any], storage: Loaded, dtype: torch.dtype, offset: int, *rest: Any) -> Any:
    return rebuild(_rebuild_storage(storage, dtype), offset - storage[1] // dtype.itemsize, *rest)
