"""Regions as phases of a kernel, and what rooms for cores need of them: operands, results and epilogues.

The parallel loops of a region are numbered through as units of work; the vector loop, if it is parallel, is one unit a
block.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.dims import Dim, ceil_div, product
from graphc.kernel import Region
from graphc.passes.index_maps import row_major
from graphc.runtime.cpu import pointwise
from graphc.runtime.cpu.builder import Int, Value
from graphc.runtime.cpu.nest import COLUMNS, Element, Nest, Port, loading, shape_of, stored_in
from graphc.runtime.cpu.phases import Frame, KernelCode, Strided, itemsize
from graphc.runtime.cpu.row_passes import kept_bytes, passes_of
from graphc.types import TupleType

BLOCK = 4096  # elements of a parallel vector loop in one unit of work
MEMORY_NS = 0.1  # nanoseconds to read or write an element


def region_phase(code: KernelCode, region: Region, element: Strided | None = None, into: Strided | None = None) -> None:
    """A phase that computes a region at all of its points.

    Args:
        element: where the elements of the core's result lie, for a region that begins with one.
        into: where the one output of a region without stores goes.
    """
    ports = [loading(load, "float32") for load in region.loads] + [Port(array) for array in stored_in(region)]
    ports += [Port(into)] if into else []
    axis, lanes = shape_of(region, code.host, ports, by_element=element is not None)
    parallel = [k for k, loop in enumerate(region.loops) if not loop.reduce]
    reduces = len(parallel) < len(region.loops)
    kept = sum(len(current.kept) for current in passes_of(region))
    block = lanes * (1 if kept else COLUMNS) if reduces else BLOCK
    counts: list[Dim] = [
        ceil_div(region.loops[k].extent, block) if k == axis else region.loops[k].extent for k in parallel
    ]
    scratch = kept_bytes(region, lanes, by_row=axis is not None and region.loops[axis].reduce) * kept
    frame = code.phase(product(counts), region_cost(region), scratch)
    f = frame.f
    address = None if element is None else Element(lambda index: frame.at(element, index), element.dtype)
    nest = Nest(frame, region, address, into)
    sizes = frame.sizes(counts)

    def unit(u: Value, _: list[Value]) -> None:
        index: dict[int, Int] = {}
        left: Int = u
        for k, size in reversed(list(zip(parallel, sizes, strict=True))):
            is_first = k == parallel[0]
            index[k] = left if is_first else f.rem(left, size)
            left = left if is_first else f.div(left, size)
        if axis in index:
            low = f.mul(index.pop(axis), block)
            nest.run(index, low, f.min(f.add(low, block), nest.extents[axis]))
        else:
            nest.run(index, 0, 0)

    f.loop(frame.low, frame.high, 1, unit)
    frame.done()


def region_cost(region: Region) -> Dim:
    """Nanoseconds that a region takes, roughly."""
    points = product([loop.extent for loop in region.loops])
    each = MEMORY_NS * (len(region.loads) + len(region.stores))
    each += sum(pointwise.cost(node) if node.op.kind == "pointwise" else MEMORY_NS for node in region.values)
    return points * max(1, round(each * 64)) // 64 + 1


def operand(code: KernelCode, k: int) -> Strided:
    """Where the core's k-th operand lies: in a buffer that the kernel reads, or in workspace, computed by a phase."""
    region = code.kernel.operands[k]
    dtype = region.body.outputs[0].dtype
    if region.is_view:
        (load,) = region.loads
        assert load.read is not None
        return Strided("read", load.read, load.access.offset, load.access.strides, dtype)
    array = in_workspace(code, [loop.extent for loop in region.loops], dtype)
    region_phase(code, region, into=array)
    return array


def in_workspace(code: KernelCode, shape: Sequence[Dim], dtype: str) -> Strided:
    """A new row-major array in workspace."""
    offset = code.workspace(product(shape) * itemsize(dtype))
    return Strided("workspace", offset, 0, row_major(tuple(shape)), dtype)


def is_direct(region: Region) -> bool:
    """Whether the core may write its result where the region would store it: in one buffer, row-major, as it is."""
    if len(region.stores) != 1 or region.loads or region.body.outputs != region.body.inputs:
        return False
    access = region.stores[0].access
    extents = [loop.extent for loop in region.loops]
    wanted = row_major(tuple(extents))
    same = all(a == b or extent == 1 for a, b, extent in zip(access.strides, wanted, extents, strict=True))
    return access.offset == 0 and same


def result(code: KernelCode, k: int) -> Strided:
    """Where the core shall write its k-th result, row-major: the buffer that is wanted, or workspace."""
    region = code.kernel.results[k]
    core = code.kernel.core
    assert core is not None
    dtype = core.type.items[k].dtype if isinstance(core.type, TupleType) else core.dtype
    shape = tuple([loop.extent for loop in region.loops])
    if is_direct(region):
        return Strided("write", region.stores[0].write, 0, row_major(shape), dtype)
    found = code.results.get(k)
    if found is None:
        found = code.results[k] = in_workspace(code, shape, dtype)
    return found


def finish(code: KernelCode, k: int) -> None:
    """After the core's phases: what pointwise ops make of its k-th result, unless it is in place already."""
    region = code.kernel.results[k]
    if region.stores and not is_direct(region):
        region_phase(code, region, element=result(code, k))


def block(frame: Frame, k: int, bounds: Sequence[tuple[Int, Int]], element: Element) -> None:
    """Inside a phase of the core: what pointwise ops make of its k-th result, over a box of points.

    Args:
        bounds: first and last (exclusive) index along each axis of the result.
        element: the core's element at an index, contiguous along the last axis whose extent isn't 1.
    """
    region = frame.code.kernel.results[k]
    if not region.stores:
        return
    nest = Nest(frame, region, element)

    def over(loops: Sequence[int], index: dict[int, Int]) -> None:
        if len(loops) <= 1:
            nest.run(index, *(bounds[loops[0]] if loops else (0, 0)))
            return
        loop, *inner = loops
        frame.f.loop(*bounds[loop], 1, lambda i, _: over(inner, {**index, loop: i}))

    over(sorted(range(len(region.loops)), key=lambda loop: loop == nest.axis), {})
