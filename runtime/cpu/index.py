"""Gathers and scatters: rows of elements at indices, after a phase that makes sure that the indices are in range.

An index that only counts along an axis of the indices (as in `take_along_axis`) is never stored. In a scatter, every
unit of work owns what it adds to: the slices that such counters tell apart, and columns of those axes that aren't
indexed. Or, of much data, rows whose updates a phase has listed, so that memory is gone through once. So each element
adds up its updates in their order, however the units are divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphc.dims import Dim, ceil_div, product
from graphc.ir import Node
from graphc.kernel import Access
from graphc.op import Op
from graphc.ops.indexing import gather_op, scatter_add_op
from graphc.passes.lower import collapsed
from graphc.runtime.cpu import lanes as regions
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.elements import Element, from_memory, is_signed, load_lanes, to_memory
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.pointwise import FLOATS, HALVES, REGISTER_TYPE
from graphc.runtime.cpu.rows import Number, columns, fitting, nest, operand_or_number, sweep, units, unravelled
from graphc.runtime.cpu.values import I64, MEMORY_TYPE, Int, Value, constant, element_of, lanes_of, vector
from graphc.runtime.indices import Indices, indices_of
from graphc.runtime.regions import is_direct
from graphc.runtime.strided import Strided, itemsize

CHECKED = 4096  # indices that one unit of work checks
FLIGHT = 16  # vectors of columns that a unit of a scatter owns: rows in one piece, if they aren't longer
FLIGHT_OF_MANY = 8  # where there are many updates, or much data, to divide
MANY = 1 << 20  # elements
ROW_NS = 3  # nanoseconds to begin with a row that lies anywhere
ELEMENT_NS = 2  # and to read an element that does
LISTED = 1 << 17  # elements of data from which the updates of many are listed by row, and of a row
LISTED_ROW = 64
NONE = -1  # behind the last update of a list
LINE = 1024  # elements of their own indices that a unit of work takes, at most


@dataclass(frozen=True)
class _Indices(Indices):
    """The indices of a kernel in memory.

    Attributes:
        arrays: where those lie that don't only count.
    """

    arrays: Mapping[int, Strided]


def _indices(code: KernelCode, first: int) -> _Indices:
    """The operands from `first` on, which are indices."""
    found = indices_of(code.kernel, first)
    arrays = {axis: regions.operand(code, k) for axis, k in found.operands.items()}
    return _Indices(found.axes, found.shape, found.along, found.operands, arrays)


# ---------------------------------------------------------------------------------------------- the range of indices


def _as_i64(f: Function, value: Value, dtype: str) -> Value:
    return f.convert("sext" if is_signed(dtype) else "zext", value, vector(I64, lanes_of(value.type)))


def _check(code: KernelCode, array: Strided, shape: Sequence[Dim], size: Dim) -> None:
    """A phase that fails unless all elements are indices of `size` elements."""
    several = [k for k, extent in enumerate(shape) if extent != 1]
    loops, (lies,) = collapsed(several, shape, (), [Access(array.offset, array.strides)])
    *outer, last = [loop.extent for loop in loops] or [1]
    array = array._replace(strides=lies.strides or (0,))
    blocks = ceil_div(last, CHECKED)
    frame = code.phase(product(outer) * blocks, product(shape) // 4 + 1)
    f, lanes = frame.f, fitting(last, code.host.lanes(8))
    low, count = f.i64(f.sub(0, frame.size(size))), f.mul(frame.size(size), 2)
    wrong = f.stack(I64)
    f.store(constant(I64, 0), wrong, 8)

    def unit(index: list[Int]) -> None:
        at = f.mul(index[-1], CHECKED)
        row, step = frame.at(array, [*index[:-1], at]), frame.size(array.strides[-1])

        def look(column: Int, mask: Value | None, carried: list[Value]) -> list[Value]:
            where = f.address(row, f.mul(column, step), MEMORY_TYPE[array.dtype])
            found = _as_i64(f, load_lanes(f, array.dtype, where, step, lanes, mask), array.dtype)
            return [f.intrinsic("umax", carried[0], f.binary("sub", found, f.splat(low, lanes)))]

        width = f.min(f.sub(frame.size(last), at), CHECKED)
        (worst,) = sweep(f, width, lanes, look, [constant(vector(I64, lanes), 0)])
        if lanes > 1:
            worst = f.intrinsic("vector.reduce.umax", worst, result=I64)
        is_wrong = f.convert("zext", f.compare("icmp uge", worst, f.i64(count)), I64)
        f.store(f.binary("or", f.load(I64, wrong, 8), is_wrong), wrong, 8)

    units(frame, [*outer, blocks], unit)
    f.ret(f.load(I64, wrong, 8))


def _check_all(code: KernelCode, core: Node, indices: _Indices) -> None:
    for axis, array in indices.arrays.items():
        _check(code, array, indices.shape, core.inputs[0].shape[axis])


def _place(f: Function, index: Value, size: Int, dtype: str) -> Value:
    """An index, which is in range, counted from the beginning."""
    found = _as_i64(f, index, dtype)
    lanes = lanes_of(found.type)
    if not is_signed(dtype):
        return found
    from_end = f.binary("add", found, f.splat(f.i64(size), lanes))
    return f.select(f.compare("icmp slt", found, constant(found.type, 0)), from_end, found)


class _Places:
    """Where the data lies that indices choose: offsets in elements of `x`, at points of the indices."""

    def __init__(self, frame: Frame, x: Strided, shape: Sequence[Dim], indices: _Indices) -> None:
        self.frame, self.f, self.x, self.shape, self.indices = frame, frame.f, x, shape, indices

    def offset(self, point: Sequence[Int]) -> Int:
        """Of one point."""
        total: Int = 0
        for axis, along in self.indices.along.items():
            total = self.f.add(total, self.f.mul(point[along], self.frame.size(self.x.strides[axis])))
        for axis, array in self.indices.arrays.items():
            index = self.f.load(MEMORY_TYPE[array.dtype], self.frame.at(array, point), itemsize(array.dtype))
            total = self.f.add(total, self._scaled(axis, _place(self.f, index, self._size(axis), array.dtype)))
        return total

    def offsets(self, point: Sequence[Int], line: int, lanes: int, mask: Value | None) -> Value:
        """Of neighbours along an axis of the indices, from a point on."""
        f = self.f
        total = constant(vector(I64, lanes), 0)
        for axis, along in self.indices.along.items():
            counter = f.splat(f.i64(point[along]), lanes)
            counter = f.binary("add", counter, f.counter(lanes)) if along == line else counter
            total = f.binary("add", total, self._scaled(axis, counter))
        for axis, array in self.indices.arrays.items():
            step = self.frame.size(array.strides[line])
            index = load_lanes(f, array.dtype, self.frame.at(array, point), step, lanes, mask)
            place = _place(f, index, self._size(axis), array.dtype)
            total = f.binary("add", total, self._scaled(axis, place))
        return total

    def _size(self, axis: int) -> Int:
        return self.frame.size(self.shape[axis])

    def _scaled(self, axis: int, place: Value) -> Value:
        stride = self.frame.size(self.x.strides[axis])
        return self.f.binary("mul", place, self.f.splat(self.f.i64(stride), lanes_of(place.type)))


# ---------------------------------------------------------------------------------------------- gather


def _gather(code: KernelCode) -> bool:
    """Rows of the data are taken as vectors where the last axis isn't indexed; else each lane has its own index."""
    core = code.kernel.core
    assert core is not None
    indices, x = _indices(code, 1), regions.operand(code, 0)
    _check_all(code, core, indices)
    (_gather_rows if indices.result_axes(core.inputs[0].ndim)[1] else _gather_elements)(code, core, x, indices)
    return True


