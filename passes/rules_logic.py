"""The algebra of bounds, comparisons, logic and choice: what masks in gradients come to.

Of 0.0 and -0.0 the bounds may return either, as in IEEE 754 (2008): rules on them are exact but for that.
"""

from __future__ import annotations

import math

from graphc.ir import Node
from graphc.operands import astype, constant
from graphc.ops.math import (
    clip_op,
    equal,
    greater,
    greater_equal,
    less,
    less_equal,
    logical_xor,
    maximum,
    minimum,
    not_equal,
    where,
)
from graphc.passes.rewrite import CONSTANTS, Number, holds, number_of, rule
from graphc.types import is_float

# --------------------------------------------------------------------------------------------- bounds


@rule(fp="exact")
def max_self(x):
    return maximum(x, x), x


@rule(fp="exact")
def min_self(x):
    return minimum(x, x), x


@rule(fp="exact")
def max_again(x, y):
    return maximum(maximum(x, y), y), maximum(x, y)


@rule(fp="exact")
def min_again(x, y):
    return minimum(minimum(x, y), y), minimum(x, y)


@rule(fp="exact", samples=lambda leaf: [maximum(maximum(leaf(3, 5), 2.0), 1.0)])
def max_max(x, c: Number, d: Number):
    return maximum(maximum(x, c), d), maximum(x, maximum(c, d))


@rule(fp="exact", samples=lambda leaf: [minimum(minimum(leaf(3, 5), 2.0), 1.0)])
def min_min(x, c: Number, d: Number):
    return minimum(minimum(x, c), d), minimum(x, minimum(c, d))


@rule(fp="exact", where=lambda x: is_float(x.dtype), samples=lambda leaf: [maximum(leaf(3, 5), -math.inf)])
def max_unbounded(x):
    return maximum(x, -math.inf), x


@rule(fp="exact", where=lambda x: is_float(x.dtype), samples=lambda leaf: [minimum(leaf(3, 5), math.inf)])
def min_unbounded(x):
    return minimum(x, math.inf), x


@rule(fp="exact", where=lambda x: is_float(x.dtype), samples=lambda leaf: [clip_op(leaf(3, 5), -1.0, math.inf)])
def clip_below(x, low):
    return clip_op(x, low, math.inf), maximum(x, low)


@rule(fp="exact", where=lambda x: is_float(x.dtype), samples=lambda leaf: [clip_op(leaf(3, 5), -math.inf, 1.0)])
def clip_above(x, high):
    return clip_op(x, -math.inf, high), minimum(x, high)


# --------------------------------------------------------------------------------------------- comparisons, logic


@rule(fp="exact", where=lambda b: number_of(b) is None)
def greater_swapped(a, b):
    return greater(a, b), less(b, a)


@rule(fp="exact", where=lambda b: number_of(b) is None)
def greater_equal_swapped(a, b):
    return greater_equal(a, b), less_equal(b, a)


@rule(fp="exact", where=lambda x: number_of(x) is None, samples=lambda leaf: [less(2.0, leaf(3, 5))])
def constant_less(c: Number, x):
    return less(c, x), greater(x, c)


@rule(fp="exact", where=lambda x: number_of(x) is None, samples=lambda leaf: [less_equal(2.0, leaf(3, 5))])
def constant_less_equal(c: Number, x):
    return less_equal(c, x), greater_equal(x, c)


@rule(fp="exact")
def not_not(x):
    return ~(~x), x


@rule(fp="exact")
def not_equal_of(a, b):
    return ~equal(a, b), not_equal(a, b)


@rule(fp="exact")
def equal_of(a, b):
    return ~not_equal(a, b), equal(a, b)


@rule(fp="finite")
def not_less(a, b):
    return ~less(a, b), less_equal(b, a)


@rule(fp="finite")
def not_less_equal(a, b):
    return ~less_equal(a, b), less(b, a)


@rule(fp="exact")
def and_self(x):
    return x & x, x


@rule(fp="exact")
def or_self(x):
    return x | x, x


@rule(fp="exact")
def and_true(x):
    return x & True, x


@rule(fp="exact")
def or_false(x):
    return x | False, x


@rule(fp="exact")
def and_false(x):
    return x & False, False


@rule(fp="exact")
def or_true(x):
    return x | True, True


@rule(fp="exact")
def and_not(x):
    return x & ~x, False


@rule(fp="exact")
def or_not(x):
    return x | ~x, True


@rule(fp="exact")
def and_again(x, y):
    return (x & y) & y, x & y


@rule(fp="exact")
def or_again(x, y):
    return (x | y) | y, x | y


@rule(fp="exact")
def xor_self(x):
    return logical_xor(x, x), False


@rule(fp="exact")
def xor_false(x):
    return logical_xor(x, False), x


@rule(fp="exact")
def xor_true(x):
    return logical_xor(x, True), ~x


# --------------------------------------------------------------------------------------------- choice


@rule(fp="exact")
def where_same(c, x):
    return where(c, x, x), x


@rule(fp="exact")
def where_true(a, b):
    return where(True, a, b), a


@rule(fp="exact")
def where_false(a, b):
    return where(False, a, b), b


@rule(fp="exact")
def where_not(c, a, b):
    return where(~c, a, b), where(c, b, a)


@rule(fp="exact")
def where_where_taken(c, a, b, d):
    return where(c, where(c, a, b), d), where(c, a, d)


@rule(fp="exact")
def where_where_other(c, a, b, d):
    return where(c, a, where(c, b, d)), where(c, a, d)


@rule(fp="exact")
def where_both(c, d, a, b):
    return where(c, where(d, a, b), b), where(c & d, a, b)


@rule(fp="exact")
def where_either(c, d, a, b):
    return where(c, a, where(d, a, b)), where(c | d, a, b)


@rule(fp="exact")
def add_masked(c, a, b):
    return where(c, a, 0.0) + where(c, b, 0.0), where(c, a + b, 0.0)


@rule(fp="reassoc")
def add_complements(c, a, b):
    return where(c, a, 0) + where(c, 0, b), where(c, a, b)


@rule(
    fp="exact",
    on=where,
    of=(None, CONSTANTS, CONSTANTS),
    samples=lambda leaf: [where(leaf(3, 5, dtype="bool"), constant(1.0), 0.0)],
)
def where_one_zero(node: Node) -> Node | None:
    """where(c, 1, 0) is c, cast."""
    condition, a, b = node.inputs
    return astype(condition, node.dtype) if holds(a, 1) and holds(b, 0) else None
