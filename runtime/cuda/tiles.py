"""Tiles of sums of products, in CUDA C: what products of matrices, convolutions and attention are made of.

A block of threads computes a tile of the result. It walks along k in slabs: elements of both operands go to shared
memory, as `Word`s, laid out as [k][line], while the slab before is multiplied; by copies that need no registers where
words are what lies in memory (`RAW`). The sums of a thread stay in its registers, in a `Plain` tile, whose threads
multiply by themselves, or in a `Cores` tile, whose warps use tensor cores. In the end the tile goes through shared
memory once more, row by row, so that threads side by side give elements side by side.

What differs between users are functors: `line(i)` prepares line i of an operand, a row of A or a column of B,
`slab(line, k)` what is known of it in the slab from k on, `spot(k, d)` of a place along k, whatever the line, and
`in(slab, spot)` says where an element is, null outside; `ALONG` says that elements are rather side by side along k than
across lines, so a thread has words of several lines at one place. So many as `PACK` says are neighbours in memory, all
of them inside or none, and aligned for one access. `value(x)` is an element of memory as it is multiplied, and
`out(i, j, sum)` takes an element of the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from graphc.dims import Dim, ceil_div
from graphc.passes.sizes import guess
from graphc.runtime.cuda.launches import CudaCode, Precision
from graphc.runtime.cuda.scalars import HALVES
from graphc.runtime.strided import itemsize

SUMS = r"""
template <class T> __device__ __forceinline__ T fused_sum(T a, T b, T sum) { return a * b + sum; }
template <> __device__ __forceinline__ float fused_sum(float a, float b, float sum) { return fmaf(a, b, sum); }
template <> __device__ __forceinline__ double fused_sum(double a, double b, double sum) { return fma(a, b, sum); }
"""

PLAIN = r"""
// Each thread has TALL x WIDE sums, in squares of 4 x 4 that lie a thread's share apart.
template <class T, int ROWS_, int COLUMNS_, int TALL, int WIDE>
struct Plain {
    typedef T Element;
    typedef T Word;
    typedef T Sum;
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, PACKED = 1, PAD = 4;
    static constexpr bool RAW = true;
    static constexpr int DOWN = ROWS / TALL, ACROSS = COLUMNS / WIDE, THREADS = DOWN * ACROSS;
    static constexpr int ROUNDS = TALL, EACH = WIDE, SLOTS = DOWN;
    T sums[TALL * WIDE];

    static __device__ T word(const T* x) { return x[0]; }
    static __device__ int slot(int t, int) { return t / ACROSS; }
    static __device__ int row(int round, int slot) { return round / 4 * (DOWN * 4) + slot * 4 + round % 4; }
    static __device__ int column(int t, int s) { return s / 4 * (ACROSS * 4) + t % ACROSS * 4 + s % 4; }

    // a and b are [depth][ROWS + PAD] and [depth][COLUMNS + PAD].
    template <int DEPTH>
    __device__ void multiply(const T* a, const T* b) {
        const int t = threadIdx.x;
#pragma unroll 16
        for (int q = 0; q < DEPTH; q++) {
            T x[TALL], y[WIDE];
#pragma unroll
            for (int r = 0; r < TALL; r += 4) four(x + r, a + q * (ROWS + PAD) + row(r, t / ACROSS));
#pragma unroll
            for (int s = 0; s < WIDE; s += 4) four(y + s, b + q * (COLUMNS + PAD) + column(t, s));
#pragma unroll
            for (int r = 0; r < TALL; r++)
#pragma unroll
                for (int s = 0; s < WIDE; s++) sums[r * WIDE + s] = fused_sum(x[r], y[s], sums[r * WIDE + s]);
        }
    }

