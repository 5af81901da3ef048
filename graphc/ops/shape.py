"""Moving data without changing it: reshapes, permutations, slices, and tensors put together from others.

The primitives here are views (each element of the result is one of the operand, at an affine index) and `concat`,
whose result is assembled from regions, one for each operand. Everything else is written with them, and with `slice`
and `pad` of `slicing.py`.

Sizes may be symbolic throughout. What can't be proven about them is guarded when they are known: `x.reshape(-1, 4)`
of n elements gives n//4 rows and demands that n is a multiple of 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, wraps
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np

from graphc.attrs import Attrs
from graphc.composites import composite
from graphc.dims import Dim, ceil_div, product, require_equal, shape_text
from graphc.errors import ArgumentError, ShapeError
from graphc.ir import Node, make
from graphc.op import Cotangents, Op, Sample
from graphc.operands import (
    as_node,
    as_nodes,
    astype,
    broadcast_op,
    expand_dims_op,
    normalise_axes,
    normalise_axis,
    primitive,
    require_axes,
    squeeze_op,
)
from graphc.operators import method
from graphc.ops.slicing import Shape, narrow, pad_op, replaced, slice_op
from graphc.types import TensorType, broadcast_shapes, parse_shape, promote

F = TypeVar("F", bound=Callable[..., Any])


def spread_method(*names: str) -> Callable[[F], F]:
    """Register a function that takes a sequence as methods: `x.reshape(2, 3)` is `reshape(x, (2, 3))`."""

    def register(fn: F) -> F:
        @wraps(fn)
        def call(x: Any, *args: Any, **options: Any) -> Any:
            return fn(x, *((args,) if len(args) > 1 else args), **options)

        method(*names)(call)
        return fn

    return register


# --- reshape


def _infer_reshape(x: TensorType, *, shape: Shape) -> TensorType:
    require_equal(product(shape), x.size, f"elements of {shape_text(shape)} and of {x}")
    return x.with_shape(shape)


def _reshapes(rng: np.random.Generator) -> list[Sample]:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((3, 4), (2, 6)),
        ((3, 5, 1), (15,)),
        ((), (1, 1)),
        ((1,), ()),
        ((0, 3), (3, 0, 2)),
    ]
    return [Sample((rng.standard_normal(a),), {"shape": b}) for a, b in shapes]


reshape_op: Op = primitive(
    "reshape",
    _infer_reshape,
    lambda x, *, shape: x.reshape(shape),
    lambda g, y, x, *, shape: (reshape_op(g, shape=x.shape),),
    "view",
    injective=True,
    required=("shape",),
    samples=_reshapes,
)


@spread_method("reshape", "view")
def reshape(x: Any, shape: Any) -> Any:
    """`x` in another shape of as many elements, in row-major order (torch's `view`).

    Args:
        shape: one or several ints or symbolic dimensions; one of them may be -1 and is worked out.

    Raises:
        ShapeError: the numbers of elements differ. Where they can't be compared yet, that is checked when the sizes
            are known.
    """
    x = as_node(x)
    given = (shape,) if isinstance(shape, str) or not isinstance(shape, Iterable) else tuple(shape)
    holes = [k for k, dim in enumerate(given) if isinstance(dim, int | np.integer) and dim == -1]
    dims = parse_shape([1 if k in holes else dim for k, dim in enumerate(given)])
    if holes:
        dims = replaced(dims, holes[0], _missing(x, dims, holes, given))
    return x if dims == x.shape else reshape_op(x, shape=dims)


def _missing(x: Any, known: Shape, holes: list[int], given: tuple[Any, ...]) -> Dim:
    """The size that stands for -1, so that the elements of `x` fill the shape."""
    size, others = product(x.shape), product(known)
    if len(holes) > 1 or others == 0:
        why = "only one size can be worked out" if len(holes) > 1 else "a size beside 0 can't be worked out"
        raise ShapeError(f"reshape: {x.type} to {shape_text(given)}: {why}")
    if isinstance(size, int) and isinstance(others, int) and size % others:
        what = f"its {size} elements are no multiple of {others}"
        raise ShapeError(f"reshape: {x.type} does not fit {shape_text(given)}: {what}")
    return size // others


@method("flatten")
def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """`x` with the axes from `start_dim` to `end_dim` joined into one; a scalar becomes a vector of one element."""
    x = as_node(x)
    if not x.ndim:
        return reshape(x, (1,))
    first, last = normalise_axis(start_dim, x.shape), normalise_axis(end_dim, x.shape)
    if first > last:
        raise ShapeError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim}")
    return reshape(x, (*x.shape[:first], product(x.shape[first : last + 1]), *x.shape[last + 1 :]))


@method("ravel")
def ravel(x: Any) -> Any:
    """All elements of `x` as a vector, in row-major order."""
    return flatten(x)


# --- permutations of axes


def _infer_transpose(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    if sorted(axes) != list(range(x.rank)):
        raise ShapeError(f"{axes} is no permutation of the {x.rank} axes of {x}")
    return x.with_shape(tuple([x.shape[axis] for axis in axes]))


def _transposes(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((3, 4), (1, 0)),
        ((2, 3, 5), (2, 0, 1)),
        ((2, 0, 1), (1, 0, 2)),
        ((4,), (0,)),
        ((), ()),
    ]
    return [Sample((rng.standard_normal(shape),), {"axes": axes}) for shape, axes in cases]


transpose_op: Op = primitive(
    "transpose",
    _infer_transpose,
    lambda x, *, axes: np.transpose(x, axes),
    lambda g, y, x, *, axes: (transpose_op(g, axes=tuple([axes.index(k) for k in range(len(axes))])),),
    "view",
    injective=True,
    required=("axes",),
    samples=_transposes,
)


@method("T")
@spread_method("transpose")
def transpose(x: Any, axes: Any = None) -> Any:
    """`x` with its axes in the order `axes`, reversed by default.

    Raises:
        ShapeError: `axes` doesn't name every axis once.
    """
    x = as_node(x)
    if axes is None:
        axes = range(x.ndim)[::-1]
    order = tuple([normalise_axis(axis, x.shape) for axis in axes])
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"transpose: {tuple(axes)} is no permutation of the axes of {x.type}")
    return x if order == tuple(range(x.ndim)) else transpose_op(x, axes=order)


@spread_method("permute")
def permute_dims(x: Any, axes: Any) -> Any:
    """`x` with its axes in the order `axes` (torch's `permute`)."""
    return transpose(x, axes)


@method("swapaxes")
def swapaxes(x: Any, axis1: Any, axis2: Any) -> Any:
    """`x` with two axes exchanged."""
    x = as_node(x)
    first, second = normalise_axis(axis1, x.shape), normalise_axis(axis2, x.shape)
    order = list(range(x.ndim))
    order[first], order[second] = second, first
    return transpose(x, order)


@method("moveaxis")
def moveaxis(x: Any, source: Any, destination: Any) -> Any:
    """`x` with the axis or axes `source` moved to the positions `destination`; the others keep their order."""
    x = as_node(x)
    moved, to = ([*v] if isinstance(v, tuple | list) else [v] for v in (source, destination))
    if len(moved) != len(to):
        raise ShapeError(f"moveaxis: {len(moved)} axes can't go to {len(to)} positions")
    rest = iter([k for k in range(x.ndim) if k not in normalise_axes(moved, x.shape)])
    free = [k for k in range(x.ndim) if k not in normalise_axes(to, x.shape)]
    places = dict(zip([normalise_axis(axis, x.shape) for axis in to], moved, strict=True))
    return transpose(x, [next(rest) if k in free else places[k] for k in range(x.ndim)])


@method("mT")
def matrix_transpose(x: Any) -> Any:
    """`x` with its last two axes exchanged; also `x.mT`."""
    x = as_node(x)
    if x.ndim < 2:
        raise ShapeError(f"matrix_transpose: {x.type} is no matrix")
    exchanged = _exchanged(x.ndim)
    return make(transpose_op, (x,), exchanged) if isinstance(x, Node) else transpose_op(x, **exchanged)


@cache
def _exchanged(rank: int) -> Attrs:
    """The attributes of the transpose that exchanges the last two of `rank` axes."""
    return Attrs({"axes": (*range(rank - 2), rank - 1, rank - 2)})


# --- axes of size 1, and broadcasting


@method("squeeze")
def squeeze(x: Any, axis: Any = None) -> Any:
    """`x` without the axes `axis`, which must have size 1; by default without all whose size is known to be 1."""
    x = as_node(x)
    ones = tuple([k for k, dim in enumerate(x.shape) if dim == 1])
    axes = ones if axis is None else normalise_axes(axis, x.shape)
    return squeeze_op(x, axes=axes) if axes else x


@method("expand_dims", "unsqueeze")
def expand_dims(x: Any, axis: Any) -> Any:
    """`x` with new axes of size 1, at the positions `axis` of the result (torch's `unsqueeze`)."""
    x = as_node(x)
    given = axis if isinstance(axis, tuple | list) else (axis,)
    axes = normalise_axes(tuple(given), (1,) * (x.ndim + len(given)))
    return expand_dims_op(x, axes=axes) if axes else x


@method("broadcast_to")
def broadcast_to(x: Any, shape: Any) -> Any:
    """`x` repeated along axes of size 1, and along new leading axes, until it has `shape`."""
    x = as_node(x)
    dims = parse_shape(shape)
    return x if dims == x.shape else broadcast_op(x, shape=dims)


def broadcast_arrays(*xs: Any) -> tuple[Any, ...]:
    """All `xs` broadcast to their common shape."""
    nodes = [as_node(x) for x in xs]
    shape = broadcast_shapes(*[node.shape for node in nodes])
    return tuple([broadcast_to(node, shape) for node in nodes])


def meshgrid(*xs: Any, indexing: str = "xy") -> tuple[Any, ...]:
    """The coordinates of a grid over vectors: tensors of one shape, the k-th varying along the axis of `xs[k]`.

    Args:
        indexing: "ij" gives axis k to `xs[k]`; "xy" exchanges the first two axes.
    """
    nodes = [as_node(x) for x in xs]
    if indexing not in ("xy", "ij") or any(node.ndim != 1 for node in nodes):
        types = ", ".join(str(node.type) for node in nodes)
        raise ArgumentError(f"meshgrid takes vectors, and indexing 'xy' or 'ij'; got {types} and {indexing!r}")
    rank = len(nodes)
    open_grid = [expand_dims(node, [j for j in range(rank) if j != k]) for k, node in enumerate(nodes)]
    grids = broadcast_arrays(*open_grid) if nodes else ()
    return tuple([swapaxes(grid, 0, 1) for grid in grids]) if indexing == "xy" and rank > 1 else grids


# --- flips and rotations


def _flips(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((3, 4), (0,)), ((2, 3), (0, 1)), ((0, 2), (0,)), ((), ())]
    return [Sample((rng.standard_normal(shape),), {"axes": axes}) for shape, axes in cases]


def _infer_flip(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    require_axes(x, *axes)
    return x


flip_op: Op = primitive(
    "flip",
    _infer_flip,
    lambda x, *, axes: np.flip(x, axes).copy(order="C"),
    lambda g, y, x, *, axes: (flip_op(g, axes=axes),),
    "view",
    injective=True,
    required=("axes",),
    samples=_flips,
)


@spread_method("flip")
def flip(x: Any, axis: Any = None) -> Any:
    """`x` with the order of the elements along `axis` (one or several; by default all) reversed."""
    x = as_node(x)
    axes = normalise_axes(axis, x.shape)
    return flip_op(x, axes=axes) if axes else x


def rot90(x: Any, k: int = 1, axes: tuple[Any, Any] = (0, 1)) -> Any:
    """`x` rotated `k` times by 90° in the plane of two axes, from the first towards the second."""
    x = as_node(x)
    first, second = (normalise_axis(axis, x.shape) for axis in axes)
    if k % 4 == 2:
        return flip(x, (first, second))
    turned = swapaxes(x, first, second) if k % 2 else x
    return {0: turned, 1: flip(turned, first), 3: flip(turned, second)}[k % 4]


# --- putting together and taking apart


def _infer_concat(*types: TensorType, axis: int) -> TensorType:
    require_axes(types[0], axis)
    dims = list(types[0].shape)
    for type in types[1:]:
        if type.rank != len(dims) or type.dtype != types[0].dtype:
            raise ShapeError(f"operands must have one rank and one dtype, got {types[0]} and {type}")
        for k, dim in enumerate(type.shape):
            dims[k] = dims[k] + dim if k == axis else require_equal(dims[k], dim, f"axis {k} of the operands")
    return TensorType(types[0].dtype, tuple(dims))


def _concat_operands(op: Op, args: Sequence[Any]) -> tuple[Node, ...]:
    nodes = as_nodes(op, args)
    dtype = promote(*[node.dtype for node in nodes])
    return tuple([astype(node, dtype) for node in nodes])


def _concat_vjp(g: Node, y: Node, *xs: Node, axis: int) -> Cotangents:
    offsets = accumulate([x.shape[axis] for x in xs], initial=0)
    steps = (1,) * y.ndim
    return tuple(
        slice_op(g, starts=replaced((0,) * y.ndim, axis, at), steps=steps, shape=x.shape)
        for x, at in zip(xs, offsets, strict=False)
    )


def _concats(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[list[tuple[int, ...]], int]] = [
        ([(2, 3), (4, 3), (1, 3)], 0),
        ([(2, 3), (2, 1)], 1),
        ([(3,), (0,)], 0),
        ([(5,)], 0),
    ]
    return [Sample(tuple(rng.standard_normal(s) for s in shapes), {"axis": axis}) for shapes, axis in cases]


concat_op: Op = primitive(
    "concat",
    _infer_concat,
    lambda *xs, axis: np.concatenate(xs, axis),
    _concat_vjp,
    "concat",
    injective=True,
    coerce=_concat_operands,
    required=("axis",),
    samples=_concats,
)


def concat(xs: Sequence[Any], axis: Any = 0) -> Any:
    """The tensors `xs` one after the other along `axis`, promoted to one dtype; None joins them flattened.

    Raises:
        ShapeError: their other sizes differ.
        ArgumentError: there are none.
    """
    nodes = [as_node(x) if axis is not None else flatten(x) for x in xs]
    if not nodes:
        raise ArgumentError("concat: no tensors to join")
    if not nodes[0].ndim:
        raise ShapeError("concat: scalars can't be joined", hint="gc.stack makes a vector of them")
    return concat_op(*nodes, axis=normalise_axis(axis or 0, nodes[0].shape))


def stack(xs: Sequence[Any], axis: int = 0) -> Any:
    """Tensors of one shape, put together along a new axis."""
    return concat([expand_dims(x, axis) for x in xs], axis)


@method("unstack")
def unstack(x: Any, axis: Any = 0) -> tuple[Any, ...]:
    """The slices of `x` along `axis`, whose size must be known; the inverse of `stack`."""
    x = as_node(x)
    axis = normalise_axis(axis, x.shape)
    count = _known_size(x, axis, "unstack")
    return tuple([squeeze_op(narrow(x, axis, k, 1), axes=(axis,)) for k in range(count)])


def _known_size(x: Any, axis: int, name: str) -> int:
    size = x.shape[axis]
    if not isinstance(size, int):
        raise ShapeError(f"{name}: the size {size} of axis {axis} of {x.type} isn't known")
    return size


@method("split")
def split(x: Any, indices_or_sections: Any, axis: Any = 0) -> tuple[Any, ...]:
    """`x` cut along `axis`: into so many equal parts, or before each of a sequence of indices.

    A sequence means indices, as in NumPy; `split_with_sizes` takes the sizes of the parts.

    Raises:
        ShapeError: the parts can't be equal; for a symbolic size that is checked when it is known.
    """
    x = as_node(x)
    axis = normalise_axis(axis, x.shape)
    if not isinstance(indices_or_sections, int):
        cuts = (None, *indices_or_sections, None)
        return tuple([x[(*(slice(None),) * axis, slice(a, b))] for a, b in pairwise(cuts)])
    sections, size = _positive(indices_or_sections, "split"), x.shape[axis]
    if isinstance(size, int) and size % sections:
        what = f"split: axis {axis} of {x.type} can't be cut into {sections} equal parts"
        raise ShapeError(what, hint="gc.array_split cuts into nearly equal ones")
    return split_with_sizes(x, [size // sections] * sections, axis)


def array_split(x: Any, sections: int, axis: Any = 0) -> tuple[Any, ...]:
    """`x` cut along `axis` into so many parts whose sizes differ by at most one, the larger first."""
    x = as_node(x)
    axis = normalise_axis(axis, x.shape)
    count = _positive(sections, "array_split")
    return split_with_sizes(x, [ceil_div(x.shape[axis] - k, count) for k in range(count)], axis)


@method("chunk")
def chunk(x: Any, chunks: int, axis: Any = 0) -> tuple[Any, ...]:
    """`x` cut along `axis`, whose size must be known, into parts of one size, the last smaller; at most `chunks`."""
    x = as_node(x)
    axis = normalise_axis(axis, x.shape)
    size = _known_size(x, axis, "chunk")
    part = max(ceil_div(size, _positive(chunks, "chunk")), 1)
    return split_with_sizes(x, [min(part, size - at) for at in range(0, max(size, 1), part)], axis)


def split_with_sizes(x: Any, sizes: Sequence[Any], axis: Any = 0) -> tuple[Any, ...]:
    """`x` cut along `axis` into parts of the given sizes, ints or symbolic dimensions.

    Raises:
        ShapeError: the sizes don't add up to that of the axis; checked when they are known, if they aren't yet.
    """
    x = as_node(x)
    axis = normalise_axis(axis, x.shape)
    parts = parse_shape(sizes)
    offsets = list(accumulate(parts, initial=0))
    whole = reshape(x, replaced(x.shape, axis, offsets[-1]))  # demands that the sizes add up
    return tuple([narrow(whole, axis, at, part) for at, part in zip(offsets, parts, strict=False)])


def _positive(count: int, name: str) -> int:
    if count < 1:
        raise ArgumentError(f"{name}: can't cut into {count} parts")
    return count


# --- repetition


@method("tile")
def tile(x: Any, reps: Any) -> Any:
    """`x` as a whole repeated `reps[k]` times along axis k; missing axes of either are put in front.

    Args:
        reps: one or several ints or symbolic dimensions.
    """
    x = as_node(x)
    times = parse_shape(reps)
    rank = max(x.ndim, len(times))
    shape = (1,) * (rank - x.ndim) + x.shape
    times = (1,) * (rank - len(times)) + times
    rows = expand_dims(reshape(x, shape), tuple(range(0, 2 * rank, 2)))
    both = [dim for pair in zip(times, shape, strict=True) for dim in pair]
    return reshape(broadcast_to(rows, both), [a * b for a, b in zip(times, shape, strict=True)])


@method("roll")
def roll(x: Any, shift: Any, axis: Any = None) -> Any:
    """`x` with its elements moved by `shift` along `axis`, those that leave at the end entering at the start.

    Args:
        shift: an int for each axis, or one for all of them.
        axis: one or several; None rolls the flattened tensor. A symbolic size must be at least `abs(shift)`.
    """
    x = as_node(x)
    if axis is None:
        return reshape(roll(flatten(x), shift, 0), x.shape)
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    shifts = shift if isinstance(shift, tuple | list) else (shift,) * len(axes)
    if len(shifts) != len(axes):
        raise ArgumentError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for by, name in zip(shifts, axes, strict=True):
        k = normalise_axis(name, x.shape)
        size = x.shape[k]
        if isinstance(size, int):
            by %= max(size, 1)
        if by != 0:
            cut = size - by if by > 0 else -by
            x = concat([narrow(x, k, cut, size - cut), narrow(x, k, 0, cut)], k)
    return x


# --- borders


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Any:
    """`x` with elements added at the ends of its axes.

    Args:
        pad_width: how many, as in NumPy: an int for every end, `(before, after)` for every axis, or such a pair for
            each axis. Symbolic dimensions are allowed.
        mode: "constant", or what the border repeats: "edge" its outermost element, "reflect" the elements beyond
            that one, mirrored, "symmetric" the same with it, "wrap" those at the other end.
        constant_values: the number to fill with.

    Raises:
        ShapeError: a negative width, or one for which a mode other than "constant" and "edge" has too few elements.
        ArgumentError: an unknown mode, or widths for another number of axes.
    """
    x = as_node(x)
    try:
        pairs = np.broadcast_to(np.asarray(pad_width, dtype=object), (x.ndim, 2)).tolist()
    except ValueError:
        raise ArgumentError(f"pad: widths {pad_width!r} don't fit {x.type}") from None
    widths = tuple([parse_shape(pair) for pair in pairs])
    if all(width == (0, 0) for width in widths):
        return x
    if mode == "constant":
        shape = tuple([before + dim + after for (before, after), dim in zip(widths, x.shape, strict=True)])
        starts = tuple([before for before, _ in widths])
        return pad_op(x, starts=starts, steps=(1,) * x.ndim, shape=shape, value=constant_values)
    if mode not in BORDERS:
        raise ArgumentError(f"pad: mode {mode!r} is not one of constant, {', '.join(BORDERS)}")
    return pad_border_op(x, widths=widths, mode=mode)


def _edge(x: Any, axis: int, at: Dim, count: Dim) -> Any:
    return broadcast_to(narrow(x, axis, at, 1), replaced(x.shape, axis, count))


def _mirrored(x: Any, axis: int, at: Dim, count: Dim) -> Any:
    return flip(narrow(x, axis, at, count), axis)


# The pieces before and after x, of b and a elements, for n elements along the axis.
BORDERS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "edge": lambda x, axis, n, b, a: (_edge(x, axis, 0, b), _edge(x, axis, n - 1, a)),
    "reflect": lambda x, axis, n, b, a: (_mirrored(x, axis, 1, b), _mirrored(x, axis, n - 1 - a, a)),
    "symmetric": lambda x, axis, n, b, a: (_mirrored(x, axis, 0, b), _mirrored(x, axis, n - a, a)),
    "wrap": lambda x, axis, n, b, a: (narrow(x, axis, n - b, b), narrow(x, axis, 0, a)),
}


def _borders(rng: np.random.Generator) -> list[Sample]:
    return [Sample((rng.standard_normal((3, 4)),), {"widths": ((1, 2), (0, 3)), "mode": mode}) for mode in BORDERS]


@composite(name="pad_border", samples=_borders)
def pad_border_op(x: Any, *, widths: tuple[tuple[Dim, Dim], ...], mode: str) -> Any:
    """x with a border of `widths` (before and after, for each axis) that repeats its own elements."""
    if len(widths) != x.ndim:
        raise ShapeError(f"pad: {len(widths)} pairs of widths don't fit {x.type}")
    for axis, (before, after) in enumerate(widths):
        if (before, after) != (0, 0):
            left, right = BORDERS[mode](x, axis, x.shape[axis], before, after)
            x = concat([left, x, right], axis)
    return x
