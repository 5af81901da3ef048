"""Elementary functions on vectors of float32 and float64: `exp(f, x)` emits the code of exp(x).

All are right on their whole domain: at zeros of both signs, infinities, nan, and subnormal arguments and results. The
results of a lane don't depend on the other lanes. The schemes are the classical ones: arguments are reduced with a
constant that is split in parts (W. Cody and W. Waite, "Software Manual for the Elementary Functions", 1980), exponents
are read and written as bits, and the rest is a polynomial of `polynomials.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from graphc.runtime.cpu import avx512
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.polynomials import (
    ATANH,
    COS,
    ERF,
    ERF_TAIL,
    EXP,
    EXP2_SHORT,
    LOG,
    LOG2_SHORT,
    SIN,
    TANH,
    Coefficients,
)
from graphc.runtime.cpu.values import Value, constant, element_of, lanes_of, with_element

Operand = Value | float

with localcontext() as _context:
    _context.prec = 60
    LN2, LN10 = Fraction(Decimal(2).ln()), Fraction(Decimal(10).ln())
HALF_PI = Fraction("1.57079632679489661923132169163975144209858469968755291")


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    Attributes:
        integer: the type of as many bits.
        fraction: bits of the fraction.
        exponent: bits of the exponent.
        head: bits that the first part of a split constant has: its product with any exponent is exact.
    """

    integer: str
    fraction: int
    exponent: int
    head: int

    @property
    def bias(self) -> int:
        """What the exponent 0 is stored as."""
        return (1 << (self.exponent - 1)) - 1

    @property
    def rounder(self) -> float:
        """Added to a number, it leaves the nearest integer in the low bits of the sum."""
        return 1.5 * 2.0**self.fraction

    @property
    def whole(self) -> float:
        """Its low bits are those of an integer added to it: so integers become floats without an instruction that
        AVX2 lacks for 64 bits."""
        return 2.0**self.fraction

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return 2.0 ** (1 - self.bias)

    def rounded(self, number: Fraction) -> float:
        """The nearest number of the format."""
        return float(number) if self.fraction == 52 else float(np.float32(float(number)))

    def split(self, number: Fraction, parts: int, bits: int) -> list[float]:
        """A positive number as a sum: its first `bits` bits, the next ones, ..., and the rest, rounded."""
        found = []
        for _ in range(parts - 1):
            scale = Fraction(2) ** (bits - math.frexp(float(number))[1])
            found.append(float(Fraction(math.floor(number * scale)) / scale))
            number -= Fraction(found[-1])
        return [*found, self.rounded(number)]

    def bits(self, number: float) -> int:
        """The representation of a number of the format."""
        if self.fraction == 52:
            return int(np.float64(number).view(np.int64))
        return int(np.float32(number).view(np.int32))

    def of(self, bits: int) -> float:
        """The number of the format that has this representation."""
        return float(np.int64(bits).view(np.float64) if self.fraction == 52 else np.int32(bits).view(np.float32))


FORMATS = {"float": Format("i32", 23, 8, 16), "double": Format("i64", 52, 11, 42)}