    static __device__ void four(T* to, const T* from) {
        const Pack<4, T> found = fetched<4>(from);
#pragma unroll
        for (int k = 0; k < 4; k++) to[k] = found.item[k];
    }
};
"""

# Tensor cores multiply 16 x 8 words of A by 8 x 8 words of B. A word is one tf32, or two halves that are neighbours
# along k. `fused` adds the products of a word to a sum; it serves where no instruction does, as before sm_80.
CORES = r"""
template <class Kind>
__device__ void multiply_by_shuffles(float* c, const u32* a, const u32* b) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int q = 0; q < 8; q++) {
        const u32 upper = __shfl_sync(0xffffffffu, a[q / 4 * 2], lane / 4 * 4 + q % 4);
        const u32 lower = __shfl_sync(0xffffffffu, a[q / 4 * 2 + 1], lane / 4 * 4 + q % 4);
#pragma unroll
        for (int s = 0; s < 2; s++) {
            const u32 right = __shfl_sync(0xffffffffu, b[q / 4], (lane % 4 * 2 + s) * 4 + q % 4);
            c[s] = Kind::fused(upper, right, c[s]);
            c[2 + s] = Kind::fused(lower, right, c[2 + s]);
        }
    }
}

// Each warp has TALL x WIDE products of 16 x 8. The two rows of a product that a thread has are neighbours in the tile,
// so one access brings both of its words, in the registers in which the instruction takes them.
template <class Kind, int ROWS_, int COLUMNS_, int TALL, int WIDE>
struct Cores {
    typedef float Element;
    typedef u32 Word;
    typedef float Sum;
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, PACKED = Kind::PACKED, PAD = 8;
    static constexpr bool RAW = false;
    static constexpr int DOWN = ROWS / (16 * TALL), ACROSS = COLUMNS / (8 * WIDE), THREADS = 32 * DOWN * ACROSS;
    static constexpr int ROUNDS = TALL, EACH = 4 * WIDE, SLOTS = 16 * DOWN;
    float sums[4 * TALL * WIDE];

    static __device__ u32 word(const float* x) { return Kind::word(x); }
    static __device__ int slot(int t, int s) { return t / 32 / ACROSS * 16 + t % 32 / 4 + s % 4 / 2 * 8; }
    static __device__ int row(int round, int slot) {
        return (slot / 16 * TALL + round) * 16 + slot % 8 * 2 + slot % 16 / 8;
    }
    static __device__ int column(int t, int s) {
        return (t / 32 % ACROSS * WIDE + s / 4) * 8 + t % 4 * 2 + s % 2;
    }

    template <int DEPTH>
    __device__ void multiply(const u32* a, const u32* b) {
        const int t = threadIdx.x, low = t % 4;
        const u32* x = a + low * (ROWS + PAD) + row(0, slot(t, 0));
        const u32* y = b + low * (COLUMNS + PAD) + t / 32 % ACROSS * WIDE * 8 + t % 32 / 4;
#pragma unroll 2
        for (int q = 0; q < DEPTH; q += 8) {
            u32 left[TALL][4], right[WIDE][2];
#pragma unroll
            for (int r = 0; r < TALL; r++)
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    const Pack<2, u32> pair = fetched<2>(x + (q + k * 4) * (ROWS + PAD) + r * 16);
                    left[r][k * 2] = pair.item[0];
                    left[r][k * 2 + 1] = pair.item[1];
                }
#pragma unroll
            for (int s = 0; s < WIDE; s++)
#pragma unroll
                for (int k = 0; k < 2; k++) right[s][k] = y[(q + k * 4) * (COLUMNS + PAD) + s * 8];
#pragma unroll
            for (int r = 0; r < TALL; r++)
#pragma unroll
                for (int s = 0; s < WIDE; s++) Kind::multiply(sums + (r * WIDE + s) * 4, left[r], right[s]);
        }
    }
};
"""

TF32 = r"""
struct Tf32 {
    static constexpr int PACKED = 1;
    static __device__ u32 word(const float* x) {
#if __CUDA_ARCH__ >= 800
        u32 bits;
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x[0]));
        return bits;
#else
        const u32 bits = bits_of(x[0]);
        return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
