"""Scans along an axis: running sums and linear recurrences, in the order of the references.

Where the axis isn't the last one, each lane has a line of its own. Along the last axis a few lines go side by side, so
that no addition waits for the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from graphc.dims import ceil_div, product
from graphc.ir import Node
from graphc.op import Op
from graphc.ops.scan import cumsum_op, recurrence_op
from graphc.runtime.cpu import lanes as regions
from graphc.runtime.cpu.builder import Function, Int, Value, constant, element_of, vector
from graphc.runtime.cpu.elements import from_memory, to_memory
from graphc.runtime.cpu.phases import Frame, KernelCode, Strided, itemsize
from graphc.runtime.cpu.pointwise import REGISTER_TYPE
from graphc.runtime.cpu.rows import Number, fitting, load_lanes, operand_or_number, units

FLOATS = ("float", "double")
LINES = 8  # that go side by side along the last axis
FLIGHT = 4  # vectors of lines that go side by side elsewhere


class _Step(NamedTuple):
    """One step of a scan: the value at an element, and the state after it."""

    value: Value
    state: Value


Rule = Callable[[Function, Value, Sequence[Value]], _Step]  # of the state before, and the operands


def _arithmetic(f: Function, name: str, a: Value, b: Value) -> Value:
    return f.binary(f"f{name}" if element_of(a.type) in FLOATS else name, a, b)


def _sum(exclusive: bool) -> Rule:
    def step(f: Function, state: Value, operands: Sequence[Value]) -> _Step:
        after = _arithmetic(f, "add", state, operands[0])
        return _Step(state if exclusive else after, after)

    return step


def _recurrence(f: Function, state: Value, operands: Sequence[Value]) -> _Step:
    factor, term = operands
    return _Step(state, _arithmetic(f, "add", _arithmetic(f, "mul", factor, state), term))


def _scan(code: KernelCode) -> bool:
    core = code.kernel.core
    assert core is not None
    if core.dtype == "bool":
        return False
    arrays = [operand_or_number(code, k) for k in range(len(core.inputs))]
    y = regions.result(code, 0)
    shape, axis = core.shape, core.attrs["axis"]
    is_last = axis == core.ndim - 1
    lanes = 1 if is_last else fitting(shape[-1], code.host.lanes(max(4, itemsize(core.dtype))))
    beside = axis - 1 if is_last else core.ndim - 1  # the axis whose lines go side by side
    block = LINES if is_last else FLIGHT * lanes
    others = [k for k in range(core.ndim) if k != axis]
    counts = [ceil_div(shape[k], block) if k == beside else shape[k] for k in others]
    frame = code.phase(product(counts), product(shape) // 2 + 1)
    f = frame.f
    lines = _Lines(frame, core, arrays, y, beside, lanes)

    def unit(index: list[Int]) -> None:
        at = dict(zip(others, index, strict=True))
        if beside < 0:
            lines.run(at, [None])
            return
        low = f.mul(at[beside], block)
        left = f.sub(frame.size(shape[beside]), low)

        def together() -> None:
            lines.run({**at, beside: low}, [None] * (block // lanes))

        def one(i: Int) -> None:
            lines.run({**at, beside: i}, [f.mask(f.sub(f.add(low, left), i), lanes) if lanes > 1 else None])

        def apart() -> None:
            f.loop(low, f.add(low, left), lanes, lambda i, _: one(i))

        f.if_(f.is_less(left, block), apart, together)

    units(frame, counts, unit)
    frame.done()
    regions.finish(code, 0)
    return True


class _Lines:
    """Lines of a scan, side by side along another axis."""

    def __init__(
        self, frame: Frame, core: Node, arrays: Sequence[Strided | Number], y: Strided, beside: int, lanes: int
    ) -> None:
        self.frame, self.f, self.core = frame, frame.f, core
        self.arrays, self.y, self.beside, self.lanes = arrays, y, beside, lanes
        self.axis, self.reverse = core.attrs["axis"], core.attrs["reverse"]
        self.rule = _recurrence if core.op is recurrence_op else _sum(core.attrs["exclusive"])

    def run(self, at: Mapping[int, Int], masks: Sequence[Value | None]) -> None:
        """One vector of lines for each mask, from `at` on."""
        f, frame = self.f, self.frame
        type = vector(REGISTER_TYPE[self.core.dtype], self.lanes)
        start = constant(type, self.core.attrs["initial"] if self.core.op is recurrence_op else 0)
        extent = frame.size(self.core.shape[self.axis])
        points = [
            {**at, **({self.beside: f.add(at[self.beside], k * self.lanes)} if k else {})} for k in range(len(masks))
        ]

        def step(i: Value, states: list[Value]) -> list[Value]:
            place = f.sub(f.sub(extent, 1), i) if self.reverse else i
            found = []
            for point, mask, state in zip(points, masks, states, strict=True):
                index = [{**point, self.axis: place}[k] for k in range(self.core.ndim)]
                operands = [self._load(array, index, mask) for array in self.arrays]
                value, after = self.rule(f, state, operands)
                f.store(to_memory(f, value, self.y.dtype), frame.at(self.y, index), itemsize(self.y.dtype), mask)
                found.append(after)
            return found

        f.loop(0, extent, 1, step, [start] * len(masks))

    def _load(self, array: Strided | Number, index: Sequence[Int], mask: Value | None) -> Value:
        frame = self.frame
        if not isinstance(array, Strided):
            return constant(vector(REGISTER_TYPE[self.core.dtype], self.lanes), array)
        value = load_lanes(self.f, array.dtype, frame.at(array, index), frame.size(array.strides[-1]), self.lanes, mask)
        return from_memory(self.f, value, array.dtype)


CORES: Mapping[Op, Callable[[KernelCode], bool]] = {cumsum_op: _scan, recurrence_op: _scan}
