"""Tiles of a convolution whose taps are written out, in float32: they multiply nothing by the padding.

Tiles are told apart by which of their points each tap meets inside of the source: those in the middle meet all, those
at its edges fewer. So products with the padding are left out, of 7x7 points by 3x3 taps 18 in a hundred, and the source
is read in place. Only the channels are a loop, or also the lines of many taps: a product costs little but itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from graphc.runtime.conv_geometry import Sweep
from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT, Tile, nested, put_tile
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.packing import LINE, prefetch
from graphc.runtime.cpu.values import I64, Int, Value, constant, vector

WRITTEN = 9  # taps that are written out, at most
NEXT = 512  # bytes of weights that the first cache is ahead: the first tile that meets them would wait for the second


class Span(NamedTuple):
    """What some points in a row meet of a source, along one axis; elements count from what the first tap meets first.

    Attributes:
        stride, step: elements from point to point, and from tap to tap.
        low, high: the elements that exist, first and last (exclusive).
    """

    points: int
    taps: int
    stride: int
    step: int
    low: int
    high: int

    def met(self, tap: int) -> list[tuple[int, int]]:
        """The points that meet an element by a tap, and which."""
        found = [(point, point * self.stride + tap * self.step) for point in range(self.points)]
        return [(point, element) for point, element in found if self.low <= element < self.high]


ONE = Span(1, 1, 1, 1, 0, 1)


class Group(NamedTuple):
    """Tiles along an axis that meet the same: their first point, the end of the last one's, and what each meets."""

    first: int
    end: int
    span: Span


def alike(axis: Sweep, size: int) -> list[Group]:
    """The tiles of an axis, `size` points but the last, in groups that meet the same."""
    taps = axis.classes[0]

    def span(first: int) -> Span:
        points = min(size, axis.points - first)
        start, reach = taps.start + first * axis.stride, (points - 1) * axis.stride + (taps.met - 1) * taps.step + 1
        low, high = min(max(0, -start), reach), min(reach, axis.size - start)
        return Span(points, taps.met, axis.stride, taps.step, low, max(low, high))

    found = [(met, list(firsts)) for met, firsts in itertools.groupby(range(0, axis.points, size), span)]
    return [Group(firsts[0], min(firsts[-1] + size, axis.points), met) for met, firsts in found]


class Ahead(NamedTuple):
    """What a tile asks for, of what lies in memory: so much with each repetition of what is written out.

    Attributes:
        rows, vectors: how many rows, and how much of each.
        step: from row to row, in elements.
        writes: whether results go there when all tiles are computed; else, it is weights that are multiplied later.
    """

    rows: int
    vectors: int
    step: int
    writes: bool


class Taps(NamedTuple):
    """What the code of a tile is made for.

    Attributes:
        vectors: of a panel.
        line, pixel: distances of the lines of the source, and of a line's elements.
    """

    vectors: int
    line: int
    pixel: int
    height: Span
    width: Span


def repeated(taps: tuple[int, int]) -> int:
    """How often what is written out is repeated for each channel: it is all taps, or those of a line."""
    return 1 if math.prod(taps) <= WRITTEN else taps[0]


def is_served(taps: tuple[int, int], lines: int) -> bool:
    """Whether so many taps, along height and width, are worth writing out for tiles of so many lines: all of them, or
    for tiles of one line those of a line."""
    return 1 < math.prod(taps) <= WRITTEN or (lines == 1 and 1 < taps[1] <= WRITTEN)


