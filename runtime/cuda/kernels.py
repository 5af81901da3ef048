"""From kernels to CUDA C: which room emits which core. What no room serves is run by NumPy, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphc.ir import Node
from graphc.kernel import Kernel, Region
from graphc.op import Op
from graphc.runtime.cuda import pointwise
from graphc.runtime.cuda.lanes import region_launches
from graphc.runtime.cuda.launches import CudaCode, CudaKernel
from graphc.runtime.cuda.reductions import REDUCTIONS

Core = Callable[[CudaCode], bool]  # emits the commands of a kernel with a core; False: it isn't served

TABLES: tuple[Mapping[Op, Core], ...] = ()  # of the rooms: the cores that each emits
CORES: Mapping[Op, Core] = {op: core for table in TABLES for op, core in table.items()}


def cuda_kernel(kernel: Kernel, cores: Mapping[Op, Core] = CORES) -> CudaKernel | None:
    """The code of a kernel, or None if it must be run by NumPy."""
    if not all(map(_is_served, kernel.regions)):
        return None
    code = CudaCode(kernel)
    if kernel.core is None:
        for region in kernel.results:
            region_launches(code, region)
    elif kernel.core.op not in cores or not cores[kernel.core.op](code):
        return None
    return code.finished()


def _is_served(region: Region) -> bool:
    return all(map(_has_code, region.values))


def _has_code(node: Node) -> bool:
    kind = node.op.kind
    if kind == "pointwise":
        return node.op in pointwise.TABLE
    return node.op in REDUCTIONS if kind == "reduce" else True
