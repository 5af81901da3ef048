"""Formulas that lose accuracy or overflow, and what they mean: log(softmax(x)), log(1 + x), exp(x) - 1.

All are equal over the reals where the formula has a value, and what is put in place is right where floats are too
short for it. Divisors are cancelled only where they are positive over the reals: of `a / x * x`, the nan at x = 0 is
meant. The pass runs while composites are still whole, and after differentiation, so the gradients that such formulas
had are here too.
"""

from __future__ import annotations

import math
from functools import partial

from graphc.ir import Node
from graphc.operands import broadcast_op, cast_op, expand, expand_dims_op, reduce_sum, squeeze_op
from graphc.ops.activations import log_softmax_op, softmax_op, softplus_op
from graphc.ops.control import stop_gradient
from graphc.ops.math import divide, exp, expm1, log, log1p, multiply, rsqrt, sigmoid, sqrt, subtract, tanh, where
from graphc.ops.reduce import logsumexp_op, reduce_max
from graphc.passes.rewrite import rule

INF = math.inf  # softplus without the threshold above which it is taken for its operand
POSITIVE = frozenset({exp, softmax_op})  # what is never 0 over the reals
SEEN_THROUGH = frozenset({broadcast_op, squeeze_op, expand_dims_op, cast_op, stop_gradient})


def unshifted(x: Node) -> bool:
    """What isn't yet less its maximum, so that its exp may overflow."""
    if x.op is not subtract:
        return True
    top = x.inputs[1]
    while top.op in SEEN_THROUGH or top.op is where:  # where(isfinite(top), top, 0)
        top = top.inputs[1 if top.op is where else 0]
    return top.op is not reduce_max


# --------------------------------------------------------------------------------------------- logarithms


@rule(fp="stabilise")
def log_of_exp(x):
    return log(exp(x)), x


@rule(fp="stabilise")
def log_of_sqrt(x):
    return log(sqrt(x)), log(x) * 0.5


@rule(fp="stabilise")
def log_of_sigmoid(x):
    return log(sigmoid(x)), -softplus_op(-x, threshold=INF)


@rule(fp="stabilise")
def log_of_one_minus_sigmoid(x):
    return log(1 - sigmoid(x)), -softplus_op(x, threshold=INF)


@rule(fp="stabilise")
def log_of_one_plus_exp(x):
    return log(1 + exp(x)), softplus_op(x, threshold=INF)


@rule(fp="stabilise")
def log1p_of_exp(x):
    return log1p(exp(x)), softplus_op(x, threshold=INF)


@rule(fp="stabilise")
def log_of_one_plus(x):
    return log(1 + x), log1p(x)


@rule(fp="stabilise")
def log_of_one_minus(x):
    return log(1 - x), log1p(-x)


@rule(fp="stabilise", samples=lambda leaf: [log(softmax_op(leaf(3, 5), axis=1))])
def log_of_softmax(x, *, axis):
    return log(softmax_op(x, axis=axis)), log_softmax_op(x, axis=axis)


@rule(fp="stabilise", where=unshifted, samples=lambda leaf: [log(reduce_sum(exp(leaf(3, 5)), axes=(1,)))])
def log_of_sum_of_exp(x, *, axes):
    return log(reduce_sum(exp(x), axes=axes)), logsumexp_op(x, axes=axes)


@rule(
    fp="stabilise",
    where=unshifted,
    samples=lambda leaf: [log(squeeze_op(reduce_sum(exp(leaf(3, 5)), axes=(1,)), axes=(1,)))],
)
def log_of_squeezed_sum_of_exp(x, *, axes, dropped):
    return (
        log(squeeze_op(reduce_sum(exp(x), axes=axes), axes=dropped)),
        squeeze_op(logsumexp_op(x, axes=axes), axes=dropped),
    )


# --------------------------------------------------------------------------------------------- exponentials


@rule(fp="stabilise")
def exp_minus_one(x):
    return exp(x) - 1, expm1(x)


@rule(fp="stabilise")
def minus_one_plus_exp(x):
    return exp(x) + -1, expm1(x)


@rule(fp="stabilise")
def one_over_exp(x):
    return 1 / exp(x), exp(-x)


@rule(fp="stabilise")
def logistic(x):
    return 1 / (1 + exp(-x)), sigmoid(x)


@rule(fp="stabilise")
def logistic_of_negative(x):
    return 1 / (1 + exp(x)), sigmoid(-x)


@rule(fp="stabilise")
def logistic_times_exp(x):  # 0 * inf where exp overflows
    return sigmoid(-x) * exp(x), sigmoid(x)


