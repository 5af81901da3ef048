"""Convolutions with steady weights, in float32: the channels of the result lie in the lanes of vectors.

The weights are packed ahead, once: a *panel* has, for each channel of the source and each tap, the weights of a few
vectors of result channels, in the order in which they are read. The source is read in place, element by element: each
is the factor of a panel's vectors. So no rows are copied, whatever the stride, and no lane is left over however few
points there are. The sums of a block of points are turned in the end, so that points are contiguous.

A few taps are written out by `conv_taps`, which leaves out what they meet outside of the source; otherwise there are
zeros around it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from graphc.dims import Dim, ceil_div
from graphc.runtime.conv_geometry import Convolution, Sweep, sweep, two_dimensional
from graphc.runtime.cpu import conv_taps, lanes
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_source import is_channels_last, padded, padded_pixels, stored, stores_channels_last
from graphc.runtime.cpu.conv_taps import Ahead, Group, Taps, alike, repeated, taps_tile
from graphc.runtime.cpu.conv_tiles import (
    BYTES,
    FLOAT,
    PRODUCTS_PER_NS,
    VECTORS,
    Lines,
    Run,
    Tile,
    counters,
    cycles_of,
    even_part,
    product_tile,
    rows_of_tiles,
    turner,
    zero_fill,
)
from graphc.runtime.cpu.elements import Element
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.phases import KernelCode, Place
from graphc.runtime.cpu.values import I64, Int, Value, vector
from graphc.runtime.strided import Strided, aligned

POINTS = 256  # of a block, about
DEPTH = 192  # products that are summed in one go, about: a part of a panel that stays in the first cache
WASTE = 1.25  # times the lanes that are needed, at most


class Shape(NamedTuple):
    """What is computed, and how it is divided.

    Attributes:
        rows, channels: of the result and of the source, in a group.
        images, height: of a block: some whole images, or some rows of one.
        depth: channels of the source whose products are summed in one go.
        tile: points by the vectors of a panel.
        down, across: the points of a tile: lines, and of each the points; several lines if they are whole.
    """

    batch: Dim
    groups: int
    rows: int
    channels: int
    sweeps: tuple[Sweep, Sweep]
    images: int
    height: int
    depth: int
    tile: Tile
    down: int
    across: int

    @property
    def taps(self) -> tuple[int, int]:
        """Along height and width."""
        first, second = (each.classes[0].met for each in self.sweeps)
        return first, second

    @property
    def width(self) -> int:
        """Points of a row."""
        return self.sweeps[1].points

    @property
    def tiles(self) -> int:
        """Tiles of a block."""
        return self.images * -(-self.height // self.down) * -(-self.width // self.across)

    @property
    def is_written_out(self) -> bool:
        """Whether taps are written out, and the source has no zeros around it."""
        return conv_taps.is_served(self.taps, self.down)


def is_served(code: KernelCode, convolution: Convolution) -> bool:
    """Whether `channels` can emit it: weights are steady, and it `fits`."""
    return fits(convolution, code.host) and code.is_steady(1)


def fits(convolution: Convolution, host: Host) -> bool:
    """Whether all sizes but the batch are known, and lanes are used."""
    if convolution.roles[2] != "g" or not convolution.is_static or len(convolution.axes) > 2:
        return False
    wide, rows = host.lanes(BYTES), int(convolution.outputs)
    is_product = all((axis.kernel, axis.stride, axis.before) == (1, 1, 0) for axis in convolution.axes)
    if is_product and math.prod(int(axis.windows) for axis in convolution.axes) > 2 * POINTS:
        return False  # there is nothing to copy, and much to turn
    return -(-rows // wide) * wide <= WASTE * rows


def channels(code: KernelCode, convolution: Convolution) -> None:
    """Emit a convolution that `is_served`."""
    operands = lanes.operand(code, 0), lanes.operand(code, 1)
    convolution, (source, weight) = two_dimensional(convolution, *operands)
    shape = _shape(convolution, code.host)
    height, width = shape.sweeps
    sizes = height.size, width.size
    spans = ((0, height.size), (0, width.size)) if shape.is_written_out else (height.reach, width.reach)
    total = shape.groups * shape.channels
    lay = padded_pixels if is_channels_last(source, total, width.size) else padded
    source = lay(code, source, shape.batch, total, sizes, spans)
    _Channels(code, shape, source, weight).emit(convolution.products // PRODUCTS_PER_NS + 1)


def _shape(convolution: Convolution, host: Host) -> Shape:
    height, width = (sweep(axis, "g") for axis in convolution.axes)
    rows, inputs = int(convolution.outputs), int(convolution.inputs)
    plane = height.points * width.points
    images = even_part(convolution.batch, POINTS // plane) if plane <= POINTS else 1
    tile, down, across = _tile(host, height.points, width.points, -(-rows // host.lanes(BYTES)))
    lines = height.points if plane <= POINTS else even_part(height.points, max(1, POINTS // width.points))
    taps = height.classes[0].met * width.classes[0].met
    return Shape(
        convolution.batch,
        convolution.groups,
        rows,
        inputs,
        (height, width),
        images,
        -(-lines // down) * down if lines < height.points else lines,
        even_part(inputs, max(1, DEPTH // taps)),
        tile,
        down,
        across,
    )


def _tile(host: Host, lines: int, width: int, vectors: int) -> tuple[Tile, int, int]:
    """The tile that takes the fewest cycles for all points and vectors; its lines, and points of a line.

    All else equal, it is that of fewer vectors: panels are read from afar, the source is in the first cache.
    """
    found = []
    for wide in range(1, min(VECTORS, vectors) + 1):
        most = (host.registers - 1 - wide) // wide
        down = even_part(lines, max(1, most // width))
        across = even_part(width, most)
        tile = Tile(down * across, wide)
        whole, rest = divmod(lines, down)
        if down > 1:
            cycles = whole * cycles_of(tile, tile.rows, vectors) + cycles_of(tile, rest * across, vectors)
        else:
            cycles = lines * cycles_of(tile, width, vectors)
        found.append((max(cycles, 0), wide, (tile, down, across)))
    return min(found)[2]


Places = tuple[Value, Value, Value, Value]  # of the source, the weights, the sums and the results


class _Channels:
    """The phases in the making."""

    def __init__(self, code: KernelCode, shape: Shape, source: Strided, weight: Strided) -> None:
        self.code, self.host, self.shape = code, code.host, shape
        self.source, self.weight = source, weight
        self.wide = code.host.lanes(BYTES)
        self.type = vector(FLOAT, self.wide)
        self.panel = shape.tile.vectors * self.wide  # result channels of a panel
        self.panels = -(-shape.rows // self.panel)
        self.panel_size = shape.channels * shape.taps[0] * shape.taps[1] * self.panel
        points = -(-shape.images * shape.height * shape.width // self.wide) * self.wide
        self.row = (points // self.wide | 1) * self.wide  # of points, turned; rows fall into all sets of the cache
        region = code.kernel.results[0]
        self.turns = not stores_channels_last(region)
        self.stored = None if self.turns or shape.depth < shape.channels else stored(region)
        sizes = [points * self.panel, self.panel * self.row if self.turns else 0]
        self.places = [0, int(aligned(sizes[0] * BYTES))]
        self.scratch_bytes = self.places[1] + int(aligned(sizes[1] * BYTES))

    def emit(self, cost: Dim) -> None:
        """All phases: the weights are packed, and multiplied."""
        packed = self.code.derived(self.shape.groups * self.panels * self.panel_size * BYTES, 1)
        self.pack(packed)
        self.multiply(packed, cost)

    def pack(self, packed: Place) -> None:
        """Lay out the weights of one panel in each unit."""
        shape = self.shape
        units = shape.groups * self.panels
        frame = self.code.phase(units, units * self.panel_size, prepares=packed.is_kept)
        f = frame.f
        o_step, i_step, *tap_steps = (frame.size(step) for step in self.weight.strides)
        steps = f.binary("mul", f.counter(self.wide), f.splat(f.i64(o_step), self.wide))

        def panel(unit: Value, _: list[Value]) -> None:
            group, number = counters(f, unit, [shape.groups, self.panels])
            first = f.mul(number, self.panel)
            source = frame.at(self.weight, (f.add(f.mul(group, shape.rows), first),))
            target = f.address(frame.memory(packed), f.mul(unit, self.panel_size), FLOAT)
            columns = [
                (f.address(source, f.mul(v, o_step), FLOAT), f.mask(f.sub(shape.rows, f.add(first, v)), self.wide))
                for v in range(0, self.panel, self.wide)
            ]

            def at(index: Sequence[Value]) -> None:
                offset: Int = 0
                number: Int = 0
                for i, step, count in zip(index, (i_step, *tap_steps), (1, *shape.taps), strict=True):
                    offset, number = f.add(offset, f.mul(i, step)), f.add(f.mul(number, count), i)
                into = f.address(target, f.mul(number, self.panel), FLOAT)
                for v, (column, mask) in enumerate(columns):
                    addresses = f.addresses(f.address(column, offset, FLOAT), steps, FLOAT)
                    value = f.gather(self.type, addresses, BYTES, mask)
                    f.store(value, f.address(into, v * self.wide, FLOAT), self.host.vector_bytes)

            def over(counts: Sequence[int], index: Sequence[Value]) -> None:
                if counts:
                    f.loop(0, counts[0], 1, lambda i, _: over(counts[1:], (*index, i)))
                else:
                    at(index)

            over((shape.channels, *shape.taps), ())

        f.loop(frame.low, frame.high, 1, panel)
        frame.done()

    def multiply(self, packed: Place, cost: Dim) -> None:
        """The results of one panel in one block of points in each unit."""
        shape = self.shape
        image_blocks, lines = ceil_div(shape.batch, shape.images), shape.sweeps[0].points
        line_blocks = -(-lines // shape.height)
        units = image_blocks * line_blocks * shape.groups * self.panels
        frame = self.code.phase(units, cost, self.scratch_bytes)
        f = frame.f
        batch = frame.size(shape.batch)
        sums, turned = (f.address(frame.scratch, place, "i8") for place in self.places)

        def unit(number: Value, _: list[Value]) -> None:
            sizes = [frame.size(image_blocks), line_blocks, shape.groups, self.panels]
            image_block, line_block, group, panel = counters(f, number, sizes)
            n, p = f.mul(image_block, shape.images), f.mul(line_block, shape.height)
            n_count, p_count = f.min(shape.images, f.sub(batch, n)), f.min(shape.height, f.sub(lines, p))
            count = f.mul(f.mul(n_count, p_count), shape.width)
            which = f.add(f.mul(group, self.panels), panel)
            weights = f.address(frame.memory(packed), f.mul(which, self.panel_size), FLOAT)
            source = frame.at(self.source, (n, f.mul(group, shape.channels), *self.corner(f, p)))
            if shape.depth < shape.channels:
                zero_fill(f, self.host, sums, f.mul(count, self.panel))
            args = [n_count, p_count, frame.size(self.source.strides[0]), p]
            first = f.mul(panel, self.panel)
            o = f.add(f.mul(group, shape.rows), first)
            results = sums if self.stored is None else frame.at(self.stored, (n, o, p, 0))
            f.call(self.sums(), "void", source, weights, sums, results, *map(f.i64, args))
            if self.turns:
                turn = turner(self.code.module, self.host, self.panel, self.row)
                f.call(turn, "void", sums, turned, f.i64(count))
            o_count = f.min(self.panel, f.sub(shape.rows, first))
            bounds = [(n, f.add(n, n_count)), (o, f.add(o, o_count)), (p, f.add(p, p_count)), (0, shape.width)]

            def element(index: Sequence[Int]) -> Value:
                i, j, *point = index
                h, w = point if len(point) == 2 else (0, *point)
                line = f.add(f.mul(f.sub(i, n), shape.height), f.sub(h, p))
                row, column = f.sub(j, o), f.add(f.mul(line, shape.width), w)
                if self.turns:
                    return f.address(turned, f.add(f.mul(row, self.row), column), FLOAT)
                return f.address(sums, f.add(f.mul(column, self.panel), row), FLOAT)

            is_flat = len(self.code.kernel.results[0].loops) < len(bounds)
            box = [*bounds[:2], *bounds[3:]] if is_flat else bounds
            how = Element(element, "float32") if self.turns else Element(element, "float32", axis=1, across=-1)
            lanes.block(frame, 0, box, how, joins=1 if is_flat else 2)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def corner(self, f: Function, line: Int) -> tuple[Int, Int]:
        """The element of the source that the first tap of the first point of a line meets."""
        height, width = self.shape.sweeps
        return f.add(f.mul(line, height.stride), height.classes[0].start), width.classes[0].start

    def sums(self) -> str:
        """The function that sums the products of a block: from source and weights to sums of points by channels.

        Its other parameters: where the results will be stored, if that is known; how many images and lines, the
        distance of images in the source, and the first line.
        """
        name, module, shape = "sums", self.code.module, self.shape
        if module.has(name):
            return name
        pointers, numbers = ("source", "weights", "target", "results"), ("images", "lines", "image_step", "top")
        parameters = [*(("ptr noalias", pointer) for pointer in pointers), *((I64, number) for number in numbers)]
        f = module.function(name, parameters, internal=True)
        source, weights, target, results, *counts = (f.parameter(k) for k in range(8))
        body = self.tiles_written_out if shape.is_written_out else self.tiles

        def some(c: Value, _: list[Value]) -> None:
            b = f.address(weights, f.mul(c, math.prod(shape.taps) * self.panel), FLOAT)
            body(f, (source, b, target, results), c, counts)

        f.loop(0, shape.channels, shape.depth, some)
        f.ret()
        return name

    def tiles_written_out(self, f: Function, places: Places, c: Value, numbers: Sequence[Value]) -> None:
        """The products of some channels from `c` on, tile by tile; those that meet the same in a loop."""
        shape, (source, b, target, results), (images, lines, image_step, top) = self.shape, places, numbers
        channel, line, pixel = (int(step) for step in self.source.strides[1:])
        height, width = shape.sweeps
        depth, ahead = f.min(shape.depth, f.sub(shape.channels, c)), self.ahead()

        def far(n: Value, p: Value, j: Value) -> Value:
            """The part of what lies far away that a tile asks for: all tiles wait for memory equally little."""
            if self.stored is not None:
                image, _, *line, point = (int(step) for step in self.stored.strides)
                return f.address(results, f.add(f.mul(n, image), f.add(f.mul(p, sum(line)), f.mul(j, point))), FLOAT)
            row = f.add(f.mul(n, -(-shape.height // shape.down)), f.div(p, shape.down))
            tile = f.add(f.mul(row, -(-shape.width // shape.across)), f.div(j, shape.across))
            some = shape.depth * math.prod(shape.taps) * self.panel
            return f.address(b, f.add(some, f.mul(tile, some // shape.tiles)), FLOAT)

        def group(n: Value, down: Group, across: Group) -> None:
            taps = Taps(shape.tile.vectors, line, pixel, down.span, across.span)

            def tile(p: Value, j: Value) -> None:
                row = f.add(f.mul(p, line * height.stride), f.mul(j, pixel * width.stride))
                place = f.add(f.add(f.mul(n, image_step), f.mul(c, channel)), row)
                number = f.add(f.mul(f.add(f.mul(n, shape.height), p), shape.width), j)
                into = f.address(target, f.mul(number, self.panel), FLOAT)
                at = f.address(source, place, FLOAT), b, into, far(n, p, j)
                taps_tile(f, self.host, taps, at, depth, channel, adds=shape.depth < shape.channels, ahead=ahead)

            def at_line(p: Value, _: list[Value]) -> None:
                f.loop(across.first, across.end, shape.across, lambda j, _: tile(p, j))

            low, high = f.max(f.sub(down.first, top), 0), f.min(f.sub(down.end, top), lines)
            f.loop(low, high, shape.down, at_line)

        def at_image(n: Value, _: list[Value]) -> None:
            for groups in itertools.product(alike(height, shape.down), alike(width, shape.across)):
                group(n, *groups)

        f.loop(0, images, 1, at_image)

    def ahead(self) -> Ahead:
        """What a tile asks for: where its results go, if no more channels follow; else its part of later weights."""
        shape, repetitions = self.shape, repeated(self.shape.taps)
        if self.stored is not None:
            rows = -(-shape.tile.rows // (shape.depth * repetitions))
            return Ahead(rows, shape.tile.vectors, int(self.stored.strides[-1]), writes=True)
        vectors = -(-shape.tile.vectors * math.prod(shape.taps) // (repetitions * shape.tiles))
        return Ahead(1, vectors, vectors * self.wide, writes=False)

    def tiles(self, f: Function, places: Places, c: Value, numbers: Sequence[Value]) -> None:
        """The same where taps are loops, and zeros lie around the source."""
        shape, (source, b, target, _), (images, lines, image_step, _) = self.shape, places, numbers
        channel, line, pixel = (int(step) for step in self.source.strides[1:])
        height, width = shape.sweeps
        down, across = shape.taps
        apart = pixel * width.stride
        depth = f.min(shape.depth, f.sub(shape.channels, c))
        runs = [
            Run(depth, channel, down * across * self.panel),
            Run(down, line * height.classes[0].step, across * self.panel),
            Run(across, pixel * width.classes[0].step, self.panel),
        ]
        loops = [run for run in runs if run.times != 1]

        def at_lines(n: Int, p: Int, count: int) -> None:
            place = f.add(f.mul(n, image_step), f.add(f.mul(c, channel), f.mul(p, line * height.stride)))
            number = f.mul(f.add(f.mul(n, shape.height), p), shape.width)

            def tile(j: Int, points: int) -> None:
                a = f.address(source, f.add(place, f.mul(j, apart)), FLOAT)
                into = f.address(target, f.mul(f.add(number, j), self.panel), FLOAT)
                what = Tile(count * points, shape.tile.vectors)
                a_rows = apart if count == 1 else Lines(points, apart, line * height.stride)
                adds = shape.depth < shape.channels
                product_tile(f, what, (a, b, into), loops, (a_rows, self.panel), adds=adds, fetches="far")

            rows_of_tiles(f, shape.width, shape.across, shape.width % shape.across, tile)

        def at_image(n: Int) -> None:
            rest = height.points % shape.down
            rows_of_tiles(f, lines, shape.down, rest, lambda p, count: at_lines(n, p, count))

        f.loop(0, images, 1, lambda n, _: at_image(n))
