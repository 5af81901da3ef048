"""Random draws on a GPU: Philox4x32-10 and what elements make of its words, as the table in `graphc.philox` says.

A thread takes a block of the generator, four words, and stores the two or four elements that they give at once; it does
so a few times, so that the key is mixed once for many elements. Each element depends on its number alone.

Uniforms, bernoullis and integers have the bits of the reference. So that normals of up to 32 bits need no arithmetic in
float64, which most GPUs have little of, their logarithm and angle are taken in float32 of what the words give exactly:
1 - u near 1 by log1p, and the angle from the nearest quarter turn, found in integers. That is within 4 units in the
last place; a mean could cancel all other places, so with one the sum is made in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from graphc import philox
from graphc.dims import ceil_div, product
from graphc.op import Op
from graphc.ops.random import bernoulli_op, integers_op, normal_op, uniform_op
from graphc.runtime.cuda import lanes as regions
from graphc.runtime.cuda.launches import CudaCode
from graphc.runtime.cuda.scalars import MEMORY, number, stored
from graphc.types import np_dtype

THREADS = 256
BLOCKS = 4  # of the generator, for each thread
SMALL = 1e-30  # standard deviations between this and its reciprocal scale float32 without loss

GENERATOR = f"""\
struct Words {{
    u32 at[4];
}};

// The finaliser of SplitMix64.
__device__ inline u64 finalised(u64 z) {{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}}

// The key of a stream under a seed.
__device__ inline u64 mixed(u64 seed, u64 stream) {{
    return finalised(finalised(seed + 0x{philox.GOLDEN64:X}ULL) + stream + 0x{philox.GOLDEN64:X}ULL);
}}

// The words of one block of draw `counter`.
__device__ inline Words words_of(u64 key, u64 counter, u64 block) {{
    u32 c0 = (u32)block, c1 = (u32)(block >> 32), c2 = (u32)counter, c3 = (u32)(counter >> 32);
    u32 k0 = (u32)key, k1 = (u32)(key >> 32);
#pragma unroll
    for (int round = 0; round < {philox.ROUNDS}; ++round) {{
        const u64 p0 = (u64)c0 * 0x{philox.MULTIPLIERS[0]:X}u, p1 = (u64)c2 * 0x{philox.MULTIPLIERS[1]:X}u;
        c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
        c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c1 = (u32)p1;
        c3 = (u32)p0;
        k0 += 0x{philox.KEY_STEPS[0]:X}u;
        k1 += 0x{philox.KEY_STEPS[1]:X}u;
    }}
    return Words{{{{c0, c1, c2, c3}}}};
}}

__device__ inline u64 joined(u32 low, u32 high) {{
    return (u64)high << 32 | low;
}}
"""

# A pair of normal numbers, without arithmetic in float64. Sine and cosine of x quarter turns, |x| <= 1/2, are
# polynomials in t = x * x, fitted to a relative error below 2^-28; pi / 2 is split, so that only the last sum rounds.
NORMAL32 = """\
struct Pair32 {
    float first, second;
};

__device__ inline Pair32 normal_pair(u32 w0, u32 w1) {
    const float log = w0 < 0x80000000u ? log1pf((float)w0 * -0x1p-32f) : logf((float)(0u - w0) * 0x1p-32f);
    const float radius = sqrtf(-2.0f * log);
    const u32 turned = w1 + 0x20000000u;
    const float x = (float)((i32)(turned & 0x3fffffffu) - 0x20000000) * 0x1p-30f, t = x * x;
    const float tail = fmaf(t, fmaf(t, fmaf(t, -4.601658e-3f, 7.968003e-2f), -0.6459635f), -4.371139e-8f);
    const float sine = fmaf(x, 1.5707964f, x * tail);
    const float bent = fmaf(t, fmaf(t, fmaf(t, 9.03363e-4f, -2.0859936e-2f), 0.25366917f), -1.2337005f);
    const float cosine = fmaf(t, bent, 1.0f);
    const u32 quarter = turned >> 30;
    const float c = quarter & 1 ? sine : cosine, s = quarter & 1 ? cosine : sine;
    return Pair32{radius * (quarter == 1 || quarter == 2 ? -c : c), radius * (quarter >= 2 ? -s : s)};
}
"""

NORMAL64 = """\
struct Pair64 {
    double first, second;
};

