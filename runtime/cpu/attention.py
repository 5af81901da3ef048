"""Attention as one kernel: the scores of a block of queries never leave the cache.

A block has as many queries as a tile of a product has columns. Its scores lie transposed, a row for each key, so that a
lane has a query of its own: what goes over the keys of a query, its greatest score and its sum, goes over rows. And
every product finds one operand as rows or columns of what is in memory, and the other as a panel: the block's queries,
transposed, or its scores. Under a causal mask, keys that no query of the block sees are left out, so that an inf or nan
among their values shows in no result.

The gradient computes the scores again instead of reading them (T. Dao, "FlashAttention-2: Faster attention with better
parallelism and work partitioning", 2023); all keys of a block are there at once, so nothing is rescaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import NamedTuple

from graphc.dims import Dim, ceil_div, product
from graphc.ir import Node
from graphc.op import Op
from graphc.ops.nn import attention_grad, attention_op
from graphc.runtime import attention as sizes
from graphc.runtime.attention import Attention
from graphc.runtime.contraction import transposed as flipped
from graphc.runtime.cpu import lanes as regions
from graphc.runtime.cpu import vector_math
from graphc.runtime.cpu.elements import from_memory, load_lanes, transposed
from graphc.runtime.cpu.microkernels import FLOATS, Tile, table, tile
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.rows import columns, units
from graphc.runtime.cpu.values import I64, MEMORY_TYPE, PTR, Int, Value, constant, vector
from graphc.runtime.regions import stored_in
from graphc.runtime.strided import Strided, aligned, itemsize

FEW = 16  # queries up to which lanes would be idle: products are better
MANY = 512  # lines that are read again and again from which a copy of those that lie apart pays
UNITS = 16  # of work that a gradient has at least, if it has so many blocks
JOINED = 4096  # elements of sums that one unit adds up
DEPTH = 256  # keys whose weights, of a block, the first level of the cache holds
FLOPS = 100  # per nanosecond, roughly

NULL = Value("null", PTR)

Lines = tuple[Value, Int]  # of a matrix: where they begin, and their distance


def suits(node: Node) -> bool:
    """Whether an attention, or its gradient, is better as one kernel than as products and what is between them.

    With a mask of floats it isn't, as its gradient may be wanted, and is made of products.
    """
    is_gradient = node.op is attention_grad
    q, k, v, *masks = node.inputs[is_gradient:]
    if any(mask.dtype != "bool" for mask in masks):
        return False
    queries, widths = q.shape[-2], (q.shape[-1], v.shape[-1])
    if is_gradient and len({x.shape[:-2] for x in node.inputs[:4]}) > 1:
        return False
    is_known = all(isinstance(width, int) and width > 0 for width in widths)
    has_many = not isinstance(queries, int) or queries > FEW
    return {q.dtype, k.dtype, v.dtype} in ({dtype} for dtype in FLOATS) and is_known and has_many


# --------------------------------------------------------------------------------------------- a block of queries


class _Scratch:
    """Memory of a worker."""

    def __init__(self, problem: Attention, shape: Tile) -> None:
        self.problem, self.width = problem, shape.width
        self.nbytes: Dim = 0

    def rows(self, count: Dim, dtype: str | None = None) -> Strided:
        """Take rows of as many elements as a block has queries."""
        dtype = dtype or self.problem.dtype
        found = Strided("scratch", self.nbytes, 0, (self.width, 1), dtype)
        self.nbytes = self.nbytes + aligned(count * self.width * itemsize(dtype))
        return found


class _Block:
    """Code for a block of queries.

    Attributes:
        first, count: the queries of the block.
        keys: how many of them any of its queries sees.
        seen: scratch for which of them each query sees, if there is a mask.
    """

    def __init__(
        self, frame: Frame, problem: Attention, batch: Sequence[Int], first: Int, seen: Strided | None
    ) -> None:
        self.frame, self.f, self.problem = frame, frame.f, problem
        self.shape = tile(frame.host, problem.dtype)
        self.lanes, self.width = self.shape.lanes, self.shape.width
        self.element, self.align = MEMORY_TYPE[problem.dtype], itemsize(problem.dtype)
        self.type = vector(self.element, self.lanes)
        self.batch, self.first, self.seen = batch, first, seen
        f = self.f
        queries, keys = frame.sizes((problem.queries, problem.keys))
        self.count = f.min(self.width, f.sub(queries, first))
        self.keys = f.min(keys, f.add(first, self.width)) if problem.is_causal else keys

    # ------------------------------------------------------------------------------------ products

    def turned(self, name: str, to: Strided) -> None:
        """Transpose the block's lines of an operand, scaled."""
        f, problem = self.f, self.problem
        source, (_, width) = problem.operands[name], problem.extents(name)
        stride, at = self.frame.size(source.strides[-2]), self.frame.at(source, [*self.batch, self.first, 0])
        numbers = [self.width, self.count, self.frame.size(width), self.width]
        panel = self.frame.at(to)
        way = f"pack.columns.{problem.dtype}"
        f.call(way, "void", at, f.i64(stride), f.i64(1), panel, *map(f.i64, numbers))
        scale = constant(self.type, problem.scale)

        def scaled(e: Int, row: list[Value]) -> None:
            for v, value in enumerate(row):
                f.store(f.binary("fmul", value, scale), self.at(to, e, v), self.align)

        self.each_row(0, self.frame.size(width), [to], lambda e, rows, _: scaled(e, rows[0]))

    def multiply(
        self, a: Strided, at: Value, m: Int, k: Int, b: Lines, n: Int, c: Lines, adds: Value | int = 0
    ) -> None:
        """C[m, n] = A[m, k] @ B[k, n], or, if `adds` is 1, add that; A is at `at`, its rows and columns as in `a`."""
        f, most = self.f, self.shape.rows
        row, column = self.frame.sizes(a.strides[-2:])
        panels = f.max(1, f.div(f.add(m, most - 1), most))
        height = f.max(1, f.div(f.add(m, f.sub(panels, 1)), panels))
        lines = "rows" if a.strides[-1] == 1 else "columns"
        numbers = [f.i64(x) for x in (row, column, f.mul(row, height), b[1], self.width, c[1], m, n, k, height, adds)]
        function = f"gemm.{lines}.{self.problem.dtype}"
        operands = at, *numbers[:3], b[0], *numbers[3:5], c[0], *numbers[5:], NULL
        f.call(function, "void", *operands, table(f, self.frame.host, function, None, n))

    def met(self, name: str, panel: Strided, to: Strided) -> None:
        """The products of lines of an operand with those of a panel."""
        a, (_, width) = self.problem.operands[name], self.problem.extents(name)
        at, size = self.frame.at(a, [*self.batch, 0, 0]), self.frame.size(width)
        ends = [(self.frame.at(x), self.width) for x in (panel, to)]
        self.multiply(a, at, self.keys, size, ends[0], self.width, ends[1])

    def weighed(self, name: str, weights: Strided, to: Strided) -> None:
        """For each query the sum of an operand's lines, times its weights, transposed."""
        f, a, (_, width) = self.f, self.problem.operands[name], self.problem.extents(name)

        def part(first: Value, _: list[Value]) -> None:
            at, size = self.frame.at(a, [*self.batch, first, 0]), self.frame.size(width)
            count, adds = f.min(DEPTH, f.sub(self.keys, first)), f.convert("zext", f.is_less(0, first), I64)
            panel = self.frame.at(weights, [first, 0]), self.width
            self.multiply(flipped(a), at, size, count, panel, self.width, (self.frame.at(to), self.width), adds)

        f.loop(0, self.keys, DEPTH, part)

    def spread(self, weights: Strided, name: str, sums: Lines) -> None:
        """Add to each key's line the lines of an operand of the block, times their weights."""
        b, (_, width) = self.problem.operands[name], self.problem.extents(name)
        given = self.frame.at(b, [*self.batch, self.first, 0]), self.frame.size(b.strides[-2])
        at, size = self.frame.at(weights), self.frame.size(width)
        self.multiply(weights, at, self.keys, self.count, given, size, sums, 1)

    # ------------------------------------------------------------------------------------ rows of scores

    def at(self, array: Strided, row: Int, number: int) -> Value:
        """The address of a vector of a row."""
        return self.frame.at(array, [row, number * self.lanes])

    def each_row(
        self,
        low: Int,
        high: Int,
        arrays: Sequence[Strided],
        body: Callable[[Int, list[list[Value]], list[Value]], Sequence[Value] | None],
        carried: Sequence[Value] = (),
    ) -> list[Value]:
        """Go over rows of some arrays, carrying values along."""

        def step(j: Value, values: list[Value]) -> Sequence[Value] | None:
            rows = [
                [self.f.load(self.type, self.at(x, j, v), self.align) for v in range(self.shape.vectors)]
                for x in arrays
            ]
            return body(j, rows, values)

        return self.f.loop(low, high, 1, step, carried)

    def store(self, array: Strided, row: Int, values: Sequence[Value]) -> None:
        """Store a row."""
        for v, value in enumerate(values):
            self.f.store(value, self.at(array, row, v), self.align)

    def every(self, number: float) -> list[Value]:
        """A number in all lanes of a row."""
        return [constant(self.type, number)] * self.shape.vectors

    def each(self, operation: str, a: Sequence[Value], b: Sequence[Value]) -> list[Value]:
        """An operation on the vectors of two rows."""
        return [self.f.binary(operation, x, y) for x, y in zip(a, b, strict=True)]

    def greatest(self, scores: Strided) -> list[Value]:
        """Mask scores; the greatest of each query, or 0 where that could be of keys that aren't seen."""
        f = self.f

        def best(old: list[Value], new: list[Value]) -> list[Value]:
            return [f.select(f.compare("fcmp ogt", y, x), y, x) for x, y in zip(old, new, strict=True)]

        def seen(j: Int, rows: list[list[Value]], top: list[Value]) -> list[Value]:
            row = rows[0] if self.seen is None else self.masked(j, rows[0])
            if row is not rows[0]:
                self.store(scores, j, row)
            return best(top, row)

        def partly(j: Int, rows: list[list[Value]], top: list[Value]) -> list[Value]:
            row = [self.unless_later(j, v, value) for v, value in enumerate(rows[0])]
            self.store(scores, j, row)
            return seen(j, [row], top)

        self.turn_mask()
        top, middle = self.every(-math.inf), self.keys
        if self.problem.is_causal:
            middle = f.min(self.keys, f.add(self.first, 1))
        top = self.each_row(0, middle, [scores], seen, top)
        if self.problem.is_causal:
            top = self.each_row(middle, self.keys, [scores], partly, top)
        if self.seen is None:
            return top
        none = constant(self.type, -math.inf)
        return [f.select(f.compare("fcmp oeq", x, none), constant(self.type, 0), x) for x in top]

    def unless_later(self, key: Int, number: int, scores: Value) -> Value:
        """Scores of a key in a vector of queries; -inf for queries that come before the key."""
        f = self.f
        earlier = f.sub(f.sub(key, self.first), number * self.lanes)  # lanes of queries that do
        return f.select(f.mask(earlier, self.lanes), constant(self.type, -math.inf), scores)

    def masked(self, key: Int, scores: list[Value]) -> list[Value]:
        """The scores of a key, -inf for queries that don't see it."""
        f, mask = self.f, self.problem.operands["mask"]
        stride, found = self.frame.size(mask.strides[-2]), []
        for v, score in enumerate(scores):
            at, exists = self.frame.at(mask, [*self.batch, f.add(self.first, v * self.lanes), key]), None
            if self.seen is not None and _is_turned(mask):
                value = f.load(vector("i8", self.lanes), self.at(self.seen, key, v), 1)
            else:
                exists = None if stride == 0 else f.mask(f.sub(self.count, v * self.lanes), self.lanes)
                value = load_lanes(f, "bool", at, stride, self.lanes, exists)
            found.append(f.select(from_memory(f, value, "bool"), score, constant(self.type, -math.inf)))
        return found

    def turn_mask(self) -> None:
        """Transpose the block's lines of a mask, square by square: no CPU gathers bytes."""
        f, seen = self.f, self.seen
        mask = self.problem.operands.get("mask")
        if mask is None or seen is None or not _is_turned(mask):
            return

        def square(v: int, key: Int, exists: Value | None) -> None:
            lines = []
            for lane in range(self.lanes):
                query = f.add(self.first, f.min(v * self.lanes + lane, f.sub(self.count, 1)))
                at = self.frame.at(mask, [*self.batch, query, key])
                lines.append(f.load(vector("i8", self.lanes), at, 1, exists))
            for lane, line in enumerate(transposed(f, lines)):
                f.store(line, self.at(seen, f.add(key, lane), v), 1)

        for v in range(self.shape.vectors):
            columns(f, self.keys, self.lanes, partial(square, v))

    def shares(self, scores: Strided) -> list[Value]:
        """Make exponentials of scores, in place; what makes shares of them, for each query a factor."""
        f, top = self.f, self.greatest(scores)

        def step(j: Int, rows: list[list[Value]], sums: list[Value]) -> list[Value]:
            found = [vector_math.exp(f, x) for x in self.each("fsub", rows[0], top)]
            self.store(scores, j, found)
            return self.each("fadd", sums, found)

        sums = self.each_row(0, self.keys, [scores], step, self.every(0))
        one = constant(self.type, 1)  # in every sum, as the exponential of the greatest, unless no key is seen
        return [f.binary("fdiv", one, f.select(f.compare("fcmp olt", x, one), one, x)) for x in sums]

    def cotangents(self, shares: Strided, factors: Sequence[Value], products: Strided) -> None:
        """Make shares of exponentials, and cotangents of scores of those of shares, both in place."""
        f = self.f

        def share(j: Int, rows: list[list[Value]], sums: list[Value]) -> list[Value]:
            found = self.each("fmul", rows[0], factors)
            self.store(shares, j, found)
            return [f.fma(x, y, z) for x, y, z in zip(found, rows[1], sums, strict=True)]

        drift = self.each_row(0, self.keys, [shares, products], share, self.every(0))

        def score(j: Int, rows: list[list[Value]], _: list[Value]) -> None:
            self.store(products, j, self.each("fmul", rows[0], self.each("fsub", rows[1], drift)))

        self.each_row(0, self.keys, [shares, products], score)

    # ------------------------------------------------------------------------------------ results

    def put(self, source: Strided, factors: Strided | None, width: Int, target: Strided) -> None:
        """Store the block's lines of a result, which are the columns of `source`, times a factor each."""
        f, lanes = self.f, self.lanes
        row = self.frame.size(target.strides[-2])
        fits = isinstance(width, int) and width % lanes == 0

        def square(v: Value, x: Value) -> None:
            loaded = []
            for lane in range(lanes):
                at = f.add(x, lane) if fits else f.min(f.add(x, lane), f.sub(width, 1))
                value = f.load(self.type, self.frame.at(source, [at, v]), self.align)
                if factors is not None:
                    value = f.binary("fmul", value, f.load(self.type, self.frame.at(factors, [0, v]), self.align))
                loaded.append(value)
            to = self.frame.at(target, [*self.batch, f.add(self.first, v), x])
            for lane, line in enumerate(transposed(f, loaded)):
                exists = f.is_less(f.add(v, lane), self.count)
                left = f.select(exists, f.i64(f.min(lanes, f.sub(width, x))), f.i64(0))
                f.store(line, f.address(to, f.mul(row, lane), self.element), self.align, f.mask(left, lanes))

        def along(v: Value, _: list[Value]) -> None:
            f.loop(0, width, lanes, lambda x, _: square(v, x))

        f.loop(0, f.min(self.width, self.count), lanes, along)


