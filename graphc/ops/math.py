"""Pointwise arithmetic, elementary functions, rounding, comparisons and logic, with NumPy's meanings.

Operands are promoted to one dtype and broadcast to one shape; integers become floats where only floats make sense.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.composites import composite
from graphc.errors import DTypeError
from graphc.ir import Node
from graphc.op import Array, Cotangents, NoGradient, Op, Sample
from graphc.operands import WEAK, as_node, astype, pointwise, pointwise_operands, splat_value
from graphc.operators import METHODS, method
from graphc.ops import special
from graphc.ops.samples import PAIRS, SHAPES, also, away_from, masks, pairs, reals
from graphc.types import is_float, is_integer, np_dtype, promote_scalar

PIECEWISE_CONSTANT = NoGradient("it is piecewise constant")
TRUE_OR_FALSE = NoGradient("it is true or false")


# --------------------------------------------------------------------------------------------- arithmetic

add = pointwise(
    "add",
    np.add,
    lambda g, y, a, b: (g, g),
    accepts="any",
    commutative=True,
    samples=pairs((-2, 2)),
    doc="a + b; of bools, `or` as in NumPy.",
)

subtract = pointwise(
    "subtract",
    np.subtract,
    lambda g, y, a, b: (g, -g),
    accepts="number",
    samples=pairs((-2, 2)),
    doc="a - b.",
)

multiply = pointwise(
    "multiply",
    np.multiply,
    lambda g, y, a, b: (g * b, g * a),
    accepts="any",
    commutative=True,
    samples=pairs((-2, 2)),
    doc="a * b; of bools, `and` as in NumPy.",
)


def _divide_operands(op: Op, args: Sequence[Any]) -> tuple[Node, ...]:
    """Integers are divided in float64, however narrow they are, as in NumPy."""
    values = [arg if arg.__class__ in WEAK else as_node(arg) for arg in args]
    tensors = [value for value in values if isinstance(value, Node)]
    if tensors and not any(is_float(x.dtype) for x in tensors):
        values = [astype(value, "float64") if isinstance(value, Node) else value for value in values]
    return pointwise_operands(op, values)


divide = dataclasses.replace(
    pointwise(
        "divide",
        np.divide,
        lambda g, y, a, b: (g / b, -(g * (y / b))),
        samples=pairs((-2, 2), (0.5, 2)),
        doc="a / b, in floats; of integers in float64.",
    ),
    coerce=_divide_operands,
)

negative = pointwise("negative", np.negative, lambda g, y, x: (-g,), accepts="number", samples=reals(-2, 2), doc="-x.")

QUOTIENTS = also(
    pairs((3.1, 3.4), (1.2, 1.5)),
    Sample((np.array([7.0, -7.0, 7.0, -7.0, 6.0, -6.0]), np.array([2.0, 2.0, -2.0, -2.0, 3.0, 3.0]))),
)

floor_divide = pointwise(
    "floor_divide",
    np.floor_divide,
    PIECEWISE_CONSTANT,
    accepts="number",
    samples=QUOTIENTS,
    doc="The greatest integer <= a / b. An integer divided by 0 gives 0, a float inf or nan, as in NumPy.",
)

remainder = pointwise(
    "remainder",
    np.remainder,
    lambda g, y, a, b: (g, -(g * floor_divide(a, b))),
    accepts="number",
    samples=QUOTIENTS,
    doc="a - b * floor_divide(a, b), which has the sign of b, as a zero too. Of an integer by 0 it is 0, as in NumPy.",
)


@method("square")
def square(x: Any) -> Any:
    """x * x."""
    x = as_node(x)
    return multiply(x, x)


@composite(accepts="float", vjp=lambda g, y, x: (-(g * (y * y)),), samples=reals(0.5, 2))
def reciprocal(x: Any) -> Any:
    """1 / x, in floats."""
    return 1 / x


# --- powers


def _power(a: Array, b: Array) -> Array:
    """a ** b; of integers, what a negative exponent gives is truncated: ±1 for a = ±1, else 0."""
    if a.dtype.kind == "f":
        return np.power(a, b)
    inverted = np.where(np.abs(a) == 1, np.power(a, b & 1), 0)
    return np.where(b < 0, inverted, np.power(a, np.where(b < 0, 0, b)))


def _power_vjp(g: Any, y: Any, a: Any, b: Any) -> Cotangents:
    """b * a ** (b - 1), and y * log(a), without the traps at a = 0: both are 0 at 0 ** 0, as in torch."""
    exponent = splat_value(b) if isinstance(b, Node) else None
    if exponent is None:
        fewer = where(logical_and(equal(a, 0), equal(b, 0)), 1, b) - 1
    else:
        fewer = float(exponent) - 1 if exponent else 0.0
    flat = logical_and(equal(a, 0), greater_equal(b, 0))
    return g * (b * power(a, fewer)), g * (y * log(where(flat, 1, a)))


def _power_operands(op: Op, args: Sequence[Any]) -> tuple[Node, ...]:
    operands = pointwise_operands(op, args)
    exponent = splat_value(operands[-1])
    if is_integer(operands[0].dtype) and exponent is not None and exponent < 0:
        raise DTypeError(
            f"{operands[0].type} to the power {exponent} isn't an integer",
            hint="cast the base first: gc.cast(x, 'float32')",
        )
    return operands


power_op = dataclasses.replace(
    pointwise(
        "power",
        _power,
        _power_vjp,
        accepts="number",
        samples=also(
            pairs((0.2, 2)),
            Sample((np.array([0.0, 0.0, 0.0, -2.0, -1.0, 3.0]), np.array([0.0, 1.0, 2.0, 3.0, -3.0, -2.0]))),
        ),
    ),
    coerce=_power_operands,
)


@method("power")
def power(x: Any, exponent: Any) -> Any:
    """x ** exponent. A Python number 1, 2 or 3 makes a product of it.

    An integer to the power of a negative constant is a DTypeError, as in NumPy; to the power of a negative element of
    a tensor it is truncated: ±1 where the base is ±1, else 0.
    """
    small = exponent.__class__ in (int, float) and exponent in (1, 2, 3)
    if small and isinstance(x, Node) and promote_scalar(x.dtype, exponent) == x.dtype:
        return functools.reduce(multiply, [x] * int(exponent))
    return power_op(x, exponent)


sqrt = pointwise(
    "sqrt", np.sqrt, lambda g, y, x: (g * 0.5 / y,), samples=reals(0.2, 4), doc="√x; nan for a negative x."
)


@composite(accepts="float", vjp=lambda g, y, x: (g * (-0.5 * (y * y * y)),), samples=reals(0.2, 4))
def rsqrt(x: Any) -> Any:
    """1 / √x."""
    return 1 / sqrt(x)


# --------------------------------------------------------------------------------------------- exponentials

exp = pointwise("exp", np.exp, lambda g, y, x: (g * y,), samples=reals(-2, 2), doc="e ** x.")

expm1 = pointwise(
    "expm1", np.expm1, lambda g, y, x: (g * (y + 1),), samples=reals(-2, 2), doc="exp(x) - 1, accurate near 0."
)

log = pointwise(
    "log", np.log, lambda g, y, x: (g / x,), samples=reals(0.2, 4), doc="The natural logarithm; -inf at 0, nan below."
)

log1p = pointwise(
    "log1p", np.log1p, lambda g, y, x: (g / (1 + x),), samples=reals(-0.5, 4), doc="log(1 + x), accurate near 0."
)

log2 = pointwise(
    "log2",
    np.log2,
    lambda g, y, x: (g / (x * math.log(2)),),
    samples=reals(0.2, 4),
    doc="The logarithm to base 2, exact at powers of 2.",
)


def _log10(x: Array) -> Array:
    """In float64, rounded once: NumPy's of float32 misses the exponents of powers of 10."""
    return np.log10(x, dtype=np.float64).astype(x.dtype)


