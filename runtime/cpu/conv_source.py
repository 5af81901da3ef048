"""How the operands of convolutions are laid out before they are multiplied: with zeros around, or channels last."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.dims import Dim
from graphc.runtime.cpu.builder import Int, Value, constant, vector
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT, some_lanes
from graphc.runtime.cpu.phases import Frame, KernelCode, Strided

Spans = tuple[tuple[int, int], tuple[int, int]]  # first and last (exclusive) element, along height and width


def padded(
    code: KernelCode, source: Strided, batch: Dim, channels: int, sizes: tuple[int, int], spans: Spans
) -> Strided:
    """The elements of a source [batch, channels, *sizes] in some spans, with zeros where they lie outside.

    It is indexed like the source, so negative numbers mean the zeros before it. It is the source itself if the spans
    lie inside, rows are contiguous, and only images are a distance apart that isn't known.
    """
    (top, bottom), (left, right) = spans
    height, width = sizes
    plain = all(isinstance(step, int) for step in source.strides[1:]) and (source.strides[3] == 1 or width == 1)
    if plain and top >= 0 and left >= 0 and bottom <= height and right <= width:
        return source
    rows, columns = bottom - top, right - left
    offset = code.workspace(batch * channels * rows * columns * BYTES)
    strides = (channels * rows * columns, rows * columns, columns, 1)
    target = Strided("workspace", offset, -top * columns - left, strides, "float32")
    planes = batch * channels
    frame = code.phase(planes, planes * (rows * columns // 8 + 1), 0)
    f = frame.f

    def plane(unit: Value, _: list[Value]) -> None:
        n, c = f.div(unit, channels), f.rem(unit, channels)

        def row(i: Value, _: list[Value]) -> None:
            h = f.add(i, top)
            there = _width_there(frame, h, sizes)
            _padded_row(
                frame,
                [frame.at(array, (n, c, h, left)) for array in (source, target)],
                source.strides[3],
                (left, columns),
                there,
            )

        f.loop(0, rows, 1, row)

    f.loop(frame.low, frame.high, 1, plane)
    frame.done()
    return target


def _padded_row(frame: Frame, ends: Sequence[Value], stride: Dim, span: tuple[int, int], there: Value) -> None:
    """Copy the part of a row that is there, into zeros.

    Args:
        ends: where the row begins in the source and in the target.
        span: the first element's number, and how many there are.
        there: how many elements the source has, from number 0 on.
    """
    f, (source, target), (low, count) = frame.f, ends, span
    wide = frame.host.lanes(BYTES)
    type = vector(FLOAT, wide)

    def piece(i: Value, _: list[Value]) -> None:
        at = f.convert("trunc", f.i64(f.add(i, low)), "i32")
        number = f.binary("add", f.counter(wide, "i32"), f.splat(at, wide))
        exists = f.compare("icmp ult", number, f.splat(there, wide))
        first = f.address(source, f.mul(i, frame.size(stride)), FLOAT)
        if stride == 1:
            value = f.load(type, first, BYTES, exists)
        else:
            steps = f.binary("mul", f.counter(wide), f.splat(f.i64(frame.size(stride)), wide))
            value = f.gather(type, f.addresses(first, steps, FLOAT), BYTES, exists)
        f.store(value, f.address(target, i, FLOAT), BYTES, f.mask(f.sub(count, i), wide))

    f.loop(0, count, wide, piece)


def _width_there(frame: Frame, h: Int, sizes: tuple[int, int]) -> Value:
    """How many elements of a row exist, an i32."""
    f = frame.f
    inside = f.compare("icmp ult", f.i64(h), f.i64(sizes[0]))
    return f.select(inside, constant("i32", sizes[1]), constant("i32", 0))


def channels_last(
    code: KernelCode, source: Strided, batch: Dim, channels: int, sizes: tuple[int, int], spans: Spans
) -> Strided:
    """As `padded`, but laid out as [batch, height, width, channels]; a vector more may be read after the end."""
    (top, bottom), (left, right) = spans
    rows, columns = bottom - top, right - left
    wide = code.host.lanes(BYTES)
    offset = code.workspace((batch * rows * columns * channels + wide) * BYTES)
    strides = (rows * columns * channels, 1, columns * channels, channels)
    target = Strided("workspace", offset, -(top * columns + left) * channels, strides, "float32")
    units = batch * rows
    frame = code.phase(units, units * (columns * channels // 2 + 1))
    f = frame.f
    type = vector(FLOAT, wide)

    def row(unit: Value, _: list[Value]) -> None:
        n, h = f.div(unit, rows), f.add(f.rem(unit, rows), top)
        there = _width_there(frame, h, sizes)

        def pixel(w: Value, _: list[Value]) -> None:
            exists = f.compare("icmp ult", f.convert("trunc", w, "i32"), there)

            def some(c: Int, count: int) -> None:
                step = frame.size(source.strides[1])
                steps = f.binary("mul", f.counter(wide), f.splat(f.i64(step), wide))
                lanes = f.splat(exists, wide)
                mask = some_lanes(count, wide)
                met = lanes if mask is None else f.binary("and", lanes, mask)
                value = f.gather(type, f.addresses(frame.at(source, (n, c, h, w)), steps, FLOAT), BYTES, met)
                f.store(value, frame.at(target, (n, c, h, w)), BYTES, mask)

            whole = channels // wide * wide
            f.loop(0, whole, wide, lambda c, _: some(c, wide))
            if whole < channels:
                some(whole, channels - whole)

        f.loop(left, right, 1, pixel)

    f.loop(frame.low, frame.high, 1, row)
    frame.done()
    return target
