"""How the operands of convolutions are laid out before they are multiplied: with zeros around, or channels last."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from graphc.dims import Dim
from graphc.kernel import Region
from graphc.runtime.cpu import shared
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.values import Int, Value, constant, lanes_of, vector
from graphc.runtime.strided import Strided

Spans = tuple[tuple[int, int], tuple[int, int]]  # first and last (exclusive) element, along height and width


def is_channels_last(source: Strided, channels: int, width: int) -> bool:
    """Whether a source [batch, channels, height, width] lies in memory as [batch, height, width, channels]."""
    return source.strides[1:] == (1, width * channels, channels) and channels > 1


def stores_channels_last(region: Region) -> bool:
    """Whether a region over [batch, channels, *sizes] stores channels next to each other."""
    return bool(region.stores) and all(store.access.strides[1] == 1 for store in region.stores)


def stored(region: Region) -> Strided | None:
    """Where a region stores its first output; None if that is not float32, or its strides are not known."""
    if not region.stores or region.body.outputs[0].dtype != "float32":
        return None
    (write, access), *_ = region.stores
    if not all(isinstance(step, int) for step in access.strides):
        return None
    return Strided("write", write, access.offset, access.strides, "float32")


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
    low, high = frame.low, frame.high
    steps = frame.sizes(source.strides)
    places = frame.at(source, (0, 0, 0, 0)), frame.at(target, (0, 0, top, left))
    near = "near" if source.strides[3] == 1 else "apart"
    shared.call(frame.f, f"source.pad.{near}", places, (low, high, channels, *sizes, top, rows, left, columns, *steps))
    frame.done()
    return target


def _pad(f: Function, host: Host, given: Sequence[Value], variant: Sequence[str]) -> None:
    """The function behind `padded`: the source, where the first plane goes, which planes, and how they lie."""
    source, target, first, last, channels, height, width, top, rows, left, columns, *steps = given
    image_step, channel_step, line_step, step = steps
    plane_size = f.mul(rows, columns)

    def plane(unit: Value, _: list[Value]) -> None:
        n, c = f.div(unit, channels), f.rem(unit, channels)
        begin = f.address(source, f.add(f.mul(n, image_step), f.mul(c, channel_step)), FLOAT)
        into = f.address(target, f.mul(unit, plane_size), FLOAT)

        def row(i: Value, _: list[Value]) -> None:
            h = f.add(i, top)
            start = f.address(begin, f.add(f.mul(h, line_step), f.mul(left, step)), FLOAT)
            ends = (start, f.address(into, f.mul(i, columns), FLOAT))
            there = _width_there(f, h, (height, width))
            _padded_row(f, host, ends, 1 if variant[0] == "near" else step, (left, columns), there)

        f.loop(0, rows, 1, row)

    f.loop(first, last, 1, plane)


def padded_pixels(
    code: KernelCode, source: Strided, batch: Dim, channels: int, sizes: tuple[int, int], spans: Spans
) -> Strided:
    """As `padded`, of a source whose channels lie together, as they do in the copy; see `is_channels_last`."""
    (top, bottom), (left, right) = spans
    height, width = sizes
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return source
    rows, columns, wide = bottom - top, right - left, code.host.lanes(BYTES)
    pixel = channels + wide  # pixels a power of 2 apart would share few sets of the first cache
    strides = (pixel * rows * columns, 1, columns * pixel, pixel)
    offset = code.workspace(batch * strides[0] * BYTES)
    target = Strided("workspace", offset, -(top * columns + left) * pixel, strides, "float32")
    units = batch * rows
    frame = code.phase(units, units * (columns * channels // 8 + 1))
    f = frame.f

    def row(unit: Value, _: list[Value]) -> None:
        n, h = f.div(unit, rows), f.add(f.rem(unit, rows), top)
        there = _width_there(f, h, sizes)

        def column(w: Value, _: list[Value]) -> None:
            exists = f.compare("icmp ult", f.convert("trunc", w, "i32"), there)
            ends = [frame.at(array, (n, 0, h, w)) for array in (source, target)]
            count = f.select(exists, constant("i32", channels), constant("i32", 0))
            _padded_row(f, code.host, ends, 1, (0, channels), count)

        f.loop(left, right, 1, column)

    f.loop(frame.low, frame.high, 1, row)
    frame.done()
    return target


def _padded_row(
    f: Function, host: Host, ends: Sequence[Value], stride: Int, span: tuple[Int, Int], there: Value
) -> None:
    """Copy the part of a row that is there, into zeros.

    Args:
        ends: where the row begins in the source and in the target.
        span: the first element's number, and how many there are.
        there: how many elements the source has, from number 0 on, an i32.
    """
    (source, target), (low, count) = ends, span
    wide = host.lanes(BYTES)

    def piece(i: Value, _: list[Value]) -> None:
        exists = _existing(f, f.add(i, low), there, wide)
        first = f.address(source, f.mul(i, stride), FLOAT)
        value = _load_row(f, first, stride, exists, vector(FLOAT, wide))
        f.store(value, f.address(target, i, FLOAT), BYTES, f.mask(f.sub(count, i), wide))

    f.loop(0, count, wide, piece)


def _existing(f: Function, first: Int, there: Value, lanes: int) -> Value:
    """The lanes from element `first` on that have a number in `0 .. there - 1`."""
    at = f.convert("trunc", f.i64(first), "i32")
    number = f.binary("add", f.counter(lanes, "i32"), f.splat(at, lanes))
    return f.compare("icmp ult", number, f.splat(there, lanes))


def _load_row(f: Function, at: Value, stride: Int, exists: Value, type: str) -> Value:
    """Elements that lie `stride` apart, those that exist."""
    if stride == 1:
        return f.load(type, at, BYTES, exists)
    lanes = lanes_of(type)
    steps = f.binary("mul", f.counter(lanes), f.splat(f.i64(stride), lanes))
    return f.gather(type, f.addresses(at, steps, FLOAT), BYTES, exists)


def _width_there(f: Function, h: Int, sizes: tuple[Int, Int]) -> Value:
    """How many elements of a row exist, an i32."""
    inside = f.compare("icmp ult", f.i64(h), f.i64(sizes[0]))
    return f.convert("trunc", f.select(inside, f.i64(sizes[1]), f.i64(0)), "i32")


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

    def row(unit: Value, _: list[Value]) -> None:
        n, h = f.div(unit, rows), f.add(f.rem(unit, rows), top)
        into = frame.at(target, (n, 0, h, left))
        turn_rows(frame, source, (n, 0), into, channels, channels, sizes, ((h, 1), (left, columns)))

    f.loop(frame.low, frame.high, 1, row)
    frame.done()
    return target


def turn_rows(
    frame: Frame,
    source: Strided,
    index: Sequence[Int],
    target: Value,
    channels: Int,
    pixel: int,
    sizes: tuple[int, int],
    spans: tuple[tuple[Int, int], tuple[int, int]],
) -> None:
    """Copy rows of a source with their channels last, zeros where it has no elements.

    Args:
        index: of the image and the first channel.
        target: where the first pixel goes; `pixel` elements from one to the next.
        channels: how many.
        sizes: of the source, along height and width.
        spans: the first row and column, and how many.
    """
    f = frame.f
    (top, rows), (left, columns) = spans
    steps = [frame.size(step) for step in source.strides[1:]]
    args = [channels, pixel, *sizes, top, rows, left, columns, *steps]
    shared.call(f, "source.turn", [frame.at(source, index), target], args)


def _turn(f: Function, host: Host, given: Sequence[Value], _: Sequence[str]) -> None:
    """The function behind `turn_rows`."""
    source, target, *sizes, channel_step, line_step, column_step = given
    channels, pixel, height, width, top, rows, left, columns = sizes
    wide = host.lanes(BYTES)
    type = vector(FLOAT, wide)
    apart = f.binary("mul", f.counter(wide, "i32"), f.splat(f.convert("trunc", channel_step, "i32"), wide))

    def row(r: Value, _: list[Value]) -> None:
        h = f.i64(f.add(top, r))
        there = f.select(f.compare("icmp ult", h, height), width, f.i64(0))

        def some(c: Value, _: list[Value]) -> None:
            mask = f.mask(f.sub(channels, c), wide)
            begin = f.address(source, f.add(f.mul(h, line_step), f.mul(c, channel_step)), FLOAT)

            def column(k: Value, _: list[Value]) -> None:
                w = f.i64(f.add(left, k))
                exists = f.splat(f.compare("icmp ult", w, there), wide)
                places = f.addresses(f.address(begin, f.mul(w, column_step), FLOAT), apart, FLOAT)
                value = f.gather(type, places, BYTES, f.binary("and", exists, mask))
                into = f.add(f.mul(f.add(f.mul(r, columns), k), pixel), c)
                f.store(value, f.address(target, into, FLOAT), BYTES, mask)

            f.loop(0, columns, 1, column)  # the innermost, as it meets the same lines of the cache again

        f.loop(0, channels, wide, some)

    f.loop(0, rows, 1, row)


library = partial(shared.library, {"turn": shared.Shared(2, 11, _turn), "pad": shared.Shared(2, 13, _pad)})
