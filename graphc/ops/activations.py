"""Activation functions, under torch's names and arguments; at kinks the gradients are torch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphc.composites import composite
from graphc.errors import ArgumentError
from graphc.op import Cotangents, Sample
from graphc.operands import as_node, astype, normalise_axis, reduce_sum
from graphc.operators import method
from graphc.ops.control import stop_gradient
from graphc.ops.math import abs, erf, exp, expm1, greater, log, log1p, maximum, minimum, sigmoid, tanh, where
from graphc.ops.reduce import reduce_max, widened
from graphc.ops.samples import also, away_from, reals

KINKED = Sample((np.array([0.0, -0.0, 1.5, -1.5]),))


# --------------------------------------------------------------------------------------------- pointwise


@composite(
    accepts="number",
    vjp=lambda g, y, x: (where(greater(y, 0), g, 0),),
    samples=also(away_from(np.zeros_like, reals(-2, 2)), KINKED),
)
def relu(x: Any) -> Any:
    """max(x, 0), nan for nan; its gradient at 0 and at nan is 0."""
    return maximum(x, 0)


def _leaky_relu_vjp(g: Any, y: Any, x: Any, *, negative_slope: float) -> Cotangents:
    return (where(greater(x, 0), g, g * negative_slope),)


@composite(
    accepts="float",
    vjp=_leaky_relu_vjp,
    samples=also(away_from(np.zeros_like, reals(-2, 2, negative_slope=0.2)), KINKED),
    name="leaky_relu",
)
def leaky_relu_op(x: Any, *, negative_slope: float = 0.01) -> Any:
    """x where it is positive, else negative_slope * x."""
    return where(greater(x, 0), x, x * negative_slope)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """x where it is positive, else negative_slope * x."""
    return leaky_relu_op(x, negative_slope=float(negative_slope))


def _elu_vjp(g: Any, y: Any, x: Any, *, alpha: float) -> Cotangents:
    return (where(greater(x, 0), g, g * (y + alpha)),)


@composite(
    accepts="float",
    vjp=_elu_vjp,
    samples=also(away_from(np.zeros_like, reals(-2, 2, alpha=1.5)), KINKED),
    name="elu",
)
def elu_op(x: Any, *, alpha: float = 1.0) -> Any:
    """x where it is positive, else alpha * (exp(x) - 1)."""
    return where(greater(x, 0), x, alpha * expm1(minimum(x, 0)))


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where it is positive, else alpha * (exp(x) - 1)."""
    return elu_op(x, alpha=float(alpha))


def _gelu_exact(x: Any) -> Any:
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def _gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


GELUS = {"none": _gelu_exact, "tanh": _gelu_tanh}


@composite(
    accepts="float",
    samples=lambda rng: [*reals(-3, 3)(rng), *reals(-3, 3, approximate="tanh")(rng)],
    name="gelu",
)
def gelu_op(x: Any, *, approximate: str = "none") -> Any:
    """x times the probability that a standard normal variable is below x."""
    return GELUS[approximate](x)


def gelu(x: Any, approximate: str = "none") -> Any:
    """x · Φ(x), where Φ is the distribution function of the standard normal (Hendrycks and Gimpel, 2016).

    Args:
        approximate: "none" uses erf, "tanh" the paper's approximation.
    """
    if approximate not in GELUS:
        raise ArgumentError(f"gelu: approximate={approximate!r} is not one of {', '.join(map(repr, GELUS))}")
    return gelu_op(x, approximate=approximate)


@composite(accepts="float", samples=reals(-4, 4))
def silu(x: Any) -> Any:
    """x * sigmoid(x), also called swish."""
    return x * sigmoid(x)


def _softplus_vjp(g: Any, y: Any, x: Any, *, beta: float, threshold: float) -> Cotangents:
    return (where(greater(x * beta, threshold), g, g * sigmoid(x * beta)),)


@composite(
    accepts="float",
    vjp=_softplus_vjp,
    samples=lambda rng: [*reals(-3, 3)(rng), *reals(-3, 3, beta=2.0)(rng), *reals(4, 6, beta=2.0, threshold=1.0)(rng)],
    name="softplus",
)
def softplus_op(x: Any, *, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta * x)) / beta, without overflow."""
    scaled = x * beta
    smooth = (maximum(scaled, 0) + log1p(exp(-abs(scaled)))) / beta
    return where(greater(scaled, threshold), x, smooth)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x exceeds the threshold."""
    return softplus_op(x, beta=float(beta), threshold=float(threshold))


@composite(accepts="float", vjp=lambda g, y, x: (g * sigmoid(-x),), samples=reals(-4, 4))
def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x)), accurate where the sigmoid is tiny."""
    return minimum(x, 0) - log1p(exp(-abs(x)))


# --------------------------------------------------------------------------------------------- along an axis


def _shifted(x: Any, axis: int) -> Any:
    """`x` less its maximum, so that exp can't overflow; 16-bit floats in float32."""
    wide = widened(x)
    return wide - reduce_max(stop_gradient(wide), axes=(axis,))


def softmax_vjp(g: Any, y: Any, x: Any, *, axis: int) -> Cotangents:
    """y * (g - sum(g * y)), of `softmax` and what differs from it in shift and scale only."""
    weighted = g * y
    return (weighted - y * reduce_sum(weighted, axes=(axis,)),)


def _rows(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], int]] = [((3, 5), 1), ((2, 3, 5), 1), ((7,), 0), ((4, 1), 1), ((0, 3), 1)]
    return [Sample((rng.standard_normal(shape),), {"axis": axis}) for shape, axis in cases]


@composite(accepts="float", vjp=softmax_vjp, samples=_rows, name="softmax")
def softmax_op(x: Any, *, axis: int) -> Any:
    """exp(x), normalised to the sum 1 along an axis."""
    e = exp(_shifted(x, axis))
    return astype(e / reduce_sum(e, axes=(axis,)), x.dtype)


def _one_name(op: str, axis: Any, dim: Any) -> Any:
    """The axis, under NumPy's or torch's name."""
    if dim is not None and axis != -1:
        raise ArgumentError(f"{op}: axis and dim are two names of one argument")
    return axis if dim is None else dim


@method("softmax")
def softmax(x: Any, axis: Any = -1, *, dim: Any = None) -> Any:
    """exp(x), normalised to the sum 1 along `axis`; `dim` is another name for it."""
    x = as_node(x)
    return softmax_op(x, axis=normalise_axis(_one_name("softmax", axis, dim), x.shape))


def _log_softmax_vjp(g: Any, y: Any, x: Any, *, axis: int) -> Cotangents:
    return (g - exp(y) * reduce_sum(g, axes=(axis,)),)


@composite(accepts="float", vjp=_log_softmax_vjp, samples=_rows, name="log_softmax")
def log_softmax_op(x: Any, *, axis: int) -> Any:
    """The logarithm of the softmax along an axis."""
    shifted = _shifted(x, axis)
    return astype(shifted - log(reduce_sum(exp(shifted), axes=(axis,))), x.dtype)


@method("log_softmax")
def log_softmax(x: Any, axis: Any = -1, *, dim: Any = None) -> Any:
    """log(softmax(x)) along `axis`, accurate where the softmax is tiny; `dim` is another name for it."""
    x = as_node(x)
    return log_softmax_op(x, axis=normalise_axis(_one_name("log_softmax", axis, dim), x.shape))