log10 = pointwise(
    "log10",
    _log10,
    lambda g, y, x: (g / (x * math.log(10)),),
    samples=reals(0.2, 4),
    doc="The logarithm to base 10, exact at 1, 10, 100 and so on.",
)


@composite(accepts="float", vjp=lambda g, y, x: (g * (y * math.log(2)),), samples=reals(-2, 2))
def exp2(x: Any) -> Any:
    """2 ** x, exact for integers."""
    return power_op(2.0, x)


def _xlogy_vjp(g: Any, y: Any, x: Any, a: Any) -> Cotangents:
    trapped = logical_and(equal(x, 0), less_equal(a, 0))
    return g * log(where(trapped, 1, a)), g * (x / a)


@composite(
    accepts="float",
    vjp=_xlogy_vjp,
    samples=also(pairs((-2, 2), (0.2, 4)), Sample((np.array([0.0, 0.0, 2.0]), np.array([0.0, -1.0, 0.5])))),
)
def xlogy(x: Any, a: Any) -> Any:
    """x * log(a), and 0 where x is 0, whatever number a is."""
    return where(logical_and(equal(x, 0), logical_not(isnan(a))), 0, x * log(a))


# --------------------------------------------------------------------------------------------- angles and sigmoids

sin = pointwise("sin", np.sin, lambda g, y, x: (g * cos(x),), samples=reals(-3, 3), doc="The sine of x radians.")

