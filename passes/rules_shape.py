"""Views, casts, concatenations, padding and reductions: what two of them in a row come to."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, takewhile
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from graphc.dims import Dim, product
from graphc.ir import Node
from graphc.op import Op
from graphc.operands import (
    astype,
    broadcast_axes,
    broadcast_op,
    cast_op,
    constant,
    expand,
    expand_dims_op,
    reduce_sum,
    splat,
    squeeze_op,
)
from graphc.ops.extent import extent
from graphc.ops.math import add, multiply, negative
from graphc.ops.pooling import avg_pool_op, max_pool_op
from graphc.ops.reduce import count, reduce_all, reduce_any, reduce_max, reduce_min, reduce_prod, widened
from graphc.ops.shape import concat_op, flip_op, reshape_op, transpose_op
from graphc.ops.slicing import pad_op, slice_op
from graphc.passes.rewrite import CONSTANTS, holds, number_of, rule
from graphc.passes.rules import float_limits
from graphc.types import DTYPES, is_float

Shape = tuple[Dim, ...]

# --------------------------------------------------------------------------------------------- casts


@rule(fp="exact", on=cast_op, samples=lambda leaf: [cast_op(leaf(3, 5), dtype=leaf(3, 5).dtype)])
def cast_to_itself(node: Node) -> Node | None:
    (x,) = node.inputs
    return x if x.type is node.type else None


def preserves(narrow: str, wide: str) -> bool:
    """Whether every value of the dtype `narrow` is one of `wide`."""
    a, b = DTYPES[narrow], DTYPES[wide]
    if a.kind == "bool" or b.kind == "bool":
        return a.kind == "bool"
    if a.kind == "int" and b.kind == "int":
        low, high = np.iinfo(a.np_dtype), np.iinfo(b.np_dtype)
        return bool(high.min <= low.min and low.max <= high.max)
    if b.kind == "int":
        return False
    precision = float_limits(wide)
    if a.kind == "int":
        limits = np.iinfo(a.np_dtype)
        exact = 2 ** (precision.nmant + 1)
        return bool(-exact <= limits.min and limits.max <= exact)
    given = float_limits(narrow)
    wider = precision.minexp <= given.minexp and given.maxexp <= precision.maxexp
    return bool(wider and given.nmant <= precision.nmant)


@rule(
    fp="exact",
    on=cast_op,
    of=cast_op,
    samples=lambda leaf: [
        astype(astype(leaf(3, 5, dtype=narrow), wide), last)
        for narrow, wide in (("bool", "float32"), ("int8", "int32"), ("float16", "float32"), ("uint8", "bfloat16"))
        for last in ("float64", narrow)
    ],
)
def cast_of_widened(node: Node) -> Node | None:
    """A cast to a dtype that holds all values, and on from there; not to an integer that the float may overflow."""
    (wide,) = node.inputs
    (x,) = wide.inputs
    to_integer = DTYPES[node.dtype].kind == "int" and is_float(wide.dtype) and not preserves(x.dtype, node.dtype)
    return astype(x, node.dtype) if preserves(x.dtype, wide.dtype) and not to_integer else None


# --------------------------------------------------------------------------------------------- reshapes

RESHAPES = frozenset({reshape_op, expand_dims_op, squeeze_op})


def reshaped(x: Node, shape: Shape) -> Node:
    """`x` in another shape, by the op that says most."""
    if x.shape == shape:
        return x
    ones = tuple([k for k, dim in enumerate(x.shape) if dim == 1])
    if ones and tuple([dim for dim in x.shape if dim != 1]) == shape:
        return squeeze_op(x, axes=ones)
    new = tuple([k for k, dim in enumerate(shape) if dim == 1])
    if len(new) == len(shape) - x.ndim and tuple([dim for dim in shape if dim != 1]) == x.shape:
        return expand_dims_op(x, axes=new)
    return reshape_op(x, shape=shape)


@rule(
    fp="exact",
    on=RESHAPES,
    of=RESHAPES,
    samples=lambda leaf: [
        reshape_op(reshape_op(leaf(3, 4), shape=(12,)), shape=(2, 6)),
        squeeze_op(expand_dims_op(leaf(3, 4), axes=(0, 2)), axes=(0, 2)),
        expand_dims_op(squeeze_op(leaf(1, 3), axes=(0,)), axes=(1,)),
    ],
)
def reshape_again(node: Node) -> Node | None:
    """All of them keep the row-major order; sizes under a guard (a squeezed symbol) are left alone."""
    (inner,) = node.inputs
    return None if node.guards or inner.guards else reshaped(inner.inputs[0], node.shape)


@rule(
    fp="exact",
    on=reshape_op,
    samples=lambda leaf: [
        *[reshape_op(leaf(3, 1), shape=shape) for shape in ((3,), (3, 1))],
        reshape_op(leaf(3), shape=(3, 1)),
    ],
)
def reshape_of_ones(node: Node) -> Node | None:
    """A reshape that adds or drops axes of size 1 only, or does nothing."""
    found = None if node.guards else reshaped(node.inputs[0], node.shape)
    return found if found is not node else None


# --------------------------------------------------------------------------------------------- other views


@rule(
    fp="exact",
    on=lambda op: op.kind == "view" and op is not broadcast_op,
    of=CONSTANTS,
    samples=lambda leaf: [transpose_op(splat(1, leaf(3, 5).tensor_type), axes=(1, 0))],
)
def view_of_number(node: Node) -> Node | None:
    """Any view of a tensor that holds one number everywhere."""
    value = number_of(node.inputs[0])
    return None if value is None else splat(value, node.tensor_type)


@rule(fp="exact", on=broadcast_op, samples=lambda leaf: [broadcast_op(leaf(3, 5), shape=(3, 5))])
def broadcast_nothing(node: Node) -> Node | None:
    (x,) = node.inputs
    return x if x.type is node.type else None


@rule(
    fp="exact",
    on=broadcast_op,
    of=broadcast_op,
    samples=lambda leaf: [expand(expand(leaf(3, 1), (3, 5)), (2, 3, 5))],
)
def broadcast_again(node: Node) -> Node | None:
    """Two sizes that are equal under two guards can't be told to be so at once."""
    (inner,) = node.inputs
    return None if node.guards and inner.guards else expand(inner.inputs[0], node.shape)