# --------------------------------------------------------------------------------------------- the cores


def _is_turned(mask: Strided) -> bool:
    """Whether a mask's lines are contiguous, and one for each query."""
    return mask.strides[-2] != 0 and mask.strides[-1] == 1


def _problem(code: KernelCode, names: Sequence[str], dense: str) -> Attention:
    """What a kernel computes; `dense` names operands whose lines are read again and again."""
    core = code.kernel.core
    assert core is not None
    given = names[: len(core.inputs)]
    arrays = [
        regions.operand(code, k) if name == "mask" else _lines(code, k, name in dense) for k, name in enumerate(given)
    ]
    return sizes.described(core, names, arrays)


def _lines(code: KernelCode, k: int, dense: bool) -> Strided:
    """Where an operand lies whose lines are contiguous and, if there are many and it is asked for, dense.

    Lines far apart fall on few sets of the cache, and on a page each.
    """
    region, found = code.kernel.operands[k], regions.operand(code, k)
    shape = [loop.extent for loop in region.loops]
    is_apart = found.strides[-2] != shape[-1] and not (isinstance(shape[-2], int) and shape[-2] < MANY)
    if found.strides[-1] == 1 and not (dense and is_apart):
        return found
    copy = regions.in_workspace(code, shape, found.dtype)
    regions.region_phase(code, region, into=copy)
    return copy