cos: Op = pointwise(
    "cos", np.cos, lambda g, y, x: (-(g * sin(x)),), samples=reals(-3, 3), doc="The cosine of x radians."
)


@composite(accepts="float", vjp=lambda g, y, x: (g * (1 + y * y),), samples=reals(-1.2, 1.2))
def tan(x: Any) -> Any:
    """The tangent of x radians."""
    return sin(x) / cos(x)


tanh = pointwise(
    "tanh", np.tanh, lambda g, y, x: (g * (1 - y * y),), samples=reals(-3, 3), doc="The hyperbolic tangent."
)


@composite(accepts="float", vjp=lambda g, y, x: (g * (y * (1 - y)),), samples=reals(-4, 4))
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), the logistic function."""
    return 1 / (1 + exp(-x))


erf = pointwise(
    "erf",
    special.erf,
    lambda g, y, x: (g * (2 / math.sqrt(math.pi) * exp(-(x * x))),),
    samples=reals(-3, 3),
    doc="The error function, 2/√π · ∫₀ˣ exp(-t²) dt.",
)


# --------------------------------------------------------------------------------------------- sizes and bounds

abs = pointwise(
    "abs",
    np.abs,
    lambda g, y, x: (g * sign(x),),
    accepts="number",
    samples=also(away_from(np.zeros_like, reals(-2, 2)), Sample((np.array([0.0, -0.0, -1.5]),))),
    doc="|x|; its gradient at 0 is 0, at nan nan.",
)

sign: Op = pointwise(
    "sign",
    np.sign,
    PIECEWISE_CONSTANT,
    accepts="number",
    samples=also(away_from(np.zeros_like, reals(-2, 2)), Sample((np.array([0.0, -0.0, -1.5]),))),
    doc="-1, 0 or 1, by the sign of x; nan for nan.",
)

TIES = Sample((np.array([1.0, -1.0, 0.0]), np.array([1.0, 2.0, -0.0])))


def _of_the_chosen(g: Any, chosen: Any, a: Any, b: Any) -> Any:
    """The cotangent of `a` where it was chosen among both, half of it where they tie."""
    return where(chosen, where(equal(a, b), g * 0.5, g), 0)


maximum = pointwise(
    "maximum",
    np.maximum,
    lambda g, y, a, b: (
        _of_the_chosen(g, greater_equal(a, b), a, b),
        _of_the_chosen(g, greater_equal(b, a), a, b),
    ),
    accepts="any",
    commutative=True,
    samples=also(pairs((-2, 2)), TIES),
    doc="The greater of both, nan if one is, without a gradient then; at a tie the gradient is shared.",
)

minimum = pointwise(
    "minimum",
    np.minimum,
    lambda g, y, a, b: (
        _of_the_chosen(g, less_equal(a, b), a, b),
        _of_the_chosen(g, less_equal(b, a), a, b),
    ),
    accepts="any",
    commutative=True,
    samples=also(pairs((-2, 2)), TIES),
    doc="The smaller of both, nan if one is, without a gradient then; at a tie the gradient is shared.",
)


def _clip_vjp(g: Any, y: Any, x: Any, low: Any, high: Any) -> Cotangents:
    inside = logical_and(greater_equal(x, low), less_equal(x, high))
    at_low = logical_and(less(x, low), less(low, high))
    at_high = logical_or(greater(x, high), greater(low, high))
    return where(inside, g, 0), where(at_low, g, 0), where(at_high, g, 0)


def _clips(rng: np.random.Generator) -> list[Sample]:
    kinked = Sample(
        (np.array([-1.0, 0.0, 1.0, 2.0]), np.array([0.0, 0.0, 3.0, 1.0]), np.array([1.0, 0.0, 2.0, 2.0])),
        differentiable=False,
    )
    shapes = [*[(s, s, s) for s in SHAPES], ((3, 5), (), (5,))]
    steps = np.array([-1.5, -0.5, 0.5, 1.5])  # far from the bounds, which are about ±1
    return [
        kinked,
        *[
            Sample((rng.choice(steps, x), rng.uniform(-1.1, -0.9, low), rng.uniform(0.9, 1.1, high)))
            for x, low, high in shapes
        ],
    ]


clip_op = pointwise(
    "clip", lambda x, low, high: np.minimum(np.maximum(x, low), high), _clip_vjp, accepts="number", samples=_clips
)


@method("clip")
def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    """`x` with values below `min` set to it and those above `max` set to that; None leaves a side open.

    The gradient is 1 inside, including the bounds. Where `min` is above `max`, the result is `max`.
    """
    x = as_node(x)
    lowest, highest = _limits(x.dtype)
    return clip_op(x, lowest if min is None else min, highest if max is None else max)


def _limits(dtype: str) -> tuple[float, float]:
    """What no value of `dtype` is below, and what none is above."""
    if is_float(dtype):
        return -math.inf, math.inf
    if is_integer(dtype):
        limits = np.iinfo(np_dtype(dtype))
        return int(limits.min), int(limits.max)
    return 0, 1


# --------------------------------------------------------------------------------------------- rounding

floor_op = pointwise(
    "floor", np.floor, PIECEWISE_CONSTANT, samples=also(reals(-3, 3), Sample((np.array([-2.0, -0.5, -0.0, 1.5]),)))
)
ceil_op = pointwise(
    "ceil", np.ceil, PIECEWISE_CONSTANT, samples=also(reals(-3, 3), Sample((np.array([-2.0, -0.5, -0.0, 1.5]),)))
)
round_op = pointwise(
    "round", np.rint, PIECEWISE_CONSTANT, samples=also(reals(-3, 3), Sample((np.array([-2.5, -0.5, 0.5, 1.5]),)))
)


def floor(x: Any) -> Any:
    """The greatest integer <= x, in the dtype of x; what isn't a float stays as it is."""
    x = as_node(x)
    return floor_op(x) if is_float(x.dtype) else x


