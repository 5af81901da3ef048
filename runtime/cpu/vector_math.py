"""Elementary functions on vectors of float32 and float64, as polynomials: `exp(f, x)` emits the code of exp(x).

All are right on their whole domain: at zeros of both signs, infinities, nan, and subnormal arguments and results.

The coefficients are minimax fits, made by the Remez exchange in 60 digits and then rounded; beside each stands the
range, what the polynomial approximates, and the greatest relative error of the function that it leaves. The schemes
are the classical ones: arguments are reduced with a constant that is split in two (Cody and Waite, "Software Manual
for the Elementary Functions", 1980), exponents are read and written as bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from graphc.runtime.cpu.builder import Function, Value, constant, element_of, lanes_of, with_element

Operand = Value | float
Coefficients = tuple[float, ...]  # of a polynomial, the constant term first

with localcontext() as _context:
    _context.prec = 60
    LN2 = Fraction(Decimal(2).ln())


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    Attributes:
        integer: the type of as many bits.
        fraction: bits of the fraction.
        bias: of the exponent.
        head: bits that the first part of a split constant has: its product with any exponent is exact.
    """

    integer: str
    fraction: int
    bias: int
    head: int

    @property
    def rounder(self) -> float:
        """Added to a number, it leaves the nearest integer in the low bits of the sum."""
        return 1.5 * 2.0**self.fraction

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return 2.0 ** (1 - self.bias)

    def rounded(self, number: Fraction) -> float:
        """The nearest number of the format."""
        return float(number) if self.fraction == 52 else float(np.float32(float(number)))

    def split(self, number: Fraction) -> tuple[float, float]:
        """A number as a sum of a short one and a rest."""
        scale = Fraction(2) ** (self.head - math.frexp(float(number))[1])
        first = Fraction(round(number * scale)) / scale
        return float(first), self.rounded(number - first)

    def bits(self, number: float) -> int:
        """The representation of a number of the format."""
        if self.fraction == 52:
            return int(np.float64(number).view(np.int64))
        return int(np.float32(number).view(np.int32))


FORMATS = {"float": Format("i32", 23, 127, 16), "double": Format("i64", 52, 1023, 42)}


class Math:
    """Arithmetic on floats of one type; numbers stand for constants."""

    def __init__(self, f: Function, type: str) -> None:
        self.f = f
        self.type = type
        self.format = FORMATS[element_of(type)]
        self.integers = with_element(type, self.format.integer)

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

# (exp(r) - 1 - r) / r² on |r| <= ln(2)/2: 2^-27.7 of exp in float32, 2^-57 in float64
EXP: dict[str, Coefficients] = {
    "float": (0.49999997, 0.166665435, 0.0416672006, 0.00836652052, 0.00138825271),
    "double": (
        0.5000000000000006,
        0.16666666666666588,
        0.04166666666657676,
        0.00833333333338955,
        0.0013888888931564746,
        0.00019841269719003584,
        2.4801505273912227e-05,
        2.7557407550287494e-06,
        2.762603785147879e-07,
        2.5053771231209988e-08,
    ),
}
# Beyond these, exp(x) is 0 or infinite
EXP_RANGE = {"float": (-104.0, 89.0), "double": (-746.0, 710.0)}
# Where expm1(x) is -1 within half a unit
EXPM1_LOW = {"float": -18.0, "double": -38.0}


def _reduced(m: Math, x: Value, offset: int) -> tuple[Value, Value]:
    """x = n·ln 2 + r with |r| <= ln(2)/2: a value that has `n + offset` in its low bits, and r."""
    base = m.format.rounder + offset
    summed = m.fma(x, m.format.rounded(1 / LN2), base)
    n = m.sub(summed, base)
    high, low = m.format.split(LN2)
    return m.bits(summed), m.fma(n, -low, m.fma(n, -high, x))


def exp(f: Function, x: Value) -> Value:
    """e ** x, as a polynomial times 2 ** n. The power is applied in two halves, so that subnormal results are right."""
    m = Math(f, x.type)
    low, high = EXP_RANGE[element_of(x.type)]
    x = m.at_least(m.at_most(x, high), low)
    bias = m.format.bias
    whole, r = _reduced(m, x, 2 * bias)
    half = m.bits(m.fma(x, m.format.rounded(1 / LN2) / 2, m.format.rounder + bias))
    rest = f.binary("sub", whole, half)
    return m.mul(m.mul(m.horner(r, (1.0, 1.0, *EXP[element_of(x.type)])), m.shifted(half)), m.shifted(rest))


