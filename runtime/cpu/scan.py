"""Scans along an axis: running sums and linear recurrences, in the order of the references.

Each lane has a line of its own. Along the last axis squares of elements are turned in registers before and after, if
there are lines enough; otherwise a few lines go side by side, so that no addition waits for the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from graphc.dims import Dim, ceil_div, product
from graphc.ir import Node
from graphc.op import Op
from graphc.ops.scan import cumsum_op, recurrence_op
from graphc.runtime.cpu import lanes as regions
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.elements import from_memory, load_lanes, to_memory, transposed
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.pointwise import REGISTER_TYPE
from graphc.runtime.cpu.rows import Number, fitting, operand_or_number, sweep, units
from graphc.runtime.cpu.values import Int, Value, constant, element_of, vector
from graphc.runtime.strided import Strided, itemsize

FLOATS = ("float", "double")
LINES = 8  # that go side by side along the last axis, where there are too few for the lanes of a vector
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
    beside = axis - 1 if is_last else core.ndim - 1  # the axis whose lines go side by side
    lanes = code.host.lanes(max(4, itemsize(core.dtype)))
    turned = is_last and _can_be_turned(arrays, shape, lanes)
    if not turned:
        lanes = 1 if is_last else fitting(shape[-1], lanes)
    block = lanes if turned else LINES if is_last else FLIGHT * lanes
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
        if turned:
            lines.run_turned({**at, beside: low}, left)
            return

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


def _can_be_turned(arrays: Sequence[Strided | Number], shape: Sequence[Dim], lanes: int) -> bool:
    """Whether the last axis is contiguous, and there are lines for all lanes."""
    if len(shape) < 2 or lanes == 1 or any(isinstance(a, Strided) and a.strides[-1] != 1 for a in arrays):
        return False
    return not any(isinstance(dim, int) and dim < lanes for dim in shape[-2:])


class _Lines:
    """Lines of a scan, side by side along another axis."""

    def __init__(
        self, frame: Frame, core: Node, arrays: Sequence[Strided | Number], y: Strided, beside: int, lanes: int
    ) -> None:
        self.frame, self.f, self.core = frame, frame.f, core
        self.arrays, self.y, self.beside, self.lanes = arrays, y, beside, lanes
        self.axis, self.reverse = core.attrs["axis"], core.attrs["reverse"]
        self.rule = _recurrence if core.op is recurrence_op else _sum(core.attrs["exclusive"])

    @property
    def start(self) -> Value:
        """The state before the first element, in each lane."""
        type = vector(REGISTER_TYPE[self.core.dtype], self.lanes)
        return constant(type, self.core.attrs["initial"] if self.core.op is recurrence_op else 0)

    def run(self, at: Mapping[int, Int], masks: Sequence[Value | None]) -> None:
        """One vector of lines for each mask, from `at` on."""
        f, frame = self.f, self.frame
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

        f.loop(0, extent, 1, step, [self.start] * len(masks))

    def run_turned(self, at: Mapping[int, Int], left: Int) -> None:
        """As many lines as lanes, along the last axis: the last one again for those beyond the `left` that exist."""
        f, frame, lanes = self.f, self.frame, self.lanes
        extent = frame.size(self.core.shape[self.axis])
        lines = [f.add(at[self.beside], f.min(k, f.sub(left, 1))) for k in range(lanes)]

        def square(i: Int, mask: Value | None, states: list[Value]) -> list[Value]:
            place = f.sub(f.sub(extent, lanes), i) if self.reverse else i
            if mask is not None and self.reverse:  # the elements that exist are the last ones
                mask = f.shuffle(mask, None, range(lanes)[::-1])
            points = [{**at, self.beside: line, self.axis: place} for line in lines]
            index = [[point[k] for k in range(self.core.ndim)] for point in points]
            rows = [[self._load(array, where, mask) for where in index] for array in self.arrays]
            columns = [
                transposed(f, row) if isinstance(a, Strided) else row for a, row in zip(self.arrays, rows, strict=True)
            ]
            (state,), found = states, [self.start] * lanes
            for k in range(lanes)[:: -1 if self.reverse else 1]:
                found[k], state = self.rule(f, state, [column[k] for column in columns])
            for where, value in zip(index, transposed(f, found), strict=True):
                f.store(to_memory(f, value, self.y.dtype), frame.at(self.y, where), itemsize(self.y.dtype), mask)
            return [state]

        sweep(f, extent, lanes, square, [self.start])

    def _load(self, array: Strided | Number, index: Sequence[Int], mask: Value | None) -> Value:
        frame = self.frame
        if not isinstance(array, Strided):
            return constant(vector(REGISTER_TYPE[self.core.dtype], self.lanes), array)
        value = load_lanes(self.f, array.dtype, frame.at(array, index), frame.size(array.strides[-1]), self.lanes, mask)
        return from_memory(self.f, value, array.dtype)


CORES: Mapping[Op, Callable[[KernelCode], bool]] = {cumsum_op: _scan, recurrence_op: _scan}
