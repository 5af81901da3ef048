"""Gradients of convolutions in their weights, in float32: matrix products whose sums run over the windows.

The source is laid out with its channels last, so that what a window's row of taps meets is one run of elements: it is
added, multiplied by the gradient at this window, to the run of results of every channel of the gradient. The images are
split into a fixed number of parts, each with sums of its own, which a last phase adds up.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from graphc.runtime.conv_geometry import Convolution, sweep, two_dimensional
from graphc.runtime.cpu import conv_rows, lanes
from graphc.runtime.cpu.conv_product import matrix_product
from graphc.runtime.cpu.conv_source import channels_last, padded
from graphc.runtime.cpu.conv_tiles import (
    BYTES,
    FLOAT,
    PRODUCTS_PER_NS,
    Run,
    Tile,
    choose_tile,
    counters,
    even_part,
)
from graphc.runtime.cpu.phases import KernelCode
from graphc.runtime.cpu.values import Int, Value
from graphc.runtime.strided import Strided

BLOCK_BYTES = 1 << 18  # of the source, that all tiles go over before the next
ROWS = 64  # channels of the gradient, at most, in one unit of work
UNITS = 16  # of work, about, that are made by splitting the images


class Runs(NamedTuple):
    """How the taps of a window fall into runs of elements of the source.

    Attributes:
        shape: how many runs a window has along height and width.
        length: elements of one.
        padded: distance of the runs' sums in memory.
        tile: which part of the sums stays in registers.
        parts: into which the images are split.
        chunk: channels of the gradient in one unit of work.
    """

    shape: tuple[int, int]
    length: int
    padded: int
    tile: Tile
    parts: int
    chunk: int


def is_served(code: KernelCode, convolution: Convolution) -> bool:
    """Whether `weight_gradient` can emit it: w's gradient is computed, and all sizes but the batch are known."""
    return convolution.roles[2] == "w" and convolution.is_static and len(convolution.axes) <= 2


def weight_gradient(code: KernelCode, convolution: Convolution) -> None:
    """Emit a gradient that `is_served`."""
    x, g = lanes.operand(code, 0), lanes.operand(code, 1)
    result = lanes.result(code, 0)
    convolution, (x, g, result) = two_dimensional(convolution, x, g, result)
    _WeightGradient(code, convolution, x, g, result).emit()
    lanes.finish(code, 0)


