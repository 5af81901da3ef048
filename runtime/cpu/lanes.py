"""Regions as phases of a kernel, and what rooms for cores need of them: operands, results and epilogues.

The parallel loops of a region are numbered through as units of work; the vector loop, if it is parallel, is one unit a
block.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from graphc.dims import Dim, ceil_div, evaluate, product
from graphc.kernel import Region
from graphc.kernel_text import counter
from graphc.passes.index_maps import row_major
from graphc.runtime.cpu import pointwise
from graphc.runtime.cpu.elements import Element
from graphc.runtime.cpu.nest import Nest
from graphc.runtime.cpu.nest_layout import layout_of
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.reductions import REDUCTIONS
from graphc.runtime.cpu.row_passes import kept_bytes, passes_of
from graphc.runtime.cpu.values import Int, Value
from graphc.runtime.regions import (
    Port,
    in_workspace,
    is_direct,
    loading,
    over_fewer_loops,
    result,
    rows_joined,
    stored_in,
    viewed,
)
from graphc.runtime.strided import Strided, itemsize

__all__ = ["block", "finish", "in_workspace", "nominal", "operand", "region_phase", "result"]

LONG = 1 << 15  # elements of a row that are reduced in one unit, if there are few rows
FLAT = 64  # sizes from which phases of one loop, such as the updates of biases, share code: it needs no constants
FEW = 16  # rows, or vectors of rows side by side, that are few
MEMORY_NS = 0.06  # nanoseconds to read or write an element of what a cache holds


def region_phase(
    code: KernelCode,
    region: Region,
    element: Strided | None = None,
    into: Strided | None = None,
    *,
    prepares: bool = False,
) -> None:
    """A phase that computes a region at all of its points.

    Args:
        element: where the elements of the core's result lie, for a region that begins with one.
        into: where the one output of a region without stores goes.
        prepares: see `Phase.prepares`.
    """
    work = _Work(code, *over_fewer_loops(region, element, into), prepares)
    split = work.split()
    code.note(work.described() + (", long rows in parts" if split else ""))
    if split is None:
        work.whole()
    else:
        work.in_parts(*split)


def _contiguous(element: Strided, region: Region) -> int:
    """The axis along which the core's elements are contiguous: the last, or before it if that has one element."""
    axes = range(len(region.loops))[::-1]
    return next((k for k in axes if region.loops[k].extent != 1 and element.strides[k] == 1), -1)