@rule(
    fp="exact",
    on=broadcast_op,
    of=expand_dims_op,
    samples=lambda leaf: [expand(expand_dims_op(leaf(5), axes=(0, 1)), (2, 3, 5))],
)
def broadcast_leading(node: Node) -> Node | None:
    """New leading axes come with the broadcast."""
    (inner,) = node.inputs
    axes = inner.attrs["axes"]
    return expand(inner.inputs[0], node.shape) if axes == tuple(range(len(axes))) else None


@rule(
    fp="exact",
    on=broadcast_op,
    of=squeeze_op,
    samples=lambda leaf: [expand(squeeze_op(leaf(1, 5), axes=(0,)), (3, 5))],
)
def broadcast_squeezed(node: Node) -> Node | None:
    """Leading axes of size 1, dropped and then broadcast."""
    (inner,) = node.inputs
    (x,) = inner.inputs
    leading = inner.attrs["axes"] == tuple(range(len(inner.attrs["axes"]))) and x.ndim <= node.ndim
    return expand(x, node.shape) if leading and not inner.guards else None


@rule(fp="exact", on=transpose_op, samples=lambda leaf: [transpose_op(leaf(3, 5), axes=(0, 1))])
def transpose_nothing(node: Node) -> Node | None:
    return node.inputs[0] if node.attrs["axes"] == tuple(range(node.ndim)) else None


@rule(
    fp="exact",
    on=transpose_op,
    of=transpose_op,
    samples=lambda leaf: [
        transpose_op(transpose_op(leaf(2, 3, 5), axes=(1, 2, 0)), axes=axes) for axes in ((2, 0, 1), (0, 2, 1))
    ],
)
def transpose_again(node: Node) -> Node:
    (inner,) = node.inputs
    first, then = inner.attrs["axes"], node.attrs["axes"]
    return transpose_op(inner.inputs[0], axes=tuple([first[axis] for axis in then]))


