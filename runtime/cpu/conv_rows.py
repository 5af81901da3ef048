"""Functions that lay out rows of elements for products of matrices, in float32; all convolutions share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from graphc.runtime.cpu import shared
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT, copy_run, nested, strided_load
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.shared import Shared
from graphc.runtime.cpu.values import Int, Value, constant, vector


class Copied(NamedTuple):
    """What the taps of some channels meet: a row of each, points of images; distances are in elements.

    Attributes:
        channels, down, across: how many channels, and taps along height and width.
        images, points, width: how many images, lines of points in each, and points of a line.
        channel, tap_down, tap_across, image, line: distances in the source.
        plane, row: of images and of rows in the target.
    """

    channels: Int
    down: Int
    across: Int
    images: Int
    points: Int
    width: Int
    channel: Int
    tap_down: Int
    tap_across: Int
    image: Int
    line: Int
    plane: Int
    row: Int


def copy_taps(f: Function, source: Value, target: Value, stride: int, how: Copied) -> None:
    """Copy rows; up to a vector more is written after each line of points.

    Args:
        source: where the first tap of the first channel meets the first point.
        stride: distance of points in the source.
    """
    shared.call(f, f"rows.copy.{stride}", (source, target), how)


def _copy(f: Function, host: Host, given: Sequence[Value], variant: Sequence[str]) -> None:
    source, target, *numbers = given
    how, stride = Copied(*numbers), int(variant[0])
    loops = [(how.images, (how.image, how.plane)), (how.points, (how.line, how.width))]
    counts, steps = (how.channels, how.down, how.across), (how.channel, how.tap_down, how.tap_across)

    def rows(over: Pieces) -> None:
        def row(places: Sequence[Value], carried: list[Value]) -> list[Value]:
            def line(places: Sequence[Value], _: list[Value]) -> Sequence[Value]:
                def piece(i: Int, lanes: int, mask: Value | None) -> None:
                    at = f.address(places[0], f.mul(i, stride), FLOAT)
                    f.store(strided_load(f, at, lanes, lanes, stride, mask), f.address(places[1], i, FLOAT), BYTES)

                over(piece)
                return ()

            nested(f, loops, [places[0], carried[0]], [], line)
            return [f.address(carried[0], how.row, FLOAT)]

        nested(f, [(count, (step,)) for count, step in zip(counts, steps, strict=True)], [source], [target], row)

    _by_length(f, host, f.i64(how.width), rows, 2 if stride == 2 else 1)


Piece = Callable[[Int, int, Value | None], None]  # takes where it begins, its lanes, and a mask of those that are there
Pieces = Callable[[Piece], None]  # covers some elements


def _by_length(f: Function, host: Host, count: Value, body: Callable[[Pieces], None], spread: int = 1) -> None:
    """Emit code for runs of at most half a vector, which are one piece, and for longer ones.

    Args:
        body: what does something with the pieces of many runs.
        spread: distance of the elements in vectors that are masked.
    """
    wide = host.lanes(BYTES)
    half, whole = wide // 2, f.mul(f.div(count, wide), wide)
    rest = f.sub(count, whole)
    is_rest, is_long = f.is_less(0, rest), f.is_less(half, count)
    short_mask, rest_mask = (
        f.mask(f.sub(f.mul(left, spread), spread - 1), spread * lanes) for left, lanes in ((count, half), (rest, wide))
    )

    def long(piece: Piece) -> None:
        f.loop(0, whole, wide, lambda i, _: piece(i, wide, None))
        f.if_(is_rest, lambda: piece(whole, wide, rest_mask))

    f.if_(is_long, lambda: body(long), lambda: body(lambda piece: piece(0, half, short_mask)))


class Joined(NamedTuple):
    """Rows of results, images of lines of points, that go between others; distances are in elements.

    Attributes:
        rows, images, lines, points: how many there are of each.
        row, image, line: distances in the source.
        target_row, target_image, target_line, target_point: in the target.
    """

    rows: Int
    images: Int
    lines: Int
    points: Int
    row: Int
    image: Int
    line: Int
    target_row: Int
    target_image: Int
    target_line: Int
    target_point: Int


def join_rows(f: Function, source: Value, target: Value, how: Joined) -> None:
    """Copy rows whose points become further apart."""
    shared.call(f, "rows.join", (source, target), how)


def _join(f: Function, host: Host, given: Sequence[Value], _: Sequence[str]) -> None:
    source, target, *numbers = given
    how = Joined(*numbers)
    counts = (how.rows, how.images, how.lines)
    far = zip((how.row, how.image, how.line), (how.target_row, how.target_image, how.target_line), strict=True)
    loops = list(zip(counts, far, strict=True))

    def rows(over: Pieces) -> None:
        def line(places: Sequence[Value], _: list[Value]) -> Sequence[Value]:
            def piece(i: Int, lanes: int, mask: Value | None) -> None:
                steps = f.binary("mul", f.counter(lanes), f.splat(f.i64(how.target_point), lanes))
                value = f.load(vector(FLOAT, lanes), f.address(places[0], i, FLOAT), BYTES, mask)
                start = f.address(places[1], f.mul(i, how.target_point), FLOAT)
                f.scatter(value, f.addresses(start, steps, FLOAT), BYTES, mask)

            over(piece)
            return ()

        nested(f, loops, [source, target], [], line)

    _by_length(f, host, f.i64(how.points), rows)


class Packed(NamedTuple):
    """Rows of two loops of runs of contiguous elements; distances are in elements.

    Attributes:
        rows, row, target_row: how many, and their distances in the source and the target.
        outer, outer_step, inner, inner_step: how often both loops run, and how far each leads in the source.
        run: elements, which follow each other in the target.
    """

    rows: Int
    row: Int
    target_row: Int
    outer: Int
    outer_step: Int
    inner: Int
    inner_step: Int
    run: Int


def pack_rows(f: Function, source: Value, target: Value, how: Packed) -> None:
    """Copy rows; up to a vector more is written after each."""
    shared.call(f, "rows.pack", (source, target), how)


def _pack(f: Function, host: Host, given: Sequence[Value], _: Sequence[str]) -> None:
    source, target, *numbers = given
    how = Packed(*numbers)

    def row(places: Sequence[Value], _: list[Value]) -> Sequence[Value]:
        def copy(inner: Sequence[Value], carried: list[Value]) -> list[Value]:
            copy_run(f, host, inner[0], carried[0], how.run)
            return [f.address(carried[0], how.run, FLOAT)]

        loops = [(how.outer, (how.outer_step,)), (how.inner, (how.inner_step,))]
        nested(f, loops, [places[0]], [places[1]], copy)
        return ()

    nested(f, [(how.rows, (how.row, how.target_row))], [source, target], [], row)


def clear_rows(f: Function, at: Value, rows: Int, row: Int, low: Int, high: Int) -> None:
    """Zero some columns of rows that lie `row` elements apart: whole vectors, at aligned addresses."""
    shared.call(f, "rows.clear", (at,), (rows, row, low, high))


def _clear(f: Function, host: Host, given: Sequence[Value], _: Sequence[str]) -> None:
    at, rows, row, low, high = given
    wide = host.lanes(BYTES)
    zero = constant(vector(FLOAT, wide), 0)

    def of_row(places: Sequence[Value], _: list[Value]) -> Sequence[Value]:
        f.loop(low, high, wide, lambda c, _: f.store(zero, f.address(places[0], c, FLOAT), host.vector_bytes))
        return ()

    nested(f, [(rows, (row,))], [at], [], of_row)


class Weights(NamedTuple):
    """How the sums of a row of weights lie; distances are in elements, those of neighbouring channels are 1.

    Attributes:
        channels: of a row.
        parts, part: how many sums make a weight, and their distance.
        across: taps along the width.
        tap_down, tap_across: distances of taps.
    """

    channels: Int
    parts: Int
    part: Int
    across: Int
    tap_down: Int
    tap_across: Int


def put_weights(f: Function, source: Value, target: Value, taps: int, how: Weights) -> None:
    """Add up the sums of one row of weights, and put the taps of each channel together."""
    shared.call(f, f"rows.weights.{taps}", (source, target), how)


def _weights(f: Function, host: Host, given: Sequence[Value], variant: Sequence[str]) -> None:
    source, target, *numbers = given
    how, taps, wide = Weights(*numbers), int(variant[0]), host.lanes(BYTES)
    type = vector(FLOAT, wide)
    turned = f.stack(type, taps)  # the sums of `wide` channels, tap by tap
    order = [k % taps * wide + k // taps for k in range(taps * wide)]  # to read them channel by channel
    places = f.module.table("places", "i32", order)

    def some(c: Int, count: Int, mask: Value | None) -> None:
        elements = f.mul(count, taps)

        def tap(t: Value, _: list[Value]) -> None:
            offset = f.add(f.mul(f.div(t, how.across), how.tap_down), f.mul(f.rem(t, how.across), how.tap_across))
            begin = f.address(source, f.add(offset, c), FLOAT)

            def part(k: Value, total: list[Value]) -> list[Value]:
                at = f.address(begin, f.mul(k, how.part), FLOAT)
                return [f.binary("fadd", total[0], f.load(type, at, BYTES, mask))]

            (total,) = f.loop(0, how.parts, 1, part, [constant(type, 0)])
            f.store(total, f.address(turned, t, type), host.vector_bytes)

        def piece(k: Value, _: list[Value]) -> None:
            exists = None if mask is None else f.mask(f.sub(elements, k), wide)
            at = f.load(vector("i32", wide), f.address(places, k, "i32"), BYTES)
            value = f.gather(type, f.addresses(turned, at, FLOAT), BYTES, exists)
            into = f.address(f.address(target, f.mul(c, taps), FLOAT), k, FLOAT)
            f.store(value, into, BYTES, exists)

        f.loop(0, taps, 1, tap)
        f.loop(0, elements, wide, piece)

    whole = f.mul(f.div(how.channels, wide), wide)
    rest = f.sub(how.channels, whole)
    f.loop(0, whole, wide, lambda c, _: some(c, wide, None))
    f.if_(f.is_less(0, rest), lambda: some(whole, rest, f.mask(rest, wide)))


_KINDS = {
    "copy": Shared(2, len(Copied._fields), _copy),
    "join": Shared(2, len(Joined._fields), _join),
    "pack": Shared(2, len(Packed._fields), _pack),
    "clear": Shared(1, 4, _clear),
    "weights": Shared(2, len(Weights._fields), _weights),
}
library = partial(shared.library, _KINDS)