class Math:
    """Arithmetic on floats of one type; numbers stand for constants.

    Attributes:
        avx512: whether the type has the instructions of `avx512.py`.
    """

    def __init__(self, f: Function, type: str) -> None:
        self.f = f
        self.type = type
        self.format = FORMATS[element_of(type)]
        self.integers = with_element(type, self.format.integer)
        self.avx512 = avx512.served(f, type)

    def value(self, a: Operand) -> Value:
        """An operand as a value."""
        return a if isinstance(a, Value) else constant(self.type, a)

    def integer(self, number: int) -> Value:
        """A constant of the integers as wide as the floats."""
        return constant(self.integers, number)

    def add(self, a: Operand, b: Operand) -> Value:
        """a + b."""
        return self.f.binary("fadd", self.value(a), self.value(b))

    def sub(self, a: Operand, b: Operand) -> Value:
        """a - b."""
        return self.f.binary("fsub", self.value(a), self.value(b))

    def mul(self, a: Operand, b: Operand) -> Value:
        """a * b."""
        return self.f.binary("fmul", self.value(a), self.value(b))

    def div(self, a: Operand, b: Operand) -> Value:
        """a / b."""
        return self.f.binary("fdiv", self.value(a), self.value(b))

    def fma(self, a: Operand, b: Operand, c: Operand) -> Value:
        """a * b + c, rounded once."""
        return self.f.fma(self.value(a), self.value(b), self.value(c))

    def horner(self, x: Value, coefficients: Coefficients) -> Value:
        """A polynomial of x."""
        result: Operand = coefficients[-1]
        for coefficient in reversed(coefficients[:-1]):
            result = self.fma(result, x, coefficient)
        return self.value(result)

    def abs(self, a: Value) -> Value:
        """|a|."""
        return self.f.intrinsic("fabs", a)

    def copysign(self, a: Value, sign: Value) -> Value:
        """|a| with the sign of another."""
        return self.f.intrinsic("copysign", a, sign)

    def less(self, a: Operand, b: Operand) -> Value:
        """Whether a < b; not if one is nan."""
        return self.f.compare("fcmp olt", self.value(a), self.value(b))

    def equal(self, a: Operand, b: Operand) -> Value:
        """Whether a == b."""
        return self.f.compare("fcmp oeq", self.value(a), self.value(b))

    def select(self, condition: Value, a: Operand, b: Operand) -> Value:
        """a where the condition holds, else b."""
        return self.f.select(condition, self.value(a), self.value(b))

    def at_most(self, a: Value, limit: float) -> Value:
        """The smaller of both; nan stays. One instruction of x86."""
        return self.select(self.less(limit, a), limit, a)

    def at_least(self, a: Value, limit: float) -> Value:
        """The greater of both; nan stays."""
        return self.select(self.less(a, limit), limit, a)

    def bits(self, a: Value) -> Value:
        """The representation as integers."""
        return self.f.convert("bitcast", a, self.integers)

    def of_bits(self, a: Value) -> Value:
        """The floats of a representation."""
        return self.f.convert("bitcast", a, self.type)

    def shifted(self, a: Value) -> Value:
        """Integers as the exponents of floats: the low bits moved to where the exponent is, without the bias."""
        return self.of_bits(self.f.binary("shl", a, self.integer(self.format.fraction)))


# --------------------------------------------------------------------------------------------- exponentials

# Beyond these, exp(x) is 0 or infinite
EXP_RANGE = {"float": (-104.0, 89.0), "double": (-746.0, 710.0)}
EXP2_RANGE = {"float": (-151.0, 129.0), "double": (-1077.0, 1025.0)}
# Where expm1(x) is -1 within half a unit
EXPM1_LOW = {"float": -18.0, "double": -38.0}


def _reduced(m: Math, x: Value, offset: int, parts: int = 2) -> tuple[Value, Value]:
    """x = n·ln 2 + r with |r| <= ln(2)/2: a value that has `n + offset` in its low bits, and r.

    Args:
        parts: in which ln 2 is taken; two, unless n is small.
    """
    base = m.format.rounder + offset
    summed = m.fma(x, m.format.rounded(1 / LN2), base)
    return m.bits(summed), _less_halvings(m, x, m.sub(summed, base), parts)


def _nearest(m: Math, x: Value) -> tuple[Value, Value]:
    """x = n·ln 2 + r as `_reduced` has it, but n as a float."""
    base = m.format.rounder + 2 * m.format.bias
    n = m.sub(m.fma(x, m.format.rounded(1 / LN2), base), base)
    return n, _less_halvings(m, x, n, 2)


def _less_halvings(m: Math, x: Value, n: Value, parts: int) -> Value:
    """x - n·ln 2."""
    for part in m.format.split(LN2, parts, m.format.head):
        x = m.fma(n, -part, x)
    return x


