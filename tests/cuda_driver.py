"""A driver whose device is the host: memory of its own, a queue, and kernels that NumPy plays.

As on a GPU, nothing happens when it is asked for: launches and copies wait in a queue, and copies read and write pinned
memory only when the queue is worked off. Fresh and freed memory is overwritten, so whoever reads too early, too late or
beside what is theirs finds other numbers.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

import numpy as np
import pytest
from cuda_host import Module
from fake_cublaslt import STREAM, FakeCublasLt

from graphc.dims import symbol, symbols_of
from graphc.errors import GraphcError
from graphc.ir import Node
from graphc.kernel import Kernel
from graphc.op import Array
from graphc.ops.conv import conv_input_grad, conv_op, conv_weight_grad
from graphc.plan import Step
from graphc.runtime.cuda import cupy_driver, target
from graphc.runtime.cuda.arrays import DeviceArray
from graphc.runtime.cuda.cublaslt import CublasLt
from graphc.runtime.cuda.driver import Code, Convolved, DeviceMemoryError, Imported, Product, Task, Tensor
from graphc.runtime.cuda.launches import Argument, CudaKernel, Failed, Key, Launch, Pointer, Size
from graphc.runtime.feeds import sizes_needed
from graphc.runtime.plan import run_step
from graphc.types import np_dtype

GPU = pytest.param("cuda", marks=pytest.mark.gpu)  # what needs one
DEVICES = ("reference", "cpu", "plan", "played", GPU)  # see the fixture `device`

POISON = 0xFF
ALIGN = 256

Work = Callable[[], None]


class BrokenError(RuntimeError):
    """The device failed."""


class HostMemory:
    """Bytes of the device's."""

    def __init__(self, driver: HostDriver, nbytes: int) -> None:
        self._bytes = np.full(nbytes + ALIGN, POISON, np.uint8)
        self.address = self._bytes.ctypes.data + -self._bytes.ctypes.data % ALIGN
        self.nbytes = nbytes
        driver.used += nbytes
        driver.memories[self.address] = self
        weakref.finalize(self, _freed, driver, nbytes, self._bytes).atexit = False


def _freed(driver: HostDriver, nbytes: int, data: Array) -> None:
    driver.work_off()  # as cudaFree waits
    driver.used -= nbytes
    data.fill(POISON)