def taps_tile(
    f: Function,
    host: Host,
    taps: Taps,
    places: tuple[Value, Value, Value, Value],
    depth: Int,
    channel: Int,
    *,
    adds: bool,
    ahead: Ahead,
) -> None:
    """Sum the products of some channels for a tile of points by a panel's vectors, or add them there.

    Args:
        places: where the first tap of the first point meets the source, the panel's weights, the tile of sums, and
            what is asked for ahead.
        depth: how many channels.
        channel: their distance in the source.
    """
    (a, b, c, far), height, count = places, taps.height, 1
    row, apart = taps.width.taps * taps.vectors * host.lanes(BYTES), height.step * taps.line
    weights = height.taps * row
    if repeated((height.taps, taps.width.taps)) > 1:
        there = [t for t in range(height.taps) if height.met(t)]
        first, count = there[0] if there else 0, len(there)
        a, b = f.address(a, first * apart, FLOAT), f.address(b, first * row, FLOAT)
        taps = taps._replace(height=ONE)
    numbers = (taps.vectors, taps.line, taps.pixel, *taps.height, *taps.width)
    name = ".".join(map(str, ("taps", "add" if adds else "put", *map(int, ahead), *numbers)))
    f.call(name, "void", a, b, c, far, *[f.i64(number) for number in (depth, channel, weights, count, apart)])


def library(host: Host, symbol: str) -> str:
    """The assembly of a function that `taps_tile` calls.

    After the places it takes how many channels, their distances in the source and in the weights, and how often what is
    written out is repeated for each, with the distance in the source: the weights follow each other.
    """
    _, mode, *numbers = symbol.split(".")
    rows, far_vectors, step, writes, vectors, line, pixel, *axes = map(int, numbers)
    module, fields, ahead = Module(), len(Span._fields), Ahead(rows, far_vectors, step, bool(writes))
    taps = Taps(vectors, line, pixel, Span(*axes[:fields]), Span(*axes[fields:]))
    f = module.function(
        symbol, [*[("ptr noalias", letter) for letter in "abcd"], *[(I64, f"number{k}") for k in range(5)]]
    )
    a, b, c, far, depth, channel, weights, count, apart = (f.parameter(k) for k in range(9))
    lanes = host.lanes(BYTES)
    panel, tile = vectors * lanes, Tile(taps.height.points * taps.width.points, vectors)
    written = taps.height.taps * taps.width.taps
    row: Sequence[Int] = (apart, written * panel, rows * step)
    loops = [(depth, (channel, weights, f.mul(count, row[2]))), (count, row)]
    zeros = [constant(vector(FLOAT, lanes), 0)] * (tile.rows * vectors)
    sums = nested(f, loops, (a, b, far), zeros, lambda at, sums: _products(f, host, taps, ahead, at, sums))
    put_tile(f, host, tile, c, panel, sums, adds=mode == "add")
    f.ret()
    return module.text()


def _products(
    f: Function, host: Host, taps: Taps, ahead: Ahead, places: Sequence[Value], sums: list[Value]
) -> list[Value]:
    """The sums, point by point, plus the products of what is written out.

    Between the taps the next weights are asked for, which also keeps LLVM from holding on to elements until then.
    """
    (left, right, far), (vectors, line, pixel, height, width) = places, taps
    lanes = host.lanes(BYTES)
    type, found = vector(FLOAT, lanes), list(sums)
    cells = [divmod(k, ahead.vectors) for k in range(ahead.rows * ahead.vectors)]
    written, near = height.taps * width.taps, vectors * host.vector_bytes
    for t in range(height.taps):
        for u in range(width.taps):
            tap = t * width.taps + u
            of_tap = range(tap * vectors, (tap + 1) * vectors)
            weights = [f.load(type, f.address(right, k * lanes, FLOAT), BYTES) for k in of_tap]
            for at in range(tap * near, (tap + 1) * near, LINE):
                prefetch(f, f.address(right, at + NEXT, "i8"))
            for i, v in cells[tap * len(cells) // written : (tap + 1) * len(cells) // written]:
                at_far = f.address(far, i * ahead.step + v * lanes, FLOAT)
                prefetch(f, at_far, write=ahead.writes, level=1 if ahead.writes else 2)
            for i, h in height.met(t):
                for j, w in width.met(u):
                    factor = f.splat(f.load(FLOAT, f.address(left, h * line + w * pixel, FLOAT), BYTES), lanes)
                    for v, row in enumerate(weights):
                        number = (i * width.points + j) * vectors + v
                        found[number] = f.fma(factor, row, found[number])
    return found