def _vanishing(m: Math, x: Value, low: float, n: Value) -> Value:
    """The power n of 2, but one far below where x is below what gives more than 0.

    CPUs take 60 times as long to find that x · 2 ** n is too small if it is so by few powers; masks are full of -inf.
    """
    return m.select(m.less(x, low), -(2.0**20), n)


def exp(f: Function, x: Value) -> Value:
    """e ** x, as a polynomial times 2 ** n. The power is applied in two halves, so that subnormal results are right.

    What is 0 in the end, such as what a mask has made -inf, is computed as exp(0): underflow takes a hundred cycles.
    """
    m = Math(f, x.type)
    low, high = EXP_RANGE[element_of(x.type)]
    if m.avx512:
        n, r = _nearest(m, m.at_least(m.at_most(x, high), low))
        return avx512.scaled(f, m.horner(r, (1.0, 1.0, *EXP[element_of(x.type)])), _vanishing(m, x, low, n))
    vanishes = m.less(x, low)
    x = m.select(vanishes, 0.0, m.at_most(x, high))
    bias = m.format.bias
    whole, r = _reduced(m, x, 2 * bias)
    half = m.bits(m.fma(x, m.format.rounded(1 / LN2) / 2, m.format.rounder + bias))
    return m.select(vanishes, 0.0, _in_halves(m, r, whole, half))


def _in_halves(m: Math, r: Value, whole: Value, half: Value) -> Value:
    """exp(r) times a power of 2 whose exponent is `whole`, with twice the bias; `half` is about half of that."""
    rest = m.f.binary("sub", whole, half)
    return m.mul(m.mul(m.horner(r, (1.0, 1.0, *EXP[element_of(r.type)])), m.shifted(half)), m.shifted(rest))


def exp2(f: Function, x: Value) -> Value:
    """2 ** x, exact for integers: 2 ** n times exp(r·ln 2), with an r that nothing was lost of."""
    m, given = Math(f, x.type), x
    low, high = EXP2_RANGE[element_of(x.type)]
    vanishes = m.less(x, low)
    x = m.at_least(m.at_most(x, high), low) if m.avx512 else m.select(vanishes, 0.0, m.at_most(x, high))
    base, natural = m.format.rounder + 2 * m.format.bias, m.format.rounded(LN2)
    summed = m.add(x, base)
    part = m.sub(x, m.sub(summed, base))
    r = m.fma(part, natural, m.mul(part, m.format.rounded(LN2 - Fraction(natural))))
    if m.avx512:
        n = _vanishing(m, given, low, m.sub(summed, base))
        return avx512.scaled(f, m.horner(r, (1.0, 1.0, *EXP[element_of(x.type)])), n)
    half = m.bits(m.fma(x, 0.5, m.format.rounder + m.format.bias))
    return m.select(vanishes, 0.0, _in_halves(m, r, m.bits(summed), half))


def expm1(f: Function, x: Value) -> Value:
    """exp(x) - 1 as 2·((2ⁿ⁻¹ - ½) + 2ⁿ⁻¹·(exp(r) - 1)), whose first term is exact where it counts."""
    m = Math(f, x.type)
    element = element_of(x.type)
    inside = m.at_least(m.at_most(x, EXP_RANGE[element][1]), EXPM1_LOW[element])
    whole, r = _reduced(m, inside, m.format.bias - 1)
    scale = m.shifted(whole)
    linear = m.fma(scale, r, m.sub(scale, 0.5))
    half = m.fma(m.mul(scale, m.mul(r, r)), m.horner(r, EXP[element]), linear)
    return m.copysign(m.add(half, half), x)  # of -0.0 too


# --------------------------------------------------------------------------------------------- logarithms


