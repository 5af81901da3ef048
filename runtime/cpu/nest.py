"""Loop nests around pointwise ops and reductions: a region of a kernel as vector code in one function.

One loop of the nest is the *vector loop*, whose steps lie in the lanes of registers: the one that takes the fewest
instructions an element. If it is a reduce loop, lanes hold parts of one row, which are joined at the end; otherwise
each lane has a row of its own. Either way a few vectors are in flight at a time, so that no accumulator waits for
itself.

A region is computed pass by pass over its row (`Region.passes`). A value per element that a later pass needs again is
kept in the worker's scratch if it costs more than reading it back, and computed again otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from graphc.dims import product
from graphc.ir import Node
from graphc.kernel import Region
from graphc.runtime.cpu import pointwise
from graphc.runtime.cpu.elements import (
    Element,
    from_memory,
    is_signed,
    load_lanes,
    put_aside,
    store_lanes,
    taken_back,
    to_memory,
    transposed,
)
from graphc.runtime.cpu.guards import guards_of
from graphc.runtime.cpu.nest_layout import layout_of, side_by_side
from graphc.runtime.cpu.packing import LINE, prefetch
from graphc.runtime.cpu.phases import Frame
from graphc.runtime.cpu.pointwise import REGISTER_TYPE
from graphc.runtime.cpu.reductions import REDUCTIONS, Accumulator, across, flat, grouped, horizontal, starting
from graphc.runtime.cpu.row_passes import fetching, inverted, kept_bytes, passes_of
from graphc.runtime.cpu.values import MEMORY_TYPE, Int, Value, constant, lanes_of, vector
from graphc.runtime.cpu.vector_math import any_lane
from graphc.runtime.regions import Pass, Port, loading, stored_in
from graphc.runtime.strided import Strided, itemsize

TURNED = 8  # values of a body that is written out for each vector of a square
READ_AHEAD, WRITTEN_AHEAD = 1 << 18, 1 << 13  # bytes of rows up to which the next one is asked for
AHEAD = 1 << 10  # bytes from what is computed to what is asked for where there are no rows
SHORT = 2  # times what is computed side by side: loops that are no longer have masks at every step


@dataclass
class _Point:
    """Where a vector of elements is: the body is computed at its lanes.

    Attributes:
        offsets: of each port, in elements, at the first lane.
        index: of each loop, at the first lane.
        mask: the lanes that exist; None for all.
        row: how many elements of the row come before, an index into what is kept.
        known: values that are there at this point.
    """

    offsets: list[Int]
    index: list[Int]
    mask: Value | None
    row: Int
    known: dict[Node, Value] = field(default_factory=dict)


class Nest:
    """A region of a kernel, as code in one function.

    Args:
        frame: the function, and the sizes in it.
        element: gives the address of the core's element, for a region that has one; it is contiguous along the last
            loop, which is then the vector loop.
        into: where the one output of a region without stores goes.
        whole: whether parts of the vector loop begin at multiples of what is computed side by side, as units do.
    """

    def __init__(
        self, frame: Frame, region: Region, element: Element | None, into: Strided | None = None, *, whole: bool
    ) -> None:
        self.frame, self.f, self.region, self.element, self.whole = frame, frame.f, region, element, whole
        has_core = len(region.body.inputs) > len(region.loads)
        formals = region.body.inputs[has_core:]
        self.core = region.body.inputs[0] if has_core else None
        self.loads = {formal: k for k, formal in enumerate(formals)}
        self.ports = [loading(load, n.dtype) for n, load in zip(formals, region.loads, strict=True)]
        self.first_store = len(self.ports)
        self.ports += [Port(array) for array in ([into] if into else stored_in(region))]
        self.layout = layout_of(region, frame.host, self.ports, element.axis if element and has_core else None)
        if element and has_core and element.across is not None:
            self.layout = self.layout._replace(across=range(len(region.loops))[element.across])
        self.axis, self.lanes = self.layout.axis, self.layout.lanes
        extent = 1 if self.axis is None else region.loops[self.axis].extent
        self.fills = self.lanes == 1 or (whole and isinstance(extent, int) and extent % self.lanes == 0)
        self.extents = [frame.size(loop.extent) for loop in region.loops]
        self.strides = [frame.sizes(port.array.strides) for port in self.ports]
        self.reduced = [k for k, loop in enumerate(region.loops) if loop.reduce]
        self.inner = {k for k in (*self.reduced, self.axis, self.layout.across) if k is not None}
        self.passes = passes_of(region)
        self.kept = [node for current in self.passes for node in current.kept]
        self.turned = [node for node, number in self.loads.items() if self.is_turned(self.ports[number])]
        self.inverted = inverted(region)
        self.guards = guards_of(region)
        self.guarded = {node for nodes in self.guards.values() for node in nodes}
        self.fetching = fetching(self.passes) if self.axis in self.reduced else None
        self.part: tuple[Int, Int] | None = None
        self._slots = {node: k for k, node in enumerate(self.kept)}

    def is_turned(self, port: Port) -> bool:
        """Whether what a port reads is loaded along `across`, and turned in registers, squares at a time."""
        layout, strides = self.layout, port.array.strides
        if layout.across is None or layout.axis is None or len(self.region.values) > TURNED:
            return False
        return not port.counter and strides[layout.across] == 1 and strides[layout.axis] not in (0, 1, -1)

    # ------------------------------------------------------------------------------------ where

    def start(self, index: Mapping[int, Int]) -> _Point:
        """The point at an index of some loops, and at 0 of the others."""
        offsets = self.frame.sizes([port.array.offset for port in self.ports])
        point = _Point(offsets, [0] * len(self.extents), None, 0)
        for loop, i in index.items():
            point = self.moved(point, loop, i)
        return point

    def moved(self, point: _Point, loop: int, by: Int, mask: Value | None = None) -> _Point:
        """A point so many steps further along a loop; what is known there stays known."""
        f = self.f
        offsets = [
            f.add(offset, f.mul(by, strides[loop])) for offset, strides in zip(point.offsets, self.strides, strict=True)
        ]
        index = list(point.index)
        index[loop] = f.add(index[loop], by)
        row = point.row
        if loop in self.reduced:
            inner = self.reduced[self.reduced.index(loop) + 1 :]
            row = f.add(row, f.mul(by, self.frame.size(product([self.region.loops[k].extent for k in inner]))))
        return _Point(offsets, index, mask or point.mask, row, point.known)

    def bounds(self, loop: int) -> tuple[Int, Int]:
        """First and last (exclusive) of a reduce loop: all of it, but for the outermost when only a part is reduced."""
        return self.part if self.part and loop == self.reduced[0] else (0, self.extents[loop])

    def over(self, loops: Sequence[int], point: _Point, carried: list[Value], body: _Body) -> list[Value]:
        """Run `body` at every point of some loops, outermost first, carrying values along."""
        if not loops:
            return body(point, carried)
        loop, *inner = loops
        return self.f.loop(
            *self.bounds(loop),
            1,
            lambda i, values: self.over(inner, self.moved(point, loop, i), values, body),
            carried,
        )

    # ------------------------------------------------------------------------------------ blocks of points

    def run(self, index: Mapping[int, Int], low: Int, high: Int, tile: tuple[Int, Int] = (0, 0)) -> None:
        """Compute and store the region at one index of its other parallel loops.

        Args:
            index: of the parallel loops that aren't the vector loop, nor walked across it.
            low, high: of the vector loop, if it is parallel.
            tile: first and last (exclusive) of the loop that is walked across it, if there is one.
        """
        point = self.start(index)
        self.fill(point, self.invariant(self.inner), 0)
        if self.axis is None:
            self.rows_at([point])
        elif self.axis in self.reduced:
            self.long_row(point)
        else:
            self.blocked(point, low, high, tile)

    def blocked(self, point: _Point, low: Int, high: Int, tile: tuple[Int, Int]) -> None:
        """Go along a parallel vector loop, a few vectors at a time, then vector by vector."""
        f, axis, across, flight = self.f, self.axis, self.layout.across, self.layout.flight
        assert axis is not None
        middle = low if across is not None and flight == 1 else self.middle(low, high, flight)
        if not _known(middle, low):
            beside = partial(self.beside, point, axis)
            f.loop(low, middle, self.lanes * flight, lambda i, _: self.abreast(beside(i, flight), across, tile))

        def rest(i: Value, _: list[Value]) -> None:
            mask = None if self.fills else f.mask(f.sub(high, i), self.lanes)
            vector = self.moved(point, axis, i, mask)
            if across is None:
                self.rows_at([self.branched(vector)])
            else:
                self.crossed(vector, across, tile, f.sub(high, i))

        if not _known(middle, high):
            f.loop(middle, high, self.lanes, rest)

    def abreast(self, points: Sequence[_Point], across: int | None, tile: tuple[Int, Int]) -> None:
        """Several vectors side by side, all of which exist; walked across if there is a loop for that."""
        if across is None:
            if self.element is None and not self.reduced:
                guarded = {number for node, number in self.loads.items() if node in self.guarded}
                for number, port in enumerate(self.ports):
                    if number not in guarded:
                        self.ask(points, number, AHEAD // itemsize(port.array.dtype))
            return self.rows_at(points)
        for point in points:
            self.fill(point, self.invariant({across}), 0)
        step = partial(self.moved, loop=across)
        self.f.loop(*tile, 1, lambda j, _: self.rows_at([self.branched(step(point, by=j)) for point in points]))
        return None

    def crossed(self, point: _Point, across: int, tile: tuple[Int, Int], left: Int) -> None:
        """Walk across a vector, of which `left` lanes or more exist: in squares if there is something to turn."""
        f, (low, high) = self.f, tile
        self.fill(point, self.invariant({across}), 0)
        middle = low
        if self.turned:
            middle = f.sub(high, f.rem(f.sub(high, low), self.lanes))
            f.loop(low, middle, self.lanes, lambda j, _: self.square(self.moved(point, across, j), across, left))
        f.loop(middle, high, 1, lambda j, _: self.rows_at([self.branched(self.moved(point, across, j))]))

    def square(self, point: _Point, across: int, left: Int) -> None:
        """As many vectors as they have lanes, side by side across them."""
        f, axis, lanes = self.f, self.axis, self.lanes
        assert axis is not None
        steps = [self.branched(self.moved(point, across, k)) for k in range(lanes)]
        rows: list[Int] = [*range(lanes)] if point.mask is None else [f.min(k, f.sub(left, 1)) for k in range(lanes)]
        for node in self.turned:
            number = self.loads[node]
            array = self.ports[number].array
            type, base = MEMORY_TYPE[array.dtype], self.frame.base(array)
            starts = [f.add(point.offsets[number], f.mul(row, self.strides[number][axis])) for row in rows]
            loaded = [f.load(vector(type, lanes), f.address(base, at, type), itemsize(array.dtype)) for at in starts]
            for step, column in zip(steps, transposed(f, loaded), strict=True):
                step.known[node] = from_memory(f, column, array.dtype)
        for step in steps:
            self.rows_at([step])

    def middle(self, low: Int, high: Int, flight: int) -> Int:
        """Where the part of the vector loop ends in which so many vectors are computed side by side, without masks."""
        f, step = self.f, self.lanes * flight
        assert self.axis is not None
        extent, count = self.region.loops[self.axis].extent, f.sub(high, low)
        if isinstance(count, Value) and self.whole and isinstance(extent, int):
            count = extent
        if isinstance(count, int) and count % step == 0:
            return high
        if isinstance(extent, int) and extent <= SHORT * step:
            return low
        return f.add(low, f.sub(f.sub(high, low), f.rem(f.sub(high, low), step)))

    def beside(self, point: _Point, loop: int, at: Int, count: int) -> list[_Point]:
        """The points of neighbouring vectors."""
        steps = [self.f.add(at, k * self.lanes) for k in range(count)]
        return [self.branched(self.moved(point, loop, step)) for step in steps]

    def branched(self, point: _Point) -> _Point:
        """A point that learns for itself."""
        return _Point(point.offsets, point.index, point.mask, point.row, dict(point.known))

    def rows_at(self, points: Sequence[_Point]) -> None:
        """All passes over the row, which no lane shares with another, at several points at once."""
        for point in points:
            self.fill(point, self.passes[0].before, 0)
        for number in range(len(self.passes)):
            self.settle(points, self.reduced_at(points, number), number)
        for point in points:
            self.store(point, self.at_end())

    def reduced_at(self, points: Sequence[_Point], number: int) -> list[Accumulator]:
        """One pass over the row at several points: of each reduction, an accumulator for each point."""
        starts = [self.starting(node) for node in self.passes[number].reductions for _ in points]

        def body(at: _Point, values: list[Value]) -> list[Value]:
            inside = [self.branched(point) for point in self.shifted(points, at)]
            return self.step(inside, grouped(values, starts), number)

        return grouped(self.over(self.reduced, self.origin(), flat(starts), body), starts)

    def settle(self, points: Sequence[_Point], accumulators: Sequence[Accumulator], number: int) -> None:
        """Make known at several points what follows from the reductions of a pass."""
        for k, node in enumerate(self.passes[number].reductions):
            for p, point in enumerate(points):
                point.known[node] = accumulators[k * len(points) + p][-1]
        for point in points:
            self.fill(point, self.passes[number].after, number + 1)
            self.fill(point, [node for node in self.inverted if node.inputs[0] in point.known], number + 1)

    def origin(self) -> _Point:
        """A point that only counts how far the reduce loops have come."""
        return _Point([0] * len(self.ports), [0] * len(self.extents), None, 0)

    def shifted(self, points: Sequence[_Point], by: _Point) -> list[_Point]:
        """Points, moved by how far the reduce loops have come."""
        f = self.f
        return [
            _Point(
                [f.add(a, b) for a, b in zip(point.offsets, by.offsets, strict=True)],
                [f.add(a, b) for a, b in zip(point.index, by.index, strict=True)],
                point.mask,
                by.row,
                point.known,
            )
            for point in points
        ]

    def long_row(self, point: _Point) -> None:
        """All passes over one row, whose parts lie in the lanes."""
        self.fill(point, self.passes[0].before, 0)
        for number in range(len(self.passes)):
            self.settle([point], self.reduced_along(point, number), number)
        self.store(point, self.at_end())

    def reduced_along(self, point: _Point, number: int) -> list[Accumulator]:
        """One pass over a row whose parts lie in the lanes: an accumulator of each reduction, as scalars."""
        flight, reductions = self.flight(number), self.passes[number].reductions
        starts = [self.starting(node) for node in reductions for _ in range(flight)]
        outer = [k for k in self.reduced if k != self.axis]
        values = self.over(outer, point, flat(starts), lambda at, carried: self.along(at, carried, starts, number))
        whole = grouped(values, starts)
        found = []
        for k, node in enumerate(reductions):
            reduction, signed = REDUCTIONS[node.op], is_signed(node.inputs[0].dtype)
            joined = across(self.f, reduction, whole[k * flight : (k + 1) * flight], signed)
            found.append(horizontal(self.f, reduction, joined, self.lanes, signed))
        return found

    def along(self, point: _Point, values: list[Value], starts: list[Accumulator], number: int) -> list[Value]:
        """One pass over the vector loop of a row."""
        f, axis, flight = self.f, self.axis, self.flight(number)
        assert axis is not None
        low, high = self.bounds(axis)
        step, middle = self.lanes * flight, self.middle(low, high, flight)

        def main(i: Value, carried: list[Value]) -> list[Value]:
            return self.step(self.beside(point, axis, i, flight), grouped(carried, starts), number)

        def rest(i: Value, carried: list[Value]) -> list[Value]:
            mask = None if self.fills else f.mask(f.sub(high, i), self.lanes)
            return self.step([self.branched(self.moved(point, axis, i, mask))], grouped(carried, starts), number)

        if not _known(middle, low):
            values = f.loop(low, middle, step, main, values)
        return values if _known(middle, high) else f.loop(middle, high, self.lanes, rest, values)

    def step(self, points: Sequence[_Point], accumulators: list[Accumulator], number: int) -> list[Value]:
        """One pass at some points: the accumulators after it, the others unchanged."""
        current = self.passes[number]
        if number == self.fetching:
            self.fetch(points)
        for point in points:
            self.fill(point, [node for node in current.elements if node not in self.guarded], number)
        each = len(accumulators) // max(1, len(current.reductions))  # accumulators of one reduction
        for k, node in enumerate(current.reductions):
            for p, point in enumerate(points):
                accumulators[k * each + p] = self.joined(node, accumulators[k * each + p], point)
        for point in points:
            self.keep(point, current)
            self.store(point, current.stored)
        return flat(accumulators)

    def fetch(self, points: Sequence[_Point]) -> None:
        """Ask for what the next row reads and, if it is short, writes: rows begin where the CPU doesn't expect it."""
        count = product(self.region.rows)
        parallel = [k for k in range(len(self.extents)) if k not in self.reduced]
        for number, port in enumerate(self.ports):
            step = self.strides[number][parallel[-1]] if parallel else 0
            nbytes = count * itemsize(port.array.dtype) if isinstance(count, int) else math.inf
            is_near = nbytes <= (WRITTEN_AHEAD if number >= self.first_store else READ_AHEAD)
            if is_near and not _known(step, 0):
                self.ask(points, number, step)

    def ask(self, points: Sequence[_Point], number: int, ahead: Int) -> None:
        """Ask for the lines that a port reads or writes so many elements further on, if they are contiguous."""
        f, port = self.f, self.ports[number]
        if port.counter or self.stride(number) != 1:
            return
        memory, base = MEMORY_TYPE[port.array.dtype], self.frame.base(port.array)
        for point in points[:: max(1, LINE // (self.lanes * itemsize(port.array.dtype)))]:
            at = f.address(base, f.add(point.offsets[number], ahead), memory)
            prefetch(f, at, write=number >= self.first_store)

    def flight(self, number: int) -> int:
        """Vectors of a row that are computed side by side in a pass."""
        return min(self.layout.flight, side_by_side(self.passes[number].elements, self.layout.flight))

    # ------------------------------------------------------------------------------------ rows in parts

    def rows_from(self, index: Mapping[int, Int], low: Int, high: Int, count: int) -> list[_Point]:
        """The point of one row, or of `count` vectors of rows side by side, and what is known before the pass."""
        f, point = self.f, self.start(index)
        self.fill(point, self.invariant(self.inner), 0)
        points = [point]
        if self.axis is not None and self.axis not in self.reduced:
            starts = [f.add(low, k * self.lanes) for k in range(count)]
            masks = [None if self.fills else f.mask(f.sub(high, start), self.lanes) for start in starts]
            moved = [self.moved(point, self.axis, start, mask) for start, mask in zip(starts, masks, strict=True)]
            points = [self.branched(each) for each in moved]
        for each in points:
            self.fill(each, self.passes[0].before, 0)
        return points

    def reduce_part(self, points: Sequence[_Point], part: tuple[Int, Int], at: Value) -> None:
        """Reduce a part of rows, and store the accumulators in slots from an address on."""
        self.part = part
        by_row = self.axis in self.reduced
        found = self.reduced_along(points[0], 0) if by_row else self.reduced_at(points, 0)
        for k, value in enumerate(flat(found)):
            put_aside(self.f, value, self.f.address(at, k * self.slot_bytes, "i8"))

    def join_parts(self, points: Sequence[_Point], count: Int, at: Callable[[Value], Value]) -> None:
        """Join what `reduce_part` stored for `count` parts, first to last, and store what follows from it."""
        f, reductions = self.f, [node for node in self.passes[0].reductions for _ in points]
        lanes = 1 if self.axis in self.reduced else self.lanes
        starts = [self.starting(node, lanes) for node in reductions]

        def body(i: Value, carried: list[Value]) -> list[Value]:
            base, known = at(i), grouped(carried, starts)
            types = [value.type for value in carried]
            loaded = [taken_back(f, type, f.address(base, k * self.slot_bytes, "i8")) for k, type in enumerate(types)]
            more = grouped(loaded, starts)
            return flat(
                [
                    REDUCTIONS[node.op].join(f, old, new, is_signed(node.inputs[0].dtype))
                    for node, old, new in zip(reductions, known, more, strict=True)
                ]
            )

        self.settle(points, grouped(f.loop(0, count, 1, body, flat(starts)), starts), 0)
        for point in points:
            self.store(point, self.at_end())

    @property
    def slot_bytes(self) -> int:
        """Bytes between the slots of `reduce_part`."""
        return 8 * self.lanes

    # ------------------------------------------------------------------------------------ values

    def invariant(self, inner: Collection[int]) -> list[Node]:
        """Values that are the same at every point of these loops."""
        found: set[Node] = set()
        for node in self.region.values:
            if node is self.core or node.op.kind == "reduce":
                continue
            if node in self.loads:
                strides = self.strides[self.loads[node]]
                fixed = all(_known(strides[k], 0) for k in inner)
            else:
                fixed = all(i in found for i in node.inputs)
            if fixed:
                found.add(node)
        return [node for node in self.region.values if node in found]

    def fill(self, point: _Point, nodes: Iterable[Node], number: int) -> None:
        """Make the values of `nodes` known at a point, in pass `number`."""
        for node in nodes:
            if node not in point.known:
                point.known[node] = self.value(node, point, number)

    def value(self, node: Node, point: _Point, number: int) -> Value:
        """The value of a node whose inputs are known."""
        if node is self.core:
            assert self.element is not None
            return self.loaded(self.element.address(point.index), 1, self.element.dtype, point.mask)
        if node in self.loads:
            return self.load(self.loads[node], point)
        if node in self._slots and number > self.region.passes[node]:
            return self.f.load(vector(REGISTER_TYPE[node.dtype], self.lanes), self.slot(node, point), 4)
        if node in self.guards and node.inputs[1] not in point.known:
            return self.selected(node, point)
        kind = node.op.kind
        if kind == "constant":
            return constant(REGISTER_TYPE[node.dtype], node.attrs["value"].array.reshape(()).item())
        if kind == "extent":
            return self.size(node)
        args = [point.known[i] for i in node.inputs]
        if kind == "view":  # a broadcast along the row
            return args[0] if node not in self.inverted else self.f.binary("fdiv", constant(args[0].type, 1), args[0])
        lanes = max([lanes_of(arg.type) for arg in args])
        args = [self.f.splat(a, lanes) if lanes_of(a.type) == 1 else a for a in args]
        if not self.inverted.isdisjoint(node.inputs):
            return self.f.binary("fmul", *args)
        return pointwise.emit(self.f, node, args)

    def selected(self, node: Node, point: _Point) -> Value:
        """A selection, the first side of which is computed if a lane takes it."""
        condition, _, other = node.inputs

        def taken() -> list[Value]:
            inside = self.branched(point)
            self.fill(inside, [*self.guards[node], node], 0)
            return [self.wide(inside.known[node])]

        return self.f.if_(any_lane(self.f, point.known[condition]), taken, lambda: [self.wide(point.known[other])])[0]

    def wide(self, value: Value) -> Value:
        """A value in every lane."""
        return value if lanes_of(value.type) == self.lanes else self.f.splat(value, self.lanes)

    def size(self, node: Node) -> Value:
        """A dimension as a number of the node's dtype."""
        dim, type = self.frame.size(node.attrs["dim"]), REGISTER_TYPE[node.dtype]
        if isinstance(dim, int):
            return constant(type, dim)
        operation = "sitofp" if type in ("float", "double") else "trunc"
        return self.f.convert(operation, dim, type)

    def load(self, number: int, point: _Point) -> Value:
        """What a port reads at a point; a counter is its own offset."""
        f, port = self.f, self.ports[number]
        stride, offset = self.stride(number), point.offsets[number]
        if port.counter:
            first = f.i64(offset)
            if _known(stride, 0) or self.lanes == 1:
                return first
            steps = f.binary("mul", f.counter(self.lanes), f.splat(f.i64(stride), self.lanes))
            return f.binary("add", f.splat(first, self.lanes), steps)
        at = f.address(self.frame.base(port.array), offset, MEMORY_TYPE[port.array.dtype])
        return self.loaded(at, stride, port.array.dtype, point.mask)

    def stride(self, number: int) -> Int:
        """Elements from lane to lane of a port."""
        return 0 if self.axis is None else self.strides[number][self.axis]

    def loaded(self, at: Value, stride: Int, dtype: str, mask: Value | None) -> Value:
        """A vector of elements from memory, or one element that all lanes share."""
        f = self.f
        if _known(stride, 0) or self.lanes == 1:
            return from_memory(f, f.load(MEMORY_TYPE[dtype], at, itemsize(dtype)), dtype)
        return from_memory(f, load_lanes(f, dtype, at, stride, self.lanes, mask), dtype)

    def store(self, point: _Point, outputs: Iterable[int]) -> None:
        """Store outputs of the body that are known at a point."""
        f = self.f
        for k in outputs:
            number = self.first_store + k
            array, stride = self.ports[number].array, self.stride(number)
            value = to_memory(f, point.known[self.region.body.outputs[k]], array.dtype)
            at = f.address(self.frame.base(array), point.offsets[number], MEMORY_TYPE[array.dtype])
            align = itemsize(array.dtype)
            if _known(stride, 0) or self.lanes == 1:
                f.store(value, at, align)
                continue
            store_lanes(f, self.wide(value), at, stride, align, point.mask)

    # ------------------------------------------------------------------------------------ reductions

    def starting(self, node: Node, lanes: int | None = None) -> Accumulator:
        """The accumulator that a reduction starts from, in every lane."""
        operand = node.inputs[0].dtype
        type = vector(REGISTER_TYPE[operand], self.lanes if lanes is None else lanes)
        return starting(REDUCTIONS[node.op], type, is_signed(operand))

    def joined(self, node: Node, accumulator: Accumulator, point: _Point) -> Accumulator:
        """An accumulator with the elements at a point."""
        f, reduction = self.f, REDUCTIONS[node.op]
        more = [self.wide(point.known[node.inputs[0]])]
        if reduction.positions:
            position = f.splat(f.i64(point.row), self.lanes)
            if self.axis in self.reduced:
                position = f.binary("add", position, f.counter(self.lanes))
            more.append(position)
        found = reduction.join(f, accumulator, more, is_signed(node.inputs[0].dtype))
        if point.mask is not None and self.axis in self.reduced:
            found = [f.select(point.mask, new, old) for new, old in zip(found, accumulator, strict=True)]
        return found

    def at_end(self) -> list[int]:
        """The outputs that are stored after the last pass."""
        stored = {k for current in self.passes for k in current.stored}
        return [k for k in range(len(self.ports) - self.first_store) if k not in stored]

    # ------------------------------------------------------------------------------------ what is kept

    def slot(self, node: Node, point: _Point) -> Value:
        """Where a kept value of a point lies in scratch."""
        f = self.f
        size = kept_bytes(self.region, self.lanes, by_row=self.axis in self.reduced)
        base = f.address(self.frame.scratch, self.frame.size(size * self._slots[node]), "i8")
        at: Int = 0
        for k in sorted(self.reduced, key=lambda loop: loop == self.axis):  # lanes lie beside each other
            at = f.add(f.mul(at, self.extents[k]), point.index[k])
        return f.address(base, at if self.axis in self.reduced else f.mul(at, self.lanes), REGISTER_TYPE[node.dtype])

    def keep(self, point: _Point, current: Pass) -> None:
        """Keep what later passes need."""
        for node in current.kept:
            self.f.store(self.wide(point.known[node]), self.slot(node, point), 4)


_Body = Callable[[_Point, list[Value]], list[Value]]


def _known(number: Int, other: Int) -> bool:
    """Whether two sizes are the same, as far as is known when the code is written."""
    return number == other
