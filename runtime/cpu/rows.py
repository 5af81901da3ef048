"""What the rooms of the cores share: units of work as indices, small loop nests, and rows of elements as vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.dims import Dim
from graphc.operands import splat_value
from graphc.runtime.cpu import lanes as regions
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.values import I64, Int, Value, constant
from graphc.runtime.strided import Strided

Number = float | int | bool

UNROLLED = 4  # vectors of a short row, and steps of a short loop, that are written one after the other


def units(frame: Frame, extents: Sequence[Dim], body: Callable[[list[Int]], None]) -> None:
    """Run `body` for the phase's units of this call, numbered row-major over a box.

    Args:
        extents: of the box; their product is the number of units.
        body: takes the index of a unit, an integer for each extent.
    """
    f = frame.f
    sizes = frame.sizes(extents)
    moving = [k for k, size in enumerate(sizes) if not (isinstance(size, int) and size == 1)]

    def unit(_: Value, carried: list[Value]) -> list[Value]:
        index: list[Int] = [0] * len(sizes)
        for k, i in zip(moving, carried, strict=True):
            index[k] = i
        body(index)
        return _following(f, carried, [sizes[k] for k in moving])

    f.loop(frame.low, frame.high, 1, unit, unravelled(f, frame.low, [sizes[k] for k in moving]))


def unravelled(f: Function, number: Value, sizes: Sequence[Int]) -> list[Value]:
    """The index over a box at a row-major number."""
    index = []
    for size in reversed(sizes[1:]):
        some = f.max(size, 1)  # an empty box has no units
        index.append(f.i64(f.rem(number, some)))
        number = f.i64(f.div(number, some))
    return [number, *reversed(index)] if sizes else []


def _following(f: Function, index: Sequence[Value], sizes: Sequence[Int]) -> list[Value]:
    """The index after `index`, row-major."""
    found: list[Value] = []
    step: Int = 1
    for i, size in zip(reversed(index[1:]), reversed(sizes[1:]), strict=True):
        more = f.i64(f.add(i, step))
        wraps = f.compare("icmp eq", more, f.i64(size))
        found.append(f.select(wraps, constant(I64, 0), more))
        step = f.convert("zext", wraps, I64)
    return [f.i64(f.add(i, step)) for i in index[:1]] + found[::-1]


def nest(
    f: Function,
    bounds: Sequence[tuple[Int, Int]],
    body: Callable[[list[Int], list[Value]], Sequence[Value]],
    carried: Sequence[Value] = (),
    written: int = UNROLLED,
) -> list[Value]:
    """Loops inside each other, the first one outermost, carrying values along.

    Args:
        bounds: first and last (exclusive) index of each.
        body: takes the index and the carried values, and returns their next values.
        written: steps up to which a loop is written out.
    """
    if not bounds:
        return list(body([], list(carried)))
    (low, high), *inner = bounds

    def step(i: Int, values: list[Value]) -> list[Value]:
        return nest(f, inner, lambda rest, now: body([i, *rest], now), values, written)

    if isinstance(low, int) and isinstance(high, int) and high - low <= written:
        values = list(carried)
        for i in range(low, high):
            values = step(i, values)
        return values
    return f.loop(low, high, 1, step, carried)


def columns(f: Function, count: Int, lanes: int, body: Callable[[Int, Value | None], None]) -> None:
    """Go along a row, vector by vector.

    Args:
        body: takes where the vector begins, and which of its lanes exist (None: all).
    """

    def step(at: Int, mask: Value | None, carried: list[Value]) -> list[Value]:
        body(at, mask)
        return carried

    sweep(f, count, lanes, step, ())


def sweep(
    f: Function,
    count: Int,
    lanes: int,
    body: Callable[[Int, Value | None, list[Value]], Sequence[Value]],
    carried: Sequence[Value],
) -> list[Value]:
    """Go along a row, vector by vector, carrying values along.

    Args:
        body: takes where the vector begins, which of its lanes exist (None: all), and the carried values; returns their
            next values.
    """
    values = list(carried)
    if isinstance(count, int) and count <= UNROLLED * lanes:
        for at in range(0, count, lanes):
            values = list(body(at, None if at + lanes <= count else f.mask(count - at, lanes), values))
        return values
    left = f.rem(count, lanes)
    full = f.sub(count, left)
    values = f.loop(0, full, lanes, lambda i, now: body(i, None, now), values)
    if isinstance(left, Value):
        return f.if_(f.is_less(0, left), lambda: body(full, f.mask(left, lanes), values), lambda: values)
    return list(body(full, f.mask(left, lanes), values)) if left else values


def fitting(count: Dim, lanes: int, least: int = 1) -> int:
    """Lanes for rows of `count` elements: fewer than `lanes` if the rows are short."""
    return max(least, min(lanes, 1 << max(count - 1, 0).bit_length())) if isinstance(count, int) else lanes


def operand_or_number(code: KernelCode, k: int) -> Strided | Number:
    """Where the core's k-th operand lies, or the number that all of it is."""
    number: Number | None = splat_value(code.kernel.operands[k].body.outputs[0])
    return regions.operand(code, k) if number is None else number