def _decomposed(m: Math, x: Value, shift: Operand) -> tuple[Value, Value, Value]:
    """A normal x > 0 as 2ᵉ·(1 + g) with √½ <= 1 + g < √2: e, g, and the bits of 2ᵉ.

    Args:
        shift: `m.format.whole` with the bias of the exponent.
    """
    f, format = m.f, m.format
    root = format.bits(math.sqrt(0.5))
    moved = f.binary("add", m.bits(x), m.integer((format.bias << format.fraction) - root))
    biased = f.binary("lshr", moved, m.integer(format.fraction))
    e = m.sub(m.of_bits(f.binary("or", biased, m.integer(format.bits(format.whole)))), shift)
    low = f.binary("and", moved, m.integer((1 << format.fraction) - 1))
    g = m.sub(m.of_bits(f.binary("add", low, m.integer(root))), 1.0)
    return e, g, f.binary("sub", moved, low)


def _parts(m: Math, x: Value) -> tuple[Value, Value]:
    """e and g as `_decomposed` gives them, of any x > 0: what is subnormal is scaled first."""
    if m.avx512:
        mantissa, e = avx512.mantissa(m.f, x), avx512.exponent(m.f, x)
        below = m.format.of(m.format.bits(math.sqrt(0.5)) + (1 << m.format.fraction) - 1)  # what is next below √2
        beyond = m.less(below, mantissa)
        return m.select(beyond, m.add(e, 1.0), e), m.sub(m.select(beyond, m.mul(mantissa, 0.5), mantissa), 1.0)
    scale, shift = m.format.fraction + 1, m.format.whole + m.format.bias
    subnormal = m.less(x, m.format.tiny)
    normal = m.select(subnormal, m.mul(x, 2.0**scale), x)
    return _decomposed(m, normal, m.select(subnormal, shift + scale, shift))[:2]


def _at_ends(m: Math, x: Value, result: Value, zero: float = 0.0) -> Value:
    """A logarithm at the ends of its domain: `zero` (-inf), below it (nan), at infinity; nan for nan."""
    if m.avx512 and zero == 0.0:
        nans = dict.fromkeys(("quiet_nan", "signalling_nan", "negative", "minus_inf"), avx512.NAN)
        return avx512.fixed_up(m.f, result, x, zero=avx512.MINUS_INFINITY, inf=avx512.INFINITY, **nans)
    result = m.select(m.less(zero, x), result, math.nan)
    result = m.select(m.equal(x, zero), -math.inf, result)
    return m.select(m.equal(x, math.inf), math.inf, result)


def _log_near(m: Math, g: Value) -> Value:
    """(log(1 + g) - g) / g²."""
    return m.fma(g, m.horner(g, LOG[element_of(g.type)]), -0.5)


def _log_of(m: Math, e: Value, g: Value) -> Value:
    """log(2ᵉ·(1 + g))."""
    high, low = m.format.split(LN2, 2, m.format.head)
    rest = m.fma(m.mul(g, g), _log_near(m, g), m.mul(e, low))
    return m.fma(e, high, m.add(g, rest))


def log(f: Function, x: Value) -> Value:
    """The natural logarithm."""
    m = Math(f, x.type)
    e, g = _parts(m, x)
    return _at_ends(m, x, _log_of(m, e, g))


def log1p(f: Function, x: Value) -> Value:
    """log(1 + x): what is lost in u = 1 + x is scaled as u is, and added."""
    m = Math(f, x.type)
    u = m.add(x, 1.0)
    lost = m.sub(x, m.sub(u, 1.0))
    e, g, power = _decomposed(m, u, m.format.whole + m.format.bias)
    inverse = m.of_bits(f.binary("sub", m.integer(2 * m.format.bias << m.format.fraction), power))
    scaled = m.select(m.less(x, 2.0**m.format.fraction * 4), m.mul(lost, inverse), 0.0)
    return m.copysign(_at_ends(m, x, _log_of(m, e, m.add(g, scaled)), -1.0), x)  # of -0.0 too


def log2(f: Function, x: Value) -> Value:
    """The logarithm to base 2, exact at its powers."""
    return _log_to_base(f, x, 2)


def log10(f: Function, x: Value) -> Value:
    """The logarithm to base 10, exact at its powers."""
    return _log_to_base(f, x, 10)