class HostDriver:
    """See `graphc.runtime.cuda.driver.Driver`.

    Args:
        total: bytes that the device has.

    Attributes:
        asked: what was asked for, by name, with how often.
        broken: whether everything fails from now on.
    """

    name = "host"
    failures = (BrokenError,)
    libraries: Collection[str] = frozenset()
    workspaces: Mapping[Task, int] = {"products": 32 << 20, "convolutions": 8 << 20}

    @staticmethod
    def convolves(problem: Convolved) -> bool:
        """Whether its cuDNN can do this one."""
        return problem.direction != "weight"

    def __init__(self, total: int = 1 << 30) -> None:
        self.total = total
        self.used = 0
        self.memories: weakref.WeakValueDictionary[int, HostMemory] = weakref.WeakValueDictionary()
        self.asked: dict[str, int] = {}
        self.broken = False
        self._rooms: dict[Task, HostMemory] = {}
        self._queue: list[Work] = []
        self._recording: list[Work] | None = None
        self._pinned: list[tuple[int, int]] = []
        self._functions: list[Any] = []
        self._time = 0
        self._busy = False
        DRIVERS.add(self)

    def _asked(self, what: str) -> None:
        if self.broken:
            raise BrokenError("an illegal memory access was encountered")
        self.asked[what] = self.asked.get(what, 0) + 1

    def _enqueue(self, work: Work) -> None:
        (self._queue if self._recording is None else self._recording).append(work)

    def work_off(self, until: list[int] | None = None) -> None:
        """Do all that waits, or what comes before a mark; no interrupt of the host's reaches a device."""
        if self._busy:
            return
        self._busy, trace = True, sys.gettrace()
        sys.settrace(None)
        try:
            while self._queue and not until:
                self._queue.pop(0)()
        finally:
            self._busy = False
            sys.settrace(trace)

    def enter(self) -> None:
        self._asked("enter")

    # memory

    def free_bytes(self) -> int:
        return self.total - self.used

    def allocate(self, nbytes: int, *, pooled: bool = False) -> HostMemory:
        self._asked("allocate pooled" if pooled else "allocate")
        if nbytes > self.free_bytes():
            raise DeviceMemoryError
        assert self._recording is None, "memory can't be allocated during a capture"
        return HostMemory(self, nbytes)

    def to_work_in(self, tasks: Collection[Task]) -> int:
        return sum([self.workspaces[task] for task in tasks if task not in self._rooms])

    def _room(self, task: Task) -> HostMemory:
        if task not in self._rooms:
            self._rooms[task] = self.allocate(self.workspaces[task])
        return self._rooms[task]

    def trim(self) -> None:
        self._asked("trim")

    def close(self) -> None:
        self.trim()
        self._rooms.clear()
        self.__dict__.pop("_cublaslt", None)

    def pinned(self, nbytes: int) -> Array:
        self._asked("pinned")
        data = np.full(nbytes, POISON, np.uint8)
        self._pinned.append((data.ctypes.data, nbytes))
        weakref.finalize(data, self._pinned.remove, (data.ctypes.data, nbytes))
        return data

    def _is_pinned(self, address: int) -> bool:
        return any(start <= address < start + nbytes for start, nbytes in self._pinned)

    def upload(self, address: int, source: Array) -> None:
        self._asked("upload")
        assert source.flags.c_contiguous
        start, nbytes = source.ctypes.data, source.nbytes
        if self._is_pinned(start):
            self._enqueue(lambda: self._move(address, start, nbytes))
            return
        assert self._recording is None, "what isn't pinned can't be read by a graph"
        kept = source.copy()
        self._enqueue(lambda: self._move(address, kept.ctypes.data, nbytes))

    def download(self, target: Array, address: int) -> None:
        self._asked("download")
        assert target.flags.carray
        start, nbytes = target.ctypes.data, target.nbytes
        if self._is_pinned(start):
            self._enqueue(lambda: self._move(start, address, nbytes))
            return
        assert self._recording is None, "what isn't pinned can't be written by a graph"
        self.work_off()
        self._move(start, address, nbytes)

    def copy(self, to: int, source: int, nbytes: int) -> None:
        self._asked("copy")
        self._enqueue(lambda: self._move(to, source, nbytes))

    def _move(self, to: int, source: int, nbytes: int) -> None:
        """Copy bytes; those on the device must be somebody's."""
        for address in (to, source):
            if not self._is_pinned(address) and address in self.memories:
                assert nbytes <= self.memories[address].nbytes
        ctypes.memmove(to, source, nbytes)

    # code

    def load(self, codes: Sequence[Code]) -> Sequence[Any]:
        self._asked("load")
        return [code.kernel for code in codes]

    def function(self, module: Any, symbol: str, shared: int) -> int:
        self._functions.append(played_functions[module])
        return len(self._functions) - 1

    def launch(self, function: int, blocks: int, threads: int, shared: int, arguments: Array) -> None:
        self._asked("launch")
        self._enqueue(lambda: self._functions[function](arguments))

    def multiplication(self, product: Product) -> Work:
        self._asked("multiplication")
        assert self._recording is None, "a library can't be opened during a capture"
        self._room("products")
        return lambda: self._enqueue(lambda: _multiply(product))

    def fused(self, product: Product, epilogue: str, bias: int) -> Work | str:
        self._asked("fused")
        assert self._recording is None, "an algorithm can't be looked for during a capture"
        return self._cublaslt.fused(self, product, epilogue, bias)

    @cached_property
    def _cublaslt(self) -> CublasLt:
        return CublasLt(FakeCublasLt(self._enqueue), STREAM, self._room("products").address)

    def convolution(self, problem: Convolved) -> Work | str:
        self._asked("convolution")
        self._room("convolutions")
        return (lambda: self._enqueue(lambda: _convolve(problem))) if self.convolves(problem) else "has no plan for it"

    # graphs and time

    @contextmanager
    def capture(self) -> Iterator[list[Any]]:
        self._asked("capture")
        found: list[Any] = []
        self._recording = []
        try:
            yield found
            found.append(self._recording)
        finally:
            self._recording = None

    def replay(self, graph: list[Work]) -> None:
        self._asked("replay")
        self._queue += graph

    def mark(self) -> list[int]:
        reached: list[int] = []
        self._enqueue(lambda: reached.append(self._tick()))
        return reached

    def _tick(self) -> int:
        self._time += 1000
        return self._time

    def wait(self, mark: list[int]) -> None:
        self.work_off(mark)

    def elapsed_ns(self, start: list[int], end: list[int]) -> int:
        return end[0] - start[0]

    def synchronise(self) -> None:
        self._asked("synchronise")
        self.work_off()

    # arrays of others

    def is_here(self, value: Any) -> bool:
        return isinstance(value, Foreign | DeviceArray)

    def imported(self, value: Any) -> Imported:
        if isinstance(value, DeviceArray):
            return Imported(value, value.shape, value.dtype.name, value.address)
        return Imported(value.array, value.array.shape, value.array.dtype.name, None)

    def take(self, imported: Imported, address: int) -> None:
        self._asked("take")
        if imported.address is not None:
            place, nbytes = imported.address, int(np.prod(imported.shape)) * np_dtype(imported.dtype).itemsize
            self._enqueue(lambda: self._move(address, place, nbytes))
            return

        def work() -> None:
            data = np.ascontiguousarray(imported.array)
            self._move(address, data.ctypes.data, data.nbytes)

        self._enqueue(work)

    def shared(self, memory: Any, address: int, shape: tuple[int, ...], dtype: str) -> Any:
        self.synchronise()
        count, dtype_ = int(np.prod(shape)), np_dtype(dtype)
        data = (ctypes.c_uint8 * (count * dtype_.itemsize)).from_address(address)
        data.memory = memory  # whatever refers to the bytes refers to it
        return np.frombuffer(data, dtype_, count).reshape(shape)


