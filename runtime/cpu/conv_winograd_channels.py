"""Convolutions of 3x3 taps, stride 1 and steady weights by the transforms of `winograd`, in float32.

The channels of the result lie in the lanes of vectors. The weights are transformed ahead and laid out in *panels* of a
few such vectors, in the order in which they are read: for each place, for each channel of the source. The transformed
tiles are read element by element, so that a few tiles leave no lanes over.

Where weights are large, a unit of work is a panel, which is read from memory once for a block of tiles that both
threads find in their caches; else, a block of tiles, which the unit transforms for itself. Tiles of 4x2 need two thirds
of the memory for the weights of those of 4x4, and tiles of 2x2 less than half; they waste less of small images, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from graphc.dims import Dim
from graphc.runtime.conv_geometry import Convolution, sweep
from graphc.runtime.cpu import conv_channels, lanes
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_source import is_channels_last, padded, stores_channels_last
from graphc.runtime.cpu.conv_taps import alike
from graphc.runtime.cpu.conv_tiles import (
    BYTES,
    FLOAT,
    LATENCY,
    PRODUCTS_PER_NS,
    VECTORS,
    Later,
    Run,
    Tile,
    even_part,
    product_tile,
    turner,
    zero_fill,
)
from graphc.runtime.cpu.conv_winograd import BATCH, DEPTH, LEAST
from graphc.runtime.cpu.conv_winograd_tiles import ChannelTiles, Grid, Tiles
from graphc.runtime.cpu.elements import Element
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.packing import LINE
from graphc.runtime.cpu.phases import Frame, KernelCode, Place
from graphc.runtime.cpu.values import I64, Int, Value, constant, vector
from graphc.runtime.cpu.winograd import TAPS, TRANSFORMS, Pass, Transform, store_column, two_passes
from graphc.runtime.strided import Strided, aligned

LARGE = 1 << 18  # elements of weights that the second cache doesn't hold beside the tiles
CACHED = 1 << 18  # elements of the transformed tiles of a block, if units are panels
MANY = 28  # tiles of such a block: one pass over each panel, so that no thread needs the tiles that others transform
FEW = 16  # tiles of a block, if it is a unit
UNITS = 8  # that there should be
SPEEDS = ((1 << 20, 8), (3 << 20, 6))  # bytes that arrive in a cycle of so many elements of large weights, at most
SLOWEST = 4  # of more, which other layers push out of the last cache, too
USED = 0.93  # part of all cycles that the direct way makes use of
TRANSFORM = 9  # cycles for each vector of a place of tiles: transformed, moved, turned
BEGINNING = 100_000  # cycles that phases take to begin, and threads to read what others have written


class Shape(NamedTuple):
    """What is computed, and how it is divided.

    Attributes:
        rows, channels: of the result and of the source.
        grid: the tiles, and blocks of them.
        tile: of a product: tiles by the vectors of a panel.
        by_panels: whether units of work are panels; else, blocks of tiles.
        cycles: that it takes, roughly.
    """

    rows: int
    channels: int
    grid: Grid
    tile: Tile
    by_panels: bool
    cycles: float


def is_served(transform: Transform, code: KernelCode, convolution: Convolution) -> bool:
    """Whether `winograd` can emit it with these tiles: weights are steady, and it `fits`."""
    return code.is_steady(1) and fits(transform, convolution, code.host)


def fits(transform: Transform, convolution: Convolution, host: Host) -> bool:
    """Whether these tiles promise to be faster than others and than none."""
    return _fastest(convolution, host) == transform


@cache  # each layer is asked about several times, and a network has many of the same shape
def _fastest(convolution: Convolution, host: Host) -> Transform | None:
    """The tiles that promise to be the fastest; None if none do."""
    if not conv_channels.fits(convolution, host) or len(convolution.axes) != 2 or convolution.groups != 1:
        return None
    if any((axis.kernel, axis.stride, axis.dilation) != (TAPS, 1, 1) for axis in convolution.axes):
        return None
    if min(int(convolution.inputs), int(convolution.outputs)) < LEAST or host.lanes(BYTES) < 4:
        return None
    cycles = {each: _shape(each, convolution, host).cycles for each in TRANSFORMS}
    found = min(cycles, key=cycles.__getitem__)
    return found if cycles[found] < 0.9 * _direct_cycles(convolution, host) else None


def winograd(transform: Transform, code: KernelCode, convolution: Convolution) -> None:
    """Emit a convolution that `is_served`."""
    source, weight = lanes.operand(code, 0), lanes.operand(code, 1)
    shape = _shape(transform, convolution, code.host)
    height, width = shape.grid.height.size, shape.grid.width.size
    if not takes_channels_last(source, shape.channels, width, code.host):
        source = padded(code, source, convolution.batch, shape.channels, (height, width), ((0, height), (0, width)))
    _Winograd(code, shape, source, weight).emit(convolution.products // (2 * PRODUCTS_PER_NS) + 1)


def _shape(transform: Transform, convolution: Convolution, host: Host) -> Shape:
    wide = host.lanes(BYTES)
    rows, channels = int(convolution.outputs), int(convolution.inputs)
    height, width = (sweep(axis, "g") for axis in convolution.axes)
    whole = Grid(transform, convolution.batch, height, width, 1, 1)
    batch = convolution.batch if isinstance(convolution.batch, int) else BATCH
    grid = whole.divided(FEW)
    size = transform.places * rows * channels
    is_large, speed = size > LARGE, next((speed for most, speed in SPEEDS if size <= most), SLOWEST)
    by_panels = is_large or batch * grid.line_blocks < UNITS * grid.images
    if by_panels:
        grid = whole.divided(max(FEW, min(MANY, CACHED // (transform.places * channels))))
    vectors = -(-rows // wide)
    blocks = -(-batch // grid.images) * grid.line_blocks

    def cycles(tile: Tile) -> float:
        passes = -(-grid.most // tile.rows)
        reads = tile.rows + 2 * tile.vectors + -(-tile.rows * BYTES // LINE)  # all lines are asked for ahead, too
        each = max(tile.rows * tile.vectors, reads, LATENCY) / 2
        all_passes = max(passes * each, is_large * tile.vectors * host.vector_bytes / speed)
        return transform.places * channels * blocks * -(-vectors // tile.vectors) * all_passes

    most = [(host.registers - 1 - count) // count for count in range(1, min(VECTORS, vectors) + 1)]
    tile = min([Tile(even_part(grid.most, rows), count) for count, rows in enumerate(most, 1)], key=cycles)
    transforms = TRANSFORM * transform.places * (rows + channels) * blocks * grid.most / wide
    return Shape(rows, channels, grid, tile, by_panels, cycles(tile) + transforms + BEGINNING)


def takes_channels_last(source: Strided, channels: int, width: int, host: Host) -> bool:
    """Whether the source lies with its channels last, and they fill vectors."""
    return channels % host.lanes(BYTES) == 0 and is_channels_last(source, channels, width)


def _direct_cycles(convolution: Convolution, host: Host) -> float:
    """What `conv_channels` takes, which leaves out products with the padding."""
    batch = convolution.batch if isinstance(convolution.batch, int) else BATCH
    products = batch * int(convolution.inputs) * int(convolution.outputs)
    for axis in convolution.axes:
        points = alike(sweep(axis, "g"), 1)
        products *= sum((end - first) * len(span.met(tap)) for first, end, span in points for tap in range(TAPS))
    return products / (2 * USED * host.lanes(BYTES))


class _Winograd:
    """The phases in the making.

    Matrices of different places lie one vector further apart than they need, so that all places, which are written at a
    time, fall into different sets of the cache.
    """

    def __init__(self, code: KernelCode, shape: Shape, source: Strided, weight: Strided) -> None:
        self.code, self.host, self.shape, self.weight = code, code.host, shape, weight
        self.places, (self.down, self.across) = shape.grid.transform.places, shape.grid.transform
        self.wide = wide = code.host.lanes(BYTES)
        self.type = vector(FLOAT, wide)
        self.panel = shape.tile.vectors * wide
        self.panels = -(-shape.rows // self.panel)
        self.weight_place = shape.channels * self.panel
        grid, tiles = shape.grid, -(-shape.grid.most // shape.tile.rows) * shape.tile.rows
        self.in_rows = not takes_channels_last(source, shape.channels, grid.width.size, code.host)
        if self.in_rows:  # a matrix has a row for each channel
            self.tile_row = -(-tiles // wide) * wide
            self.tile_place = shape.channels * self.tile_row + wide
            self.tiles: Tiles | ChannelTiles = Tiles(code, grid, source, self.tile_row, self.tile_place)
        else:  # it has one for each tile, and there is one for each vector of channels
            self.tile_row = tiles * wide
            vectors = shape.channels // wide
            self.tile_place = vectors * self.tile_row + wide
            self.tiles = ChannelTiles(code, grid, source, vectors, tiles, self.tile_place, shape.tile.rows)
        self.units = self.tiles.units if isinstance(self.tiles, ChannelTiles) else shape.channels
        self.sum_place = tiles * self.panel + wide
        self.width = grid.width.results if grid.across > 1 else self.across.results  # points from line to line
        points = grid.images * grid.lines * self.down.results * self.width + self.across.results
        points = -(-points // wide) * wide
        self.point_row = (points // wide | 1) * wide
        own = 0 if shape.by_panels else self.places * self.tile_place
        self.parts = [*self.tiles.parts, own, self.places * self.sum_place, points * self.panel]
        self.turns = not stores_channels_last(code.kernel.results[0])
        self.parts.append(self.panel * self.point_row if self.turns else 0)

    def emit(self, cost: Dim) -> None:
        """All phases: weights, perhaps tiles, products."""
        self.weights = self.code.derived(self.panels * self.places * self.weight_place * BYTES, 1)
        self.weights_phase()
        blocks = self.shape.grid.blocks
        if self.shape.by_panels:
            self.transformed = Place("workspace", self.code.workspace(blocks * self.places * self.tile_place * BYTES))
            self.tiles_phase()
        self.products_phase(blocks * self.panels if self.shape.by_panels else blocks, cost)

    def begin(self, units: Dim, cost: Dim, parts: Sequence[int]) -> tuple[Frame, list[Value]]:
        """A phase, and where parts of its scratch begin."""
        places = [0]
        for size in parts:
            places.append(places[-1] + int(aligned(size * BYTES)))
        frame = self.code.phase(units, cost, places[-1])
        return frame, [frame.f.address(frame.scratch, place, "i8") for place in places[:-1]]

    # ------------------------------------------------------------------------------------ phases

    def weights_phase(self) -> None:
        """Transform the weights of a panel in each unit."""
        shape = self.shape
        cost = shape.rows * shape.channels * self.places
        frame = self.code.phase(self.panels, cost, prepares=self.weights.is_kept)
        f = frame.f
        rows, columns = (Pass(side.lines(f).taps, TAPS, side.met) for side in (self.across, self.down))
        o_step, i_step, down, across = (frame.size(step) for step in self.weight.strides)
        steps = f.binary("mul", f.counter(self.wide), f.splat(f.i64(o_step), self.wide))

        def some(panel: Value, v: int, c: Value) -> None:
            row = f.add(f.mul(panel, self.panel), v)
            at = f.address(frame.at(self.weight, (row,)), f.mul(c, i_step), FLOAT)
            mask = f.mask(f.sub(shape.rows, row), self.wide)
            begin = f.add(f.mul(panel, self.places * self.weight_place), f.add(f.mul(c, self.panel), v))
            into = f.address(frame.memory(self.weights), begin, FLOAT)

            def load(i: Value) -> list[Value]:
                line = f.address(at, f.mul(i, down), FLOAT)
                taps = [f.addresses(f.address(line, f.mul(j, across), FLOAT), steps, FLOAT) for j in range(TAPS)]
                return [f.gather(self.type, tap, BYTES, mask) for tap in taps]

            def store(j: Value, values: Sequence[Value]) -> None:
                at = f.address(into, f.mul(j, self.weight_place), FLOAT)
                store_column(f, at, values, self.across.met, self.weight_place)

            two_passes(f, self.type, rows, columns, load, store)

        def unit(panel: Value, _: list[Value]) -> None:
            def channel(c: Value, _: list[Value]) -> None:
                for v in range(0, self.panel, self.wide):
                    some(panel, v, c)

            f.loop(0, shape.channels, 1, channel)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def tiles_phase(self) -> None:
        """Transform the tiles of one channel of a block in each unit."""
        blocks = self.shape.grid.blocks
        cost = blocks * self.places * self.tile_place // 8
        frame, memory = self.begin(blocks * self.units, cost, self.tiles.parts)
        f = frame.f
        self.tiles.enter(frame, memory)

        def unit(number: Value, _: list[Value]) -> None:
            block = f.div(number, self.units)
            target = f.address(frame.memory(self.transformed), f.mul(block, self.places * self.tile_place), FLOAT)
            self.transform(f, block, f.rem(number, self.units), target)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def products_phase(self, units: Dim, cost: Dim) -> None:
        """Multiply, and transform what comes out."""
        shape = self.shape
        frame, (*own, tiles, sums, points, turned) = self.begin(units, cost, self.parts)
        f = frame.f

        def panel_of_block(number: Value, _: list[Value]) -> None:
            block, panel = f.div(number, self.panels), f.rem(number, self.panels)
            offset = f.mul(block, self.places * self.tile_place)
            at = f.address(frame.memory(self.transformed), offset, FLOAT)
            self.products(frame, block, panel, (at, sums, points, turned))

        def block_of_tiles(block: Value, _: list[Value]) -> None:
            f.loop(0, self.units, 1, lambda unit, _: self.transform(f, block, unit, tiles))
            f.loop(0, self.panels, 1, lambda p, _: self.products(frame, block, p, (tiles, sums, points, turned)))

        if not shape.by_panels:
            self.tiles.enter(frame, own)
        f.loop(frame.low, frame.high, 1, panel_of_block if shape.by_panels else block_of_tiles)
        frame.done()

    def transform(self, f: Function, block: Int, unit: Int, target: Value) -> None:
        """Transform a part of the tiles of a block into its matrices."""
        at = f.address(target, f.mul(unit, self.tile_row), FLOAT) if self.in_rows else target
        self.tiles.transform(block, unit, at)

    def products(self, frame: Frame, block: Int, panel: Int, memory: Sequence[Value]) -> None:
        """The results of a panel in a block of tiles."""
        f, shape, grid = frame.f, self.shape, self.shape.grid
        tiles, sums, points, turned = memory
        n, n_count, line, lines = grid.block(frame, block)
        count = grid.tiles_of(f, n_count, lines)
        weights = f.address(frame.memory(self.weights), f.mul(panel, self.places * self.weight_place), FLOAT)
        f.call(self.sums(), "void", tiles, weights, sums, f.i64(count))
        tile_lines = f.div(count, grid.across)
        f.call(self.transformed_back(), "void", sums, points, f.i64(tile_lines))
        if self.turns:
            turn = turner(self.code.module, self.host, self.panel, self.point_row)
            f.call(turn, "void", points, turned, f.i64(f.mul(tile_lines, self.down.results * self.width)))
        o, top = f.mul(panel, self.panel), f.mul(line, self.down.results)
        bottom = f.min(f.add(top, f.mul(lines, self.down.results)), grid.height.results)
        o_end = f.min(f.add(o, self.panel), shape.rows)
        bounds = [(n, f.add(n, n_count)), (o, o_end), (top, bottom), (0, grid.width.results)]

        def element(index: Sequence[Int]) -> Value:
            image, row, h, w = index
            at = f.add(f.mul(f.sub(image, n), grid.lines * self.down.results), f.sub(h, top))
            point, channel = f.add(f.mul(at, self.width), w), f.sub(row, o)
            if self.turns:
                return f.address(turned, f.add(f.mul(channel, self.point_row), point), FLOAT)
            return f.address(points, f.add(f.mul(point, self.panel), channel), FLOAT)

        joins = 2 if self.width == grid.width.results else 1
        how = Element(element, "float32") if self.turns else Element(element, "float32", axis=1, across=-1)
        lanes.block(frame, 0, bounds, how, joins=joins)

    # ------------------------------------------------------------------------------------ functions

    def sums(self) -> str:
        """The function that multiplies: transformed tiles, a panel, where sums go; how many tiles."""
        name, module, shape = "sums", self.code.module, self.shape
        if module.has(name):
            return name
        pointers = [("ptr noalias", each) for each in ("tiles", "weights", "sums")]
        f = module.function(name, [*pointers, (I64, "count")], internal=True)
        tiles, weights, sums, count = (f.parameter(k) for k in range(4))
        adds, wide = shape.channels > DEPTH, self.wide
        is_large, passes = self.places * shape.rows * shape.channels > LARGE, -(-shape.grid.most // shape.tile.rows)
        lines = -(-shape.tile.vectors * self.host.vector_bytes // (passes * LINE)) if is_large else 0

        def place(p: Value, _: list[Value]) -> None:
            a, b, c = (
                f.address(at, f.mul(p, apart), FLOAT)
                for at, apart in ((tiles, self.tile_place), (weights, self.weight_place), (sums, self.sum_place))
            )

            if adds:  # here, so that they are in the first cache where they are added to
                zero_fill(f, self.host, c, self.sum_place)

            def some(k: Value, _: list[Value]) -> None:
                depth = f.min(DEPTH, f.sub(shape.channels, k))
                row, step = (k, 1) if self.in_rows else (f.div(k, wide), wide)
                loops = [Run(depth, self.tile_row, self.panel)]
                if not self.in_rows:
                    loops = [Run(f.div(depth, wide), self.tile_row, wide * self.panel), Run(wide, 1, self.panel)]

                def tile(j: Value, _: list[Value]) -> None:
                    left = f.address(a, f.add(f.mul(row, self.tile_row), f.mul(j, step)), FLOAT)
                    right = f.address(b, f.mul(k, self.panel), FLOAT)
                    at = (left, right, f.address(c, f.mul(j, self.panel), FLOAT))
                    share = f.mul(f.mul(f.div(j, shape.tile.rows), depth), lines * LINE // BYTES)
                    later = Later(f.address(right, f.add(self.weight_place, share), FLOAT), lines) if lines else None
                    fetches, rows = "second" if lines else "far", (step, self.panel)
                    product_tile(
                        f, shape.tile, at, loops, rows, adds=adds, fetches=fetches, near=self.in_rows, later=later
                    )

                f.loop(0, count, shape.tile.rows, tile)

            f.loop(0, shape.channels, DEPTH, some)

        f.loop(0, self.places, 1, place)
        f.ret()
        return name

    def transformed_back(self) -> str:
        """The function that makes points by channels of sums: from where, to where, and how many lines of tiles.

        What the last tile of a line has beyond its end falls on points of the next line, which are computed later: each
        line is gone through from its end.
        """
        name, module, grid = "points", self.code.module, self.shape.grid
        if module.has(name):
            return name
        f = module.function(name, [("ptr noalias", "sums"), ("ptr noalias", "points"), (I64, "lines")], internal=True)
        sums, points, count = (f.parameter(k) for k in range(3))
        down, across, align = self.down, self.across, self.host.vector_bytes
        first, last = (Pass(side.lines(f).results, side.met, side.results) for side in (down, across))

        def some(line: Value, column: Int, v: int) -> None:
            number = f.add(f.mul(line, grid.across), column)
            begin = f.address(sums, f.add(f.mul(number, self.panel), v), FLOAT)
            point = f.add(f.mul(line, down.results * self.width), f.mul(column, across.results))
            into = f.address(points, f.add(f.mul(point, self.panel), v), FLOAT)

            def load(j: Value) -> list[Value]:
                top = f.address(begin, f.mul(j, self.sum_place), FLOAT)
                step = across.met * self.sum_place
                return [f.load(self.type, f.address(top, i * step, FLOAT), align) for i in range(down.met)]

            def store(i: Value, values: Sequence[Value]) -> None:
                row = f.address(into, f.mul(i, self.width * self.panel), FLOAT)
                for k, value in enumerate(values):
                    f.store(value, f.address(row, k * self.panel, FLOAT), align)

            two_passes(f, self.type, first, last, load, store)

        def at_tile(line: Value, back: Value) -> None:
            for v in range(0, self.panel, self.wide):
                some(line, f.sub(constant(I64, grid.across - 1), back), v)

        f.loop(0, count, 1, lambda line, _: f.loop(0, grid.across, 1, lambda back, _: at_tile(line, back)))
        f.ret()
        return name
