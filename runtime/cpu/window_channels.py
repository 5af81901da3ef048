"""Pooling of images whose channels lie together: channels lie in the lanes of vectors, so all lanes share a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.dims import product
from graphc.op import Op
from graphc.ops import pooling
from graphc.runtime.cpu import lanes as regions
from graphc.runtime.cpu import window
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.elements import Element, is_signed, load_lanes, to_memory
from graphc.runtime.cpu.phases import KernelCode
from graphc.runtime.cpu.pointwise import HALVES
from graphc.runtime.cpu.rows import columns, fitting, nest, units
from graphc.runtime.cpu.values import MEMORY_TYPE, Int, Value, vector, with_element
from graphc.runtime.cpu.window import RULES, WRITTEN, Mean, Tap, WindowAxis, computed_type, window_axes
from graphc.runtime.regions import viewed
from graphc.runtime.strided import Strided, itemsize


def pool(code: KernelCode) -> bool:
    """Pooling of x[N, C, *spatial], however that lies."""
    region = code.kernel.operands[0]
    x = viewed(region) if region.is_view else None
    if x is None or x.strides[1] != 1 or region.loops[1].extent == 1:
        return window.pool(code)
    _pool(code, x)
    return True


def _pool(code: KernelCode, x: Strided) -> None:
    """One unit of work is one row of windows: of all channels into scratch, and from there where they are wanted."""
    core = code.kernel.core
    assert core is not None
    shape, attrs, dtype = core.shape, core.attrs, core.dtype
    channels, width = shape[1], shape[-1]
    rows = (shape[0], *shape[2:-1])
    cost = window.pooling_cost(shape, attrs["kernel"])
    frame = code.phase(product(rows), cost, width * channels * itemsize(dtype))
    f, rule, signed = frame.f, RULES[core.op], is_signed(dtype)
    axes = window_axes(frame, core.inputs[0].shape[2:], shape[2:], attrs)
    lanes = fitting(channels, code.host.lanes(max(4, itemsize(dtype))))
    type, memory, count = vector(computed_type(dtype), lanes), MEMORY_TYPE[dtype], frame.size(channels)
    mean = Mean(f, axes, attrs["count_include_pad"], type, "i32") if core.op is pooling.avg_pool_op else None

    def vector_of(
        n: Int, starts: Sequence[Int], bounds: Sequence[tuple[Int, Int]], c: Int, mask: Value | None
    ) -> Value:
        def tap(taps: list[Int], carried: list[Value]) -> Sequence[Value]:
            index = [f.add(start, f.mul(j, axis.dilation)) for axis, start, j in zip(axes, starts, taps, strict=True)]
            value = load_lanes(f, dtype, frame.at(x, [n, c, *index]), 1, lanes, mask)
            value = f.convert("fpext", value, with_element(value.type, "float")) if dtype in HALVES else value
            return rule.join(f, carried, Tap(value, None, lambda: value), signed)

        (found,) = nest(f, bounds, tap, rule.start(type, type, signed), WRITTEN)
        if mean is not None:
            found = mean.beside(found, 0) if mean.same else mean.over(found, starts)
        return found if dtype == "bool" else to_memory(f, found, dtype)

    def one_window(n: Int, outer: Sequence[Int], w: Value) -> None:
        starts = [axis.start(f, i) for axis, i in zip(axes, (*outer, w), strict=True)]

        def over(bounds: Sequence[tuple[Int, Int]]) -> None:
            def some(c: Int, mask: Value | None) -> None:
                at = f.address(frame.scratch, f.add(f.mul(w, count), c), memory)
                f.store(vector_of(n, starts, bounds, c, mask), at, itemsize(dtype), mask)

            columns(f, count, lanes, some)

        whole = [(0, axis.kernel) for axis in axes]
        inside = _inside(f, axes, starts)
        if inside is None:
            over(whole)
        else:
            f.if_(inside, lambda: over(whole), lambda: over([a.met(f, s) for a, s in zip(axes, starts, strict=True)]))

    def unit(index: list[Int]) -> None:
        n, *outer = index
        f.loop(0, axes[-1].windows, 1, lambda w, _: one_window(n, outer, w))
        bounds = [(i, f.add(i, 1)) for i in index]
        box = [bounds[0], (0, count), *bounds[1:], (0, axes[-1].windows)]

        def element(at: Sequence[Int]) -> Value:
            return f.address(frame.scratch, f.add(f.mul(at[-1], count), at[1]), memory)

        regions.block(frame, 0, box, Element(element, dtype, axis=1, across=-1))

    units(frame, rows, unit)
    frame.done()


def _inside(f: Function, axes: Sequence[WindowAxis], starts: Sequence[Int]) -> Value | None:
    """Whether a window lies in the data; None if every one does."""
    found: Value | None = None
    for axis, start in zip(axes, starts, strict=True):
        if not axis.inside:
            ends = f.is_less(-1, start), f.is_less(f.add(start, axis.reach(f)), axis.size)
            here = f.binary("and", *ends)
            found = here if found is None else f.binary("and", found, here)
    return found


CORES: Mapping[Op, Callable[[KernelCode], bool]] = dict.fromkeys((pooling.max_pool_op, pooling.avg_pool_op), pool)
