"""The inner loops of convolutions, in float32: tiles of matrix products, and copies that give them rows to read.

A *tile* of C, some rows by a few vectors, stays in registers while a nest of loops adds outer products to it. What
it reads from A lies wherever the nest leads, so that weights are read in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from graphc.dims import Dim
from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.elements import transposed
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.packing import LINE, prefetch
from graphc.runtime.cpu.values import I64, Int, Value, constant, vector

FLOAT = "float"
BYTES = 4
VECTORS = 4  # of a row of a tile, at most
PRODUCTS_PER_NS = 50
LOOPS = 3  # that a sum of products can go through
STRIDED = 8  # rows up to which their distance may be a parameter: each takes a register
LATENCY = 8  # products that must be in flight to hide how long each takes
# How many bytes ahead B is fetched into the first cache, from the last or from the second: hardware stops at the end of
# a page.
FETCHES: Mapping[str, Sequence[int]] = {"": (), "far": [8192], "second": [512]}
NEAR = 8  # outer products that A is ahead where it comes from the second cache: a row would keep all its reads waiting


class Tile(NamedTuple):
    """Rows by vectors that stay in registers."""

    rows: int
    vectors: int


def choose_tile(host: Host, rows: int, vectors: int) -> Tile:
    """The tile that covers a matrix of `rows` by `vectors` in the fewest cycles."""
    shapes = []
    for wide in range(1, min(VECTORS, vectors) + 1):
        most = (host.registers - 1 - wide) // wide
        shapes.append(Tile(even_part(rows, most), wide))
    return min(shapes, key=lambda tile: (cycles_of(tile, rows, vectors), -tile.vectors))


def cycles_of(tile: Tile, rows: int, vectors: int) -> int:
    """Cycles for one outer product of a matrix that tiles cover: a cycle has two products, or two reads."""

    def half_cycles(rows: int) -> int:
        return max(rows * tile.vectors, rows + tile.vectors, LATENCY) if rows else 0

    whole, rest = divmod(rows, tile.rows)
    return -(-vectors // tile.vectors) * (whole * half_cycles(tile.rows) + half_cycles(rest)) // 2


def nested(
    f: Function,
    loops: Sequence[tuple[Int, Sequence[Int]]],
    places: Sequence[Value],
    carried: Sequence[Value],
    body: Callable[[Sequence[Value], list[Value]], Sequence[Value]],
) -> list[Value]:
    """Loops in loops, the outermost first.

    Args:
        loops: how often each runs, and how far a step leads in each of some arrays.
        places: addresses in these where they begin; `body` gets those to which the loops have led.
    """
    if not loops:
        return list(body(places, list(carried)))
    (count, steps), *inner = loops
    arrays = len(places)

    def inside(_: Value, values: list[Value]) -> Sequence[Value]:
        found = nested(f, inner, values[:arrays], values[arrays:], body)
        return [*[f.address(at, step, FLOAT) for at, step in zip(values, steps, strict=False)], *found]

    return f.loop(0, count, 1, inside, [*places, *carried])[arrays:]


def outer_product(
    f: Function,
    host: Host,
    tile: Tile,
    a: Value,
    a_rows: Sequence[Int],
    b: Value,
    align: int,
    sums: Sequence[Value],
    places: Sequence[int] | None = None,
) -> list[Value]:
    """The sums of a tile, row by row, plus the products of a column at `a` and a row at `b`.

    Args:
        a_rows: where the elements of the column lie.
        places: where the vectors of the row lie; by default, one after the other.
    """
    lanes = host.lanes(BYTES)
    type = vector(FLOAT, lanes)
    found = list(sums)
    right = [f.load(type, f.address(b, at, FLOAT), align) for at in places or range(0, tile.vectors * lanes, lanes)]
    for r in range(tile.rows):
        factor = f.splat(f.load(FLOAT, f.address(a, a_rows[r], FLOAT), BYTES), lanes)
        for v, row in enumerate(right):
            found[r * tile.vectors + v] = f.fma(factor, row, found[r * tile.vectors + v])
    return found


def put_tile(
    f: Function, host: Host, tile: Tile, c: Value, row: Int, sums: Sequence[Value], *, adds: bool = True
) -> None:
    """Store sums to a tile in memory, whose vectors are aligned, or add them: short sums, added up, round less."""
    lanes, align = host.lanes(BYTES), host.vector_bytes
    for k, value in enumerate(sums):
        at = f.address(c, f.add(f.mul(k // tile.vectors, row), k % tile.vectors * lanes), FLOAT)
        f.store(f.binary("fadd", f.load(value.type, at, align), value) if adds else value, at, align)


class Run(NamedTuple):
    """One of the loops that a sum of products goes through: how often it runs, and how far a step leads in A and B."""

    times: Int
    a: Int
    b: Int


def row_by_row(f: Function, loops: Sequence[tuple[Int, Int]], row: Int) -> list[Run]:
    """Loops through A, outermost first, that take the next row of B each time.

    Args:
        loops: how often each runs, and how far a step leads in A.
        row: distance of the rows of B.
    """
    found: list[Run] = []
    for count, step in reversed(loops):
        found.append(Run(count, step, row))
        row = f.mul(row, count)
    return found[::-1]


class Later(NamedTuple):
    """What will be read later, and is fetched into the second cache meanwhile: the first has too few reads in flight
    for what comes from memory.

    Attributes:
        at: where it begins.
        lines: of the cache, with each outer product.
    """

    at: Value
    lines: int


class Lines(NamedTuple):
    """Where a tile's rows of A are: a few, one after the other, then as many from the next line on."""

    columns: int
    apart: int
    line: int


