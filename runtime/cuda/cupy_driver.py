"""The driver over CuPy: the one module that knows of it. Nothing of CuPy is imported before `opened` is called."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np

from graphc.cached import cached_property
from graphc.errors import DeviceError, MissingExtra
from graphc.op import Array
from graphc.runtime.cuda import cublas, cublaslt, cudnn
from graphc.runtime.cuda.cublas import Cublas, CublasError
from graphc.runtime.cuda.cublaslt import CublasLt
from graphc.runtime.cuda.cudnn import Cudnn, CudnnError
from graphc.runtime.cuda.driver import WORD, Code, Convolved, DeviceMemoryError, Imported, Memory, Product, Task
from graphc.runtime.cuda.nvrtc import compile
from graphc.runtime.cuda.prelude import prelude
from graphc.types import np_dtype

FIRST = 0  # the number of the device that is used; CUDA_VISIBLE_DEVICES says which that is
DLPACK_GPU = (2, 13)  # kDLCUDA, kDLCUDAManaged
STATIC_SHARED = 48 << 10  # bytes of dynamic shared memory from which a function has to ask for them
WORKSPACES: Mapping[Task, int] = {"products": cublas.WORKSPACE_BYTES, "convolutions": cudnn.WORKSPACE_BYTES}

# No thread may wait for the device while another one's stream is captured.
CAPTURES = threading.RLock()

# What CUDA's runtime, its driver and the libraries say where memory lacks.
LACKING = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "ALLOC_FAILED", "ALLOCATION_FAILED")

# The extra for each version of CUDA that a driver knows, the newest first; a driver runs what was made for older ones.
EXTRAS = {13: ("gpu", "cupy-cuda13x"), 12: ("gpu12", "cupy-cuda12x")}


def opened() -> CupyDriver:
    """The first device, ready to be used, with a stream of one's own.

    Raises:
        MissingExtra: CuPy isn't installed. DeviceError: there is no driver, no device, CuPy doesn't fit the driver, or
            the device can't be opened.
    """
    cupy = _cupy()
    try:
        return CupyDriver(cupy)
    except cupy.cuda.runtime.CUDARuntimeError as error:  # another process has all of it, or it has failed
        raise DeviceError(
            f"the device can't be opened: {error}",
            hint="nvidia-smi shows its state, and what uses it; or gc.Session(device='cpu')",
        ) from error


@cache
def _cupy() -> Any:
    """CuPy, which is seen to work once in a process."""
    if importlib.util.find_spec("cupy") is None:
        raise MissingExtra("cupy", "gpu", "device 'cuda'")
    try:
        import cupy
    except Exception as error:  # a library that it loads is missing, or there are two of CuPy
        raise DeviceError(
            f"CuPy is installed, but can't be imported: {error}",
            hint="leave one of cupy-cuda13x and cupy-cuda12x: pip uninstall both, then pip install 'graphc[gpu]'",
        ) from error
    runtime = cupy.cuda.runtime
    check(runtime.driverGetVersion(), runtime.runtimeGetVersion(), lambda: _count(runtime))
    return cupy


def check(driver_version: int, cupy_version: int, count: Any) -> None:
    """Make sure that there is a device that CuPy can use.

    Args:
        driver_version: the newest CUDA that the driver knows, 13020 for 13.2; 0 without a driver.
        cupy_version: of the CUDA that CuPy was made for.
        count: gives the number of devices; called where there is a driver that fits.

    Raises:
        DeviceError: there is no driver, no device, or CuPy doesn't fit the driver.
    """
    if not driver_version:
        raise DeviceError(
            "device 'cuda' needs NVIDIA's driver, and there is none",
            hint="install it from nvidia.com/drivers (in a container: --gpus all), or gc.Session(device='cpu')",
        )
    known, made_for = driver_version // 1000, cupy_version // 1000
    if known < made_for:
        extra, package = next((found for major, found in EXTRAS.items() if major <= known), ("", ""))
        wrong = EXTRAS.get(made_for, ("", "cupy"))[1]
        other = f"pip uninstall {wrong}; pip install 'graphc[{extra}]', which takes {package}" if extra else ""
        raise DeviceError(
            f"CuPy is made for CUDA {made_for}, and the driver knows CUDA {known} at most",
            hint=f"{other}{', or ' if other else ''}install a newer driver",
        )
    if not count():
        raise DeviceError(
            "NVIDIA's driver finds no device",
            hint="nvidia-smi lists those that it sees; CUDA_VISIBLE_DEVICES may hide them; or gc.Session(device='cpu')",
        )


def _count(runtime: Any) -> int:
    try:
        found: int = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if "NoDevice" in str(error):
            return 0
        raise DeviceError(f"CUDA can't be used: {error}", hint="does nvidia-smi work?") from error
    return found


@contextmanager
def lack_told() -> Iterator[None]:
    """Make a lack of memory a `DeviceMemoryError`, whoever tells it.

    It may be found out when code is loaded, a graph is made or launched, or a library is opened.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in LACKING):
            raise DeviceMemoryError(str(error)) from error
        raise


