"""Gradients of convolutions in their weights where images are a few points, in float32.

As in `conv_points`, products with zeros are left out: each tap sums over the pairs of a window and an element that it
makes meet, and over the images. Such gradients are large for what they take to compute, so each block of them is put
into the order of weights and used up, by the update that follows, while it is in the cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from graphc.runtime.conv_geometry import Convolution, two_dimensional
from graphc.runtime.cpu import lanes, shared
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_points import LEAST, MET, POINTS, Pair, pairs
from graphc.runtime.cpu.conv_tiles import (
    BYTES,
    FLOAT,
    PRODUCTS_PER_NS,
    STRIDED,
    Tile,
    choose_tile,
    counters,
    even_part,
    nested,
    outer_product,
    put_tile,
    rows_of_tiles,
)
from graphc.runtime.cpu.elements import Element, transposed
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.phases import Frame, KernelCode, Place
from graphc.runtime.cpu.shared import Shared
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
            how = Put(o_count, c_count, self.columns, self.rows * self.columns, self.put_row)
            put_in_order(f, sums, put, self.taps, how)
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
        offsets = self.code.module.table("pairs", I64, places)
        n_step, o_step, *_ = (int(step) for step in self.g.strides)

        def tap(t: Value, _: list[Value]) -> None:
            low, high = (f.load(I64, f.address(table, f.add(f.mul(t, 2), k), I64), 8) for k in (0, 1))
            into = f.address(frame.scratch, f.mul(t, self.rows * self.columns), FLOAT)

            def columns(c: Value, _: list[Value]) -> None:
                def tile(r: Int, rows: int) -> None:
                    left = f.address(frame.at(self.g), f.mul(f.add(first, r), a_row), FLOAT)
                    to = f.address(into, f.add(f.mul(r, self.columns), c), FLOAT)
                    how = Tapped(low, high, o_step, self.batch, n_step, self.row, self.columns)
                    at = (left, f.address(source, c, FLOAT), to, offsets)
                    sum_pairs(f, Tile(rows, self.tile.vectors), at, how)

                rows_of_tiles(f, count, self.tile.rows, self.outputs % self.tile.rows, tile)

            f.loop(0, self.columns, self.tile.vectors * self.wide, columns)

        f.loop(0, self.taps, 1, tap)

    def places(self, pair: Pair) -> tuple[int, int]:
        """Where a pair's window is in the gradient of an image, and its element in the turned source."""
        window = divmod(pair.result, self.windows[1])
        steps = [int(step) for step in self.g.strides[2:]]
        return sum(i * step for i, step in zip(window, steps, strict=True)), pair.source * self.batch * self.row


class Tapped(NamedTuple):
    """The pairs of a tap, and how what they meet lies; distances are in elements.

    Attributes:
        low, high: the first pair and the last (exclusive).
        rows: distance of the tile's rows in the gradient.
        images: how many.
        left, right: distances of images in the gradient and in the source.
        columns: distance of the tile's rows in the sums.
    """

    low: Int
    high: Int
    rows: Int
    images: Int
    left: Int
    right: Int
    columns: Int


def sum_pairs(f: Function, tile: Tile, places: Sequence[Value], how: Tapped) -> None:
    """Sum the products of one tap for a tile.

    Args:
        places: where gradient, source and sums begin, and a table of where each pair is in both.
    """
    known = (how.rows,) if tile.rows > STRIDED else ()
    shared.call(f, ".".join(map(str, ("points.pairs", *tile, *known))), places, how)


def _pairs(f: Function, host: Host, given: Sequence[Value], variant: Sequence[str]) -> None:
    a, b, c, offsets, *numbers = given
    how, wide = Tapped(*numbers), host.lanes(BYTES)
    rows, vectors, *known = map(int, variant)
    tile, align = Tile(rows, vectors), host.vector_bytes
    apart: Int = known[0] if known else how.rows
    a_rows = [f.mul(k, apart) for k in range(rows)]  # before the loops

    def pair(k: Value, sums: list[Value]) -> list[Value]:
        left, right = (f.load(I64, f.address(offsets, f.add(f.mul(k, 2), side), I64), 8) for side in (0, 1))

        def image(at: Sequence[Value], carried: list[Value]) -> list[Value]:
            return outer_product(f, host, tile, at[0], a_rows, at[1], align, carried)

        places = (f.address(a, left, FLOAT), f.address(b, right, FLOAT))
        return nested(f, [(how.images, (how.left, how.right))], places, sums, image)

    zeros = [constant(vector(FLOAT, wide), 0)] * (rows * vectors)
    put_tile(f, host, tile, c, how.columns, f.loop(how.low, how.high, 1, pair, zeros), adds=False)


class Put(NamedTuple):
    """How sums, tap by tap, are put into the order of weights; distances are in elements.

    Attributes:
        rows, channels: how many.
        columns, apart: distances of rows and of taps in the sums.
        row: distance of rows of weights.
    """

    rows: Int
    channels: Int
    columns: Int
    apart: Int
    row: Int


def put_in_order(f: Function, sums: Value, target: Value, taps: int, how: Put) -> None:
    """Put sums into the order of weights.

    A vector of taps of one channel is stored whole: what lies behind its taps is overwritten by the next channel's.
    """
    shared.call(f, f"points.put.{taps}", (sums, target), how)


def _put(f: Function, host: Host, given: Sequence[Value], variant: Sequence[str]) -> None:
    sums, put, *numbers = given
    how, taps, wide = Put(*numbers), int(variant[0]), host.lanes(BYTES)
    type, align = vector(FLOAT, wide), host.vector_bytes
    zero = constant(type, 0)

    def turned(source: Value, first: int) -> list[Value]:
        """The sums of some taps of a vector of channels, channel by channel."""
        some = range(first, min(first + wide, taps))
        loaded = [f.load(type, f.address(source, f.mul(tap, how.apart), FLOAT), align) for tap in some]
        return transposed(f, [*loaded, *[zero] * (wide - len(loaded))])

    def square(r: Value, c: Value) -> None:
        source = f.address(sums, f.add(f.mul(r, how.columns), c), FLOAT)
        target = f.address(put, f.add(f.mul(r, how.row), f.mul(c, taps)), FLOAT)
        blocks = [turned(source, first) for first in range(0, taps, wide)]
        for k in range(wide):
            for number, block in enumerate(blocks):
                f.store(block[k], f.address(target, k * taps + number * wide, FLOAT), BYTES)

    f.loop(0, how.rows, 1, lambda r, _: f.loop(0, how.channels, wide, lambda c, _: square(r, c)) and None)


_KINDS = {"pairs": Shared(4, len(Tapped._fields), _pairs), "put": Shared(2, len(Put._fields), _put)}
library = partial(shared.library, _KINDS)
