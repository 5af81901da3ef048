"""Lines of the table: arithmetic, elementary functions, comparisons, choice, activations.

Where ONNX's operator means something else than ours in some corner (an integer divided by 0, a float remainder, log1p
near 0), the line is an expression that means the same everywhere. One corner is left: ONNX Runtime computes powers of
integers in float64, so those beyond 2**53 are inexact there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphc.exporters.onnx.builder import Builder, Value
from graphc.exporters.onnx.line import Line, direct, parametric, pointwise
from graphc.ir import Node
from graphc.op import Op
from graphc.operands import cast_op
from graphc.ops import activations, control, math
from graphc.ops.nn import SPACING
from graphc.types import is_float

# --------------------------------------------------------------------------------------------- division


def _nonzero(x: Value) -> bool:
    """Whether it is a constant without elements that trap an integer division: 0, and -1 under the lowest integer."""
    return x.array is not None and not ((x.array == 0) | (x.array == -1)).any()


def _safe(b: Builder, d: Value) -> tuple[Value, Value]:
    """Where an integer divisor is 0 or -1, the roots of d * (d + 1); and the divisor with 1 in their place."""
    one = b.like(d, 1)
    trap = b.op("Equal", b.op("Mul", d, b.op("Add", d, one)), b.like(d, 0))
    return trap, b.op("Where", trap, one, d)


def _wide_integers(b: Builder, *xs: Value) -> tuple[Value, ...]:
    """Integers below 32 bits as int32."""
    return tuple(x if x.dtype in ("int32", "int64") else b.cast(x, "int32") for x in xs)


def _floor_divide(b: Builder, x: Value, d: Value) -> Value:
    if is_float(x.dtype):
        return _floor_divide_floats(b, x, d)
    n, m = _wide_integers(b, x, d)
    if _nonzero(m):
        return b.cast(_quotient(b, n, m), x.dtype)
    trap, safe = _safe(b, m)
    return b.cast(b.op("Where", trap, b.op("Mul", n, m), _quotient(b, n, safe)), x.dtype)


def _quotient(b: Builder, n: Value, d: Value) -> Value:
    """The floor of integers: ONNX's division truncates, which is one too much where its rest isn't NumPy's."""
    truncated = b.op("Div", n, d)
    rest = b.op("Sub", n, b.op("Mul", truncated, d))
    lower = b.op("Not", b.op("Equal", rest, b.op("Mod", n, d)))
    return b.op("Sub", truncated, b.cast(lower, n.dtype))


def _remainder(b: Builder, x: Value, d: Value) -> Value:
    if is_float(x.dtype):
        rest = b.op("Mod", x, d, fmod=1)
        return b.op("Where", _opposed(b, rest, d), b.op("Add", rest, d), rest)
    n, m = _wide_integers(b, x, d)
    return b.cast(b.op("Mod", n, m if _nonzero(m) else _safe(b, m)[1]), x.dtype)


def _opposed(b: Builder, rest: Value, d: Value) -> Value:
    """Where the remainder of a division that truncates, which has the sign of the dividend, isn't NumPy's."""
    zero = b.like(d, 0)
    signs = b.op("Xor", b.op("Less", rest, zero), b.op("Less", d, zero))
    return b.op("And", signs, b.op("Not", b.op("Equal", rest, zero)))


def _floor_divide_floats(b: Builder, x: Value, d: Value) -> Value:
    """NumPy's algorithm: the quotient of what is a multiple up to rounding; x / d for a divisor of 0."""
    zero, one = b.like(d, 0), b.like(d, 1)
    rest = b.op("Mod", x, d, fmod=1)
    times = b.op("Round", b.op("Div", b.op("Sub", x, rest), d))
    lower = b.op("Where", _opposed(b, rest, d), b.op("Sub", times, one), times)
    return b.op("Where", b.op("Equal", d, zero), b.op("Div", x, d), lower)


# --------------------------------------------------------------------------------------------- functions


def _power(b: Builder, x: Value, exponent: Value) -> Value:
    """Of integers, a negative exponent gives ±1 for ±1 and else 0."""
    if is_float(x.dtype):
        return b.op("Pow", x, exponent)
    n, e = _wide_integers(b, x, exponent)
    if e.array is not None and (e.array >= 0).all():
        return b.cast(b.op("Pow", n, e), x.dtype)
    zero, one = b.like(n, 0), b.like(n, 1)
    lost = b.op("And", b.op("Less", e, zero), b.op("Not", b.op("Equal", b.op("Abs", n), one)))
    return b.cast(b.op("Where", lost, zero, b.op("Pow", n, b.op("Abs", e))), x.dtype)


def _expm1(b: Builder, x: Value) -> Value:
    """2t / (1 - t) with t = tanh(x/2) near 0, where exp(x) - 1 cancels."""
    one, two = b.like(x, 1), b.like(x, 2)
    t = b.op("Tanh", b.op("Div", x, two))
    near = b.op("Div", b.op("Mul", t, two), b.op("Sub", one, t))
    return b.op("Where", b.op("Less", b.op("Abs", x), one), near, b.op("Sub", b.op("Exp", x), one))


