"""Convolutions and their gradients in x, in float32, as matrix products that no matrix is made for.

The results of a block (some images, or some rows of one) are columns, in whose direction they are vectors; the taps of
some channels are rows, which a copy of shifted parts of the source lays into the worker's scratch, a few channels at a
time, so that they are still in the cache when tiles multiply them by the weights. The weights are read in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from graphc.dims import Dim, ceil_div
from graphc.runtime.conv_geometry import Convolution, Sweep, sweep, two_dimensional
from graphc.runtime.cpu import lanes
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_product import matrix_product
from graphc.runtime.cpu.conv_rows import Copied, Joined, Packed, clear_rows, copy_taps, join_rows, pack_rows
from graphc.runtime.cpu.conv_source import padded
from graphc.runtime.cpu.conv_tiles import (
    BYTES,
    FLOAT,
    PRODUCTS_PER_NS,
    Tile,
    choose_tile,
    counters,
    cycles_of,
    even_part,
    row_by_row,
)
from graphc.runtime.cpu.elements import Element
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.phases import KernelCode
from graphc.runtime.cpu.values import I64, Int, Value
from graphc.runtime.strided import ALIGN, Strided, aligned

COLUMNS = 16  # vectors of a block's columns, about
DEPTH = 160  # rows that are multiplied at a time, about: a tile's part of them shall fit the first cache
ROWS = 128  # of weights, at most, in one unit of work
UNITS = 4  # of work that there should be, at least
SETS, WAYS = 64, 8  # of the first cache, at least


class Direct(NamedTuple):
    """What a convolution computes, as matrix products.

    Attributes:
        rows: channels of the result in a group; `channels`: of the source.
        sweeps: along height and width.
        row_step, channel_step, taps_step, group_step: distances in the weights.
    """

    batch: Dim
    groups: int
    rows: int
    channels: int
    sweeps: tuple[Sweep, Sweep]
    row_step: int
    channel_step: int
    taps_step: tuple[int, int]
    group_step: int


class Met(NamedTuple):
    """What is known of a class of results, perhaps only when the code runs; see `Taps`."""

    first: Int
    met: Int
    start: Int
    weight: Int


class Blocking(NamedTuple):
    """How it is divided.

    Attributes:
        images, height: of a block: some whole images, or some rows of one.
        depth: channels of the source that are multiplied at a time.
        chunk: rows of weights in a unit of work.
        row: distance of rows in scratch, in elements.
    """

    images: int
    height: int
    depth: int
    chunk: int
    tile: Tile
    row: int


def direct(code: KernelCode, convolution: Convolution) -> None:
    """Emit a convolution that `is_served`."""
    source, weight = lanes.operand(code, 0), lanes.operand(code, 1)
    what, source, weight = described(convolution, source, weight)
    height, width = what.sweeps
    sizes, spans = (height.size, width.size), (height.reach, width.reach)
    source = padded(code, source, convolution.batch, what.groups * what.channels, sizes, spans)
    _Direct(code, what, source, weight, convolution.products // PRODUCTS_PER_NS + 1).emit()


def described(convolution: Convolution, source: Strided, weight: Strided) -> tuple[Direct, Strided, Strided]:
    """What is computed, and its operands with two spatial axes."""
    convolution, (source, weight) = two_dimensional(convolution, source, weight)
    height, width = (sweep(axis, convolution.roles[2]) for axis in convolution.axes)
    o_step, i_step, *taps_step = (int(step) for step in weight.strides)
    inputs, outputs = int(convolution.inputs), int(convolution.outputs)
    sides = [(outputs, o_step), (inputs, i_step)]
    (rows, row_step), (channels, channel_step) = sides if convolution.roles[2] == "g" else reversed(sides)
    steps = (taps_step[0], taps_step[1])
    what = Direct(
        convolution.batch,
        convolution.groups,
        rows,
        channels,
        (height, width),
        row_step,
        channel_step,
        steps,
        outputs * o_step,
    )
    return what, source, weight


def is_served(code: KernelCode, convolution: Convolution) -> bool:
    """Whether `direct` can emit it: g or x is computed, and all sizes but the batch are known."""
    if convolution.roles[2] == "w" or not convolution.is_static or len(convolution.axes) > 2:
        return False
    weight = code.kernel.operands[1]
    known = not weight.is_view or all(isinstance(step, int) for step in weight.loads[0].access.strides)
    return known


# --------------------------------------------------------------------------------------------- the product


def blocking(what: Direct, host: Host) -> Blocking:
    """Blocks of about `COLUMNS` vectors, and what is multiplied at a time."""
    wide = host.lanes(BYTES)
    points, width = (each.points for each in what.sweeps)
    plane = points * width
    if plane <= COLUMNS * wide:
        images, height = even_part(what.batch, COLUMNS * wide // max(1, plane)), points
        chunks = what.groups * -(-what.rows // ROWS)
        if isinstance(what.batch, int) and chunks * -(-what.batch // images) < UNITS:
            images = min(images, even_part(what.batch, -(-what.batch * chunks // UNITS)))
    else:
        images, height = 1, _best_height(host, min(what.rows, ROWS), points, width)
    vectors = -(-images * height * width // wide)
    tile = choose_tile(host, min(what.rows, ROWS), vectors)
    vectors = -(-vectors // tile.vectors) * tile.vectors
    taps = _most_taps(what.sweeps)
    chunk = even_part(what.rows, ROWS)
    return Blocking(
        images,
        height,
        even_part(what.channels, max(1, DEPTH // max(1, taps))),
        -(-chunk // tile.rows) * tile.rows,
        tile,
        (vectors | 1) * wide,  # an odd number of cache lines: the rows of a tile fall into all sets of the cache
    )


def _best_height(host: Host, rows: int, points: int, width: int) -> int:
    """How many rows of points make the best blocks: the products of a channel take the least time, all in all."""
    wide = host.lanes(BYTES)

    def cost(height: int) -> tuple[int, int]:
        vectors = -(-height * width // wide)
        return -(-points // height) * cycles_of(choose_tile(host, rows, vectors), rows, vectors), -height

    return min(range(1, min(points, max(1, COLUMNS * wide // width)) + 1), key=cost)


def _most_taps(sweeps: tuple[Sweep, Sweep]) -> int:
    return math.prod(max(taps.met for taps in each.classes) for each in sweeps)


class _Direct:
    """The phase in the making."""

    def __init__(self, code: KernelCode, what: Direct, source: Strided, weight: Strided, cost: Dim) -> None:
        self.code, self.host, self.what, self.source, self.weight = code, code.host, what, source, weight
        self.blocking = blocks = blocking(what, code.host)
        self.height, self.width = what.sweeps
        self.plane = blocks.height * self.width.points  # columns of an image in a block
        self.spread = (self.height.spread, self.width.spread)
        rows = blocks.chunk
        taps = _most_taps(what.sweeps)
        sizes = [rows * blocks.row, blocks.depth * taps * blocks.row + self.host.lanes(BYTES)]
        if self.is_spread:  # the classes' results, joined
            sizes.append(rows * blocks.images * self.plane * math.prod(self.spread) + self.host.lanes(BYTES))
        else:
            sizes.append(0)
        self.loops = self._weight_loops()
        self.tables: dict[int, Value] = {}
        wide = self.host.lanes(BYTES)
        self.packed_row = (-(-blocks.depth * taps // wide) | 1) * wide if self.is_packed else 0
        sizes.append(rows * self.packed_row + wide)
        places = [0]
        for size in sizes:
            places.append(places[-1] + int(aligned(size * BYTES)))
        self.places = places
        self.image_blocks = ceil_div(what.batch, blocks.images)
        self.row_blocks = -(-self.height.points // blocks.height) if self.height.points else 0
        self.chunks = -(-what.rows // blocks.chunk)
        units = what.groups * self.chunks * self.image_blocks * self.row_blocks
        self.frame = code.phase(units, cost, places[-1])
        self.f = self.frame.f

    @property
    def is_packed(self) -> bool:
        """Whether the weights are copied first, as a tile's rows would fall into the same few sets of the cache."""
        lines = self.what.row_step * BYTES // ALIGN
        sets = SETS // math.gcd(SETS, lines) if lines else SETS
        return not self.is_spread and self.loops[-1][0] == 1 and sets * WAYS < self.blocking.tile.rows

    @property
    def adds(self) -> bool:
        """Whether the channels of the source are multiplied in several goes."""
        return self.blocking.depth != self.what.channels

    @property
    def is_spread(self) -> bool:
        """Whether the results fall into several classes."""
        return self.spread != (1, 1)

    def _weight_loops(self) -> list[tuple[int, tuple[int, ...]]]:
        """The loops over channels and taps, with their step in the weights; those that can run as one are one.

        Each has the numbers of the counts (channels, taps along height and width) whose product is how often it runs.
        """
        what = self.what
        counts = [0, *(each.classes[0].met for each in what.sweeps)]
        apart = [max(taps.weight_step for taps in each.classes) for each in what.sweeps]
        steps = [what.channel_step, *(a * step for a, step in zip(apart, what.taps_step, strict=True))]
        loops: list[tuple[int, tuple[int, ...]]] = []
        for k in (2, 1, 0):
            if self.is_spread or not loops:
                loops.insert(0, (steps[k], (k,)))
                continue
            step, inside = loops[0]
            if math.prod(counts[i] for i in inside) == 1:
                loops[0] = (steps[k], (k,))
            elif steps[k] == step * math.prod(counts[i] for i in inside):
                loops[0] = (step, (k, *inside))
            elif k == 0 or counts[k] != 1:
                loops.insert(0, (steps[k], (k,)))
        return loops

    def emit(self) -> None:
        """The whole phase."""
        f, frame, what, blocks = self.f, self.frame, self.what, self.blocking
        image_blocks, batch = frame.size(self.image_blocks), frame.size(what.batch)

        def unit(number: Value, _: list[Value]) -> None:
            group, chunk, images, rows = counters(f, number, [what.groups, self.chunks, image_blocks, self.row_blocks])
            n, p, r = (f.mul(images, blocks.images), f.mul(rows, blocks.height), f.mul(chunk, blocks.chunk))
            n_count = f.min(blocks.images, f.sub(batch, n))
            p_count = f.min(blocks.height, f.sub(self.height.points, p))
            r_count = f.min(blocks.chunk, f.sub(what.rows, r))
            self.block(group, (n, r, p), (n_count, r_count, p_count))

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def block(self, group: Int, first: Sequence[Int], counts: Sequence[Int]) -> None:
        """A unit of work: `first` image, row of weights and row of points, and how many of each."""
        f = self.f
        (n, r, p), (n_count, r_count, p_count) = first, counts
        self.clear_tails(f.mul(f.mul(n_count, p_count), self.width.points))

        def results_of(number: Int) -> None:
            i, j = counters(f, number, [self.spread[0], self.spread[1]])
            taps = (self.taps(0, i), self.taps(1, j))
            if self.adds:
                clear_rows(f, self.scratch(0), 1, 0, 0, f.mul(r_count, self.blocking.row))
            self.multiply(group, first, counts, taps)
            if self.is_spread:
                self.join(counts, taps)

        if self.is_spread:
            f.loop(0, math.prod(self.spread), 1, lambda number, _: results_of(number))
        else:
            results_of(0)
        o = f.add(f.mul(group, self.what.rows), r)
        h, spread = f.mul(p, self.spread[0]), self.spread[0]
        bounds = [
            (n, f.add(n, n_count)),
            (o, f.add(o, r_count)),
            (h, f.min(f.add(h, f.mul(p_count, spread)), self.height.results)),
            (0, self.width.results),
        ]

        def element(index: Sequence[Int]) -> Value:
            i, j, k, m = self.full(index)
            return self.result(f.sub(j, o), f.sub(i, n), f.sub(k, h), m)

        lanes.block(self.frame, 0, self.narrow(bounds), Element(element, "float32"))

    def clear_tails(self, columns: Int) -> None:
        """Zero what tiles multiply behind the columns of each row, lest it be denormal numbers, which are slow."""
        f, wide, row = self.f, self.host.lanes(BYTES), self.blocking.row
        width = self.blocking.tile.vectors * wide
        low, high = f.mul(f.div(columns, wide), wide), f.mul(f.div(f.add(columns, width - 1), width), width)
        rows = self.blocking.depth * _most_taps(self.what.sweeps)
        if not (isinstance(columns, int) and columns % width == 0):
            clear_rows(f, self.scratch(1), rows, row, low, high)

    def taps(self, axis: int, number: Int) -> Met:
        """A class of results along an axis."""
        f, module, name = self.f, self.code.module, f"classes{axis}"
        classes = [(taps.first, taps.met, taps.start, taps.weight) for taps in self.what.sweeps[axis].classes]
        if isinstance(number, int):
            return Met(*classes[number])
        if axis not in self.tables:
            self.tables[axis] = module.table(name, I64, [field for fields in classes for field in fields])
        begin = f.address(self.tables[axis], f.mul(number, len(Met._fields)), I64)
        return Met(*[f.load(I64, f.address(begin, k, I64), 8) for k in range(len(Met._fields))])

    def full(self, index: Sequence[Int]) -> Sequence[Int]:
        """An index of the result, with its height."""
        return index if len(index) == 4 else (*index[:2], 0, *index[2:])

    def narrow(self, bounds: list[tuple[Int, Int]]) -> list[tuple[Int, Int]]:
        """The bounds along the result's axes, which may have no height."""
        return bounds if len(self.code.kernel.results[0].loops) == 4 else [*bounds[:2], *bounds[3:]]

    def scratch(self, part: int, offset: Int = 0) -> Value:
        """An address in scratch: in the results (0), the copied rows (1), the joined results (2)."""
        return self.f.address(self.f.address(self.frame.scratch, self.places[part], "i8"), offset, FLOAT)

    def result(self, row: Int, image: Int, h: Int, w: Int) -> Value:
        """Where a result lies when the block is computed."""
        f = self.f
        width, part, row_size = self.width.points * self.spread[1], 0, self.blocking.row
        plane = self.plane * math.prod(self.spread)
        if self.is_spread:
            part, row_size = 2, self.blocking.images * plane
        column = f.add(f.mul(image, plane), f.add(f.mul(h, width), w))
        return self.scratch(part, f.add(f.mul(row, row_size), column))

    def multiply(self, group: Int, first: Sequence[Int], counts: Sequence[Int], taps: tuple[Met, Met]) -> None:
        """Multiply the weights by the rows that a class of results meets, a few channels at a time."""
        f, frame, what, blocks = self.f, self.frame, self.what, self.blocking
        (n, r, p), (n_count, r_count, p_count) = first, counts
        tall, wide = taps
        tile, columns = blocks.tile, f.mul(f.mul(n_count, p_count), self.width.points)
        base = f.add(f.mul(group, what.group_step), f.mul(r, what.row_step))
        for each, step in zip(taps, what.taps_step, strict=True):
            base = f.add(base, f.mul(each.weight, step))

        def some(c: Value, _: list[Value]) -> None:
            depth = f.min(blocks.depth, f.sub(what.channels, c))
            h = f.add(f.mul(p, self.height.stride), tall.start)
            source = frame.at(self.source, (n, f.add(f.mul(group, what.channels), c), h, wide.start))
            every = (depth, tall.met, wide.met)
            self.copy(source, every, n_count, p_count)
            a = f.address(frame.at(self.weight), f.add(base, f.mul(c, what.channel_step)), FLOAT)
            runs = [_product(f, [every[k] for k in inside]) for _, inside in self.loops]
            steps, row_step = [step for step, _ in self.loops], what.row_step
            if self.packed_row:
                self.pack(a, r_count, runs)
                a, runs, steps, row_step = self.scratch(3), [_product(f, every)], [1], self.packed_row
            loops = row_by_row(f, list(zip(runs, steps, strict=True)), blocks.row)

            at, size, rest = (a, self.scratch(1), self.scratch(0)), (r_count, columns), what.rows % tile.rows
            matrix_product(f, self.host, tile, rest, at, size, loops, (row_step, blocks.row), adds=self.adds)

        f.loop(0, what.channels, blocks.depth, some)

    def copy(self, source: Value, counts: tuple[Int, Int, Int], images: Int, lines: Int) -> None:
        """Lay out the rows that so many channels and taps along both axes meet."""
        f, points, width = self.f, self.height, self.width
        image, channel, line, _ = self.frame.sizes(self.source.strides)
        down, across = (max((taps.step for taps in each.classes), key=abs) for each in self.what.sweeps)
        shape: tuple[Int, Int] = lines, width.points
        if points.stride == 1 and width.stride == 1 and self.source.strides[2] == width.points:
            shape = 1, f.mul(lines, width.points)
        steps = channel, f.mul(down, line), across, image, f.mul(line, points.stride)
        how = Copied(*counts, images, *shape, *steps, self.plane, self.blocking.row)
        copy_taps(f, source, self.scratch(1), width.stride, how)

    def pack(self, source: Value, rows: Int, runs: Sequence[Int]) -> None:
        """Copy rows of weights, given how often each loop runs."""
        *outer, (run, _) = zip(runs, [step for step, _ in self.loops], strict=True)
        (times, far), (count, step) = [(1, 0)] * (2 - len(outer)) + outer
        how = Packed(rows, self.what.row_step, self.packed_row, times, far, count, step, run)
        pack_rows(self.f, source, self.scratch(3), how)

    def join(self, counts: Sequence[Int], taps: tuple[Met, Met]) -> None:
        """Put the results of a class between those of the others."""
        f, (n_count, r_count, p_count), (tall, wide) = self.f, counts, taps
        line = self.width.points * self.spread[1]
        plane = self.plane * math.prod(self.spread)
        how = Joined(
            r_count,
            n_count,
            p_count,
            self.width.points,
            self.blocking.row,
            self.plane,
            self.width.points,
            self.blocking.images * plane,
            plane,
            self.spread[0] * line,
            self.spread[1],
        )
        join_rows(f, self.scratch(0), self.result(0, 0, tall.first, wide.first), how)


def _product(f: Function, numbers: Sequence[Int]) -> Int:
    found: Int = 1
    for number in numbers:
        found = f.mul(found, number)
    return found
