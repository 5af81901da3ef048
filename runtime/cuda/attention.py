"""Attention as one kernel: the scores of a block of queries are never in memory.

Blocks of queries walk over the keys tile by tile, with the greatest score and the sum of each row so far, by which what
has been summed is rescaled when a greater one comes (M. Milakov and N. Gimelshein, "Online normalizer calculation for
softmax", 2018; T. Dao et al., "FlashAttention", 2022). Under a causal mask, tiles that no query sees are left out, so
that an inf or nan among their values shows in no result.

Scores are computed by tiles like any product (see `tiles`): on tensor cores from halves, and from float32 if that may
be rounded. Queries whose elements are too many for shared memory, and float64, are done one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from graphc.dims import Dim, ceil_div, product
from graphc.op import Op
from graphc.ops.nn import attention_op
from graphc.runtime import attention as attention_sizes
from graphc.runtime.cuda import lanes, tiles
from graphc.runtime.cuda.grids import THREADS, unravelled
from graphc.runtime.cuda.launches import CudaCode, Frame
from graphc.runtime.cuda.scalars import loaded, number, rounded
from graphc.runtime.cuda.tiles import Tile, kind_of, sum_type
from graphc.runtime.strided import Strided, itemsize
from graphc.types import is_float

SHARED_BYTES = 48 << 10  # of a block, without asking for more
MOST_SUMS = 128  # of a thread, so that they stay in registers

EXPONENTIAL = """
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
"""

PANELS = r"""
// Lines of an operand as words, [DEPTH][LINES + PAD]; at(line, k) gives an element, 0 outside.
template <class Tile, int DEPTH, int LINES, bool ALONG, class At>
__device__ void fill(typename Tile::Word* to, const At& at) {
    for (int e = threadIdx.x; e < DEPTH * LINES; e += Tile::THREADS) {
        const int line = ALONG ? e / DEPTH : e % LINES, depth = ALONG ? e % DEPTH : e / LINES;
        typename Tile::Element x[Tile::PACKED];
#pragma unroll
        for (int k = 0; k < Tile::PACKED; k++) x[k] = at(line, depth * Tile::PACKED + k);
        to[depth * (LINES + Tile::PAD) + line] = Tile::word(x);
    }
}

template <class Tile>
__device__ void clear(Tile& tile) {
#pragma unroll
    for (int s = 0; s < Tile::ROUNDS * Tile::EACH; s++) tile.sums[s] = 0;
}

// visit(row, column, sum) for each sum of a thread.
template <class Tile, class Visit>
__device__ void each_sum(Tile& tile, const Visit& visit) {
    const int t = threadIdx.x;
#pragma unroll
    for (int round = 0; round < Tile::ROUNDS; round++)
#pragma unroll
        for (int s = 0; s < Tile::EACH; s++)
            visit(Tile::row(round, Tile::slot(t, s)), Tile::column(t, s), tile.sums[round * Tile::EACH + s]);
}
"""

# Score: a tile of scores, and Value: of results, have the same rows, the queries of the block, and threads.
# query(i, e), key(j, e) and value(j, v) give elements; score(i, j, sum) makes a score of a product, or -inf; out(i, v,
# sum) takes a result, seen(i, base, divisor) what makes a share of a score: exp(score - base) / divisor.
ATTEND = r"""
template <class Score, class Value, int WIDTH>
struct alignas(32) Attending {
    typedef typename Score::Word Word;
    static constexpr int KEYS = Score::COLUMNS / Score::PACKED, PAD = Score::PAD;
    static constexpr int FOR_SCORES = WIDTH * (Score::COLUMNS + PAD), FOR_VALUES = KEYS * (Value::COLUMNS + PAD);
    Word queries[WIDTH * (Score::ROWS + PAD)];
    Word others[FOR_SCORES > FOR_VALUES ? FOR_SCORES : FOR_VALUES];
    Word shares[KEYS * (Score::ROWS + PAD)];
    float scores[Score::ROWS * (Score::COLUMNS + 1)];
    float factors[Score::ROWS];
};

