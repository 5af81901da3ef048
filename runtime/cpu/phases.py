"""What a kernel becomes: phases, functions of one signature that run one after the other and share work among threads.

    i64 phase(ptr table, ptr args, i64 low, i64 high, ptr scratch)

does the units of work `low .. high-1` of those that the phase has, and returns 0, or 1 where the operands make it fail.
`table` has the address of the run's workspace and then of each buffer of the plan; `args` says which of them the
kernel reads and writes, and the sizes that aren't compiled in; `scratch` is memory of the worker. The
result must not depend on how the units are divided into calls, nor on their order.

A phase that *prepares* reads only buffers that are the same run after run (`KernelCode.steady`: variables that the plan
doesn't change, constants) and writes only memory that is kept: it runs before all others, and only when one of those
buffers has changed. To move such work there, a room takes the memory for it from `KernelCode.derived`, and begins the
phase with `prepares=place.is_kept`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from graphc.dims import Dim, DimExpr
from graphc.kernel import Kernel
from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.hot_loops import kernel_text
from graphc.runtime.cpu.values import I64, MEMORY_TYPE, PTR, Int, Value, constant
from graphc.runtime.strided import Strided, aligned

PARAMETERS = (
    ("ptr noalias", "table"),
    ("ptr noalias", "args"),
    ("i64", "low"),
    ("i64", "high"),
    ("ptr noalias", "scratch"),
)


class Phase(NamedTuple):
    """One function of a kernel.

    Attributes:
        symbol: its name.
        units: of work, that may be divided among threads.
        cost: nanoseconds that one core needs for all of them, roughly; decides how they are divided.
        scratch: bytes that each worker needs.
        prepares: whether it runs only when what it reads has changed.
    """

    symbol: str
    units: Dim
    cost: Dim
    scratch: Dim = 0
    prepares: bool = False


@dataclass(frozen=True)
class NativeKernel:
    """A kernel as LLVM assembly.

    Attributes:
        phases: in the order in which they run.
        dims: the sizes that `args` has after the numbers of the buffers.
        workspace: bytes of memory that the phases share while the kernel runs.
        draws: whether `args` has, after the buffers, the slot of a draw's key: 3 i64, seed, stream and counter.
        kept: bytes of memory that stays as it is between runs, one for each step; None where the kernel has no steady
            reads: otherwise `args` has its slot next.
        notes: how it computes what it does, for reports: "winograd 4x4", "14x32 blocks, B packed".
    """

    assembly: str
    phases: tuple[Phase, ...]
    dims: tuple[Dim, ...]
    workspace: Dim
    draws: bool
    notes: tuple[str, ...] = ()
    kept: int | None = None


class Place(NamedTuple):
    """Memory of a kernel.

    Attributes:
        number: bytes from where that memory begins.
    """

    kind: Literal["workspace", "kept"]
    number: Dim

    @property
    def is_kept(self) -> bool:
        """Whether it stays as it is between runs."""
        return self.kind == "kept"

    def array(self, strides: tuple[Dim, ...], dtype: str, offset: Dim = 0) -> Strided:
        """An array there."""
        return Strided(self.kind, self.number, offset, strides, dtype)


class KernelCode:
    """The code of a kernel in the making: its phases, and the memory between them.

    Args:
        steady: reads that are the same run after run; see `Step.steady`.
    """

    def __init__(self, kernel: Kernel, host: Host, steady: Collection[int] = frozenset()) -> None:
        self.kernel = kernel
        self.steady = steady
        self.host = host
        self.module = Module(avx512=host.vector_bytes == 64)
        self.reads = 1 + max(
            (load.read for r in kernel.regions for load in r.loads if load.read is not None), default=-1
        )
        self.writes = 1 + max((store.write for r in kernel.regions for store in r.stores), default=-1)
        self.draws = kernel.kind == "random"
        self.results: dict[int, Strided] = {}  # of the core, where they are in workspace
        self._notes: dict[str, None] = {}
        self._phases: list[Phase] = []
        self._dims: dict[Dim, int] = {}
        self._workspace: Dim = 0
        self._kept = 0

    def phase(
        self, units: Dim, cost: Dim, scratch: Dim = 0, *, prepares: bool = False, compiled_in: float = math.inf
    ) -> Frame:
        """Begin a phase; the frame has its function, to be filled and finished by `frame.done()`.

        Args:
            compiled_in: known sizes from this on are read from `args`, too: phases that differ in them alone are one
                code.
        """
        symbol = f"phase{len(self._phases)}"
        self._phases.append(Phase(symbol, units, cost, scratch, prepares))
        return Frame(self, self.module.function(symbol, PARAMETERS, I64), compiled_in)

    def note(self, words: str) -> None:
        """Say in a few words how something is computed, for reports; said twice, it is there once."""
        self._notes[words] = None

    def workspace(self, nbytes: Dim) -> Dim:
        """Take memory that all phases see; its offset in bytes."""
        offset = self._workspace
        self._workspace = offset + aligned(nbytes)
        return offset

    def is_steady(self, *operands: int) -> bool:
        """Whether these operands of the core depend on nothing but steady reads."""
        regions = [self.kernel.operands[k] for k in operands]
        return all(load.read is None or load.read in self.steady for region in regions for load in region.loads)

    def derived(self, nbytes: Dim, *operands: int) -> Place:
        """Memory for what some operands of the core alone decide: kept, if they are steady; else workspace."""
        if not isinstance(nbytes, int) or not self.steady or not self.is_steady(*operands):
            return Place("workspace", self.workspace(nbytes))
        place = Place("kept", self._kept)
        self._kept += int(aligned(nbytes))
        return place

    def number_of(self, dim: Dim) -> int:
        """The place of a symbolic size among the sizes in `args`."""
        return self._dims.setdefault(dim, len(self._dims))

    def finished(self) -> NativeKernel:
        """What has been made."""
        phases, dims, notes = tuple(self._phases), tuple(self._dims), tuple(self._notes)
        kept = self._kept if self.steady else None
        return NativeKernel(kernel_text(self.module), phases, dims, self._workspace, self.draws, notes, kept)


class Frame:
    """The function of a phase, with what its parameters mean.

    Attributes:
        f: where instructions go.
        low, high: the units of work of this call.
        scratch: memory of the worker.
    """

    def __init__(self, code: KernelCode, f: Function, compiled_in: float = math.inf) -> None:
        self.code = code
        self.compiled_in = compiled_in
        self.host = code.host
        self.f = f
        self._table, self._args, self.low, self.high, self.scratch = (f.parameter(k) for k in range(5))
        self._sizes: dict[Dim, Value] = {}
        self._slots: dict[int, Value] = {}

    def size(self, dim: Dim) -> Int:
        """A dimension: an int if it is compiled in, else a value that is read from `args` when the function begins."""
        if not isinstance(dim, DimExpr) and dim < self.compiled_in:
            return dim
        found = self._sizes.get(dim)
        if found is None:
            code = self.code
            slot = code.reads + code.writes + code.draws + bool(code.steady) + code.number_of(dim)
            found = self._sizes[dim] = self.f.in_entry(lambda: self._argument(slot))
        return found

    def sizes(self, dims: Sequence[Dim]) -> list[Int]:
        """Several dimensions."""
        return [self.size(dim) for dim in dims]

    def _argument(self, slot: int) -> Value:
        return self.f.load(I64, self.f.address(self._args, slot, I64), 8)

    def _buffer(self, slot: int) -> Value:
        return self.f.load(PTR, self.f.addresses(self._table, self._argument(slot), PTR), 8)

    def read(self, number: int) -> Value:
        """The address of a buffer that the kernel reads."""
        return self._slot(number)

    def write(self, number: int) -> Value:
        """The address of a buffer that the kernel writes."""
        return self._slot(self.code.reads + number)

    def draw(self) -> Value:
        """The address of the draw's key."""
        return self._slot(self.code.reads + self.code.writes)

    def kept(self) -> Value:
        """Where the memory begins that is kept between runs."""
        return self._slot(self.code.reads + self.code.writes + self.code.draws)

    def memory(self, place: Place) -> Value:
        """The address of memory taken by `KernelCode.derived`."""
        if place.is_kept:
            return self.f.address(self.kept(), self.size(place.number), "i8")
        return self.workspace(place.number)

    def _slot(self, slot: int) -> Value:
        found = self._slots.get(slot)
        if found is None:
            found = self._slots[slot] = self.f.in_entry(lambda: self._buffer(slot))
        return found

    def workspace(self, offset: Dim) -> Value:
        """The address of memory taken by `KernelCode.workspace`."""
        f = self.f
        base = f.in_entry(lambda: f.load(PTR, self._table, 8))
        at = self.size(offset)
        return f.in_entry(lambda: f.address(base, at, "i8"))

    def base(self, array: Strided) -> Value:
        """The address from which the offsets of an array count."""
        if array.place == "read":
            return self.read(int(array.number))
        if array.place == "write":
            return self.write(int(array.number))
        if array.place == "workspace" or array.place == "kept":
            return self.memory(Place(array.place, array.number))
        return self.f.address(self.scratch, self.size(array.number), "i8")

    def at(self, array: Strided, index: Sequence[Int] = ()) -> Value:
        """The address of an element of an array (of the first, without an index)."""
        f = self.f
        offset: Int = self.size(array.offset)
        for i, stride in zip(index, array.strides, strict=False):
            offset = f.add(offset, f.mul(i, self.size(stride)))
        return f.address(self.base(array), offset, MEMORY_TYPE[array.dtype])

    def done(self) -> None:
        """End the function: all went well."""
        self.f.ret(constant(I64, 0))
