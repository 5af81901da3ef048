"""What the driver calls of CuPy and cuBLAS, over the host's memory, so that the driver itself runs on any machine.

It is as strict as a GPU where mistakes are likely: kernels are called through the addresses of their arguments,
matrices are read by columns, and what can't be captured is refused during a capture.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda_host import Module as HostModule

from graphc.runtime.cuda.cublas import COMPUTE, DTYPES
from graphc.runtime.cuda.prelude import prelude
from graphc.types import np_dtype

HEAD = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\(([^)]*)\)')
Work = Callable[[], None]


class CUDARuntimeError(RuntimeError):
    """Of CuPy's name and message."""


class CUDADriverError(RuntimeError):
    """Of CuPy's name."""


class OutOfMemoryError(MemoryError):
    """Of CuPy's name."""


class Stream:
    """Does everything at once, or keeps it for a graph."""

    ptr = 7

    def __init__(self, non_blocking: bool, cupy: FakeCupy | None = None) -> None:
        assert non_blocking
        self.recording: list[Work] | None = None
        self.cupy = cupy

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None

    def do(self, work: Work) -> None:
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def begin_capture(self) -> None:
        assert self.recording is None
        self.recording = []

    def end_capture(self) -> Any:
        assert self.recording is not None
        works, self.recording = self.recording, None
        if self.cupy is not None:
            self.cupy.lacks("instantiate", CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"))
        return SimpleNamespace(works=works, launch=lambda stream: [work() for work in works])

    def record(self, event: Any) -> Any:
        return event

    def synchronize(self) -> None:
        self.refuse_in_capture("synchronising")

    def refuse_in_capture(self, what: str) -> None:
        if self.recording is not None:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what}")