@rule(fp="stabilise")
def logistic_by_exp(x):
    return exp(x) / (1 + exp(x)), sigmoid(x)


@rule(fp="stabilise")
def tanh_by_exp(x):
    return (exp(x) - exp(-x)) / (exp(x) + exp(-x)), tanh(x)


@rule(
    fp="stabilise",
    on=divide,
    of=(exp, None),
    samples=lambda leaf: [exp(x) / reduce_sum(exp(x), axes=(1,)) for x in [leaf(3, 5)]],
)
def softmax_by_exp(node: Node) -> Node | None:
    """exp(x) / sum(exp(x)) along one axis."""
    terms, repeated = node.inputs
    total = repeated.inputs[0] if repeated.op is broadcast_op else repeated
    axis = _summed_axis(total, terms)
    return softmax_op(terms.inputs[0], axis=axis) if axis is not None and unshifted(terms.inputs[0]) else None


def _summed_axis(total: Node, terms: Node) -> int | None:
    """The one axis along which `total` is the sum of `terms`."""
    if total.op is not reduce_sum or total.inputs[0] is not terms or len(total.attrs["axes"]) != 1:
        return None
    return int(total.attrs["axes"][0])


# --------------------------------------------------------------------------------------------- roots


@rule(fp="stabilise")
def sqrt_of_square(x):
    return sqrt(x * x), abs(x)


@rule(fp="stabilise")
def one_over_sqrt(x):
    return 1 / sqrt(x), rsqrt(x)


@rule(fp="stabilise")
def inverse_of_inverse(x):
    return 1 / (1 / x), x


# --------------------------------------------------------------------------------------------- their gradients


@rule(
    fp="stabilise",
    where=lambda b: b.op in POSITIVE,
    samples=lambda leaf: [leaf(3, 5) / f(x) * f(x) for x in [leaf(3, 5)] for f in (exp, partial(softmax_op, axis=1))],
)
def div_times_divisor(a, b):  # log(softmax(x)), log(exp(x)): 0 / 0 where the probability is 0
    return (a / b) * b, a


@rule(fp="stabilise")
def div_logistic(a, x):  # log(sigmoid(x))
    return (a / sigmoid(x)) * (sigmoid(x) * (1 - sigmoid(x))), a * (1 - sigmoid(x))


@rule(fp="stabilise")
def div_one_minus_logistic(a, x):  # log(1 - sigmoid(x))
    return (a / (1 - sigmoid(x))) * (sigmoid(x) * (1 - sigmoid(x))), a * sigmoid(x)


@rule(fp="stabilise")
def div_one_plus_exp_times_exp(a, x):  # log(1 + exp(x)): inf / inf where exp overflows
    return (a / (1 + exp(x))) * exp(x), a * sigmoid(x)


@rule(
    fp="stabilise",
    on=multiply,
    of=(broadcast_op, exp),
    samples=lambda leaf: [
        *[expand(leaf(3, 1) / reduce_sum(exp(x), axes=(1,)), (3, 5)) * exp(x) for x in [leaf(3, 5)]],
        *[
            expand(expand_dims_op(leaf(3) / squeeze_op(reduce_sum(exp(x), axes=(1,)), axes=(1,)), axes=(1,)), (3, 5))
            * exp(x)
            for x in [leaf(3, 5)]
        ],
        *[
            expand(leaf(5) / squeeze_op(reduce_sum(exp(x), axes=(0,)), axes=(0,)), (3, 5)) * exp(x)
            for x in [leaf(3, 5)]
        ],
    ],
)
def div_sum_times_term(node: Node) -> Node | None:
    """The gradient of log(sum(exp(x))): inf / inf where exp overflows."""
    for repeated, terms in (node.inputs, node.inputs[::-1]):
        if terms.op is exp and repeated.op is broadcast_op:
            g, total = _quotient(repeated.inputs[0])
            axis = None if total is None else _summed_axis(total, terms)
            if axis is not None:
                return expand(g, node.shape) * softmax_op(terms.inputs[0], axis=axis)
    return None


def _quotient(node: Node) -> tuple[Node, Node | None]:
    """Dividend and divisor, without the axes of size 1 that the divisor lost and that the quotient was given again."""
    quotient = node.inputs[0] if node.op is expand_dims_op else node
    if quotient.op is not divide:
        return node, None
    g, total = quotient.inputs
    if node is not quotient:
        g = expand_dims_op(g, axes=node.attrs["axes"])
    if total.op is squeeze_op and total.attrs["axes"] == (node.attrs["axes"] if node is not quotient else (0,)):
        total = total.inputs[0]
    return g, total
