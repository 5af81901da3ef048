"""Gradients of 3x3 convolutions of stride 1 in their weights, by the transforms of `winograd`, in float32.

Transposed, the transforms of a convolution compute its gradients: with V = B^T d B of the tiles' elements of x and
H = A h A^T of their 4x4 elements of g, it is G^T [sum of H * V over the tiles] G. Channels lie in the lanes of vectors:
for each of the 36 places, H^T V is a product of matrices whose rows are tiles. V is made once, into workspace; a unit
of work makes its channels of H, and keeps its sums in scratch until their transform is the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graphc.dims import Dim, ceil_div
from graphc.runtime.conv_geometry import Convolution, Sweep, sweep
from graphc.runtime.cpu import conv_weight, lanes
from graphc.runtime.cpu.conv_product import Batch, matrix_product
from graphc.runtime.cpu.conv_rows import clear_rows
from graphc.runtime.cpu.conv_source import turn_rows
from graphc.runtime.cpu.conv_tiles import (
    BYTES,
    FLOAT,
    Run,
    Tile,
    choose_tile,
    counters,
    even_part,
    paired_part,
)
from graphc.runtime.cpu.conv_winograd import is_profitable
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.phases import KernelCode
from graphc.runtime.cpu.values import Int, Value, vector
from graphc.runtime.cpu.winograd import PLACES, RESULTS, SIDE, TAPS
from graphc.runtime.cpu.winograd_library import Lined, transform_line, transform_sums
from graphc.runtime.strided import Strided, aligned

TILES = 64  # of a block, about: as many products are summed in one go
CACHED = 1 << 17  # elements of the sums of a unit of work
CHUNK = 48  # channels of the gradient in a unit of work, at most
UNITS = 4  # of work, about, that are made by splitting the images


class Shape(NamedTuple):
    """What is computed, and how it is divided.

    Attributes:
        height, width: the sweeps of the axes.
        down, across: tiles of an image.
        images, lines: of a block: whole images, or lines of tiles of one.
        row: distance of the rows of matrices whose columns are channels of x.
        tile: of a product.
        chunk: channels of the gradient in a unit of work.
        parts: into which the blocks are split.
    """

    batch: Dim
    inputs: int
    outputs: int
    height: Sweep
    width: Sweep
    down: int
    across: int
    images: int
    lines: int
    row: int
    tile: Tile
    chunk: int
    parts: int

    @property
    def line_blocks(self) -> int:
        """Blocks of an image that has several."""
        return -(-self.down // self.lines)

    @property
    def tiles(self) -> int:
        """Tiles of a block, at most."""
        return self.images * self.lines * self.across


def is_served(code: KernelCode, convolution: Convolution) -> bool:
    """Whether `winograd_weight` can emit it, and promises to be faster."""
    return conv_weight.is_served(code, convolution) and is_profitable(convolution, code.host)


def winograd_weight(code: KernelCode, convolution: Convolution) -> None:
    """Emit a gradient in w that `is_served`."""
    x, g = lanes.operand(code, 0), lanes.operand(code, 1)
    result = lanes.result(code, 0)
    _Winograd(code, _shape(convolution, code.host), x, g, convolution.products // 100 + 1).emit(result)
    lanes.finish(code, 0)


def _shape(convolution: Convolution, host: Host) -> Shape:
    wide = host.lanes(BYTES)
    inputs, outputs, batch = int(convolution.inputs), int(convolution.outputs), convolution.batch
    height, width = (sweep(axis, "g") for axis in convolution.axes)
    down, across = -(-height.results // RESULTS), -(-width.results // RESULTS)
    if down * across <= TILES:
        images, lines = even_part(batch, TILES // (down * across)), down
    else:
        images, lines = 1, even_part(down, max(1, TILES // across))
    most = max(wide // 2, min(CHUNK, CACHED // (PLACES * inputs)))
    vectors = -(-inputs // wide)
    part = paired_part(outputs, most)
    tile = choose_tile(host, part, vectors)
    vectors = -(-vectors // tile.vectors) * tile.vectors
    chunk = -(-part // tile.rows) * tile.rows
    parts = max(1, UNITS // -(-outputs // chunk))
    if isinstance(batch, int):
        parts = max(1, min(parts, -(-batch // images) * -(-down // lines)))
    return Shape(batch, inputs, outputs, height, width, down, across, images, lines, vectors * wide, tile, chunk, parts)


class _Winograd:
    """The phases in the making.

    Matrices of different places lie one vector further apart than they need, as in `conv_winograd`.
    """

    def __init__(self, code: KernelCode, shape: Shape, x: Strided, g: Strided, cost: Dim) -> None:
        self.code, self.host, self.shape, self.cost = code, code.host, shape, cost
        self.wide = wide = code.host.lanes(BYTES)
        self.type = vector(FLOAT, wide)
        self.x, self.g = x, g
        self.corner = (shape.height.reach[0], shape.width.reach[0])
        self.blocks = ceil_div(shape.batch, shape.images) * shape.line_blocks
        self.gradient_row = -(-shape.chunk // wide) * wide
        self.tile_place = shape.tiles * shape.row + wide
        self.gradient_place = shape.tiles * self.gradient_row + wide
        self.sum_place = shape.chunk * shape.row + wide
        self.tiles = code.workspace(self.blocks * PLACES * self.tile_place * BYTES)

    def emit(self, result: Strided) -> None:
        """All phases."""
        shape = self.shape
        sums = lanes.in_workspace(self.code, (shape.parts, TAPS, TAPS, shape.outputs, shape.row), "float32")
        self.tiles_phase()
        self.products_phase(sums)

        _, down, across, row, _ = (int(step) for step in sums.strides)
        steps = conv_weight.Steps(0, shape.outputs, row, down, across)
        size = (shape.outputs, shape.inputs, (TAPS, TAPS))
        conv_weight.put_weights(self.code, sums, shape.parts, result, size, steps)

    # ------------------------------------------------------------------------------------ phases

    def begin(self, units: Dim, cost: Dim, sizes: Sequence[int]) -> None:
        """Begin a phase, whose scratch has parts of so many elements."""
        self.places = [0]
        for size in sizes:
            self.places.append(self.places[-1] + int(aligned(size * BYTES)))
        self.frame = self.code.phase(units, cost, self.places[-1])
        self.f = self.frame.f

    def scratch(self, part: int) -> Value:
        """Where a part of scratch begins."""
        return self.f.address(self.frame.scratch, self.places[part], "i8")

    def tiles_phase(self) -> None:
        """Transform the elements of x that tiles meet, one line of tiles in a unit."""
        shape = self.shape
        units, columns = shape.batch * shape.down, shape.across * RESULTS + SIDE - RESULTS
        self.begin(units, units * shape.across * shape.inputs * RESULTS, [SIDE * columns * shape.row])
        f, frame, sizes = self.f, self.frame, (shape.height.size, shape.width.size)
        how = Lined(shape.across, columns, shape.row, self.tile_place)

        def line(unit: Value, _: list[Value]) -> None:
            n, t = f.div(unit, shape.down), f.rem(unit, shape.down)
            block = f.add(f.mul(f.div(n, shape.images), shape.line_blocks), f.div(t, shape.lines))
            inside = f.add(f.mul(f.rem(n, shape.images), shape.lines), f.rem(t, shape.lines))
            spans = ((f.add(f.mul(t, RESULTS), self.corner[0]), SIDE), (self.corner[1], columns))
            turn_rows(frame, self.x, (n, 0), self.scratch(0), shape.inputs, shape.row, sizes, spans)
            into = self.tiles_at(block, f.mul(f.mul(inside, shape.across), shape.row))
            transform_line(f, "source", self.scratch(0), into, how)

        f.loop(frame.low, frame.high, 1, line)
        frame.done()

    def products_phase(self, sums: Strided) -> None:
        """Sum the products of some channels of the gradient over a part of the blocks, and transform the sums."""
        shape = self.shape
        chunks = -(-shape.outputs // shape.chunk)
        line = RESULTS * RESULTS * shape.across * self.gradient_row
        self.begin(shape.parts * chunks, self.cost, [PLACES * self.sum_place, PLACES * self.gradient_place, line])
        f, frame = self.f, self.frame
        blocks, (_, down, across, *_) = frame.size(self.blocks), (int(step) for step in sums.strides)
        taps = (down, across)

        def unit(number: Value, _: list[Value]) -> None:
            part, chunk = counters(f, number, [shape.parts, chunks])
            low, high = (f.div(f.mul(f.add(part, k), blocks), shape.parts) for k in (0, 1))
            first = f.mul(chunk, shape.chunk)
            rows = f.min(shape.chunk, f.sub(shape.outputs, first))
            clear_rows(f, self.scratch(0), 1, 0, 0, PLACES * self.sum_place)
            f.loop(low, high, 1, lambda block, _: self.block(block, first, rows))

            def row(r: Value, _: list[Value]) -> None:
                into = frame.at(sums, (part, 0, 0, f.add(first, r)))
                at = f.address(self.scratch(0), f.mul(r, shape.row), FLOAT)
                transform_sums(f, at, into, shape.row, self.sum_place, taps)

            f.loop(0, rows, 1, row)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def tiles_at(self, block: Int, offset: Int) -> Value:
        """An element of the transformed tiles of a block."""
        f = self.f
        at = f.add(f.mul(block, PLACES * self.tile_place), offset)
        return f.address(self.frame.workspace(self.tiles), at, FLOAT)

    def block(self, block: Int, first: Int, rows: Int) -> None:
        """Add the products of some channels of the gradient with a block."""
        f, frame, shape = self.f, self.frame, self.shape
        images, lines = counters(f, block, [0, shape.line_blocks])
        n, line = f.mul(images, shape.images), f.mul(lines, shape.lines)
        n_count = f.min(shape.images, f.sub(frame.size(shape.batch), n))
        lines_count = f.min(shape.lines, f.sub(shape.down, line))
        results = (shape.height.results, shape.width.results)
        how = Lined(shape.across, shape.across * RESULTS, self.gradient_row, self.gradient_place)

        def tiles(image: Value, t: Value) -> None:
            spans = ((f.mul(f.add(line, t), RESULTS), RESULTS), (0, shape.across * RESULTS))
            index = (f.add(n, image), first)
            turn_rows(frame, self.g, index, self.scratch(2), rows, self.gradient_row, results, spans)
            inside = f.mul(f.add(f.mul(image, shape.lines), t), shape.across * self.gradient_row)
            transform_line(f, "gradients", self.scratch(2), f.address(self.scratch(1), inside, FLOAT), how)

        f.loop(0, n_count, 1, lambda image, _: f.loop(0, lines_count, 1, lambda t, _: tiles(image, t)))
        count = f.mul(f.add(f.mul(f.sub(n_count, 1), shape.lines), lines_count), shape.across)
        matrix_product(
            f,
            self.host,
            shape.tile,
            shape.outputs % shape.tile.rows,
            (self.scratch(1), self.tiles_at(block, 0), self.scratch(0)),
            (rows, shape.row),
            [Run(count, self.gradient_row, shape.row)],
            (1, shape.row),
            batch=Batch(PLACES, self.gradient_place, self.tile_place, self.sum_place),
        )
