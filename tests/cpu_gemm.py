"""Products of matrices as native code: kernels of small programs, linked with the library and run phase by phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from cpu_cores import PHASE, Memory, called, function, modules
from plan_testing import prepared

from graphc.dims import evaluate
from graphc.ir import Node
from graphc.passes.plan import bind_plan, plan_kernels
from graphc.runtime.cpu.gemm import CORES
from graphc.runtime.cpu.host import Host, this_host
from graphc.runtime.cpu.jit import Code
from graphc.runtime.cpu.kernels import native_kernel
from graphc.runtime.cpu.phases import NativeKernel
from graphc.target import TargetInfo
from graphc.types import np_dtype

INFO = TargetInfo("cpu")


class Loaded:
    """A kernel in memory, and its calls."""

    def __init__(self, kernel: NativeKernel, host: Host, operands: Sequence[Memory], dims: Mapping[str, int]) -> None:
        symbols = [phase.symbol for phase in kernel.phases]
        functions = [function(symbol, host) for symbol in called(kernel.assembly)]
        self.code = Code([*modules(kernel.assembly, host), *functions], symbols)
        self.workspace = Memory((evaluate(kernel.workspace, dims),), np.uint8)
        addresses = [self.workspace.address, *[o.address for o in operands]]
        self.table = np.array(addresses, np.int64)
        sizes = [evaluate(dim, dims) for dim in kernel.dims]
        self.args = np.array([*range(1, len(addresses)), *sizes, 0], np.int64)
        self.calls = [PHASE(self.code.address(symbol)) for symbol in symbols]
        self.units = [evaluate(phase.units, dims) for phase in kernel.phases]
        self.scratch = [Memory((evaluate(phase.scratch, dims),), np.uint8) for phase in kernel.phases]

    def run(self, parts: int = 1) -> None:
        """Run all phases, the units of each divided into calls of which the last is done first."""
        for call, units, scratch in zip(self.calls, self.units, self.scratch, strict=True):
            ends = [units * part // parts for part in range(parts + 1)]
            for low, high in reversed(list(pairwise(ends))):
                if low < high:
                    assert call(self.table.ctypes.data, self.args.ctypes.data, low, high, scratch.address) == 0

    def intact(self) -> bool:
        """Whether nothing around workspace and scratch has been written."""
        return all(memory.intact() for memory in (self.workspace, *self.scratch))


def run(
    outputs: Sequence[Node], feeds: Mapping[Node, Any], *, host: Host | None = None, parts: int = 1, **sizes: int
) -> list[Any]:
    """The outputs of a program whose kernels are all native."""
    values, loaded, found = load(outputs, feeds, host or this_host(), sizes)
    for kernel in loaded:
        kernel.run(parts)
        assert kernel.intact()
    assert all(memory.intact() for memory in values)
    return [values[k].array for k in found]


def load(
    outputs: Sequence[Node], feeds: Mapping[Node, Any], host: Host, sizes: Mapping[str, int]
) -> tuple[list[Memory], list[Loaded], tuple[int, ...]]:
    """The buffers of a program, its kernels in memory, and which buffers are its outputs."""
    plan = bind_plan(plan_kernels(prepared(outputs, info=INFO), INFO), sizes, shared=False)
    values: list[Memory] = []
    for buffer in plan.buffers:
        type = buffer.type.bind(plan.dims)
        memory = Memory(type.shape, np_dtype(type.dtype))
        if buffer.role in ("given", "constant"):
            given = feeds[buffer.node] if buffer.role == "given" else buffer.node.attrs["value"].array
            memory.array[...] = given
        values.append(memory)
    loaded = []
    for step in plan.kernels:
        native = native_kernel(step.kernel, host, CORES)
        assert native is not None, step.kernel
        operands = [values[k] for k in (*step.reads, *step.writes)]
        loaded.append(Loaded(native, host, operands, plan.dims))
    return values, loaded, plan.symbolic.outputs