def _log1p(b: Builder, x: Value) -> Value:
    """log(u) with u = 1 + x, and near 0 what the rounding of u took away, divided by u."""
    one = b.like(x, 1)
    u = b.op("Add", x, one)
    log = b.op("Log", u)
    lost = b.op("Sub", x, b.op("Sub", u, one))
    near = b.op("Add", log, b.op("Div", lost, u))
    return b.op("Where", b.op("Less", b.op("Abs", x), b.like(x, 0.5)), near, log)


def _log_to_base(base: float) -> Callable[[Builder, Value], Value]:
    """The quotient of natural logarithms; an integer where it is one up to rounding, as for powers of the base."""

    def line(b: Builder, x: Value) -> Value:
        quotient = b.op("Div", b.op("Log", x), b.like(x, np.log(base)))
        whole = b.op("Round", quotient)
        rest = b.op("Abs", b.op("Sub", quotient, whole))
        rounding = b.op("Mul", b.op("Abs", whole), b.like(x, 2 * SPACING[x.dtype]))
        return b.op("Where", b.op("Less", rest, rounding), whole, quotient)

    return line


def _clip(b: Builder, x: Value, low: Value, high: Value) -> Value:
    """ONNX's Clip takes scalar bounds; one that no value is beyond is left out."""
    if low.shape or high.shape:
        return b.op("Min", b.op("Max", x, low), high)
    lowest, highest = (-np.inf, np.inf) if is_float(x.dtype) else (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max)
    idle = [v.array is not None and v.array == end for v, end in ((low, lowest), (high, highest))]
    return b.op("Clip", x, None if idle[0] else low, None if idle[1] else high)


def _where(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    """ONNX Runtime doesn't choose among bools."""
    if x.dtype != "bool":
        return b.op("Where", condition, x, y)
    return b.op("Or", b.op("And", condition, x), b.op("And", b.op("Not", condition), y))


def _not_equal(b: Builder, x: Value, y: Value) -> Value:
    return b.op("Not", b.op("Equal", x, y))


def _log_sigmoid(b: Builder, x: Value) -> Value:
    return b.op("Neg", b.op("Softplus", b.op("Neg", x)))


def _single(node: Node) -> bool:
    """The condition of composites that ONNX Runtime has no, or no exact, double of."""
    return is_float(node.dtype) and node.dtype != "float64"


def _handed_on(b: Builder, x: Value) -> Value:
    return x


LINES: dict[Op, Line] = {
    math.add: direct("Add", bools="Or"),
    math.subtract: direct("Sub"),
    math.multiply: direct("Mul", bools="And"),
    math.divide: direct("Div"),
    math.negative: direct("Neg"),
    math.floor_divide: pointwise(_floor_divide),
    math.remainder: pointwise(_remainder),
    math.reciprocal: direct("Reciprocal"),
    math.power_op: pointwise(_power, rounds=False),
    math.sqrt: direct("Sqrt"),
    math.exp: direct("Exp"),
    math.expm1: pointwise(_expm1),
    math.log: direct("Log"),
    math.log1p: pointwise(_log1p),
    math.log2: pointwise(_log_to_base(2)),
    math.log10: pointwise(_log_to_base(10)),
    math.sin: direct("Sin"),
    math.cos: direct("Cos"),
    math.tan: direct("Tan", when=_single),
    math.tanh: direct("Tanh"),
    math.sigmoid: direct("Sigmoid"),
    math.erf: direct("Erf"),
    math.abs: direct("Abs"),
    math.sign: direct("Sign"),
    math.maximum: direct("Max", bools="Or"),
    math.minimum: direct("Min", bools="And"),
    math.clip_op: pointwise(_clip, rounds=False),
    math.floor_op: direct("Floor"),
    math.ceil_op: direct("Ceil"),
    math.round_op: direct("Round"),
    math.equal: direct("Equal"),
    math.not_equal: pointwise(_not_equal, rounds=False),
    math.less: direct("Less"),
    math.less_equal: direct("LessOrEqual"),
    math.greater: direct("Greater"),
    math.greater_equal: direct("GreaterOrEqual"),
    math.isnan: direct("IsNaN"),
    math.isinf: direct("IsInf"),
    math.logical_and: direct("And"),
    math.logical_or: direct("Or"),
    math.logical_xor: direct("Xor"),
    math.logical_not: direct("Not"),
    math.where: pointwise(_where, rounds=False),
    cast_op: Line(lambda b, node, x: b.cast(x, node.dtype), trailing=0),
    control.identity: pointwise(_handed_on, rounds=False),
    control.stop_gradient: pointwise(_handed_on, rounds=False),
    activations.relu: direct("Relu", when=lambda node: is_float(node.dtype)),
    activations.leaky_relu_op: parametric("LeakyRelu", alpha="negative_slope"),
    activations.elu_op: parametric("Elu", when=_single, alpha="alpha"),
    activations.gelu_op: parametric("Gelu", since=20, when=_single, approximate="approximate"),
    activations.softplus_op: direct("Softplus", when=lambda node: _single(node) and node.attrs["beta"] == 1),
    activations.log_sigmoid: pointwise(_log_sigmoid, when=_single),
}
