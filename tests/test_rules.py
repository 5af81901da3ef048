"""Every rewrite rule, held to its floating-point class: both sides are evaluated on data where floats are special."""

import sys
import zlib
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from op_testing import same_bits, special_values

from graphc.errors import DTypeError
from graphc.evaluate import evaluate
from graphc.ir import Program, toposort
from graphc.operands import reduce_sum
from graphc.ops.math import exp, logical_and, sigmoid, sqrt, tanh, where
from graphc.ops.reduce import argmax_op
from graphc.ops.state import placeholder
from graphc.passes.pipeline import ALGEBRA, STABILISE
from graphc.passes.rewrite import Call, Variable, instantiate, rewrite, rule, rules_of
from graphc.types import is_float, is_integer, np_dtype

RULES = {each.name: each for each in (*STABILISE, *ALGEBRA)}
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int8", "uint8", "bool")
TRIALS = 8  # of each kind of data

# At a tie of 0.0 and -0.0 these may return either, as in IEEE 754 (2008): the sign of a zero isn't theirs to keep.
TIES_ARE_OPEN = {"maximum", "minimum", "reduce_max", "reduce_min", "clip"}

# Relative to the largest number in sight.
TOLERANCE = {"float64": 1e-13, "float32": 3e-6, "float16": 3e-2, "bfloat16": 6e-2}


BROADCAST = "broadcast"  # between the ops of a pattern there may then be others, so that it doesn't fit


# --- left sides


def left_sides(each, dtype):
    """Left sides of a rule over leaves of `dtype`, by their shapes; none if it takes others."""
    leaf = partial(leaf_of, dtype)
    try:
        return dict(enumerate(each.samples(leaf))) if each.samples else instances(each.left, leaf)
    except DTypeError:
        return {}


def leaf_of(default, *shape, dtype=None):
    return placeholder("x", shape, dtype or default)


def instances(pattern, leaf):
    masks = {name for name, is_mask in variables(pattern) if is_mask}
    names = sorted({name for name, _ in variables(pattern)})

    def over(*shapes):
        found = {n: leaf(*s, dtype="bool" if n in masks else None) for n, s in zip(names, shapes, strict=True)}
        return instantiate(pattern, found)

    alike = {shape: over(*[shape] * len(names)) for shape in ((3, 5), (), (0, 3))}
    return alike | {BROADCAST: over((3, 1), *[(3, 5)] * (len(names) - 1))}


def variables(pattern, is_mask=False):
    """The name of each variable in a pattern, and whether it stands for a mask beside data."""
    if isinstance(pattern, Variable):
        yield pattern.name, is_mask
    if isinstance(pattern, Call):
        for k, inner in enumerate(pattern.inputs):
            accepts = pattern.op.accepts[min(k, len(pattern.op.accepts) - 1)]
            yield from variables(inner, accepts == "bool" and len(pattern.op.accepts) > 1)


# --- what a class promises

# Stabilising rules that lose a nan, and who keeps it.
LOSES_NAN = {"div_times_divisor": "a factor of the other term of the gradient of log(softmax(x)): softmax(x)"}


# Stabilising rules that make nan of infinite operands where the formula had a value.
WANTS_FINITE = {
    "softmax_by_exp": "an infinite logit makes its whole row nan, as in every softmax",
    "div_sum_times_term": "as above",
    "div_one_plus_exp_times_exp": "an infinite cotangent times a sigmoid that is 0 for want of range",
}


def counterexample(each, left, right, widened):
    """Feeds for which `right` isn't what the rule's class promises, and both values; None if none is found.

    Args:
        widened: `left` in float64, which tells what is meant where `left` is short of range.
    """
    rng = np.random.default_rng(zlib.crc32(each.name.encode()))
    nodes, leaves = toposort([left, right]), leaves_of(left)
    ordered = any(node.op.kind == "reduce" for node in nodes)
    open_ties = any(node.op.name in TIES_ARE_OPEN for node in nodes)
    for regime in REGIMES[each.fp] * TRIALS:
        given = [draw(rng, node, regime, ordered) for node in leaves]
        if each.fp != "exact":
            given = [tamed(v, each.name in WANTS_FINITE) for v in given]
        a, b = evaluate([left, right], dict(zip(leaves, given, strict=True)))
        if each.fp == "exact":
            kept = identical(a, b, open_ties)
        elif not is_float(left.dtype):
            kept = same_bits(a, b)
        else:
            kept = bool(np.all(agree(each, a, b, meaning(widened, given), given)))
        if not kept:
            return given, a, b
    return None