def _gather_rows(code: KernelCode, core: Node, x: Strided, indices: _Indices) -> None:
    """A unit is a row of the result."""
    shape, rank = core.shape, len(indices.shape)
    before, after = indices.result_axes(core.inputs[0].ndim)
    is_read = x.strides[after[-1]] == 1 and not is_direct(code.kernel.results[0])
    y = None if is_read else regions.result(code, 0)
    frame = code.phase(product(shape[:-1]), product(shape) // 8 + product(shape[:-1]) * ROW_NS + 1)
    f, places = frame.f, _Places(frame, x, core.inputs[0].shape, indices)
    memory = MEMORY_TYPE[x.dtype]

    def unit(index: list[Int]) -> None:
        index = [*index, 0]
        rest = [*zip(before, index, strict=False), *zip(after, index[len(before) + rank :], strict=True)]
        start = f.add(_start(frame, x, rest), places.offset(index[len(before) : len(before) + rank]))
        base = f.address(frame.base(x), start, memory)
        if y is None:  # what follows reads the row where it lies
            row = Element(lambda at: f.address(base, at[-1], memory), x.dtype)
            regions.block(frame, 0, [*[(i, f.add(i, 1)) for i in index[:-1]], (0, frame.size(shape[-1]))], row)
        else:
            _copy_row(frame, x._replace(strides=(x.strides[after[-1]],)), base, frame.at(y, index), shape[-1])

    units(frame, shape[:-1], unit)
    frame.done()
    if y is not None:
        regions.finish(code, 0)


def _start(frame: Frame, x: Strided, index: Iterable[tuple[int, Int]]) -> Int:
    """The offset of an element of `x` at an index of some axes, and 0 of the others."""
    start = frame.size(x.offset)
    for axis, i in index:
        start = frame.f.add(start, frame.f.mul(i, frame.size(x.strides[axis])))
    return start


def _gather_elements(code: KernelCode, core: Node, x: Strided, indices: _Indices) -> None:
    """A unit is a part of a line of the indices, along the last axis of theirs that has more than one element."""
    y, shape = regions.result(code, 0), core.shape
    before, _ = indices.result_axes(core.inputs[0].ndim)
    line = max((k for k, size in enumerate(indices.shape) if size != 1), default=len(indices.shape) - 1)
    outer, along = shape[: len(before) + max(line, 0)], indices.shape[line] if indices.shape else 1
    frame = code.phase(product(outer) * ceil_div(along, LINE), product(shape) * ELEMENT_NS + 1)
    f, places = frame.f, _Places(frame, x, core.inputs[0].shape, indices)
    memory, align = MEMORY_TYPE[x.dtype], itemsize(x.dtype)
    lanes = fitting(along, frame.host.lanes(max(4, align)))

    def unit(index: list[Int]) -> None:
        low = f.mul(index[-1], LINE)
        index = [*index[:-1], low, *[0] * (len(shape) - len(index))] if shape else []
        source = f.address(frame.base(x), _start(frame, x, zip(before, index, strict=False)), memory)
        target = frame.at(y, index)

        def copy(column: Int, mask: Value | None) -> None:
            point = index[len(before) :]
            point = [*point[:line], f.add(low, column), *point[line + 1 :]] if point else []
            if lanes == 1:
                value = f.load(memory, f.address(source, places.offset(point), memory), align)
            else:
                offsets = places.offsets(point, line, lanes, mask)
                value = f.gather(vector(memory, lanes), f.addresses(source, offsets, memory), align, mask)
            f.store(value, f.address(target, column, memory), align, mask)

        columns(f, f.min(LINE, f.sub(frame.size(along), low)), lanes, copy)

    units(frame, [*outer, ceil_div(along, LINE)], unit)
    frame.done()
    regions.finish(code, 0)


def _copy_row(frame: Frame, x: Strided, source: Value, target: Value, count: Dim) -> None:
    """Copy so many elements that lie as those of `x` along its one axis."""
    f, memory, align = frame.f, MEMORY_TYPE[x.dtype], itemsize(x.dtype)
    lanes, step = fitting(count, frame.host.lanes(align)), frame.size(x.strides[0])

    def copy(column: Int, mask: Value | None) -> None:
        value = load_lanes(f, x.dtype, f.address(source, f.mul(column, step), memory), step, lanes, mask)
        f.store(value, f.address(target, column, memory), align, mask)

    columns(f, frame.size(count), lanes, copy)


# ---------------------------------------------------------------------------------------------- scatter_add


def _scatter_add(code: KernelCode) -> bool:
    """A unit adds to the part of the data that it owns, and has copied: whole slices, or columns of a last axis."""
    core = code.kernel.core
    assert core is not None
    indices, start = _indices(code, 2), operand_or_number(code, 0)
    updates, y = regions.operand(code, 1), regions.result(code, 0)
    shape = core.shape
    _check_all(code, core, indices)
    before, after = indices.result_axes(core.ndim)
    own = [*before, *after, *sorted(indices.along)]  # axes along which units own slices
    by_columns = bool(after) and after[-1] == core.ndim - 1
    lanes = fitting(shape[-1], code.host.lanes(max(4, itemsize(y.dtype)))) if by_columns else 1
    most = max(regions.nominal(product(s)) for s in (shape, core.inputs[1].shape))
    if by_columns and most > MANY and _is_listed(shape):
        _scatter_listed(code, core, indices, (start, updates, y))
        return True
    total = y
    if y.dtype in HALVES:  # are added in float32, and rounded once
        total = regions.in_workspace(code, shape, "float32")
    block = lanes * (FLIGHT_OF_MANY if most > MANY else FLIGHT)
    counts = [ceil_div(shape[k], block) if by_columns and k == core.ndim - 1 else shape[k] for k in own]
    cost = (product(shape) + product(core.inputs[1].shape) * (1 if by_columns else 8)) // 8 + 1
    by_row = by_columns and most > MANY  # rows in one piece are copied faster than columns of them
    if by_row:
        copying = code.phase(product(shape[:-1]), product(shape) // 8 + 1)
        rows = _Adding(copying, core, indices, updates, total, lanes)
        units(copying, shape[:-1], lambda index: rows.copy(start, total, dict(enumerate(index)), 1))
        copying.done()
    frame = code.phase(product(counts), cost)
    work = _Adding(frame, core, indices, updates, total, lanes)
    f = frame.f

    def unit(numbers: list[Int]) -> None:
        at = dict(zip(own, numbers, strict=True))
        width: Int = 1
        if by_columns:
            last = core.ndim - 1
            at[last] = f.mul(at[last], block)
            width = f.min(f.sub(frame.size(shape[-1]), at[last]), block)
        if not by_row:
            work.copy(start, total, at, width)
        work.add(at, width, before, after)
        if total is not y:
            work.copy(total, y, at, width)

    units(frame, counts, unit)
    frame.done()
    regions.finish(code, 0)
    return True


class _Adding:
    """What the units of a scatter do to what they own: `at` says where that begins on the axes that it is fixed on."""

    def __init__(
        self,
        frame: Frame,
        core: Node,
        indices: _Indices,
        updates: Strided,
        total: Strided,
        lanes: int,
    ) -> None:
        self.frame, self.f, self.core, self.indices = frame, frame.f, core, indices
        self.updates, self.total, self.lanes = updates, total, lanes
        self.places = _Places(frame, total, core.shape, indices)

    def copy(self, source: Strided | Number, target: Strided, at: Mapping[int, Int], width: Int) -> None:
        """Copy what the unit owns, or fill it with a number."""
        frame, f = self.frame, self.f
        shape = self.core.shape
        free = [axis for axis in range(len(shape)) if axis not in at]
        is_row = bool(free) and free[-1] == len(shape) - 1  # the last axis is indexed: go along it in vectors
        row = free.pop() if is_row else len(shape) - 1
        lanes = self.frame.host.lanes(max(4, itemsize(self.total.dtype))) if is_row else self.lanes
        extent = frame.size(shape[row]) if is_row else width

        def line(index: list[Int], carried: list[Value]) -> list[Value]:
            whole = {**at, **dict(zip(free, index, strict=True)), **({row: 0} if is_row else {})}
            place = [whole[axis] for axis in range(len(shape))]
            write = frame.at(target, place)

            def move(column: Int, mask: Value | None) -> None:
                if isinstance(source, Strided):
                    value = _along_row(frame, source, frame.at(source, place), row, column, lanes, mask)
                else:
                    value = constant(vector(REGISTER_TYPE[target.dtype], lanes), source)
                where = f.address(write, column, MEMORY_TYPE[target.dtype])
                f.store(to_memory(f, value, target.dtype), where, itemsize(target.dtype), mask)

            columns(f, extent, lanes, move)
            return carried

        nest(f, [(0, frame.size(shape[axis])) for axis in free], line)

    def add(self, at: Mapping[int, Int], width: Int, before: Sequence[int], after: Sequence[int]) -> None:
        """Add the updates that belong to what the unit owns, in their order."""
        frame, f = self.frame, self.f
        fixed = {along: at[axis] for axis, along in self.indices.along.items()}
        free = [k for k in range(len(self.indices.shape)) if k not in fixed]
        memory, align = MEMORY_TYPE[self.total.dtype], itemsize(self.total.dtype)
        start = frame.size(self.total.offset)
        for axis in (*before, *after):
            start = f.add(start, f.mul(at[axis], frame.size(self.total.strides[axis])))

        def point(index: list[Int], carried: list[Value]) -> list[Value]:
            whole = {**fixed, **dict(zip(free, index, strict=True))}
            where = [whole[k] for k in range(len(self.indices.shape))]
            source = frame.at(self.updates, [*[at[k] for k in before], *where, *[at[k] for k in after]])
            target = f.address(frame.base(self.total), f.add(start, self.places.offset(where)), memory)

            def add_to(column: Int, mask: Value | None) -> None:
                here = f.address(target, column, memory)
                more = _along_row(frame, self.updates, source, -1, column, self.lanes, mask)
                old = f.load(vector(memory, self.lanes), here, align, mask)
                add = "fadd" if element_of(old.type) in ("float", "double") else "add"
                f.store(f.binary(add, old, more), here, align, mask)

            columns(f, width, self.lanes, add_to)
            return carried

        nest(f, [(0, frame.size(self.indices.shape[k])) for k in free], point)


def _along_row(frame: Frame, x: Strided, row: Value, axis: int, column: Int, lanes: int, mask: Value | None) -> Value:
    """A vector along an axis, from a column of a row on, as it is computed with."""
    f, step = frame.f, frame.size(x.strides[axis]) if x.strides else 0
    where = f.address(row, f.mul(column, step), MEMORY_TYPE[x.dtype])
    return from_memory(f, load_lanes(f, x.dtype, where, step, lanes, mask), x.dtype)


# ---------------------------------------------------------------------------------------------- scatter_add by lists


def _is_listed(shape: Sequence[Dim]) -> bool:
    """Whether data is so much, in rows so long, that going through it once pays for listing the updates of each row."""
    return regions.nominal(product(shape)) >= LISTED and regions.nominal(shape[-1]) >= LISTED_ROW


def _scatter_listed(
    code: KernelCode, core: Node, indices: _Indices, arrays: tuple[Strided | Number, Strided, Strided]
) -> None:
    """A unit is a row of the result, along the last axis: it is added up in registers."""
    lists = _Lists(code, core, indices)
    lists.link()
    shape = core.shape
    elements = product(shape) + product(core.inputs[1].shape)
    frame = code.phase(product(shape[:-1]), elements // 8 + product(shape[:-1]) * ROW_NS + 1)
    rows = _Rows(frame, lists, *arrays, fitting(shape[-1], code.host.lanes(max(4, itemsize(arrays[-1].dtype)))))
    units(frame, shape[:-1], rows.row)
    frame.done()
    regions.finish(code, 0)


class _Lists:
    """The updates of each place on the axes that are indexed, in their order: the first one, and the one after each."""

    def __init__(self, code: KernelCode, core: Node, indices: _Indices) -> None:
        self.code, self.core, self.indices = code, core, indices
        self.places = product([core.shape[axis] for axis in indices.axes])
        self.count = product(indices.shape)
        self.first, self.following = (
            Strided("workspace", code.workspace(8 * count), 0, (1,), "int64") for count in (self.places, self.count)
        )

    def number(self, frame: Frame, place: Sequence[Int]) -> Int:
        """Of a place, row-major."""
        total: Int = 0
        for axis, index in zip(self.indices.axes, place, strict=True):
            total = frame.f.add(frame.f.mul(total, frame.size(self.core.shape[axis])), index)
        return total

    def link(self) -> None:
        """The phase that makes the lists, from their ends."""
        frame = self.code.phase(1, (self.places + self.count) * ELEMENT_NS + 1)
        f, lanes, sizes = frame.f, frame.host.lanes(8), frame.sizes(self.indices.shape)

        def clear(column: Int, mask: Value | None) -> None:
            f.store(constant(vector(I64, lanes), NONE), frame.at(self.first, [column]), 8, mask)

        def push(i: Value, _: list[Value]) -> None:
            update = f.i64(f.sub(f.sub(frame.size(self.count), 1), i))
            head = frame.at(self.first, [self.number(frame, self._place(frame, unravelled(f, update, sizes)))])
            f.store(f.load(I64, head, 8), frame.at(self.following, [update]), 8)
            f.store(update, head, 8)

        def all_of_it(_: Value, __: list[Value]) -> None:
            columns(f, frame.size(self.places), lanes, clear)
            f.loop(0, frame.size(self.count), 1, push)

        f.loop(frame.low, frame.high, 1, all_of_it)
        frame.done()

    def _place(self, frame: Frame, point: Sequence[Int]) -> list[Int]:
        """What the indices choose at a point of theirs."""
        place: list[Int] = []
        for axis in self.indices.axes:
            if axis in self.indices.along:
                place.append(point[self.indices.along[axis]])
                continue
            array = self.indices.arrays[axis]
            index = frame.f.load(MEMORY_TYPE[array.dtype], frame.at(array, point), itemsize(array.dtype))
            place.append(_place(frame.f, index, frame.size(self.core.shape[axis]), array.dtype))
        return place


class _Rows:
    """Rows of the result of a scatter, which are written once."""

    def __init__(
        self, frame: Frame, lists: _Lists, start: Strided | Number, updates: Strided, y: Strided, lanes: int
    ) -> None:
        self.frame, self.f, self.lists, self.lanes = frame, frame.f, lists, lanes
        self.start, self.updates, self.y = start, updates, y
        self.before, self.after = lists.indices.result_axes(lists.core.ndim)

    def row(self, index: list[Int]) -> None:
        """A row, several vectors at a time: the list is walked for each of these blocks."""
        f, last = self.f, self.lists.core.shape[-1]
        flight = max(1, min(FLIGHT, last // self.lanes)) if isinstance(last, int) else FLIGHT
        width = self.frame.size(last)
        full = f.sub(width, f.rem(width, self.lanes * flight))
        f.loop(0, full, self.lanes * flight, lambda column, _: self.total(index, column, flight, None))
        columns(f, f.sub(width, full), self.lanes, lambda at, mask: self.total(index, f.add(full, at), 1, mask))

    def total(self, index: Sequence[Int], column: Int, count: int, mask: Value | None) -> None:
        """Vectors side by side: what they start as, and their updates one after the other."""
        frame, f, lists = self.frame, self.f, self.lists
        columns = [f.add(column, k * self.lanes) for k in range(count)]

        def add(carried: list[Value]) -> list[Value]:
            update, *totals = carried
            source = self.update(index, update)
            more = [_along_row(frame, self.updates, source, -1, at, self.lanes, mask) for at in columns]
            word = "fadd" if element_of(totals[0].type) in FLOATS else "add"
            added = [f.binary(word, old, new) for old, new in zip(totals, more, strict=True)]
            return [f.load(I64, frame.at(lists.following, [update]), 8), *added]

        head = frame.at(lists.first, [lists.number(frame, [index[axis] for axis in lists.indices.axes])])
        starts = [f.load(I64, head, 8), *[self.starting(index, at, mask) for at in columns]]
        none = constant(I64, NONE)
        _, *totals = f.loop_while(lambda carried: f.compare("icmp ne", carried[0], none), add, starts)
        for at, value in zip(columns, totals, strict=True):
            where = f.address(frame.at(self.y, index), at, MEMORY_TYPE[self.y.dtype])
            f.store(to_memory(f, value, self.y.dtype), where, itemsize(self.y.dtype), mask)

    def starting(self, index: Sequence[Int], column: Int, mask: Value | None) -> Value:
        """What a vector of the row is before updates are added."""
        if isinstance(self.start, Strided):
            at = self.frame.at(self.start, index)
            return _along_row(self.frame, self.start, at, -1, column, self.lanes, mask)
        return constant(vector(REGISTER_TYPE[self.y.dtype], self.lanes), self.start)

    def update(self, index: Sequence[Int], number: Value) -> Value:
        """The address of an update's row."""
        frame = self.frame
        point = unravelled(self.f, number, frame.sizes(self.lists.indices.shape))
        outside = ([index[axis] for axis in axes] for axes in (self.before, self.after[:-1]))
        return frame.at(self.updates, [*next(outside), *point, *next(outside)])


CORES: Mapping[Op, Callable[[KernelCode], bool]] = {gather_op: _gather, scatter_add_op: _scatter_add}