def ceil(x: Any) -> Any:
    """The smallest integer >= x, in the dtype of x; what isn't a float stays as it is."""
    x = as_node(x)
    return ceil_op(x) if is_float(x.dtype) else x


@method("round")
def round(x: Any, decimals: int = 0) -> Any:
    """`x` rounded to so many decimals (before the point, if negative); halves go to the even neighbour."""
    x = as_node(x)
    if not is_float(x.dtype):
        return x if decimals >= 0 else astype(round(astype(x, "float64"), decimals), x.dtype)
    if decimals == 0:
        return round_op(x)
    scale = 10.0 ** (decimals if decimals > 0 else -decimals)
    return round_op(x * scale) / scale if decimals > 0 else round_op(x / scale) * scale


# --------------------------------------------------------------------------------------------- comparisons


def _compares(rng: np.random.Generator) -> list[Sample]:
    """Small integers, so that many are equal."""
    return [Sample((rng.integers(0, 4, a).astype(float), rng.integers(0, 4, b).astype(float))) for a, b in PAIRS]


def _comparison(name: str, ref: np.ufunc, doc: str, *, commutative: bool = False) -> Op:
    return pointwise(
        name, ref, TRUE_OR_FALSE, accepts="any", result="bool", commutative=commutative, samples=_compares, doc=doc
    )