def _log_to_base(f: Function, x: Value, base: int) -> Value:
    """e·log(2) + log(1 + g), to the base: what rounding takes from both terms and their sum is added at last."""
    m = Math(f, x.type)
    natural = LN2 if base == 2 else LN10
    e, g = _parts(m, x)
    high, low = m.format.split(LN2 / natural, 2, m.format.head)
    factor = m.format.rounded(1 / natural)
    rest = m.mul(m.mul(m.mul(g, g), _log_near(m, g)), factor)
    rest = m.fma(g, m.format.rounded(1 / natural - Fraction(factor)), m.fma(e, low, rest) if low else rest)
    first = m.mul(e, high)
    total = m.add(first, m.mul(g, factor))
    lost = m.fma(g, factor, m.sub(first, total))  # the difference is exact, as `first` is 0 or the larger one
    return _at_ends(m, x, m.add(total, m.add(lost, rest)))


# --------------------------------------------------------------------------------------------- tanh

TANH_SMALL = {"float": 0.55, "double": 0.625}
TANH_ONE = {"float": 9.5, "double": 20.0}  # from here on tanh is 1 within half a unit


def tanh(f: Function, x: Value) -> Value:
    """The hyperbolic tangent: a polynomial near 0, else 1 - 2 / (exp(2|x|) + 1)."""
    m = Math(f, x.type)
    element = element_of(x.type)
    size = m.abs(x)
    inside = m.at_most(size, TANH_ONE[element])
    whole, r = _reduced(m, m.add(inside, inside), m.format.bias, parts=1)
    power = m.mul(m.horner(r, (1.0, 1.0, *EXP[element])), m.shifted(whole))
    large = m.sub(1.0, m.div(2.0, m.add(power, 1.0)))
    square = m.mul(x, x)
    small = m.fma(m.mul(x, square), m.horner(square, TANH[element]), x)
    return m.copysign(m.select(m.less(size, TANH_SMALL[element]), small, large), x)  # of -0.0 too


# --------------------------------------------------------------------------------------------- powers


def power(f: Function, x: Value, y: Value) -> Value:
    """x ** y, with the C library's special cases: 2 ** (y·log2|x|), where the logarithm has the bits that y takes."""
    m = Math(f, x.type)
    size = m.abs(x)
    finite = m.at_least(m.at_most(y, 1e30), -1e30)  # so that 1 to the power of infinity is 1
    found = (_power_of_float if element_of(x.type) == "float" else _power_of_double)(f, size, finite)
    found = m.select(f.binary("or", m.equal(y, 0.0), m.equal(x, 1.0)), 1.0, found)
    half = m.mul(y, 0.5)
    whole = m.equal(f.intrinsic("rint", y), y)
    odd = f.binary("and", whole, f.compare("fcmp une", f.intrinsic("rint", half), half))
    found = m.select(odd, m.copysign(found, x), found)
    rooted = f.binary("and", m.less(x, 0.0), m.less(-math.inf, x))  # a finite x < 0 has whole powers alone
    return m.select(f.binary("and", rooted, f.compare("fcmp une", f.intrinsic("rint", y), y)), math.nan, found)


def _power_of_float(f: Function, x: Value, y: Value) -> Value:
    """x ** y of float32, for x >= 0 and a finite y: in float64, rounded once."""
    wide = with_element(x.type, "double")
    m = Math(f, wide)
    base, exponent = f.convert("fpext", x, wide), f.convert("fpext", y, wide)
    e, g, _ = _decomposed(m, base, m.format.whole + m.format.bias)
    logarithm = _log2_at_ends(m, base, m.fma(g, m.horner(g, LOG2_SHORT), e))
    result = m.at_least(m.at_most(m.mul(exponent, logarithm), 200.0), -200.0)
    summed = m.add(result, m.format.rounder + m.format.bias)
    rest = m.sub(result, m.sub(summed, m.format.rounder + m.format.bias))
    scaled = m.mul(m.horner(rest, EXP2_SHORT), m.shifted(m.bits(summed)))
    return f.convert("fptrunc", scaled, x.type)


