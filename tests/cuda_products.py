"""Programs of products, convolutions and attention as CUDA C, run kernel by kernel on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cuda_host import Module, run_on_host
from plan_testing import prepared

from graphc.ir import Node
from graphc.kernel import Kernel
from graphc.ops.nn import attention_op
from graphc.passes.plan import bind_plan, plan_kernels
from graphc.runtime.cuda import attention, conv, gemm
from graphc.runtime.cuda.lanes import region_launches
from graphc.runtime.cuda.launches import CudaCode, CudaKernel, Precision
from graphc.target import TargetInfo

KINDS = frozenset({"contract", "conv", "composite"})
INFO = TargetInfo("cuda", whole=frozenset({attention_op}), epilogues=KINDS, views=KINDS)
CORES = {**gemm.CORES, **conv.CORES, **attention.CORES}


def emitted(kernel: Kernel, precision: Precision = "float32") -> CudaKernel:
    """A kernel's code; its core must be served."""
    code = CudaCode(kernel, precision)
    if kernel.core is None:
        for region in kernel.results:
            region_launches(code, region)
    else:
        assert CORES[kernel.core.op](code), kernel.core
    return code.finished()


def kernels(*outputs: Node, precision: Precision = "float32") -> list[CudaKernel]:
    """The code of a program's kernels."""
    steps = plan_kernels(prepared(outputs, info=INFO), INFO).steps
    return [emitted(step.kernel, precision) for step in steps]


def notes(*outputs: Node, precision: Precision = "float32") -> list[str]:
    """How the kernels of a program compute."""
    return ["; ".join(kernel.notes) for kernel in kernels(*outputs, precision=precision)]


class Case:
    """Outputs of a program, to be run for feeds.

    Attributes:
        found: their values, after `run_all`.
    """

    def __init__(
        self, outputs: Sequence[Node], feeds: Mapping[Node, Any], precision: Precision = "float32", **dims: int
    ) -> None:
        self.feeds = feeds
        self.plan = bind_plan(plan_kernels(prepared(outputs, info=INFO), INFO), dims, shared=False)
        self.kernels = [emitted(step.kernel, precision) for step in self.plan.kernels]
        self.found: list[Any] = []

    def run(self, module: Module) -> None:
        """Run kernel by kernel; each leaves what it writes to those after it."""
        values: dict[int, Any] = {}
        types = [buffer.type.bind(self.plan.dims) for buffer in self.plan.buffers]
        for k, buffer in enumerate(self.plan.buffers):
            if buffer.role == "given":
                values[k] = self.feeds[buffer.node]
            elif buffer.role == "constant":
                values[k] = buffer.node.attrs["value"].array
        for step, kernel in zip(self.plan.kernels, self.kernels, strict=True):
            writes = [(types[k].shape, types[k].dtype) for k in step.writes]
            found = run_on_host(kernel, [values[k] for k in step.reads], writes, self.plan.dims, module=module)
            values.update(zip(step.writes, found, strict=True))
        self.found = [values[k] for k in self.plan.symbolic.outputs]


def run_all(cases: Sequence[Case]) -> None:
    """Run cases whose code is compiled as one text."""
    for wide in (False, True):
        some = [case for case in cases if any(k.is_wide(case.plan.dims) for k in case.kernels) == wide]
        if some:
            module = Module([kernel for case in some for kernel in case.kernels], wide)
            for case in some:
                case.run(module)


def run(outputs: Sequence[Node], feeds: Mapping[Node, Any], precision: Precision = "float32", **dims: int) -> list[Any]:
    """The outputs of one program."""
    case = Case(outputs, feeds, precision, **dims)
    run_all([case])
    return case.found


def numbers(rng: np.random.Generator, shape: Sequence[int], dtype: Any) -> Any:
    """Random numbers of a dtype of NumPy's; integers such that some products wrap."""
    if np.dtype(dtype) == np.bool_:
        return rng.random(shape) < 0.2
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
