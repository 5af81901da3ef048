"""Products of matrices: the core `matmul`, as phases that call the functions of `microkernels` and `packing`.

A kernel packs an operand into panels where it can't be read as it lies, or where that pays; then its units of work,
blocks of C, call the function that suits the sizes and strides, block of k by block of k, and run what follows on the
block while it is in the cache. What depends on sizes that aren't known yet is decided when they are. The limits below
have been measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from graphc.dims import Dim, ceil_div, product
from graphc.kernel import Region
from graphc.op import Op
from graphc.ops.linalg import matmul_op
from graphc.runtime.contraction import contraction, layout, transposed
from graphc.runtime.cpu import lanes, microkernels, packing
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.elements import Element
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.microkernels import FLOATS, tile
from graphc.runtime.cpu.packing import compute_dtype
from graphc.runtime.cpu.phases import Frame, KernelCode, Place
from graphc.runtime.cpu.values import I64, MEMORY_TYPE, PTR, Int, Value
from graphc.runtime.strided import Strided, itemsize

PANELS_BYTES = 46 << 10  # of a panel of A and one of B, in one block of k: about the first-level cache
SMALL_BYTES, CACHE_BYTES = 32 << 10, 1 << 20  # about the first level of the cache, and the second
PART_BYTES = 256 << 10  # of an operand that stays in the second level while others stream by
PANELS, ALL_PANELS = 16, 24  # of A in one unit of work, at most; so many more if these are all and B is wide
PACKED_PANELS, PACKED_K = 8, 256  # what one unit of work packs
THIN = 4  # rows of A for which B is streamed
DOT = 16  # rows of A up to which inner products are better than packing a transposed B
ALWAYS, NEVER = 1 << 62, -1
OFTEN = 256  # columns of B for which A is read often enough to pack it
MANY = 112  # rows of A up to which B is read in place, if it can be, unless it is small
SPANNED = 512, 2048  # columns of B up to which units have all columns, and up to which where B stays in the cache
SQUARE = 16  # of k: blocks are multiples of it, as what is transposed is in squares of vectors
FEW_PANELS, SHARES = 4, 4  # panels of A in such a unit, about; their number is a multiple, for threads to share evenly
RUNS = 512, 256, 128  # columns of a unit that alone reads its part of a large B, at least: few rows, more, many
PARTS = 64  # units of a large product
UNIT_NS = 8_000, 200_000  # time of a unit of work, at least and at most: a part of all between them
FLOPS, BYTES = 150, 40  # per nanosecond, roughly: of arithmetic, and of what is read from memory
UNKNOWN = 256  # what a size is taken for that isn't known yet

NULL = Value("null", PTR)

Condition = bool | Value


def library(host: Host, symbol: str) -> str:
    """The assembly of a function that kernels of this room call."""
    packs = symbol.rpartition(".")[0] in packing.MAKERS
    return packing.library(host, symbol) if packs else microkernels.library(host, symbol)


@dataclass(frozen=True)
class Problem:
    """A product C[..., m, n] of A[..., m, k] and B[..., k, n].

    Attributes:
        batch: leading sizes.
        a, b: where the operands lie; the strides of the last two axes are those of (m, k) and (k, n).
        c: where the product goes; None if something else is computed from it. The matrices of a batch that are
            multiplied by the same B, and lie like one matrix in `a` and `c`, are one.
        swapped: whether A and B are the second operand and the first, transposed, and so is the result.
        place: where the sums may lie until they are done: `c`, or what is computed from them.
        steady: whether A is the same run after run, and its size known, so that its panels are made once; and B.
    """

    host: Host
    dtype: str
    batch: tuple[Dim, ...]
    m: Dim
    n: Dim
    k: Dim
    a: Strided
    b: Strided
    c: Strided | None
    swapped: bool
    place: Strided | None
    steady: tuple[bool, bool]

    @cached_property
    def compute(self) -> str:
        """The dtype of the sums."""
        return compute_dtype(self.dtype)

    @cached_property
    def a_lines(self) -> str:
        """How A lies: "rows" if these are contiguous, "columns", or "strided"."""
        return layout((self.m, self.k), self.a.strides[-2:])

    @cached_property
    def b_lines(self) -> str:
        """How B lies."""
        return layout((self.k, self.n), self.b.strides[-2:])

    @cached_property
    def height(self) -> int:
        """Rows of a panel of A: as many as a tile has, or fewer that divide the rows more evenly."""
        most = tile(self.host, self.compute).rows
        if self.spans:
            return -(-self.rows_wanted // -(-self.rows_wanted // most))
        return -(-self.m // -(-self.m // most)) if isinstance(self.m, int) and self.m else most

    @cached_property
    def rows(self) -> int:
        """Rows of a unit of work: a multiple of `height`."""
        if self.spans:
            return -(-self.rows_wanted // self.height) * self.height
        if not isinstance(self.m, int):
            return PANELS * self.height
        panels = -(-self.m // self.height)
        is_wide = isinstance(self.n, int) and self.n > OFTEN
        blocks = max(1, -(-panels // (ALL_PANELS if is_wide and panels <= ALL_PANELS else PANELS)))
        if blocks > 1 and isinstance(self.n, int) and not is_wide:  # there are few units besides
            blocks = -(-blocks // SHARES) * SHARES
        return self.height * max(1, -(-panels // blocks))

    @cached_property
    def rows_wanted(self) -> int:
        """Rows of a unit of work that has all columns: few, as B stays in the cache, in parts that threads share."""
        assert isinstance(self.m, int)
        panels = -(-self.m // tile(self.host, self.compute).rows)
        return -(-self.m // (-(-panels // (FEW_PANELS * SHARES)) * SHARES))

    @cached_property
    def columns(self) -> int:
        """Columns of a unit of work: whole tiles, as many as take the time that one should and fit the cache."""
        width = tile(self.host, self.compute).width
        m, n, k, batch = (d if isinstance(d, int) else UNKNOWN for d in (self.m, self.n, self.k, product(self.batch)))
        if self.spans:
            return width * -(-n // width)
        rows = min(self.rows, m)
        column = max(2 * rows * k / FLOPS, k * itemsize(self.dtype) / BYTES, 1.0)
        least, most = UNIT_NS
        unit = min(max(column * n * (m / max(1, rows)) * batch / PARTS, least), most)
        most = CACHE_BYTES // 2 // (self.rows * width * itemsize(self.compute)) if self.place is None else n
        return width * max(1, min(-(-n // width), max(round(unit / column / width), self.run // width), most))

    @cached_property
    def run(self) -> int:
        """Columns that a unit has at least: where lines of B come from afar and as they lie, a row of them at once."""
        streams = self.b_lines == "rows" and CACHE_BYTES < self.nbytes(self.k, self.n) < math.inf
        if streams and self.packs_inside and isinstance(self.n, int):
            return min(RUNS[2], self.n // (2 * SHARES))
        if not isinstance(self.m, int) or self.m > self.limit("b") or not streams:
            return 0
        return RUNS[self.few is None or self.m > self.few[1]]

    @cached_property
    def depth(self) -> int:
        """k of one block, at most."""
        shape = tile(self.host, self.compute)
        most = PANELS_BYTES // (shape.rows + shape.width) // itemsize(self.compute) // 8 * 8
        few, in_place = self.copied
        if isinstance(self.m, int) and self.m <= min(few, in_place):
            # Rows of B that are read where they lie take single lines of a cache that doesn't hold it.
            most //= 4 if CACHE_BYTES < self.nbytes(self.k, self.n) < math.inf else 1
        blocks = -(-self.k // most) if isinstance(self.k, int) and self.k else 1
        return -(-self.k // blocks // SQUARE) * SQUARE if isinstance(self.k, int) and blocks > 1 else most

    def nbytes(self, *sizes: Dim) -> float:
        """Bytes of an array of operands; infinite while they aren't known."""
        count = product(sizes)
        return count * itemsize(self.dtype) if isinstance(count, int) else math.inf

    @property
    def c_row(self) -> int:
        """Distance of rows of a block of C in scratch."""
        return self.columns + tile(self.host, self.compute).lanes

    @property
    def block_bytes(self) -> int:
        """Scratch for a block of C: of sums, and of what they are rounded to, where these don't go to `c`."""
        native = self.dtype == self.compute
        sums = 0 if self.place and native else itemsize(self.compute)
        return self.rows * self.c_row * (sums + (0 if self.place or native else itemsize(self.dtype)))

    @cached_property
    def copied(self) -> tuple[int, int]:
        """More rows of A than this, up to that, for which panels of B are copied into scratch one by one."""
        in_place = self.b_lines == "rows" and self.dtype == self.compute and self.nbytes(self.k, self.n) > SMALL_BYTES
        return 2 * tile(self.host, self.compute).rows, self.limit("b") if in_place else 0

    @cached_property
    def packs_inside(self) -> bool:
        """Whether units pack their panels of B for themselves, as each is needed by one unit only."""
        return not self.steady[1] and isinstance(self.m, int) and self.limit("b") < self.m <= self.rows

    @cached_property
    def spans(self) -> bool:
        """Whether a unit has all columns, of a part of many rows, as B stays in the cache.

        What follows then reads and writes whole rows. Where these are of a weight, whose gradient this is, the worker
        that reads them as columns of B in the next run is the same one, and has them in its cache.
        """
        if not isinstance(self.m, int) or not isinstance(self.n, int) or self.steady[0] or self.m <= MANY:
            return False
        stays = self.nbytes(self.k, self.n) <= PART_BYTES and product(self.batch) == 1
        least, most = SPANNED
        return (self.packs_a and self.n <= least) or (stays and OFTEN <= self.n <= most)

    @property
    def packs_a_inside(self) -> bool:
        """Whether units, which have all columns, pack their panels of A for themselves."""
        return self.spans and self.packs_a

    @property
    def a_bytes(self) -> int:
        """Scratch for the panels of A of a unit."""
        return self.rows * self.depth * itemsize(self.compute) if self.packs_a_inside else 0

    @property
    def copy_bytes(self) -> int:
        """Scratch for a panel of B, or for all that a unit needs."""
        few, most = self.copied
        if self.packs_inside:
            return self.depth * self.columns * itemsize(self.compute)
        return self.depth * tile(self.host, self.compute).width * itemsize(self.compute) if few < most else 0

    @property
    def cost(self) -> Dim:
        """Nanoseconds of all of it."""
        return product(self.batch) * self.k * (self.m * self.n // (FLOPS // 2) + self.n // 8 + 1) + 20

    def limit(self, which: str) -> int:
        """Rows of A up to which an operand, "a" or "b", needs no panels."""
        few = self.few[1] if self.few else NEVER
        if which == "a":
            return few if self.packs_a else ALWAYS
        if self.b_lines != "rows" or self.dtype != self.compute or self.steady[1]:
            return few
        return ALWAYS if self.nbytes(self.k, self.n) <= SMALL_BYTES else MANY

    @cached_property
    def packs_a(self) -> bool:
        """Whether A must be packed, or is read so often, or by columns of so few lines of the cache, that it pays.

        A few rows that stay in the cache are read as they lie, unless their lines are in each other's way there.
        """
        if self.a_lines == "strided" or self.dtype != self.compute or self.steady[0]:
            return True
        is_rows = self.a_lines == "rows"
        step = self.a.strides[-2 if is_rows else -1]
        collide = isinstance(step, int) and step * itemsize(self.dtype) % 4096 == 0
        if collide and not is_rows:
            return True
        is_low = is_rows and not collide and isinstance(self.m, int) and self.m <= MANY
        often = isinstance(self.n, int) and self.n >= OFTEN
        return often and self.nbytes(self.m, self.k) > (PART_BYTES if is_low else SMALL_BYTES)

    @cached_property
    def few(self) -> tuple[str, int] | None:
        """The function for few rows of A, and up to how many: none reads what must be converted.

        Panels that are there from the run before are better from two rows on.
        """
        shape = tile(self.host, self.compute)
        if self.dtype != self.compute:
            return None
        if self.b_lines == "rows":
            small = self.nbytes(self.k, self.n) <= SMALL_BYTES
            narrow = isinstance(self.n, int) and self.n < shape.width
            return None if small and narrow else ("thin", 1 if small or self.steady[1] else THIN)
        if self.dtype not in FLOATS or self.b_lines != "columns" or self.a_lines != "rows":
            return None
        short = isinstance(self.k, int) and self.k < 2 * shape.lanes
        return "dot", 1 if self.steady[1] else THIN if short else DOT


def problem_of(code: KernelCode) -> Problem:
    """The product that a kernel computes."""
    found = contraction(code.kernel, lanes.operand(code, 0), lanes.operand(code, 1))
    place = found.c or _lent(code.kernel.results[0], found.dtype, found.swapped)
    a, b = (_is_kept(code, k) for k in ((1, 0) if found.swapped else (0, 1)))
    return Problem(code.host, *found, place, (a, b))


def _is_kept(code: KernelCode, k: int) -> bool:
    """Whether panels of an operand stay as they are from run to run."""
    known = all(isinstance(loop.extent, int) for loop in code.kernel.operands[k].loops)
    return bool(code.steady) and code.is_steady(k) and known


def _lent(region: Region, dtype: str, swapped: bool) -> Strided | None:
    """An array that a region makes of the elements of a product, if they may lie in it until then.

    It must not be in the bytes of an operand (`Region`), and have contiguous rows.
    """
    loaded = {load.access for load in region.loads}
    written = [store.write for store in region.stores]
    for output, store in zip(region.body.outputs, region.stores, strict=True):
        found = Strided("write", store.write, store.access.offset, store.access.strides, dtype)
        found = transposed(found) if swapped else found
        alone = store.access not in loaded and written.count(store.write) == 1
        if alone and output.dtype == dtype == compute_dtype(dtype) and found.strides[-1] == 1:
            return found
    return None


def _at_most(f: Function, x: Int, limit: int) -> Condition:
    return x <= limit if isinstance(x, int) else f.is_less(x, limit + 1)


def _either(f: Function, condition: Condition, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """One or the other, decided now if that can be."""
    if isinstance(condition, Value):
        f.if_(condition, then, otherwise)
    else:
        (then if condition else otherwise)()


# --------------------------------------------------------------------------------------------- panels


class Panels(NamedTuple):
    """An operand, packed into workspace: for each of its matrices, panels of `width` times k elements.

    Attributes:
        place: of memory.
        axes: of the batch, that the operand varies along.
        panels: of a matrix.
    """

    place: Place
    axes: tuple[int, ...]
    panels: Dim
    width: int

    def matrix(self, frame: Frame, batch: Sequence[Dim], index: Sequence[Int]) -> Int:
        """The number of the matrix of a batch index."""
        number: Int = 0
        for axis in self.axes:
            number = frame.f.add(frame.f.mul(number, frame.size(batch[axis])), index[axis])
        return number

    def address(self, frame: Frame, problem: Problem, matrix: Int, number: Int, k: Int) -> Value:
        """The address of a panel of a matrix, from a k on."""
        f = frame.f
        first = f.add(f.mul(matrix, frame.size(self.panels)), number)
        at = f.mul(f.add(f.mul(first, frame.size(problem.k)), k), self.width)
        return f.address(frame.memory(self.place), at, MEMORY_TYPE[problem.compute])


def _packed(code: KernelCode, problem: Problem, which: str) -> Panels | None:
    """Emit the phase that packs an operand, if it may need it: a unit is some panels, for some k."""
    limit = problem.limit(which)
    inside = problem.packs_inside if which == "b" else problem.packs_a_inside
    if limit == ALWAYS or inside or (isinstance(problem.m, int) and problem.m <= limit):
        return None
    whole = tile(code.host, problem.compute).width
    operands = {"a": (transposed(problem.a), problem.m, problem.height), "b": (problem.b, problem.n, whole)}
    source, extent, width = operands[which]
    way = _way(problem, layout((problem.k, extent), source.strides[-2:]))
    axes = tuple(axis for axis, stride in enumerate(source.strides[:-2]) if stride != 0)
    count = ceil_div(extent, width)
    matrices = product([problem.batch[axis] for axis in axes])
    nbytes = matrices * count * problem.k * width * itemsize(problem.compute)
    place = code.derived(nbytes, int((which == "b") != problem.swapped))
    panels = Panels(place, axes, count, width)
    counts = (*(problem.batch[axis] for axis in axes), ceil_div(count, PACKED_PANELS), ceil_div(problem.k, PACKED_K))
    frame = code.phase(product(counts), matrices * extent * problem.k // 5 + 10, prepares=place.is_kept)
    f = frame.f
    size, k = frame.size(extent), frame.size(problem.k)

    def unit(u: Value, _: list[Value]) -> None:
        *varying, group, block = _split(frame, u, counts)
        index: list[Int] = [0] * len(problem.batch)
        for axis, i in zip(axes, varying, strict=True):
            index[axis] = i
        first, p = f.mul(group, PACKED_PANELS), f.mul(block, PACKED_K)
        x = f.mul(first, width)
        matrix = panels.matrix(frame, problem.batch, index)
        to = panels.address(frame, problem, matrix, first, p)
        stride_k, stride_x = frame.sizes(source.strides[-2:])
        sizes = [f.mul(k, width), f.min(PACKED_PANELS * width, f.sub(size, x)), f.min(PACKED_K, f.sub(k, p)), width]
        at = frame.at(source, [*index, p, x])
        f.call(way, "void", at, f.i64(stride_x), f.i64(stride_k), to, *map(f.i64, sizes))

    def pack() -> None:
        f.loop(frame.low, frame.high, 1, unit)

    _either(f, _at_most(f, frame.size(problem.m), limit), lambda: None, pack)
    frame.done()
    return panels


def _way(problem: Problem, layout: str) -> str:
    """Which function packs a matrix of k rows; integers of any size aren't transposed in registers."""
    ways = {"rows": "lines", "columns": "columns" if problem.compute in FLOATS else "strided"}
    return f"pack.{ways.get(layout, 'strided')}.{problem.dtype}"


def _split(frame: Frame, number: Int, sizes: Sequence[Dim]) -> list[Int]:
    """A number as an index into axes of these sizes, the last the fastest."""
    index: list[Int] = []
    for at, size in reversed(list(enumerate(sizes))):
        extent = frame.size(size)
        index.append(frame.f.rem(number, extent) if at else number)
        number = frame.f.div(number, extent)
    return index[::-1]


# --------------------------------------------------------------------------------------------- blocks of C


def contract(code: KernelCode) -> bool:
    """Emit the phases of a product of matrices."""
    problem = problem_of(code)
    a, b = _packed(code, problem, "a"), _packed(code, problem, "b")
    code.note(_described(problem, a, b))
    counts = (*problem.batch, ceil_div(problem.m, problem.rows), ceil_div(problem.n, problem.columns))
    scratch = problem.block_bytes + problem.copy_bytes + problem.a_bytes
    frame = code.phase(product(counts), problem.cost, scratch)
    work = _Blocks(frame, problem, a, b)
    frame.f.loop(frame.low, frame.high, 1, lambda u, _: work.unit(_split(frame, u, counts)))
    frame.done()
    return True


def _described(problem: Problem, a: Panels | None, b: Panels | None) -> str:
    """In a few words, how a product is computed, for reports."""
    if problem.few and isinstance(problem.m, int) and problem.m <= problem.few[1]:
        return {"thin": "gemm, a few rows at a time", "dot": "gemm by inner products"}[problem.few[0]]
    panels = {"A": a is not None or problem.packs_a_inside, "B": b is not None or problem.packs_inside}
    packed = " and ".join(name for name, there in panels.items() if there)
    when = "" if isinstance(problem.m, int) or not packed else " if there are many rows"
    width = tile(problem.host, problem.compute).width
    return f"gemm {problem.height}x{width}, {packed or 'nothing'} packed{when}"


class _Blocks:
    """The code of a unit of work; `a` and `b` are the operands that may have been packed."""

    def __init__(self, frame: Frame, problem: Problem, a: Panels | None, b: Panels | None) -> None:
        self.frame = frame
        self.f = frame.f
        self.problem = problem
        self.a, self.b = a, b
        self.c_row = problem.c_row
        self.m, self.n, self.k = frame.sizes((problem.m, problem.n, problem.k))

    def unit(self, index: Sequence[Int]) -> None:
        """Compute a block of C, and what follows."""
        f, problem = self.f, self.problem
        *batch, row, column = index
        i, j = f.mul(row, problem.rows), f.mul(column, problem.columns)
        m, n = f.min(problem.rows, f.sub(self.m, i)), f.min(problem.columns, f.sub(self.n, j))
        target: tuple[Value, Int] | None = None
        if problem.place is not None:
            target = self.frame.at(problem.place, [*batch, i, j]), self.frame.size(problem.place.strides[-2])
        block: tuple[Value, Int] = (self.frame.scratch, self.c_row)
        if problem.dtype == problem.compute:
            block = target or block
            self.sums(batch, i, j, m, n, *block)
        else:
            self.sums(batch, i, j, m, n, *block)
            after = f.address(self.frame.scratch, problem.rows * self.c_row * itemsize(problem.compute), "i8")
            block, wide = target or (after, self.c_row), block
            self.narrow(wide, block, m, n)
        if problem.c is None:
            self.follow(batch, i, j, m, n, block)

    def narrow(self, source: tuple[Value, Int], target: tuple[Value, Int], m: Int, n: Int) -> None:
        """Round a block of C."""
        f = self.f
        sizes = map(f.i64, (m, n))
        f.call(f"narrow.{self.problem.dtype}", "void", source[0], f.i64(source[1]), target[0], f.i64(target[1]), *sizes)

    def follow(self, batch: Sequence[Int], i: Int, j: Int, m: Int, n: Int, block: tuple[Value, Int]) -> None:
        """What the kernel computes from a block of C."""
        f, problem = self.f, self.problem
        bounds = [(x, f.add(x, 1)) for x in batch]
        rows, columns = (i, f.add(i, m)), (j, f.add(j, n))
        bounds += [columns, rows] if problem.swapped else [rows, columns]

        def address(index: Sequence[Int]) -> Value:
            row, column = (index[-1], index[-2]) if problem.swapped else (index[-2], index[-1])
            at = f.add(f.mul(f.sub(row, i), block[1]), f.sub(column, j))
            return f.address(block[0], at, MEMORY_TYPE[problem.dtype])

        is_along_rows = problem.n == 1 and block[1] == 1
        axis = -2 if problem.swapped != is_along_rows else -1
        lanes.block(self.frame, 0, bounds, Element(address, problem.dtype, axis))

    def sums(self, batch: Sequence[Int], i: Int, j: Int, m: Int, n: Int, c: Value, c_row: Int) -> None:
        """Sum the products of a block of C."""
        f, problem = self.f, self.problem
        tail = [f.i64(x) for x in (c_row, m, n)]

        def few(kind: str) -> None:
            a_row, a_k = self.frame.sizes(problem.a.strides[-2:])
            b_k, b_n = self.frame.sizes(problem.b.strides[-2:])
            a, b = self.frame.at(problem.a, [*batch, i, 0]), self.frame.at(problem.b, [*batch, 0, j])
            distances = [f.i64(x) for x in (a_row, a_k, 0)], [f.i64(x) for x in (b_k, b_n)]
            function = f"{kind}.{problem.dtype}"
            numbers = [f.i64(self.k), f.i64(0), f.i64(0), NULL]
            tiles = microkernels.table(f, problem.host, function, self.m, problem.rows, self.n)
            f.call(function, "void", a, *distances[0], b, *distances[1], c, *tail, *numbers, tiles)

        def many() -> None:
            f.loop(0, f.max(self.k, 1), problem.depth, lambda p, _: self.outer(batch, i, j, p, [c, *tail]))

        if problem.few is None:
            many()
        else:
            kind, limit = problem.few
            _either(f, _at_most(f, self.m, limit), lambda: few(kind), many)

    def outer(self, batch: Sequence[Int], i: Int, j: Int, p: Value, rest: Sequence[Value]) -> None:
        """Sum one block of k."""
        f, problem = self.f, self.problem
        packed = self.a is not None or problem.packs_a_inside
        layout = "columns" if packed else problem.a_lines
        depth = f.min(problem.depth, f.sub(self.k, p))
        numbers = map(f.i64, [depth, problem.height, f.convert("zext", f.is_less(0, p), I64)])
        blocks, function = (*self.a_block(batch, i, p), *self.b_block(batch, j, p)), f"gemm.{layout}.{problem.compute}"
        tiles = microkernels.table(f, problem.host, function, self.m, problem.height, self.n)
        f.call(function, "void", *blocks, *rest, *numbers, self.copy(), tiles)

    def copy(self) -> Value:
        """Memory to copy panels of B into, or null where B isn't read in place or isn't read often."""
        f, problem = self.f, self.problem
        few, most = problem.copied
        if isinstance(self.m, int):
            copies = few < self.m <= most
            return f.address(self.frame.scratch, problem.block_bytes, "i8") if copies else NULL
        often = f.binary("and", f.is_less(few, self.m), f.is_less(self.m, most + 1))
        return f.select(often, f.address(self.frame.scratch, problem.block_bytes, "i8"), NULL) if most else NULL

    def a_block(self, batch: Sequence[Int], i: Int, p: Value) -> list[Value]:
        """Rows of A from a column on: the address, and the distances of rows, of columns, and of panels."""
        f, height = self.f, self.problem.height
        if self.problem.packs_a_inside:
            return self.a_packed_here(batch, i, p)
        if self.a is not None:
            return [self.panel(self.a, batch, f.div(i, height), p), *map(f.i64, (1, height, f.mul(self.k, height)))]
        row, column = self.frame.sizes(self.problem.a.strides[-2:])
        return [self.frame.at(self.problem.a, [*batch, i, p]), *map(f.i64, (row, column, f.mul(row, height)))]

    def a_packed_here(self, batch: Sequence[Int], i: Int, p: Value) -> list[Value]:
        """Pack the panels of A of the unit into scratch."""
        f, problem = self.f, self.problem
        height = problem.height
        to = f.address(self.frame.scratch, problem.block_bytes + problem.copy_bytes, "i8")
        a_row, a_k = self.frame.sizes(problem.a.strides[-2:])
        m, depth = f.min(problem.rows, f.sub(self.m, i)), f.min(problem.depth, f.sub(self.k, p))
        sizes = map(f.i64, (problem.depth * height, m, depth, height))
        at = self.frame.at(problem.a, [*batch, i, p])
        way = _way(problem, {"rows": "columns", "columns": "rows"}.get(problem.a_lines, "strided"))
        f.call(way, "void", at, f.i64(a_row), f.i64(a_k), to, *sizes)
        return [to, *map(f.i64, (1, height, problem.depth * height))]

    def b_block(self, batch: Sequence[Int], j: Int, p: Value) -> list[Value]:
        """Rows of B from a column on: the address, and the distances of rows and of panels."""
        f, width = self.f, tile(self.frame.host, self.problem.compute).width

        def packed(panels: Panels) -> list[Value]:
            at = self.panel(panels, batch, f.div(j, width), p)
            return [at, f.i64(width), f.i64(f.mul(self.k, width))]

        def in_place() -> list[Value]:
            at = self.frame.at(self.problem.b, [*batch, p, j])
            return [at, f.i64(self.frame.size(self.problem.b.strides[-2])), f.i64(width)]

        if self.problem.packs_inside:
            return self.packed_here(batch, j, p)
        if self.b is None:
            return in_place()
        panels, limit = self.b, self.problem.limit("b")
        if limit == NEVER or isinstance(self.m, int):
            return packed(panels)
        return f.if_(f.is_less(self.m, limit + 1), in_place, lambda: packed(panels))

    def packed_here(self, batch: Sequence[Int], j: Int, p: Value) -> list[Value]:
        """Pack the panels of B that the unit needs into scratch."""
        f, problem = self.f, self.problem
        width = tile(self.frame.host, problem.compute).width
        to = f.address(self.frame.scratch, problem.block_bytes, "i8")
        b_k, b_n = self.frame.sizes(problem.b.strides[-2:])
        n, depth = f.min(problem.columns, f.sub(self.n, j)), f.min(problem.depth, f.sub(self.k, p))
        sizes = map(f.i64, (problem.depth * width, n, depth, width))
        at = self.frame.at(problem.b, [*batch, p, j])
        f.call(_way(problem, problem.b_lines), "void", at, f.i64(b_n), f.i64(b_k), to, *sizes)
        return [to, f.i64(width), f.i64(problem.depth * width)]

    def panel(self, panels: Panels, batch: Sequence[Int], number: Int, p: Value) -> Value:
        """The address of a panel of an operand, from a k on."""
        matrix = panels.matrix(self.frame, self.problem.batch, batch)
        return panels.address(self.frame, self.problem, matrix, number, p)


CORES: Mapping[Op, Callable[[KernelCode], bool]] = {matmul_op: contract}
