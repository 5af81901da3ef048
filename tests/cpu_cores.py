"""What the tests of the native cores share: kernels of small programs, compiled and run phase by phase."""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from graphc.dims import evaluate
from graphc.ir import Node
from graphc.kernel import Kernel
from graphc.op import Op
from graphc.passes.plan import bind_plan, plan_kernels
from graphc.runtime.cpu import hot_loops, kernels
from graphc.runtime.cpu.host import HOSTS, Host, narrowed, this_host
from graphc.runtime.cpu.jit import Code, compiled
from graphc.runtime.cpu.kernels import CORES, Core, native_kernel
from graphc.runtime.cpu.phases import NativeKernel
from graphc.runtime.strided import ALIGN
from graphc.target import TargetInfo
from graphc.types import np_dtype
from tests.plan_testing import prepared

KINDS = frozenset({"conv", "window", "index", "scan", "sort", "random"})
INFO = TargetInfo("cpu", epilogues=KINDS, prologues=KINDS, views=KINDS, prepares=KINDS)
WIDTHS = (64, 32, 16)  # bytes of the vectors that code is tried with
PHASE = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2, ctypes.c_void_p)
GUARD = 64  # bytes behind every array that must stay as they are


class FailedError(Exception):
    """A phase said that its operands make it fail."""


class Memory:
    """An aligned array, with bytes before and behind it that nobody may write."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        nbytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
        self.whole = np.full(nbytes + 2 * GUARD + ALIGN, 0xA5, np.uint8)
        self.start = GUARD + -(self.whole.ctypes.data + GUARD) % ALIGN
        self.end = self.start + nbytes
        self.array = self.whole[self.start : self.end].view(dtype).reshape(shape)

    @property
    def address(self) -> int:
        return self.whole.ctypes.data + self.start

    def intact(self) -> bool:
        """Whether nothing around the array has been written."""
        return bool((self.whole[: self.start] == 0xA5).all() and (self.whole[self.end :] == 0xA5).all())


def host_of(width: int) -> Host:
    """This machine, with vectors of so many bytes."""
    return narrowed(this_host(), width)


def native(
    kernel: Kernel, host: Host, cores: Mapping[Op, Core] = CORES, steady: frozenset[int] = frozenset()
) -> NativeKernel:
    """The kernel's code; it must be served."""
    found = native_kernel(kernel, host, cores, steady)
    assert found is not None, kernel.core
    return found


def called(assembly: str) -> list[str]:
    """The functions of the library that a module declares."""
    return re.findall(r"^declare \w+ @((?!llvm\.)\w+\.[\w.]+)\(", assembly, re.MULTILINE)


@cache
def function(symbol: str, host: Host) -> bytes:
    """A function of the library."""
    return compiled(kernels.function(host, symbol), host)


def modules(assembly: str, host: Host) -> list[bytes]:
    """A kernel's own modules."""
    glue, loops = hot_loops.parts(assembly)
    return [compiled(text, host) for text in (glue, *loops.values())]


def assemble(*outputs: Node, info: TargetInfo = INFO) -> int:
    """Make the code of a program for other machines; how many kernels there are."""
    steps = plan_kernels(prepared(outputs, info=info), info).steps
    for host in (HOSTS["avx2"], HOSTS["neon"]):
        for step in steps:
            assembly = native(step.kernel, host, steady=step.steady).assembly
            for code in (*modules(assembly, host), *[function(symbol, host) for symbol in called(assembly)]):
                assert not re.search(rb"__(trunc|extend|fix|float)", code)  # functions that a process may lack
    return len(steps)


def run(
    outputs: Sequence[Node],
    feeds: Mapping[Node, Any],
    *,
    host: Host | None = None,
    parts: int = 1,
    draw: tuple[int, int, int] = (0, 0, 0),
    cores: Mapping[Op, Core] = CORES,
    info: TargetInfo = INFO,
    **sizes: int,
) -> list[Any]:
    """The outputs of a program, run kernel by kernel.

    Args:
        parts: how many calls the units of each phase are divided into; the last part is done first.
        draw: seed and stream of random draws, and the counter.
    """
    host = host or this_host()
    plan = bind_plan(plan_kernels(prepared(outputs, info=info), info), sizes, shared=False)
    values: dict[int, Memory] = {}
    for k, buffer in enumerate(plan.buffers):
        type = buffer.type.bind(plan.dims)
        values[k] = Memory(type.shape, np_dtype(type.dtype))
        if buffer.role == "given":
            values[k].array[...] = feeds[buffer.node]
        elif buffer.role == "constant":
            values[k].array[...] = buffer.node.attrs["value"].array
    for step in plan.kernels:
        operands = [values[k] for k in (*step.reads, *step.writes)]
        run_kernel(native(step.kernel, host, cores, step.steady), host, operands, plan.dims, parts, draw)
    assert all(memory.intact() for memory in values.values())
    return [values[k].array for k in plan.symbolic.outputs]


@cache
def code_of(kernel: NativeKernel, host: Host) -> Code:
    """The machine code of a kernel."""
    functions = [function(symbol, host) for symbol in called(kernel.assembly)]
    return Code([*modules(kernel.assembly, host), *functions], [phase.symbol for phase in kernel.phases])


def run_kernel(
    kernel: NativeKernel,
    host: Host,
    operands: Sequence[Memory],
    dims: Mapping[str, int],
    parts: int,
    draw: tuple[int, int, int],
) -> None:
    """Run the phases of a kernel, as a driver does."""
    code = code_of(kernel, host)
    workspace = Memory((evaluate(kernel.workspace, dims),), np.uint8)
    key = np.array(draw, np.uint64)
    kept = [] if kernel.kept is None else [Memory((kernel.kept,), np.uint8)]
    addresses = [workspace.address, *[o.address for o in operands], *[key.ctypes.data] * kernel.draws]
    addresses += [memory.address for memory in kept]
    table = np.array(addresses, np.int64)
    args = np.array([*range(1, len(addresses)), *[evaluate(dim, dims) for dim in kernel.dims], 0], np.int64)
    for phase in sorted(kernel.phases, key=lambda phase: not phase.prepares):
        total, scratch = evaluate(phase.units, dims), Memory((evaluate(phase.scratch, dims),), np.uint8)
        call = PHASE(code.address(phase.symbol))
        ends = [total * part // parts for part in range(parts + 1)]
        for low, high in reversed(list(itertools.pairwise(ends))):
            if low < high and call(table.ctypes.data, args.ctypes.data, low, high, scratch.address):
                raise FailedError(phase.symbol)
        assert all(memory.intact() for memory in (workspace, *kept))
        assert scratch.intact()
        assert evaluate(phase.cost, dims) >= 0
