"""Transforms of weights and of results, by functions that all Winograd convolutions share.

What differs from one convolution to the next is a parameter, but for what the inner loops depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

from graphc.runtime.cpu import shared
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.shared import Shared
from graphc.runtime.cpu.values import Int, Value, vector
from graphc.runtime.cpu.winograd import (
    RESULTS,
    SIDE,
    TAPS,
    TRANSFORMS,
    Lines,
    Pass,
    Transform,
    interleaved,
    spread_apart,
    store_column,
    two_passes,
)


class Weights(NamedTuple):
    """How rows of weights lie, in elements.

    Attributes:
        channels: of a row.
        row, channel: distances of rows, and of channels in the source; in the target channels follow each other.
        down, across: distances of taps; negative where they are turned round.
        place: distance of places in the target.
    """

    channels: int
    row: int
    channel: int
    down: int
    across: int
    place: int


def transform_weights(f: Function, host: Host, source: Value, target: Value, rows: Int, how: Weights) -> None:
    """Transform rows of weights, which begin with the first tap that is taken."""
    inner = "channels" if how.channel < how.row else "rows"
    last = "masked" if how.channels % host.lanes(BYTES) else "whole"
    shared.call(f, f"winograd.weights.{inner}.{last}", (source, target), (rows, *how))


def transform_results(f: Function, source: Value, target: Value, vectors: Int, place: int, row: int) -> None:
    """Transform the products of one row of weights, for vectors of tiles.

    The results lie as four rows, the lines of the tiles one after the other in each.

    Args:
        place: distance of places in the source.
        row: tiles in a row of results, at most.
    """
    shared.call(f, "winograd.results", (source, target), (vectors, place, row))


class Lined(NamedTuple):
    """How a line of tiles lies whose channels are last, in elements.

    Attributes:
        tiles: of the line.
        columns: pixels of a row.
        row: distance of pixels, and of tiles in the target.
        place: distance of places in the target.
    """

    tiles: int
    columns: int
    row: int
    place: int


def transform_line(f: Function, kind: Literal["source", "gradients"], source: Value, target: Value, how: Lined) -> None:
    """Transform a line of tiles: 6x6 elements of the source, or 4x4 gradients, each."""
    shared.call(f, f"winograd.line.{kind}", (source, target), how)


def transform_sums(f: Function, source: Value, target: Value, channels: Int, place: int, taps: tuple[int, int]) -> None:
    """Transform the sums of one row of weights, of some channels, a multiple of a vector's, to gradients.

    Args:
        place: distance of places in the source.
        taps: distances of the gradients of taps, along height and width.
    """
    shared.call(f, "winograd.sums", (source, target), (channels, place, *taps))


class Sources(NamedTuple):
    """How the source of a block of tiles lies, and where it goes; distances are in elements.

    Attributes:
        images: how many.
        first, lines: the first line of tiles in each, and how many; `most` at most.
        across: tiles of a line.
        top, left: the element that the very first tile begins with.
        height, width: of the source.
        image, line: distances in the source.
        row: columns of the matrices, a multiple of a vector's lanes.
        place: distance of the matrices.
    """

    images: Int
    first: Int
    lines: Int
    most: int
    across: int
    top: int
    left: int
    height: int
    width: int
    image: Int
    line: Int
    row: int
    place: int


def stage_size(host: Host, transform: Transform, row: int) -> int:
    """Elements of the memory for rows of elements that `transform_sources` needs."""
    return 2 * transform.down.met * (row * transform.across.results + host.lanes(BYTES))


def transform_sources(f: Function, transform: Transform, places: Sequence[Value], how: Sources) -> None:
    """Transform the tiles of one channel of a block.

    Args:
        places: the channel in the first image, where the transformed tiles go, memory for rows of elements that is
            finite, a row of zeros as long as the source's.
    """
    shared.call(f, f"winograd.sources.{transform.name}", places, how)


def _weights(f: Function, host: Host, given: Sequence[Value], variant: Sequence[str]) -> None:
    source, target, rows, channels, row_step, channel_step, down, across, place = given
    inner, last = variant
    wide, taps = host.lanes(BYTES), Pass(Lines(f).taps, TAPS, SIDE)
    type = vector(FLOAT, wide)
    steps = f.binary("mul", f.counter(wide, "i32"), f.splat(f.convert("trunc", channel_step, "i32"), wide))

    def some(r: Int, c: Int) -> None:
        at = f.address(source, f.add(f.mul(r, row_step), f.mul(c, channel_step)), FLOAT)
        into = f.address(target, f.add(f.mul(r, channels), c), FLOAT)
        mask = f.mask(f.sub(channels, c), wide) if last == "masked" else None

        def load(i: Value) -> list[Value]:
            row = f.address(at, f.mul(i, down), FLOAT)
            places = [f.addresses(f.address(row, f.mul(j, across), FLOAT), steps, FLOAT) for j in range(TAPS)]
            return [f.gather(type, place, BYTES, mask) for place in places]

        def store(j: Value, values: Sequence[Value]) -> None:
            store_column(f, f.address(into, f.mul(j, place), FLOAT), values, SIDE, place, mask)

        two_passes(f, type, taps, taps, load, store)

    if inner == "channels":
        f.loop(0, rows, 1, lambda r, _: f.loop(0, channels, wide, lambda c, _: some(r, c)) and None)
    else:
        f.loop(0, channels, wide, lambda c, _: f.loop(0, rows, 1, lambda r, _: some(r, c)) and None)


def _results(f: Function, host: Host, given: Sequence[Value], _: Sequence[str]) -> None:
    source, target, vectors, place, row_size = given
    wide, results, align = host.lanes(BYTES), Pass(Lines(f).results, SIDE, RESULTS), host.vector_bytes
    type = vector(FLOAT, wide)

    def some(v: Value, _: list[Value]) -> None:
        begin, into = f.address(source, f.mul(v, wide), FLOAT), f.address(target, f.mul(v, RESULTS * wide), FLOAT)

        def load(j: Value) -> list[Value]:
            column = f.address(begin, f.mul(j, place), FLOAT)
            places = [f.address(column, f.mul(i * SIDE, place), FLOAT) for i in range(SIDE)]
            return [f.load(type, at, align) for at in places]

        def store(i: Value, values: Sequence[Value]) -> None:
            row = f.address(into, f.mul(f.mul(i, RESULTS), row_size), FLOAT)
            for k, value in enumerate(interleaved(f, values)):
                f.store(value, f.address(row, k * wide, FLOAT), align)

        two_passes(f, type, results, results, load, store)

    f.loop(0, vectors, 1, some)


def _line(f: Function, host: Host, given: Sequence[Value], variant: Sequence[str]) -> None:
    source, target, tiles, columns, row, place = given
    wide = host.lanes(BYTES)
    line, side = {"source": (Lines(f).source, SIDE), "gradients": (Lines(f).gradients, RESULTS)}[variant[0]]
    each = Pass(line, side, SIDE)
    type = vector(FLOAT, wide)

    def tile(t: Value, _: list[Value]) -> None:
        begin = f.address(source, f.mul(f.mul(t, RESULTS), row), FLOAT)
        onto = f.address(target, f.mul(t, row), FLOAT)

        def some(c: Value, _: list[Value]) -> None:
            at, into = f.address(begin, c, FLOAT), f.address(onto, c, FLOAT)

            def load(i: Value) -> list[Value]:
                pixels = f.address(at, f.mul(i, f.mul(columns, row)), FLOAT)
                return [f.load(type, f.address(pixels, f.mul(j, row), FLOAT), BYTES) for j in range(side)]

            def store(j: Value, values: Sequence[Value]) -> None:
                store_column(f, f.address(into, f.mul(j, place), FLOAT), values, SIDE, place)

            two_passes(f, type, each, each, load, store)

        f.loop(0, row, wide, some)

    f.loop(0, tiles, 1, tile)


def _sums(f: Function, host: Host, given: Sequence[Value], _: Sequence[str]) -> None:
    source, target, channels, place, down, across = given
    wide, taps = host.lanes(BYTES), Pass(Lines(f).tap_gradients, SIDE, TAPS)
    type = vector(FLOAT, wide)

    def some(c: Value, _: list[Value]) -> None:
        at, into = f.address(source, c, FLOAT), f.address(target, c, FLOAT)

        def load(i: Value) -> list[Value]:
            row = f.address(at, f.mul(f.mul(i, SIDE), place), FLOAT)
            return [f.load(type, f.address(row, f.mul(j, place), FLOAT), BYTES) for j in range(SIDE)]

        def store(j: Value, values: Sequence[Value]) -> None:
            column = f.address(into, f.mul(j, across), FLOAT)
            for i, value in enumerate(values):
                f.store(value, f.address(column, f.mul(i, down), FLOAT), BYTES)

        two_passes(f, type, taps, taps, load, store)

    f.loop(0, channels, wide, some)


def _sources(f: Function, host: Host, given: Sequence[Value], variant: Sequence[str]) -> None:
    """Rows are copied so that each tile has as many elements as results, the first ones, and, in a second copy, the
    last two: one element of all tiles lies in a few vectors, equally far apart.

    What is copied behind a line's elements is what follows in the row, or 0; the next line is copied over it.
    """
    source, target, stage, zeros, *numbers = given
    images, first, count, most, across, top, left, height, width, image_step, line_step, row_size, place = numbers
    down, aside = next(each for each in TRANSFORMS if each.name == variant[0])
    wide, results = host.lanes(BYTES), aside.results
    type = vector(FLOAT, wide)
    stage_row = f.add(f.mul(row_size, results), wide)
    copy_size, elements = f.mul(down.met, stage_row), f.mul(results, across)

    def copy(lanes: int) -> None:
        """Copy all lines, so many elements at a time."""
        widths = f.splat(f.convert("trunc", width, "i32"), lanes)

        def row(n: Value, t: Value, r: Value) -> None:
            tile_line = f.add(f.mul(n, most), t)
            h = f.i64(f.add(f.add(f.mul(f.add(first, t), down.results), r), top))
            here = f.address(source, f.add(f.mul(n, image_step), f.mul(h, line_step)), FLOAT)
            begin = f.select(f.compare("icmp ult", h, height), here, zeros)
            into = f.address(stage, f.add(f.mul(r, stage_row), f.mul(tile_line, elements)), FLOAT)

            def piece(x: Value, _: list[Value]) -> None:
                for k in (0, 1):
                    start = f.i64(f.add(f.add(left, k * results), x))
                    at = f.splat(f.convert("trunc", start, "i32"), lanes)
                    exists = f.compare("icmp ult", f.binary("add", f.counter(lanes, "i32"), at), widths)
                    value = f.load(vector(FLOAT, lanes), f.address(begin, start, FLOAT), BYTES, exists)
                    f.store(value, f.address(f.address(into, f.mul(k, copy_size), FLOAT), x, FLOAT), BYTES)

            f.loop(0, elements, lanes, piece)

        def line(n: Value, t: Value) -> None:
            f.loop(0, down.met, 1, lambda r, _: row(n, t, r))

        f.loop(0, images, 1, lambda n, _: f.loop(0, count, 1, lambda t, _: line(n, t)) and None)

    def some(v: Value, _: list[Value]) -> None:
        into = f.address(target, f.mul(v, wide), FLOAT)

        def load(r: Value) -> list[Value]:
            start = f.add(f.mul(r, stage_row), f.mul(v, results * wide))
            copies = [f.address(stage, f.add(start, f.mul(k, copy_size)), FLOAT) for k in (0, 1)]
            whole, last = (
                [f.load(type, f.address(at, j * wide, FLOAT), BYTES) for j in range(results)] for at in copies
            )
            return [*spread_apart(f, whole, results), *spread_apart(f, last, aside.met - results)]

        def store(j: Value, values: Sequence[Value]) -> None:
            store_column(f, f.address(into, f.mul(j, place), FLOAT), values, aside.met, place)

        rows, columns = (Pass(side.lines(f).source, side.met, side.met) for side in (aside, down))
        two_passes(f, type, rows, columns, load, store)

    f.if_(f.is_less(1, across), lambda: copy(wide), lambda: copy(min(results, wide)))
    f.loop(0, f.div(row_size, wide), 1, some)


_KINDS = {
    "weights": Shared(2, 1 + len(Weights._fields), _weights),
    "results": Shared(2, 3, _results),
    "line": Shared(2, len(Lined._fields), _line),
    "sums": Shared(2, 4, _sums),
    "sources": Shared(4, len(Sources._fields), _sources),
}
library = partial(shared.library, _KINDS)
