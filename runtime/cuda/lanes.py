"""Regions as launches of a kernel, and what rooms for cores need of them: operands, results and epilogues.

Long rows, if there are few of them, are divided among blocks: each pass over them is then a launch, whose blocks first
join what the parts of the passes before have left in workspace.

A core that can take its operands element by element, or knows an element of its result in registers, uses `element` and
`finish_at` inside its own launches; others have them in memory before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graphc.dims import Dim, ceil_div, product
from graphc.kernel import Region
from graphc.runtime.cuda.launches import CudaCode
from graphc.runtime.cuda.nest import Nest
from graphc.runtime.cuda.points import element, finish_at
from graphc.runtime.cuda.transposes import Tiles
from graphc.runtime.cuda.walk import BLOCK, Walk
from graphc.runtime.regions import in_workspace, is_direct, result, viewed
from graphc.runtime.strided import Strided

__all__ = ["all_launches", "element", "finish", "finish_at", "in_workspace", "operand", "region_launches", "result"]


MOST = 64  # regions in one launch: each takes parameters


def region_launches(
    code: CudaCode, region: Region, element: Strided | None = None, into: Strided | None = None
) -> None:
    """Launches that compute a region at all of its points.

    Args:
        element: where the elements of the core's result lie, for a region that begins with one.
        into: where the one output of a region without stores goes.
    """
    _launches(Nest(code, region, element, into))


def all_launches(code: CudaCode) -> None:
    """Launches that compute the results of a kernel without a core; those that store apart are computed in one."""
    group: list[Nest] = []
    for nest in [Nest(code, region) for region in code.kernel.results]:
        if len(group) == MOST or not all(_may_share(nest, other) for other in group):
            _together(group)
            group = []
        group.append(nest)
    _together(group)


def _launches(nest: Nest) -> None:
    crossed = nest.crossed
    if crossed is not None:
        Tiles(nest.code, nest.region, nest.loads, crossed).print(nest.stores)
        return
    when = nest.choice.when
    if when != 1:
        nest.code.note(nest.described())
        _whole(nest, 1 - when)
    if nest.choice.divided is not None:
        divided = nest.divided(nest.choice.divided)
        nest.code.note(divided.described())
        _in_parts(divided, when)


# --------------------------------------------------------------------------------------------- several regions


def _may_share(a: Nest, b: Nest) -> bool:
    """Whether two regions may be computed in one launch, in any order: both are plain, and they surely store apart."""
    if any(nest.reduced or nest.crossed is not None for nest in (a, b)):
        return False
    return all(
        x.number != y.number or _are_apart(_run(a.region, x), _run(b.region, y)) for x in a.stores for y in b.stores
    )


class _Run(NamedTuple):
    """What a store covers: neighbours from `first` to `last` (exclusive), again and again.

    Attributes:
        outer: extents and strides of the loops that repeat it.
    """

    first: Dim
    last: Dim
    outer: tuple[tuple[Dim, Dim], ...]


def _run(region: Region, array: Strided) -> _Run:
    loops = [(loop.extent, step) for loop, step in zip(region.loops, array.strides, strict=True) if loop.extent != 1]
    count = product([extent for extent, step in loops if step == 1])
    return _Run(array.offset, array.offset + count, tuple([pair for pair in loops if pair[1] != 1]))


def _are_apart(a: _Run, b: _Run) -> bool:
    """Whether two runs surely have no element in common: repeated alike, within one step they are side by side."""
    bounds = (a.first, a.last, b.first, b.last)
    if a.outer != b.outer or not all(isinstance(bound, int) for bound in bounds):
        return False
    step = min([abs(step) if isinstance(step, int) else 0 for _, step in a.outer], default=max(a.last, b.last))
    within = step > 0 and all(other % step == 0 for _, other in a.outer) and max(a.last, b.last) <= step
    return within and (a.last <= b.first or b.last <= a.first)


def _together(nests: Sequence[Nest]) -> None:
    """One launch for several regions: each has blocks of its own."""
    if len(nests) < 2:
        for nest in nests:
            _launches(nest)
        return
    code = nests[0].code
    code.note(f"{len(nests)} regions side by side")
    counts = [ceil_div(nest.total, nest.layout.columns) for nest in nests]
    frame = code.launch(sum(counts), max(nest.layout.threads for nest in nests))
    first: Dim = 0
    for nest, count in zip(nests, counts, strict=True):
        low, first = first, first + count
        is_here = f"{BLOCK} < {frame.size(first)}"
        is_here = is_here if low == 0 else f"{BLOCK} >= {frame.size(low)} && {is_here}"
        with frame.block(f"if ({is_here})"):
            block = BLOCK if low == 0 else f"({BLOCK} - {frame.size(low)})"
            Walk(nest, frame, [0], [], block=block).over_row(0)


# --------------------------------------------------------------------------------------------- rows


def _whole(nest: Nest, when: Dim = 1) -> None:
    """One launch, in which teams are done with their rows; none, if `when` is 0."""
    walk = Walk(nest, nest.launch(when), range(len(nest.passes)), nest.at_end())
    for number, current in enumerate(nest.passes):
        walk.settle(current, walk.over_row(number))
    walk.store_rows()


def _in_parts(nest: Nest, when: Dim = 1) -> None:
    """A launch for each pass over parts of rows, and one for what follows from all; none, if `when` is 0."""
    parts = ceil_div(nest.chunks, nest.layout.part)
    partial: list[list[Strided]] = []
    for number, current in enumerate(nest.passes):
        walk = Walk(nest, nest.launch(when, parts), [number], [], parts)
        walk.join_passes(partial, parts)
        accumulators = walk.over_row(number)
        partial.append([nest.for_parts(node, parts) for node in current.reductions])
        for node, name, place in zip(current.reductions, accumulators, partial[-1], strict=True):
            walk.keep_part(node, name, place)
    if nest.at_end():
        walk = Walk(nest, nest.launch(when), [], nest.at_end())
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


def finish(code: CudaCode, k: int) -> None:
    """After the core's launches: what pointwise ops make of its k-th result, unless it is in place already."""
    region = code.kernel.results[k]
    if region.stores and not is_direct(region):
        region_launches(code, region, element=result(code, k))