equal = _comparison("equal", np.equal, "Whether a and b are equal, elementwise; nan equals nothing.", commutative=True)
not_equal = _comparison("not_equal", np.not_equal, "Whether a and b differ, elementwise.", commutative=True)
less = _comparison("less", np.less, "a < b.")
less_equal: Op = _comparison("less_equal", np.less_equal, "a <= b.")
greater = _comparison("greater", np.greater, "a > b.")
greater_equal: Op = _comparison("greater_equal", np.greater_equal, "a >= b.")


def _classified(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((rng.choice([0.0, -1.5, np.nan, np.inf, -np.inf], shape),), differentiable=False) for shape in SHAPES
    ]


@composite(accepts="float", vjp=TRUE_OR_FALSE, samples=_classified)
def isnan(x: Any) -> Any:
    """Whether x is not a number."""
    return not_equal(x, x)


@composite(accepts="float", vjp=TRUE_OR_FALSE, samples=_classified)
def isinf(x: Any) -> Any:
    """Whether x is infinite, of either sign."""
    return equal(abs(x), math.inf)


@composite(accepts="float", vjp=TRUE_OR_FALSE, samples=_classified)
def isfinite(x: Any) -> Any:
    """Whether x is neither infinite nor nan."""
    return less(abs(x), math.inf)


# --------------------------------------------------------------------------------------------- logic and choice

logical_and = pointwise(
    "logical_and",
    np.logical_and,
    TRUE_OR_FALSE,
    accepts="bool",
    commutative=True,
    samples=masks(2),
    doc="a and b, of bools.",
)
logical_or = pointwise(
    "logical_or",
    np.logical_or,
    TRUE_OR_FALSE,
    accepts="bool",
    commutative=True,
    samples=masks(2),
    doc="a or b, of bools.",
)
logical_xor = pointwise(
    "logical_xor",
    np.logical_xor,
    TRUE_OR_FALSE,
    accepts="bool",
    commutative=True,
    samples=masks(2),
    doc="Whether one of a and b is true but not both.",
)
logical_not = pointwise(
    "logical_not", np.logical_not, TRUE_OR_FALSE, accepts="bool", samples=masks(1), doc="not a, of bools."
)


def _choices(rng: np.random.Generator) -> list[Sample]:
    shapes = [*[(s, s, s) for s in SHAPES], ((3, 1), (3, 5), (5,)), ((4,), (), (4,)), ((), (2, 3), (2, 3))]
    return [Sample((rng.random(c) < 0.5, rng.standard_normal(a), rng.standard_normal(b))) for c, a, b in shapes]


where: Op = pointwise(
    "where",
    lambda condition, a, b: np.where(condition, a, b),  # NumPy 2.2 tells nobody how many operands its own has
    lambda g, y, condition, a, b: (None, where(condition, g, 0), where(condition, 0, g)),
    accepts=("bool", "any", "any"),
    samples=_choices,
    doc="a where the condition holds, else b. No gradient reaches the one that wasn't chosen.",
)

METHODS.update(
    {
        op.name: op
        for op in (
            *(abs, negative, sqrt, rsqrt, reciprocal, exp, log, sin, cos, tan, tanh, sigmoid, erf),
            *(add, subtract, multiply, divide, floor_divide, remainder, maximum, minimum),
            *(equal, not_equal, less, less_equal, greater, greater_equal),
            *(logical_and, logical_or, logical_xor, logical_not),
        )
    }
)
