"""Reductions: sums, means, products, extremes, moments, quantifiers, with NumPy's signatures.

The ops keep the reduced axes with size 1; the functions drop them unless `keepdims`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphc.composites import composite
from graphc.dims import Dim, product, require_at_least
from graphc.errors import ArgumentError, DTypeError
from graphc.ir import Node
from graphc.op import Cotangents, NoGradient, Op, Sample
from graphc.operands import (
    COMPARE,
    as_node,
    astype,
    expand,
    expand_dims_op,
    kept,
    normalise_axes,
    normalise_axis,
    primitive,
    reduce_sum,
    reductions,
    squeeze_op,
)
from graphc.operators import method
from graphc.ops.control import stop_gradient
from graphc.ops.extent import extent
from graphc.ops.math import TRUE_OR_FALSE, equal, exp, isfinite, log, maximum, not_equal, sqrt, where
from graphc.ops.scan import accumulator, cumprod_op
from graphc.types import TensorType, dtype_name, is_bool, is_float

Axes = tuple[int, ...]


# --------------------------------------------------------------------------------------------- primitives


def _kept_nonempty(x: TensorType, *, axes: Axes) -> TensorType:
    """The type rule of reductions without an identity."""
    result = kept(x, axes=axes)
    for axis in axes:
        require_at_least(x.shape[axis], 1, f"{x} is reduced over axis {axis}, which must not be empty")
    return result


def _extreme_vjp(g: Any, y: Any, x: Any, *, axes: Axes) -> Cotangents:
    """Equal shares for all elements that tie."""
    chosen = equal(x, y)
    share = g / reduce_sum(astype(chosen, x.dtype), axes=axes)
    return (where(chosen, share, 0),)


def _ties(rng: np.random.Generator) -> list[Sample]:
    tied = Sample((np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]),), {"axes": (1,)}, differentiable=False)
    return [*reductions(rng), tied]


reduce_max = primitive(
    "reduce_max",
    _kept_nonempty,
    lambda x, *, axes: np.max(x, axis=axes, keepdims=True),
    _extreme_vjp,
    "reduce",
    required=("axes",),
    samples=_ties,
)

reduce_min = primitive(
    "reduce_min",
    _kept_nonempty,
    lambda x, *, axes: np.min(x, axis=axes, keepdims=True),
    _extreme_vjp,
    "reduce",
    required=("axes",),
    samples=_ties,
)


def _product_vjp(g: Any, y: Any, x: Any, *, axes: Axes) -> Cotangents:
    """The product of all other elements, axis by axis, without a division: it is right where elements are 0."""
    others, part = g, x
    for axis in axes:
        before = cumprod_op(part, axis=axis, exclusive=True)
        after = cumprod_op(part, axis=axis, exclusive=True, reverse=True)
        others = others * (before * after)
        part = reduce_prod(part, axes=(axis,))
    return (expand(others, x.shape),)


def _factors(rng: np.random.Generator) -> list[Sample]:
    zeros = np.array([[1.5, 0.0, -2.0], [0.0, 3.0, 0.0], [0.5, 2.0, 1.0]])
    return [*reductions(rng), Sample((zeros,), {"axes": (1,)}), Sample((zeros,), {"axes": (0, 1)})]


reduce_prod = primitive(
    "reduce_prod",
    kept,
    lambda x, *, axes: np.prod(x, axis=axes, keepdims=True, dtype=x.dtype),
    _product_vjp,
    "reduce",
    required=("axes",),
    samples=_factors,
)


def _quantified(x: TensorType, *, axes: Axes) -> TensorType:
    if not is_bool(x.dtype):
        raise DTypeError(f"expected bool, got {x}", hint=COMPARE)
    return kept(x, axes=axes)


def _quantified_masks(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], Axes]] = [((3, 5, 2), (1,)), ((3, 5), (0, 1)), ((0, 3), (0,)), ((), ())]
    return [Sample((np.asarray(rng.random(shape) < 0.5),), {"axes": axes}) for shape, axes in cases]


reduce_any = primitive(
    "reduce_any",
    _quantified,
    lambda x, *, axes: np.any(x, axis=axes, keepdims=True),
    TRUE_OR_FALSE,
    "reduce",
    required=("axes",),
    samples=_quantified_masks,
)

reduce_all = primitive(
    "reduce_all",
    _quantified,
    lambda x, *, axes: np.all(x, axis=axes, keepdims=True),
    TRUE_OR_FALSE,
    "reduce",
    required=("axes",),
    samples=_quantified_masks,
)


def _position(x: TensorType, *, axes: Axes) -> TensorType:
    if len(axes) != 1:
        raise ArgumentError(f"a position is along one axis, got axes {axes}")
    return _kept_nonempty(x, axes=axes).with_dtype("int64")


def _positions(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], int]] = [((3, 5, 2), 1), ((7,), 0), ((4, 1), 1), ((0, 3), 1)]
    return [Sample((rng.standard_normal(shape),), {"axes": (axis,)}) for shape, axis in cases]


def _searched(node: Node) -> Dim:
    return node.inputs[0].shape[node.attrs["axes"][0]]  # type: ignore[no-any-return]


A_POSITION = NoGradient("it is a position")

argmax_op = primitive(
    "argmax",
    _position,
    lambda x, *, axes: np.argmax(x, axis=axes[0], keepdims=True),
    A_POSITION,
    "reduce",
    positions=_searched,
    required=("axes",),
    samples=_positions,
)

argmin_op = primitive(
    "argmin",
    _position,
    lambda x, *, axes: np.argmin(x, axis=axes[0], keepdims=True),
    A_POSITION,
    "reduce",
    positions=_searched,
    required=("axes",),
    samples=_positions,
)


# --------------------------------------------------------------------------------------------- moments


def widened(x: Any) -> Any:
    """16-bit floats as float32, in which composites accumulate them."""
    return astype(x, "float32") if x.dtype in ("float16", "bfloat16") else x


def count(x: Any, axes: Axes) -> Node:
    """The number of elements of `x` along `axes`, in its dtype."""
    return extent(product([x.shape[axis] for axis in axes]), x.dtype)


@composite(accepts="float", samples=reductions, name="mean")
def mean_op(x: Any, *, axes: Axes) -> Any:
    """The arithmetic mean over `axes`, which stay with size 1."""
    wide = widened(x)
    return astype(reduce_sum(wide, axes=axes) / count(wide, axes), x.dtype)


def _centred(x: Any, axes: Axes) -> Any:
    return x - reduce_sum(x, axes=axes) / count(x, axes)


def _freedom(x: Any, axes: Axes, ddof: float) -> Any:
    """The degrees of freedom, by which sums of squares are divided."""
    return maximum(count(x, axes) - ddof, 0) if ddof else count(x, axes)


def _var_vjp(g: Any, y: Any, x: Any, *, axes: Axes, ddof: float) -> Cotangents:
    wide = widened(x)
    scale = astype(g, wide.dtype) * 2 / _freedom(wide, axes, ddof)
    return (astype(scale * _centred(wide, axes), x.dtype),)


def _moments(rng: np.random.Generator) -> list[Sample]:
    spread = [
        Sample((rng.standard_normal((3, 5, 2)),), {"axes": (1,), "ddof": 1.0}),
        Sample((rng.standard_normal((7,)),), {"axes": (0,), "ddof": 0.0}),
        Sample((rng.standard_normal((2, 3)),), {"axes": (0, 1), "ddof": 0.5}),
        Sample((rng.standard_normal((0, 3)),), {"axes": (1,)}),
    ]
    return [*spread, Sample((np.full((2, 3), 1.5),), {"axes": (1,)}, differentiable=False)]


@composite(accepts="float", vjp=_var_vjp, samples=_moments, name="var")
def var_op(x: Any, *, axes: Axes, ddof: float = 0.0) -> Any:
    """The variance over `axes`, which stay with size 1: in two passes, so it doesn't cancel."""
    wide = widened(x)
    deviation = _centred(wide, axes)
    return astype(reduce_sum(deviation * deviation, axes=axes) / _freedom(wide, axes, ddof), x.dtype)


