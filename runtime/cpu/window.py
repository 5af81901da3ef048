"""Pooling: rows of windows as vectors, for any number of spatial axes.

Each lane has a window of its own; along the last axis it meets elements that lie `stride` apart. Blocks of windows that
lie inside the data read without asking; at the edges every lane asks whether its element is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from graphc.dims import Dim, product
from graphc.op import Op
from graphc.ops import pooling
from graphc.ops.reduce import reduce_max
from graphc.ops.windows import span
from graphc.runtime.cpu import lanes as regions
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.elements import is_signed, load_lanes, store_lanes, to_memory
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.pointwise import HALVES
from graphc.runtime.cpu.reductions import REDUCTIONS
from graphc.runtime.cpu.rows import columns, fitting, nest, units
from graphc.runtime.cpu.values import I64, MEMORY_TYPE, Int, Value, constant, element_of, lanes_of, vector, with_element
from graphc.runtime.strided import Strided, itemsize

WRITTEN = 8  # elements of a window along the last axis that are written one after the other
TAPS_PER_NS = 8  # elements of windows that are met in a nanosecond
MAX_I32 = 1 << 30  # elements up to which positions are counted in 32 bits


class WindowAxis(NamedTuple):
    """The windows along one spatial axis.

    Attributes:
        windows: how many there are.
        inside, padded: whether no window ever reaches beyond the data, or beyond its padding.
    """

    size: Int
    kernel: Int
    stride: Int
    before: int
    after: int
    dilation: int
    windows: Int
    inside: bool
    padded: bool

    def start(self, f: Function, window: Int) -> Int:
        """Where a window begins."""
        return f.sub(f.mul(window, self.stride), self.before)

    def reach(self, f: Function) -> Int:
        """From the first element of a window to its last."""
        return f.mul(f.sub(self.kernel, 1), self.dilation)

    def taps(self, f: Function, start: Int, low: Int, high: Int) -> tuple[Int, Int]:
        """First and last (exclusive) position in a window from `start` on that lies in [low, high)."""
        first, last = [_ceil_div(f, f.max(f.sub(end, start), 0), self.dilation) for end in (low, high)]
        return first, f.min(last, self.kernel)

    def met(self, f: Function, start: Int) -> tuple[Int, Int]:
        """Those that lie in the data."""
        return (0, self.kernel) if self.inside else self.taps(f, start, 0, self.size)


def window_axes(
    frame: Frame, spatial: Sequence[Dim], counts: Sequence[Dim], attrs: Mapping[str, Any]
) -> list[WindowAxis]:
    """The windows along each axis of data of some sizes, of which there are so many."""
    per_axis = zip(spatial, *[attrs[name] for name in ("kernel", "stride", "padding", "dilation")], counts, strict=True)
    found = []
    for size, kernel, stride, (before, after), dilation, count in per_axis:
        room = size + before - ((count - 1) * stride + span(kernel, dilation))  # what the last window leaves over
        fits = room >= 0 if isinstance(room, int) else after == 0 and not attrs["ceil_mode"]
        padded = room + after >= 0 if isinstance(room, int) else not attrs["ceil_mode"]
        known, windows = [frame.size(dim) for dim in (size, kernel, stride)], frame.size(count)
        inside = before == 0 and fits
        found.append(WindowAxis(known[0], known[1], known[2], before, after, dilation, windows, inside, padded))
    return found


def _ceil_div(f: Function, a: Int, b: Int) -> Int:
    """a / b rounded up, of what is not negative."""
    return f.div(f.add(a, f.sub(b, 1)), b)


def computed_type(dtype: str) -> str:
    """The type that pooling computes in: 16-bit floats as float32, and bools as bytes."""
    return "float" if dtype in HALVES else MEMORY_TYPE[dtype]


# ---------------------------------------------------------------------------------------------- what windows make


class Tap(NamedTuple):
    """One element of each window of a block.

    Attributes:
        present: the lanes where it exists; None for all.
        place: its position in the flattened plane.
    """

    value: Value
    present: Value | None
    place: Callable[[], Value]


class Rule(NamedTuple):
    """What becomes of the elements of a window.

    Attributes:
        start: the values that are carried from element to element, of a vector type and a type of positions.
        join: those values with one element more.
    """

    start: Callable[[str, str, bool], list[Value]]
    join: Callable[[Function, list[Value], Tap, bool], list[Value]]


def _lowest(type: str, signed: bool) -> Value:
    return REDUCTIONS[reduce_max].start(type, signed)


def _maximum(f: Function, best: list[Value], tap: Tap, signed: bool) -> list[Value]:
    value = tap.value
    if tap.present is not None:
        value = f.select(tap.present, value, _lowest(value.type, signed))
    return REDUCTIONS[reduce_max].join(f, best, [value], signed)


def _first_maximum(f: Function, best: list[Value], tap: Tap, signed: bool) -> list[Value]:
    """The greater of two and its place; of equal ones the first, and a nan before all."""
    value, place = best
    if element_of(value.type) in ("float", "double"):
        better = f.compare("fcmp ogt", tap.value, value)
        better = f.binary("or", better, f.compare("fcmp uno", tap.value, tap.value))
    else:
        better = f.compare("icmp sgt" if signed else "icmp ugt", tap.value, value)
    better = f.binary("or", better, f.compare("icmp slt", place, constant(place.type, 0)))
    if tap.present is not None:
        better = f.binary("and", better, tap.present)
    return [f.select(better, tap.value, value), f.select(better, tap.place(), place)]


def _sum(f: Function, total: list[Value], tap: Tap, signed: bool) -> list[Value]:
    value = tap.value
    if tap.present is not None:
        value = f.select(tap.present, value, constant(value.type, 0))
    return [f.binary("fadd", total[0], value)]


RULES: Mapping[Op, Rule] = {
    pooling.max_pool_op: Rule(lambda type, place, signed: [_lowest(type, signed)], _maximum),
    pooling.max_pool_indices: Rule(
        lambda type, place, signed: [_lowest(type, signed), constant(place, -1)], _first_maximum
    ),
    pooling.avg_pool_op: Rule(lambda type, place, signed: [constant(type, 0)], _sum),
}


# ---------------------------------------------------------------------------------------------- elements of windows


def positions(f: Function, first: Int, stride: Int, type: str, lanes: int) -> Value:
    """`first` and what follows at a stride, one a lane."""
    steps = f.binary("mul", f.counter(lanes, type), splat(f, stride, type, lanes))
    return f.binary("add", splat(f, first, type, lanes), steps)


def splat(f: Function, number: Int, type: str, lanes: int) -> Value:
    """An integer in every lane, as another type of integers."""
    if isinstance(number, int):
        return constant(vector(type, lanes), number)
    return f.splat(f.convert("trunc", number, type), lanes)


def _place_type(spatial: Sequence[Dim]) -> str:
    """The type that holds every position in a plane."""
    plane = product(spatial)
    return "i32" if isinstance(plane, int) and plane < MAX_I32 else I64


class _Row(NamedTuple):
    """Where a row of the data lies.

    Attributes:
        address: of its first element.
        step: from an element to the next.
        place: of its first element in the flattened plane.
    """

    address: Value
    step: Int
    place: Int


class _Taps:
    """The elements that neighbouring windows meet in one row of the data.

    Args:
        first: the first of the windows along the axis.
        edge: whether some may not exist, or reach beyond the data.
        place: the type of positions.
    """

    def __init__(
        self, f: Function, axis: WindowAxis, row: _Row, dtype: str, first: Int, lanes: int, edge: bool, place: str
    ) -> None:
        self.f, self.axis, self.row, self.dtype, self.lanes = f, axis, row, dtype, lanes
        self.start, self.edge, self.place_type = axis.start(f, first), edge, place
        self._halves: dict[int, Value] = {}

    def __call__(self, j: Int) -> Tap:
        """The j-th element of each window."""
        f, axis, step = self.f, self.axis, self.row.step
        column = f.add(self.start, f.mul(j, axis.dilation))
        present = self._present(column, axis.stride)
        if isinstance(j, int) and axis.stride == 2 and step == 1:
            value = self._second(j)
        else:
            value = self._load(column, f.mul(axis.stride, step), present)
        return Tap(value, present, lambda: self._positions(f.add(self.row.place, column), axis.stride))

    def _positions(self, first: Int, stride: Int) -> Value:
        return positions(self.f, first, stride, self.place_type, self.lanes)

    def _present(self, column: Int, stride: Int) -> Value | None:
        if not self.edge:
            return None
        size = splat(self.f, self.axis.size, self.place_type, self.lanes)
        return self.f.compare("icmp ult", self._positions(column, stride), size)

    def _load(self, column: Int, stride: Int, mask: Value | None) -> Value:
        f = self.f
        at = f.address(self.row.address, f.mul(column, self.row.step), MEMORY_TYPE[self.dtype])
        value = load_lanes(f, self.dtype, at, stride, self.lanes, mask)
        return f.convert("fpext", value, with_element(value.type, "float")) if self.dtype in HALVES else value

    def _second(self, j: int) -> Value:
        """The j-th element at stride 2: every second one of two vectors, which hold the next element, too."""
        kernel, dilation = self.axis.kernel, self.axis.dilation
        odd = j % 2 if dilation == 1 else 0
        has_next = dilation == 1 and (isinstance(kernel, Value) or j - odd + 1 < kernel)
        low, high = [self._half((j - odd) * dilation + k * self.lanes, has_next or k == 0) for k in range(2)]
        return self.f.shuffle(low, high, range(odd, 2 * self.lanes, 2))

    def _half(self, offset: int, whole: bool) -> Value:
        """A vector of neighbours; unless it is `whole`, its last lane may not be there."""
        if offset not in self._halves:
            column = self.f.add(self.start, offset)
            mask = self._present(column, 1)
            if mask is None and not whole:
                mask = self.f.mask(self.lanes - 1, self.lanes)
            self._halves[offset] = self._load(column, 1, mask)
        return self._halves[offset]


def pool(code: KernelCode) -> bool:
    """Pooling of x[N, C, *spatial]: one unit of work is one row of windows."""
    core = code.kernel.core
    assert core is not None
    x, y = regions.operand(code, 0), regions.result(code, 0)
    spatial, shape, attrs = core.inputs[0].shape[2:], core.shape, core.attrs
    lanes = fitting(shape[-1], code.host.lanes(max(4, itemsize(x.dtype))), least=2)
    frame = code.phase(product(shape[:-1]), pooling_cost(shape, attrs["kernel"]))
    f, rule, signed = frame.f, RULES[core.op], is_signed(x.dtype)
    axes = window_axes(frame, spatial, shape[2:], attrs)
    *outer, last = axes
    place = _place_type(spatial)
    type = vector(computed_type(x.dtype), lanes)
    sizes = frame.sizes(spatial)
    mean = Mean(f, axes, attrs["count_include_pad"], type, place) if core.op is pooling.avg_pool_op else None

    def row_of(lead: Sequence[Int], index: Sequence[Int]) -> _Row:
        flat: Int = 0
        for i, size in zip(index, sizes, strict=False):
            flat = f.add(f.mul(flat, size), i)
        return _Row(frame.at(x, [*lead, *index]), frame.size(x.strides[-1]), f.mul(flat, sizes[-1]))

    def block(lead: list[Int], windows: list[Int], first: Int, edge: bool) -> None:
        starts = [axis.start(f, window) for axis, window in zip(outer, windows, strict=True)]

        def row(taps: list[Int], carried: list[Value]) -> Sequence[Value]:
            index = [f.add(start, f.mul(j, axis.dilation)) for axis, start, j in zip(outer, starts, taps, strict=True)]
            met = _Taps(f, last, row_of(lead, index), x.dtype, first, lanes, edge, place)
            return nest(f, [(0, last.kernel)], lambda j, now: rule.join(f, now, met(*j), signed), carried, WRITTEN)

        bounds = [axis.met(f, start) for axis, start in zip(outer, starts, strict=True)]
        found = nest(f, bounds, row, rule.start(type, vector(place, lanes), signed))[-1]
        if mean is not None:
            found = mean.beside(mean.over(found, starts), first)
        if core.op is pooling.max_pool_indices:
            found = f.intrinsic("smax", found, constant(found.type, 0))
            found = f.convert("sext", found, vector(I64, lanes))
        mask = f.mask(f.min(f.sub(last.windows, first), lanes), lanes) if edge else None
        value = found if y.dtype == "bool" else to_memory(f, found, y.dtype)
        f.store(value, frame.at(y, [*lead, *windows, first]), itemsize(y.dtype), mask)

    def unit(index: list[Int]) -> None:
        lead, windows = index[:2], index[2:]
        _blocks(f, last, lanes, lambda first, edge: block(lead, windows, first, edge))

    units(frame, shape[:-1], unit)
    frame.done()
    regions.finish(code, 0)
    return True


def _blocks(f: Function, axis: WindowAxis, lanes: int, body: Callable[[Int, bool], None]) -> None:
    """Go along the windows of a row in blocks, and tell of each whether all of it exists and lies in the data."""
    if axis.inside:
        columns(f, axis.windows, lanes, lambda first, mask: body(first, mask is not None))
        return
    reach = f.add(f.mul(lanes - 1, axis.stride), axis.reach(f))

    def block(first: Int) -> None:
        start = axis.start(f, first)
        inner = f.binary(
            "and",
            f.is_less(f.add(first, lanes - 1), axis.windows),
            f.binary("and", f.is_less(-1, start), f.is_less(f.add(start, reach), axis.size)),
        )
        f.if_(inner, lambda: body(first, False), lambda: body(first, True))

    f.loop(0, axis.windows, lanes, lambda first, _: block(first))


# ---------------------------------------------------------------------------------------------- means


class Mean:
    """Divides the sums of neighbouring windows by how many elements they count.

    Attributes:
        type: of the sums.
        place: the type of positions.
        same: whether all windows count as many.
    """

    def __init__(self, f: Function, axes: Sequence[WindowAxis], include_pad: bool, type: str, place: str) -> None:
        self.f, self.axes, self.type, self.place = f, axes, type, place
        self.include_pad = include_pad
        self.same = all(axis.inside or (include_pad and axis.padded) for axis in axes)

    def over(self, total: Value, starts: Sequence[Int]) -> Value:
        """Divided by what windows count that begin at `starts` on the outer axes, unless all count as many."""
        f = self.f
        for axis, start in zip(self.axes, [] if self.same else starts, strict=False):
            first, last = axis.taps(f, start, *self._counted(axis))
            count = self._float(f.max(f.sub(last, first), 0))
            total = f.binary("fdiv", total, f.splat(count, lanes_of(self.type)))
        return total

    def beside(self, total: Value, first: Int) -> Value:
        """Divided by what they count on the last axis, from window `first` on; or in all, if all count as many."""
        f = self.f
        if not self.same:
            return f.binary("fdiv", total, self._beside(first))
        number: Int = 1
        for axis in self.axes:
            number = f.mul(number, axis.kernel)
        return f.binary("fdiv", total, f.splat(self._float(number), lanes_of(self.type)))

    def _counted(self, axis: WindowAxis) -> tuple[Int, Int]:
        """The first and last (exclusive) position that counts."""
        return (-axis.before, self.f.add(axis.size, axis.after)) if self.include_pad else (0, axis.size)

    def _float(self, number: Int) -> Value:
        element = element_of(self.type)
        return constant(element, number) if isinstance(number, int) else self.f.convert("sitofp", number, element)

    def _beside(self, first: Int) -> Value:
        """How many elements of the last axis neighbouring windows count."""
        f, axis, lanes = self.f, self.axes[-1], lanes_of(self.type)
        low, high = self._counted(axis)
        room = splat(f, f.sub(high, low), self.place, lanes)

        def count(index: list[Int], carried: list[Value]) -> list[Value]:
            at = f.sub(f.add(axis.start(f, first), f.mul(index[0], axis.dilation)), low)
            met = f.compare("icmp ult", positions(f, at, axis.stride, self.place, lanes), room)
            return [f.binary("add", carried[0], f.convert("zext", met, room.type))]

        counts = nest(f, [(0, axis.kernel)], count, [constant(room.type, 0)], WRITTEN)
        return f.convert("sitofp", counts[0], self.type)


def pooling_cost(shape: Sequence[Dim], kernel: Sequence[Dim]) -> Dim:
    """Nanoseconds that one core needs to meet every element of every window, roughly."""
    return product(shape) * product(kernel) // TAPS_PER_NS + 1


# ---------------------------------------------------------------------------------------------- the adjoint of the mean


def _spread(code: KernelCode) -> bool:
    """The adjoint of the mean: each element adds up what the windows that meet it send; a unit of work is one row.

    First the windows above each other, which lie in rows of g; the sums go into scratch, as far apart as the windows
    are, with zeros between them. Then each element adds the sums that lie behind it at the distances of a window.
    """
    core = code.kernel.core
    assert core is not None
    g, x = regions.operand(code, 0), regions.result(code, 0)
    shape, attrs = core.shape, core.attrs
    counts = core.inputs[0].shape[2:]
    element = computed_type(x.dtype)
    wide = vector(element, code.host.lanes(max(4, itemsize(x.dtype))))
    narrow = vector(element, fitting(counts[-1], lanes_of(wide), least=2))
    margin = attrs["padding"][-1][0] + span(attrs["kernel"][-1], attrs["dilation"][-1])
    room = margin + (counts[-1] - 1) * attrs["stride"][-1] + 1 + shape[-1] + lanes_of(wide)
    frame = code.phase(product(shape[:-1]), pooling_cost(shape, attrs["kernel"]), room * max(4, itemsize(x.dtype)))
    f = frame.f
    axes = window_axes(frame, shape[2:], counts, attrs)
    mean = Mean(f, axes, attrs["count_include_pad"], narrow, _place_type(shape[2:]))
    spreading = _Spreading(frame, g, x, axes, mean, frame.size(margin), wide)

    def unit(at: list[Int]) -> None:
        columns(f, axes[-1].windows, lanes_of(narrow), lambda first, mask: spreading.add_above(at, first, mask))
        row = frame.at(x, at)
        columns(f, axes[-1].size, lanes_of(wide), lambda first, mask: spreading.add_along(row, first, mask))

    spreading.clear(frame.size(room))
    units(frame, shape[:-1], unit)
    frame.done()
    regions.finish(code, 0)
    return True


class _Spreading:
    """What adds up the windows that meet the elements of a row.

    Attributes:
        margin: where in scratch the sum of a window lies that begins with the row.
        wide: the type of neighbouring elements; `mean` has that of neighbouring windows.
    """

    def __init__(
        self, frame: Frame, g: Strided, x: Strided, axes: Sequence[WindowAxis], mean: Mean, margin: Int, wide: str
    ) -> None:
        self.frame, self.f, self.g, self.x, self.mean, self.margin, self.wide = frame, frame.f, g, x, mean, margin, wide
        self.outer, self.last = axes[:-1], axes[-1]
        self.element = element_of(wide)
        self.align = max(4, itemsize(x.dtype))

    def sums(self, at: Int) -> Value:
        """The address of a place in scratch."""
        return self.f.address(self.frame.scratch, at, self.element)

    def clear(self, room: Int) -> None:
        """Fill scratch with zeros."""
        zeros = constant(self.wide, 0)
        columns(
            self.f, room, lanes_of(self.wide), lambda at, mask: self.f.store(zeros, self.sums(at), self.align, mask)
        )

    def add_above(self, at: Sequence[Int], first: Int, mask: Value | None) -> None:
        """Add up, for neighbouring windows, those above each other that meet the row at `at`; into scratch."""
        f, type = self.f, self.mean.type
        lead, index = at[:2], at[2:]

        def window(windows: list[Int], carried: list[Value]) -> list[Value]:
            where, step = self.frame.at(self.g, [*lead, *windows, first]), self.frame.size(self.g.strides[-1])
            value = load_lanes(f, self.g.dtype, where, step, lanes_of(type), mask)
            value = f.convert("fpext", value, type) if self.g.dtype in HALVES else value
            starts = [axis.start(f, w) for axis, w in zip(self.outer, windows, strict=True)]
            value = self.mean.over(value, starts)
            offsets = [f.sub(i, start) for i, start in zip(index, starts, strict=True)]
            return _if_met(f, self.outer, offsets, value, carried)

        bounds = [_windows_over(f, axis, i) for axis, i in zip(self.outer, index, strict=True)]
        total = nest(f, bounds, window, [constant(type, 0)])[0]
        place = self.sums(f.add(self.last.start(f, first), self.margin))
        store_lanes(f, self.mean.beside(total, first), place, self.last.stride, self.align, mask)

    def add_along(self, row: Value, first: Int, mask: Value | None) -> None:
        """Add up, for neighbouring elements of a row, the sums in scratch that meet them; into the row."""
        f, dtype = self.f, self.x.dtype

        def tap(j: list[Int], carried: list[Value]) -> list[Value]:
            behind = f.sub(f.add(first, self.margin), f.mul(j[0], self.last.dilation))
            return [f.binary("fadd", carried[0], f.load(self.wide, self.sums(behind), self.align))]

        total = nest(f, [(0, self.last.kernel)], tap, [constant(self.wide, 0)], WRITTEN)[0]
        f.store(to_memory(f, total, dtype), f.address(row, first, MEMORY_TYPE[dtype]), itemsize(dtype), mask)


def _windows_over(f: Function, axis: WindowAxis, i: Int) -> tuple[Int, Int]:
    """First and last (exclusive) window along an axis that may meet element i."""
    past = f.add(i, axis.before)
    first = _ceil_div(f, f.max(f.sub(past, axis.reach(f)), 0), axis.stride)
    return first, f.min(f.add(f.div(past, axis.stride), 1), axis.windows)


def _if_met(
    f: Function, axes: Sequence[WindowAxis], offsets: Sequence[Int], value: Value, carried: list[Value]
) -> list[Value]:
    """The sum with `value`, if the element at these offsets into a window isn't skipped by a dilation."""
    for axis, offset in zip(axes, offsets, strict=True):
        if axis.dilation != 1:
            met = f.compare("icmp eq", f.i64(f.rem(offset, axis.dilation)), constant(I64, 0))
            value = f.select(f.splat(met, lanes_of(value.type)), value, constant(value.type, 0))
    return [f.binary("fadd", carried[0], value)]


CORES: Mapping[Op, Callable[[KernelCode], bool]] = {
    **dict.fromkeys(RULES, pool),
    pooling.avg_pool_input_grad: _spread,
}