def on_host(patch: pytest.MonkeyPatch, *, printed: bool = False, **options: Any) -> list[HostDriver]:
    """Let sessions on "cuda" run over drivers of the host's; the drivers, as they come.

    Args:
        printed: whether they run the CUDA C of kernels; by default NumPy plays the kernels.
        options: of the drivers.
    """
    drivers: list[HostDriver] = []

    def opened() -> HostDriver:
        drivers.append((PrintedDriver if printed else HostDriver)(**options))
        return drivers[-1]

    patch.setattr(target, "opened", opened)
    if not printed:
        patch.setattr(target, "cuda_kernel", played)
    return drivers


@cache
def without_gpu() -> str:
    """Why nothing can be run on a GPU here; "" if it can."""
    try:
        cupy_driver.opened()
    except GraphcError as error:
        return error.message
    return ""


class PrintedDriver(HostDriver):
    """Runs the printed CUDA C of kernels, compiled for the CPU."""

    def load(self, codes: Sequence[Code]) -> Sequence[Any]:
        self._asked("load")
        modules = {wide: Module([c.kernel for c in codes if c.wide == wide], wide) for wide in {c.wide for c in codes}}
        return [(modules[code.wide], code.kernel.source) for code in codes]

    def function(self, module: Any, symbol: str, shared: int) -> int:
        self._functions.append((*module, symbol))
        return len(self._functions) - 1

    def launch(self, function: int, blocks: int, threads: int, shared: int, arguments: Array) -> None:
        self._asked("launch")
        module, source, symbol = self._functions[function]
        self._enqueue(lambda: module.launch(source, symbol, blocks, threads, arguments.tolist()))


