"""The algebra of elementwise arithmetic: neutral elements, signs, constants that meet, powers and roots.

"exact" is meant strictly: `x + 0` is no exact rule, because -0.0 + 0.0 is 0.0, and `x * 0` is a finite one. What
cancels terms of different size (`a - b + b`) isn't here at all: compensated arithmetic lives from it.
A rule must not cost where what it takes apart is also used elsewhere: -(c / x) stays, as (-c) / x would be a second
division.
Bounds, comparisons and masks are in `rules_logic.py`, views, casts and reductions in `rules_shape.py`, and what gains
accuracy in `stabilise.py`.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from graphc.ir import Node
from graphc.ops.control import identity, stop_gradient
from graphc.ops.math import (
    ceil_op,
    exp,
    floor_op,
    log,
    negative,
    power_op,
    round_op,
    sign,
    sqrt,
)
from graphc.passes.rewrite import Number, number_of, rule
from graphc.types import is_bool, is_float, np_dtype


def float_limits(dtype: str) -> Any:
    """Range and precision of a float dtype, as `np.finfo` has them."""
    return ml_dtypes.finfo(np_dtype(dtype))  # type: ignore[no-untyped-call]


def is_normal(value: float, dtype: str) -> bool:
    """Whether a number is in the range of a float dtype where nothing is lost to overflow or underflow."""
    limits = float_limits(dtype)
    return float(limits.tiny) <= abs(value) <= float(limits.max)


def merges(operation: np.ufunc, c: Node, d: Node) -> bool:
    """Whether `operation` on two constants gives one, and neither overflows nor is lost to underflow."""
    if not is_float(c.dtype):
        return True  # integers wrap around, in whatever order
    with np.errstate(all="ignore"):
        value = float(operation(np.float64(number_of(c)), np.float64(number_of(d))))
    return is_normal(value, c.dtype) or (value == 0 and operation in (np.add, np.subtract))


def summable(c: Node, d: Node) -> bool:
    """Two constants whose sum and difference are ones."""
    return merges(np.add, c, d) and merges(np.subtract, c, d)


def multipliable(c: Node, d: Node) -> bool:
    """Two constants whose product is one."""
    return merges(np.multiply, c, d)


def add_up(c: Node, d: Node) -> bool:
    """Two factors of one sign whose sum is one: of opposite signs they make nan of infinity."""
    return merges(np.add, c, d) and (not is_float(c.dtype) or (number_of(c) or 0) * (number_of(d) or 0) > 0)


def divisible(c: Node, d: Node) -> bool:
    """Two constants whose quotient is one."""
    return merges(np.divide, c, d)


def exact_inverse(x: Node, c: Node) -> bool:
    """±2^k whose inverse is a normal number too, so that multiplying by it rounds as dividing does."""
    value = float(number_of(c) or 0)
    if number_of(x) is not None or not math.isfinite(value) or abs(math.frexp(value)[0]) != 0.5:
        return False
    return is_normal(1 / value, c.dtype)


def arithmetic(x: Node) -> bool:
    """No bool."""
    return not is_bool(x.dtype)


# --------------------------------------------------------------------------------------------- markers


@rule(fp="exact")
def identity_of(x):
    return identity(x), x


@rule(fp="exact")
def stop_gradient_of(x):  # its work is done when a program is compiled
    return stop_gradient(x), x


# --------------------------------------------------------------------------------------------- neutral elements


@rule(fp="exact")
def mul_one(x):
    return x * 1, x


@rule(fp="exact")
def div_one(x):
    return x / 1, x


@rule(fp="exact")
def add_negative_zero(x):
    return x + -0.0, x


@rule(fp="exact")
def sub_zero(x):
    return x - 0.0, x


@rule(fp="reassoc")
def add_zero(x):
    return x + 0, x


@rule(fp="exact")
def mul_minus_one(x):
    return x * -1, -x


@rule(fp="exact")
def div_minus_one(x):
    return x / -1, -x


@rule(fp="exact")
def negative_zero_minus(x):
    return -0.0 - x, -x


@rule(fp="reassoc")
def zero_minus(x):
    return 0 - x, -x


@rule(fp="finite")
def mul_zero(x):
    return x * 0, 0


@rule(fp="finite")
def zero_div(x):
    return 0 / x, 0


@rule(fp="finite")
def sub_self(x):
    return x - x, 0


@rule(fp="finite")
def div_self(x):
    return x / x, 1


# --------------------------------------------------------------------------------------------- signs move outward


@rule(fp="exact")
def neg_neg(x):
    return negative(negative(x)), x


@rule(fp="exact", samples=lambda leaf: [-(leaf(3, 5) * 2.5)])
def neg_scaled(x, c: Number):
    return -(x * c), x * -c


@rule(fp="exact")
def neg_times_neg(a, b):
    return (-a) * (-b), a * b


@rule(fp="exact")
def neg_times(a, b):
    return (-a) * b, -(a * b)


@rule(fp="exact")
def neg_over_neg(a, b):
    return (-a) / (-b), a / b


@rule(fp="exact")
def neg_over(a, b):
    return (-a) / b, -(a / b)


@rule(fp="exact")
def over_neg(a, b):
    return a / (-b), -(a / b)


@rule(fp="exact")
def add_neg(a, b):
    return a + (-b), a - b


@rule(fp="exact")
def sub_neg(a, b):
    return a - (-b), a + b


@rule(fp="reassoc")
def neg_sub(a, b):
    return -(a - b), b - a


@rule(fp="reassoc")
def neg_minus(a, b):
    return (-a) - b, -(a + b)


# --------------------------------------------------------------------------------------------- constants meet


@rule(fp="exact", samples=lambda leaf: [leaf(3, 5) - 2.5])
def sub_constant(x, c: Number):
    return x - c, x + -c


@rule(fp="exact", where=exact_inverse, samples=lambda leaf: [leaf(3, 5) / 4.0, leaf(3) / -0.125])
def div_power_of_two(x, c: Number):
    return x / c, x * (1 / c)


@rule(fp="reassoc", where=summable, samples=lambda leaf: [(leaf(3, 5) + 2.5) + 0.75])
def add_add(x, c: Number, d: Number):
    return (x + c) + d, x + (c + d)


@rule(fp="reassoc", where=summable, samples=lambda leaf: [(2.5 - leaf(3, 5)) + 0.75])
def minuend_add(x, c: Number, d: Number):
    return (c - x) + d, (c + d) - x


@rule(fp="reassoc", where=summable, samples=lambda leaf: [2.5 - (leaf(3, 5) + 0.75)])
def sub_added(x, c: Number, d: Number):
    return c - (x + d), (c - d) - x


@rule(fp="reassoc", where=summable, samples=lambda leaf: [2.5 - (0.75 - leaf(3, 5))])
def sub_minuend(x, c: Number, d: Number):
    return c - (d - x), x + (c - d)


@rule(fp="reassoc", where=multipliable, samples=lambda leaf: [(leaf(3, 5) * 2.5) * 0.75])
def mul_mul(x, c: Number, d: Number):
    return (x * c) * d, x * (c * d)


@rule(fp="reassoc", where=divisible, samples=lambda leaf: [(leaf(3, 5) * 2.5) / 0.75])
def mul_div(x, c: Number, d: Number):
    return (x * c) / d, x * (c / d)


@rule(fp="reassoc", where=divisible, samples=lambda leaf: [(leaf(3, 5) / 2.5) * 0.75])
def div_mul(x, d: Number, c: Number):
    return (x / d) * c, x * (c / d)


@rule(fp="reassoc", where=multipliable, samples=lambda leaf: [(leaf(3, 5) / 2.5) / 0.75])
def div_div(x, c: Number, d: Number):
    return (x / c) / d, x / (c * d)


@rule(fp="exact", where=arithmetic)
def add_self(x):
    return x + x, x * 2


@rule(
    fp="reassoc",
    where=lambda c: not is_float(c.dtype) or (number_of(c) or 0) > 0,  # inf * -2.5 + inf is nan
    samples=lambda leaf: [x * 2.5 + x for x in [leaf(3, 5)]],
)
def scaled_add_self(x, c: Number):
    return x * c + x, x * (c + 1)


@rule(fp="finite", samples=lambda leaf: [x - x * 2.5 for x in [leaf(3, 5)]])
def self_sub_scaled(x, c: Number):  # inf - inf is nan
    return x - x * c, x * (1 - c)


@rule(fp="reassoc", where=add_up, samples=lambda leaf: [x * 2.5 + x * 0.75 for x in [leaf(3, 5)]])
def scaled_add_scaled(x, c: Number, d: Number):
    return x * c + x * d, x * (c + d)


@rule(fp="finite", where=summable, samples=lambda leaf: [x * 2.5 - x * 0.75 for x in [leaf(3, 5)]])
def scaled_sub_scaled(x, c: Number, d: Number):
    return x * c - x * d, x * (c - d)


# --------------------------------------------------------------------------------------------- powers and roots


@rule(fp="exact")
def power_one(x):
    return power_op(x, 1), x


@rule(fp="exact")
def power_zero(x):
    return power_op(x, 0), 1


@rule(fp="reassoc")
def power_two(x):
    return power_op(x, 2), x * x


@rule(fp="reassoc")
def power_three(x):
    return power_op(x, 3), x * x * x


@rule(fp="reassoc", where=lambda x: is_float(x.dtype), samples=lambda leaf: [power_op(leaf(3, 5), -1.0)])
def power_minus_one(x):
    return power_op(x, -1), 1 / x


@rule(fp="finite", where=lambda x: is_float(x.dtype), samples=lambda leaf: [power_op(leaf(3, 5), 0.5)])
def power_half(x):  # of -inf it is inf, its root is nan
    return power_op(x, 0.5), sqrt(x)


@rule(fp="finite")
def sqrt_squared(x):
    return sqrt(x) * sqrt(x), x


@rule(fp="finite")
def exp_log(x):
    return exp(log(x)), x


@rule(fp="exact")
def abs_abs(x):
    return abs(abs(x)), abs(x)


@rule(fp="exact", where=lambda x: np_dtype(x.dtype).kind != "u", samples=lambda leaf: [abs(-leaf(3, 5))])
def abs_neg(x):
    return abs(-x), abs(x)


@rule(fp="exact")
def abs_squared(x):
    return abs(x) * abs(x), x * x


@rule(fp="exact", where=lambda x: is_float(x.dtype), samples=lambda leaf: [abs(x * x) for x in [leaf(3, 5)]])
def abs_of_square(x):  # an integer's may have wrapped around
    return abs(x * x), x * x


@rule(fp="reassoc")
def sign_times_abs(x):
    return sign(x) * abs(x), x


WHOLE = frozenset({floor_op, ceil_op, round_op})


@rule(fp="exact", on=WHOLE, of=WHOLE, samples=lambda leaf: [a(b(leaf(3, 5))) for a in WHOLE for b in WHOLE])
def rounded_again(node: Node) -> Node:
    return node.inputs[0]
