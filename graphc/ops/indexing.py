"""Choosing elements by their index: gathers at integer tensors, and the scatters that are their adjoints.

The primitive `gather` indexes one or several axes at once, as `x[:, i, j]` does, and its gradient is `scatter_add`;
`take`, `take_along_axis`, `embedding` and `diagonal` are particular gathers. A negative index counts from the end, as
in NumPy; one out of range is an error, never clipped. `x[...]` itself is in `getitem.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from graphc.composites import composite
from graphc.dims import Dim, DimExpr, compare, require_equal, take_guards
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.ir import Node
from graphc.op import Array, Cotangents, NoGradient, Op, Sample
from graphc.operands import (
    WEAK,
    as_node,
    as_nodes,
    cast,
    constant,
    expand,
    expand_dims_op,
    normalise_axis,
    primitive,
    zeros_like,
)
from graphc.operators import method
from graphc.ops.creation import arange, coordinate, iota
from graphc.ops.math import equal, where
from graphc.ops.shape import broadcast_to, flatten, moveaxis, reshape, unstack
from graphc.ops.slicing import Shape, replaced
from graphc.types import TensorType, broadcast_shapes, dtype_name, is_bool, is_integer, promote, promote_scalar

NO_MASK = "gc.where(mask, x, 0) keeps the shape; np.flatnonzero gives the indices of a mask that is known"


# --- gather and scatter_add


def _gathered_shape(x: TensorType, indices: Sequence[TensorType], axes: tuple[int, ...]) -> Shape:
    """`x.shape` with the shape of the indices in the place of its first indexed axis, and without the others."""
    for type in indices:
        check_integer(type.dtype)
        if type.shape != indices[0].shape:
            raise ShapeError(f"indices must have one shape, got {indices[0]} and {type}")
    if not axes or len(axes) != len(indices) or any(a >= b for a, b in pairwise((-1, *axes, x.rank))):
        raise ShapeError(f"axes {axes} must be in order, and in {x} one for each of {len(indices)} indices")
    rest = [dim for axis, dim in enumerate(x.shape) if axis not in axes]
    return (*rest[: axes[0]], *indices[0].shape, *rest[axes[0] :])


def check_integer(dtype: str) -> None:
    """Make sure that an index has integers; a DTypeError names the remedy."""
    if not is_integer(dtype):
        hint = NO_MASK if is_bool(dtype) else "cast the index: gc.cast(i, 'int64')"
        raise DTypeError(f"an index must be of integers, got {dtype}", hint=hint)


def _infer_gather(x: TensorType, *indices: TensorType, axes: tuple[int, ...]) -> TensorType:
    return x.with_shape(_gathered_shape(x, indices, axes))


def _infer_scatter_add(x: TensorType, updates: TensorType, *indices: TensorType, axes: tuple[int, ...]) -> TensorType:
    expected = _gathered_shape(x, indices, axes)
    if is_bool(x.dtype) or updates.dtype != x.dtype or updates.rank != len(expected):
        raise DTypeError(f"expected numbers {x.with_shape(expected)} to add, got {updates}")
    for axis, (dim, wanted) in enumerate(zip(updates.shape, expected, strict=True)):
        require_equal(dim, wanted, f"axis {axis} of what is added")
    return x


def _indexed(data: int) -> Callable[[Op, Sequence[Any]], tuple[Node, ...]]:
    """The coercion of ops that take so many data operands and then indices, which are broadcast."""

    def coerce(op: Op, args: Sequence[Any]) -> tuple[Node, ...]:
        nodes = as_nodes(op, args)
        shape = broadcast_shapes(*[index.shape for index in nodes[data:]])
        take_guards()  # the broadcasts record them again
        return (*nodes[:data], *[expand(index, shape) for index in nodes[data:]])

    return coerce


def out_of_range(index: Array, size: int) -> int | None:
    """The first element of `index` that is no index of `size` elements, or None."""
    wrong = index[(index < -size) | (index >= size)]
    return int(wrong.flat[0]) if wrong.size else None


def check_range(index: Array, size: int, axis: int) -> None:
    """Make sure that `index` has indices of `size` elements only; an ArgumentError names the first that isn't one."""
    wrong = out_of_range(index, size)
    if wrong is not None:
        raise ArgumentError(f"index {wrong} is out of range for axis {axis}, which has {size} elements")