#endif
    }
    static __device__ float fused(u32 a, u32 b, float sum) { return fused_sum(float_of(a), float_of(b), sum); }
    static __device__ void multiply(float* c, const u32* a, const u32* b) {
#if __CUDA_ARCH__ >= 800
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
        multiply_by_shuffles<Tf32>(c, a, b);
#endif
    }
};
"""
HALF_KIND = r"""
struct KIND {
    static constexpr int PACKED = 2;
    static __device__ u32 word(const float* x) {
#if __CUDA_ARCH__ >= 800
        u32 bits;
        asm("cvt.rn.HALFx2.f32 %0, %1, %2;" : "=r"(bits) : "f"(x[1]), "f"(x[0]));
        return bits;
#else
        return (u32)narrowed<HALF>(x[0]).bits | (u32)narrowed<HALF>(x[1]).bits << 16;
#endif
    }
    static __device__ float fused(u32 a, u32 b, float sum) {
        const float low = fused_sum(widened(HALF{(u16)a}), widened(HALF{(u16)b}), sum);
        return fused_sum(widened(HALF{(u16)(a >> 16)}), widened(HALF{(u16)(b >> 16)}), low);
    }
    static __device__ void multiply(float* c, const u32* a, const u32* b) {
#if __CUDA_ARCH__ >= 800
        asm("mma.sync.aligned.m16n8k16.row.col.f32.HALF.HALF.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
        multiply_by_shuffles<KIND>(c, a, b);
#endif
    }
};
"""

KINDS: Mapping[str, str] = {
    "Tf32": TF32,
    **{f"Pair_{half}": HALF_KIND.replace("KIND", f"Pair_{half}").replace("HALF", half) for half in HALVES.values()},
}

WALK = r"""
template <bool ALONG_, int PACK_, class Line, class Place>
struct Lines {
    Line line;
    Place place;
    static constexpr bool ALONG = ALONG_;
    static constexpr int PACK = PACK_;
    template <class P> __device__ P slab(const P& p, Index) const { return p; }
    __device__ Index spot(Index k, int d) const { return k + d; }
    template <class P> __device__ auto in(const P& p, Index k) const { return place(p, k); }
};

// The same where places along k are prepared, too, whatever the line: `place` takes what `find` gives.
template <bool ALONG_, int PACK_, class Line, class Find, class Place>
struct Spotted {
    Line line;
    Find find;
    Place place;
    static constexpr bool ALONG = ALONG_;
    static constexpr int PACK = PACK_;
    template <class P> __device__ P slab(const P& p, Index) const { return p; }
    __device__ auto spot(Index k, int d) const { return find(k + d); }
    template <class P, class S> __device__ auto in(const P& p, const S& s) const { return place(p, s); }
};

// The same where slabs are prepared, too: `place` takes what `prepare` gives, and the place in the slab.
template <bool ALONG_, int PACK_, class Line, class Prepare, class Place>
struct Slabbed {
    Line line;
    Prepare prepare;
    Place place;
    static constexpr bool ALONG = ALONG_;
    static constexpr int PACK = PACK_;
    template <class P> __device__ auto slab(const P& p, Index k) const { return prepare(p, k); }
    __device__ int spot(Index, int d) const { return d; }
    template <class P> __device__ auto in(const P& p, int d) const { return place(p, d); }
};

template <bool ALONG, int PACK, class Line, class Place>
__device__ Lines<ALONG, PACK, Line, Place> lines(Line line, Place place) { return {line, place}; }

template <bool ALONG, int PACK, class Line, class Find, class Place>
__device__ Spotted<ALONG, PACK, Line, Find, Place> spotted(Line line, Find find, Place place) {
    return {line, find, place};
}

template <bool ALONG, int PACK, class Line, class Prepare, class Place>
__device__ Slabbed<ALONG, PACK, Line, Prepare, Place> slabbed(Line line, Prepare prepare, Place place) {
    return {line, prepare, place};
}

// What a thread carries of a slab of LINES x DEPTH words: COUNT units, of OWN lines. A unit is PACK neighbours: of HIGH
// lines, or DEEP words along k. Those that lie in memory as in the slab are copied asynchronously where a GPU can, from
// `begin` on; all others are in registers between `begin` and `end`.
template <class Tile, class Memory, class Given, int LINES, int DEPTH>
struct Share {
    typedef typename Tile::Word Word;
    typedef typename Tile::Element Element;
    static constexpr int PACK = Given::PACK, PACKED = Tile::PACKED, STRIDE = LINES + Tile::PAD;
    static constexpr bool IN_ONE = Given::ALONG && PACK > 1;
    static constexpr int HIGH = Given::ALONG ? 1 : PACK, DEEP = IN_ONE ? PACK / PACKED : 1;
    static constexpr int LOADS = IN_ONE ? 1 : PACKED, WORDS = HIGH * DEEP;
    static constexpr int GROUPS = LINES / HIGH, STEPS = DEPTH / DEEP, UNITS = GROUPS * STEPS;
    static constexpr int COUNT = UNITS > Tile::THREADS ? UNITS / Tile::THREADS : 1;
    static constexpr int PASS = Given::ALONG ? Tile::THREADS / STEPS : Tile::THREADS;
    static constexpr int OWN = Given::ALONG ? COUNT : GROUPS > Tile::THREADS ? GROUPS / Tile::THREADS : 1;
    static constexpr bool ASYNC = ASYNCHRONOUS && Tile::RAW && sizeof(Memory) == sizeof(Word) && !IN_ONE;
    typedef decltype(((Given*)nullptr)->line(Index(0))) Line;
    const Given& given;
    Line own[OWN];
    Word words[ASYNC ? 1 : COUNT * WORDS];