def _std_vjp(g: Any, y: Any, x: Any, *, axes: Axes, ddof: float) -> Cotangents:
    """0 where the deviation is 0, as in torch."""
    wide, deviation, slope = widened(x), widened(y), widened(g)
    flat = equal(deviation, 0)
    scale = where(flat, 0, slope / where(flat, 1, deviation)) / _freedom(wide, axes, ddof)
    return (astype(scale * _centred(wide, axes), x.dtype),)


@composite(accepts="float", vjp=_std_vjp, samples=_moments, name="std")
def std_op(x: Any, *, axes: Axes, ddof: float = 0.0) -> Any:
    """The standard deviation over `axes`, which stay with size 1."""
    return astype(sqrt(var_op(widened(x), axes=axes, ddof=ddof)), x.dtype)


def _logsumexp_vjp(g: Any, y: Any, x: Any, *, axes: Axes) -> Cotangents:
    """The softmax; of a row of -inf only it is 0."""
    return (g * exp(x - where(equal(y, -math.inf), 0, y)),)


@composite(accepts="float", vjp=_logsumexp_vjp, samples=reductions, name="logsumexp")
def logsumexp_op(x: Any, *, axes: Axes) -> Any:
    """log(sum(exp(x))) over `axes`, which stay with size 1; shifted by the maximum, so that exp can't overflow."""
    wide = widened(x)
    top = reduce_max(stop_gradient(wide), axes=axes)
    shift = where(isfinite(top), top, 0)
    return astype(log(reduce_sum(exp(wide - shift), axes=axes)) + shift, x.dtype)


# --------------------------------------------------------------------------------------------- functions


def _reduced(op: Op, x: Any, axis: Any, keepdims: bool, **attrs: Any) -> Any:
    axes = normalise_axes(axis, x.shape)
    result = op(x, axes=axes, **attrs)
    return result if keepdims or not axes else squeeze_op(result, axes=axes)


