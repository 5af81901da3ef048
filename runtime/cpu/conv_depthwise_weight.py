"""Gradients in the weights of depthwise convolutions, in float32: windows lie in the lanes of vectors.

With one channel of the source in a group there is no matrix to multiply: each weight is a sum over the windows of one
channel. A few taps are summed at a time, in a vector each, image by image, since short sums, added up, round less.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.runtime.conv_geometry import Convolution, sweep, two_dimensional
from graphc.runtime.cpu import lanes
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_source import padded
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT, even_part, some_lanes, strided_load
from graphc.runtime.cpu.elements import transposed
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.values import Int, Value, constant, vector
from graphc.runtime.strided import Strided

PRODUCTS_PER_NS = 16
SPARE = 8  # registers that don't hold sums


def is_served(code: KernelCode, convolution: Convolution) -> bool:
    """Whether `weight_gradient` can emit it: w's gradient is computed, of one channel a group, of known sizes."""
    has_role = convolution.roles[2] == "w" and convolution.inputs == 1
    return has_role and convolution.is_static and len(convolution.axes) <= 2 and code.host.lanes(BYTES) > 1


def weight_gradient(code: KernelCode, convolution: Convolution) -> None:
    """Emit a gradient that `is_served`."""
    x, g = lanes.operand(code, 0), lanes.operand(code, 1)
    result = lanes.result(code, 0)
    convolution, (x, g, result) = two_dimensional(convolution, x, g, result)
    height, width = (sweep(axis, "g") for axis in convolution.axes)
    sizes, spans = (height.size, width.size), (height.reach, width.reach)
    source = padded(code, x, convolution.batch, convolution.groups, sizes, spans)
    windows = (height.results, width.results)
    rows = convolution.groups * int(convolution.outputs)
    gradient = padded(code, g, convolution.batch, rows, windows, ((0, windows[0]), (0, windows[1])))
    _Depthwise(code, convolution, source, gradient, result).emit()
    lanes.finish(code, 0)


class _Depthwise:
    """The phase in the making."""

    def __init__(
        self, code: KernelCode, convolution: Convolution, source: Strided, gradient: Strided, result: Strided
    ) -> None:
        self.code, self.host, self.convolution = code, code.host, convolution
        self.source, self.gradient, self.result = source, gradient, result
        self.wide = code.host.lanes(BYTES)
        self.type = vector(FLOAT, self.wide)
        self.height, self.width = (sweep(axis, "g") for axis in convolution.axes)
        tall, wide = self.height.classes[0], self.width.classes[0]
        self.line = int(source.strides[2])
        self.taps = [i * tall.step * self.line + j * wide.step for i in range(tall.met) for j in range(wide.met)]
        self.corner = tall.start, wide.start
        self.at_once = even_part(len(self.taps), min(self.wide, code.host.registers - SPARE))

    def emit(self) -> None:
        """The gradient of one channel of the result in each unit."""
        outputs = int(self.convolution.outputs)
        units = self.convolution.groups * outputs
        frame = self.code.phase(units, self.convolution.products // PRODUCTS_PER_NS + 1)
        f = frame.f
        totals = f.stack(self.type, self.at_once)

        def unit(row: Value, _: list[Value]) -> None:
            group = f.div(row, outputs)
            into = frame.at(self.result, (row,))
            for first in range(0, len(self.taps), self.at_once):
                self.some(frame, (group, row), totals, first, into)

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()

    def some(self, frame: Frame, channels: tuple[Int, Int], totals: Value, first: int, into: Value) -> None:
        """The gradients of a few taps, from number `first` on."""
        f, align, (group, row) = frame.f, self.host.vector_bytes, channels
        taps = self.taps[first : first + self.at_once]
        zero = constant(self.type, 0)
        places = [f.address(totals, k, self.type) for k in range(len(taps))]
        for place in places:
            f.store(zero, place, align)

        def image(n: Value, _: list[Value]) -> None:
            x, g = frame.at(self.source, (n, group, *self.corner)), frame.at(self.gradient, (n, row))
            for place, total in zip(places, self.sums(f, x, g, taps), strict=True):
                f.store(f.binary("fadd", f.load(self.type, place, align), total), place, align)

        f.loop(0, frame.size(self.convolution.batch), 1, image)
        found = [f.load(self.type, place, align) for place in places]
        total, *rest = transposed(f, [*found, *[zero] * (self.wide - len(found))])
        for column in rest:
            total = f.binary("fadd", total, column)
        f.store(total, f.address(into, first, FLOAT), BYTES, some_lanes(len(taps), self.wide))

    def sums(self, f: Function, x: Value, g: Value, taps: Sequence[int]) -> list[Value]:
        """The sums of a few taps over the windows of one image, by lanes."""
        windows, stride = self.width.results, self.width.stride
        whole = windows // self.wide * self.wide

        def line(p: Value, sums: list[Value]) -> list[Value]:
            begin = f.address(x, f.mul(p, self.height.stride * self.line), FLOAT)
            factors = f.address(g, f.mul(p, int(self.gradient.strides[2])), FLOAT)

            def piece(q: Int, count: int, carried: Sequence[Value]) -> list[Value]:
                factor = f.load(self.type, f.address(factors, q, FLOAT), BYTES, some_lanes(count, self.wide))
                at = f.address(begin, f.mul(q, stride), FLOAT)
                met = [strided_load(f, f.address(at, tap, FLOAT), self.wide, count, stride) for tap in taps]
                return [f.fma(factor, element, total) for element, total in zip(met, carried, strict=True)]

            sums = f.loop(0, whole, self.wide, lambda q, carried: piece(q, self.wide, carried), sums)
            return piece(whole, windows - whole, sums) if whole < windows else sums

        return f.loop(0, self.height.results, 1, line, [constant(self.type, 0)] * len(taps))
