"""The library of matrix products: functions that kernels call by name, each made once for a CPU.

A *tile* of C, some rows by a few vectors, stays in registers while a loop over k adds to it an outer product of a
column of A and a row of B. `gemm.rows.<dtype>` and `gemm.columns.<dtype>` cover a block of C with tiles, for A whose
rows, respectively columns, are contiguous; B is read in place, copied panel by panel, or packed before. `thin.<dtype>`
is for few rows: it adds some rows of B at a time to those of C, so that B streams by once. `dot.<dtype>` is for few
rows and B whose columns are contiguous: its tiles are vectors over k, which are summed at the end. The order of the
additions depends on k alone.

Each shape of tile is a function of its own. Those that cover C find them in a table, which has the shapes that occur:
a kernel whose sizes are known needs few.

The tile follows K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34 (2008).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.packing import LINE, prefetch
from graphc.runtime.cpu.values import MEMORY_TYPE, Int, Value, constant, lanes_of, vector
from graphc.types import np_dtype

FLOATS = ("float32", "float64")
PACE = {"columns": 16, "rows": 64}  # steps of k between asking for what is needed next; many, where rows take registers

# The parameters of all these functions, which compute a block of C, or add to it. Distances are in elements. To
# tiles of outer products, `m`, `height`, `panel` and `b_panel` say what is needed next: see `_tile`.
BLOCK = (
    ("ptr noalias", "a"),
    ("i64", "a_row"),  # distance of rows; 1 in `columns`
    ("i64", "a_k"),  # distance of columns; 1 in `rows` and `dot`
    ("i64", "a_panel"),  # distance of panels, of `height` rows
    ("ptr noalias", "b"),
    ("i64", "b_k"),  # distance of rows; 1 in `dot`
    ("i64", "b_panel"),  # distance of panels: as many columns as a tile has; in `dot`, one; `thin` doesn't use it
    ("ptr noalias", "c"),
    ("i64", "c_row"),  # distance of rows; columns are contiguous
    ("i64", "m"),
    ("i64", "n"),
    ("i64", "k"),
    ("i64", "height"),  # of panels, at most the rows of a tile; `thin` and `dot` don't use it
    ("i64", "add"),  # whether to add to C
    ("ptr noalias", "panel"),  # memory for a panel, to copy B into before it is used often; null: none; `gemm` only
    ("ptr noalias", "tiles"),  # addresses of functions: see `tiles`; `thin` doesn't use it
)


class Tile(NamedTuple):
    """What stays in registers: rows, and vectors of a row, of so many lanes."""

    rows: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.vectors * self.lanes


def tile(host: Host, dtype: str) -> Tile:
    """The tile of `gemm`: as large as the registers allow. Integers take a small one: their code is not the aim."""
    lanes = host.lanes(np_dtype(dtype).itemsize)
    if dtype not in FLOATS:
        return Tile(4, 1, lanes)
    if host.vector_bytes == 64:
        return Tile(14, 2, lanes)
    return Tile(6, 4 if host.registers == 32 else 2, lanes)


def _dot_tile(host: Host, dtype: str) -> Tile:
    """Rows, columns (as `vectors`), and lanes over k."""
    return Tile(3, 8 if host.registers == 32 else 4, host.lanes(np_dtype(dtype).itemsize))


class _Operands(NamedTuple):
    """The parameters of a function, as values."""

    a: Value
    a_row: Value
    a_k: Value
    a_panel: Value
    b: Value
    b_k: Value
    b_panel: Value
    c: Value
    c_row: Value
    m: Value
    n: Value
    k: Value
    height: Value
    add: Value
    panel: Value
    tiles: Value


class _Strip(NamedTuple):
    """Columns of C that are covered with tiles of one width.

    Attributes:
        kind: what the names of the functions for these tiles begin with.
        shape: of the highest tile.
        whole: columns of a whole strip.
        left: how many columns whole strips leave where this one is there; none: it is whole.
    """

    kind: str
    shape: Tile
    whole: int
    left: range = range(0)

    def occurs(self, n: int) -> bool:
        """Whether it is in a matrix of so many columns."""
        return n % self.whole in self.left if self.left else n >= self.whole


def _strips(host: Host, kind: str, dtype: str) -> list[_Strip]:
    """The strips of a function that covers C, the whole one first; in a table, tiles of each follow those before."""
    if kind == "thin":
        return []
    if kind == "dot":
        shape = _dot_tile(host, dtype)
        columns = shape.vectors
        return [_Strip("inner", shape, columns), _Strip("inner", shape._replace(vectors=1), columns, range(1, columns))]
    shape = tile(host, dtype)
    halves = [shape.vectors >> k for k in range(shape.vectors.bit_length())]
    low = shape._replace(rows=(shape.rows + 1) // 2)  # fewer kinds of masked tiles, by two in a panel
    masked = [low._replace(vectors=vectors) for vectors in reversed(halves)]
    left = [range(m.vectors // 2 * m.lanes + 1, m.width + 1) for m in masked]
    narrow = [_Strip("masked", m, shape.width, columns) for m, columns in zip(masked, left, strict=True)]
    return [_Strip("tile", shape, shape.width), *narrow]


def tiles(host: Host, symbol: str, rows: Collection[int] | None, n: Int) -> list[str | None]:
    """The functions for tiles that a function which covers C calls, in the order of its table; None: it needn't.

    Args:
        rows: that panels of A have, or A itself for `dot`; None: any.
        n: columns of C.
    """
    kind, *layout, dtype = symbol.split(".")
    names: list[str | None] = []
    for strip in _strips(host, kind, dtype):
        most = strip.shape.rows
        counts = range(1, most + 1) if rows is None else {min(most, x - i) for x in rows for i in range(0, x, most)}
        occurs = not isinstance(n, int) or strip.occurs(n)
        for count in range(1, most + 1):
            parts = [strip.kind, *layout, str(count), str(strip.shape.vectors), dtype]
            names.append(".".join(parts) if occurs and count in counts else None)
    return names


def table(f: Function, host: Host, symbol: str, rows: Collection[int] | None, n: Int) -> Value:
    """The table of the tiles that a function which covers C needs, if any; see `tiles`."""
    parameters = [type.split()[0] for type, _ in BLOCK]
    names = tiles(host, symbol, rows, n)
    return f.module.addresses(names, parameters) if names else Value("null", "ptr")


def remainders(size: int, part: int) -> set[int]:
    """The sizes of parts of something of which all but the last have a certain size."""
    return {min(size, part), size % part} if part else {0}


def library(host: Host, symbol: str) -> str:
    """The assembly of one function of the library."""
    module = Module()
    kind, *how, dtype = symbol.split(".")
    _MAKERS[kind](_Maker(module, host, dtype), symbol, *how)
    return module.text()


class _Maker(NamedTuple):
    """A module in the making, of code for one dtype."""

    module: Module
    host: Host
    dtype: str

    @property
    def element(self) -> str:
        """The type in memory and, of all these dtypes, in registers."""
        return MEMORY_TYPE[self.dtype]

    @property
    def lanes(self) -> int:
        """Elements of a vector."""
        return self.host.lanes(self.align)

    @property
    def align(self) -> int:
        """Bytes of an element."""
        return int(np_dtype(self.dtype).itemsize)

    def begin(self, name: str) -> tuple[Function, _Operands]:
        """A new function of the common parameters."""
        f = self.module.function(name, BLOCK)
        return f, _Operands(*[f.parameter(k) for k in range(len(BLOCK))])

    def multiply_add(self, f: Function, a: Value, b: Value, c: Value) -> Value:
        """c + a * b; fused where the CPU can. Of booleans: c or (a and b)."""
        multiply, add = _ARITHMETIC.get(self.dtype, ("mul", "add"))
        fused = self.host.vector_bytes > 16 or self.host.registers == 32
        if multiply == "fmul" and fused:
            return f.fma(a, b, c)
        return f.binary(add, c, f.binary(multiply, a, b))

    def add(self, f: Function, a: Value, b: Value) -> Value:
        """a + b; of booleans a or b."""
        return f.binary(_ARITHMETIC.get(self.dtype, ("mul", "add"))[1], a, b)


_ARITHMETIC = {"float32": ("fmul", "fadd"), "float64": ("fmul", "fadd"), "bool": ("and", "or")}


def _call_tile(f: Function, here: _Operands, first: int, rows: Int) -> None:
    """Call the function for a tile of so many rows; that for one row is the `first`."""
    at = f.address(here.tiles, f.add(rows, first - 1), "ptr")
    f.call_at(f.load("ptr", at, 8), *here)


# --------------------------------------------------------------------------------------------- outer products


def _tile(masked: bool, maker: _Maker, symbol: str, layout: str, height: str, vectors_of_row: str) -> None:
    """A function that computes one tile of C: its rows are known, and `n` is looked at only if it is `masked`.

    With each `PACE` of k it asks for a little of what is needed next, as more at once would be in the way of what is
    needed now: for `m` of its rows of C, and for `height` rows of the next panel of B, which are `b_panel` apart from
    `panel` on.
    """
    f, x = maker.begin(symbol)
    shape = Tile(int(height), int(vectors_of_row), maker.lanes)
    rows, vectors, lanes = shape
    element, align = maker.element, maker.align
    type = vector(element, lanes)
    masks = [f.mask(f.sub(x.n, j * lanes), lanes) if masked else None for j in range(vectors)]
    a_k: Int = 1 if layout == "rows" else x.a_k
    steps = PACE[layout]
    offsets = [f.mul(r, _row(layout, x)) for r in range(rows)]

    def step(_: Value, carried: list[Value]) -> Sequence[Value]:
        a, b, *sums = carried
        row = [f.load(type, f.address(b, j * lanes, element), align, masks[j]) for j in range(vectors)]
        for r in range(rows):
            factor = f.splat(f.load(element, f.address(a, offsets[r], element), align), lanes)
            for j in range(vectors):
                sums[r * vectors + j] = maker.multiply_add(f, factor, row[j], sums[r * vectors + j])
        return [f.address(a, a_k, element), f.address(b, x.b_k, element), *sums]

    def ask(at: Value, count: Value, distance: Value, *, write: bool = False) -> Value:
        """For some rows that are as wide as the tile; the address of the next.

        Rows may begin amid a line. Their last lines are asked for: the first is the last of the tile before.
        """

        def row(_: Value, carried: list[Value]) -> Sequence[Value]:
            for end in range(shape.width * align, 0, -LINE):
                prefetch(f, f.address(carried[0], end - 1, "i8"), write=write, level=1 if write else 2)
            return [f.address(carried[0], distance, element)]

        (following,) = f.loop(0, count, 1, row, [at])
        return following

    def pace(k: Value, carried: list[Value]) -> Sequence[Value]:
        c, ahead, *rest = carried
        c = ask(c, x.m, x.c_row, write=True)
        ahead = ahead if masked else ask(ahead, x.height, x.b_panel)
        return [c, ahead, *f.loop(0, f.min(steps, f.sub(x.k, k)), 1, step, rest)]

    zeros = [constant(type, 0)] * (rows * vectors)
    _, _, _, _, *sums = f.loop(0, x.k, steps, pace, [x.c, x.panel, x.a, x.b, *zeros])
    _put(maker, f, x, [sums[r * vectors : (r + 1) * vectors] for r in range(rows)], masks)
    f.ret()


def _put(
    maker: _Maker, f: Function, x: _Operands, sums: Sequence[Sequence[Value]], masks: Sequence[Value | None]
) -> None:
    """Store the rows of a tile, or add them to C."""
    type = sums[0][0].type
    places: list[Value] = []
    c = x.c
    for row in sums:
        places += [f.address(c, j * lanes_of(type), maker.element) for j in range(len(row))]
        c = f.address(c, x.c_row, maker.element)
    found = [value for row in sums for value in row]
    every = [*masks] * len(sums)

    def added() -> list[Value]:
        return [
            maker.add(f, f.load(type, at, maker.align, mask), y)
            for at, mask, y in zip(places, every, found, strict=True)
        ]

    found = f.if_(f.compare("icmp ne", x.add, f.i64(0)), added, lambda: found)
    for at, mask, y in zip(places, every, found, strict=True):
        f.store(y, at, maker.align, mask)


def _columns(maker: _Maker, f: Function, x: _Operands, column: Callable[[_Operands, int, _Strip], None]) -> None:
    """Cover C with strips; `column` makes the code of one, from its operands and the place of its tiles in the table.

    The last may be narrower: it takes 1, 2, 4, ... vectors, and is masked.
    """
    strips = _strips(maker.host, "gemm", maker.dtype)
    whole_strip, *narrow = strips
    width, element = whole_strip.shape.width, maker.element
    firsts = [sum([strip.shape.rows for strip in strips[:k]]) for k in range(len(strips))]
    whole = f.mul(f.div(x.n, width), width)
    left = f.i64(f.sub(x.n, whole))

    def strip(j: Int, number: int) -> None:
        shape, masked = strips[number].shape, number > 0
        source = f.address(x.b, f.mul(f.div(j, width), x.b_panel), element)
        masks = [f.mask(f.sub(left, v * shape.lanes), shape.lanes) if masked else None for v in range(shape.vectors)]
        b, b_k = _copied(maker, f, x._replace(b=source), width, masks)
        here = x._replace(b=b, b_k=b_k, c=f.address(x.c, j, element), n=f.i64(f.sub(x.n, j)))
        here = here._replace(panel=f.address(source, x.b_panel, element), b_panel=x.b_k)
        column(here, firsts[number], strips[number])

    def last(number: int) -> None:
        if number == len(narrow):
            strip(whole, number)
        else:
            fits = f.is_less(left, strips[number].shape.width + 1)
            f.if_(fits, lambda: strip(whole, number), lambda: last(number + 1))

    f.loop(0, whole, width, lambda j, _: strip(j, 0))
    f.if_(f.is_less(0, left), lambda: last(1))


def _copied(maker: _Maker, f: Function, x: _Operands, width: int, masks: Sequence[Value | None]) -> tuple[Value, Value]:
    """The columns of B that a column of tiles needs, and the distance of rows: a copy, if there is memory for one."""
    type = vector(maker.element, maker.lanes)

    def copy(k: Value, _: list[Value]) -> None:
        at = f.address(x.b, f.mul(k, x.b_k), maker.element)
        to = f.address(x.panel, f.mul(k, width), maker.element)
        for j, mask in enumerate(masks):
            value = f.load(type, f.address(at, j * maker.lanes, maker.element), maker.align, mask)
            f.store(value, f.address(to, j * maker.lanes, maker.element), maker.align)

    def copied() -> list[Value]:
        f.loop(0, x.k, 1, copy)
        return [x.panel, f.i64(width)]

    b, b_k = f.if_(f.compare("icmp ne", x.panel, Value("null", "ptr")), copied, lambda: [x.b, x.b_k])
    return b, b_k


def _gemm(maker: _Maker, symbol: str, layout: str) -> None:
    """Panels of rows, in each strip of columns; each panel asks for a part of the next panel of B.

    No panel asks for rows below the last: what lies there another worker may write, and would fetch back each time.
    """
    f, x = maker.begin(symbol)
    steps = PACE[layout]
    panels = f.div(f.add(x.m, f.sub(x.height, 1)), x.height)
    paces = f.div(f.add(x.k, steps - 1), steps)
    share = f.i64(f.div(f.add(panels, steps - 1), panels))  # rows of B of each pace

    def column(strip: _Operands, first: int, kind: _Strip) -> None:
        most = kind.shape.rows
        expected = f.i64(f.div(f.add(paces, most - 1), f.max(paces, 1)))  # rows of C of each pace
        ahead = f.mul(share, paces)

        def panel(number: Value, carried: list[Value]) -> Sequence[Value]:
            start = f.mul(number, x.height)
            end = f.min(x.m, f.add(start, x.height))
            a = f.sub(0, f.mul(start, _row(layout, x)))
            asked = f.mul(number, ahead)
            following = f.address(strip.panel, f.mul(asked, strip.b_panel), maker.element)
            left = f.div(f.max(0, f.sub(strip.k, asked)), f.max(paces, 1))
            here = strip._replace(m=expected, height=f.i64(f.min(share, left)), panel=following)

            def tiles(i: Value, _: list[Value]) -> None:
                at = f.add(a, f.mul(i, _row(layout, x)))
                c = f.address(strip.c, f.mul(i, x.c_row), maker.element)
                tile = here._replace(a=f.address(carried[0], at, maker.element), c=c)
                _call_tile(f, tile, first, f.min(most, f.sub(end, i)))

            f.loop(start, end, most, tiles)
            return [f.address(carried[0], x.a_panel, maker.element)]

        f.loop(0, panels, 1, panel, [x.a])

    _columns(maker, f, x, column)
    f.ret()


def _row(layout: str, x: _Operands) -> Int:
    """The distance of rows of A."""
    return 1 if layout == "columns" else x.a_row


# --------------------------------------------------------------------------------------------- few rows


def _thin(maker: _Maker, symbol: str) -> None:
    """Some rows of B at a time, each read from its beginning to its end, as memory likes it; C stays in the cache."""
    f, x = maker.begin(symbol)
    depth = 8 if maker.host.registers == 32 else 4
    whole = f.mul(f.div(x.k, depth), depth)
    pairs = f.mul(f.div(x.m, 2), 2)

    def over_rows(k: Int, depth: int) -> None:
        f.loop(0, pairs, 2, lambda i, _: _updated(maker, f, x, (i, 2), (k, depth)))
        f.loop(pairs, x.m, 1, lambda i, _: _updated(maker, f, x, (i, 1), (k, depth)))

    f.if_(f.compare("icmp eq", x.add, f.i64(0)), lambda: over_rows(0, 0))
    f.loop(0, whole, depth, lambda k, _: over_rows(k, depth))
    f.loop(whole, x.k, 1, lambda k, _: over_rows(k, 1))
    f.ret()


def _updated(maker: _Maker, f: Function, x: _Operands, rows: tuple[Int, int], k: tuple[Int, int]) -> None:
    """Add to rows of C the product of columns of A and rows of B, or, without any, make them zero.

    Args:
        rows, k: the first of them, and how many.
    """
    element, lanes = maker.element, maker.lanes
    type = vector(element, lanes)
    depth = range(k[1])
    lines = [f.address(x.b, f.mul(f.add(k[0], d), x.b_k), element) for d in depth]
    updated = []
    for r in range(rows[1]):
        i = f.add(rows[0], r)
        a = [f.add(f.mul(i, x.a_row), f.mul(f.add(k[0], d), x.a_k)) for d in depth]
        factors = [f.splat(f.load(element, f.address(x.a, at, element), maker.align), lanes) for at in a]
        updated.append((f.address(x.c, f.mul(i, x.c_row), element), factors))

    def columns(j: Int, mask: Value | None) -> None:
        row = [f.load(type, f.address(line, j, element), maker.align, mask) for line in lines]
        for c, factors in updated:
            at = f.address(c, j, element)
            total = f.load(type, at, maker.align, mask) if row else constant(type, 0)
            for factor, value in zip(factors, row, strict=True):
                total = maker.multiply_add(f, factor, value, total)
            f.store(total, at, maker.align, mask)

    whole = f.mul(f.div(x.n, lanes), lanes)
    f.loop(0, whole, lanes, lambda j, _: columns(j, None))
    left = f.sub(x.n, whole)
    f.if_(f.is_less(0, left), lambda: columns(whole, f.mask(left, lanes)))


# --------------------------------------------------------------------------------------------- inner products


def _dot(maker: _Maker, symbol: str) -> None:
    """Some rows by some columns at a time, so that each vector that is loaded meets several others."""
    f, x = maker.begin(symbol)
    shape = _dot_tile(maker.host, maker.dtype)
    element = maker.element
    whole = f.mul(f.div(x.n, shape.vectors), shape.vectors)

    def columns(low: Int, high: Int, count: int, first: int) -> None:
        def rows(i: Value, j: Value) -> None:
            here = x._replace(
                a=f.address(x.a, f.mul(i, x.a_row), element),
                b=f.address(x.b, f.mul(j, x.b_panel), element),
                c=f.address(f.address(x.c, f.mul(i, x.c_row), element), j, element),
            )
            _call_tile(f, here, first, f.min(shape.rows, f.sub(x.m, i)))

        f.loop(low, high, count, lambda j, _: f.loop(0, x.m, shape.rows, lambda i, _: rows(i, j)) and None)

    columns(0, whole, shape.vectors, 0)
    columns(whole, x.n, 1, shape.rows)
    f.ret()


def _inner(maker: _Maker, symbol: str, height: str, columns_of_row: str) -> None:
    """A function that computes a tile of C from rows of A and columns of B that are contiguous."""
    f, x = maker.begin(symbol)
    shape = Tile(int(height), int(columns_of_row), maker.lanes)
    rows, columns, lanes = shape
    type = vector(maker.element, lanes)
    lines = [(x.a, f.mul(r, x.a_row)) for r in range(rows)] + [(x.b, f.mul(j, x.b_panel)) for j in range(columns)]

    def step(k: Value, sums: list[Value], mask: Value | None = None) -> list[Value]:
        found = []
        for base, offset in lines:
            at = f.address(f.address(base, offset, maker.element), k, maker.element)
            found.append(f.load(type, at, maker.align, mask))
        return [
            maker.multiply_add(f, found[r], found[rows + j], sums[r * columns + j])
            for r in range(rows)
            for j in range(columns)
        ]

    whole = f.i64(f.mul(f.div(x.k, lanes), lanes))
    sums = f.loop(0, whole, lanes, step, [constant(type, 0)] * (rows * columns))
    left = f.sub(x.k, whole)
    sums = f.if_(f.is_less(0, left), lambda: step(whole, sums, f.mask(left, lanes)), lambda: sums)
    width = min(columns, lanes)
    found = [
        [_summed(f, sums[at : at + width]) for at in range(r * columns, (r + 1) * columns, width)] for r in range(rows)
    ]
    _put(maker, f, x, found, [None] * (columns // width))
    f.ret()


def _summed(f: Function, vectors: Sequence[Value]) -> Value:
    """The sums over the lanes of each of some vectors (a power of two), as a vector."""
    found = list(vectors)
    while len(found) > 1:  # each pair becomes one vector, with half as many lanes for each
        found = [_halved(f, x, y, len(vectors) // len(found)) for x, y in zip(found[::2], found[1::2], strict=True)]
    (total,) = found
    while lanes_of(total.type) > len(vectors):
        half, every = lanes_of(total.type) // 2, range(lanes_of(total.type))
        group = 2 * half // len(vectors)
        low = [lane for lane in every if lane % group < group // 2]
        high = [lane for lane in every if lane % group >= group // 2]
        if half == 1:
            return f.binary("fadd", f.extract(total, 0), f.extract(total, 1))
        total = f.binary("fadd", f.shuffle(total, None, low), f.shuffle(total, None, high))
    return total


def _halved(f: Function, x: Value, y: Value, parts: int) -> Value:
    """Of `x` and then `y`, each of so many groups of lanes: the first halves of the groups plus the second halves."""
    lanes = lanes_of(x.type)
    group = lanes // parts
    low = [lane for lane in range(2 * lanes) if lane % group < group // 2]
    high = [lane for lane in range(2 * lanes) if lane % group >= group // 2]
    return f.binary("fadd", f.shuffle(x, y, low), f.shuffle(x, y, high))


_MAKERS: Mapping[str, Callable[..., None]] = {  # by how names begin; what follows in them but the dtype are arguments
    "gemm": _gemm,
    "tile": partial(_tile, False),
    "masked": partial(_tile, True),
    "thin": _thin,
    "dot": _dot,
    "inner": _inner,
}