@rule(
    fp="exact",
    on=flip_op,
    of=flip_op,
    samples=lambda leaf: [flip_op(flip_op(leaf(3, 5), axes=(0,)), axes=axes) for axes in ((0,), (0, 1))],
)
def flip_again(node: Node) -> Node:
    (inner,) = node.inputs
    axes = tuple(sorted(set(inner.attrs["axes"]) ^ set(node.attrs["axes"])))
    return flip_op(inner.inputs[0], axes=axes) if axes else inner.inputs[0]


# --------------------------------------------------------------------------------------------- windows


def _whole(node: Node) -> bool:
    """A slice or pad that takes or fills everything."""
    return node.inputs[0].type is node.type and all(step == 1 for step in node.attrs["steps"])


@rule(fp="exact", on=slice_op, samples=lambda leaf: [slice_op(leaf(3, 5), starts=(0, 0), steps=(1, 1), shape=(3, 5))])
def slice_whole(node: Node) -> Node | None:
    return node.inputs[0] if _whole(node) else None


@rule(fp="exact", on=pad_op, samples=lambda leaf: [pad_op(leaf(3, 5), starts=(0, 0), steps=(1, 1), shape=(3, 5))])
def pad_nothing(node: Node) -> Node | None:
    return node.inputs[0] if _whole(node) else None


def _composed(inner: Node, outer: Node) -> dict[str, Shape]:
    """Where the window `outer` on the window `inner` starts, and its steps."""
    pairs = zip(inner.attrs["starts"], inner.attrs["steps"], outer.attrs["starts"], outer.attrs["steps"], strict=True)
    places = [(start + step * at, step * by) for start, step, at, by in pairs]
    return {"starts": tuple([start for start, _ in places]), "steps": tuple([step for _, step in places])}


@rule(
    fp="exact",
    on=slice_op,
    of=slice_op,
    samples=lambda leaf: [
        slice_op(slice_op(leaf(9), starts=(1,), steps=(2,), shape=(4,)), starts=(1,), steps=(2,), shape=(2,)),
    ],
)
def slice_again(node: Node) -> Node:
    (inner,) = node.inputs
    return slice_op(inner.inputs[0], **_composed(inner, node), shape=node.shape)


@rule(
    fp="exact",
    on=pad_op,
    of=pad_op,
    samples=lambda leaf: [
        pad_op(pad_op(leaf(2), starts=(1,), steps=(2,), shape=(4,)), starts=(2,), steps=(3,), shape=(12,))
    ],
)
def pad_again(node: Node) -> Node | None:
    (inner,) = node.inputs
    if not _same(node.attrs["value"], inner.attrs["value"]):
        return None
    return pad_op(inner.inputs[0], **_composed(node, inner), shape=node.shape, value=node.attrs["value"])


def _same(a: float, b: float) -> bool:
    return a == b and np.signbit(float(a)) == np.signbit(float(b))


@rule(
    fp="exact",
    on=slice_op,
    of=pad_op,
    samples=lambda leaf: [
        slice_op(pad_op(leaf(2), starts=(1,), steps=(2,), shape=(5,)), starts=(1,), steps=(2,), shape=(2,))
    ],
)
def slice_of_pad(node: Node) -> Node | None:
    """What was put in, taken out."""
    (inner,) = node.inputs
    same = all(inner.attrs[name] == node.attrs[name] for name in ("starts", "steps"))
    return inner.inputs[0] if same and inner.inputs[0].type is node.type else None


@rule(
    fp="exact",
    on=slice_op,
    of=concat_op,
    samples=lambda leaf: [
        slice_op(concat_op(leaf(2, 3), leaf(4, 3), axis=0), starts=(3, 0), steps=(2, 1), shape=(2, 3)),
        slice_op(concat_op(leaf(2, 3), leaf(2, 2), axis=1), starts=(0, 1), steps=(1, 1), shape=(2, 2)),
    ],
)
def slice_of_concat(node: Node) -> Node | None:
    """A slice that lies in one of the parts."""
    (joined,) = node.inputs
    axis = joined.attrs["axis"]
    first, step, count = node.attrs["starts"][axis], node.attrs["steps"][axis], node.shape[axis]
    if not isinstance(first, int) or not isinstance(count, int) or count == 0:
        return None
    ends = _known_ends(joined)
    k = bisect_right(ends, first)
    if k == len(ends) or first + (count - 1) * step >= ends[k]:
        return None
    at = ends[k - 1] if k else 0
    starts = tuple([s - at if k == axis else s for k, s in enumerate(node.attrs["starts"])])
    return slice_op(joined.inputs[k], starts=starts, steps=node.attrs["steps"], shape=node.shape)