@method("sum")
def sum(x: Any, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Any:
    """The sum over `axis`: an int, the name of a symbolic dimension, a tuple of those, or None for all.

    Args:
        keepdims: keep the reduced axes, with size 1.
        dtype: the dtype to add in; by default that of floats, and int64 for everything else.
    """
    x = as_node(x)
    wanted = accumulator(x.dtype) if dtype is None else dtype_name(dtype)
    return _reduced(reduce_sum, astype(x, wanted), axis, keepdims)


@method("prod")
def prod(x: Any, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Any:
    """The product over `axis`; the arguments are those of `sum`."""
    x = as_node(x)
    wanted = accumulator(x.dtype) if dtype is None else dtype_name(dtype)
    return _reduced(reduce_prod, astype(x, wanted), axis, keepdims)


@method("max")
def max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The greatest element over `axis`, nan if there is one; elements that tie share the gradient, nan gets none.

    Raises:
        ShapeError: the axis is empty.
    """
    return _reduced(reduce_max, as_node(x), axis, keepdims)


@method("min")
def min(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element over `axis`, nan if there is one; elements that tie share the gradient, nan gets none.

    Raises:
        ShapeError: the axis is empty.
    """
    return _reduced(reduce_min, as_node(x), axis, keepdims)


def _truth(x: Any) -> Any:
    x = as_node(x)
    return x if is_bool(x.dtype) else not_equal(x, 0)


@method("any")
def any(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether some element over `axis` is true, or not 0."""
    return _reduced(reduce_any, _truth(x), axis, keepdims)


@method("all")
def all(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether every element over `axis` is true, or not 0."""
    return _reduced(reduce_all, _truth(x), axis, keepdims)


@method("argmax")
def argmax(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The position, int64, of the first greatest element along `axis`, or in all of `x`, flattened; nan is greatest."""
    return _located(argmax_op, x, axis, keepdims)


@method("argmin")
def argmin(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The position, int64, of the first smallest element along `axis`, or in all of `x`, flattened; nan is smallest."""
    return _located(argmin_op, x, axis, keepdims)


def _located(op: Op, x: Any, axis: Any, keepdims: bool) -> Any:
    x = as_node(x)
    if axis is not None:
        return _reduced(op, x, normalise_axis(axis, x.shape), keepdims)
    found = _reduced(op, x.reshape(-1), 0, False)
    return expand_dims_op(found, axes=tuple(range(x.ndim))) if keepdims and x.ndim else found


@method("mean")
def mean(x: Any, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Any:
    """The arithmetic mean over `axis`; of integers and bools it is float32, summed in float64.

    Args:
        axis, keepdims: as for `sum`.
        dtype: the float dtype to compute in and return.
    """
    x = as_node(x)
    return _averaged(mean_op, x, axis, keepdims, dtype)


def _averaged(op: Op, x: Any, axis: Any, keepdims: bool, dtype: Any, **attrs: Any) -> Any:
    """A moment of floats in their own dtype, of everything else in float64, returned as float32."""
    given = None if dtype is None else dtype_name(dtype)
    if given is not None and not is_float(given):
        raise DTypeError(f"{op.name}: dtype={given!r} can't hold a mean", hint="cast the result")
    inside = given or (x.dtype if is_float(x.dtype) else "float64")
    outside = given or (x.dtype if is_float(x.dtype) else "float32")
    return astype(_reduced(op, astype(x, inside), axis, keepdims, **attrs), outside)


@method("var")
def var(
    x: Any,
    axis: Any = None,
    keepdims: bool = False,
    *,
    ddof: float | None = None,
    correction: float | None = None,
    dtype: Any = None,
) -> Any:
    """The variance over `axis`: the sum of the squared deviations from the mean, divided by their number - `ddof`.

    Args:
        axis, keepdims, dtype: as for `mean`; of integers it is float32.
        ddof: 0 by default; `correction` is another name for it.
    """
    return _averaged(var_op, as_node(x), axis, keepdims, dtype, ddof=_ddof("var", ddof, correction))


@method("std")
def std(
    x: Any,
    axis: Any = None,
    keepdims: bool = False,
    *,
    ddof: float | None = None,
    correction: float | None = None,
    dtype: Any = None,
) -> Any:
    """The standard deviation over `axis`, with gradient 0 where it is 0; the arguments are those of `var`."""
    return _averaged(std_op, as_node(x), axis, keepdims, dtype, ddof=_ddof("std", ddof, correction))


def _ddof(name: str, ddof: float | None, correction: float | None) -> float:
    if ddof is not None and correction is not None:
        raise ArgumentError(f"{name}: ddof and correction are two names of one argument")
    return float(ddof or correction or 0)


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over `axis`, without overflow; the arguments are those of `max`.

    The gradient is the softmax, and 0 where all elements are -inf.
    """
    return _reduced(logsumexp_op, as_node(x), axis, keepdims)
