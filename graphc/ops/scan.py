"""Scans: running sums and products along an axis.

Two primitives. Each is its own adjoint with the direction reversed, so every order of derivative exists, and no rule
divides: the gradient of a product is right where factors are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.composites import composite
from graphc.op import Array, Cotangents, Sample
from graphc.operands import WEAK, as_node, astype, normalise_axis, pointwise_operands, primitive, require_axes
from graphc.operators import method
from graphc.ops.math import multiply
from graphc.types import TensorType, dtype_name, is_float

AXES: tuple[tuple[tuple[int, ...], int], ...] = (((3, 5), 1), ((5, 2, 3), 0), ((7,), 0), ((1, 2), 0), ((0, 3), 0))


def accumulator(dtype: str) -> str:
    """The dtype in which sums and products of elements are formed: int64 for bools and integers."""
    return dtype if is_float(dtype) else "int64"


def _scans(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((rng.standard_normal(shape),), {"axis": axis, "reverse": reverse, "exclusive": exclusive})
        for shape, axis in AXES
        for reverse, exclusive in ((False, False), (True, True))
    ]


# --------------------------------------------------------------------------------------------- running sums


def _cumsum(x: Array, *, axis: int, reverse: bool, exclusive: bool) -> Array:
    along = np.flip(x, axis) if reverse else x
    total = np.cumsum(along, axis=axis, dtype=x.dtype)
    if exclusive:
        shifted = np.moveaxis(np.zeros_like(total), axis, 0)
        shifted[1:] = np.moveaxis(total, axis, 0)[:-1]
        total = np.moveaxis(shifted, 0, axis)
    return np.flip(total, axis) if reverse else total


def _cumsum_vjp(g: Any, y: Any, x: Any, *, axis: int, reverse: bool, exclusive: bool) -> Cotangents:
    return (cumsum_op(g, axis=axis, reverse=not reverse, exclusive=exclusive),)


def _infer_cumsum(x: TensorType, *, axis: int, reverse: bool, exclusive: bool) -> TensorType:
    require_axes(x, axis)
    return x


cumsum_op = primitive(
    "cumsum",
    _infer_cumsum,
    _cumsum,
    _cumsum_vjp,
    "scan",
    required=("axis",),
    defaults={"reverse": False, "exclusive": False},
    samples=_scans,
)


@method("cumsum")
def cumsum(x: Any, axis: Any = None, dtype: Any = None, *, reverse: bool = False, exclusive: bool = False) -> Any:
    """Running sums of `x` along `axis`, in its shape; of all elements in a row where `axis` is None.

    Args:
        dtype: the dtype to add in; by default that of floats, and int64 for everything else.
        reverse: sum from the end.
        exclusive: leave out of each sum its own element, so the first is 0.
    """
    x, axis = _along(x, axis, dtype)
    return cumsum_op(x, axis=axis, reverse=bool(reverse), exclusive=bool(exclusive))


def _along(x: Any, axis: Any, dtype: Any) -> tuple[Any, int]:
    """`x` in the dtype to accumulate in, flattened unless an axis is given, and the axis."""
    x = as_node(x)
    wanted = accumulator(x.dtype) if dtype is None else dtype_name(dtype)
    x = astype(x, wanted)
    return (x.reshape(-1), 0) if axis is None else (x, normalise_axis(axis, x.shape))


# --------------------------------------------------------------------------------------------- linear recurrences


def _recurrence_type(a: TensorType, b: TensorType, *, axis: int, reverse: bool, initial: float) -> TensorType:
    require_axes(a, axis)
    return a


def _recurrence(a: Array, b: Array, *, axis: int, reverse: bool, initial: float) -> Array:
    factors, terms = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
    before = np.empty_like(factors)
    state = np.full(factors.shape[1:], initial, a.dtype)
    for k in reversed(range(len(factors))) if reverse else range(len(factors)):
        before[k] = state
        state = factors[k] * state + terms[k]
    return np.moveaxis(before, 0, axis)


def _recurrence_vjp(g: Any, y: Any, a: Any, b: Any, *, axis: int, reverse: bool, initial: float) -> Cotangents:
    after = recurrence_op(a, g, axis=axis, reverse=not reverse)
    return after * y, after


def _recurrences(rng: np.random.Generator) -> list[Sample]:
    samples = [
        Sample(
            (rng.standard_normal(shape), rng.standard_normal(shape)),
            {"axis": axis, "reverse": reverse, "initial": initial},
        )
        for shape, axis in AXES
        for reverse, initial in ((False, 0.0), (True, 1.5))
    ]
    return [*samples, Sample((np.array([2.0, 0.0, -1.0, 0.0]), rng.standard_normal(())), {"axis": 0, "initial": 1.0})]


recurrence_op = primitive(
    "linear_recurrence",
    _recurrence_type,
    _recurrence,
    _recurrence_vjp,
    "scan",
    coerce=pointwise_operands,
    accepts=("number",),
    required=("axis",),
    defaults={"reverse": False, "initial": 0.0},
    samples=_recurrences,
)


def linear_recurrence(a: Any, b: Any, axis: Any = -1, *, reverse: bool = False, initial: float = 0.0) -> Any:
    """The states s[k] of s[k + 1] = a[k] · s[k] + b[k] along `axis`, with s[0] = `initial`.

    The result has the shape in which `a` and `b` meet. s[k] is the state *before* element k, so that
    a[k] · s[k] + b[k] is the one after it. With `reverse` the recurrence runs from the end. Its adjoint is a recurrence
    with the same `a` in the other direction (Blelloch, *Prefix Sums and Their Applications*, 1990, section 1.4, for how
    such recurrences run in parallel).
    """
    a, b = as_node(a), b if b.__class__ in WEAK else as_node(b)
    shape = a.shape if b.__class__ in WEAK else max(a.shape, b.shape, key=len)
    return recurrence_op(a, b, axis=normalise_axis(axis, shape), reverse=bool(reverse), initial=float(initial))


# --------------------------------------------------------------------------------------------- running products


@composite(accepts="number", samples=lambda rng: [*_scans(rng), *_with_zeros()], name="cumprod")
def cumprod_op(x: Any, *, axis: int, reverse: bool = False, exclusive: bool = False) -> Any:
    """Running products along an axis; see `cumprod`."""
    before = recurrence_op(x, 0, axis=axis, reverse=reverse, initial=1.0)
    return before if exclusive else multiply(before, x)


def _with_zeros() -> list[Sample]:
    x = np.array([[1.5, 0.0, -2.0, 0.5], [0.0, 3.0, 0.0, -1.0]])
    return [Sample((x,), {"axis": 1}), Sample((x,), {"axis": 0, "exclusive": True})]


@method("cumprod")
def cumprod(x: Any, axis: Any = None, dtype: Any = None, *, reverse: bool = False, exclusive: bool = False) -> Any:
    """Running products of `x` along `axis`; the arguments are those of `cumsum`, an exclusive one starts with 1."""
    x, axis = _along(x, axis, dtype)
    return cumprod_op(x, axis=axis, reverse=bool(reverse), exclusive=bool(exclusive))
