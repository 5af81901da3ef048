"""Gradients of convolutions in their weights where images are a few points, in float32.

As in `conv_points`, products with zeros are left out: each tap sums over the pairs of a window and an element that it
makes meet, and over the images. Such gradients are large for what they take to compute, so each block of them is put
into the order of weights and used up, by the update that follows, while it is in the cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from graphc.runtime.conv_geometry import Convolution, two_dimensional
from graphc.runtime.cpu import lanes
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_points import LEAST, MET, POINTS, Pair, pairs
from graphc.runtime.cpu.conv_tiles import (
    BYTES,
    FLOAT,
    PRODUCTS_PER_NS,
    Tile,
    choose_tile,
    counters,
    even_part,
    nested,
    outer_product,
    rows_of_tiles,
)
from graphc.runtime.cpu.elements import Element, transposed
from graphc.runtime.cpu.phases import Frame, KernelCode, Place
from graphc.runtime.cpu.values import I64, Int, Value, constant, vector
from graphc.runtime.strided import Strided, aligned

ROWS = 32  # channels of the gradient in a unit of work, at most
COLUMNS = 8  # vectors of channels of the source in a unit, at most


def is_served(code: KernelCode, convolution: Convolution) -> bool:
    """Whether `weight_gradient` can emit it, and enough is left out."""
    if convolution.roles[2] != "w" or not convolution.is_static or len(convolution.axes) > 2:
        return False
    if not isinstance(convolution.batch, int) or convolution.batch == 0 or convolution.groups != 1:
        return False
    channels = min(int(convolution.inputs), int(convolution.outputs))
    if channels < max(LEAST, code.host.lanes(BYTES)) or math.prod(int(a.size) for a in convolution.axes) > POINTS:
        return False
    gradient = code.kernel.operands[1]
    if gradient.is_view and not all(isinstance(step, int) for step in gradient.loads[0].access.strides):
        return False
    products = math.prod(int(axis.windows) * int(axis.kernel) for axis in convolution.axes)
    return len(pairs(convolution)) <= MET * products


def weight_gradient(code: KernelCode, convolution: Convolution) -> None:
    """Emit a gradient that `is_served`."""
    operands = lanes.operand(code, 0), lanes.operand(code, 1)
    convolution, (x, g) = two_dimensional(convolution, *operands)
    _Weights(code, convolution, x, g).emit()


class _Weights:
    """The phases in the making."""

    def __init__(self, code: KernelCode, convolution: Convolution, x: Strided, g: Strided) -> None:
        self.code, self.host, self.x, self.g = code, code.host, x, g
        self.wide = code.host.lanes(BYTES)
        self.type = vector(FLOAT, self.wide)
        self.batch = int(convolution.batch) if isinstance(convolution.batch, int) else 0
        self.inputs, self.outputs = int(convolution.inputs), int(convolution.outputs)
        self.sizes = [int(axis.size) for axis in convolution.axes]
        self.windows = [int(axis.windows) for axis in convolution.axes]
        self.kernel = [int(axis.kernel) for axis in convolution.axes]
        self.taps = math.prod(self.kernel)
        self.pairs = sorted(pairs(convolution), key=lambda pair: pair.taps)
        vectors = -(-self.inputs // self.wide)
        self.columns = even_part(vectors, COLUMNS) * self.wide
        self.rows = even_part(self.outputs, ROWS)
        self.tile = choose_tile(code.host, self.rows, self.columns // self.wide)
        self.rows = -(-self.rows // self.tile.rows) * self.tile.rows
        self.columns = -(-self.columns // (self.tile.vectors * self.wide)) * self.tile.vectors * self.wide
        self.row = -(-self.inputs // self.columns) * self.columns  # of the source: channels, and zeros
        self.put_row = -(-self.columns * self.taps // self.wide) * self.wide + self.wide

    def emit(self) -> None:
        """All phases: channels of the source are put into lanes, and multiplied."""
        elements = math.prod(self.sizes)
        place = Place("workspace", self.code.workspace(elements * self.batch * self.row * BYTES))
        self.turn(place, elements)
        self.multiply(place)

    def turn(self, place: Place, elements: int) -> None:
        """All channels of one element of one image in each unit."""
        units = elements * self.batch
        frame = self.code.phase(units, units * self.row // 2)
        f = frame.f
        n_step, c_step, *steps = (frame.size(step) for step in self.x.strides)
        channels = f.binary("mul", f.counter(self.wide), f.splat(f.i64(c_step), self.wide))

        def unit(number: Value, _: list[Value]) -> None:
            *index, n = counters(f, number, [*self.sizes, self.batch])
            offset = f.mul(n, n_step)
            for i, step in zip(index, steps, strict=True):
                offset = f.add(offset, f.mul(i, step))
            source = f.address(frame.at(self.x), offset, FLOAT)
            target = f.address(frame.memory(place), f.mul(number, self.row), FLOAT)

            def some(c: Value, _: list[Value]) -> None:
                at = f.addresses(f.address(source, f.mul(c, c_step), FLOAT), channels, FLOAT)
                value = f.gather(self.type, at, BYTES, f.mask(f.sub(self.inputs, c), self.wide))
                f.store(value, f.address(target, c, FLOAT), self.host.vector_bytes)

            f.loop(0, self.row, self.wide, some)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def multiply(self, place: Place) -> None:
        """The gradients of a block of weights in each unit."""
        row_blocks, column_blocks = -(-self.outputs // self.rows), self.row // self.columns
        sums_bytes = int(aligned(self.taps * self.rows * self.columns * BYTES))
        cost = self.batch * len(self.pairs) * self.inputs * self.outputs // PRODUCTS_PER_NS
        cost += self.inputs * self.outputs * self.taps // 4
        frame = self.code.phase(row_blocks * column_blocks, cost, sums_bytes + self.rows * self.put_row * BYTES)
        f, sums = frame.f, frame.scratch
        put = f.address(sums, sums_bytes, "i8")

        def unit(number: Value, _: list[Value]) -> None:
            block, column_block = counters(f, number, [row_blocks, column_blocks])
            o, c = f.mul(block, self.rows), f.mul(column_block, self.columns)
            o_count, c_count = f.min(self.rows, f.sub(self.outputs, o)), f.min(self.columns, f.sub(self.inputs, c))
            self.sums(frame, f.address(frame.memory(place), c, FLOAT), o, o_count)
            f.call(self.put(), "void", sums, put, f.i64(o_count), f.i64(c_count))
            bounds = [(o, f.add(o, o_count)), (c, f.add(c, c_count)), *[(0, size) for size in self.kernel]]

            def element(index: Sequence[Int]) -> Value:
                row, channel, *taps = index
                tap = f.add(f.mul(taps[0], self.kernel[1]), taps[1]) if len(taps) == 2 else taps[0]
                at = f.add(f.mul(f.sub(channel, c), self.taps), tap)
                return f.address(put, f.add(f.mul(f.sub(row, o), self.put_row), at), FLOAT)

            axes = len(self.code.kernel.results[0].loops)
            bounds = bounds if axes == len(bounds) else [*bounds[:2], bounds[3]]
            lanes.block(frame, 0, bounds, Element(element, "float32"), joins=axes - 1)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def sums(self, frame: Frame, source: Value, first: Int, count: Int) -> None:
        """Sum the products of some rows: tap by tap, and tile by tile."""
        f = frame.f
        a_row = frame.size(self.g.strides[1])
        groups = [list(group) for _, group in itertools.groupby(self.pairs, lambda pair: pair.taps)]
        starts = list(itertools.accumulate(map(len, groups), initial=0))
        by_tap = {pairs[0].taps: k for k, pairs in enumerate(groups)}
        spans = [
            span
            for taps in itertools.product(*map(range, self.kernel))
            for k in [by_tap.get(taps)]
            for span in ((0, 0) if k is None else (starts[k], starts[k + 1]))
        ]
        table = self.code.module.table("spans", I64, spans)
        places = [place for pair in self.pairs for place in self.places(pair)]
        self.offsets = self.code.module.table("pairs", I64, places)

        def tap(t: Value, _: list[Value]) -> None:
            low, high = (f.load(I64, f.address(table, f.add(f.mul(t, 2), k), I64), 8) for k in (0, 1))
            into = f.address(frame.scratch, f.mul(t, self.rows * self.columns), FLOAT)

            def columns(c: Value, _: list[Value]) -> None:
                def tile(r: Int, rows: int) -> None:
                    left = f.address(frame.at(self.g), f.mul(f.add(first, r), a_row), FLOAT)
                    to = f.address(into, f.add(f.mul(r, self.columns), c), FLOAT)
                    args = (left, f.address(source, c, FLOAT), to, low, high)
                    f.call(self.tap(rows), "void", *args)

                rows_of_tiles(f, count, self.tile.rows, self.outputs % self.tile.rows, tile)

            f.loop(0, self.columns, self.tile.vectors * self.wide, columns)

        f.loop(0, self.taps, 1, tap)

    def tap(self, rows: int) -> str:
        """The function of one tap of a tile: where gradient, source and sums begin, and the first and last pair."""
        name, module = f"tap{rows}", self.code.module
        if module.has(name):
            return name
        numbers = [(I64, "low"), (I64, "high")]
        f = module.function(name, [*[("ptr noalias", each) for each in "abc"], *numbers], internal=True)
        a, b, c, low, high = (f.parameter(k) for k in range(5))
        tile, (n_step, o_step, *_) = Tile(rows, self.tile.vectors), (int(step) for step in self.g.strides)
        a_rows = [k * o_step for k in range(rows)]

        def pair(k: Value, sums: list[Value]) -> list[Value]:
            left, right = (f.load(I64, f.address(self.offsets, f.add(f.mul(k, 2), side), I64), 8) for side in (0, 1))

            def image(at: Sequence[Value], carried: list[Value]) -> list[Value]:
                return outer_product(f, self.host, tile, at[0], a_rows, at[1], self.host.vector_bytes, carried)

            places = (f.address(a, left, FLOAT), f.address(b, right, FLOAT))
            return nested(f, [(self.batch, (n_step, self.row))], places, sums, image)

        zeros = [constant(self.type, 0)] * (rows * tile.vectors)
        for k, value in enumerate(f.loop(low, high, 1, pair, zeros)):
            row, v = divmod(k, tile.vectors)
            f.store(value, f.address(c, row * self.columns + v * self.wide, FLOAT), self.host.vector_bytes)
        f.ret()
        return name

    def places(self, pair: Pair) -> tuple[int, int]:
        """Where a pair's window is in the gradient of an image, and its element in the turned source."""
        window = divmod(pair.result, self.windows[1])
        steps = [int(step) for step in self.g.strides[2:]]
        return sum(i * step for i, step in zip(window, steps, strict=True)), pair.source * self.batch * self.row

    def put(self) -> str:
        """The function that puts sums, tap by tap, into the order of weights: from where, to where, rows and channels.

        A vector of taps of one channel is stored whole: what lies behind its taps is overwritten by the next channel's.
        """
        name, module = "put", self.code.module
        if module.has(name):
            return name
        parameters = [("ptr noalias", "sums"), ("ptr noalias", "put"), (I64, "rows"), (I64, "channels")]
        f = module.function(name, parameters, internal=True)
        sums, put, rows, channels = (f.parameter(k) for k in range(4))
        apart = self.rows * self.columns

        def square(r: Value, c: Value) -> None:
            source = f.address(sums, f.add(f.mul(r, self.columns), c), FLOAT)
            target = f.address(put, f.add(f.mul(r, self.put_row), f.mul(c, self.taps)), FLOAT)
            blocks = [self.turned(f, source, apart, first) for first in range(0, self.taps, self.wide)]
            for k in range(self.wide):
                for number, block in enumerate(blocks):
                    f.store(block[k], f.address(target, k * self.taps + number * self.wide, FLOAT), BYTES)

        f.loop(0, rows, 1, lambda r, _: f.loop(0, channels, self.wide, lambda c, _: square(r, c)))
        f.ret()
        return name

    def turned(self, f: Function, source: Value, apart: int, first: int) -> list[Value]:
        """The sums of some taps of a vector of channels, channel by channel."""
        zero = constant(self.type, 0)
        taps = range(first, min(first + self.wide, self.taps))
        loaded = [f.load(self.type, f.address(source, tap * apart, FLOAT), self.host.vector_bytes) for tap in taps]
        return transposed(f, [*loaded, *[zero] * (self.wide - len(loaded))])
