"""Regions as launches of a kernel, and what rooms for cores need of them: operands, results and epilogues.

Long rows, if there are few of them, are divided among blocks: each pass over them is then a launch, whose blocks first
join what the parts of the passes before have left in workspace.

A core that can take its operands element by element, or knows an element of its result in registers, uses `element` and
`finish_at` inside its own launches; others have them in memory before and after.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.dims import Dim, ceil_div, product
from graphc.kernel import Region
from graphc.passes.index_maps import row_major
from graphc.runtime.cuda.launches import CudaCode
from graphc.runtime.cuda.nest import Nest
from graphc.runtime.cuda.points import element, finish_at
from graphc.runtime.cuda.transposes import Tiles, crossing
from graphc.runtime.cuda.walk import Walk
from graphc.runtime.regions import is_direct, result_dtype, viewed
from graphc.runtime.strided import Strided, itemsize

__all__ = ["element", "finish", "finish_at", "in_workspace", "operand", "region_launches", "result"]


def region_launches(
    code: CudaCode, region: Region, element: Strided | None = None, into: Strided | None = None
) -> None:
    """Launches that compute a region at all of its points.

    Args:
        element: where the elements of the core's result lie, for a region that begins with one.
        into: where the one output of a region without stores goes.
    """
    nest = Nest(code, region, element, into)
    crossed = crossing(nest.region, nest.loads, nest.stores)
    if crossed is not None:
        Tiles(code, nest.region, nest.loads, crossed).print(nest.stores)
        return
    code.note(nest.described())
    if not nest.layout.part:
        _whole(nest)
    elif isinstance(nest.chunks, int):
        _in_parts(nest)
    else:  # one of both has blocks when sizes are known
        is_long = nest.chunks // (nest.layout.short + 1)
        is_short = 1 // (1 + is_long)
        _whole(nest, is_short)
        _in_parts(nest, 1 - is_short)


def _whole(nest: Nest, when: Dim = 1) -> None:
    """One launch, in which teams are done with their rows; none, if `when` is 0."""
    walk = Walk(nest, range(len(nest.passes)), nest.at_end(), when)
    for number, current in enumerate(nest.passes):
        walk.settle(current, walk.over_row(number))
    walk.store_rows()


def _in_parts(nest: Nest, when: Dim = 1) -> None:
    """A launch for each pass over parts of rows, and one for what follows from all; none, if `when` is 0."""
    parts = ceil_div(nest.chunks, nest.layout.part)
    partial: list[list[Strided]] = []
    for number, current in enumerate(nest.passes):
        walk = Walk(nest, [number], [], when, parts)
        walk.join_passes(partial, parts)
        accumulators = walk.over_row(number)
        partial.append([nest.for_parts(node, parts) for node in current.reductions])
        for node, name, place in zip(current.reductions, accumulators, partial[-1], strict=True):
            walk.keep_part(node, name, place)
    if nest.at_end():
        walk = Walk(nest, [], nest.at_end(), when)
        walk.join_passes(partial, parts)
        walk.store_rows()


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
