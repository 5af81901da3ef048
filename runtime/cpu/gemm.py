"""Products of matrices: the core `matmul`, as phases that call the functions of `microkernels` and `packing`.

A kernel packs an operand into panels where it can't be read as it lies, or where that pays; then its units of work,
blocks of C, call the function that suits the sizes and strides, block of k by block of k, and run what follows on the
block while it is in the cache. `gemm_problem` decides how; what depends on sizes that aren't known yet is decided when
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from graphc.dims import Dim, ceil_div, product
from graphc.op import Op
from graphc.ops.linalg import matmul_op
from graphc.runtime.contraction import layout, transposed
from graphc.runtime.cpu import lanes, microkernels, packing
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.elements import Element
from graphc.runtime.cpu.gemm_problem import ALWAYS, NEVER, Problem, problem_of
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.microkernels import FLOATS, tile
from graphc.runtime.cpu.phases import Frame, KernelCode, Place
from graphc.runtime.cpu.values import I64, MEMORY_TYPE, PTR, Int, Value
from graphc.runtime.strided import itemsize

PACKED = {"pack.lines": (32, 64)}  # panels, and of k, that one unit of work packs: long lines, as memory likes it
OTHERS = 8, 256  # and where it doesn't copy lines

NULL = Value("null", PTR)

Condition = bool | Value


def library(host: Host, symbol: str) -> str:
    """The assembly of a function that kernels of this room call."""
    packs = symbol.rpartition(".")[0] in packing.MAKERS
    return packing.library(host, symbol) if packs else microkernels.library(host, symbol)


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
    panels_packed, k_packed = PACKED.get(way.rpartition(".")[0], OTHERS)
    axes = tuple(axis for axis, stride in enumerate(source.strides[:-2]) if stride != 0)
    count = ceil_div(extent, width)
    matrices = product([problem.batch[axis] for axis in axes])
    nbytes = matrices * count * problem.k * width * itemsize(problem.compute)
    place = code.derived(nbytes, int((which == "b") != problem.swapped))
    panels = Panels(place, axes, count, width)
    counts = (*(problem.batch[axis] for axis in axes), ceil_div(count, panels_packed), ceil_div(problem.k, k_packed))
    frame = code.phase(product(counts), matrices * extent * problem.k // 5 + 10, prepares=place.is_kept)
    f = frame.f
    size, k = frame.size(extent), frame.size(problem.k)

    def unit(u: Value, _: list[Value]) -> None:
        *varying, group, block = _split(frame, u, counts)
        index: list[Int] = [0] * len(problem.batch)
        for axis, i in zip(axes, varying, strict=True):
            index[axis] = i
        first, p = f.mul(group, panels_packed), f.mul(block, k_packed)
        x = f.mul(first, width)
        matrix = panels.matrix(frame, problem.batch, index)
        to = panels.address(frame, problem, matrix, first, p)
        stride_k, stride_x = frame.sizes(source.strides[-2:])
        sizes = [f.mul(k, width), f.min(panels_packed * width, f.sub(size, x)), f.min(k_packed, f.sub(k, p)), width]
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
            tiles = microkernels.table(f, problem.host, function, problem.few_rows, self.n)
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
        tiles = microkernels.table(f, problem.host, function, problem.heights, self.n)
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