def _exp_inside(m: Math, x: Value) -> Value:
    """e ** x, of what is so small that the result is a normal number; of nan nan."""
    whole, r = _reduced(m, x, m.format.bias)
    return m.mul(m.horner(r, (1.0, 1.0, *EXP[element_of(x.type)])), m.shifted(whole))


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

# (log(1 + f) - f + f²/2) / f³ on √½ <= 1 + f <= √2: 2^-30 of log in float32, 2^-57 in float64
LOG: dict[str, Coefficients] = {
    "float": (
        0.333333135,
        -0.250000089,
        0.200021192,
        -0.166679963,
        0.142195523,
        -0.124055885,
        0.118881643,
        -0.116756544,
        0.0674663857,
    ),
    "double": (
        0.3333333333333314,
        -0.24999999999987976,
        0.20000000000066614,
        -0.16666666669825692,
        0.14285714280092685,
        -0.12499999691458588,
        0.11111111147504386,
        -0.10000015205661728,
        0.09090923930209602,
        -0.08332913552282625,
        0.07691529858140896,
        -0.07149439403738173,
        0.06684588618097352,
        -0.06196678682484064,
        0.05668380836050563,
        -0.056777867956422555,
        0.06503484004207134,
        -0.059816889918536044,
        0.0261508659374436,
    ),
}


def _decomposed(m: Math, x: Value, exponent: float | Value = 0.0) -> tuple[Value, Value, Value]:
    """A normal x > 0 as 2ᵉ·(1 + g) with √½ <= 1 + g < √2: e less `exponent`, g, and the bits of 2ᵉ."""
    f, format = m.f, m.format
    root = format.bits(math.sqrt(0.5))
    one = format.bias << format.fraction
    moved = f.binary("add", m.bits(x), m.integer(one - root))
    biased = f.binary("lshr", moved, m.integer(format.fraction))
    # As the low bits of 2 ** fraction, integers are floats without a conversion, which AVX2 lacks for 64 bits.
    base = 2.0**format.fraction
    shift = m.add(exponent, base + format.bias) if isinstance(exponent, Value) else base + format.bias + exponent
    e = m.sub(m.of_bits(f.binary("or", biased, m.integer(format.bits(base)))), shift)
    low = f.binary("and", moved, m.integer((1 << format.fraction) - 1))
    g = m.sub(m.of_bits(f.binary("add", low, m.integer(root))), 1.0)
    return e, g, f.binary("sub", moved, low)


def _normal(m: Math, x: Value) -> tuple[Value, Value]:
    """x with what is subnormal scaled to be normal, and the exponent of the scale."""
    subnormal = m.less(x, m.format.tiny)
    scale = m.format.fraction + 1
    return m.select(subnormal, m.mul(x, 2.0**scale), x), m.select(subnormal, float(scale), 0.0)


def _at_ends(m: Math, x: Value, result: Value, zero: float = 0.0) -> Value:
    """A logarithm at the ends of its domain: `zero` (-inf), below it (nan), at infinity; nan for nan."""
    result = m.select(m.less(zero, x), result, math.nan)
    result = m.select(m.equal(x, zero), -math.inf, result)
    return m.select(m.equal(x, math.inf), math.inf, result)


def _log_near(m: Math, g: Value) -> Value:
    """(log(1 + g) - g) / g²."""
    return m.fma(g, m.horner(g, LOG[element_of(g.type)]), -0.5)


def _log_of(m: Math, e: Value, g: Value) -> Value:
    """log(2ᵉ·(1 + g))."""
    high, low = m.format.split(LN2)
    rest = m.fma(m.mul(g, g), _log_near(m, g), m.mul(e, low))
    return m.fma(e, high, m.add(g, rest))


def log(f: Function, x: Value) -> Value:
    """The natural logarithm."""
    m = Math(f, x.type)
    normal, scale = _normal(m, x)
    e, g, _ = _decomposed(m, normal, scale)
    return _at_ends(m, x, _log_of(m, e, g))


