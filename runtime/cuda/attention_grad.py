"""The gradient of attention, without its shares in memory: they are computed anew, tile by tile, from each query's
greatest score and sum of exponentials (T. Dao et al., "FlashAttention", 2022, appendix B.4).

Four launches: attention once more, for these two numbers and its results; `drift`, the sum over each query's keys of
share times its cotangent, which is the product of a result and its cotangent; the gradients of keys and values, by
blocks of keys that walk over the queries; and that of the queries, by blocks of queries that walk over the keys. No
block adds to what another computes, so sums have one order. Where an operand is broadcast, as keys are to the heads of
a group, each of its copies gets a gradient in workspace, and one launch more sums these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from graphc.dims import ceil_div, product
from graphc.op import Op
from graphc.ops.nn import attention_grad
from graphc.passes.index_maps import row_major
from graphc.runtime.cuda import lanes
from graphc.runtime.cuda.attention import (
    EXPONENTIAL,
    MOST_SUMS,
    SHARED_BYTES,
    Attention,
    attend,
    declare_panels,
    described,
    dotted,
    fetching,
    is_of_floats,
    row_of,
    scale_of,
    scoring,
)
from graphc.runtime.cuda.grids import THREADS, each_point, unravelled
from graphc.runtime.cuda.launches import CudaCode, Frame
from graphc.runtime.cuda.scalars import rounded
from graphc.runtime.cuda.tiles import Tile, kind_of
from graphc.runtime.strided import Strided

WARP = 32

# Each line i meets each line j of the others by two products: of first(i, e) and met_first(j, e), a score's, and of
# second(i, v) and met_second(j, v), the cotangent of its share. weigh(i, j, a, b) makes a share, and the cotangent of
# the score's product, of the two. Summed over j, they weigh the lines that are met: out_first(i, e, sum) takes sums of
# b times met_first(j, e), and if BOTH, out_second(i, v, sum) those of a times met_second(j, v).
GRADIENTS = r"""
template <class Pair, class First, class Second, int WIDTH, int VALUE_WIDTH>
struct alignas(32) Meeting {
    typedef typename Pair::Word Word;
    static constexpr int MET = Pair::COLUMNS / Pair::PACKED, PAD = Pair::PAD;
    static constexpr int WORDS = WIDTH > VALUE_WIDTH ? WIDTH : VALUE_WIDTH;
    static constexpr int LINES = First::COLUMNS > Second::COLUMNS ? First::COLUMNS : Second::COLUMNS;
    static constexpr int MEETING = WORDS * (Pair::COLUMNS + PAD), SUMMED = MET * (LINES + PAD);
    Word first[WIDTH * (Pair::ROWS + PAD)];
    Word second[VALUE_WIDTH * (Pair::ROWS + PAD)];
    Word met[MEETING > SUMMED ? MEETING : SUMMED];
    Word weights[MET * (Pair::ROWS + PAD)];
};

template <class Tile>
__device__ void stash(const Tile& tile, typename Tile::Word* to) {
    const int t = threadIdx.x;
#pragma unroll
    for (int round = 0; round < Tile::ROUNDS; round++)
#pragma unroll
        for (int s = 0; s < Tile::EACH; s += Tile::PACKED)
            to[Tile::column(t, s) / Tile::PACKED * (Tile::ROWS + Tile::PAD) + Tile::row(round, Tile::slot(t, s))] =
                Tile::word(tile.sums + round * Tile::EACH + s);
}

template <class Pair, class First, class Second, int WIDTH, int VALUE_WIDTH, bool BOTH, class L1, class L2, class M1,
          class M2, class W, class O1, class O2>