def _result(code: KernelCode) -> Strided:
    """Where attention goes: where it is stored, if that is all that follows and its lines are contiguous there."""
    (region,) = code.kernel.results
    if len(region.stores) == 1 and not region.loads and region.body.outputs == region.body.inputs:
        (stored,) = stored_in(region)
        if stored.strides[-1] == 1:
            return stored
    return regions.result(code, 0)


def _described(shape: Tile) -> str:
    return f"attention, {shape.width} queries at a time"


def _cost(problem: Attention, products: int) -> Dim:
    """Nanoseconds, about."""
    pairs = product(problem.batch) * problem.queries * problem.keys
    return pairs * (products * (problem.width + problem.value_width)) // FLOPS + 20


def attention(code: KernelCode) -> bool:
    """Emit scaled dot-product attention."""
    problem = _problem(code, ("q", "k", "v", "mask"), "kv")
    if problem.dtype not in FLOATS:
        return False
    shape, target = tile(code.host, problem.dtype), _result(code)
    memory = _Scratch(problem, shape)
    queries, scores, factors = memory.rows(problem.width), memory.rows(problem.keys), memory.rows(1)
    result = memory.rows(problem.value_width)
    seen = memory.rows(problem.keys + shape.lanes, "bool") if "mask" in problem.operands else None
    code.note(_described(shape))
    blocks = ceil_div(problem.queries, shape.width)
    counts = (*problem.batch, blocks)
    frame = code.phase(product(counts), _cost(problem, 1), memory.nbytes)
    f = frame.f

    def unit(index: Sequence[Int]) -> None:
        *batch, number = index
        last = f.sub(f.sub(frame.size(blocks), 1), number)  # under a causal mask, the longest first
        block = _Block(frame, problem, batch, f.mul(last, shape.width), seen)
        block.turned("q", queries)
        block.met("k", queries, scores)
        block.store(factors, 0, block.shares(scores))
        block.weighed("v", scores, result)
        block.put(result, factors, frame.size(problem.value_width), target)

    units(frame, counts, unit)
    frame.done()
    if target.place == "workspace":
        regions.finish(code, 0)
    return True


