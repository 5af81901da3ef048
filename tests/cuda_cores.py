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
from graphc.runtime.cuda.launches import CudaKernel, Precision
from graphc.target import TargetInfo
from tests.cuda_host import Module, run_on_host
from tests.plan_testing import prepared

KINDS = frozenset({"conv", "window", "index", "scan", "sort", "random"})
WHOLE = frozenset({topk_op, max_pool_input_grad})
INFO = TargetInfo("cuda", whole=WHOLE, epilogues=KINDS, prologues=KINDS, views=KINDS)


@cache
def made(kernel: Kernel, precision: Precision = "float32") -> CudaKernel:
    """The kernel's code; it must be served."""
    found = cuda_kernel(kernel, precision=precision)
    assert found is not None, kernel.core
    return found


def kernels_of(*outputs: Node, precision: Precision = "float32", info: TargetInfo = INFO) -> list[CudaKernel]:
    """The kernels of a program, in order."""
    return [made(step.kernel, precision) for step in plan_kernels(prepared(outputs, info=info), info).steps]


class Case:
    """A program, to be run with others that are compiled together.

    Args:
        draw: seed and stream of random draws, and the counter.

    Attributes:
        found: its outputs, after `run_all`.
    """

    def __init__(
        self,
        outputs: Sequence[Node],
        feeds: Mapping[Node, Any],
        draw: tuple[int, int, int] = (0, 0, 0),
        precision: Precision = "float32",
        info: TargetInfo = INFO,
        **sizes: int,
    ) -> None:
        self.plan = bind_plan(plan_kernels(prepared(outputs, info=info), info), sizes, shared=False)
        self.kernels = [made(step.kernel, precision) for step in self.plan.kernels]
        self.feeds = feeds
        self.key = tuple([word - (word >> 63 << 64) for word in draw])
        self.found: list[Any] = []

    def run(self, module: Module) -> None:
        """Run it kernel by kernel."""
        plan, values = self.plan, dict[int, Any]()
        for k, buffer in enumerate(plan.buffers):
            if buffer.role == "given":
                values[k] = self.feeds[buffer.node]
            elif buffer.role == "constant":
                values[k] = buffer.node.attrs["value"].array
        for step, kernel in zip(plan.kernels, self.kernels, strict=True):
            types = [plan.buffers[k].type.bind(plan.dims) for k in step.writes]
            reads, writes = [values[k] for k in step.reads], [(t.shape, t.dtype) for t in types]
            found = run_on_host(kernel, reads, writes, plan.dims, self.key, module)
            values |= dict(zip(step.writes, found, strict=True))
        self.found = [values[k] for k in plan.symbolic.outputs]


def run_all(cases: Sequence[Case], wide: bool = False, backwards: bool = False) -> None:
    """Run programs; all of their kernels are compiled together.

    Args:
        wide: whether `Index` has 64 bits where 32 would do.
        backwards: whether blocks and threads run from the last one on.

    Raises:
        IndexError: a kernel found that an index is out of range.
    """
    module = Module([kernel for case in cases for kernel in case.kernels], wide, backwards)
    for case in cases:
        case.run(module)


def run(
    outputs: Sequence[Node],
    feeds: Mapping[Node, Any],
    *,
    wide: bool = False,
    module: Module | None = None,
    **options: Any,
) -> list[Any]:
    """The outputs of one program; options as for `Case`.

    Args:
        module: in which its kernels are compiled already.
    """
    case = Case(outputs, feeds, **options)
    if module is None:
        run_all([case], wide)
    else:
        case.run(module)
    return case.found