    static __device__ int line(int s) {
        const int t = threadIdx.x;
        return (Given::ALONG ? t / STEPS + s * PASS : GROUPS > PASS ? t + s * PASS : t % GROUPS) * HIGH;
    }
    static __device__ int depth(int s) {
        const int t = threadIdx.x;
        return (Given::ALONG ? t % STEPS : GROUPS > PASS ? s / OWN : t / GROUPS + s * (PASS / GROUPS)) * DEEP;
    }
    static __device__ Word* place(Word* slab, int s) { return slab + depth(s) * STRIDE + line(s % OWN); }
    static __device__ bool idle() { return UNITS < Tile::THREADS && threadIdx.x >= UNITS; }

    __device__ Share(const Given& given, Index first) : given(given) {
#pragma unroll
        for (int s = 0; s < OWN; s++) own[s] = given.line(first + line(s));
    }
    template <class Value>
    __device__ void begin(Index k, Word* slab, const Value& value) {
        if (idle()) return;
        decltype(given.slab(own[0], k)) slabs[OWN];
#pragma unroll
        for (int s = 0; s < OWN; s++) slabs[s] = given.slab(own[s], k);
        decltype(given.spot(k, 0)) spots[LOADS];
#pragma unroll
        for (int s = 0; s < COUNT; s++) {
            Element x[WORDS][PACKED];
#pragma unroll
            for (int e = 0; e < LOADS; e++) {
                if (!Given::ALONG || s == 0) spots[e] = given.spot(k, depth(s) * PACKED + e);
                const Memory* const from = given.in(slabs[s % OWN], spots[e]);
                if constexpr (ASYNC) {
                    sent<PACK * sizeof(Word)>(place(slab, s), from);
                } else {
                    Pack<PACK, Memory> found = {};
                    if (from != nullptr) found = fetched<PACK>(from);
#pragma unroll
                    for (int v = 0; v < PACK; v++)
                        x[IN_ONE ? v / PACKED : v][IN_ONE ? v % PACKED : e] = value(found.item[v]);
                }
            }
            if constexpr (!ASYNC) {
#pragma unroll
                for (int w = 0; w < WORDS; w++) words[s * WORDS + w] = Tile::word(x[w]);
            }
        }
    }
    __device__ void end(Word* slab) const {
        if (ASYNC || idle()) return;
#pragma unroll
        for (int s = 0; s < COUNT; s++) {
            Pack<HIGH, Word> high;
#pragma unroll
            for (int j = 0; j < DEEP; j++) {
#pragma unroll
                for (int v = 0; v < HIGH; v++) high.item[v] = words[ASYNC ? 0 : s * WORDS + j * HIGH + v];
                put(place(slab, s) + j * STRIDE, high);
            }
        }
    }
};

// The shared memory of `product`: two slabs of both operands, and then rows of the tile.
template <class Tile, int DEPTH>
struct alignas(32) Slabs {
    static constexpr int WORDS = (Tile::ROWS + Tile::COLUMNS + 2 * Tile::PAD) * DEPTH;
    static constexpr int PANELS = 2 * WORDS * sizeof(typename Tile::Word);
    static constexpr int STAGE = Tile::SLOTS * (Tile::COLUMNS + 1) * sizeof(typename Tile::Sum);
    unsigned char bytes[PANELS > STAGE ? PANELS : STAGE];
};

// out(i, j, sum) for the tile at (i0, j0), where sum is that of a(i, k) * b(k, j) over k from `first` to `last`.
template <class Tile, int DEPTH, class Memory, class Value, class A, class B, class Out>
__device__ void product(
    const Value& value, const A& a, const B& b, Index i0, Index j0, Index first, Index last, const Out& out) {
    typedef typename Tile::Word Word;
    typedef typename Tile::Sum Sum;
    __shared__ Slabs<Tile, DEPTH> memory;
    Word* const panels = (Word*)memory.bytes;
    const int t = threadIdx.x, right = DEPTH * (Tile::ROWS + Tile::PAD);
    Tile tile;
#pragma unroll
    for (int s = 0; s < Tile::ROUNDS * Tile::EACH; s++) tile.sums[s] = 0;
    Share<Tile, Memory, A, Tile::ROWS, DEPTH> rows(a, i0);
    Share<Tile, Memory, B, Tile::COLUMNS, DEPTH> columns(b, j0);
    int half = 0;
    rows.begin(first, panels, value);
    columns.begin(first, panels + right, value);
    rows.end(panels);
    columns.end(panels + right);
    for (Index k = first; k < last; k += DEPTH * Tile::PACKED) {
        const Index following = k + DEPTH * Tile::PACKED;
        Word* const next = panels + memory.WORDS - half;
        arrived();
        __syncthreads();  // this slab is there, and nobody needs the one before any more
        if (following < last) {
            rows.begin(following, next, value);
            columns.begin(following, next + right, value);
        }
        tile.template multiply<DEPTH>(panels + half, panels + half + right);
        if (following < last) {
            rows.end(next);
            columns.end(next + right);
        }
        half = memory.WORDS - half;
    }
    arrived();
    __syncthreads();
    Sum* const stage = (Sum*)memory.bytes;
    const int width = Tile::COLUMNS + 1;
#pragma unroll
    for (int round = 0; round < Tile::ROUNDS; round++) {
#pragma unroll
        for (int s = 0; s < Tile::EACH; s++)
            stage[Tile::slot(t, s) * width + Tile::column(t, s)] = tile.sums[round * Tile::EACH + s];
        __syncthreads();
        for (int e = t; e < Tile::SLOTS * Tile::COLUMNS; e += Tile::THREADS) {
            const int slot = e / Tile::COLUMNS, column = e % Tile::COLUMNS;
            out(i0 + Tile::row(round, slot), j0 + column, stage[slot * width + column]);
        }
        __syncthreads();
    }
}
"""


class Tile(NamedTuple):
    """A tile of the result, and how a block of threads computes it.