class _Sums(NamedTuple):
    """Where sums over all queries go: what results, or a part of it for each group of blocks.

    Attributes:
        array: with an axis before those of the result, for the groups.
        shape: of the result.
        target: where the result goes.
    """

    array: Strided
    shape: tuple[Dim, ...]
    target: Strided


def _sums(code: KernelCode, k: int, groups: int) -> _Sums:
    target, shape = regions.result(code, k), tuple([loop.extent for loop in code.kernel.results[k].loops])
    if groups == 1:
        return _Sums(target._replace(strides=(0, *target.strides)), shape, target)
    return _Sums(regions.in_workspace(code, (groups, *shape), target.dtype), shape, target)


def _groups(problem: Attention, blocks: Dim) -> int:
    """Into how many groups the blocks of each matrix are divided, so that there is work for many threads."""
    matrices = product(problem.batch)
    if not isinstance(matrices, int) or not isinstance(blocks, int):
        return 1
    return max(1, min(blocks, -(-UNITS // max(1, matrices))))


def gradient(code: KernelCode) -> bool:
    """Emit the gradient of attention."""
    problem = _problem(code, ("g", "q", "k", "v", "mask"), "gqkv")
    if problem.dtype not in FLOATS:
        return False
    shape = tile(code.host, problem.dtype)
    memory = _Scratch(problem, shape)
    queries, result = memory.rows(problem.width), memory.rows(problem.width)
    given = memory.rows(problem.value_width)
    scores, products = memory.rows(problem.keys), memory.rows(problem.keys)
    seen = memory.rows(problem.keys + shape.lanes, "bool") if "mask" in problem.operands else None
    code.note(_described(shape))
    blocks = ceil_div(problem.queries, shape.width)
    groups = _groups(problem, blocks)
    to_queries, sums = regions.result(code, 0), [_sums(code, k, groups) for k in (1, 2)]
    counts = (groups, *problem.batch)
    frame = code.phase(product(counts), _cost(problem, 3), memory.nbytes)
    f = frame.f

    def unit(index: Sequence[Int]) -> None:
        group, *batch = index
        ends = [(frame.at(x.array, [*index, 0, 0]), frame.size(x.array.strides[-2])) for x in sums]
        for (at, row), x in zip(ends, sums, strict=True):
            _clear(frame, shape, problem.dtype, at, f.mul(row, frame.size(x.shape[-2])))

        def block(number: Value, _: list[Value]) -> None:
            block = _Block(frame, problem, batch, f.mul(number, shape.width), seen)
            block.turned("q", queries)
            block.turned("g", given)
            block.met("k", queries, scores)
            block.met("v", given, products)
            block.cotangents(scores, block.shares(scores), products)
            block.weighed("k", products, result)
            block.put(result, None, frame.size(problem.width), to_queries)
            block.spread(products, "q", ends[0])
            block.spread(scores, "g", ends[1])

        f.loop(group, frame.size(blocks), groups, block)

    units(frame, counts, unit)
    frame.done()
    for x in sums:
        _join(code, x, groups, shape)
    for k in range(3):
        regions.finish(code, k)
    return True


def _clear(frame: Frame, shape: Tile, dtype: str, at: Value, count: Int) -> None:
    """Make elements zero."""
    f, zero = frame.f, constant(vector(MEMORY_TYPE[dtype], shape.lanes), 0)

    def clear(i: Int, mask: Value | None) -> None:
        f.store(zero, f.address(at, i, MEMORY_TYPE[dtype]), itemsize(dtype), mask)

    columns(f, count, shape.lanes, clear)


def _join(code: KernelCode, sums: _Sums, groups: int, shape: Tile) -> None:
    """Emit a phase that adds up the sums of the groups, if there are several."""
    if groups == 1:
        return
    dtype, count = sums.target.dtype, product(sums.shape)
    frame = code.phase(ceil_div(count, JOINED), count * groups // 16 + 1)
    f, element = frame.f, MEMORY_TYPE[dtype]

    def unit(index: Sequence[Int]) -> None:
        low = f.mul(index[0], JOINED)

        def add(i: Int, mask: Value | None) -> None:
            at = f.add(low, i)
            ends = [f.add(f.mul(group, frame.size(count)), at) for group in range(groups)]
            type, base = vector(element, shape.lanes), frame.at(sums.array)
            parts = [f.load(type, f.address(base, end, element), itemsize(dtype), mask) for end in ends]
            total = reduce(partial(f.binary, "fadd"), parts)
            f.store(total, f.address(frame.at(sums.target), at, element), itemsize(dtype), mask)

        columns(f, f.min(JOINED, f.sub(frame.size(count), low)), shape.lanes, add)

    units(frame, [ceil_div(count, JOINED)], unit)
    frame.done()


CORES: Mapping[Op, Callable[[KernelCode], bool]] = {attention_op: attention, attention_grad: gradient}
