"""Order: `argsort`, and sorting and the largest elements by gathering at the order it finds.

Every sort is stable. NaN counts as larger than any number, as in NumPy and torch: it comes last in ascending and
first in descending order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.composites import composite, items
from graphc.dims import Dim
from graphc.errors import ArgumentError
from graphc.ir import Node
from graphc.op import Array, Cotangents, NoGradient, Op, Sample
from graphc.operands import as_node, normalise_axis, primitive, require_axes, zeros_like
from graphc.operators import method
from graphc.ops.indexing import scatter_add_along_axis_op, take_along_axis_op
from graphc.ops.shape import flatten
from graphc.ops.slicing import narrow
from graphc.types import TensorType

CASES: tuple[tuple[tuple[int, ...], int], ...] = (((3, 5), 1), ((4, 3), 0), ((7,), 0), ((0, 3), 0), ((2, 0), 1))


def _order(x: Array, *, axis: int, descending: bool) -> Array:
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    backwards = np.argsort(np.flip(x, axis), axis=axis, kind="stable")  # reversed twice, so that ties keep their order
    return np.flip(x.shape[axis] - 1 - backwards, axis)


def _distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Values so far apart that a finite difference doesn't change their order."""
    return rng.permutation(np.prod(shape, dtype=int)).reshape(shape) * 0.5 - 1


def _sorts(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((_distinct(rng, shape),), {"axis": axis, "descending": descending})
        for shape, axis in CASES
        for descending in (False, True)
    ]


def _infer_argsort(x: TensorType, *, axis: int, descending: bool) -> TensorType:
    require_axes(x, axis)
    return x.with_dtype("int64")


argsort_op: Op = primitive(
    "argsort",
    _infer_argsort,
    _order,
    NoGradient("an order is piecewise constant"),
    "sort",
    positions=lambda node: node.inputs[0].shape[node.attrs["axis"]],
    required=("axis",),
    defaults={"descending": False},
    samples=_sorts,
)


@composite(name="sort", samples=_sorts)
def sort_op(x: Any, *, axis: int, descending: bool = False) -> Any:
    """x sorted along `axis`."""
    return take_along_axis_op(x, argsort_op(x, axis=axis, descending=descending), axis=axis)


def _choices(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((_distinct(rng, (3, 5)),), {"k": 2, "axis": 1}),
        Sample((_distinct(rng, (4, 2)),), {"k": 4, "axis": 0, "largest": False}),
        Sample((_distinct(rng, (6,)),), {"k": 0, "axis": 0}),
    ]


def _topk_vjp(g: Any, y: Node, x: Node, *, k: Dim, axis: int, largest: bool) -> Cotangents:
    """What the chosen elements get; a target that finds them without sorting sorts nothing for it, either."""
    values, _ = g
    if values is None:
        return (None,)
    return (scatter_add_along_axis_op(zeros_like(x), items(y)[1], values, axis=axis),)


@composite(name="topk", vjp=_topk_vjp, samples=_choices)
def topk_op(x: Any, *, k: Dim, axis: int, largest: bool = True) -> tuple[Any, Any]:
    """The k largest elements along `axis`, the largest first, and their indices; or the smallest."""
    indices = narrow(argsort_op(x, axis=axis, descending=largest), axis, 0, k)
    return take_along_axis_op(x, indices, axis=axis), indices


@method("argsort")
def argsort(x: Any, axis: Any = -1, *, descending: bool = False, stable: bool = True) -> Any:
    """The int64 indices that sort `x` along `axis`; equal elements keep their order.

    Args:
        axis: None sorts `x` flattened.
        stable: always so; accepted because NumPy has it.
    """
    return _along(argsort_op, x, axis, descending)


@method("sort")
def sort(x: Any, axis: Any = -1, *, descending: bool = False, stable: bool = True) -> Any:
    """`x` sorted along `axis`, NaN as the largest; the gradient goes to where each element came from.

    Args:
        axis: None sorts `x` flattened.
        stable: always so; accepted because NumPy has it.
    """
    return _along(sort_op, x, axis, descending)


def _along(op: Op, x: Any, axis: Any, descending: bool) -> Any:
    x = flatten(x) if axis is None else as_node(x)
    return op(x, axis=normalise_axis(-1 if axis is None else axis, x.shape), descending=bool(descending))


@method("topk")
def topk(x: Any, k: Any, axis: Any = -1, largest: bool = True, sorted: bool = True) -> tuple[Any, Any]:
    """The `k` largest elements along `axis` in descending order, and their indices; of equal ones the first.

    Args:
        k: an int or a symbolic dimension, at most the size of the axis.
        largest: False gives the smallest, in ascending order.
        sorted: always so; accepted because torch has it.

    Returns:
        The values, and their indices as int64.
    """
    x = as_node(x)
    axis = normalise_axis(axis, x.shape)
    size = x.shape[axis]
    if isinstance(k, int) and (k < 0 or (isinstance(size, int) and k > size)):
        raise ArgumentError(f"topk: k={k} of the {size} elements of axis {axis} of {x.type}")
    values, indices = topk_op(x, k=k, axis=axis, largest=bool(largest))
    return values, indices