    Attributes:
        rows, columns: of the tile.
        tall, wide: of the part of a thread; on tensor cores, how many 16 x 8 products each warp has, down and across.
        depth: words of k in a slab.
        kind: of tensor cores; "" without.
    """

    rows: int
    columns: int
    tall: int
    wide: int
    depth: int
    kind: str = ""

    @property
    def threads(self) -> int:
        """Of a block."""
        if self.kind:
            return 32 * self.rows // (16 * self.tall) * (self.columns // (8 * self.wide))
        return self.rows // self.tall * (self.columns // self.wide)

    @property
    def step(self) -> int:
        """Elements of k in a slab."""
        return self.depth * (2 if self.kind.startswith("Pair") else 1)

    def type(self, dtype: str) -> str:
        """The C type, for operands of a dtype."""
        shape = f"{self.rows}, {self.columns}, {self.tall}, {self.wide}"
        return f"Cores<{self.kind}, {shape}>" if self.kind else f"Plain<{sum_type(dtype)}, {shape}>"

    def blocks(self, m: Dim, n: Dim) -> Dim:
        """How many tiles a result of m x n has."""
        return ceil_div(m, self.rows) * ceil_div(n, self.columns)

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.step}" + (f" on tensor cores ({self.kind})" if self.kind else "")


# With how much of the peak, roughly, each computes.
PLAIN_TILES: Mapping[Tile, float] = {
    Tile(128, 128, 8, 8, 8): 0.8,
    Tile(64, 64, 4, 4, 16): 0.5,
    Tile(16, 64, 4, 4, 16): 0.3,
    Tile(32, 32, 4, 4, 8): 0.3,
}
CORE_TILES: Mapping[Tile, float] = {
    Tile(128, 128, 4, 4, 16): 0.5,
    Tile(64, 64, 2, 4, 16): 0.35,
    Tile(16, 64, 1, 2, 16): 0.15,
}
PRECISIONS = {"tf32": "Tf32", "bfloat16": "Pair_bf16"}  # what products of float32 are computed from, if it isn't they
ENOUGH = 128  # blocks that keep a GPU busy
LARGE: Mapping[str, int] = defaultdict(lambda: 1024)  # sizes that aren't known yet, for which tiles shall do well
PART = 512  # of k, that is worth a block of its own where there are too few
PARTS = 4  # times as many blocks as keep a GPU busy, if k is divided: they hide what each waits for


def sum_type(dtype: str) -> str:
    """The C type of sums of products, and of what is multiplied without tensor cores; integers wrap."""
    if dtype == "float64":
        return "double"
    if dtype == "float32" or dtype in HALVES:
        return "float"
    return "u64" if itemsize(dtype) == 8 else "u32"


def kind_of(dtype: str, precision: Precision) -> str:
    """What tensor cores multiply, if they do: halves always, float32 if it may be rounded before."""
    if dtype in HALVES:
        return f"Pair_{HALVES[dtype]}"
    return PRECISIONS.get(precision, "") if dtype == "float32" else ""


def chosen(dtype: str, precision: Precision, m: Dim, n: Dim, batch: Dim, k: Dim) -> Tile:
    """The tile that suits the sizes best: larger ones read less, smaller ones are more and hang over less.