def product_tile(
    f: Function,
    tile: Tile,
    places: tuple[Value, Value, Value],
    loops: Sequence[Run],
    rows: tuple[int | Lines, int],
    *,
    adds: bool = True,
    fetches: str = "",
    near: bool = False,
    later: Later | None = None,
) -> None:
    """Compute a sum of outer products for a tile of C, or add it there.

    What differs from one convolution to the next is a parameter, so that all share the functions that do it.

    Args:
        places: where A, B and the tile of C begin; the vectors of C are aligned.
        loops: at most `LOOPS`, outermost first.
        rows: distances of the rows of A and C.
        fetches: which of `FETCHES`, where B is read in order.
        near: whether A is read in order from the second cache; its rows follow each other in memory.
    """
    a_row, c_row = rows
    name, step = tile_function(tile, a_row, adds=adds, fetches=fetches, near=near, later=later.lines if later else 0)
    numbers = [f.i64(number) for number in (*every_run(loops), step, c_row)]
    f.call(name, "void", *places, *([later.at] if later else []), *numbers)


def every_run(loops: Sequence[Run]) -> list[Int]:
    """The numbers of `LOOPS` loops, of which the outermost may do nothing."""
    return [number for run in [*[Run(1, 0, 0)] * (LOOPS - len(loops)), *loops] for number in run]


def tile_function(
    tile: Tile, a_row: int | Lines, *, adds: bool, fetches: str = "", near: bool = False, later: int = 0
) -> tuple[str, int]:
    """The function that `product_tile` calls, and the distance of A's rows that it takes: 0 if they are compiled in."""
    if isinstance(a_row, int) and tile.rows > STRIDED:
        a_row = Lines(tile.rows, a_row, 0)
    step, known = (a_row, ()) if isinstance(a_row, int) else (0, a_row)
    modes = "add" if adds else "put", fetches, "near" if near else "", str(later)
    return ".".join(map(str, ("outer", *tile, "_".join(modes), *known))), step


def library(host: Host, symbol: str) -> str:
    """The assembly of a function that `product_tile` calls."""
    _, rows, vectors, modes, *known = symbol.split(".")
    mode, fetches, near, lines_later = modes.split("_")
    tile, module, later = Tile(int(rows), int(vectors)), Module(), int(lines_later)
    numbers = [(I64, f"number{k}") for k in range(3 * LOOPS + 2)]
    f = module.function(symbol, [*[("ptr noalias", letter) for letter in ("abcd" if later else "abc")], *numbers])
    a, b, c, *given, a_row, c_row = (f.parameter(k) for k in range(3 * LOOPS + 5 + (later > 0)))
    far = [given.pop(0)] if later else []
    ahead = f.mul(given[-2], NEAR)  # along the innermost loop
    if known:
        lines = Lines(*map(int, known))
        cells = [divmod(k, lines.columns) for k in range(tile.rows)]
        distances: list[Int] = [line * lines.line + column * lines.apart for line, column in cells]
    else:
        distances = [f.mul(k, a_row) for k in range(tile.rows)]  # before the loops

    def step(places: Sequence[Value], sums: list[Value]) -> list[Value]:
        left, right, *there = places
        for distance in FETCHES[fetches]:
            for v in range(tile.vectors):
                prefetch(f, f.address(right, distance + v * host.vector_bytes, "i8"))
        for line in range(later):
            prefetch(f, f.address(there[0], line * LINE, "i8"), level=2)
        if near:
            for at in lines_of(tile.rows * BYTES):
                prefetch(f, f.address(f.address(left, ahead, FLOAT), at, "i8"))
        return outer_product(f, host, tile, left, distances, right, BYTES, sums)

    loops: list[tuple[Int, Sequence[Int]]] = []
    step_later: Int = later * LINE // BYTES
    for k in reversed(range(0, 3 * LOOPS, 3)):
        loops.insert(0, (given[k], [*given[k + 1 : k + 3], *[step_later] * len(far)]))
        step_later = f.mul(step_later, given[k])
    zeros = [constant(vector(FLOAT, host.lanes(BYTES)), 0)] * (tile.rows * tile.vectors)
    put_tile(f, host, tile, c, c_row, nested(f, loops, (a, b, *far), zeros, step), adds=mode == "add")
    f.ret()
    return module.text()


def lines_of(nbytes: int) -> list[int]:
    """Offsets that meet every line of so many bytes of floats: whole lines, or beginning anywhere in one."""
    return [*range(0, nbytes, LINE), *([nbytes - BYTES] if nbytes % LINE else [])]


