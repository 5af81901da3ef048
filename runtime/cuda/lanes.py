"""What rooms for cores need of the regions around them: operands, results and epilogues.

A core that can take its operands element by element, or knows an element of its result in registers, uses `element` and
`finish_at` inside its own launches; others have them in memory before and after.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.dims import Dim, product
from graphc.passes.index_maps import row_major
from graphc.runtime.cuda.launches import CudaCode
from graphc.runtime.cuda.nest import region_launches
from graphc.runtime.cuda.points import element, finish_at
from graphc.runtime.regions import is_direct, result_dtype, viewed
from graphc.runtime.strided import Strided, itemsize

__all__ = ["element", "finish", "finish_at", "in_workspace", "operand", "region_launches", "result"]


def operand(code: CudaCode, k: int) -> Strided:
    """Where the core's k-th operand lies: in a buffer that the kernel reads, or in workspace, computed by a launch."""
    region = code.kernel.operands[k]
    if region.is_view:
        return viewed(region)
    array = in_workspace(code, [loop.extent for loop in region.loops], region.body.outputs[0].dtype)
    region_launches(code, region, into=array)
    return array


def in_workspace(code: CudaCode, shape: Sequence[Dim], dtype: str) -> Strided:
    """A new row-major array in workspace."""
    offset = code.workspace(product(shape) * itemsize(dtype))
    return Strided("workspace", offset, 0, row_major(tuple(shape)), dtype)


def result(code: CudaCode, k: int) -> Strided:
    """Where the core shall write its k-th result, row-major: the buffer that is wanted, or workspace."""
    region = code.kernel.results[k]
    shape = [loop.extent for loop in region.loops]
    dtype = result_dtype(code.kernel, k)
    if is_direct(region):
        return Strided("write", region.stores[0].write, 0, row_major(tuple(shape)), dtype)
    found = code.results.get(k)
    if found is None:
        found = code.results[k] = in_workspace(code, shape, dtype)
    return found


def finish(code: CudaCode, k: int) -> None:
    """After the core's launches: what pointwise ops make of its k-th result, unless it is in place already."""
    region = code.kernel.results[k]
    if region.stores and not is_direct(region):
        region_launches(code, region, element=result(code, k))
