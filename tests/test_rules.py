"""Every rewrite rule, held to its floating-point class: both sides are evaluated on data where floats are special."""

import zlib
from functools import partial

import numpy as np
import pytest
from op_testing import same_bits, special_values

from graphc.errors import DTypeError
from graphc.evaluate import evaluate
from graphc.ir import Program, toposort
from graphc.ops.math import logical_and, tanh, where
from graphc.ops.reduce import argmax_op
from graphc.ops.state import placeholder
from graphc.passes.pipeline import ALGEBRA, STABILISE
from graphc.passes.rewrite import Call, Variable, instantiate, rewrite, rule
from graphc.types import is_float, is_integer, np_dtype

RULES = {each.name: each for each in (*STABILISE, *ALGEBRA)}
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int8", "uint8", "bool")
TRIALS = 30

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


def counterexample(each, left, right):
    """Feeds for which `right` isn't what the rule's class promises, and both values; None if none is found."""
    rng = np.random.default_rng(zlib.crc32(each.name.encode()))
    nodes = toposort([left, right])
    promise = partial(identical, open_ties=any(n.op.name in TIES_ARE_OPEN for n in nodes))
    for trial in range(TRIALS):
        special = each.fp == "exact" and trial % 3 > 0
        feeds = {node: draw(rng, node, special) for node in nodes if node.op.kind == "placeholder"}
        a, b = evaluate([left, right], feeds)
        if not (promise(a, b) if each.fp == "exact" else close(a, b, feeds.values())):
            return list(feeds.values()), a, b
    return None


def draw(rng, node, special):
    kind = np_dtype(node.dtype)
    values = special_values(node.dtype)
    if is_float(node.dtype) and not special:
        values = np.concatenate([rng.uniform(-3, 3, 20), [-1, 0, 0.5, 1, 2]]).astype(kind)
    elif is_integer(node.dtype):
        limits = np.iinfo(kind)
        values = np.concatenate([values, rng.integers(limits.min, limits.max, 20, kind, endpoint=True)])
    return rng.choice(values, node.shape)


def identical(a, b, open_ties):
    """Whether all bits are the same, except those of nan and, at open ties, the sign of zero."""
    if open_ties and is_float(a.dtype.name):
        a, b = a + np.zeros_like(a), b + np.zeros_like(b)
    return same_bits(a, b)


def close(a, b, given):
    """Whether `b` is `a` where `a` is finite: exactly for integers, to `TOLERANCE` for floats."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if not is_float(a.dtype.name):
        return np.array_equal(a, b)
    wide, other = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(wide)
    size = max(1.0, *(np.abs(v.astype(np.float64)).max(initial=0) for v in (wide[finite], *given)))
    return bool(np.all(np.abs(wide[finite] - other[finite]) <= TOLERANCE[a.dtype.name] * size))


def checked(each, left):
    """Whether the rule fires on `left`; what it makes of it is held to its class."""
    right = rewrite(Program((), (left,)), [each]).outputs[0]
    if right is left:
        return False
    found = counterexample(each, left, right)
    assert found is None, f"{each} is wrong: {found}"
    return True


# --- tests


@pytest.mark.parametrize("name", RULES)
def test_both_sides_of_a_rule_are_as_equal_as_it_says(name):
    each = RULES[name]
    fired = {}
    for dtype in DTYPES:
        found = {shape: checked(each, left) for shape, left in left_sides(each, dtype).items()}
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


@pytest.mark.parametrize(
    "wrong", [planted_double, planted_zero, planted_product, planted_cancelled, planted_argmax], ids=lambda r: r.name
)
def test_a_wrong_rule_is_found_out(wrong):
    left = next(iter(left_sides(wrong, "float32").values()))
    with pytest.raises(AssertionError, match=f"rule {wrong.name} .* is wrong"):
        checked(wrong, left)


def test_masks_in_patterns_are_told_from_data():
    @rule(fp="exact")
    def both(c, d, a, b):
        return where(logical_and(c, d), a, b), where(c, where(d, a, b), b)

    assert dict(variables(both.left)) == {"c": False, "d": False, "a": False, "b": False}
    assert set(variables(where_first.left)) == {("c", True), ("a", False), ("b", False)}


@rule(fp="exact")
def where_first(c, a, b):
    return where(c, a, b), a
