"""Tensors made of numbers alone: filled, counted, spaced.

Nothing large is ever stored: a filled tensor is a broadcast scalar, and everything that varies is arithmetic on
`iota`, the one op that counts, which fuses into whatever reads it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphc.dims import Dim, DimExpr, as_dim, ceil_div, parse_dim, require_at_least
from graphc.errors import ArgumentError
from graphc.ir import Node
from graphc.op import NoGradient, Sample
from graphc.operands import as_node, broadcast_op, cast, constant, expand_dims_op, primitive
from graphc.ops.extent import extent
from graphc.ops.math import equal, where
from graphc.types import TensorType, dtype_name, is_float, parse_shape

__all__ = [
    "arange",
    "constant",
    "coordinate",
    "eye",
    "full",
    "full_like",
    "iota",
    "linspace",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
]


# --- counted


def _infer_iota(*, length: Dim) -> TensorType:
    require_at_least(length, 0, "the number of elements")
    return TensorType("int64", (length,))


iota = primitive(
    "iota",
    _infer_iota,
    lambda *, length: np.arange(length, dtype=np.int64),
    NoGradient("a counter depends on nothing"),
    "iota",
    positions=lambda node: node.attrs["length"],
    required=("length",),
    samples=lambda rng: [Sample((), {"length": length}) for length in (5, 1, 0)],
    doc="0, 1, ..., length - 1 as int64[length]; the length may be symbolic.",
)


def coordinate(shape: tuple[Dim, ...], axis: int) -> Node:
    """The index along `axis` of each element of a tensor of `shape`: int64, broadcastable to that shape."""
    others = tuple([k for k in range(len(shape)) if k != axis])
    counter: Node = iota(length=shape[axis])
    return expand_dims_op(counter, axes=others) if others else counter


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Any:
    """The numbers from `start` up to, not including, `stop`, as a vector; `arange(stop)` counts from 0.

    Args:
        start, stop: numbers, or symbolic dimensions (or their text, such as `"batch"`); a negative difference of
            integers gives an empty vector, one of symbolic dimensions fails when their sizes are known.
        step: a number other than 0; an integer where a bound is symbolic.
        dtype: int64 for integers and dimensions, float32 as soon as one argument is a float.

    Raises:
        ArgumentError: a step of 0, or a bound that is no number.
    """
    if stop is None:
        start, stop = 0, start
    first, last, by = _number(start, "start"), _number(stop, "stop"), _number(step, "step")
    floats = any(isinstance(v, float) for v in (first, last, by))
    dims = any(isinstance(v, DimExpr) for v in (first, last, by))
    if by == 0 or isinstance(by, DimExpr) or (floats and dims):
        rule = "bounds and step must be integers beside a dimension" if dims else "the step must not be 0"
        raise ArgumentError(f"arange({start!r}, {stop!r}, {step!r}): {rule}")
    wanted = dtype_name(dtype or ("float32" if floats else "int64"))
    values = iota(length=_count(first, last, by))
    if floats:
        values = cast(values, _wide(wanted))
    if by != 1:
        values = values * by
    if first != 0:
        values = values + (extent(first, "int64") if isinstance(first, DimExpr) else first)
    return _as(values, wanted)


def _number(value: Any, role: str) -> Any:
    """`value` as an int, a float or a symbolic dimension."""
    if isinstance(value, str):
        return parse_dim(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value)
    if isinstance(value, DimExpr):
        return value
    raise ArgumentError(
        f"arange: {role} must be a number or a dimension, got {value!r}",
        hint="for a start that is a tensor: start + gc.arange(count)",
    )


def _count(first: Any, last: Any, by: Any) -> Dim:
    if isinstance(first, float) or isinstance(last, float) or isinstance(by, float):
        exact: float = (last - first) / by
        return max(0, math.ceil(exact))
    count: Dim = ceil_div(last - first, by) if by > 0 else ceil_div(first - last, -by)
    return max(0, count) if isinstance(count, int) else count


def _wide(dtype: str) -> str:
    """The float dtype in which values are worked out that are returned in `dtype`."""
    return "float32" if is_float(dtype) and dtype != "float64" else "float64"


def _as(x: Any, dtype: str) -> Any:
    return x if x.dtype == dtype else cast(x, dtype)


def linspace(start: Any, stop: Any, num: int = 50, *, endpoint: bool = True, dtype: Any = "float32") -> Any:
    """`num` evenly spaced numbers from `start` to `stop`, which is the last of them if `endpoint`.

    Args:
        start, stop: numbers or scalar tensors.
        dtype: a float dtype.

    Raises:
        ArgumentError: a negative number of numbers, or an integer dtype.
    """
    wanted = dtype_name(dtype)
    if num < 0 or not is_float(wanted):
        raise ArgumentError(f"linspace: num={num} must be >= 0, dtype={wanted!r} a float")
    count = cast(iota(length=num), _wide(wanted))
    values = start + count * ((stop - start) / max(num - endpoint, 1))
    if endpoint and num > 1:
        values = where(count < num - 1, values, stop)  # the sum may miss the end by a rounding
    return _as(values, wanted)


# --- filled


def full(shape: Any, fill_value: Any, dtype: Any = None) -> Any:
    """A tensor of `shape`, ints or symbolic dimensions, filled with a number or scalar tensor.

    Args:
        dtype: that of the value by default: int64, float32 or bool for Python's numbers.
    """
    tensor = isinstance(fill_value, Node) or hasattr(fill_value, "__graphc_op__")
    value = as_node(fill_value) if tensor else constant(fill_value, dtype)
    if dtype is not None:
        value = _as(value, dtype_name(dtype))
    dims = parse_shape(shape)
    return broadcast_op(value, shape=dims) if dims else value


def zeros(shape: Any, dtype: Any = "float32") -> Any:
    """A tensor of `shape` filled with zeros."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = "float32") -> Any:
    """A tensor of `shape` filled with ones."""
    return full(shape, 1, dtype)


def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Any:
    """A tensor of the shape, and by default the dtype, of `x`, filled with a number or scalar tensor."""
    x = as_node(x)
    return full(x.shape, fill_value, dtype or x.dtype)


def zeros_like(x: Any, dtype: Any = None) -> Any:
    """Zeros of the shape, and by default the dtype, of `x`."""
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: Any = None) -> Any:
    """Ones of the shape, and by default the dtype, of `x`."""
    return full_like(x, 1, dtype)


def eye(n: Any, m: Any = None, k: int = 0, dtype: Any = "float32") -> Any:
    """The matrix `[n, m]` (m is n by default) with ones on its `k`-th diagonal and zeros elsewhere."""
    shape = (as_dim(n), as_dim(n if m is None else m))
    return cast(equal(coordinate(shape, 1) - coordinate(shape, 0), k), dtype)
