"""Convolutions to few channels, and gradients in x of those from few channels, in float32 and with stride 1.

To copy shifted parts of the source, as `conv_direct` does, would cost as much as to multiply them by a few weights. So
tiles read the source in place: each line of results is vectors of its own, the last of which may be partly in vain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.dims import Dim
from graphc.runtime.conv_geometry import Convolution, sweep
from graphc.runtime.cpu import conv_direct, lanes
from graphc.runtime.cpu.conv_direct import Direct
from graphc.runtime.cpu.conv_source import padded
from graphc.runtime.cpu.conv_tiles import (
    BYTES,
    FLOAT,
    PRODUCTS_PER_NS,
    VECTORS,
    Tile,
    counters,
    cycles_of,
    even_part,
    nested,
    outer_product,
    put_tile,
    rows_of_tiles,
)
from graphc.runtime.cpu.elements import Element
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.phases import KernelCode
from graphc.runtime.cpu.values import Int, Value, constant, vector
from graphc.runtime.strided import Strided

FEW = 16  # channels of the result in a group, at most
DEPTH = 1024  # products of one result, at most: they are summed in one go
USED = 0.6  # of the lanes, at least
COLUMNS = 64  # vectors of a block, about


def is_served(code: KernelCode, convolution: Convolution) -> bool:
    """Whether `few` can emit it, faster than `direct` does."""
    if not conv_direct.is_served(code, convolution) or any(axis.stride != 1 for axis in convolution.axes):
        return False
    rows, channels = int(convolution.outputs), int(convolution.inputs)
    if convolution.roles[2] == "x":
        rows, channels = channels, rows
    depth = channels * math.prod(int(axis.kernel) for axis in convolution.axes)
    width, wide = sweep(convolution.axes[-1], convolution.roles[2]).points, code.host.lanes(BYTES)
    return rows <= FEW and channels < depth <= DEPTH and width >= USED * wide * -(-width // wide)


def few(code: KernelCode, convolution: Convolution) -> None:
    """Emit a convolution, or its gradient in x, that `is_served`."""
    source, weight = lanes.operand(code, 0), lanes.operand(code, 1)
    what, source, weight = conv_direct.described(convolution, source, weight)
    _Few(code, what, source, weight).emit(convolution.products // PRODUCTS_PER_NS + 1)


def _tile(host: Host, rows: int, line: int) -> Tile:
    """The best tile of which some make a line of so many vectors, or that is made of some lines."""
    widths = [n for n in range(1, VECTORS + 1) if n % line == 0 or line % n == 0]
    tiles = [Tile(even_part(rows, (host.registers - 1 - n) // n), n) for n in widths]
    return min(tiles, key=lambda tile: cycles_of(tile, rows, math.lcm(line, *widths)))


class _Few:
    """The phases in the making.

    Attributes:
        line: vectors of a line of results.
        lines: of a tile.
        rows: distance of the rows of a block's results, in elements.
    """

    def __init__(self, code: KernelCode, what: Direct, source: Strided, weight: Strided) -> None:
        self.code, self.host, self.what, self.weight = code, code.host, what, weight
        self.wide = code.host.lanes(BYTES)
        self.height, self.width = what.sweeps
        self.line = -(-self.width.points // self.wide)
        self.tile = _tile(code.host, what.rows, self.line)
        self.lines = max(1, self.tile.vectors // self.line)
        height = even_part(self.height.points, max(self.lines, COLUMNS // self.line))
        self.block_height = -(-height // self.lines) * self.lines
        self.blocks = -(-self.height.points // self.block_height) if self.height.points else 0
        self.row = (self.block_height * self.line | 1) * self.wide
        (top, bottom), (left, right) = (each.reach for each in what.sweeps)
        bottom += self.blocks * self.block_height - self.height.points
        right += self.line * self.wide - self.width.points
        sizes = (self.height.size, self.width.size)
        channels = what.groups * what.channels
        self.source = padded(code, source, what.batch, channels, sizes, ((top, bottom), (left, right)))

    def emit(self, cost: Dim) -> None:
        """The phase that multiplies."""
        what = self.what
        units = what.batch * what.groups * self.blocks
        self.frame = frame = self.code.phase(units, cost, what.rows * self.row * BYTES)
        f = self.f = frame.f

        def unit(number: Value, _: list[Value]) -> None:
            n, group, block = counters(f, number, [0, what.groups, self.blocks])
            p = f.mul(block, self.block_height)
            self.block(n, group, p, f.min(self.block_height, f.sub(self.height.points, p)))

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def block(self, n: Int, group: Int, p: Int, count: Int) -> None:
        """The results of a group in some lines of an image."""
        f, frame, what, tile = self.f, self.frame, self.what, self.tile
        tall, wide = (each.classes[0] for each in what.sweeps)
        weights = f.address(frame.at(self.weight), f.mul(group, what.group_step), FLOAT)
        channel, top = f.mul(group, what.channels), f.add(p, tall.start)

        def line(i: Value, _: list[Value]) -> None:
            def piece(j: Value, _: list[Value]) -> None:
                w = f.add(f.mul(j, self.wide), wide.start)
                b = frame.at(self.source, (n, channel, f.add(top, i), w))
                column = f.mul(f.add(f.mul(i, self.line), j), self.wide)

                def product(r: Int, rows: int) -> None:
                    a = f.address(weights, f.mul(r, what.row_step), FLOAT)
                    c = f.address(frame.scratch, f.add(f.mul(r, self.row), column), FLOAT)
                    f.call(self.product(rows), "void", a, b, c)

                rows_of_tiles(f, what.rows, tile.rows, what.rows % tile.rows, product)

            f.loop(0, self.line, tile.vectors, piece)

        f.loop(0, count, self.lines, line)
        o = f.mul(group, what.rows)
        bounds = [(n, f.add(n, 1)), (o, f.add(o, what.rows)), (p, f.add(p, count)), (0, self.width.results)]
        axes = [k for k in range(4) if k != 2 or len(self.code.kernel.results[0].loops) == 4]

        def element(index: Sequence[Int]) -> Value:
            place = dict(zip(axes, index, strict=True))
            column = f.add(f.mul(f.sub(place.get(2, p), p), self.line * self.wide), place[3])
            return f.address(frame.scratch, f.add(f.mul(f.sub(place[1], o), self.row), column), FLOAT)

        lanes.block(frame, 0, [bounds[k] for k in axes], Element(element, "float32"))

    def product(self, rows: int) -> str:
        """The function of a tile of so many rows: where the weights, the source and the results begin."""
        module, what, name = self.code.module, self.what, f"few{rows}"
        if module.has(name):
            return name
        f = module.function(name, [("ptr noalias", letter) for letter in "abc"], internal=True)
        a, b, c = (f.parameter(k) for k in range(3))
        tile = self.tile._replace(rows=rows)
        plane, line, _ = (int(step) for step in self.source.strides[1:])
        places = [k // self.line * line + k % self.line * self.wide for k in range(tile.vectors)]
        tall, wide = (each.classes[0] for each in what.sweeps)
        loops = [
            (what.channels, (what.channel_step, plane)),
            (tall.met, (what.taps_step[0], tall.step * line)),
            (wide.met, (what.taps_step[1], wide.step)),
        ]

        def step(starts: Sequence[Value], sums: list[Value]) -> list[Value]:
            left, right = starts
            return outer_product(f, self.host, tile, left, distances, right, BYTES, sums, places)

        distances = [k * what.row_step for k in range(rows)]
        zeros = [constant(vector(FLOAT, self.wide), 0)] * (rows * tile.vectors)
        put_tile(f, self.host, tile, c, self.row, nested(f, loops, (a, b), zeros, step), adds=False)
        f.ret()
        return name
