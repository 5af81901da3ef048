"""What the tests of the GPU's cores share: small programs, as CUDA C, run kernel by kernel on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from graphc.ir import Node
from graphc.kernel import Kernel
from graphc.ops.pooling import max_pool_input_grad
from graphc.ops.sorting import topk_op
from graphc.passes.plan import bind_plan, plan_kernels
from graphc.runtime.cuda.kernels import cuda_kernel
from graphc.runtime.cuda.launches import CudaKernel
from graphc.target import TargetInfo
from tests.cuda_host import Module, run_on_host
from tests.plan_testing import prepared

KINDS = frozenset({"conv", "window", "index", "scan", "sort", "random"})
WHOLE = frozenset({topk_op, max_pool_input_grad})
INFO = TargetInfo("cuda", whole=WHOLE, epilogues=KINDS, prologues=KINDS, views=KINDS)


@cache
def made(kernel: Kernel) -> CudaKernel:
    """The kernel's code; it must be served."""
    found = cuda_kernel(kernel)
    assert found is not None, kernel.core
    return found


def kernels_of(*outputs: Node) -> list[CudaKernel]:
    """The kernels of a program, in order."""
    return [made(step.kernel) for step in plan_kernels(prepared(outputs, info=INFO), INFO).steps]


def run(
    outputs: Sequence[Node],
    feeds: Mapping[Node, Any],
    draw: tuple[int, int, int] = (0, 0, 0),
    wide: bool = False,
    **sizes: int,
) -> list[Any]:
    """The outputs of a program; all of its kernels are compiled together.

    Args:
        draw: seed and stream of random draws, and the counter.
        wide: whether `Index` has 64 bits where 32 would do.

    Raises:
        IndexError: a kernel found that an index is out of range.
    """
    plan = bind_plan(plan_kernels(prepared(outputs, info=INFO), INFO), sizes, shared=False)
    kernels = [made(step.kernel) for step in plan.kernels]
    module = Module(kernels, wide)
    key = tuple([word - (word >> 63 << 64) for word in draw])
    values: dict[int, Any] = {}
    for k, buffer in enumerate(plan.buffers):
        if buffer.role == "given":
            values[k] = feeds[buffer.node]
        elif buffer.role == "constant":
            values[k] = buffer.node.attrs["value"].array
    for step, kernel in zip(plan.kernels, kernels, strict=True):
        types = [plan.buffers[k].type.bind(plan.dims) for k in step.writes]
        found = run_on_host(
            kernel, [values[k] for k in step.reads], [(t.shape, t.dtype) for t in types], plan.dims, key, module
        )
        values |= dict(zip(step.writes, found, strict=True))
    return [values[k] for k in plan.symbolic.outputs]