def turner(module: Module, host: Host, columns: int, row: int) -> str:
    """A function of a module that turns a matrix: from where, to where, and how many rows it has, rounded up to lanes.

    Args:
        columns: of the matrix, a multiple of the lanes, and the distance of its rows.
        row: distance of the columns, when they are rows.
    """
    name, wide, align = "turn", host.lanes(BYTES), host.vector_bytes
    if module.has(name):
        return name
    f = module.function(name, [("ptr noalias", "source"), ("ptr noalias", "target"), (I64, "count")], internal=True)
    source, target, count = (f.parameter(k) for k in range(3))
    type = vector(FLOAT, wide)

    def square(i: Value, _: list[Value]) -> None:
        for v in range(0, columns, wide):
            begin, into = f.address(source, f.add(f.mul(i, columns), v), FLOAT), f.address(target, v * row, FLOAT)
            rows = [f.load(type, f.address(begin, k * columns, FLOAT), align) for k in range(wide)]
            for k, value in enumerate(transposed(f, rows)):
                f.store(value, f.address(into, f.add(k * row, i), FLOAT), align)

    f.loop(0, count, wide, square)
    f.ret()
    return name


def even_part(total: Dim, most: int) -> int:
    """The size of parts, at most `most`, that differ little; `most` if the total isn't known."""
    if not isinstance(total, int):
        return most
    return -(-total // -(-total // most)) if total else 1


def paired_part(total: int, most: int) -> int:
    """The same, where there are several parts an even number of them: two threads have as much to do."""
    count = -(-total // most)
    return -(-total // (count + (count > 1) * count % 2)) if total else 1


def rows_of_tiles(f: Function, rows: Int, step: int, rest: int, call: Callable[[Int, int], None]) -> None:
    """Cover rows with tiles: `call(first row, rows of the tile)`.

    Args:
        step: rows of a tile.
        rest: what `rows` may leave over; either that or nothing does.
    """
    whole = f.mul(f.div(rows, step), step)
    f.loop(0, whole, step, lambda r, _: call(r, step))
    if rest:
        f.if_(f.is_less(whole, rows), lambda: call(whole, rest))


def some_lanes(count: int, lanes: int) -> Value | None:
    """The mask of the first `count` lanes, as a constant; None for all."""
    return None if count >= lanes else chosen_lanes([k < count for k in range(lanes)])


def chosen_lanes(chosen: Sequence[bool]) -> Value:
    """The mask of some lanes, as a constant."""
    return Value(f"<{', '.join(f'i1 {int(lane)}' for lane in chosen)}>", vector("i1", len(chosen)))


def copy_run(f: Function, host: Host, source: Value, target: Value, count: Int) -> None:
    """Copy `count` contiguous elements; up to a vector more is written after them."""
    lanes = host.lanes(BYTES)
    type = vector(FLOAT, lanes)
    whole = f.mul(f.div(count, lanes), lanes)

    def piece(i: Int, mask: Value | None) -> None:
        f.store(f.load(type, f.address(source, i, FLOAT), BYTES, mask), f.address(target, i, FLOAT), BYTES)

    f.loop(0, whole, lanes, lambda i, _: piece(i, None))
    f.if_(f.is_less(whole, count), lambda: piece(whole, f.mask(f.sub(count, whole), lanes)))


def strided_load(f: Function, at: Value, lanes: int, count: int, stride: int, mask: Value | None = None) -> Value:
    """`count` elements that lie `stride` apart, in the first lanes.

    Args:
        mask: of those that are there, if it isn't known; with a stride of 2 of those between them, too.
    """
    if lanes == 1:
        return f.load(FLOAT, at, BYTES)
    type = vector(FLOAT, lanes)
    if stride == 1:
        return f.load(type, at, BYTES, mask or some_lanes(count, lanes))
    if stride == 2:
        both = f.load(vector(FLOAT, 2 * lanes), at, BYTES, mask or some_lanes(2 * count - 1, 2 * lanes))
        return f.shuffle(both, None, range(0, 2 * lanes, 2))
    offsets = Value(f"<{', '.join(f'{I64} {k * stride}' for k in range(lanes))}>", vector(I64, lanes))
    return f.gather(type, f.addresses(at, offsets, FLOAT), BYTES, mask or some_lanes(count, lanes))


def zero_fill(f: Function, host: Host, at: Value, count: Int) -> None:
    """Zero `count` elements, a multiple of a vector's, at an aligned address."""
    type = vector(FLOAT, host.lanes(BYTES))
    zero = constant(type, 0)
    f.loop(0, count, host.lanes(BYTES), lambda i, _: f.store(zero, f.address(at, i, FLOAT), host.vector_bytes))


def counters(f: Function, number: Int, sizes: Sequence[Int]) -> list[Int]:
    """A number as one counter for each size, the last of which runs fastest; the first takes what is left."""
    found: list[Int] = []
    for size in reversed(sizes[1:]):
        found.append(f.rem(number, size))
        number = f.div(number, size)
    return [number, *reversed(found)]