class FakeCupy:
    """The module `cupy`, with a device of so many bytes.

    Attributes:
        streams: that were made.
        waited: how often the device was waited for.
        lacking: what finds that there is no memory left: "load", "instantiate", "launch" or "pinned".
    """

    def __init__(self, total: int = 1 << 30) -> None:
        self.free, self.pooled = total, 0
        self.streams: list[Stream] = []
        self.blocks: list[Any] = []  # of the pool's, that nobody has
        self.waited = 0
        self.lacking: str | None = None
        self.functions: list[tuple[HostModule, str, str, int]] = []
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            memcpyDeviceToDevice=3,
            setDevice=lambda number: None,
            getDeviceCount=lambda: 1,
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
            getDeviceProperties=lambda number: {"name": b"a device", "major": 9, "minor": 0},
            memGetInfo=lambda: (self.free, total),
            memcpyAsync=self._copy,
            deviceSynchronize=self._wait_for_all,
        )
        driver = SimpleNamespace(
            CUDADriverError=CUDADriverError,
            CU_FUNC_ATTRIBUTE_NUM_REGS=4,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
            funcGetAttribute=lambda attribute, function: self.functions[function] and 32,
            funcSetAttribute=lambda function, attribute, value: None,
            launchKernel=self._launch,
        )
        self.cuda = SimpleNamespace(
            runtime=runtime,
            driver=driver,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            function=SimpleNamespace(Module=lambda: _Module(self)),
            Stream=self._stream,
            Memory=self._allocated,
            MemoryPool=lambda: SimpleNamespace(
                malloc=self._from_pool, free_bytes=lambda: self.pooled, free_all_blocks=self._empty_pool
            ),
            PinnedMemory=self._pinned,
            PinnedMemoryPointer=lambda memory, offset: memory,
            UnownedMemory=lambda address, nbytes, owner, device: (address, nbytes, owner),
            MemoryPointer=lambda memory, offset: memory,
            Event=lambda: SimpleNamespace(synchronize=lambda: None),
            get_elapsed_time=lambda start, end: 0.5,
        )

    def _stream(self, *, non_blocking: bool) -> Stream:
        self.streams.append(Stream(non_blocking, self))
        return self.streams[-1]

    def lacks(self, what: str, error: Exception) -> None:
        """Raise an error if there is no memory for something."""
        if self.lacking == what:
            raise error

    def _pinned(self, nbytes: int) -> Any:
        self.lacks("pinned", CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"))
        return np.zeros(nbytes, np.uint8)

    def _wait_for_all(self) -> None:
        for stream in self.streams:
            stream.refuse_in_capture("synchronising the device")
        self.waited += 1

    def _do(self, work: Work) -> None:
        self.streams[-1].do(work)

    def _allocated(self, nbytes: int) -> Any:
        self.streams[-1].refuse_in_capture("cudaMalloc")
        if nbytes > self.free:
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        self.free -= nbytes
        data = np.full(nbytes + 256, 0xFF, np.uint8)
        return SimpleNamespace(data=data, ptr=data.ctypes.data + -data.ctypes.data % 256)

    def _from_pool(self, nbytes: int) -> Any:
        """A block that was given back, if there is one of this size, or a new one."""
        found = next((block for block in self.blocks if block.data.size == nbytes + 256), None)
        if found is not None:
            self.blocks.remove(found)
            self.pooled -= nbytes
            found.data.fill(0xFF)
            return _Pooled(self, found)
        try:
            return _Pooled(self, self._allocated(nbytes))
        except CUDARuntimeError:
            raise OutOfMemoryError("out of memory") from None

    def _empty_pool(self) -> None:
        self.blocks.clear()
        self.free, self.pooled = self.free + self.pooled, 0

    def _copy(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        assert kind in (1, 2, 3) and stream == Stream.ptr
        self._do(lambda: ctypes.memmove(to, source, nbytes) and None)

    def _launch(self, function: int, *rest: int) -> None:
        self.lacks("launch", CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"))
        blocks, y, z, threads, ty, tz, _, stream, where, extra = rest
        module, source, symbol, count = self.functions[function]
        assert (y, z, ty, tz, stream, extra) == (1, 1, 1, 1, Stream.ptr, 0)
        pointers = (ctypes.c_void_p * count).from_address(where)
        values = [ctypes.c_longlong.from_address(pointer).value for pointer in pointers]  # read now, as CUDA does
        self._do(lambda: module.launch(source, symbol, blocks, threads, values))

    def from_dlpack(self, value: Any) -> Any:
        array = value.array
        return SimpleNamespace(
            shape=array.shape,
            dtype=array.dtype,
            nbytes=array.nbytes,
            flags=SimpleNamespace(c_contiguous=array.flags.c_contiguous),
            data=SimpleNamespace(ptr=array.ctypes.data),
            array=array,
        )

    def ndarray(self, shape: Sequence[int], dtype: Any, memory: Any) -> Any:
        address, _, owner = memory
        count = int(np.prod(shape, dtype=np.int64))
        data = (ctypes.c_uint8 * (count * np.dtype(dtype).itemsize)).from_address(address)
        data.owner = owner  # whatever refers to the bytes refers to it
        return _Over(np.frombuffer(data, dtype, count).reshape(shape))


class _Pooled:
    """A block of the pool's, as long as someone has it."""

    def __init__(self, cupy: FakeCupy, block: Any) -> None:
        self.cupy, self.block, self.ptr = cupy, block, block.ptr

    def __del__(self) -> None:
        self.cupy.blocks.append(self.block)
        self.cupy.pooled += self.block.data.size - 256


class _Over:
    """An array over memory of the device, to be assigned to, and to be read through DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __setitem__(self, key: Any, value: Any) -> None:
        self.array[key] = value.array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class _Module:
    """A module whose cubin is the text that it would have been compiled from."""

    def __init__(self, cupy: FakeCupy) -> None:
        self.cupy = cupy

    def load(self, cubin: bytes) -> None:
        self.cupy.lacks("load", CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"))
        text = cubin.decode()
        self.wide = text.startswith(prelude(True))
        self.source = text.removeprefix(prelude(self.wide) + "\n")
        self.parameters = {name: [p for p in inside.split(",") if p.strip()] for name, inside in HEAD.findall(text)}
        self.module = HostModule([SimpleNamespace(source=self.source)], self.wide)  # type: ignore[list-item]

    def get_function(self, name: str) -> Any:
        self.cupy.functions.append((self.module, self.source, name, len(self.parameters[name])))
        return SimpleNamespace(ptr=len(self.cupy.functions) - 1)


class FakeCublas:
    """The functions of cuBLAS that are called, with matrices by columns.

    Attributes:
        products: how many were computed.
    """

    def __init__(self, do: Callable[[Work], None]) -> None:
        self.do = do
        self.products = 0

    def cublasCreate_v2(self, handle: Any) -> int:  # noqa: N802 - cuBLAS's name
        return 0

    def cublasDestroy_v2(self, handle: Any) -> int:  # noqa: N802
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:  # noqa: N802
        return int(stream.value != Stream.ptr)

    def cublasSetWorkspace_v2(self, handle: Any, address: Any, nbytes: Any) -> int:  # noqa: N802
        return int((address.value or 0) % 256 != 0)

    def cublasGemmStridedBatchedEx_64(self, handle: Any, *given: Any) -> int:  # noqa: N802
        turn_a, turn_b, m, n, k, alpha, *rest = given
        a, b, beta, c, batch, compute, algorithm = rest[:4], rest[4:8], rest[8], rest[9:13], *rest[13:]
        one, zero = (float(number._obj.value) for number in (alpha, beta))
        assert (one, zero, algorithm) == (1, 0, -1) and compute in COMPUTE.values()
        sizes = (m.value, n.value, k.value)
        work = lambda: _multiply(a, b, c, (turn_a, turn_b), sizes, batch.value)  # noqa: E731
        self.products += 1
        self.do(work)
        return 0


def _multiply(a: Any, b: Any, c: Any, turned: tuple[int, int], sizes: tuple[int, int, int], batch: int) -> None:
    m, n, k = sizes
    names = {number: name for name, number in DTYPES.items()}

    def matrices(operand: Any, rows: int, columns: int) -> Any:
        address, kind, leading, between = operand
        assert leading.value >= max(1, rows), "the leading dimension is less than there are rows"
        dtype = np_dtype(names[kind])
        reach = (batch - 1) * between.value + (columns - 1) * leading.value + rows
        flat = np.frombuffer((ctypes.c_uint8 * (reach * dtype.itemsize)).from_address(address.value), dtype, reach)
        strides = [dtype.itemsize * step for step in (between.value, 1, leading.value)]
        return np.lib.stride_tricks.as_strided(flat, (batch, rows, columns), strides)

    left = matrices(a, *((k, m) if turned[0] else (m, k))).astype(np.float64)
    right = matrices(b, *((n, k) if turned[1] else (k, n))).astype(np.float64)
    left, right = (np.swapaxes(x, 1, 2) if turn else x for x, turn in zip((left, right), turned, strict=True))
    matrices(c, m, n)[...] = left @ right