    What is too few blocks is divided along k where that is long.
    """
    kind = kind_of(dtype, precision)
    rows, columns, count = (guess(dim, LARGE) for dim in (m, n, batch))
    parts = max(1, guess(k) // PART)

    def time(found: tuple[Tile, float]) -> float:
        tile, share = found
        blocks = guess(tile.blocks(rows, columns)) * count
        return max(ENOUGH, blocks * parts) / parts * tile.rows * tile.columns / share

    tile, _ = min((CORE_TILES if kind else PLAIN_TILES).items(), key=time)
    return tile._replace(kind=kind)


def part_of(tile: Tile, m: Dim, n: Dim, batch: Dim, k: Dim) -> Dim:
    """How much of k one block sums: all of it, unless there are few blocks and it is long; a multiple of a slab.

    It depends on sizes alone, so that sums are the same on every device.
    """
    blocks = max(1, guess(tile.blocks(m, n)) * guess(batch))
    parts = min(-(-PARTS * ENOUGH // blocks), guess(k) // PART) if blocks < ENOUGH else 1
    return k if parts < 2 else -(-guess(k) // parts // tile.step) * tile.step


def declare(code: CudaCode, tile: Tile) -> None:
    """Add what a tile needs."""
    for text in (SUMS, CORES if tile.kind else PLAIN, *([KINDS[tile.kind]] if tile.kind else []), WALK):
        code.declare(text.strip())