def leaves_of(node):
    return [n for n in toposort([node]) if n.op.kind == "placeholder"]


def meaning(left, given):
    """The value of the left side in float64, for the same leaves."""
    feeds = {leaf: v.astype(np_dtype(leaf.dtype)) for leaf, v in zip(leaves_of(left), given, strict=True)}
    return evaluate([left], feeds)[0]


# --- what leaves are given


def moderate(rng, kind):
    return np.concatenate([rng.uniform(-3, 3, 20), [-1, 0, 0.5, 1, 2]])


def special(rng, kind):
    return special_values(kind.name)


def large(rng, kind):
    """Within 2^8 of the overflow."""
    return float(ml_dtypes.finfo(kind).max) * 2 ** rng.uniform(-8, 0, 40)


def small(rng, kind):
    """Around the smallest normal number."""
    return float(ml_dtypes.finfo(kind).tiny) * 2 ** rng.uniform(-4, 4, 40)


def lost(rng, kind):
    """A whole leaf of nan, or one of moderate numbers."""
    return moderate(rng, kind) if rng.integers(2) else [np.nan]


EVERYWHERE = (moderate, special, large, small, lost)
REGIMES = {"exact": EVERYWHERE, "reassoc": EVERYWHERE, "stabilise": EVERYWHERE, "finite": (moderate,)}


def draw(rng, node, regime, ordered):
    """The values of a leaf.

    Args:
        ordered: large numbers of both signs overflow in one order of additions and not in another, so they have one.
    """
    kind = np_dtype(node.dtype)
    if is_float(node.dtype):
        values = np.asarray(regime(rng, kind), np.float64)
        if regime in (large, small) and not ordered:
            values = np.concatenate([values, -values])
    else:
        values = special_values(node.dtype)
        if is_integer(node.dtype):
            limits = np.iinfo(kind)
            values = np.concatenate([values, rng.integers(limits.min, limits.max, 20, kind, endpoint=True)])
    return np.asarray(rng.choice(values, node.shape)).astype(kind)


def tamed(values, finite):
    """`values` without what only a float wider than they are could tell the meaning of: in float64, the extremes.

    Args:
        finite: without infinities too.
    """
    if not is_float(values.dtype.name):
        return values
    size = np.abs(wide(values))
    wild = np.isfinite(size) & ((size > 1e100) | ((size < 1e-100) & (size > 0))) & (values.dtype == np.float64)
    return np.where(wild | (finite & np.isinf(size)), values.dtype.type(1), values)


def largest(values):
    size = np.abs(wide(values))
    return float(np.max(size, where=np.isfinite(size), initial=0))


# --- comparisons


def identical(a, b, open_ties):
    """Whether all bits are the same, except those of nan and, at open ties, the sign of zero."""
    if open_ties and is_float(a.dtype.name):
        a, b = a + np.zeros_like(a), b + np.zeros_like(b)
    return same_bits(a, b)


def agree(each, a, b, meant, given):
    """Where `b` is `a` or what is meant by it, or differs as the rule's class may."""
    size = max(0.0 if each.fp == "reassoc" else 1.0, *map(largest, (a, *given)))
    same = near(a, b, size)
    if each.fp == "finite":
        return same | ~np.isfinite(wide(a))
    with np.errstate(over="ignore"):
        meant = meant.astype(a.dtype)
    same |= near(meant, b, size)
    if each.fp == "stabilise":
        nan_given = each.name not in LOSES_NAN and any(v.size and np.isnan(wide(v)).all() for v in given)
        undefined = ~np.isfinite(wide(a)) & ~np.isfinite(wide(meant)) & ~(nan_given & np.isnan(wide(a)))
        same |= undefined & ~np.isnan(wide(b))
    return same


def wide(values):
    return values.astype(np.float64)


