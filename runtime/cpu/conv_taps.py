"""Tiles of a convolution whose taps are written out, in float32: they multiply nothing by the padding.

Tiles are told apart by which of their points each tap meets inside of the source: those in the middle meet all, those
at its edges fewer. So products with the padding are left out, of 7x7 points by 3x3 taps 18 in a hundred, and the source
is read in place. The channels alone are a loop, so that a product costs nothing but itself.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from graphc.runtime.conv_geometry import Sweep
from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.conv_tiles import AHEAD, BYTES, FLOAT, Tile, put_tile
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.values import I64, Int, Value, constant, vector


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


class Taps(NamedTuple):
    """What the code of a tile is made for.

    Attributes:
        vectors: of a panel.
        line: distance of the lines of the source.
    """

    vectors: int
    line: int
    height: Span
    width: Span


def taps_tile(
    f: Function, taps: Taps, places: tuple[Value, Value, Value], depth: Int, channel: Int, *, adds: bool
) -> None:
    """Sum the products of some channels for a tile of points by a panel's vectors, or add them there.

    Args:
        places: where the first tap of the first point meets the source, the panel's weights, and the tile of sums.
        depth: how many channels.
        channel: their distance in the source.
    """
    numbers = (taps.vectors, taps.line, *taps.height, *taps.width)
    name = ".".join(map(str, ("taps", "add" if adds else "put", *numbers)))
    f.call(name, "void", *places, f.i64(depth), f.i64(channel))


def library(host: Host, symbol: str) -> str:
    """The assembly of a function that `taps_tile` calls."""
    _, mode, *numbers = symbol.split(".")
    vectors, line, *axes = map(int, numbers)
    module, fields = Module(), len(Span._fields)
    taps = Taps(vectors, line, Span(*axes[:fields]), Span(*axes[fields:]))
    f = module.function(symbol, [*[("ptr noalias", letter) for letter in "abc"], (I64, "depth"), (I64, "channel")])
    a, b, c, depth, channel = (f.parameter(k) for k in range(5))
    lanes = host.lanes(BYTES)
    panel, tile = vectors * lanes, Tile(taps.height.points * taps.width.points, vectors)
    panel_size = taps.height.taps * taps.width.taps * panel  # of one channel

    def at_channel(_: Value, values: list[Value]) -> list[Value]:
        left, right, *sums = values
        found = _products(f, host, taps, (left, right), sums)
        return [f.address(left, channel, FLOAT), f.address(right, panel_size, FLOAT), *found]

    zeros = [constant(vector(FLOAT, lanes), 0)] * (tile.rows * vectors)
    _, _, *sums = f.loop(0, depth, 1, at_channel, [a, b, *zeros])
    put_tile(f, host, tile, c, panel, sums, adds=mode == "add")
    f.ret()
    return module.text()


def _products(f: Function, host: Host, taps: Taps, places: tuple[Value, Value], sums: list[Value]) -> list[Value]:
    """The sums, point by point, plus the products of one channel.

    Between the taps weights are fetched ahead, which also keeps LLVM from holding on to elements until the next tap.
    """
    (left, right), (vectors, line, height, width) = places, taps
    lanes = host.lanes(BYTES)
    type, found = vector(FLOAT, lanes), list(sums)
    for t in range(height.taps):
        for u in range(width.taps):
            offset = (t * width.taps + u) * vectors * lanes
            places_of = range(offset, offset + vectors * lanes, lanes)
            weights = [f.load(type, f.address(right, at, FLOAT), BYTES) for at in places_of]
            for at in places_of:
                f.prefetch(f.address(right, AHEAD + at * BYTES, "i8"))
            for i, h in height.met(t):
                for j, w in width.met(u):
                    factor = f.splat(f.load(FLOAT, f.address(left, h * line + w, FLOAT), BYTES), lanes)
                    for v, row in enumerate(weights):
                        number = (i * width.points + j) * vectors + v
                        found[number] = f.fma(factor, row, found[number])
    return found
