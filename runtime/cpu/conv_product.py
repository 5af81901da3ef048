"""Products of matrices in float32, tile by tile: a function that all convolutions share, whose tiles are parameters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from graphc.runtime.cpu import shared
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT, LOOPS, Run, Tile, every_run, nested, tile_function
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.values import I64, PTR, Int, Value

WHOLE = 1 << 62  # more than any sum has


class Batch(NamedTuple):
    """Products of the same sizes: how many, and how far A, B and C lead from one to the next."""

    times: Int
    a: Int
    b: Int
    c: Int


ONE = Batch(1, 0, 0, 0)


def matrix_product(
    f: Function,
    host: Host,
    tile: Tile,
    rest: int,
    places: tuple[Value, Value, Value],
    size: tuple[Int, Int],
    loops: Sequence[Run],
    rows: tuple[int, int],
    *,
    adds: bool = True,
    batch: Batch = ONE,
    part: int = WHOLE,
) -> None:
    """Compute sums of outer products for matrices C, or add them there; all columns of a tile are read and written.

    Args:
        rest: what the rows may leave over after whole tiles; either that or nothing does.
        places: where A, B and C begin; the vectors of C are aligned.
        size: rows and columns of C.
        loops: that a sum goes through, at most `LOOPS`, outermost first; the innermost `part` steps at a time.
        rows: distances of the rows of A and C.
    """
    a_row, c_row = rows
    (whole, whole_step), (last, last_step) = (
        tile_function(tile._replace(rows=count), a_row, adds=adds) for count in (tile.rows, rest or tile.rows)
    )
    for name in (whole, last):
        f.module.declare(name, "void", [PTR] * 3 + [I64] * (3 * LOOPS + 2))
    functions = [Value(f"@{name}", PTR) for name in (whole, last)]
    width = tile.vectors * host.lanes(BYTES)
    numbers = [*size, tile.rows, width, *every_run(loops), whole_step, last_step, a_row, c_row, *batch, part]
    shared.call(f, "product.tiles", [*functions, *places], numbers)


def _tiles(f: Function, _: Host, given: Sequence[Value], __: Sequence[str]) -> None:
    whole, last, a, b, c, rows, columns, height, width, *more = given
    outer, (times, a_inner, b_inner) = more[: 3 * LOOPS - 3], more[3 * LOOPS - 3 : 3 * LOOPS]
    whole_step, last_step, a_row, c_row, batch, a_apart, b_apart, c_apart, part = more[3 * LOOPS :]
    count = f.div(rows, height)
    parts = f.max(f.div(f.add(times, f.sub(part, 1)), part), 1)  # a sum of nothing is 0
    done = f.mul(count, height)
    is_rest = f.is_less(done, rows)

    def tile(function: Value, step: Value, at: Sequence[Value]) -> None:
        def some(k: Value, places: list[Value]) -> Sequence[Value]:
            depth = f.i64(f.min(part, f.sub(times, f.mul(k, part))))
            numbers = [*outer, depth, a_inner, b_inner, step, c_row]
            f.call_at(function, *places, at[2], *numbers)
            steps = [f.mul(part, apart) for apart in (a_inner, b_inner)]
            return [f.address(place, step, FLOAT) for place, step in zip(places, steps, strict=True)]

        f.loop(0, parts, 1, some, at[:2])

    def of_columns(at: Sequence[Value], _: list[Value]) -> Sequence[Value]:
        def of_rows(at: Sequence[Value], _: list[Value]) -> Sequence[Value]:
            tile(whole, whole_step, at)
            return ()

        steps = (f.mul(height, a_row), 0, f.mul(height, c_row))
        nested(f, [(count, steps)], at, [], of_rows)
        a_at, c_at = (f.address(at[k], f.mul(done, row), FLOAT) for k, row in ((0, a_row), (2, c_row)))
        f.if_(is_rest, lambda: tile(last, last_step, (a_at, at[1], c_at)))
        return ()

    across = f.div(f.add(columns, f.sub(width, 1)), width)
    nested(f, [(batch, (a_apart, b_apart, c_apart)), (across, (0, width, width))], (a, b, c), [], of_columns)


library = partial(shared.library, {"tiles": shared.Shared(5, 4 + 3 * LOOPS + 9, _tiles)})
