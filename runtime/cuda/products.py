"""Launches that compute sums of products: what products of matrices and convolutions have in common.

Tiles serve where both operands have many lines. Where only one has, a thread computes a column of results; where there
are few results, or lines are met only once, a team of threads computes each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from graphc.dims import Dim, ceil_div, product
from graphc.passes.sizes import guess
from graphc.runtime.cuda import tiles
from graphc.runtime.cuda.grids import THREADS, each_point, unravelled
from graphc.runtime.cuda.launches import CudaCode, Frame
from graphc.runtime.cuda.scalars import HALVES, MEMORY, REGISTER, loaded, rounded
from graphc.runtime.cuda.tiles import Tile, sum_type
from graphc.runtime.strided import Strided, itemsize

WARP, DEEP = 32, 8  # threads of a team
LONG = 4096  # k from which a block sums, and not a warp
UNROLLED = 64  # k up to which code is a line for each
GROUP = 8  # rows of tiles whose blocks follow each other column by column, so that they find operands in the cache

ACCESS = 16  # bytes
MOST = 8  # elements of an access: a thread has registers for so many

WIDTH = {"double": "float64", "float": "float32", "u32": "int32", "u64": "int64"}  # dtypes of the size of sums


class Spots(NamedTuple):
    """What is known of places along k, whatever the line, so that it is found out once for several lines.

    Attributes:
        type: name of a struct in C, and `fields` what it has.
        find: emits lines that return it, for place `k`.
        there: emits lines that return where the element of line `p` at spot `s` is, null where there is none.
    """

    type: str
    fields: str
    find: Callable[[], None]
    there: Callable[[], None]


class Lines(NamedTuple):
    """An operand, line by line: a row of A or a column of B.

    Attributes:
        along: whether elements are rather side by side along k than across lines.
        type: in C, of what is known of a line.
        line: emits lines that return it, for line `i`.
        place: emits lines that return where the element of line `p` at `k` is, null where there is none; of a slab `p`
            at its `k`-th place, if slabs are prepared.
        slab: what is known of a line `p` in the slab from `k` on: its type, and what emits lines that return it.
        spots: what tiles may use instead of `place`.
        pack: how many elements one access of tiles brings: neighbours along k or across lines, as `along` says; see
            `pack_of`.
    """

    along: bool
    type: str
    line: Callable[[], None]
    place: Callable[[], None]
    slab: tuple[str, Callable[[], None]] | None = None
    spots: Spots | None = None
    pack: int = 1


class Products(NamedTuple):
    """Sums c[..., i, j] of a(..., i, k) * b(..., k, j) over k.

    Attributes:
        along: whether elements of columns are rather side by side along k than across columns.
        operands: emits what both have in common, for a batch, and gives them.
        out: emits what is done with a sum, an expression, for an index: batch, i and j.
        in_slabs: emits what prepares the operands for tiles whose slabs have so many elements, and gives the same with
            them, if there is something to prepare.
    """

    dtype: str
    batch: tuple[Dim, ...]
    m: Dim
    n: Dim
    k: Dim
    along: bool
    operands: Callable[[Frame, Sequence[str]], tuple[Lines, Lines]]
    out: Callable[[Frame, Sequence[str], str], None]
    in_slabs: Callable[[CudaCode, int], Products | None] = lambda *_: None


def pack_of(dtype: str, extents: Sequence[Dim], strides: Sequence[Dim], others: Sequence[Dim]) -> int:
    """How many elements an access of 16 bytes brings; 1 if it isn't known that such accesses are aligned and inside.

    Args:
        extents, strides: of the axes along which neighbours are brought, the innermost last.
        others: the strides of all other axes, and offsets: whatever leads to a neighbourhood.
    """
    run: Dim = 1
    apart = list(others)
    for extent, stride in zip(reversed(extents), reversed(strides), strict=True):
        if extent != 1 and stride == run and len(apart) == len(others):
            run = run * extent
        elif extent != 1:
            apart.append(stride)
    count = ACCESS // itemsize(dtype)
    return count if count <= MOST and all(step % count == 0 for step in (run, *apart)) else 1


def by_tiles(code: CudaCode, problem: Products) -> None:
    """Emit launches that compute the products, and say how."""
    batch, (m, n, k) = product(problem.batch), (problem.m, problem.n, problem.k)
    tile = tiles.chosen(problem.dtype, code.precision, m, n, batch, k)
    part = tiles.part_of(tile, m, n, batch, k)
    tiles.declare(code, tile)
    problem = problem.in_slabs(code, tile.step) or problem
    code.span(k + tile.step)
    code.note(f"tiles of {tile}" + ("" if part == k else f", k in parts of {part}"))
    if part == k:
        _launch(code, problem, tile, 1, k, lambda frame, _, index, sum: problem.out(frame, index, sum))
        return
    type, parts = sum_type(problem.dtype), ceil_div(k, part)
    size = batch * m * n
    sums = Strided("workspace", code.workspace(parts * size * itemsize(WIDTH[type])), 0, (1,), WIDTH[type])
    code.span(parts * size)

    def keep(frame: Frame, part: str, index: Sequence[str], sum: str) -> None:
        at = raveled(frame, [part, *index], [parts, *problem.batch, m, n])
        frame.line(f"(({type}*){frame.base(sums)})[{at}] = {sum};")

    _launch(code, problem, tile, parts, part, keep)
    with each_point(code, [*problem.batch, m, n]) as (frame, index):
        at = frame.value("Index", raveled(frame, index, [*problem.batch, m, n]), "at")
        frame.line(f"{type} sum = 0;")
        with frame.block(f"for (Index part = 0; part < {frame.size(parts)}; part++)"):
            frame.line(f"sum += ((const {type}*){frame.base(sums)})[part * {frame.size(size)} + {at}];")
        problem.out(frame, index, "sum")


def by_columns(code: CudaCode, problem: Products) -> None:
    """Emit a launch with a thread for each column of the result, of which there are few rows."""
    type, rows = sum_type(problem.dtype), int(problem.m)
    code.declare(tiles.SUMS.strip())
    code.span(problem.k)
    code.note(f"{rows} results a thread")
    with each_point(code, [*problem.batch, problem.n]) as (frame, (*batch, j)):
        _operands(frame, problem, batch)
        frame.line(f"const auto column = b_line({j});")
        frame.line(f"{type} sums[{rows}] = {{}};")
        if guess(problem.k) <= UNROLLED:
            frame.line("#pragma unroll")
        with frame.block(f"for (Index k = 0; k < {frame.size(problem.k)}; k++)"):
            frame.line(f"const {type} right = b_at(column, k);")
            frame.line("#pragma unroll")
            frame.line(f"for (int r = 0; r < {rows}; r++) sums[r] = fused_sum(a_at(a_line(r), k), right, sums[r]);")
        frame.line("#pragma unroll")
        with frame.block(f"for (Index i = 0; i < {rows}; i++)"):
            problem.out(frame, [*batch, "i", j], "sums[i]")


def by_teams(code: CudaCode, problem: Products) -> None:
    """Emit a launch with a team of threads for each result.

    Where columns are walked along k, a team is neighbouring threads, which read neighbours; else its threads are far
    apart, and neighbours belong to neighbouring columns.
    """
    type, k = sum_type(problem.dtype), problem.k
    boxes = [*problem.batch, problem.m]
    along = problem.along
    team = (THREADS if guess(k) >= LONG else WARP) if along else DEEP
    each = THREADS // team
    boxes.append(ceil_div(problem.n, each))
    code.declare(tiles.SUMS.strip())
    code.span(k + THREADS)
    code.note(f"teams of {team} threads for a result")
    frame = code.launch(product(boxes), THREADS)
    *batch, i, strip = unravelled(frame, "(Index)blockIdx.x", boxes)
    near, far = (f"threadIdx.x / {team}", f"threadIdx.x % {team}"), (f"threadIdx.x % {each}", f"threadIdx.x / {each}")
    first, member = near if along else far
    j = frame.value("Index", f"{strip} * {each} + {first}", "j")
    _operands(frame, problem, batch)
    frame.line(f"const auto row = a_line({i});")
    frame.line(f"const auto column = b_line({j});")
    frame.line(f"{type} sums[1] = {{}};")
    frame.line("#pragma unroll 4")
    with frame.block(f"for (Index k = {member}; k < {frame.size(k)}; k += {team})"):
        frame.line("sums[0] = fused_sum(a_at(row, k), b_at(column, k), sums[0]);")
    if along:
        frame.line(f"sums[0] = joined<Sum<{type}>, {team}, {THREADS}>(sums[0]);")
    else:
        frame.line(f"joined_columns<Sum<{type}>, {team}, {each}>(sums);")
    with frame.block(f"if ({member} == 0 && {j} < {frame.size(problem.n)})"):
        problem.out(frame, [*batch, i, j], "sums[0]")


def raveled(frame: Frame, index: Sequence[str], extents: Sequence[Dim]) -> str:
    """The row-major number of a point of a box, as an expression."""
    number = index[0]
    for i, extent in zip(index[1:], extents[1:], strict=True):
        number = f"({number}) * {frame.size(extent)} + {i}"
    return number


def rounded_sum(dtype: str, sum: str) -> str:
    """A sum as a value of its dtype in registers."""
    if dtype == "bool":
        return f"({sum} != 0)"
    return rounded(dtype, sum) if dtype in HALVES else f"({REGISTER[dtype]})({sum})"


def _launch(
    code: CudaCode,
    problem: Products,
    tile: Tile,
    parts: Dim,
    part: Dim,
    out: Callable[[Frame, str, Sequence[str], str], None],
) -> None:
    """A launch with a block for each tile, batch, and part of k; `out` is told the part, too."""
    m, n, k = problem.m, problem.n, problem.k
    boxes = [parts, *problem.batch]
    frame = code.launch(product(boxes) * tile.blocks(m, n), tile.threads)
    down, across = (frame.size(ceil_div(size, step)) for size, step in ((m, tile.rows), (n, tile.columns)))
    within = frame.value("Index", f"(Index)blockIdx.x % ({down} * {across})", "tile")
    number, *batch = unravelled(frame, f"(Index)blockIdx.x / ({down} * {across})", boxes)
    first = frame.value("Index", f"{within} / ({GROUP} * {across}) * {GROUP}", "group")
    height = frame.value("Index", f"least<Index>({down} - {first}, {GROUP})", "height")
    inside = frame.value("Index", f"{within} % ({GROUP} * {across})", "inside")
    i0 = frame.value("Index", f"({first} + {inside} % {height}) * {tile.rows}", "i0")
    j0 = frame.value("Index", f"{inside} / {height} * {tile.columns}", "j0")
    for name, each in zip("ab", _operands(frame, problem, batch, by_tiles=True), strict=True):
        kind, given = "lines", [f"{name}_line", f"{name}_place"]
        if each.slab is not None:
            kind, given = "slabbed", [f"{name}_line", f"{name}_slab", f"{name}_place"]
        elif each.spots is not None:
            kind, given = "spotted", [f"{name}_line", f"{name}_spot", f"{name}_there"]
            _spots(frame, name, each.spots, problem.dtype)
        frame.line(f"const auto {name} = {kind}<{str(each.along).lower()}, {each.pack}>({', '.join(given)});")
    with frame.block(f"const auto out = [&](Index i, Index j, {sum_type(problem.dtype)} sum)", "};"):
        frame.line(f"if (i >= {frame.size(m)} || j >= {frame.size(n)}) return;")
        out(frame, number, [*batch, "i", "j"], "sum")
    begin = f"{number} * {frame.size(part)}" if parts != 1 else "0"
    end = f"least<Index>({begin} + {frame.size(part)}, {frame.size(k)})" if parts != 1 else frame.size(k)
    types = f"{tile.type(problem.dtype)}, {tile.depth}, {MEMORY[problem.dtype]}"
    frame.line(f"product<{types}>(value, a, b, {i0}, {j0}, {begin}, {end}, out);")


def _spots(frame: Frame, name: str, spots: Spots, dtype: str) -> None:
    """Emit the functions that give what is known of a place, and where an element is there."""
    frame.line(f"struct {spots.type} {{ {spots.fields} }};")
    with frame.block(f"const auto {name}_spot = [&](Index k) -> {spots.type}", "};"):
        spots.find()
    pointer = f"const {MEMORY[dtype]}*"
    with frame.block(f"const auto {name}_there = [&](const auto& p, const {spots.type}& s) -> {pointer}", "};"):
        spots.there()


def _operands(frame: Frame, problem: Products, batch: Sequence[str], *, by_tiles: bool = False) -> tuple[Lines, Lines]:
    """Emit the functions `value`, `a_line`, `b_line`, `a_place` and `b_place`.

    For tiles, not the places where spots are used instead; for all others, also the elements, `a_at` and `b_at`.
    """
    found = problem.operands(frame, batch)
    memory, type = MEMORY[problem.dtype], sum_type(problem.dtype)
    frame.line(
        f"const auto value = [](const {memory}& x) -> {type} {{ return ({type}){loaded(problem.dtype, 'x')}; }};"
    )
    for name, lines in zip("ab", found, strict=True):
        with frame.block(f"const auto {name}_line = [&](Index i) -> {lines.type}", "};"):
            lines.line()
        if lines.slab is not None:
            type, prepare = lines.slab
            with frame.block(f"const auto {name}_slab = [&](const auto& p, Index k) -> {type}", "};"):
                prepare()
        if by_tiles and lines.spots is not None:
            continue
        with frame.block(f"const auto {name}_place = [&](const auto& p, Index k) -> const {memory}*", "};"):
            lines.place()
        if not by_tiles:
            with frame.block(f"const auto {name}_at = [&](const auto& p, Index k) -> {type}", "};"):
                frame.line(f"const {memory}* const found = {name}_place(p, k);")
                frame.line("return found != nullptr ? value(*found) : 0;")
    return found