__device__ inline Pair64 normal_pair(double u, double v) {
    const double radius = sqrt(-2.0 * log(1.0 - u)), angle = 6.283185307179586 * v;
    return Pair64{radius * cos(angle), radius * sin(angle)};
}
"""

WORDS32 = ("words.at[0]", "words.at[1]", "words.at[2]", "words.at[3]")
WORDS64 = ("joined(words.at[0], words.at[1])", "joined(words.at[2], words.at[3])")


class _Draw(NamedTuple):
    """What the words of a block give.

    Attributes:
        values: expressions for its elements, in order, as in registers.
        lines: that come before them.
        declared: functions that these take.
    """

    values: tuple[str, ...]
    lines: tuple[str, ...] = ()
    declared: str = ""


def _uniform(attrs: Mapping[str, Any]) -> _Draw | None:
    kind = np_dtype(attrs["dtype"])
    wide = np.result_type(kind, np.float32)
    with np.errstate(over="ignore"):
        bottom, top = [kind.type(attrs[end]).astype(wide) for end in ("low", "high")]
        span = wide.type(top - bottom)
    if not (bottom < top and math.isfinite(span)):
        return None
    largest = np.nextafter(kind.type(attrs["high"]), kind.type(attrs["low"])).astype(wide)
    size, shift, words = (64, 11, WORDS64) if wide == np.float64 else (32, 8, WORDS32)
    type, least = ("double", "fmin") if size == 64 else ("float", "fminf")
    factor, width, start, most = [number(x, wide.name) for x in (2.0 ** (shift - size), span, bottom, largest)]
    unit = f"({type})({{}} >> {shift}) * {factor}"
    return _Draw(values=tuple([f"{least}({unit.format(word)} * {width} + {start}, {most})" for word in words]))


def _bernoulli(attrs: Mapping[str, Any]) -> _Draw | None:
    if not 0 <= attrs["p"] <= 1:
        return None
    limit = math.ceil(Fraction(attrs["p"]) * 2**24)  # u < p, of whole numbers
    return _Draw(tuple([f"({word} >> 8) < {limit}u" for word in WORDS32]))


def _integers(attrs: Mapping[str, Any]) -> _Draw | None:
    low, size = attrs["low"], attrs["high"] - attrs["low"]
    limits = np.iinfo(np_dtype(attrs["dtype"]))
    if not limits.min <= low < attrs["high"] <= int(limits.max) + 1:
        return None
    type, start = MEMORY[attrs["dtype"]], f"0x{low & (1 << 64) - 1:x}ULL"
    offsets = [word if size == 1 << 64 else f"__umul64hi({word}, 0x{size:x}ULL)" for word in WORDS64]
    return _Draw(tuple([f"({type})({offset} + {start})" for offset in offsets]))


def _normal(attrs: Mapping[str, Any]) -> _Draw | None:
    mean, std = attrs["mean"], attrs["std"]
    if not (math.isfinite(mean) and math.isfinite(std) and std >= 0):
        return None
    if attrs["dtype"] == "float64":
        units = [f"(double)({word} >> 11) * 0x1p-53" for word in WORDS64]
        return _normal_of(units, mean, std, "float64")
    if mean == 0 and (std == 0 or SMALL < std < 1 / SMALL):
        return _normal_of(WORDS32, mean, std, "float32")
    exact = _normal_of([f"(double){word} * 0x1p-32" for word in WORDS32], mean, std, "float64")
    return exact._replace(values=tuple([f"(float)({value})" for value in exact.values]))


def _normal_of(units: Sequence[str], mean: float, std: float, dtype: str) -> _Draw:
    """Pairs of normal numbers, computed in a dtype of what `normal_pair` takes."""
    lines, values = [], []
    for k in range(0, len(units), 2):
        lines.append(f"const Pair{dtype[5:]} z{k} = normal_pair({units[k]}, {units[k + 1]});")
        for z in (f"z{k}.first", f"z{k}.second"):
            scaled = z if std == 1 else f"{number(std, dtype)} * {z}"
            values.append(scaled if mean == 0 else f"{number(mean, dtype)} + {scaled}")
    return _Draw(tuple(values), tuple(lines), NORMAL64 if dtype == "float64" else NORMAL32)


def _drawn(rule: Callable[[Mapping[str, Any]], _Draw | None]) -> Callable[[CudaCode], bool]:
    """A thread makes the elements of a few blocks of the generator, which lie as far apart as there are threads."""

    def emit(code: CudaCode) -> bool:
        core = code.kernel.core
        assert core is not None
        draw = rule(core.attrs)
        if draw is None:
            return False
        y, count, each = regions.result(code, 0), product(core.shape), len(draw.values)
        code.declare(GENERATOR)
        if draw.declared:
            code.declare(draw.declared)
        frame = code.launch(ceil_div(count, each * BLOCKS * THREADS), THREADS)
        key, total, target = frame.key(), frame.size(count), frame.base(y)
        frame.line(f"const u64 mixed_key = mixed((u64){key}[0], (u64){key}[1]), counter = (u64){key}[2];")
        with frame.block(f"for (int k = 0; k < {BLOCKS}; ++k)"):
            frame.line(f"const Index block = ((Index)blockIdx.x * {BLOCKS} + k) * {THREADS} + threadIdx.x;")
            frame.line(f"const Index at = block * {each};")
            frame.line(f"if (at >= {total}) break;")
            frame.line("const Words words = words_of(mixed_key, counter, (u64)block);")
            for line in draw.lines:
                frame.line(line)
            values = ", ".join([stored(y.dtype, f"({value})") for value in draw.values])
            frame.line(f"const Pack<{each}, {MEMORY[y.dtype]}> some = {{{{{values}}}}};")
            frame.line(f"put<{each}>({target} + at, (int)least<Index>({total} - at, {each}), true, some);")
        code.note("philox, a block of four words a thread")
        regions.finish(code, 0)
        return True

    return emit


CORES: Mapping[Op, Callable[[CudaCode], bool]] = {
    uniform_op: _drawn(_uniform),
    normal_op: _drawn(_normal),
    bernoulli_op: _drawn(_bernoulli),
    integers_op: _drawn(_integers),
}