_ends: WeakKeyDictionary[Node, list[int]] = WeakKeyDictionary()  # a tensor may be taken apart into all its parts


def _known_ends(joined: Node) -> list[int]:
    """Where the parts of a concatenation end, up to the first one of unknown size."""
    ends = _ends.get(joined)
    if ends is None:
        sizes = [part.shape[joined.attrs["axis"]] for part in joined.inputs]
        ends = _ends[joined] = list(accumulate(takewhile(lambda size: isinstance(size, int), sizes)))
    return ends


# --------------------------------------------------------------------------------------------- concatenations


@rule(fp="exact", on=concat_op, samples=lambda leaf: [concat_op(leaf(3, 5), axis=0)])
def concat_of_one(node: Node) -> Node | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


@rule(
    fp="exact",
    on=concat_op,
    samples=lambda leaf: [concat_op(leaf(2, 3), concat_op(leaf(1, 3), leaf(3, 3), axis=0), axis=0)],
)
def concat_of_concat(node: Node) -> Node | None:
    axis = node.attrs["axis"]
    parts: list[Node] = []
    for part in node.inputs:
        parts += part.inputs if part.op is concat_op and part.attrs["axis"] == axis else (part,)
    return concat_op(*parts, axis=axis) if len(parts) > len(node.inputs) else None


@rule(
    fp="exact",
    on=concat_op,
    of=slice_op,
    samples=lambda leaf: [
        concat_op(*[slice_op(x, starts=(at,), steps=(1,), shape=(n,)) for at, n in ((0, 2), (2, 1), (3, 2))], axis=0)
        for x in [leaf(5)]
    ],
)
def concat_of_slices(node: Node) -> Node | None:
    """The parts of one tensor, put together again."""
    axis = node.attrs["axis"]
    first = node.inputs[0]
    at = first.attrs["starts"]
    for part in node.inputs:
        if part.op is not slice_op or part.inputs != first.inputs or part.attrs["starts"] != at:
            return None
        if any(step != 1 for step in part.attrs["steps"]):
            return None
        at = tuple([start + part.shape[axis] if k == axis else start for k, start in enumerate(at)])
    return slice_op(first.inputs[0], starts=first.attrs["starts"], steps=first.attrs["steps"], shape=node.shape)


@rule(
    fp="reassoc",
    on=add,
    of=(pad_op, pad_op),
    samples=lambda leaf: [
        pad_op(leaf(2, 3), starts=(at, 0), steps=(1, 1), shape=(6, 3))
        + pad_op(leaf(3, 3), starts=(to, 0), steps=(1, 1), shape=(6, 3))
        for at, to in ((0, 2), (3, 0))
    ],
)
def add_of_pads(node: Node) -> Node | None:
    """Neighbours put side by side: what the gradients of slices add up to."""
    a, b = node.inputs
    if not all(holds(constant(p.attrs["value"]), 0) for p in (a, b)):
        return None
    if any(step != 1 for p in (a, b) for step in p.attrs["steps"]):
        return None
    for first, second in ((a, b), (b, a)):
        axis = _follows(first, second)
        if axis is not None:
            joined = concat_op(first.inputs[0], second.inputs[0], axis=axis)
            return pad_op(joined, **{**first.attrs, "value": a.attrs["value"]})
    return None


def _follows(first: Node, second: Node) -> int | None:
    """The axis along which the region that `second` fills begins where that of `first` ends, all else being equal."""
    starts, others = first.attrs["starts"], second.attrs["starts"]
    sizes, other_sizes = first.inputs[0].shape, second.inputs[0].shape
    different = [k for k in range(first.ndim) if (starts[k], sizes[k]) != (others[k], other_sizes[k])]
    if len(different) != 1:
        return None
    (axis,) = different
    return axis if others[axis] == starts[axis] + sizes[axis] else None