__device__ void meet(const L1& first, const L2& second, const M1& met_first, const M2& met_second, const W& weigh,
                     Index begin, Index end, const O1& out_first, const O2& out_second) {
    typedef Meeting<Pair, First, Second, WIDTH, VALUE_WIDTH> Memory;
    __shared__ Memory memory;
    const int t = threadIdx.x;
    Pair a, b;
    First firsts;
    Second seconds;
    clear(firsts);
    clear(seconds);
    fill<Pair, WIDTH, Pair::ROWS, true>(memory.first, first);
    fill<Pair, VALUE_WIDTH, Pair::ROWS, true>(memory.second, second);
    for (Index j0 = begin; j0 < end; j0 += Pair::COLUMNS) {
        fill<Pair, WIDTH, Pair::COLUMNS, true>(memory.met, [&](int j, int e) { return met_first(j0 + j, e); });
        __syncthreads();
        clear(a);
        a.template multiply<WIDTH>(memory.first, memory.met);
        __syncthreads();
        fill<Pair, VALUE_WIDTH, Pair::COLUMNS, true>(memory.met, [&](int j, int v) { return met_second(j0 + j, v); });
        __syncthreads();
        clear(b);
        b.template multiply<VALUE_WIDTH>(memory.second, memory.met);
#pragma unroll
        for (int n = 0; n < Pair::ROUNDS * Pair::EACH; n++) {
            const int s = n % Pair::EACH, i = Pair::row(n / Pair::EACH, Pair::slot(t, s));
            weigh(i, j0 + Pair::column(t, s), a.sums[n], b.sums[n]);
        }
        if constexpr (BOTH) {
            stash(a, memory.weights);
            __syncthreads();
            fill<Second, Memory::MET, Second::COLUMNS, false>(
                memory.met, [&](int v, int j) { return met_second(j0 + j, v); });
            __syncthreads();
            seconds.template multiply<Memory::MET>(memory.weights, memory.met);
        }
        __syncthreads();
        stash(b, memory.weights);
        fill<First, Memory::MET, First::COLUMNS, false>(memory.met, [&](int e, int j) { return met_first(j0 + j, e); });
        __syncthreads();
        firsts.template multiply<Memory::MET>(memory.weights, memory.met);
        __syncthreads();
    }
    each_sum(firsts, out_first);
    if constexpr (BOTH) each_sum(seconds, out_second);
}
"""

# The same of one line by a block; `weights` is memory for two numbers of each line that it meets.
GRADIENTS_ALONE = r"""
template <typename T, bool BOTH, int THREADS, class P1, class P2, class M1, class M2, class W, class O1, class O2>
__device__ void meet_alone(T* weights, const P1& first, const P2& second, const M1& met_first, const M2& met_second,
                           const W& weigh, Index end, Index width, Index value_width, const O1& out_first,
                           const O2& out_second) {
    for (Index j = threadIdx.x; j < end; j += THREADS) {
        weights[j] = first(j);
        weights[end + j] = second(j);
        weigh(j, weights[j], weights[end + j]);
    }
    __syncthreads();
    for (Index e = threadIdx.x; e < width; e += THREADS) {
        T sum = 0;
        for (Index j = 0; j < end; j++) sum = fused_sum(weights[end + j], met_first(j, e), sum);
        out_first(e, sum);
    }
    for (Index v = threadIdx.x; BOTH && v < value_width; v += THREADS) {
        T sum = 0;
        for (Index j = 0; j < end; j++) sum = fused_sum(weights[j], met_second(j, v), sum);
        out_second(v, sum);
    }
}
"""


class Queries(NamedTuple):
    """What is known of each query: its greatest score, the reciprocal of the sum of exponentials, and its drift."""

    base: Strided
    share: Strided
    drift: Strided


class Side(NamedTuple):
    """Which lines are walked over, and which results they give.

    Attributes:
        first, second: the operands of the lines themselves; `met` those of the lines that they meet.
        results: of the core, the gradients of `first` and of `second`; the second may be None.
    """

    first: str
    second: str
    met: tuple[str, str]
    results: tuple[int, int | None]


BY_KEY, BY_QUERY = Side("k", "v", ("q", "g"), (1, 2)), Side("q", "g", ("k", "v"), (0, None))


def gradient(code: CudaCode) -> bool:
    """Emit the gradient of attention of floats."""
    if not is_of_floats(code, 4):
        return False
    problem = described(code, ("g", "q", "k", "v", "mask"))
    code.declare(EXPONENTIAL.strip())
    queries = _queries(code, problem)
    for side in (BY_KEY, BY_QUERY):
        wanted = [k for k in side.results if k is not None and code.kernel.results[k].stores]
        if not wanted:
            continue
        copies = {k: _copies(code, problem, k) for k in wanted if _copied_axes(code, problem, k)}
        pair = _pair_of(kind_of(problem.dtype, code.precision), problem)
        if pair is None:
            _alone(code, problem, queries, side, copies)
        else:
            _by_blocks(code, problem, queries, side, pair, copies)
        for k, array in copies.items():
            _sum_copies(code, problem, k, array)
    return True


def _copied_axes(code: CudaCode, problem: Attention, result: int) -> list[int]:
    """The axes of the batch along which an operand is broadcast."""
    core = code.kernel.core
    assert core is not None
    *own, _, _ = core.inputs[1 + result].shape
    aligned = [1] * (len(problem.batch) - len(own)) + own
    return [axis for axis, sizes in enumerate(zip(aligned, problem.batch, strict=True)) if sizes[0] != sizes[1]]


def _copies(code: CudaCode, problem: Attention, result: int) -> Strided:
    """New memory for the gradient of each copy of an operand."""
    shape = (*problem.batch, *problem.extents("qkv"[result]))
    return row_of(code, problem, product(shape[:-1]), shape[-1])._replace(strides=row_major(shape))


def _sum_copies(code: CudaCode, problem: Attention, result: int, copies: Strided) -> None:
    """Emit the sum of the gradients of an operand's copies, and what follows."""
    axes = _copied_axes(code, problem, result)
    boxes = [problem.batch[axis] for axis in axes]
    code.note("gradients of copies summed")
    extents = [loop.extent for loop in code.kernel.results[result].loops]
    with each_point(code, extents) as (frame, index):
        *own, line, at = index
        batch = ["0"] * (len(problem.batch) - len(own)) + own
        frame.line(f"{problem.type} sum = 0;")
        with frame.block(f"for (Index copy = 0; copy < {frame.size(product(boxes))}; copy++)"):
            for axis, i in zip(axes, unravelled(frame, "copy", boxes), strict=True):
                batch[axis] = i
            frame.line(f"sum += {frame.at(copies, [*batch, line, at])};")
        lanes.finish_at(frame, result, index, rounded(problem.dtype, "sum"))


