"""What the runtime asks of a GPU, and no more: memory, copies, launches, products of matrices, graphs and time.

`cupy_driver` answers with CuPy. Everything else of the runtime is written against this protocol, so that all of it runs
on a machine without a GPU, over a driver whose memory is the host's.

Work is done in the order in which it is asked for, and goes on while the caller does: what is uploaded mustn't change,
and what is downloaded isn't there, before `synchronise` has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

from graphc.op import Array
from graphc.runtime.cuda.launches import CudaKernel

WORD = 8  # bytes of each argument of a launch: addresses and sizes

Task = Literal["products", "convolutions"]  # of libraries, each with memory of its own to work in


class DeviceMemoryError(MemoryError):
    """The device has no memory left, or the host none that is pinned; nothing is lost."""


class Memory(Protocol):
    """Memory on the device, freed when nothing refers to this."""

    @property
    def address(self) -> int:
        """Of the first byte; a multiple of 256."""
        ...

    @property
    def nbytes(self) -> int:
        """How many there are."""
        ...


class Code(NamedTuple):
    """A kernel, and how wide it counts; see `CudaKernel.is_wide`."""

    kernel: CudaKernel
    wide: bool


class Matrices(NamedTuple):
    """A batch of matrices in memory.

    Attributes:
        strides: in elements: from matrix to matrix, from row to row and from column to column.
    """

    address: int
    strides: tuple[int, int, int]
    dtype: str


class Product(NamedTuple):
    """c = a @ b, of [batch, m, k] and [batch, k, n]; see `launches.Gemm`."""

    a: Matrices
    b: Matrices
    c: Matrices
    batch: int
    m: int
    n: int
    k: int
    compute: str


class Imported(NamedTuple):
    """An array of someone's on the device.

    Attributes:
        array: what keeps the memory that it lies in: one of the driver's own library, or a `DeviceArray`.
        dtype: its name.
        address: of its elements, if they lie together in row-major order; else None.
    """

    array: Any
    shape: tuple[int, ...]
    dtype: str
    address: int | None


class Tensor(NamedTuple):
    """An array in memory; strides in elements."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


class Convolved(NamedTuple):
    """A convolution of tensors in memory; see `launches.Convolution`."""

    direction: Literal["forward", "data", "weight"]
    x: Tensor
    w: Tensor
    y: Tensor
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    compute: str


class Driver(Protocol):
    """One device.

    Attributes:
        name: as its maker calls it.
        failures: what its calls raise where the device or its software fails. A lack of memory isn't one of them: it
            is a `DeviceMemoryError`, whatever was asked for.
    """

    name: str
    failures: tuple[type[Exception], ...]

    def enter(self) -> None:
        """Let the calling thread use the device."""
        ...

    # memory

    def free_bytes(self) -> int:
        """How many could be allocated now."""
        ...

    def allocate(self, nbytes: int, *, pooled: bool = False) -> Memory:
        """Memory of the device's.

        Args:
            pooled: take it from what was freed before, without waiting for the device; for what comes and goes.
        """
        ...

    def to_work_in(self, tasks: Collection[Task]) -> int:
        """Bytes of the device that libraries will take when they are first asked for such tasks; 0 if they were."""
        ...

    def trim(self) -> None:
        """Give back what was freed and is kept for later."""
        ...

    def close(self) -> None:
        """Give back what libraries work in, too; it is taken anew where they are asked again."""
        ...

    def pinned(self, nbytes: int) -> Array:
        """Bytes of the host's, uint8[nbytes], which the device copies to and from while the host goes on."""
        ...

    def upload(self, address: int, source: Array) -> None:
        """Copy the bytes of a contiguous array to the device; those of pinned memory are read later."""
        ...

    def download(self, target: Array, address: int) -> None:
        """Copy bytes from the device into a contiguous array; into pinned memory they are written later."""
        ...

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """Copy bytes within the device."""
        ...

    # code

    def load(self, codes: Sequence[Code]) -> Sequence[Any]:
        """Compile kernels, or find them compiled on disk, and load them: a module for each, to be kept."""
        ...

    def function(self, module: Any, symbol: str, shared: int) -> int:
        """A `__global__` function of a module, which may take so much dynamic shared memory."""
        ...

    def launch(self, function: int, blocks: int, threads: int, shared: int, arguments: Array) -> None:
        """Run a function on a grid. `arguments` are int64, one for each of its parameters."""
        ...

    def multiplication(self, product: Product) -> Callable[[], None]:
        """What multiplies matrices whenever it is called, during a capture, too."""
        ...

    @property
    def libraries(self) -> Collection[str]:
        """Which are there: "cudnn", to convolve, and "cublaslt", for products with epilogues."""
        ...

    def fused(self, product: Product, epilogue: str, bias: int) -> Callable[[], None] | str:
        """What multiplies matrices, and does what follows, whenever it is called; or why cublasLt can't do this one.

        Args:
            epilogue: see `launches.Fused`.
            bias: its address; 0 without one.
        """
        ...

    def convolution(self, problem: Convolved) -> Callable[[], None] | str:
        """What convolves whenever it is called, by cuDNN; or why that can't do this one."""
        ...

    # graphs and time

    def capture(self) -> AbstractContextManager[list[Any]]:
        """What is asked for within the block isn't done, but becomes a graph: the one item of the list afterwards."""
        ...

    def replay(self, graph: Any) -> None:
        """Do all that is in a graph."""
        ...

    def mark(self) -> Any:
        """A moment in the order of what the device does."""
        ...

    def wait(self, mark: Any) -> None:
        """Return when a mark has been reached."""
        ...

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Nanoseconds from one mark to another; both have been reached."""
        ...

    def synchronise(self) -> None:
        """Wait until all is done."""
        ...

    # arrays of others

    def is_here(self, value: Any) -> bool:
        """Whether something that speaks DLPack lies on this device."""
        ...

    def imported(self, value: Any) -> Imported:
        """What lies on this device, as an array of the driver's own library."""
        ...

    def take(self, imported: Imported, address: int) -> None:
        """Copy an array into memory, in row-major order: one copy within the device, whatever its strides are."""
        ...

    def shared(self, memory: Memory, address: int, shape: tuple[int, ...], dtype: str) -> Any:
        """An array of the driver's own library over memory; speaks DLPack and `__cuda_array_interface__`.

        It keeps the memory, and so does whoever takes it without a copy. When the last of them has let it go, it isn't
        used for anything else before the device has done what they asked for, on whatever stream.
        """
        ...