def _places(x: Array, indices: Sequence[Array], axes: tuple[int, ...]) -> tuple[Any, ...]:
    """NumPy's index for the `indices` at the `axes` of `x`; all of them must be in range."""
    places: list[Any] = [slice(None)] * x.ndim
    for axis, index in zip(axes, indices, strict=True):
        check_range(index, x.shape[axis], axis)
        places[axis] = index
    return tuple(places)


def _front(indices: Sequence[Array], axes: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Where the axes of the indices are in a result of `gather`, and where NumPy has them: in front if apart."""
    rank = indices[0].ndim
    first = axes[0] if axes[-1] - axes[0] == len(axes) - 1 else 0
    return list(range(axes[0], axes[0] + rank)), list(range(first, first + rank))


def _gather(x: Array, *indices: Array, axes: tuple[int, ...]) -> Array:
    ours, numpys = _front(indices, axes)
    return np.moveaxis(x[_places(x, indices, axes)], numpys, ours)


def _scatter_add(x: Array, updates: Array, *indices: Array, axes: tuple[int, ...]) -> Array:
    ours, numpys = _front(indices, axes)
    total = x.copy()
    np.add.at(total, _places(x, indices, axes), np.moveaxis(updates, ours, numpys))
    return total


def _gather_vjp(g: Node, y: Node, x: Node, *indices: Node, axes: tuple[int, ...]) -> Cotangents:
    return (scatter_add_op(zeros_like(x), g, *indices, axes=axes), *[None] * len(indices))


def _scatter_add_vjp(g: Node, y: Node, x: Node, updates: Node, *indices: Node, axes: tuple[int, ...]) -> Cotangents:
    return (g, expand(gather_op(g, *indices, axes=axes), updates.shape), *[None] * len(indices))


def _gathers(rng: np.random.Generator) -> list[Sample]:
    def cases() -> Any:
        yield (5, 3), [rng.integers(0, 5, (4, 2))], (0,)
        yield (3, 4), [np.array([1, -1, 3, 1])], (1,)
        yield (3,), [np.array(2)], (0,)
        yield (4, 3, 5), [rng.integers(0, 4, (2, 1)), rng.integers(0, 5, 3)], (0, 2)
        yield (2, 3, 4), [rng.integers(0, 3, 6), rng.integers(0, 4, 6)], (1, 2)
        yield (2, 3), [np.zeros((0,), np.int64)], (0,)
        yield (2, 0), [np.array([1, 0, 1])], (0,)

    return [Sample((rng.standard_normal(shape), *index), {"axes": axes}) for shape, index, axes in cases()]


def _scatters(rng: np.random.Generator) -> list[Sample]:
    found = []
    for sample in _gathers(rng):
        x, *index = sample.args
        index = list(np.broadcast_arrays(*index))
        updates = rng.standard_normal(_gather(x, *index, axes=sample.attrs["axes"]).shape)
        found.append(Sample((x, updates, *index), sample.attrs))
    return found


gather_op: Op = primitive(
    "gather",
    _infer_gather,
    _gather,
    _gather_vjp,
    "index",
    coerce=_indexed(1),
    indexed=True,
    required=("axes",),
    samples=_gathers,
    doc="The elements of x at integer tensors, one for each of `axes`: `x[:, i, j]` for axes (1, 2).",
)

scatter_add_op: Op = primitive(
    "scatter_add",
    _infer_scatter_add,
    _scatter_add,
    _scatter_add_vjp,
    "index",
    coerce=_indexed(2),
    indexed=True,
    required=("axes",),
    samples=_scatters,
    doc="x plus the updates, each where `gather` with the same indices would have read it; repeated ones add up.",
)


# --- gathers along one axis


@method("take")
def take(x: Any, indices: Any, axis: Any = None) -> Any:
    """The elements of `x` at `indices` along `axis`; without an axis, of `x` flattened.

    Args:
        indices: integers of any shape, which takes the place of the axis; negative ones count from the end.

    Raises:
        DTypeError: indices that aren't integers.
        ArgumentError: an index out of range; if it is known, now, and else in the run.
    """
    x = flatten(x) if axis is None else as_node(x)
    axis = normalise_axis(axis or 0, x.shape)
    return gather_op(x, index_of(indices, x.shape[axis], axis), axes=(axis,))


def gather(x: Any, indices: Any, axis: Any = 0) -> Any:
    """The slices of `x` at `indices` along `axis`: `take` under TF1's name and with its default."""
    return take(x, indices, axis)


def gather_nd(x: Any, indices: Any) -> Any:
    """The elements or slices of `x` at the coordinates `indices[..., k]`, which index its first axes."""
    x, indices = as_node(x), as_node(indices)
    if not indices.ndim or not isinstance(indices.shape[-1], int) or not 1 <= indices.shape[-1] <= x.ndim:
        raise ShapeError(f"gather_nd: the last axis of {indices.type} is no coordinate in {x.type}")
    return gather_op(x, *unstack(indices, -1), axes=tuple(range(indices.shape[-1])))


def scatter_add(x: Any, indices: Any, updates: Any, axis: Any = 0) -> Any:
    """`x` with `updates` added to its slices at `indices` along `axis`; what meets in one place adds up.

    Args:
        updates: of the shape of `take(x, indices, axis)`, or one that broadcasts to it.
    """
    x = as_node(x)
    axis = normalise_axis(axis, x.shape)
    index = as_node(index_of(indices, x.shape[axis], axis))
    x, values = _of_one_dtype(x, updates)
    return scatter_add_op(x, broadcast_to(values, replaced(x.shape, axis, *index.shape)), index, axes=(axis,))


def _of_one_dtype(x: Any, updates: Any) -> tuple[Any, Any]:
    """Both cast to the dtype in which they meet, where a Python number is weak."""
    weak = isinstance(updates, WEAK)
    values = constant(updates, promote_scalar(x.dtype, updates)) if weak else as_node(updates)
    dtype = promote(x.dtype, values.dtype)
    return x if x.dtype == dtype else cast(x, dtype), values if values.dtype == dtype else cast(values, dtype)


def index_of(indices: Any, size: Dim, axis: int) -> Any:
    """`indices` as a tensor, or as an integer array whose elements are in range if the size is known."""
    if isinstance(indices, Node) or hasattr(indices, "__graphc_op__"):
        return indices
    array = np.asarray(indices)
    if not array.size:
        array = array.astype(np.int64)
    check_integer(dtype_name(array.dtype))
    if isinstance(size, int):
        check_range(array, size, axis)
    return array


def _everywhere(indices: Node, axis: int) -> tuple[Node, ...]:
    """An index for each axis: `indices` for one, and for the others the place itself."""
    return tuple([indices if k == axis else coordinate(indices.shape, k) for k in range(indices.ndim)])


def _taken(rng: np.random.Generator) -> list[Sample]:
    cases = [((3, 5), (3, 2), 1), ((4, 2), (6, 2), 0), ((5,), (3,), 0), ((0, 3), (0, 1), 1)]
    return [
        Sample((rng.standard_normal(shape), rng.integers(0, shape[axis], index)), {"axis": axis})
        for shape, index, axis in cases
    ]


def _added(rng: np.random.Generator) -> list[Sample]:
    return [Sample((*s.args, rng.standard_normal(s.args[1].shape)), s.attrs) for s in _taken(rng)]


def _take_along_axis_vjp(g: Node, y: Node, x: Node, indices: Node, *, axis: int) -> Cotangents:
    return (scatter_add_along_axis_op(zeros_like(x), indices, g, axis=axis), None)


@composite(name="take_along_axis", vjp=_take_along_axis_vjp, samples=_taken)
def take_along_axis_op(x: Any, indices: Any, *, axis: int) -> Any:
    """Along `axis`, the elements of each row of x at the row of indices; all other sizes are equal."""
    return gather_op(x, *_everywhere(indices, axis), axes=tuple(range(x.ndim)))


def _scatter_add_along_axis_vjp(g: Node, y: Node, x: Node, indices: Node, updates: Node, *, axis: int) -> Cotangents:
    return (g, None, expand(take_along_axis_op(g, indices, axis=axis), updates.shape))


@composite(name="scatter_add_along_axis", vjp=_scatter_add_along_axis_vjp, samples=_added)
def scatter_add_along_axis_op(x: Any, indices: Any, updates: Any, *, axis: int) -> Any:
    """x plus the updates, each where `take_along_axis` with the same indices would have read it."""
    return scatter_add_op(x, updates, *_everywhere(indices, axis), axes=tuple(range(x.ndim)))


@method("take_along_axis")
def take_along_axis(x: Any, indices: Any, axis: Any = -1) -> Any:
    """Along `axis`, the elements of each row of `x` at the row of `indices`: what `argsort` and `argmax` give.

    Args:
        indices: integers of as many dimensions as `x`; the sizes of the axes other than `axis` broadcast.
        axis: None indexes `x` flattened.
    """
    x, indices = as_node(x), as_node(indices)
    if axis is None:
        x = flatten(x)
    axis = normalise_axis(-1 if axis is None else axis, x.shape)
    if indices.ndim != x.ndim:
        raise ShapeError(f"take_along_axis: {indices.type} has not as many axes as {x.type}")
    check_integer(indices.dtype)
    rows = broadcast_shapes(replaced(x.shape, axis, 1), replaced(indices.shape, axis, 1))
    take_guards()  # the broadcasts record them again
    x = broadcast_to(x, replaced(rows, axis, x.shape[axis]))
    return take_along_axis_op(x, broadcast_to(indices, replaced(rows, axis, indices.shape[axis])), axis=axis)


def scatter_add_along_axis(x: Any, indices: Any, updates: Any, axis: Any = -1) -> Any:
    """`x` with `updates` added where `take_along_axis(x, indices, axis)` reads; what meets in one place adds up.

    Args:
        indices: integers of as many dimensions as `x`, and of its sizes on the axes other than `axis`.
        updates: of the shape of `indices`, or one that broadcasts to it.
    """
    x, indices = as_node(x), as_node(indices)
    axis = normalise_axis(axis, x.shape)
    check_integer(indices.dtype)
    x, values = _of_one_dtype(x, updates)
    indices = broadcast_to(indices, replaced(x.shape, axis, indices.shape[axis] if indices.ndim == x.ndim else 1))
    return scatter_add_along_axis_op(x, indices, broadcast_to(values, indices.shape), axis=axis)


# --- lookups


def _one_hots(rng: np.random.Generator) -> list[Sample]:
    cases = [((2, 3), "float32"), ((), "int64"), ((0,), "bool")]
    return [Sample((rng.integers(-1, 6, shape),), {"depth": 5, "dtype": dtype}) for shape, dtype in cases]


@composite(name="one_hot", vjp=NoGradient("which element is the one is piecewise constant"), samples=_one_hots)
def one_hot_op(x: Any, *, depth: Dim, dtype: str) -> Any:
    """1 at the element of a new last axis that x names, and 0 elsewhere."""
    return cast(equal(expand_dims_op(x, axes=(x.ndim,)), iota(length=depth)), dtype)


def one_hot(x: Any, depth: Any, dtype: Any = "float32") -> Any:
    """Vectors of `depth` elements along a new last axis: 1 at the element that `x` names and 0 elsewhere.

    Args:
        x: integers; one that is negative or not below `depth` gives a vector of zeros.
        depth: an int or a symbolic dimension.
    """
    x = as_node(x)
    check_integer(x.dtype)
    return one_hot_op(x, depth=depth, dtype=dtype_name(dtype))


def _embedding_vjp(g: Node, y: Node, indices: Node, weight: Node, *, padding_idx: int | None) -> Cotangents:
    if padding_idx is not None:
        padding = expand_dims_op(equal(indices, padding_idx), axes=tuple(range(indices.ndim, g.ndim)))
        g = where(padding, zeros_like(g), g)
    return None, scatter_add_op(zeros_like(weight), g, indices, axes=(0,))


def _lookups(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((rng.integers(0, 5, (2, 3)), rng.standard_normal((5, 4)))),
        Sample((np.array([], np.int64), rng.standard_normal((2, 3)))),
        Sample((rng.integers(0, 5, 7), rng.standard_normal((5, 2))), {"padding_idx": 2}, differentiable=False),
    ]


@composite(name="embedding", vjp=_embedding_vjp, samples=_lookups)
def embedding_op(indices: Any, weight: Any, *, padding_idx: int | None = None) -> Any:
    """The rows of weight at the indices; the row `padding_idx` gets no gradient."""
    return gather_op(weight, indices, axes=(0,))


def embedding(indices: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """The rows of `weight` at `indices`.

    Args:
        indices: integers of any shape; the result has the row's axes behind them.
        weight: `[rows, ...]`.
        padding_idx: a row that gets no gradient; the value is looked up like any other.
    """
    weight = as_node(weight)
    if not weight.ndim:
        raise ShapeError(f"embedding: {weight.type} has no rows")
    rows = weight.shape[0]
    if padding_idx is not None and isinstance(rows, int):
        if out_of_range(np.asarray(padding_idx), rows) is not None:
            raise ArgumentError(f"embedding: padding_idx={padding_idx} is no row of {weight.type}")
        padding_idx %= rows
    return embedding_op(index_of(indices, rows, 0), weight, padding_idx=padding_idx)


# --- diagonals and triangles


@method("diagonal")
def diagonal(x: Any, offset: int = 0, axis1: Any = 0, axis2: Any = 1) -> Any:
    """The elements of `x` whose index along `axis2` exceeds that along `axis1` by `offset`, as a new last axis.

    Raises:
        ShapeError: both axes are the same, or have symbolic sizes of which neither is known to be the smaller.
    """
    x = as_node(x)
    first, second = normalise_axis(axis1, x.shape), normalise_axis(axis2, x.shape)
    if first > second:
        first, second, offset = second, first, -offset
    row, column = max(-offset, 0), max(offset, 0)
    rows, columns = x.shape[first] - row, x.shape[second] - column
    if isinstance(rows, int) and isinstance(columns, int):
        rows = columns = max(min(rows, columns), 0)
    if first == second or compare(rows, columns) != "equal":
        what = f"diagonal: axes {axis1} and {axis2} of {x.type}"
        raise ShapeError(f"{what} are one, or it isn't known which is shorter")
    y = gather_op(x, arange(row, row + rows), arange(column, column + rows), axes=(first, second))
    return moveaxis(y, first, -1)


def _require_matrices(op: str, x: Any) -> None:
    if x.ndim < 2:
        raise ShapeError(f"{op}: {x.type} is no matrix")


def _above_diagonal(x: Node) -> Any:
    """For each element of a matrix, on which diagonal it is; the main one is 0."""
    return coordinate(x.shape, x.ndim - 1) - coordinate(x.shape, x.ndim - 2)


def _triangles(rng: np.random.Generator) -> list[Sample]:
    cases = [((3, 4), 0), ((2, 4, 3), 1), ((3, 3), -1), ((0, 2), 0)]
    return [Sample((rng.standard_normal(shape),), {"k": k}) for shape, k in cases]


def _tril_vjp(g: Node, y: Node, x: Node, *, k: int) -> Cotangents:
    return (tril_op(g, k=k),)


def _triu_vjp(g: Node, y: Node, x: Node, *, k: int) -> Cotangents:
    return (triu_op(g, k=k),)


@composite(name="tril", vjp=_tril_vjp, samples=_triangles)
def tril_op(x: Any, *, k: int = 0) -> Any:
    """x with zeros above the k-th diagonal of its last two axes."""
    _require_matrices("tril", x)
    return where(_above_diagonal(x) <= k, x, zeros_like(x))


@composite(name="triu", vjp=_triu_vjp, samples=_triangles)
def triu_op(x: Any, *, k: int = 0) -> Any:
    """x with zeros below the k-th diagonal of its last two axes."""
    _require_matrices("triu", x)
    return where(_above_diagonal(x) >= k, x, zeros_like(x))


@method("tril")
def tril(x: Any, k: int = 0) -> Any:
    """The matrices in the last two axes of `x`, with zeros above the `k`-th diagonal."""
    return tril_op(as_node(x), k=k)


@method("triu")
def triu(x: Any, k: int = 0) -> Any:
    """The matrices in the last two axes of `x`, with zeros below the `k`-th diagonal."""
    return triu_op(as_node(x), k=k)


# --- repetition of elements


@method("repeat")
def repeat(x: Any, repeats: Any, axis: Any = None) -> Any:
    """Each element of `x` repeated in place along `axis`; without an axis, of `x` flattened.

    Args:
        repeats: an int or symbolic dimension, or an int for each element along the axis.
    """
    x = flatten(x) if axis is None else as_node(x)
    axis = normalise_axis(axis or 0, x.shape)
    if isinstance(repeats, int | DimExpr):
        rows = expand_dims_op(x, axes=(axis + 1,))
        many = broadcast_to(rows, replaced(rows.shape, axis + 1, repeats))
        return reshape(many, replaced(x.shape, axis, x.shape[axis] * repeats))
    counts, size = np.asarray(repeats), x.shape[axis]
    if counts.dtype.kind not in "iu" or counts.shape != (size,) or (counts < 0).any():
        what = f"repeats must be an int, or {size} ints >= 0 for axis {axis} of {x.type}"
        raise ArgumentError(f"repeat: {what}, got {repeats!r}")
    return take(x, np.repeat(np.arange(size), counts), axis)