def _queries(code: CudaCode, problem: Attention) -> Queries:
    """Emit what finds out what the gradients need of each query."""
    rows = product(problem.batch) * problem.queries
    strides = row_major((*problem.batch, problem.queries))
    queries = Queries(*[row_of(code, problem, rows, 1)._replace(strides=strides) for _ in Queries._fields])
    shape = (*problem.batch, problem.queries, problem.value_width)
    result = row_of(code, problem, rows, problem.value_width)._replace(strides=row_major(shape))

    def out(frame: Frame, index: Sequence[str], sum: str) -> None:
        frame.line(f"{frame.at(result, index)} = {sum};")

    def seen(frame: Frame, index: Sequence[str], base: str, divisor: str) -> None:
        frame.line(f"{frame.at(queries.base, index)} = {base};")
        frame.line(f"{frame.at(queries.share, index)} = 1 / {divisor};")

    attend(code, problem, out, seen)
    frame = code.launch(ceil_div(rows, THREADS // WARP), THREADS)
    row = frame.value("Index", f"(Index)blockIdx.x * {THREADS // WARP} + threadIdx.x / {WARP}", "row")
    *batch, i = unravelled(frame, row, (*problem.batch, problem.queries))
    fetching(frame, problem, batch, "g", ("Index i", "Index v"), ("i", "v"))
    frame.line(f"{problem.type} sum = 0;")
    inside = f"{row} < {frame.size(rows)}"
    width = frame.size(problem.value_width)
    with frame.block(f"for (Index v = threadIdx.x % {WARP}; {inside} && v < {width}; v += {WARP})"):
        frame.line(f"sum = fused_sum(g({i}, v), {frame.at(result, [*batch, i, 'v'])}, sum);")
    frame.line(f"sum = joined_lanes<Sum<{problem.type}>, {WARP}>(sum);")
    frame.line(f"if (threadIdx.x % {WARP} == 0 && {inside}) {frame.at(queries.drift, [*batch, i])} = sum;")
    return queries


class Pair(NamedTuple):
    """How a block of threads divides its work: tiles of pairs of lines, and of the two results; words of lines."""

    pair: Tile
    first: Tile
    second: Tile
    words: int
    value_words: int


def _pair_of(kind: str, problem: Attention) -> Pair | None:
    """The largest tiles for which shared memory suffices; None if there are none."""
    widths = problem.width, problem.value_width
    if problem.dtype == "float64" or not all(isinstance(width, int) for width in widths):
        return None
    packed, pad = (2 if kind.startswith("Pair") else 1), (8 if kind else 4)
    width, value_width = map(int, widths)
    words, value_words = (max(1, -(-size // (8 * packed))) * 8 for size in (width, value_width))
    for rows, met in ((64, 64), (64, 32), (32, 32), (32, 16), (16, 32)):
        tall, step = (1, 8) if kind else (4, met // 4 * 4)
        pair = Tile(rows, met, tall, met // 8 if kind else 4, words, kind)
        sizes = [max(1, -(-size // max(32, step))) * max(32, step) for size in (width, value_width)]
        first, second = (Tile(rows, n, tall, n // 8 if kind else n * 4 // met, met // packed, kind) for n in sizes)
        between = max(max(words, value_words) * (met + pad), met // packed * (max(sizes) + pad))
        nbytes = 4 * ((words + value_words + met // packed) * (rows + pad) + between)
        held = (sum(sizes) + 2 * met) * rows // pair.threads
        if nbytes <= SHARED_BYTES and held <= MOST_SUMS * 3 // 2 and pair.threads % WARP == 0:
            return Pair(pair, first, second, words, value_words)
    return None


def _by_blocks(
    code: CudaCode, problem: Attention, queries: Queries, side: Side, pair: Pair, copies: Mapping[int, Strided]
) -> None:
    """A launch with a block for some lines of each matrix of the batch."""
    tile = pair.pair
    declare_panels(code, tile)
    code.declare(GRADIENTS.strip())
    lines, met = (problem.extents(name)[0] for name in (side.first, side.met[0]))
    code.span(met + tile.columns)
    code.note(f"gradients of attention, {tile.rows} by {tile.columns}" + (f" ({tile.kind})" if tile.kind else ""))
    boxes = [*problem.batch, ceil_div(lines, tile.rows)]
    frame = code.launch(product(boxes), tile.threads)
    *batch, block = unravelled(frame, "(Index)blockIdx.x", boxes)
    start = frame.value("Index", f"{block} * {tile.rows}", "start")
    for name in (side.first, side.second):
        fetching(frame, problem, batch, name, ("int i", "int e"), (f"({start} + i)", "e"))
    for name in side.met:
        fetching(frame, problem, batch, name, ("Index j", "int e"), ("j", "e"))
    by_key = side is BY_KEY
    query, key = ("j", f"({start} + i)") if by_key else (f"({start} + i)", "j")
    _weighing(frame, problem, queries, batch, ("int i", "Index j"), (query, key))
    for name, result in zip(("first", "second"), side.results, strict=True):
        array = copies.get(-1 if result is None else result)
        _taking(frame, problem, batch, f"out_{name}", result, array, ("int i", "int e"), (f"({start} + i)", "e"))
    begin, end = "0", frame.size(met)
    if problem.is_causal and by_key:
        begin = f"{start} / {tile.columns} * {tile.columns}"
    elif problem.is_causal:
        end = f"least<Index>({end}, {start} + {tile.rows})"
    types = [each.type(problem.dtype) for each in (tile, pair.first, pair.second)]
    words = (pair.words, pair.value_words)
    given = f"{side.first}, {side.second}, {', '.join(side.met)}, weigh, {begin}, {end}, out_first, out_second"
    frame.line(f"meet<{', '.join(types)}, {words[0]}, {words[1]}, {str(by_key).lower()}>({given});")


def _alone(code: CudaCode, problem: Attention, queries: Queries, side: Side, copies: Mapping[int, Strided]) -> None:
    """A launch with a block for each line."""
    code.declare(GRADIENTS_ALONE.strip())
    code.note("gradients of attention, a block for each line")
    lines, met = (problem.extents(name)[0] for name in (side.first, side.met[0]))
    count = product(problem.batch) * lines
    weights = row_of(code, problem, count, 2 * met)
    frame = code.launch(count, THREADS)
    *batch, i = unravelled(frame, "(Index)blockIdx.x", [*problem.batch, lines])
    for name in (side.first, side.second):
        fetching(frame, problem, batch, name, ("Index e",), (i, "e"))
    for name in side.met:
        fetching(frame, problem, batch, name, ("Index j", "Index e"), ("j", "e"))
    dotted(frame, problem, "first", f"{side.first}(e)", f"{side.met[0]}(j, e)", problem.width)
    dotted(frame, problem, "second", f"{side.second}(e)", f"{side.met[1]}(j, e)", problem.value_width)
    by_key = side is BY_KEY
    _weighing(frame, problem, queries, batch, ("Index j",), ("j", i) if by_key else (i, "j"))
    for name, result in zip(("first", "second"), side.results, strict=True):
        array = copies.get(-1 if result is None else result)
        _taking(frame, problem, batch, f"out_{name}", result, array, ("Index e",), (i, "e"))
    sizes = ", ".join(map(frame.size, (met, problem.width, problem.value_width)))
    given = f"first, second, {', '.join(side.met)}, weigh, {sizes}, out_first, out_second"
    call = f"meet_alone<{problem.type}, {str(by_key).lower()}, {THREADS}>"
    frame.line(f"{call}(&{frame.at(weights, ['(Index)blockIdx.x'])}, {given});")


def _weighing(
    frame: Frame,
    problem: Attention,
    queries: Queries,
    batch: Sequence[str],
    parameters: Sequence[str],
    index: Sequence[str],
) -> None:
    """Emit the function that makes a share of a score's product, and the cotangent of that of the share's."""
    i, _ = index
    scoring(frame, problem, batch, parameters, index)
    named = ", ".join(parameter.split()[-1] for parameter in parameters)
    pair = f"{problem.type}& share, {problem.type}& cotangent"
    with frame.block(f"const auto weigh = [&]({', '.join(parameters)}, {pair})", "};"):
        frame.line(f"const {problem.type} found = score({named}, share);")
        with frame.block(f"if (found == lowest<{problem.type}>())"):
            frame.line("share = cotangent = 0;")
            frame.line("return;")
        base, share, drift = (frame.at(array, [*batch, i]) for array in queries)
        frame.line(f"share = exponential(found - {base}) * {share};")
        frame.line(f"cotangent = share * (cotangent - {drift}) * {scale_of(problem)};")


def _taking(
    frame: Frame,
    problem: Attention,
    batch: Sequence[str],
    name: str,
    result: int | None,
    copies: Strided | None,
    parameters: Sequence[str],
    index: Sequence[str],
) -> None:
    """Emit the function that takes an element of a result, or of the gradient of a copy."""
    with frame.block(f"const auto {name} = [&]({', '.join(parameters)}, {problem.type} sum)", "};"):
        if result is not None:
            operand = "qkv"[result]
            pairs = zip(index, problem.extents(operand), strict=True)
            frame.line(f"if ({' || '.join(f'{i} >= {frame.size(extent)}' for i, extent in pairs)}) return;")
            if copies is None:
                lanes.finish_at(frame, result, [*batch, *index], rounded(problem.dtype, "sum"))
            else:
                frame.line(f"{frame.at(copies, [*batch, *index])} = sum;")


CORES: Mapping[Op, Callable[[CudaCode], bool]] = {attention_grad: gradient}
