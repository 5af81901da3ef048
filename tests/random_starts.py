"""Random programs that begin with a given op or rewrite rule, end with gradients, or have sizes that may differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from op_testing import is_array
from random_graphs import ACCUMULATING, LEAVES, Builder, Case, Move

from graphc.composites import items
from graphc.dims import symbol
from graphc.errors import DTypeError, GraphcError
from graphc.ir import Graph, Node, Program, toposort
from graphc.op import Array, Op, Sample
from graphc.operands import cast, constant, reduce_sum
from graphc.ops import REGISTRY
from graphc.ops.math import tanh
from graphc.ops.state import Variable, placeholder
from graphc.passes.gradients import gradients
from graphc.passes.pipeline import ALGEBRA, STABILISE
from graphc.passes.rewrite import Call, Rule, instantiate
from graphc.passes.rewrite import Variable as PatternVariable
from graphc.types import is_float

RULES = {rule.name: rule for rule in (*STABILISE, *ALGEBRA)}
DTYPES = ("float32", "float64", "int64", "bool", "int8")  # the first that a rule takes
INEXACT = ACCUMULATING | {"composite"}
WEIGHTS = (0.5, 1.0, -2.0)


# --------------------------------------------------------------------------------------------- starts


def with_op(op: Op) -> Move:
    """Begin with a call of `op`."""
    return lambda builder: builder.sample(op)


STARTS: dict[str, Move] = {
    **{name: with_op(op) for name, op in REGISTRY.items() if op.kind not in LEAVES and op.samples is not None},
    "by_mode": Builder.mode,
    "tracked": Builder.track,
}


def with_rule(rule: Rule) -> Move:
    """Begin with something that `rule` fits."""
    return lambda builder: _add_left_side(builder, rule)


def _add_left_side(builder: Builder, rule: Rule) -> bool:
    for dtype in DTYPES:
        leaves: list[Node] = []
        try:
            found = list(_left_sides(builder, rule, dtype, leaves))
        except DTypeError:
            continue
        left = builder.pick(found)
        new = [node for node in toposort([left]) if node not in leaves]
        return builder.add(left, exact=not any(node.op.kind in INEXACT for node in new))
    return False


def _left_sides(builder: Builder, rule: Rule, dtype: str, leaves: list[Node]) -> Iterator[Node]:
    def leaf(*shape: Any, dtype: str = dtype) -> Node:
        leaves.append(builder.leaf(shape, dtype, low=low))
        return leaves[-1]

    low = builder.pick((-8, 0))  # roots and logarithms want no negative numbers

    if rule.samples is not None:
        yield from rule.samples(leaf)
    else:
        shape = builder.pick(((3, 5), (), (2, 3), (7,), (0, 3)))
        found = {name: leaf(*shape, dtype="bool" if mask else dtype) for name, mask in _variables(rule.left).items()}
        yield instantiate(rule.left, found)


def _variables(pattern: Any, is_mask: bool = False) -> dict[str, bool]:
    """The name of each variable in a pattern, and whether it stands for a mask beside data."""
    if isinstance(pattern, PatternVariable):
        return {pattern.name: is_mask}
    found: dict[str, bool] = {}
    if isinstance(pattern, Call):
        accepts = pattern.op.accepts
        for k, inner in enumerate(pattern.inputs):
            beside_data = len(accepts) > 1 and accepts[min(k, len(accepts) - 1)] == "bool"
            for name, mask in _variables(inner, beside_data).items():
                found[name] = mask or found.get(name, False)
    return found


def loosely_sized(op: Op, sample: Sample, rng: np.random.Generator) -> Case | None:
    """A call of `op` with its gradients, where most sizes have symbols of their own; None if it doesn't take them.

    Sizes that must be equal are so by a guard.
    """
    dims: dict[str, int] = {}
    values: dict[Node, Array] = {}

    def operand(arg: Any) -> Any:
        if not is_array(arg):
            return arg
        shape: list[Any] = list(arg.shape)
        for axis, size in enumerate(shape):
            if size != 1 and rng.random() < 0.6:
                shape[axis] = symbol(f"n{len(values)}_{axis}")
                dims[f"n{len(values)}_{axis}"] = size
        node = placeholder("x", tuple(shape), arg.dtype.name)
        values[node] = arg
        return node

    with Graph():
        try:
            found = op(*map(operand, sample.args), **sample.attrs)
        except GraphcError:
            return None
        results = found if isinstance(found, tuple) else items(found)
        floats, leaves = ([node for node in nodes if is_float(node.dtype)] for nodes in (results, values))
        slopes = gradients(floats, leaves, disconnected="zero") if floats and leaves else []
    program = Program(tuple(values), (*results, *[slope for slope in slopes if slope is not None]))
    return Case(program, values, dims, {}, (False,) * len(program.outputs))


# --------------------------------------------------------------------------------------------- ends


def whole_case(builder: Builder) -> Case:
    """Everything that was built: what nothing else is computed from is an output."""
    return builder.case(whole=True)


def with_gradients(builder: Builder) -> Case:
    """A random scalar loss of what was built, its gradients, and a step down for each variable."""
    loss, slopes = _loss_and_slopes(builder)
    steps = [(x, x - g) for x, g in slopes.items() if isinstance(x, Variable) and x not in builder.tracked]
    return builder.finished([loss, *slopes.values()], steps)


def with_curvature(builder: Builder) -> Case:
    """A random scalar loss of what was built, its gradients, and the gradients of a function of these."""
    loss, slopes = _loss_and_slopes(builder)
    bent = _total([tanh(slope) for slope in slopes.values()])
    curved = gradients(bent, list(slopes), disconnected="zero") if slopes else []
    return builder.finished([loss, *slopes.values(), *[g for g in curved if g is not None]], [])


def _loss_and_slopes(builder: Builder) -> tuple[Node, dict[Node, Node]]:
    floats = [value.node for value in builder.pool if is_float(value.node.dtype)]
    count = builder.source.integer(1, 3) if floats else 0
    loss = _total([builder.pick(floats[-6:]) * builder.pick(WEIGHTS) for _ in range(count)])
    leaves = [leaf for leaf in builder.values if is_float(leaf.dtype)]
    found = gradients(loss, leaves, disconnected="zero") if leaves else []
    return loss, {leaf: slope for leaf, slope in zip(leaves, found, strict=True) if slope is not None}


def _total(terms: Iterable[Node]) -> Node:
    loss = constant(0.0, "float64")
    for term in terms:
        loss = loss + reduce_sum(cast(term, "float64"), axes=tuple(range(term.ndim)))
    return loss