class _Work:
    """The phases of a region: how its points are numbered as units of work."""

    def __init__(
        self, code: KernelCode, region: Region, element: Strided | None, into: Strided | None, prepares: bool
    ) -> None:
        self.code, self.region, self.element, self.into, self.prepares = code, region, element, into, prepares
        ports = [loading(load, "float32") for load in region.loads] + [Port(array) for array in stored_in(region)]
        ports += [Port(into)] if into else []
        self.ports = [port for port in ports if not port.counter]
        self.along = -1 if element is None else _contiguous(element, region)
        self.layout = layout_of(region, code.host, ports, None if element is None else self.along)
        self.passes = passes_of(region)
        self.parallel = [k for k, loop in enumerate(region.loops) if not loop.reduce]
        self.steps = {self.layout.axis: self.layout.block, self.layout.across: self.layout.tile}  # in one unit
        # Memory that has just been filled is in the cache of the core that did it: another one pays off later.
        results = () if code.kernel.core is not None else code.kernel.results
        is_filled = len(results) > 1 and any(not other.loads for other in results)
        self.cost = region_cost(region) // (2 if is_filled else 1)

    def described(self) -> str:
        """In a few words, how the points are walked, and what makes that slow."""
        axis = self.layout.axis
        if axis is None:
            return "one element"
        strides = [port.array.strides[axis] for port in self.ports]
        scattered = sum(stride not in (0, 1, -1) for stride in strides)
        along = f"{self.layout.lanes} lanes along {counter(axis)}" if self.layout.lanes > 1 else "no vectors"
        row = " (reduced)" if self.region.loops[axis].reduce else ""
        tiles = " (walked in tiles)" if self.layout.across is not None else ""
        return along + row + (f", {scattered} of {len(strides)} operands scattered{tiles}" if scattered else "")

    @property
    def vectors(self) -> int:
        """How many vectors of rows are reduced side by side."""
        return self.layout.flight if self.layout.axis in self.parallel else 1

    @property
    def counts(self) -> list[Dim]:
        """Of each parallel loop, how many units it is divided into."""
        return [ceil_div(self.region.loops[k].extent, self.steps.get(k, 1)) for k in self.parallel]

    def begin(self, units: Dim, cost: Dim) -> Nest:
        """A phase, and the nest in it."""
        layout, element = self.layout, self.element
        by_row = layout.axis is not None and self.region.loops[layout.axis].reduce
        kept = sum(len(current.kept) for current in self.passes)
        scratch = kept_bytes(self.region, layout.lanes, by_row=by_row) * kept
        compiled_in = FLAT if len(self.region.loops) == 1 else math.inf
        frame = self.code.phase(units, cost, scratch, prepares=self.prepares, compiled_in=compiled_in)
        address = element and Element(lambda index: frame.at(element, index), element.dtype, self.along)
        return Nest(frame, self.region, address, self.into, whole=True)

    def place(self, nest: Nest, unit: Int) -> tuple[dict[int, Int], dict[int | None, tuple[Int, Int]]]:
        """Where a unit is: the index of the loops of which it has one step, and the bounds of the others."""
        f = nest.f
        index: dict[int, Int] = {}
        bounds: dict[int | None, tuple[Int, Int]] = {}
        for k, size in reversed(list(zip(self.parallel, nest.frame.sizes(self.counts), strict=True))):
            is_first = k == self.parallel[0]
            at = unit if is_first else f.rem(unit, size)
            unit = unit if is_first else f.div(unit, size)
            if k in self.steps:
                low = f.mul(at, self.steps[k])
                bounds[k] = low, f.min(f.add(low, self.steps[k]), nest.extents[k])
            else:
                index[k] = at
        return index, bounds

    def whole(self) -> None:
        """One phase, in which a unit is done with its points."""
        axis, across = self.layout.axis, self.layout.across
        nest = self.begin(product(self.counts), self.cost)

        def unit(number: Value, _: list[Value]) -> None:
            index, bounds = self.place(nest, number)
            nest.run(index, *bounds.get(axis, (0, 0)), tile=bounds.get(across, (0, 0)))

        nest.f.loop(nest.frame.low, nest.frame.high, 1, unit)
        nest.frame.done()

    # ------------------------------------------------------------------------------------ long rows

    def split(self) -> tuple[int, int] | None:
        """If rows are long and few: their outermost loop, and how many of its steps are one unit of work."""
        (first, *more), loops = self.passes, self.region.loops
        if not first.reductions or more or first.stored:
            return None
        outermost, *inner = [k for k, loop in enumerate(loops) if loop.reduce]
        side_by_side = self.layout.lanes if self.layout.axis in self.parallel else 1
        inside = side_by_side * self.vectors * nominal(product([loops[k].extent for k in inner]))
        rows = nominal(product([loops[k].extent for k in self.parallel])) // side_by_side
        length = max(1, LONG // max(1, inside))
        if outermost == self.layout.axis:
            length = -(-length // (self.layout.lanes * self.layout.flight)) * self.layout.lanes * self.layout.flight
        extent = loops[outermost].extent
        is_long = not isinstance(extent, int) or extent > length
        return (outermost, length) if is_long and rows <= FEW else None

    def in_parts(self, loop: int, length: int) -> None:
        """Two phases: one reduces parts of the rows, the other joins them."""
        groups, extent = product(self.counts), self.region.loops[loop].extent
        parts = ceil_div(extent, length)
        slots = sum(1 + REDUCTIONS[node.op].positions for node in self.passes[0].reductions)
        each = slots * self.vectors * 8 * self.layout.lanes
        offset = self.code.workspace(groups * parts * each)

        nest = self.begin(groups * parts, self.cost)
        count = nest.frame.size(parts)

        def reduce(number: Value, _: list[Value]) -> None:
            f = nest.f
            index, bounds = self.place(nest, f.div(number, count))
            low = f.mul(f.rem(number, count), length)
            part = low, f.min(f.add(low, length), nest.extents[loop])
            at = f.address(nest.frame.workspace(offset), f.mul(number, each), "i8")
            rows = nest.rows_from(index, *bounds.get(self.layout.axis, (0, 0)), self.vectors)
            nest.reduce_part(rows, part, at)

        nest.f.loop(nest.frame.low, nest.frame.high, 1, reduce)
        nest.frame.done()

        joining = self.begin(groups, groups * parts // 8 + 1)
        total = joining.frame.size(parts)

        def join(row: Value, _: list[Value]) -> None:
            f = joining.f
            index, bounds = self.place(joining, row)
            base = f.address(joining.frame.workspace(offset), f.mul(f.mul(row, total), each), "i8")
            points = joining.rows_from(index, *bounds.get(self.layout.axis, (0, 0)), self.vectors)
            joining.join_parts(points, total, lambda i: f.address(base, f.mul(i, each), "i8"))

        joining.f.loop(joining.frame.low, joining.frame.high, 1, join)
        joining.frame.done()


def nominal(dim: Dim) -> int:
    """A likely value of a dimension."""
    return evaluate(dim, defaultdict(lambda: 64))


def region_cost(region: Region) -> Dim:
    """Nanoseconds that a region takes, roughly."""
    points = product([loop.extent for loop in region.loops])
    each = MEMORY_NS * (len(region.loads) + len(region.stores))
    each += MEMORY_NS * sum(node.op.kind == "reduce" for node in region.values)
    each += sum(pointwise.cost(node) for node in region.values if node.op.kind == "pointwise")
    return points * max(1, round(each * 64)) // 64 + 1


def operand(code: KernelCode, k: int) -> Strided:
    """Where the core's k-th operand lies: in a buffer that the kernel reads, or in memory, computed by a phase."""
    region = code.kernel.operands[k]
    if region.is_view:
        return viewed(region)
    shape = tuple([loop.extent for loop in region.loops])
    dtype = region.body.outputs[0].dtype
    place = code.derived(product(shape) * itemsize(dtype), k)
    array = place.array(row_major(shape), dtype)
    region_phase(code, region, into=array, prepares=place.is_kept)
    return array


def finish(code: KernelCode, k: int) -> None:
    """After the core's phases: what pointwise ops make of its k-th result, unless it is in place already."""
    region = code.kernel.results[k]
    if region.stores and not is_direct(region):
        region_phase(code, region, element=result(code, k))


def _joined(frame: Frame, bounds: Sequence[tuple[Int, Int]]) -> Sequence[tuple[Int, Int]]:
    """Bounds, the last two axes as one."""
    *outer, (low, high), (_, width) = bounds
    return [*outer, (frame.f.mul(low, width), frame.f.mul(high, width))]


def _of_joined(element: Element) -> Element:
    """The same elements, the last two axes as one, along which they are contiguous."""
    return element._replace(address=lambda index: element.address((*index[:-1], 0, index[-1])))


def block(frame: Frame, k: int, bounds: Sequence[tuple[Int, Int]], element: Element, *, joins: int = 1) -> None:
    """Inside a phase of the core: what pointwise ops make of its k-th result, over a box of points.

    Args:
        bounds: first and last (exclusive) index along each axis of the result.
        element: the core's element at an index.
        joins: of so many of the last axes, the box has all but the first whole, and elements are contiguous along all
            of them: they are then walked as one, as far as what the region loads and stores lies like that, too.
    """
    region = frame.code.kernel.results[k]
    if not region.stores:
        return
    for _ in range(joins - 1):
        joined = rows_joined(region)
        if joined is None:
            break
        region, bounds, element = joined, _joined(frame, bounds), _of_joined(element)
    nest = Nest(frame, region, element, whole=False)

    axis, across = nest.axis, nest.layout.across
    walked: dict[int | None, tuple[Int, Int]] = {k: at for k, at in enumerate(bounds) if k in (axis, across)}

    def over(loops: Sequence[int], index: dict[int, Int]) -> None:
        if not loops:
            nest.run(index, *walked.get(axis, (0, 0)), tile=walked.get(across, (0, 0)))
            return
        loop, *inner = loops
        frame.f.loop(*bounds[loop], 1, lambda i, _: over(inner, {**index, loop: i}))

    over([loop for loop in range(len(region.loops)) if loop not in walked], {})
