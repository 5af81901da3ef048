"""Random draws as vector code: Philox4x32-10 and what elements make of its words, as the table in `graphc.philox` says.

A step takes as many blocks of the generator as a vector has 64-bit lanes, each word in a lane of its own, and gives the
words in their order: two vectors of pairs, the first word of a pair in the low half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from graphc import philox
from graphc.dims import ceil_div, product
from graphc.op import Op
from graphc.ops.random import bernoulli_op, integers_op, normal_op, uniform_op
from graphc.runtime.cpu import lanes as regions
from graphc.runtime.cpu import vector_math
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.elements import to_memory
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.values import I64, MEMORY_TYPE, Int, Value, constant, lanes_of, vector
from graphc.runtime.strided import itemsize
from graphc.types import np_dtype

UNIT = 4096  # elements of one unit of work
MASK32 = 0xFFFFFFFF

Pairs = Sequence[Value]  # <n x i64>: words 2i and 2i + 1, in the order of i
Draw = Callable[[Function, Pairs], list[Value]]  # elements of consecutive words, in order


# ---------------------------------------------------------------------------------------------- words


def _signed(number: int) -> int:
    """The signed number of the same 64 bits."""
    return number - (1 << 64) if number >> 63 else number


def _xor_shifted(f: Function, z: Value, bits: int) -> Value:
    return f.binary("xor", z, f.binary("lshr", z, constant(z.type, bits)))


def _finalise(f: Function, z: Value) -> Value:
    """The finaliser of SplitMix64."""
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = f.binary("mul", _xor_shifted(f, z, bits), constant(I64, _signed(factor)))
    return _xor_shifted(f, z, 31)


def _key(f: Function, seed: Value, stream: Value) -> Value:
    """`graphc.philox.mix` of a seed and a stream."""
    golden = constant(I64, _signed(philox.GOLDEN64))
    first = _finalise(f, f.binary("add", seed, golden))
    return _finalise(f, f.binary("add", f.binary("add", first, stream), golden))


def _low(f: Function, z: Value) -> Value:
    return f.binary("and", z, constant(z.type, MASK32))


def _high(f: Function, z: Value) -> Value:
    return f.binary("lshr", z, constant(z.type, 32))


class _Generator:
    """The words of the draw whose key the frame has, `4 * lanes` at a time."""

    def __init__(self, frame: Frame, lanes: int) -> None:
        f = self.f = frame.f
        self.lanes = lanes
        seed, stream, counter = [f.load(I64, f.address(frame.draw(), k, I64), 8) for k in range(3)]
        key = _key(f, seed, stream)
        self.counter = [f.splat(half(f, counter), lanes) for half in (_low, _high)]
        self.keys = [
            [f.splat(_low(f, f.binary("add", half, constant(I64, k * step))), lanes) for k in range(philox.ROUNDS)]
            for half, step in zip((_low(f, key), _high(f, key)), philox.KEY_STEPS, strict=True)
        ]

    def pairs(self, block: Int) -> Pairs:
        """The words of blocks `block`, `block + 1`, ... in two vectors."""
        f, lanes = self.f, self.lanes
        blocks = f.binary("add", f.splat(f.i64(block), lanes), f.counter(lanes))
        words = self._rounds([_low(f, blocks), _high(f, blocks), *self.counter])
        shift = constant(blocks.type, 32)
        first, second = [f.binary("or", words[k], f.binary("shl", words[k + 1], shift)) for k in (0, 2)]
        order = [lane + other for lane in range(lanes) for other in (0, lanes)]
        return [f.shuffle(first, second, order[:lanes]), f.shuffle(first, second, order[lanes:])]

    def _rounds(self, words: Sequence[Value]) -> Sequence[Value]:
        f = self.f
        c0, c1, c2, c3 = words
        m0, m1 = [constant(c0.type, multiplier) for multiplier in philox.MULTIPLIERS]
        for k0, k1 in zip(*self.keys, strict=True):
            p0, p1 = f.binary("mul", c0, m0), f.binary("mul", c2, m1)
            c0 = f.binary("xor", f.binary("xor", _high(f, p1), c1), k0)
            c2 = f.binary("xor", f.binary("xor", _high(f, p0), c3), k1)
            c1, c3 = _low(f, p1), _low(f, p0)
        return c0, c1, c2, c3


# ---------------------------------------------------------------------------------------------- elements


def _units32(f: Function, pairs: Value) -> Value:
    """The high 24 bits of each word."""
    words = f.convert("bitcast", pairs, vector("i32", 2 * lanes_of(pairs.type)))
    return f.binary("lshr", words, constant(words.type, 8))


def _to_float(f: Function, numbers: Value, element: str, scale: float) -> Value:
    """Numbers >= 0, which the floats have exactly, times a power of two."""
    values = f.convert("sitofp", numbers, vector(element, lanes_of(numbers.type)))
    return f.binary("fmul", values, constant(values.type, scale))


def _units64(f: Function, pairs: Value) -> Value:
    """Uniforms in [0, 1) of 53 bits."""
    return _to_float(f, f.binary("lshr", pairs, constant(pairs.type, 11)), "double", 2.0**-53)


def _uniform(attrs: Mapping[str, Any]) -> Draw | None:
    kind = np_dtype(attrs["dtype"])
    wide = np.result_type(kind, np.float32)
    with np.errstate(over="ignore"):
        bottom, top = [float(kind.type(attrs[end]).astype(wide)) for end in ("low", "high")]
        span = float(wide.type(top) - wide.type(bottom))
    if not (bottom < top and math.isfinite(span)):
        return None
    largest = float(np.nextafter(kind.type(attrs["high"]), kind.type(attrs["low"])))

    def scaled(f: Function, unit: Value) -> Value:
        value = f.binary("fadd", f.binary("fmul", unit, constant(unit.type, span)), constant(unit.type, bottom))
        most = constant(unit.type, largest)
        return f.select(f.compare("fcmp olt", value, most), value, most)

    if wide == np.float64:
        return lambda f, pairs: [scaled(f, _units64(f, some)) for some in pairs]
    return lambda f, pairs: [scaled(f, _to_float(f, _units32(f, some), "float", 2.0**-24)) for some in pairs]


def _bernoulli(attrs: Mapping[str, Any]) -> Draw | None:
    if not 0 <= attrs["p"] <= 1:
        return None
    limit = math.ceil(Fraction(attrs["p"]) * 2**24)  # u < p, of whole numbers

    def draw(f: Function, pairs: Pairs) -> list[Value]:
        units = [_units32(f, some) for some in pairs]
        return [f.compare("icmp ult", some, constant(some.type, limit)) for some in units]

    return draw


def _integers(attrs: Mapping[str, Any]) -> Draw | None:
    low, size = attrs["low"], attrs["high"] - attrs["low"]
    limits = np.iinfo(np_dtype(attrs["dtype"]))
    if not limits.min <= low < attrs["high"] <= int(limits.max) + 1:
        return None
    element = MEMORY_TYPE[attrs["dtype"]]

    def draw(f: Function, pairs: Pairs) -> list[Value]:
        offsets = [some if size == 1 << 64 else _multiplied_high(f, some, size) for some in pairs]
        moved = [f.binary("add", some, constant(some.type, _signed(low & (1 << 64) - 1))) for some in offsets]
        return [f.convert("trunc", some, vector(element, lanes_of(some.type))) for some in moved]

    return draw


def _multiplied_high(f: Function, words: Value, factor: int) -> Value:
    """The high 64 bits of the 128-bit products of 64-bit words and a factor, by halves."""
    f0, f1 = [constant(words.type, half) for half in (factor & MASK32, factor >> 32)]
    w0, w1 = _low(f, words), _high(f, words)
    middle = f.binary("add", f.binary("mul", w1, f0), _high(f, f.binary("mul", w0, f0)))
    if factor >> 32 == 0:
        return _high(f, middle)
    rest = f.binary("add", f.binary("mul", w0, f1), _low(f, middle))
    high = f.binary("add", f.binary("mul", w1, f1), _high(f, middle))
    return f.binary("add", high, _high(f, rest))


def _normal(attrs: Mapping[str, Any]) -> Draw | None:
    mean, std = attrs["mean"], attrs["std"]
    if not (math.isfinite(mean) and math.isfinite(std) and std >= 0):
        return None

    def scaled(f: Function, z: Value) -> Value:
        return f.binary("fadd", f.binary("fmul", z, constant(z.type, std)), constant(z.type, mean))

    def draw(f: Function, pairs: Pairs) -> list[Value]:
        """Of a pair of words, or of pairs, one is the first uniform and one the second."""
        if attrs["dtype"] == "float64":
            units = [_units64(f, some) for some in pairs]
            lanes = lanes_of(units[0].type)
            u, v = [f.shuffle(units[0], units[1], range(k, 2 * lanes, 2)) for k in range(2)]
            return _interleaved(f, [scaled(f, z) for z in _box_muller(f, u, v)])
        found = []
        for some in pairs:
            u, v = [_to_float(f, half(f, some), "double", 2.0**-32) for half in (_low, _high)]
            halves = _interleaved(f, [scaled(f, z) for z in _box_muller(f, u, v)])
            found += [f.convert("fptrunc", half, vector("float", lanes_of(half.type))) for half in halves]
        return found

    return draw


def _box_muller(f: Function, u: Value, v: Value) -> tuple[Value, Value]:
    """Two normal numbers of two uniforms."""
    one, two, turn = [constant(u.type, number) for number in (1.0, -2.0, 2.0 * math.pi)]
    radius = f.intrinsic("sqrt", f.binary("fmul", two, vector_math.log(f, f.binary("fsub", one, u))))
    sine, cosine = vector_math.sin_and_cos(f, f.binary("fmul", turn, v))
    return f.binary("fmul", radius, cosine), f.binary("fmul", radius, sine)


def _interleaved(f: Function, pair: Sequence[Value]) -> list[Value]:
    """Two vectors as one row: the first of each, the second of each, ..."""
    a, b = pair
    lanes = lanes_of(a.type)
    order = [lane + other for lane in range(lanes) for other in (0, lanes)]
    return [f.shuffle(a, b, order[:lanes]), f.shuffle(a, b, order[lanes:])]


# ---------------------------------------------------------------------------------------------- phases

HALF_NS = {uniform_op: 1, normal_op: 4, bernoulli_op: 1, integers_op: 2}  # half nanoseconds for each element


def _drawn(rule: Callable[[Mapping[str, Any]], Draw | None]) -> Callable[[KernelCode], bool]:
    """A unit of work is a part of the row of elements; each element depends on its number alone."""

    def emit(code: KernelCode) -> bool:
        core = code.kernel.core
        assert core is not None
        draw = rule(core.attrs)
        if draw is None:
            return False
        y, count = regions.result(code, 0), product(core.shape)
        frame = code.phase(ceil_div(count, UNIT), count * HALF_NS[core.op] // 2 + 1)
        f = frame.f
        generator = _Generator(frame, code.host.lanes(8))
        words = 2 if core.op is integers_op or core.dtype == "float64" else 1  # an element
        step = 4 * generator.lanes // words
        start = frame.at(y)

        def some(at: Int, left: Int | None) -> None:
            """One step of elements, or as many as are left."""
            done = 0
            for values in draw(f, generator.pairs(f.div(f.mul(at, words), 4))):
                lanes = lanes_of(values.type)
                mask = None if left is None else f.mask(f.sub(left, done), lanes)
                where = f.address(start, f.add(at, done), MEMORY_TYPE[y.dtype])
                f.store(to_memory(f, values, y.dtype), where, itemsize(y.dtype), mask)
                done += lanes

        def unit(u: Value, _: list[Value]) -> None:
            low = f.mul(u, UNIT)
            high = f.min(f.add(low, UNIT), frame.size(count))
            full = f.sub(high, f.rem(f.sub(high, low), step))
            f.loop(low, full, step, lambda at, _: some(at, None))
            f.if_(f.is_less(full, high), lambda: some(full, f.sub(high, full)))

        f.loop(frame.low, frame.high, 1, unit)
        frame.done()
        regions.finish(code, 0)
        return True

    return emit


CORES: Mapping[Op, Callable[[KernelCode], bool]] = {
    uniform_op: _drawn(_uniform),
    normal_op: _drawn(_normal),
    bernoulli_op: _drawn(_bernoulli),
    integers_op: _drawn(_integers),
}