def _log2_at_ends(m: Math, x: Value, result: Value) -> Value:
    """The logarithm to base 2 of x >= 0 at 0 and at infinity; nan of nan."""
    result = m.select(m.equal(x, 0.0), -math.inf, result)
    return m.select(m.less(x, math.inf), result, x)


def _power_of_double(f: Function, x: Value, y: Value) -> Value:
    """x ** y of float64, for x >= 0 and a finite y: the logarithm and the product are sums of two floats.

    Such sums: T. J. Dekker, "A floating-point technique for extending the available precision" (1971).
    """
    m = Math(f, x.type)
    logarithm, low = _long_log2(m, x)
    logarithm = _log2_at_ends(m, x, logarithm)
    product = m.mul(y, logarithm)
    rest = m.fma(y, low, m.fma(y, logarithm, f.negate(product)))
    rest = m.select(m.less(m.abs(product), 1100.0), rest, 0.0)
    product = m.at_least(m.at_most(product, 1030.0), -1080.0)
    bias = m.format.bias
    whole = m.add(product, m.format.rounder + 2 * bias)
    half = m.bits(m.fma(product, 0.5, m.format.rounder + bias))
    r = m.add(m.sub(product, m.sub(whole, m.format.rounder + 2 * bias)), rest)
    natural = m.format.rounded(LN2)
    r = m.fma(r, natural, m.mul(r, m.format.rounded(LN2 - Fraction(natural))))
    second = m.shifted(f.binary("sub", m.bits(whole), half))
    return m.mul(m.mul(m.horner(r, (1.0, 1.0, *EXP["double"])), m.shifted(half)), second)


def _long_log2(m: Math, x: Value) -> tuple[Value, Value]:
    """log2(x) of x > 0 as a sum of two floats, to 65 bits: e + 2/ln(2)·atanh(s) with s = g / (2 + g)."""
    negate = m.f.negate
    e, g = _parts(m, x)
    divisor = m.add(g, 2.0)
    inverse = m.div(1.0, divisor)
    s = m.mul(g, inverse)
    lost = m.sub(g, m.sub(divisor, 2.0))
    s_low = m.mul(m.fma(negate(s), lost, m.fma(negate(s), divisor, g)), inverse)
    square = m.mul(s, s)
    square_low = m.fma(m.add(s, s), s_low, m.fma(s, s, negate(square)))
    # atanh(s) = s + s·w with w = s²/3 + s⁴·(...)
    third = 1 / 3
    first = m.mul(square, third)
    first_low = m.fma(square, m.format.rounded(Fraction(1, 3) - Fraction(third)), m.mul(square_low, third))
    first_low = m.add(m.fma(square, third, negate(first)), first_low)
    second = m.mul(m.mul(square, square), m.horner(square, ATANH))
    w = m.add(first, second)
    w_low = m.add(m.sub(second, m.sub(w, first)), first_low)
    product = m.mul(s, w)
    product_low = m.fma(s_low, w, m.fma(s, w_low, m.fma(s, w, negate(product))))
    a = m.add(s, product)
    a_low = m.add(m.sub(product, m.sub(a, s)), m.add(s_low, product_low))
    factor = m.format.rounded(2 / LN2)
    tail = m.mul(a, factor)
    tail_low = m.fma(a_low, factor, m.mul(a, m.format.rounded(2 / LN2 - Fraction(factor))))
    tail_low = m.add(m.fma(a, factor, negate(tail)), tail_low)
    total = m.add(e, tail)
    return total, m.add(m.sub(tail, m.sub(total, e)), tail_low)


# --------------------------------------------------------------------------------------------- sine and cosine

ANGLES = {"float": 1e5, "double": 1e8}  # beyond, the reduction by π/2 isn't good enough


def sin(f: Function, x: Value) -> Value:
    """The sine."""
    return _sinusoid(f, x, "sin", 0)


def cos(f: Function, x: Value) -> Value:
    """The cosine, a sine a quarter further."""
    return _sinusoid(f, x, "cos", 1)