def near(a, b, size):
    """Where two arrays agree to `TOLERANCE` of `size`; at the end of the range, also with infinity."""
    limit = float(ml_dtypes.finfo(a.dtype).max)
    x, y = wide(a), wide(b)
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.abs(np.clip(x, -limit, limit) - np.clip(y, -limit, limit)) <= TOLERANCE[a.dtype.name] * size
    return (np.isnan(x) & np.isnan(y)) | (x == y) | (close & (np.isfinite(x) | np.isfinite(y)))


def checked(each, left, widened):
    """Whether the rule fires on `left`; what it makes of it is held to its class."""
    right = rewrite(Program((), (left,)), [each]).outputs[0]
    if right is left:
        return False
    found = counterexample(each, left, right, widened)
    assert found is None, f"{each} is wrong: {found}"
    return True


# --- tests


@pytest.mark.parametrize("name", RULES)
def test_both_sides_of_a_rule_are_as_equal_as_it_says(name):
    each = RULES[name]
    fired = {}
    for dtype in DTYPES:
        widened = left_sides(each, "float64")
        found = {shape: checked(each, left, widened.get(shape)) for shape, left in left_sides(each, dtype).items()}
        fired[dtype] = [yes for shape, yes in found.items() if shape != BROADCAST]
    assert any(found and all(found) for found in fired.values()), f"it fires for no dtype: {fired}"


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_reached_its_end_after_one_application(name):
    each = RULES[name]
    for left in (left_sides(each, "float32") or left_sides(each, "bool")).values():
        once = rewrite(Program((), (left,)), [each])
        assert rewrite(once, [each]) is once


@rule(fp="reassoc")
def planted_double(x):
    return x * 2, x + 2


@rule(fp="exact")
def planted_zero(x):
    return x + 0.0, x


@rule(fp="exact")
def planted_product(x):
    return x * 0.0, 0.0


@rule(fp="exact")
def planted_cancelled(a, b):
    return (a + b) - b, a


@rule(fp="exact", samples=lambda leaf: [argmax_op(tanh(leaf(3, 5)), axes=(1,))])
def planted_argmax(x, *, axes):
    return argmax_op(tanh(x), axes=axes), argmax_op(x, axes=axes)


@rule(fp="reassoc")
def planted_times_zero(x):
    return x * 0, 0


@rule(fp="reassoc")
def planted_quotient(x):
    return x / x, 1


@rule(fp="reassoc")
def planted_difference(x):
    return x - x, 0


@rule(fp="reassoc")
def planted_root(x):
    return sqrt(x) * sqrt(x), x


@rule(fp="reassoc")
def planted_divisor(a, b):
    return (a / b) * b, a


@rule(fp="reassoc", samples=lambda leaf: [reduce_sum(leaf(3, 5) * 0.25, axes=(1,))])
def planted_factor(x, *, axes):
    return reduce_sum(x * 0.25, axes=axes), reduce_sum(x, axes=axes) * 0.25


@rule(fp="reassoc")
def planted_hypotenuse(a, b):
    return abs(a - b), sqrt((a - b) * (a - b))


@rule(fp="stabilise")
def planted_nan_lost(a, x):
    return (a / sigmoid(x)) * sigmoid(x), a


@rule(fp="stabilise")
def planted_overflow(x):
    return sigmoid(x), exp(x) / (1 + exp(x))


@rule(fp="finite")
def planted_rounded(x):
    return x + 1, x


PLANTED = rules_of(sys.modules[__name__])


@pytest.mark.parametrize("wrong", PLANTED, ids=lambda each: each.name)
def test_a_wrong_rule_is_found_out(wrong):
    left, widened = (next(iter(left_sides(wrong, dtype).values())) for dtype in ("float32", "float64"))
    with pytest.raises(AssertionError, match=f"rule {wrong.name} .* is wrong"):
        checked(wrong, left, widened)


def test_masks_in_patterns_are_told_from_data():
    @rule(fp="exact")
    def both(c, d, a, b):
        return where(logical_and(c, d), a, b), where(c, where(d, a, b), b)

    assert dict(variables(both.left)) == {"c": False, "d": False, "a": False, "b": False}
    assert set(variables(where_first.left)) == {("c", True), ("a", False), ("b", False)}


@rule(fp="exact")
def where_first(c, a, b):
    return where(c, a, b), a
