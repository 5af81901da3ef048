"""Convolutions of a few points an image, and their gradients in x, in float32: images lie in the lanes of vectors.

Where images are hardly larger than the kernel, most taps meet the padding: in a plane of 2x2, 3x3 taps meet 4 elements.
With one point of all images in a vector, products with zeros are left out: what is computed are the *pairs* of a result
and an element that meet, all of them known. The weights are read in place, once for all points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from graphc.runtime.conv_geometry import Axis, Convolution, two_dimensional
from graphc.runtime.cpu import lanes
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT, PRODUCTS_PER_NS, counters, even_part, rows_of_tiles, zero_fill
from graphc.runtime.cpu.elements import Element
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.packing import prefetch
from graphc.runtime.cpu.phases import Frame, KernelCode, Place
from graphc.runtime.cpu.values import I64, Int, Value, constant, vector
from graphc.runtime.strided import ALIGN, Strided, aligned

POINTS = 16  # of a result, at most
GROUP = 4  # of them that are computed together
MET = 0.75  # part of all products that aren't with zeros, at most
FILLED = 0.75  # part of the lanes that have images, at least
LEAST = 8  # channels
DEPTH = 128  # channels whose products are summed in one go, where a row's weights lie together
SHALLOW = 16  # where those of a channel do: they are read side by side
AHEAD, ASIDE = 2048, 512  # bytes: weights are fetched so far ahead, of each row, or of each channel
UNITS = 8  # that rows are divided into


class Pair(NamedTuple):
    """A result and an element of the source that meet, both as numbers of points, and the tap along each axis."""

    result: int
    source: int
    taps: tuple[int, ...]


def pairs(convolution: Convolution) -> list[Pair]:
    """All pairs of an image, in the order of the results."""
    found = [Pair(0, 0, ())]
    for axis in convolution.axes:
        one = list(_along(axis, turned=convolution.roles[2] == "x"))
        results, sources = (int(n) for n in _sizes(axis, turned=convolution.roles[2] == "x"))
        found = [
            Pair(a.result * results + b.result, a.source * sources + b.source, (*a.taps, *b.taps))
            for a, b in itertools.product(found, one)
        ]
    return sorted(found)


def _sizes(axis: Axis, *, turned: bool) -> tuple[int, int]:
    windows, size = int(axis.windows), int(axis.size)
    return (size, windows) if turned else (windows, size)


def _along(axis: Axis, *, turned: bool) -> Iterator[Pair]:
    for window, tap in itertools.product(range(int(axis.windows)), range(int(axis.kernel))):
        element = window * axis.stride + tap * axis.dilation - axis.before
        if 0 <= element < int(axis.size):
            yield Pair(element, window, (tap,)) if turned else Pair(window, element, (tap,))


def is_served(code: KernelCode, convolution: Convolution) -> bool:
    """Whether `points` can emit it, and enough is left out."""
    batch, wide = convolution.batch, code.host.lanes(BYTES)
    if convolution.roles[2] == "w" or not convolution.is_static or not isinstance(batch, int) or batch == 0:
        return False
    if convolution.groups != 1 or min(int(convolution.inputs), int(convolution.outputs)) < LEAST:
        return False
    if math.prod(int(axis.size) for axis in convolution.axes) > POINTS or code.is_steady(1):
        return False
    weight = code.kernel.operands[1]
    if weight.is_view and not all(isinstance(step, int) for step in weight.loads[0].access.strides):
        return False
    products = math.prod(int(axis.windows) * int(axis.kernel) for axis in convolution.axes)
    filled = batch / (-(-batch // wide) * wide)
    return len(pairs(convolution)) <= MET * products and filled >= FILLED


def points(code: KernelCode, convolution: Convolution) -> None:
    """Emit a convolution that `is_served`."""
    operands = lanes.operand(code, 0), lanes.operand(code, 1)
    convolution, (source, weight) = two_dimensional(convolution, *operands)
    _Points(code, convolution, source, weight).emit()


class _Points:
    """The phases in the making."""

    def __init__(self, code: KernelCode, convolution: Convolution, source: Strided, weight: Strided) -> None:
        self.code, self.host, self.source, self.weight = code, code.host, source, weight
        self.wide = code.host.lanes(BYTES)
        self.type = vector(FLOAT, self.wide)
        turned = convolution.roles[2] == "x"
        self.batch = int(convolution.batch) if isinstance(convolution.batch, int) else 0
        self.blocks = -(-self.batch // self.wide)
        sizes = [_sizes(axis, turned=turned) for axis in convolution.axes]
        self.results, self.sources = ([pair[k] for pair in sizes] for k in (0, 1))
        self.points, self.elements = math.prod(self.results), math.prod(self.sources)
        o_step, i_step, *self.tap_steps = (int(step) for step in weight.strides)
        sides = [(int(convolution.outputs), o_step), (int(convolution.inputs), i_step)]
        (self.rows, self.row_step), (self.channels, self.channel_step) = reversed(sides) if turned else sides
        self.pairs = pairs(convolution)
        self.height = _rows_at_a_time(code.host)
        self.chunk = -(-even_part(self.rows, -(-self.rows // UNITS)) // self.height) * self.height
        self.depth = DEPTH if self.channel_step < self.row_step else SHALLOW

    def emit(self) -> None:
        """All phases: images are put into lanes, and multiplied."""
        size = self.blocks * self.channels * self.elements * self.wide
        place = Place("workspace", self.code.workspace(size * BYTES))
        self.turn(place)
        self.multiply(place)

    def turn(self, place: Place) -> None:
        """One channel of a block of images in each unit."""
        units = self.blocks * self.channels
        frame = self.code.phase(units, units * self.elements * self.wide // 2)
        f = frame.f
        n_step, c_step, *steps = (frame.size(step) for step in self.source.strides)
        images = f.binary("mul", f.counter(self.wide), f.splat(f.i64(n_step), self.wide))

        def unit(number: Value, _: list[Value]) -> None:
            block, channel = counters(f, number, [self.blocks, self.channels])
            n = f.mul(block, self.wide)
            mask = f.mask(f.sub(self.batch, n), self.wide) if self.batch % self.wide else None
            begin = f.address(frame.at(self.source, (n,)), f.mul(channel, c_step), FLOAT)
            into = f.address(frame.memory(place), f.mul(number, self.elements * self.wide), FLOAT)
            for k, index in enumerate(itertools.product(*map(range, self.sources))):
                offset: Int = 0
                for i, step in zip(index, steps, strict=True):
                    offset = f.add(offset, f.mul(i, step))
                at = f.addresses(f.address(begin, offset, FLOAT), images, FLOAT)
                value = f.gather(self.type, at, BYTES, mask)
                f.store(value, f.address(into, k * self.wide, FLOAT), self.host.vector_bytes)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def multiply(self, place: Place) -> None:
        """Some rows of results for a block of images in each unit."""
        chunks, size = -(-self.rows // self.chunk), self.chunk * self.points * self.wide
        cost = self.batch * self.rows * self.channels * len(self.pairs) // PRODUCTS_PER_NS + 1
        frame = self.code.phase(self.blocks * chunks, cost, int(aligned(size * BYTES)))
        f, sums = frame.f, frame.scratch

        def unit(number: Value, _: list[Value]) -> None:
            block, chunk = counters(f, number, [self.blocks, chunks])
            n, first = f.mul(block, self.wide), f.mul(chunk, self.chunk)
            count = f.min(self.chunk, f.sub(self.rows, first))
            source = f.address(frame.memory(place), f.mul(n, self.channels * self.elements), FLOAT)
            zero_fill(f, self.host, sums, f.mul(count, self.points * self.wide))
            self.sums(frame, source, first, count)
            bounds = [(n, f.min(f.add(n, self.wide), self.batch)), (first, f.add(first, count))]
            bounds += [(0, results) for results in self.results]

            def element(index: Sequence[Int]) -> Value:
                image, row, *point = index
                h, w = point if len(point) == 2 else (0, *point)
                at = f.add(f.mul(f.sub(row, first), self.points), f.add(f.mul(h, self.results[1]), w))
                return f.address(sums, f.add(f.mul(at, self.wide), f.sub(image, n)), FLOAT)

            is_flat = len(self.code.kernel.results[0].loops) < len(bounds)
            bounds = [*bounds[:2], bounds[3]] if is_flat else bounds
            lanes.block(frame, 0, bounds, Element(element, "float32", axis=0))

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def sums(self, frame: Frame, source: Value, first: Int, count: Int) -> None:
        """Sum the products of some rows, a few channels at a time, in the order in which weights lie in memory."""
        f, weight = frame.f, frame.at(self.weight)

        def some(c: Value, r: Int, rows: int) -> None:
            depth = f.min(self.depth, f.sub(self.channels, c))
            right = f.address(source, f.mul(c, self.elements * self.wide), FLOAT)
            at = f.add(f.mul(f.add(first, r), self.row_step), f.mul(c, self.channel_step))
            left, into = f.address(weight, at, FLOAT), f.mul(r, self.points * self.wide)
            for group in range(0, self.points, GROUP):
                to = f.address(frame.scratch, f.add(into, group * self.wide), FLOAT)
                f.call(self.group(group, rows), "void", left, right, to, f.i64(depth))

        def over_channels(body: Callable[[Value], None]) -> None:
            f.loop(0, self.channels, self.depth, lambda c, _: body(c))

        def over_rows(body: Callable[[Int, int], None]) -> None:
            rows_of_tiles(f, count, self.height, self.rows % self.height, body)

        if self.depth == DEPTH:
            over_rows(lambda r, rows: over_channels(lambda c: some(c, r, rows)))
        else:
            over_channels(lambda c: over_rows(lambda r, rows: some(c, r, rows)))

    def group(self, first: int, rows: int) -> str:
        """The function that adds to sums of a few points of some rows: weights, source, sums, how many channels."""
        name, module = f"points{first}.{rows}", self.code.module
        if module.has(name):
            return name
        f = module.function(name, [*[("ptr noalias", each) for each in "abc"], (I64, "depth")], internal=True)
        a, b, c, depth = (f.parameter(k) for k in range(4))
        mine = [pair for pair in self.pairs if first <= pair.result < first + GROUP]
        width = min(GROUP, self.points - first)

        def channel(k: Value, sums: list[Value]) -> list[Value]:
            return self.products(f, mine, first, width, (a, b), k, sums)

        zeros = [constant(self.type, 0)] * (rows * width)
        for k, value in enumerate(f.loop(0, depth, 1, channel, zeros)):
            row, point = divmod(k, width)
            at = f.address(c, (row * self.points + point) * self.wide, FLOAT)
            f.store(f.binary("fadd", f.load(self.type, at, self.host.vector_bytes), value), at, self.host.vector_bytes)
        f.ret()
        return name

    def products(
        self,
        f: Function,
        mine: Sequence[Pair],
        first: int,
        width: int,
        places: tuple[Value, Value],
        channel: Value,
        sums: list[Value],
    ) -> list[Value]:
        """The sums, row by row, plus the products of one channel."""
        left = f.address(places[0], f.mul(channel, self.channel_step), FLOAT)
        right = f.address(places[1], f.mul(channel, self.elements * self.wide), FLOAT)
        align, found = self.host.vector_bytes, list(sums)
        elements = {
            k: f.load(self.type, f.address(right, k * self.wide, FLOAT), align)
            for k in sorted({pair.source for pair in mine})
        }
        rows = len(sums) // width
        row_bytes = self.row_step * BYTES
        if self.depth == DEPTH:
            ahead = range(AHEAD, AHEAD + rows * row_bytes, row_bytes)
        else:
            ahead = range(ASIDE, ASIDE + rows * row_bytes, ALIGN)
        for distance in ahead:  # hardware stops at the end of a page
            prefetch(f, f.address(left, distance, "i8"), level=2)
        by_tap = sorted(mine, key=lambda pair: pair.taps)
        for row in range(rows):
            for taps, group in itertools.groupby(by_tap, lambda pair: pair.taps):
                offset = row * self.row_step + sum(t * step for t, step in zip(taps, self.tap_steps, strict=True))
                factor = f.splat(f.load(FLOAT, f.address(left, offset, FLOAT), BYTES), self.wide)
                for pair in group:
                    k = row * width + pair.result - first
                    found[k] = f.fma(factor, elements[pair.source], found[k])
        return found


def _rows_at_a_time(host: Host) -> int:
    """Rows whose sums, of a group of points, stay in registers."""
    return max(1, host.registers // 2 // GROUP)