template <class Score, class Value, int WIDTH, bool MASKED, class Q, class K, class V, class S, class Out, class Seen>
__device__ void attend(
    const Q& query, const K& key, const V& value, const S& score, Index keys, const Out& out, const Seen& seen) {
    typedef Attending<Score, Value, WIDTH> Memory;
    __shared__ Memory memory;
    constexpr int ROWS = Score::ROWS, TEAM = Score::THREADS / ROWS, WIDE = Score::COLUMNS + 1;
    const int row = threadIdx.x / TEAM, member = threadIdx.x % TEAM;
    const float none = lowest<float>();
    float top = none, total = 0;
    Score scores;
    Value values;
    clear(values);
    fill<Score, WIDTH, ROWS, true>(memory.queries, query);
    for (Index k0 = 0; k0 < keys; k0 += Score::COLUMNS) {
        fill<Score, WIDTH, Score::COLUMNS, true>(memory.others, [&](int j, int e) { return key(k0 + j, e); });
        __syncthreads();
        clear(scores);
        scores.template multiply<WIDTH>(memory.queries, memory.others);
        each_sum(scores, [&](int i, int j, float sum) {
            memory.scores[i * WIDE + j] = score(i, k0 + j, sum);
        });
        __syncthreads();
        float most = top, sum = 0;
        for (int j = member; j < Score::COLUMNS; j += TEAM) most = maximum(most, memory.scores[row * WIDE + j]);
        most = joined_lanes<Greatest<float>, TEAM>(most);
        const float base = most == none ? 0.0f : most;
        for (int w = member; w < Memory::KEYS; w += TEAM) {
            float x[Score::PACKED];
#pragma unroll
            for (int k = 0; k < Score::PACKED; k++) {
                x[k] = expf(memory.scores[row * WIDE + w * Score::PACKED + k] - base);
                sum += x[k];
            }
            memory.shares[w * (ROWS + Score::PAD) + row] = Score::word(x);
        }
        const float factor = expf(top - base);
        total = total * factor + joined_lanes<Sum<float>, TEAM>(sum);
        top = most;
        if (member == 0) memory.factors[row] = factor;
        fill<Value, Memory::KEYS, Value::COLUMNS, false>(memory.others, [&](int v, int j) { return value(k0 + j, v); });
        __syncthreads();
        each_sum(values, [&](int i, int, float& sum) { sum *= memory.factors[i]; });
        values.template multiply<Memory::KEYS>(memory.shares, memory.others);
        __syncthreads();
    }
    if (member == 0) {
        memory.factors[row] = MASKED ? maximum(total, 1.0f) : total;
        seen(row, top == none ? 0.0f : top, memory.factors[row]);
    }
    __syncthreads();
    each_sum(values, [&](int i, int v, float sum) { out(i, v, sum / memory.factors[i]); });
}
"""

# The same of one query by a block, in any precision; `row` is memory for its scores.
ATTEND_ALONE = r"""
template <typename T, bool MASKED, int THREADS, class P, class V, class S, class Out, class Seen>
__device__ void attend_alone(T* row, const P& product, const V& value, const S& score, Index keys, Index width,
                             const Out& out, const Seen& seen) {
    T top = lowest<T>(), total = 0;
    for (Index j = threadIdx.x; j < keys; j += THREADS) {
        row[j] = score(j, product(j));
        top = maximum(top, row[j]);
    }
    top = joined<Greatest<T>, THREADS, THREADS>(top);
    const T base = top == lowest<T>() ? T(0) : top;
    for (Index j = threadIdx.x; j < keys; j += THREADS) {
        row[j] = exponential(row[j] - base);
        total += row[j];
    }
    total = joined<Sum<T>, THREADS, THREADS>(total);
    const T divisor = MASKED ? maximum(total, T(1)) : total;
    if (threadIdx.x == 0) seen(base, divisor);
    __syncthreads();
    for (Index v = threadIdx.x; v < width; v += THREADS) {
        T sum = 0;
        for (Index j = 0; j < keys; j++) sum = fused_sum(row[j], value(j, v), sum);
        out(v, sum / divisor);
    }
}
"""


class Attention(attention_sizes.Attention):
    """What a kernel computes, and how this target does."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """In which scores are computed."""
        return sum_type(self.dtype)

    @property
    def is_masked(self) -> str:
        """Whether a query may see no key at all, in C."""
        return str("mask" in self.operands).lower()


def described(code: CudaCode, names: Sequence[str]) -> Attention:
    """The attention that a kernel with operands of these names computes."""
    core = code.kernel.core
    assert core is not None
    arrays = [lanes.operand(code, k) for k in range(len(core.inputs))]
    return Attention(*attention_sizes.described(core, names, arrays))


Out = Callable[[Frame, Sequence[str], str], None]  # emits what is done with a number at batch, row and column
Seen = Callable[[Frame, Sequence[str], str, str], None]  # and with what makes shares of scores, at batch and query


def is_of_floats(code: CudaCode, operands: int) -> bool:
    """Whether the first operands are floats of one dtype, as the public function makes them."""
    core = code.kernel.core
    assert core is not None
    dtypes = {node.dtype for node in core.inputs[:operands]}
    return len(dtypes) == 1 and is_float(*dtypes)


def attention(code: CudaCode) -> bool:
    """Emit scaled dot-product attention."""
    if not is_of_floats(code, 3):
        return False
    problem = described(code, ("q", "k", "v", "mask"))

    def out(frame: Frame, index: Sequence[str], sum: str) -> None:
        lanes.finish_at(frame, 0, index, rounded(problem.dtype, sum))

    attend(code, problem, out, lambda *_: None)
    return True


def attend(code: CudaCode, problem: Attention, out: Out, seen: Seen) -> None:
    """Emit a launch that computes attention.

    Args:
        out: is given the results.
        seen: is given, for each query, what its greatest score is and what the exponentials are divided by.
    """
    code.declare(tiles.SUMS.strip())
    blocks = blocks_of(kind_of(problem.dtype, code.precision), problem)
    if blocks is None:
        _alone(code, problem, out, seen)
    else:
        _by_blocks(code, problem, blocks, out, seen)


class Blocks(NamedTuple):
    """How a block of threads divides its work.

    Attributes:
        score, value: tiles of scores and of results.
        words: of a query.
    """

    score: Tile
    value: Tile
    words: int


def blocks_of(kind: str, problem: Attention) -> Blocks | None:
    """The largest blocks for which shared memory suffices; None if there are none."""
    width, value_width = problem.width, problem.value_width
    if problem.dtype == "float64" or not isinstance(width, int) or not isinstance(value_width, int):
        return None
    packed, pad = (2 if kind.startswith("Pair") else 1), (8 if kind else 4)
    words = max(1, -(-width // (8 * packed))) * 8
    columns = max(1, -(-value_width // 32)) * 32
    for rows, keys in ((64, 64), (64, 32), (32, 32), (32, 16)):
        if kind:
            score, value = Tile(rows, keys, 1, keys // 8, words, kind), Tile(rows, columns, 1, columns // 8, 8, kind)
        else:
            wide = -(-columns // keys) * 4  # of a thread, in squares
            score, value = Tile(rows, keys, 4, 4, words), Tile(rows, wide * keys // 4, 4, wide, 8)
        others = max(words * (keys + pad), keys // packed * (value.columns + pad))
        nbytes = 4 * (words * (rows + pad) + others + keys // packed * (rows + pad) + rows * (keys + 2))
        fits = nbytes <= SHARED_BYTES and value.rows * value.columns // value.threads <= MOST_SUMS
        if fits and score.threads == value.threads and score.threads // rows <= 32:
            return Blocks(score, value, words)
    return None


def _by_blocks(code: CudaCode, problem: Attention, blocks: Blocks, out: Out, seen: Seen) -> None:
    """A launch with a block for some queries of each matrix of the batch."""
    score, value = blocks.score, blocks.value
    declare_panels(code, score)
    code.declare(ATTEND.strip())
    code.span(problem.keys + score.columns)
    code.note(f"attention, {score.rows} queries by {score.columns} keys" + (f" ({score.kind})" if score.kind else ""))
    boxes = [*problem.batch, ceil_div(problem.queries, score.rows)]
    frame = code.launch(product(boxes), score.threads)
    *batch, block = unravelled(frame, "(Index)blockIdx.x", boxes)
    first = frame.value("Index", f"{block} * {score.rows}", "first")
    queries, keys = frame.size(problem.queries), frame.size(problem.keys)
    row = f"({first} + i)"
    fetching(frame, problem, batch, "q", ("int i", "int e"), (row, "e"))
    fetching(frame, problem, batch, "k", ("Index j", "int e"), ("j", "e"))
    fetching(frame, problem, batch, "v", ("Index j", "int v"), ("j", "v"))
    scoring(frame, problem, batch, ("int i", "Index j"), (row, "j"))
    with frame.block("const auto out = [&](int i, int v, float sum)", "};"):
        frame.line(f"if ({row} >= {queries} || v >= {frame.size(problem.value_width)}) return;")
        out(frame, [*batch, row, "v"], "sum")
    with frame.block("const auto seen = [&](int i, float base, float divisor)", "};"):
        frame.line(f"if ({row} >= {queries}) return;")
        seen(frame, [*batch, row], "base", "divisor")
    end = f"least<Index>({keys}, {first} + {score.rows})" if problem.is_causal else keys
    types = f"{score.type(problem.dtype)}, {value.type(problem.dtype)}, {blocks.words}, {problem.is_masked}"
    frame.line(f"attend<{types}>(q, k, v, score, {end}, out, seen);")


def _alone(code: CudaCode, problem: Attention, out: Out, seen: Seen) -> None:
    """A launch with a block for each query."""
    code.declare(EXPONENTIAL.strip())
    code.declare(ATTEND_ALONE.strip())
    code.note("attention, a block for each query")
    count = product(problem.batch) * problem.queries
    row = row_of(code, problem, count, problem.keys)
    frame = code.launch(count, THREADS)
    *batch, i = unravelled(frame, "(Index)blockIdx.x", [*problem.batch, problem.queries])
    fetching(frame, problem, batch, "q", ("Index e",), (i, "e"))
    fetching(frame, problem, batch, "k", ("Index j", "Index e"), ("j", "e"))
    fetching(frame, problem, batch, "v", ("Index j", "Index v"), ("j", "v"))
    scoring(frame, problem, batch, ("Index j",), (i, "j"))
    dotted(frame, problem, "product", "q(e)", "k(j, e)", problem.width)
    with frame.block(f"const auto out = [&](Index v, {problem.type} sum)", "};"):
        out(frame, [*batch, i, "v"], "sum")
    with frame.block(f"const auto seen = [&]({problem.type} base, {problem.type} divisor)", "};"):
        seen(frame, [*batch, i], "base", "divisor")
    keys, width = map(frame.size, (problem.keys, problem.value_width))
    call = f"attend_alone<{problem.type}, {problem.is_masked}, {THREADS}>"
    frame.line(f"{call}(&{frame.at(row, ['(Index)blockIdx.x'])}, product, v, score, {keys}, {width}, out, seen);")


# --------------------------------------------------------------------------------------------- shared with gradients


def declare_panels(code: CudaCode, score: Tile) -> None:
    """Add what tiles of scores need."""
    for text in (tiles.CORES, tiles.KINDS[score.kind]) if score.kind else (tiles.PLAIN,):
        code.declare(text.strip())
    code.declare(PANELS.strip())


def row_of(code: CudaCode, problem: Attention, rows: Dim, size: Dim) -> Strided:
    """New memory for numbers as they are computed, so many rows of them."""
    dtype = "float64" if problem.dtype == "float64" else "float32"
    return Strided("workspace", code.workspace(rows * size * itemsize(dtype)), 0, (size,), dtype)


def dotted(frame: Frame, problem: Attention, name: str, left: str, right: str, size: Dim) -> None:
    """Emit a function of j that gives the product of two rows, whose elements at `e` these expressions are."""
    with frame.block(f"const auto {name} = [&](Index j) -> {problem.type}", "};"):
        frame.line(f"{problem.type} sum = 0;")
        frame.line(f"for (Index e = 0; e < {frame.size(size)}; e++) sum = fused_sum({left}, {right}, sum);")
        frame.line("return sum;")


def fetching(
    frame: Frame,
    problem: Attention,
    batch: Sequence[str],
    operand: str,
    parameters: Sequence[str],
    index: Sequence[str],
) -> None:
    """Emit a function, named like the operand, that gives an element at a place of its matrix; 0 outside of that."""
    with frame.block(f"const auto {operand} = [&]({', '.join(parameters)}) -> {problem.type}", "};"):
        pairs = zip(index, problem.extents(operand), strict=True)
        frame.line(f"if ({' || '.join(f'{i} >= {frame.size(extent)}' for i, extent in pairs)}) return 0;")
        frame.line(f"return {loaded(problem.dtype, frame.at(problem.operands[operand], [*batch, *index]))};")


def scoring(
    frame: Frame, problem: Attention, batch: Sequence[str], parameters: Sequence[str], index: Sequence[str]
) -> None:
    """Emit the function that makes a score of a product of query i and key j: scaled, masked, -inf if it isn't seen."""
    i, j = index
    with frame.block(f"const auto score = [&]({', '.join(parameters)}, {problem.type} sum) -> {problem.type}", "};"):
        none = f"lowest<{problem.type}>()"
        frame.line(f"if ({i} >= {frame.size(problem.queries)} || {j} >= {frame.size(problem.keys)}) return {none};")
        if problem.is_causal:
            frame.line(f"if ({i} < {j}) return {none};")
        frame.line(f"sum *= {scale_of(problem)};")
        if "mask" in problem.operands:
            mask = problem.operands["mask"]
            at = loaded(mask.dtype, frame.at(mask, [*batch, i, j]))
            frame.line(f"return {at} ? sum : {none};" if mask.dtype == "bool" else f"return sum + {at};")
        else:
            frame.line("return sum;")


def scale_of(problem: Attention) -> str:
    """What scores are multiplied by, as a number in C."""
    return number(problem.scale, "float64" if problem.dtype == "float64" else "float32")


CORES: Mapping[Op, Callable[[CudaCode], bool]] = {attention_op: attention}
