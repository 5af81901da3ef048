"""The tiles of a convolution's source, transformed: for each place a matrix of channels by tiles, in float32.

Tiles lie in the lanes of vectors. Those of a *block*, of a few whole images or a few lines of tiles of one, are the
columns of its matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from graphc.dims import Dim, ceil_div
from graphc.runtime.conv_geometry import Sweep
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_rows import clear_rows
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT, counters, even_part
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.values import I64, Int, Value, constant, vector
from graphc.runtime.cpu.winograd import Pass, Transform, store_column, two_passes
from graphc.runtime.cpu.winograd_library import Sources, stage_size, transform_sources
from graphc.runtime.strided import Strided


class Grid(NamedTuple):
    """The tiles of all images, and how they are divided into blocks.

    Attributes:
        height, width: the sweeps of the axes.
        images, lines: of a block: whole images, or lines of tiles of one.
    """

    transform: Transform
    batch: Dim
    height: Sweep
    width: Sweep
    images: int
    lines: int

    @property
    def down(self) -> int:
        """Lines of tiles in an image."""
        return -(-self.height.results // self.transform.down.results)

    @property
    def across(self) -> int:
        """Tiles of a line."""
        return -(-self.width.results // self.transform.across.results)

    @property
    def line_blocks(self) -> int:
        """Blocks that an image is divided into, if blocks are lines of tiles."""
        return -(-self.down // self.lines)

    @property
    def blocks(self) -> Dim:
        """How many blocks there are."""
        return ceil_div(self.batch, self.images) * self.line_blocks

    @property
    def most(self) -> int:
        """Tiles of a block, at most."""
        return self.images * self.lines * self.across

    def divided(self, most: int) -> Grid:
        """The same tiles in even blocks of at most so many, but at least one line."""
        if self.down * self.across <= most:
            return self._replace(images=even_part(self.batch, most // (self.down * self.across)), lines=self.down)
        return self._replace(images=1, lines=even_part(self.down, max(1, most // self.across)))

    def block(self, frame: Frame, block: Int) -> tuple[Int, Int, Int, Int]:
        """The first image of a block and how many, the first line of tiles and how many."""
        f = frame.f
        images, lines = counters(f, block, [0, self.line_blocks])
        n, line = f.mul(images, self.images), f.mul(lines, self.lines)
        n_count = f.min(self.images, f.sub(frame.size(self.batch), n))
        return n, n_count, line, f.min(self.lines, f.sub(self.down, line))

    def tiles_of(self, f: Function, images: Int, lines: Int) -> Int:
        """The tiles of a block of so many images and lines."""
        return f.mul(f.add(f.mul(f.sub(images, 1), self.lines), lines), self.across)


class Tiles:
    """Code that transforms the tiles of a source, in phases of a kernel.

    What lanes without tiles have is multiplied, too, if never used; it is finite, and no denormal number that some
    other kernel left in memory: those slow a processor down tenfold.

    Args:
        row: distance of the rows of the matrices, channels, a multiple of a vector's lanes.
        place: distance of the matrices.
    """

    def __init__(self, code: KernelCode, grid: Grid, source: Strided, row: int, place: int) -> None:
        self.code, self.host, self.grid, self.source = code, code.host, grid, source
        self.wide = code.host.lanes(BYTES)
        self.type = vector(FLOAT, self.wide)
        self.row, self.place = row, place
        self.zeros = -(-grid.width.size // self.wide) * self.wide  # a row that stands for those outside of the source
        self.parts = [stage_size(code.host, grid.transform, row), self.zeros + 2 * self.wide]  # of scratch

    def enter(self, frame: Frame, parts: Sequence[Value]) -> None:
        """Go on in a phase, whose scratch has room for `parts`."""
        self.frame, self.memory = frame, parts
        for at, count in zip(parts, (self.parts[0], self.zeros), strict=False):
            clear_rows(frame.f, at, 1, 0, 0, count)

    def transform(self, block: Int, channel: Int, target: Value) -> None:
        """Transform the tiles of one channel of a block."""
        frame, f, grid = self.frame, self.frame.f, self.grid
        n, n_count, line, lines = grid.block(frame, block)
        source = frame.at(self.source, (n, channel))
        how = Sources(
            n_count,
            line,
            lines,
            grid.lines,
            grid.across,
            grid.height.reach[0],
            grid.width.reach[0],
            grid.height.size,
            grid.width.size,
            frame.size(self.source.strides[0]),
            frame.size(self.source.strides[2]),
            self.row,
            self.place,
        )
        transform_sources(f, grid.transform, (source, target, *self.memory), how)


class ChannelTiles:
    """The same of a source whose channels lie together: they lie in the lanes of vectors.

    For each place there is, vector by vector of the channels, a matrix of tiles by those. Tiles are read where they
    are; what lies after the last one of a block, up to a whole number of `rows`, is zero.

    Args:
        vectors: of the channels.
        tiles: rows of a matrix.
        place: distance of the places.
        rows: tiles that are multiplied at a time.

    Attributes:
        units: in which a block is transformed: lines of tiles of one vector.
    """

    def __init__(
        self, code: KernelCode, grid: Grid, source: Strided, vectors: int, tiles: int, place: int, rows: int
    ) -> None:
        self.code, self.grid, self.source = code, grid, source
        self.wide = code.host.lanes(BYTES)
        self.type = vector(FLOAT, self.wide)
        self.matrix, self.place, self.rows = tiles * self.wide, place, rows
        self.units = vectors * grid.images * grid.lines
        self.parts: list[int] = []

    def enter(self, frame: Frame, parts: Sequence[Value]) -> None:
        """Go on in a phase."""
        self.frame = frame

    def transform(self, block: Int, unit: Int, target: Value) -> None:
        """Transform a unit of a block; the first line of a vector also clears what lies after the last tile."""
        frame, f, grid = self.frame, self.frame.f, self.grid
        n, n_count, line, lines = grid.block(frame, block)
        number, image, t = counters(f, f.i64(unit), [0, grid.images, grid.lines])
        into = f.address(target, f.mul(number, self.matrix), FLOAT)

        def there() -> None:
            source = frame.at(self.source, (f.add(n, image), f.mul(number, self.wide)))
            top = f.add(f.mul(f.add(line, t), grid.transform.down.results), grid.height.reach[0])
            at = f.mul(f.add(f.mul(image, grid.lines), t), grid.across * self.wide)
            f.call(self.line(), "void", source, f.address(into, at, FLOAT), f.i64(top))

        f.if_(f.binary("and", f.is_less(image, n_count), f.is_less(t, lines)), there)
        is_first = f.compare("icmp eq", f.i64(f.add(image, t)), f.i64(0))
        f.if_(is_first, lambda: self.clear(into, grid.tiles_of(f, n_count, lines)))

    def clear(self, target: Value, count: Int) -> None:
        """Zeros after so many tiles, up to where tiles are multiplied."""
        f = self.frame.f
        end = f.mul(f.div(f.add(count, self.rows - 1), self.rows), self.rows)
        zero, places = constant(self.type, 0), self.grid.transform.places

        def tile(j: Value, _: list[Value]) -> None:
            at = f.address(target, f.mul(j, self.wide), FLOAT)
            f.loop(0, places, 1, lambda p, _: f.store(zero, f.address(at, f.mul(p, self.place), FLOAT), BYTES))

        f.loop(count, end, 1, tile)

    def line(self) -> str:
        """The function that transforms a line of tiles: from the first channel of an image's first pixel, to where, and
        the first row of the source."""
        name, module, grid = "tiles", self.code.module, self.grid
        if module.has(name):
            return name
        parameters = [("ptr noalias", "source"), ("ptr noalias", "target"), (I64, "top")]
        f = module.function(name, parameters, internal=True)
        source, target, top = (f.parameter(k) for k in range(3))
        (down, across), start = grid.transform, grid.width.reach[0]
        rows, columns = (Pass(side.lines(f).source, side.met, side.met) for side in (across, down))
        line_step, pixel = (int(step) for step in self.source.strides[2:])

        def tile(exists: Sequence[bool], j: Value, _: list[Value]) -> None:
            begin = f.address(source, f.mul(f.add(f.mul(j, across.results), start), pixel), FLOAT)
            into = f.address(target, f.mul(j, self.wide), FLOAT)

            def load(r: Value) -> list[Value]:
                h = f.i64(f.add(top, r))
                inside = f.splat(f.compare("icmp ult", h, f.i64(grid.height.size)), self.wide)
                row = f.address(begin, f.mul(h, line_step), FLOAT)
                places = [f.address(row, k * pixel, FLOAT) for k in range(across.met)]
                zero = constant(self.type, 0)
                return [
                    f.load(self.type, at, BYTES, inside) if there else zero
                    for at, there in zip(places, exists, strict=True)
                ]

            def store(j: Value, values: Sequence[Value]) -> None:
                store_column(f, f.address(into, f.mul(j, self.place), FLOAT), values, across.met, self.place)

            two_passes(f, self.type, rows, columns, load, store)

        firsts = [start + j * across.results for j in range(grid.across)]
        existing = [tuple([0 <= w < grid.width.size for w in range(first, first + across.met)]) for first in firsts]
        low = 0
        for exists, alike in itertools.groupby(existing):
            high = low + len(list(alike))
            f.loop(low, high, 1, partial(tile, exists))
            low = high
        f.ret()
        return name