# --------------------------------------------------------------------------------------------- reductions

IDEMPOTENT = frozenset({reduce_max, reduce_min, reduce_any, reduce_all})


@rule(
    fp="exact",
    on={*IDEMPOTENT, reduce_prod},
    samples=lambda leaf: [
        *[op(leaf(3, 1), axes=axes) for op in (reduce_min, reduce_prod) for axes in ((0, 1), (1,), ())],
        reduce_any(leaf(3, 1, dtype="bool"), axes=(1,)),
    ],
)
def reduce_single(node: Node) -> Node | None:
    """Axes of size 1 need no reducing."""
    return _without_single(node)


@rule(fp="reassoc", on=reduce_sum, samples=lambda leaf: [reduce_sum(leaf(3, 1), axes=axes) for axes in ((0, 1), (1,))])
def sum_single(node: Node) -> Node | None:
    """The sum of -0.0 alone is 0.0."""
    return _without_single(node)


def _without_single(node: Node) -> Node | None:
    (x,) = node.inputs
    axes = tuple([axis for axis in node.attrs["axes"] if x.shape[axis] != 1])
    if not axes:
        return x
    return node.op(x, axes=axes) if axes != node.attrs["axes"] else None


@rule(
    fp="exact",
    on=IDEMPOTENT,
    of=IDEMPOTENT,
    samples=lambda leaf: [reduce_max(reduce_max(leaf(3, 5), axes=(0,)), axes=(1,))],
)
def extreme_of_extreme(node: Node) -> Node | None:
    (inner,) = node.inputs
    return _joined(inner, node) if inner.op is node.op else None


@rule(
    fp="reassoc",
    on=reduce_sum,
    of=reduce_sum,
    samples=lambda leaf: [reduce_sum(reduce_sum(leaf(3, 5, 2), axes=(0,)), axes=(1, 2))],
)
def sum_of_sum(node: Node) -> Node:
    return _joined(node.inputs[0], node)


@rule(
    fp="finite",
    on=reduce_prod,
    of=reduce_prod,
    samples=lambda leaf: [reduce_prod(reduce_prod(leaf(3, 5), axes=(0,)), axes=(1,))],
)
def product_of_product(node: Node) -> Node:
    """In another order, the product of large and small numbers overflows: 1e30 * 1e-30 * 1e30 * 1e-30."""
    return _joined(node.inputs[0], node)


def _joined(inner: Node, outer: Node) -> Node:
    return outer.op(inner.inputs[0], axes=tuple(sorted({*inner.attrs["axes"], *outer.attrs["axes"]})))