class _WeightGradient:
    """The phases in the making."""

    def __init__(self, code: KernelCode, convolution: Convolution, x: Strided, g: Strided, result: Strided) -> None:
        self.code, self.host, self.result = code, code.host, result
        self.convolution = convolution
        self.batch, self.groups = convolution.batch, convolution.groups
        self.inputs, self.outputs = int(convolution.inputs), int(convolution.outputs)
        tall, wide = (sweep(axis, "g") for axis in convolution.axes)
        self.height, self.width = tall, wide
        sizes, spans = (tall.size, wide.size), (tall.reach, wide.reach)
        inputs, outputs = self.groups * self.inputs, self.groups * self.outputs
        self.source = channels_last(code, x, self.batch, inputs, sizes, spans)
        windows = (tall.results, wide.results)
        self.gradient = padded(code, g, self.batch, outputs, windows, ((0, windows[0]), (0, windows[1])))
        self.runs = self._runs()
        shape = (self.runs.parts, self.groups, *self.runs.shape, self.outputs, self.runs.padded)
        self.sums = lanes.in_workspace(code, shape, "float32")
        self.blocks = self._blocks()

    def _runs(self) -> Runs:
        taps_height, taps_width = (each.classes[0].met for each in (self.height, self.width))
        joined = self.groups == 1 and self.width.classes[0].step == 1
        count = (taps_height, 1 if joined else taps_width)
        length = self.inputs * (taps_width if joined else 1)
        wide = self.host.lanes(BYTES)
        tile = choose_tile(self.host, min(self.outputs, ROWS), -(-length // wide))
        width = tile.vectors * wide
        chunk = -(-even_part(self.outputs, ROWS) // tile.rows) * tile.rows
        units = self.groups * count[0] * count[1] * -(-self.outputs // chunk)
        parts = max(1, -(-UNITS // units))
        if isinstance(self.batch, int):
            parts = max(1, min(parts, self.batch))
        return Runs(count, length, -(-length // width) * width, tile, parts, chunk)

    def _blocks(self) -> tuple[int, int]:
        """Images and rows of windows that all tiles go over before the next."""
        image = int(self.source.strides[0]) * BYTES
        line = int(self.source.strides[2]) * BYTES * self.height.stride
        if image <= BLOCK_BYTES:
            return BLOCK_BYTES // max(1, image), max(1, self.height.points)
        return 1, even_part(self.height.points, max(1, BLOCK_BYTES // line))

    def emit(self) -> None:
        """Both phases."""
        runs, outputs = self.runs, self.outputs
        sizes = [runs.parts, self.groups, -(-outputs // runs.chunk), *runs.shape]
        frame = self.frame = self.code.phase(math.prod(sizes), self.convolution.products // PRODUCTS_PER_NS + 1)
        f = frame.f
        batch = frame.size(self.batch)

        def unit(number: Value, _: list[Value]) -> None:
            part, group, chunk, i, j = counters(f, number, sizes)
            low, high = (f.div(f.mul(f.add(part, k), batch), runs.parts) for k in (0, 1))
            row = f.mul(chunk, runs.chunk)
            rows = f.min(runs.chunk, f.sub(outputs, row))
            sums = frame.at(self.sums, (part, group, i, j, row))
            conv_rows.clear_rows(f, sums, 1, 0, 0, f.mul(rows, runs.padded))
            self.unit((group, i, j), (row, rows), (low, high), sums)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()
        self.put()

    def unit(self, run: tuple[Int, Int, Int], channels: tuple[Int, Int], images: tuple[Int, Int], sums: Value) -> None:
        """Add to the sums of one run (group, and which along height and width) what some images give.

        Args:
            channels: the first of the gradient in the group, and how many.
            images: the first and the last (exclusive).
        """
        f, frame, runs, blocks = self.frame.f, self.frame, self.runs, self.blocks
        (group, i, j), (row, rows), (low, high) = run, channels, images
        tall, wide = (each.classes[0] for each in (self.height, self.width))
        left = f.add(f.mul(j, wide.step), wide.start)

        def block(n: Value, p: Value) -> None:
            counts = f.min(blocks[0], f.sub(high, n)), f.min(blocks[1], f.sub(self.height.points, p))
            top = f.add(f.add(f.mul(p, self.height.stride), f.mul(i, tall.step)), tall.start)
            x = frame.at(self.source, (n, f.mul(group, self.inputs), top, left))
            g = frame.at(self.gradient, (n, f.add(f.mul(group, self.outputs), row), p, 0))
            a_row = int(self.gradient.strides[1])
            a_image, _, a_line, a_step = frame.sizes(self.gradient.strides)
            b_image, _, line, pixel = frame.sizes(self.source.strides)
            loops = [
                Run(counts[0], a_image, b_image),
                Run(counts[1], a_line, f.mul(line, self.height.stride)),
                Run(self.width.points, a_step, f.mul(pixel, self.width.stride)),
            ]

            at, size = (g, x, sums), (rows, runs.padded)
            rest = self.outputs % runs.tile.rows
            matrix_product(f, self.host, runs.tile, rest, at, size, loops, (a_row, runs.padded))

        def image(n: Value, _: list[Value]) -> None:
            f.loop(0, self.height.points, blocks[1], lambda p, _: block(n, p))

        f.loop(low, high, blocks[0], image)

    def put(self) -> None:
        """The last phase."""
        taps = (self.height.classes[0].met, self.width.classes[0].met)
        joined = self.runs.shape[1] != taps[1]
        _, group, down, across, row, _ = (int(step) for step in self.sums.strides)
        steps = Steps(group, self.outputs, row, down, self.inputs if joined else across)
        size = (self.groups * self.outputs, self.inputs, taps)
        put_weights(self.code, self.sums, self.runs.parts, self.result, size, steps)


class Steps(NamedTuple):
    """Distances of sums whose parts are the outermost axis and whose channels are contiguous, in elements.

    Attributes:
        group: of groups, of `outputs` rows each.
    """

    group: int
    outputs: int
    row: int
    down: int
    across: int


def put_weights(
    code: KernelCode, sums: Strided, parts: int, result: Strided, size: tuple[int, int, tuple[int, int]], steps: Steps
) -> None:
    """Emit a phase that adds up the parts' sums as weights.

    Args:
        size: rows, channels and taps of the result, which is row-major.
    """
    rows, channels, taps = size
    frame = code.phase(rows, rows * (channels * math.prod(taps) * (1 + parts) // 4 + 1))
    f = frame.f
    how = conv_rows.Weights(channels, parts, int(sums.strides[0]), taps[1], steps.down, steps.across)

    def row(number: Value, _: list[Value]) -> None:
        group, o = counters(f, number, [0, steps.outputs])
        at = f.address(frame.at(sums), f.add(f.mul(group, steps.group), f.mul(o, steps.row)), FLOAT)
        conv_rows.put_weights(f, at, frame.at(result, (number,)), math.prod(taps), how)

    f.loop(frame.low, frame.high, 1, row)
    frame.done()
