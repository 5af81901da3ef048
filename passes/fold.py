"""Constant folding: what depends on constants alone is computed once, here, within a budget of memory."""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from graphc.evaluate import compute
from graphc.ir import Node, Program
from graphc.op import Array
from graphc.operands import broadcast_op, constant, constant_op, expand
from graphc.ops.math import exp
from graphc.passes.rewrite import CONSTANTS, computed, rule
from graphc.types import TensorType

BUDGET = 1 << 16  # elements of a result that may be larger than the constants it is made of

# What has a value of its own or an effect; any other op of constants gives a constant.
NEVER = frozenset({"placeholder", "variable", "parameter", "random", "opaque", "mode", "auxiliary"})


@rule(
    fp="exact",
    on=lambda op: op.kind not in NEVER and op is not broadcast_op,
    of=CONSTANTS,
    samples=lambda leaf: [exp(constant([1.0, 2.0])), expand(constant([1.0, 2.0]), (2, 2)) + constant([0.5, 3.0])],
)
def fold_constants(node: Node) -> Node | None:
    """The constant that a node of constants is; None where it would be larger than `BUDGET` and than its sources.

    A broadcast is never written out, and a creation op without inputs stays one. Of what has a symbolic size only
    pointwise ops of numbers fold.
    """
    number = computed(node)
    if number is not node:
        return number
    sources = [_unexpanded(i) for i in node.inputs]
    if _is_symbolic(node) or not _is_pure(node.body) or not all(source.op is constant_op for source in sources):
        return None
    values: list[Array] = [source.attrs["value"].array for source in sources]
    if prod(node.shape) > max(BUDGET, *[value.size for value in values]):
        return None
    with np.errstate(all="ignore"):
        args = [np.broadcast_to(value, i.shape) for value, i in zip(values, node.inputs, strict=True)]
        folded: Node = expand(_compact(compute(node, args, node.attrs, {})), node.shape)
    return folded


def _unexpanded(node: Node) -> Node:
    while node.op is broadcast_op:
        node = node.inputs[0]
    return node


def _is_symbolic(node: Node) -> bool:
    types = [node.type, *[i.type for i in node.inputs]]
    return node.attrs.symbolic or not all(isinstance(type, TensorType) and not type.symbolic for type in types)


@lru_cache(maxsize=1024)
def _is_pure(body: Program | None) -> bool:
    return body is None or all(
        node.op.kind == "parameter" or (node.op.kind not in NEVER and _is_pure(node.body)) for node in body.nodes()
    )


def _compact(value: Array) -> Node:
    """`value` as a constant, or as one number if it holds the same bits everywhere."""
    first = value.reshape(-1)[:1]
    same = value.size > 1 and value.tobytes() == first.tobytes() * value.size
    return constant(first.reshape(()) if same else value)