def _split_axes(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of a reduction of a broadcast: the reduced axes along which it repeats, and the others."""
    (repeated,) = node.inputs
    stretched = broadcast_axes(repeated.inputs[0], repeated.shape)
    axes = node.attrs["axes"]
    return tuple([a for a in axes if a in stretched]), tuple([a for a in axes if a not in stretched])


def _kept_shape(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple([1 if k in axes else dim for k, dim in enumerate(shape)])


def _occupied(x: Node, axes: Sequence[int]) -> bool:
    """Whether there is an element along `axes`, whatever the symbols stand for."""
    return all(isinstance(x.shape[axis], int) and x.shape[axis] for axis in axes)


COUNTING = ("float64", "float32", "int64")  # dtypes whose range no number of elements exceeds


@rule(
    fp="reassoc",
    on=reduce_sum,
    of=broadcast_op,
    samples=lambda leaf: [
        reduce_sum(expand(leaf(3, 1), (2, 3, 5)), axes=(0, 2)),
        reduce_sum(expand(leaf(3, 1), (2, 3, 5)), axes=(1, 2)),
        reduce_sum(expand(leaf(), (4,)), axes=(0,)),
    ],
)
def sum_of_broadcast(node: Node) -> Node | None:
    """n equal terms are n times one; but the sum of no terms is 0, whatever they are."""
    (repeated,) = node.inputs
    stretched, rest = _split_axes(node)
    if not stretched or node.dtype not in COUNTING:
        return None
    term = number_of(repeated)
    if not _occupied(repeated, stretched) and (term is None or not math.isfinite(term)):
        return None
    terms = expand(repeated.inputs[0], _kept_shape(repeated.shape, stretched))
    total = reduce_sum(terms, axes=rest) if rest else terms
    return total * expand(extent(product([repeated.shape[axis] for axis in stretched]), node.dtype), node.shape)


@rule(
    fp="exact",
    on=IDEMPOTENT,
    of=broadcast_op,
    samples=lambda leaf: [
        reduce_max(expand(leaf(3, 1), (2, 3, 5)), axes=(0, 2)),
        reduce_all(expand(leaf(3, 1, dtype="bool"), (2, 3, 5)), axes=(1, 2)),
    ],
)
def extreme_of_broadcast(node: Node) -> Node | None:
    """The extreme of equal elements is one of them, if there is one."""
    (repeated,) = node.inputs
    stretched, rest = _split_axes(node)
    if not stretched or not _occupied(repeated, stretched):
        return None
    terms = expand(repeated.inputs[0], _kept_shape(repeated.shape, stretched))
    return node.op(terms, axes=rest) if rest else terms


@rule(
    fp="reassoc",
    on=reduce_sum,
    of=multiply,
    samples=lambda leaf: [reduce_sum(leaf(3, 5) * factor, axes=(1,)) for factor in (2.5, -1e4)],
)
def factor_out_of_sum(node: Node) -> Node | None:
    """A constant factor multiplies the sum. Not one below 1: without it, the sum of the terms may overflow."""
    if node.dtype not in ("float64", "float32"):
        return None
    for x, factor in (node.inputs[0].inputs, node.inputs[0].inputs[::-1]):
        value = number_of(factor)
        if value is not None and 1 <= abs(value) < math.inf:
            return reduce_sum(x, axes=node.attrs["axes"]) * splat(value, node.tensor_type)
    return None


@rule(fp="reassoc", on=reduce_sum, of=negative, samples=lambda leaf: [reduce_sum(-leaf(3, 5), axes=(0,))])
def sum_of_negative(node: Node) -> Node:
    return -reduce_sum(node.inputs[0].inputs[0], axes=node.attrs["axes"])


def _is_whole(node: Node) -> bool:
    """Whether a pooling has one window, which is the plane."""
    (x,), attrs = node.inputs, node.attrs
    unpadded = all(before == after == 0 for before, after in attrs["padding"])
    whole = tuple(attrs["kernel"]) == x.shape[2:] and all(isinstance(dim, int) for dim in x.shape[2:])
    return unpadded and whole and all(step == 1 for step in attrs["dilation"])


def _whole_planes(op: Op, **attrs: Any) -> Callable[..., list[Node]]:
    geometry = {"stride": (1, 1), "padding": ((0, 0),) * 2, "dilation": (1, 1), "ceil_mode": False, **attrs}
    return lambda leaf: [op(leaf(2, 3, *kernel), kernel=kernel, **geometry) for kernel in ((4, 5), (1, 2))]


@rule(fp="exact", on=max_pool_op, samples=_whole_planes(max_pool_op))
def maximum_of_plane(node: Node) -> Node | None:
    """One window that is the plane: a reduction, whose lanes needn't have a window each."""
    return reduce_max(node.inputs[0], axes=_plane(node)) if _is_whole(node) else None


@rule(fp="reassoc", on=avg_pool_op, samples=_whole_planes(avg_pool_op, count_include_pad=True))
def mean_of_plane(node: Node) -> Node | None:
    """The sum of shares: that of the elements may overflow."""
    if not _is_whole(node):
        return None
    terms, axes = widened(node.inputs[0]), _plane(node)
    share = constant(1.0, terms.dtype) / count(terms, axes)
    return astype(reduce_sum(terms * expand(share, terms.shape), axes=axes), node.dtype)


def _plane(node: Node) -> tuple[int, ...]:
    """The spatial axes."""
    return tuple(range(2, node.ndim))