class Foreign:
    """Someone's array on the device."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise TypeError("an array on the device can't become one of NumPy by itself")


def _at(address: int, count: int, dtype: np.dtype[Any]) -> Array:
    """Elements in memory."""
    data = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address)
    return np.frombuffer(data, dtype, count)


def _multiply(product: Product) -> None:
    sizes = {"a": (product.m, product.k), "b": (product.k, product.n), "c": (product.m, product.n)}

    def matrices(name: str) -> Array:
        found, shape = getattr(product, name), (product.batch, *sizes[name])
        dtype = np_dtype(found.dtype)
        reach = 1 + sum((n - 1) * stride for n, stride in zip(shape, found.strides, strict=True))
        flat = _at(found.address, max(0, reach), dtype)
        return np.lib.stride_tricks.as_strided(flat, shape, [dtype.itemsize * stride for stride in found.strides])

    a, b, c = map(matrices, "abc")
    wide = np.float64 if product.compute == "float64" else np.float32
    c[...] = np.matmul(a.astype(wide), b.astype(wide))


def _convolve(problem: Convolved) -> None:
    def array(tensor: Tensor) -> Array:
        dtype = np_dtype(tensor.dtype)
        reach = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
        flat = _at(tensor.address, max(0, reach), dtype)
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, [dtype.itemsize * s for s in tensor.strides])

    x, w, y = map(array, (problem.x, problem.w, problem.y))
    geometry = dict(stride=problem.strides, padding=problem.padding, dilation=problem.dilations)
    geometry["groups"] = x.shape[1] // w.shape[1]
    if problem.direction == "forward":
        y[...] = conv_op.ref(x, w, **geometry)
    elif problem.direction == "data":
        x[...] = conv_input_grad.ref(y, w, spatial=x.shape[2:], **geometry)
    else:
        w[...] = conv_weight_grad.ref(x, y, kernel=w.shape[2:], **geometry)


# --- kernels that NumPy plays

_numbers = itertools.count()
played_functions: weakref.WeakKeyDictionary[CudaKernel, Callable[[Array], None]] = weakref.WeakKeyDictionary()


def played(kernel: Kernel, precision: str = "float32", libraries: Collection[str] = frozenset()) -> CudaKernel | None:
    """A kernel of one launch, which `HostDriver` has NumPy run; None for Python functions, which no device runs."""
    if kernel.kind == "opaque":
        return None
    reads = {load.read: f.dtype for r in kernel.regions for load, f in _loads(r) if load.read is not None}
    outputs = [pair for r in kernel.results for pair in zip(r.stores, r.body.outputs, strict=True)]
    writes = {store.write: output.dtype for store, output in outputs}
    places = [("read", k, reads[k]) for k in sorted(reads)] + [("write", k, writes[k]) for k in sorted(writes)]
    arguments: list[Argument] = [Pointer(place, k) for place, k, _ in places]
    names = sorted(_symbols(kernel))
    arguments += [Size(symbol(name)) for name in names]
    draws, fails = kernel.kind == "random", kernel.can_fail
    arguments += [Key()] * draws + [Failed()] * fails
    source = f"kernel {next(_numbers)}"
    made = CudaKernel(source, (Launch("play", 1, 32, tuple(arguments)),), 64, draws, fails, (), ("played",))

    def play(given: Array) -> None:
        addresses = given.view(np.uint64).tolist()
        arrays = [_rest(address, dtype) for address, (_, _, dtype) in zip(addresses, places, strict=False)]
        dims = dict(zip(names, given[len(places) :].tolist(), strict=False))
        key = _at(addresses[len(places) + len(names)], 3, np.dtype(np.uint64)).tolist() if draws else []
        keys = {kernel.core: tuple(key)} if draws else {}
        step = Step(kernel, tuple(range(len(reads))), tuple(range(len(writes))), _nodes(kernel))
        try:
            with np.errstate(all="ignore"):
                run_step(step, dims, arrays[: len(reads)], arrays[len(reads) :], keys)
        except Exception:
            assert fails, f"a kernel failed that can't: {kernel}"
            _at(addresses[-1], 1, np.dtype(np.int32))[0] = 1

    played_functions[made] = play
    return made


def _loads(region: Any) -> Iterator[tuple[Any, Node]]:
    formals = region.body.inputs[len(region.body.inputs) - len(region.loads) :]
    return zip(region.loads, formals, strict=True)


def _nodes(kernel: Kernel) -> tuple[Node, ...]:
    return tuple(node for region in kernel.regions for node in region.body.outputs)


def _symbols(kernel: Kernel) -> set[str]:
    core = [] if kernel.core is None else [kernel.core, *kernel.core.inputs]
    found = set(sizes_needed([*core, *(node for region in kernel.regions for node in region.values)], ()))
    for region in kernel.regions:
        accesses = [each.access for each in (*region.loads, *region.stores)]
        for dim in [loop.extent for loop in region.loops] + [d for a in accesses for d in (a.offset, *a.strides)]:
            found |= symbols_of(dim)
    return found


def _rest(address: int, dtype: str) -> Array:
    """All elements from an address to the end of the memory that it lies in."""
    for start, memory in list(_memories()):
        if start <= address <= start + memory.nbytes:
            return _at(address, (start + memory.nbytes - address) // np_dtype(dtype).itemsize, np_dtype(dtype))
    raise AssertionError("an address that nobody has")


def _memories() -> Iterator[tuple[int, HostMemory]]:
    for driver in list(DRIVERS):
        yield from list(driver.memories.items())


DRIVERS: weakref.WeakSet[HostDriver] = weakref.WeakSet()
