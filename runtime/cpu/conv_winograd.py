"""Convolutions of 3x3 taps and stride 1, and their gradients in x, by the transforms of `winograd`, in float32.

Tiles lie in the lanes of vectors. Of a block of tiles the transformed source is, for each of the 36 places, a matrix of
channels by tiles, which the transformed weights, rows by channels, are multiplied by. The smaller one of the two is
transformed once, into workspace; the other in each unit of work, into scratch, where the products find it in the cache:
units are blocks of tiles where images are large, and chunks of rows where the weights are. Steady weights that are the
smaller one are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graphc.dims import Dim
from graphc.runtime.conv_geometry import Convolution, sweep
from graphc.runtime.cpu import conv_channels, conv_direct, lanes
from graphc.runtime.cpu.conv_product import Batch, matrix_product
from graphc.runtime.cpu.conv_rows import clear_rows
from graphc.runtime.cpu.conv_source import padded
from graphc.runtime.cpu.conv_tiles import (
    BYTES,
    FLOAT,
    Run,
    Tile,
    choose_tile,
    even_part,
    paired_part,
)
from graphc.runtime.cpu.conv_winograd_tiles import Grid, Tiles
from graphc.runtime.cpu.elements import Element
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.phases import Frame, KernelCode, Place
from graphc.runtime.cpu.values import Int, Value, vector
from graphc.runtime.cpu.winograd import FOUR, PLACES, RESULTS, TAPS
from graphc.runtime.cpu.winograd_library import Weights, transform_results, transform_weights
from graphc.runtime.strided import Strided, aligned

LEAST = 16  # channels, on both sides
BATCH = 16  # that is assumed where it isn't known
CACHED = 1 << 17  # elements of what a unit transforms for itself
WIDEST = 64  # tiles in a row
DEPTH = 128  # channels whose products are summed in one go: what rounds less
CHUNK = 48  # rows whose products are kept at a time, at most
TRANSFORM = 16  # cycles for each vector of results or of tiles' elements that is transformed, as they are moved as well


class Shape(NamedTuple):
    """What is computed, and how it is divided.

    Attributes:
        rows, channels: of the result and of the source.
        grid: the tiles, and blocks of them.
        row: distance of the rows of matrices whose columns are the tiles of a block.
        tile: of a product.
        chunk: rows whose products are kept at a time.
        by_rows: whether units of work are chunks of rows; else, blocks of tiles.
    """

    rows: int
    channels: int
    grid: Grid
    row: int
    tile: Tile
    chunk: int
    by_rows: bool


def is_profitable(convolution: Convolution, host: Host) -> bool:
    """Whether the transforms can compute what is wanted, and promise to be faster than anything else."""
    if not convolution.is_static or len(convolution.axes) != 2 or convolution.groups != 1 or host.lanes(BYTES) < 4:
        return False
    if any((axis.kernel, axis.stride, axis.dilation) != (TAPS, 1, 1) for axis in convolution.axes):
        return False
    if min(int(convolution.inputs), int(convolution.outputs)) < LEAST:
        return False
    height, width = (sweep(axis, "x" if convolution.roles[2] == "x" else "g").results for axis in convolution.axes)
    down, across = -(-height // RESULTS), -(-width // RESULTS)
    batch = convolution.batch if isinstance(convolution.batch, int) else BATCH
    wide = host.lanes(BYTES)
    vectors = -(-batch * down * across // wide)
    both, pairs = int(convolution.inputs + convolution.outputs), int(convolution.inputs * convolution.outputs)
    products = PLACES * pairs * vectors / 2
    transforms = TRANSFORM * (both * vectors + pairs / wide) * RESULTS
    plain = TAPS * TAPS * pairs * batch * height * width / wide / 2
    return across <= WIDEST and products + transforms < 0.9 * plain


def is_served(code: KernelCode, convolution: Convolution) -> bool:
    """Whether `winograd` can emit it, and promises to be faster. Steady weights have ways of their own."""
    if conv_channels.is_served(code, convolution):
        return False
    return conv_direct.is_served(code, convolution) and is_profitable(convolution, code.host)


def winograd(code: KernelCode, convolution: Convolution) -> None:
    """Emit a convolution, or its gradient in x, that `is_served`."""
    source, weight = lanes.operand(code, 0), lanes.operand(code, 1)
    shape = _shape(convolution, code.host)
    height, width = shape.grid.height.size, shape.grid.width.size
    source = padded(code, source, convolution.batch, shape.channels, (height, width), ((0, height), (0, width)))
    _Winograd(code, shape, source, weight, convolution.roles[2] == "x", convolution.products // 100 + 1).emit()


def _shape(convolution: Convolution, host: Host) -> Shape:
    wide = host.lanes(BYTES)
    role = convolution.roles[2]
    rows, channels = int(convolution.outputs), int(convolution.inputs)
    if role == "x":
        rows, channels = channels, rows
    height, width = (sweep(axis, role) for axis in convolution.axes)
    batch = convolution.batch
    grid = Grid(FOUR, batch, height, width, 1, 1)
    by_rows = (batch if isinstance(batch, int) else BATCH) * grid.down * grid.across < rows
    grid = grid.divided(wide * (4 if by_rows else max(1, min(4, CACHED // (PLACES * channels * wide)))))
    vectors = -(-grid.most // wide)
    chunk = max(2 * wide // 4, min(CHUNK, CACHED // (PLACES * channels))) if by_rows else CHUNK
    chunk = paired_part(rows, chunk) if by_rows else even_part(rows, chunk)
    tile = choose_tile(host, chunk, vectors)
    vectors = -(-vectors // tile.vectors) * tile.vectors
    chunk = -(-chunk // tile.rows) * tile.rows
    return Shape(rows, channels, grid, vectors * wide, tile, chunk, by_rows)


class _Winograd:
    """The phases in the making.

    Matrices of different places lie one vector further apart than they need, so that the 36 places that are written at
    a time fall into different sets of the cache.
    """

    def __init__(
        self, code: KernelCode, shape: Shape, source: Strided, weight: Strided, turned: bool, cost: Dim
    ) -> None:
        self.code, self.host, self.shape, self.cost = code, code.host, shape, cost
        self.weight, self.turned = weight, turned
        self.wide = code.host.lanes(BYTES)
        self.type = vector(FLOAT, self.wide)
        weights = shape.chunk if shape.by_rows else shape.rows
        self.weight_place = -(-weights * shape.channels // self.wide) * self.wide + self.wide
        self.tile_place = shape.channels * shape.row + self.wide
        self.sum_place = shape.chunk * shape.row + self.wide
        self.tiles = Tiles(code, shape.grid, source, shape.row, self.tile_place)

    def emit(self) -> None:
        """All phases: what is transformed once, and then the products."""
        shape = self.shape
        blocks = shape.grid.blocks
        weights, tiles = PLACES * self.weight_place, PLACES * self.tile_place
        self.parts = list(self.tiles.parts)
        if shape.by_rows:
            self.once = Place("workspace", self.code.workspace(blocks * tiles * BYTES))
            self.tiles_phase(blocks)
        else:
            self.once = self.code.derived(weights * BYTES, 1)
            self.weights_phase()
        own = weights if shape.by_rows else tiles
        self.parts += [own, PLACES * self.sum_place, RESULTS * RESULTS * shape.row]
        self.products_phase(-(-shape.rows // shape.chunk) if shape.by_rows else blocks)

    # ------------------------------------------------------------------------------------ memory

    def begin(self, units: Dim, cost: Dim, *, prepares: bool = False) -> Frame:
        """A phase, with its scratch divided into `parts`."""
        self.places = [0]
        for size in self.parts:
            self.places.append(self.places[-1] + int(aligned(size * BYTES)))
        self.frame = self.code.phase(units, cost, self.places[-1], prepares=prepares)
        self.f = self.frame.f
        return self.frame

    def scratch(self, part: int) -> Value:
        """Where a part of scratch begins."""
        return self.f.address(self.frame.scratch, self.places[part], "i8")

    def at_once(self, offset: Int) -> Value:
        """An element of what is transformed once."""
        return self.f.address(self.frame.memory(self.once), offset, FLOAT)

    # ------------------------------------------------------------------------------------ phases

    def weights_phase(self) -> None:
        """Transform all weights, some rows in a unit."""
        shape = self.shape
        frame = self.begin(shape.rows, shape.rows * shape.channels * 4, prepares=self.once.is_kept)
        f = frame.f

        def unit(row: Value, _: list[Value]) -> None:
            self.transform_weights(row, self.at_once(f.mul(row, shape.channels)), 1)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def tiles_phase(self, blocks: Dim) -> None:
        """Transform all tiles, one channel of a block in a unit."""
        shape = self.shape
        frame = self.begin(blocks * shape.channels, blocks * shape.channels * shape.row * 8)
        f = frame.f
        self.tiles.enter(frame, [self.scratch(0), self.scratch(1)])

        def unit(number: Value, _: list[Value]) -> None:
            block, channel = f.div(number, shape.channels), f.rem(number, shape.channels)
            target = f.add(f.mul(block, PLACES * self.tile_place), f.mul(channel, shape.row))
            self.tiles.transform(block, channel, self.at_once(target))

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def products_phase(self, units: Dim) -> None:
        """Multiply, and transform what comes out."""
        shape = self.shape
        frame = self.begin(units, self.cost)
        f = frame.f
        blocks = frame.size(shape.grid.blocks)

        def chunk_of_rows(number: Value, _: list[Value]) -> None:
            first = f.mul(number, shape.chunk)
            rows = f.min(shape.chunk, f.sub(shape.rows, first))
            self.transform_weights(first, self.scratch(2), rows)

            def block(b: Value, _: list[Value]) -> None:
                self.products(b, first, self.scratch(2), self.at_once(f.mul(b, PLACES * self.tile_place)))

            f.loop(0, blocks, 1, block)

        def block_of_tiles(number: Value, _: list[Value]) -> None:
            def channel(c: Value, _: list[Value]) -> None:
                self.tiles.transform(number, c, f.address(self.scratch(2), f.mul(c, shape.row), FLOAT))

            def chunk(first: Value, _: list[Value]) -> None:
                weights = self.at_once(f.mul(first, shape.channels))
                self.products(number, first, weights, self.scratch(2))

            f.loop(0, shape.channels, 1, channel)
            f.loop(0, shape.rows, shape.chunk, chunk)

        if not shape.by_rows:
            self.tiles.enter(frame, [self.scratch(0), self.scratch(1)])
        f.loop(frame.low, frame.high, 1, chunk_of_rows if shape.by_rows else block_of_tiles)
        frame.done()

    def products(self, block: Int, first: Int, weights: Value, tiles: Value) -> None:
        """The results of some rows in a block of tiles."""
        f, shape, grid, wide = self.f, self.shape, self.shape.grid, self.wide
        n, n_count, line, lines = grid.block(self.frame, block)
        rows = f.min(shape.chunk, f.sub(shape.rows, first))
        vectors = f.div(f.add(grid.tiles_of(f, n_count, lines), wide - 1), wide)

        def row(r: Value, _: list[Value]) -> None:
            sums = f.address(self.scratch(3), f.mul(r, shape.row), FLOAT)
            transform_results(f, sums, self.scratch(4), vectors, self.sum_place, shape.row)
            o, top = f.add(first, r), f.mul(line, RESULTS)
            bottom = f.min(f.add(top, f.mul(lines, RESULTS)), grid.height.results)
            bounds = [(n, f.add(n, n_count)), (o, f.add(o, 1)), (top, bottom), (0, grid.width.results)]

            def element(index: Sequence[Int]) -> Value:
                image, _, h, w = index
                down = f.sub(h, top)
                tile_line = f.add(f.mul(f.sub(image, n), grid.lines), f.div(down, RESULTS))
                offset = f.add(
                    f.mul(f.rem(down, RESULTS), RESULTS * shape.row), f.mul(tile_line, RESULTS * grid.across)
                )
                return f.address(self.scratch(4), f.add(offset, w), FLOAT)

            lanes.block(self.frame, 0, bounds, Element(element, "float32"))

        if shape.channels > DEPTH:
            clear_rows(f, self.scratch(3), 1, 0, 0, PLACES * self.sum_place)
        matrix_product(
            f,
            self.host,
            shape.tile,
            shape.rows % shape.tile.rows,
            (weights, tiles, self.scratch(3)),
            (rows, f.mul(vectors, wide)),
            [Run(shape.channels, 1, shape.row)],
            (shape.channels, shape.row),
            adds=shape.channels > DEPTH,
            batch=Batch(PLACES, self.weight_place, self.tile_place, self.sum_place),
            part=DEPTH,
        )
        f.loop(0, rows, 1, row)

    # ------------------------------------------------------------------------------------ addresses

    def transform_weights(self, row: Int, target: Value, rows: Int) -> None:
        """Transform rows of weights, those of transposed convolutions with their taps turned round."""
        o_step, i_step, *taps_step = (int(step) for step in self.weight.strides)
        row_step, channel_step = (i_step, o_step) if self.turned else (o_step, i_step)
        down, across = (-taps_step[0], -taps_step[1]) if self.turned else taps_step
        corner = (TAPS - 1) * sum(taps_step) if self.turned else 0
        begin = self.f.address(self.frame.at(self.weight, (0, row) if self.turned else (row, 0)), corner, FLOAT)
        how = Weights(self.shape.channels, row_step, channel_step, down, across, self.weight_place)
        transform_weights(self.f, self.host, begin, target, rows, how)