def log1p(f: Function, x: Value) -> Value:
    """log(1 + x): what is lost in u = 1 + x is scaled as u is, and added."""
    m = Math(f, x.type)
    u = m.add(x, 1.0)
    lost = m.sub(x, m.sub(u, 1.0))
    e, g, power = _decomposed(m, u)
    inverse = m.of_bits(f.binary("sub", m.integer(2 * m.format.bias << m.format.fraction), power))
    scaled = m.select(m.less(x, 2.0**m.format.fraction * 4), m.mul(lost, inverse), 0.0)
    return m.copysign(_at_ends(m, x, _log_of(m, e, m.add(g, scaled)), -1.0), x)  # of -0.0 too


# --------------------------------------------------------------------------------------------- tanh

# (tanh(x) - x) / x³ in x², on |x| < TANH_SMALL: 2^-30 of tanh in float32, 2^-61 in float64
TANH: dict[str, Coefficients] = {
    "float": (-0.333333164, 0.13332586, -0.0538523085, 0.0210716799, -0.00627424149),
    "double": (
        -0.33333333333333315,
        0.13333333333329744,
        -0.053968253966059074,
        0.0218694884685197,
        -0.008863234312643048,
        0.0035921140004849146,
        -0.0014557259518495384,
        0.0005894518146126203,
        -0.00023701177293176799,
        9.155848567646047e-05,
        -3.0187293688197975e-05,
        6.042499974658517e-06,
    ),
}
TANH_SMALL = {"float": 0.55, "double": 0.625}
TANH_ONE = {"float": 9.5, "double": 20.0}  # from here on tanh is 1 within half a unit


def tanh(f: Function, x: Value) -> Value:
    """The hyperbolic tangent: a polynomial near 0, else 1 - 2 / (exp(2|x|) + 1)."""
    m = Math(f, x.type)
    element = element_of(x.type)
    size = m.abs(x)
    inside = m.at_most(size, TANH_ONE[element])
    large = m.sub(1.0, m.div(2.0, m.add(_exp_inside(m, m.add(inside, inside)), 1.0)))
    square = m.mul(x, x)
    small = m.fma(m.mul(x, square), m.horner(square, TANH[element]), x)
    return m.copysign(m.select(m.less(size, TANH_SMALL[element]), small, large), x)  # of -0.0 too


# --------------------------------------------------------------------------------------------- others


def log2(f: Function, x: Value) -> Value:
    """The logarithm to base 2."""
    return libm(f, "log2", x)


def log10(f: Function, x: Value) -> Value:
    """The logarithm to base 10."""
    return libm(f, "log10", x)


def sin(f: Function, x: Value) -> Value:
    """The sine."""
    return libm(f, "sin", x)


def cos(f: Function, x: Value) -> Value:
    """The cosine."""
    return libm(f, "cos", x)


def erf(f: Function, x: Value) -> Value:
    """The error function."""
    return libm(f, "erf", x)


def power(f: Function, x: Value, y: Value) -> Value:
    """x ** y."""
    return libm(f, "pow", x, y)


# --------------------------------------------------------------------------------------------- the C library


def libm(f: Function, name: str, *args: Value) -> Value:
    """A function of the C library, called for one lane after the other; `name` is its name for double."""
    type = args[0].type
    symbol = name if element_of(type) == "double" else f"{name}f"
    return lane_by_lane(
        f,
        f"{symbol}_{lanes_of(type)}",
        lambda g, lanes: _value(g.call(symbol, element_of(type), *lanes)),
        *args,
    )


def lane_by_lane(f: Function, name: str, make: Callable[[Function, Sequence[Value]], Value], *args: Value) -> Value:
    """What `make` makes of each lane, out of line: in a function of this name, taken to be rarely called."""
    type = args[0].type
    if not f.module.has(name):
        g = f.module.function(name, [(type, f"x{k}") for k in range(len(args))], type, internal=True)
        parameters = [g.parameter(k) for k in range(len(args))]
        result = parameters[0]
        if lanes_of(type) == 1:
            result = make(g, parameters)
        else:
            for lane in range(lanes_of(type)):
                result = g.insert(result, make(g, [g.extract(p, lane) for p in parameters]), lane)
        g.ret(result)
    operands = ", ".join(f"{arg.type} {arg.text}" for arg in args)
    return f.pure(type, f"call {type} @{name}({operands}) cold")


def _value(found: Value | None) -> Value:
    assert found is not None
    return found