def sin_and_cos(f: Function, x: Value) -> tuple[Value, Value]:
    """The sine and the cosine of angles that aren't beyond `ANGLES`."""
    return _near(f, x, 0), _near(f, x, 1)


def _sinusoid(f: Function, x: Value, name: str, quarters: int) -> Value:
    """sin(x + quarters·π/2), by the C library where the reduction isn't good enough."""
    near = _near(f, x, quarters)
    m = Math(f, x.type)
    far = m.less(ANGLES[element_of(x.type)], m.abs(x))
    return f.if_(any_lane(f, far), lambda: [m.select(far, libm(f, name, x), near)], lambda: [near])[0]


def _near(f: Function, x: Value, quarters: int) -> Value:
    """sin(x + quarters·π/2): x is reduced by π/2, in three parts."""
    m = Math(f, x.type)
    element = element_of(x.type)
    summed = m.fma(x, m.format.rounded(1 / HALF_PI), m.format.rounder)
    n = m.sub(summed, m.format.rounder)
    r = x
    for part in m.format.split(HALF_PI, 3, m.format.fraction + 1):  # the first difference is exact
        r = m.fma(n, -part, r)
    square = m.mul(r, r)
    sine = m.copysign(m.fma(m.mul(r, square), m.horner(square, SIN[element]), r), r)  # of -0.0 too
    cosine = m.horner(square, (1.0, -0.5, *COS[element]))
    quarter = f.binary("add", m.bits(summed), m.integer(quarters))
    crossed = f.compare("icmp ne", f.binary("and", quarter, m.integer(1)), m.integer(0))
    turned = m.shifted(f.binary("shl", f.binary("and", quarter, m.integer(2)), m.integer(m.format.exponent - 1)))
    return m.of_bits(f.binary("xor", m.bits(m.select(crossed, cosine, sine)), m.bits(turned)))


# --------------------------------------------------------------------------------------------- the error function

ERF_SMALL = {"float": 1.0, "double": 1.25}
ERF_CENTRE = {"float": 2.5, "double": 3.625}
ERF_ONE = {"float": 4.0, "double": 6.0}  # from here on erf is 1 within half a unit


def erf(f: Function, x: Value) -> Value:
    """The error function: a polynomial near 0, and one for the rest, where erf is a smooth step."""
    m = Math(f, x.type)
    element = element_of(x.type)
    size = m.abs(x)
    square = m.mul(x, x)
    small = m.fma(x, m.horner(square, ERF[element]), x)
    shifted = m.sub(m.at_most(size, ERF_ONE[element]), ERF_CENTRE[element])
    large = m.sub(1.0, m.horner(shifted, ERF_TAIL[element]))
    return m.copysign(m.select(m.less(size, ERF_SMALL[element]), small, large), x)  # of -0.0 too


# --------------------------------------------------------------------------------------------- the C library


def any_lane(f: Function, condition: Value) -> Value:
    """Whether a condition holds in any lane, an i1."""
    return condition if lanes_of(condition.type) == 1 else f.intrinsic("vector.reduce.or", condition, result="i1")


def libm(f: Function, name: str, *args: Value) -> Value:
    """A function of the C library, called for one lane after the other, out of line and taken to be rarely needed.

    Args:
        name: its name for double.
    """
    type, element, lanes = args[0].type, element_of(args[0].type), lanes_of(args[0].type)
    symbol = name if element == "double" else f"{name}f"
    helper = f"{symbol}_{lanes}"
    if not f.module.has(helper):
        g = f.module.function(helper, [(type, f"x{k}") for k in range(len(args))], type, internal=True)
        parameters = [g.parameter(k) for k in range(len(args))]
        found = parameters[0]
        for lane in range(lanes):
            one = [p if lanes == 1 else g.extract(p, lane) for p in parameters]
            value = g.call(symbol, element, *one)
            assert value is not None
            found = value if lanes == 1 else g.insert(found, value, lane)
        g.ret(found)
    operands = ", ".join(f"{arg.type} {arg.text}" for arg in args)
    return f.pure(type, f"call {type} @{helper}({operands}) cold")