class CupyMemory:
    """Memory from `cudaMalloc`, or from a pool."""

    def __init__(self, owner: Any, address: int, nbytes: int) -> None:
        self.owner, self.address, self.nbytes = owner, address, nbytes


class _Shared:
    """What an array that others see refers to: it keeps memory as long as they do."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory


class CupyDriver:
    """See `Driver`. All work is done on one stream.

    Attributes:
        architecture: "sm_90".
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._cuda = cupy.cuda
        self._runtime, self._calls = cupy.cuda.runtime, cupy.cuda.driver
        self.failures: tuple[type[Exception], ...] = (
            self._runtime.CUDARuntimeError,
            self._calls.CUDADriverError,
            CublasError,
            CudnnError,
        )
        self.enter()
        properties = self._runtime.getDeviceProperties(FIRST)
        self.name = properties["name"].decode()
        self.architecture = f"sm_{properties['major']}{properties['minor']}"
        self._stream = self._cuda.Stream(non_blocking=True)
        self._lock = threading.RLock()  # another thread's copies must not become part of a graph
        self._pool = self._cuda.MemoryPool()
        self._rooms: dict[Task, Memory] = {}
        self._let_go = False  # whether others have let memory go that they may be using still

    def enter(self) -> None:
        """See `Driver`."""
        self._runtime.setDevice(FIRST)

    # ------------------------------------------------------------------------------------------- memory

    def free_bytes(self) -> int:
        """See `Driver`."""
        free, _ = self._runtime.memGetInfo()
        return int(free) + int(self._pool.free_bytes())

    def allocate(self, nbytes: int, *, pooled: bool = False) -> CupyMemory:
        """See `Driver`."""
        if self._let_go and pooled:
            self._let_go = False
            with CAPTURES:
                self._runtime.deviceSynchronize()  # what others have asked for, on streams that nobody tells
        try:
            return self._allocated(nbytes, pooled)
        except DeviceMemoryError:
            self.trim()
            return self._allocated(nbytes, pooled)

    def _allocated(self, nbytes: int, pooled: bool) -> CupyMemory:
        with lack_told():
            if not pooled:
                memory = self._cuda.Memory(nbytes)
                return CupyMemory(memory, memory.ptr, nbytes)
            with self._stream:
                pointer = self._pool.malloc(nbytes)
            return CupyMemory(pointer, pointer.ptr, nbytes)

    def to_work_in(self, tasks: Collection[Task]) -> int:
        """See `Driver`."""
        return sum([nbytes for task, nbytes in WORKSPACES.items() if task in tasks and task not in self._rooms])

    def _room(self, task: Task) -> int:
        """The address of what libraries work in, one after the other."""
        if task not in self._rooms:
            self._rooms[task] = self.allocate(WORKSPACES[task])
        return self._rooms[task].address

    def trim(self) -> None:
        """See `Driver`."""
        self._pool.free_all_blocks()

    def close(self) -> None:
        """See `Driver`."""
        for name in ("_cublas", "_cublaslt", "_cudnn"):
            self.__dict__.pop(name, None)
        self._rooms.clear()
        self.trim()

    def pinned(self, nbytes: int) -> Array:
        """See `Driver`."""
        with lack_told():
            memory = self._cuda.PinnedMemory(nbytes)
        return np.frombuffer(self._cuda.PinnedMemoryPointer(memory, 0), np.uint8, nbytes)

    def upload(self, address: int, source: Array) -> None:
        """See `Driver`."""
        self._copy(address, source.ctypes.data, source.nbytes, self._runtime.memcpyHostToDevice)

    def download(self, target: Array, address: int) -> None:
        """See `Driver`."""
        self._copy(target.ctypes.data, address, target.nbytes, self._runtime.memcpyDeviceToHost)

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """See `Driver`."""
        self._copy(to, source, nbytes, self._runtime.memcpyDeviceToDevice)

    def _copy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        with self._lock:
            self._runtime.memcpyAsync(to, source, nbytes, kind, self._stream.ptr)

    # ------------------------------------------------------------------------------------------- code

    def load(self, codes: Sequence[Code]) -> list[Any]:
        """See `Driver`."""
        texts = [f"{prelude(code.wide)}\n{code.kernel.source}" for code in codes]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # NVRTC gives the interpreter's lock back
            cubins = list(pool.map(lambda text: compile(text, self.architecture), texts))
        found = []
        for cubin in cubins:
            module = self._cuda.function.Module()
            with lack_told():
                module.load(cubin)
            found.append(module)
        return found

    def function(self, module: Any, symbol: str, shared: int) -> int:
        """See `Driver`. Code is loaded here: where it is first launched may be a capture, which can't load any."""
        function = module.get_function(symbol)
        with lack_told():
            self._calls.funcGetAttribute(self._calls.CU_FUNC_ATTRIBUTE_NUM_REGS, function.ptr)
        if shared > STATIC_SHARED:
            kind = self._calls.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._calls.funcSetAttribute(function.ptr, kind, shared)
        return int(function.ptr)

    def launch(self, function: int, blocks: int, threads: int, shared: int, arguments: Array) -> None:
        """See `Driver`."""
        first, count = arguments.ctypes.data, len(arguments)
        addresses = (ctypes.c_void_p * max(1, count))(*range(first, first + WORD * count, WORD))
        grid, block = (blocks, 1, 1), (threads, 1, 1)
        where = ctypes.addressof(addresses)
        with lack_told():  # of memory for what doesn't fit into registers
            self._calls.launchKernel(function, *grid, *block, shared, self._stream.ptr, where, 0)

    def multiplication(self, product: Product) -> Callable[[], None]:
        """See `Driver`. cuBLAS is opened here: during a capture it can't be."""
        return partial(_told, partial(self._cublas.multiply, product))

    @cached_property
    def _cublas(self) -> Cublas:
        with lack_told():
            return Cublas(_library(self._runtime), self._stream.ptr, self._room("products"))

    @cached_property
    def libraries(self) -> frozenset[str]:
        """See `Driver`."""
        rooms = {"cudnn": cudnn, "cublaslt": cublaslt}
        return frozenset([name for name, room in rooms.items() if room.installed() is not None])

    @cached_property
    def _cublaslt(self) -> CublasLt:
        with lack_told():
            return CublasLt(cublaslt.installed(), self._stream.ptr, self._room("products"))

    def fused(self, product: Product, epilogue: str, bias: int) -> Callable[[], None] | str:
        """See `Driver`."""
        with lack_told():
            found = self._cublaslt.fused(self, product, epilogue, bias)
        return found if isinstance(found, str) else partial(_told, found)

    @cached_property
    def _cudnn(self) -> Cudnn:
        with lack_told():
            return Cudnn(cudnn.installed(), self._stream.ptr, self._room("convolutions"))

    def convolution(self, problem: Convolved) -> Callable[[], None] | str:
        """See `Driver`."""
        try:
            found = self._cudnn.convolution(problem)
        except CudnnError as error:
            return str(error)
        return found if isinstance(found, str) else partial(_told, found)

    # ------------------------------------------------------------------------------------------- graphs and time

    @contextmanager
    def capture(self) -> Iterator[list[Any]]:
        """See `Driver`."""
        found: list[Any] = []
        with CAPTURES, self._lock:
            self._stream.begin_capture()
            try:
                yield found
            except BaseException:
                self._stream.end_capture()  # or the stream can't be used any more
                raise
            with lack_told():
                found.append(self._stream.end_capture())

    def replay(self, graph: Any) -> None:
        """See `Driver`."""
        with lack_told():
            graph.launch(self._stream)

    def mark(self) -> Any:
        """See `Driver`."""
        with self._lock:
            return self._stream.record(self._cuda.Event())

    def wait(self, mark: Any) -> None:
        """See `Driver`."""
        mark.synchronize()

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """See `Driver`."""
        return round(1e6 * float(self._cuda.get_elapsed_time(start, end)))

    def synchronise(self) -> None:
        """See `Driver`."""
        with self._lock:
            self._stream.synchronize()

    # ------------------------------------------------------------------------------------------- arrays of others

    def is_here(self, value: Any) -> bool:
        """See `Driver`."""
        if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
            return False
        kind, number = value.__dlpack_device__()
        return kind in DLPACK_GPU and number == FIRST

    def imported(self, value: Any) -> Imported:
        """See `Driver`. What its owner has asked for before is done first."""
        with self._stream:
            array = self._cupy.from_dlpack(value)
        address = int(array.data.ptr) if array.flags.c_contiguous else None
        return Imported(array, tuple(array.shape), str(array.dtype), address)

    def take(self, imported: Imported, address: int) -> None:
        """See `Driver`."""
        array = imported.array
        if imported.address is not None:
            self.copy(address, imported.address, array.nbytes)
            return
        with self._stream:
            self._over(address, array.nbytes, imported.shape, imported.dtype, None)[...] = array

    def shared(self, memory: Memory, address: int, shape: tuple[int, ...], dtype: str) -> Any:
        """See `Driver`."""
        self.synchronise()
        kept = _Shared(memory)
        weakref.finalize(kept, self._was_let_go).atexit = False
        return self._over(address, memory.nbytes, shape, dtype, kept)

    def _was_let_go(self) -> None:
        self._let_go = True

    def _over(self, address: int, nbytes: int, shape: tuple[int, ...], dtype: str, owner: Any) -> Any:
        memory = self._cuda.UnownedMemory(address, nbytes, owner, FIRST)
        return self._cupy.ndarray(shape, np_dtype(dtype), self._cuda.MemoryPointer(memory, 0))


def _told(call: Callable[[], None]) -> None:
    with lack_told():
        call()


def _library(runtime: Any) -> Any:
    """cuBLAS of the CUDA that CuPy was made for, wherever it is found: in wheels, or in the system."""
    from cupy_backends.cuda.libs import cublas as loaded

    assert loaded  # which has loaded the library, so that it is found by its name
    major = runtime.runtimeGetVersion() // 1000
    return ctypes.CDLL(f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}")
