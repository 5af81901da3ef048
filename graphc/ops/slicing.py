"""Windows: the elements of a tensor at regular places, and a tensor with its elements put at regular places.

The primitives `slice` and `pad` take the same attributes and are each other's gradient. A slice is a view (an affine
index into its operand). A pad is of kind "concat", as `concat` is: its result is assembled from regions, of which
each operand fills its own and a constant the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.dims import Dim, ceil_div, require_at_least
from graphc.errors import DTypeError, ShapeError
from graphc.ir import Node
from graphc.op import Array, Cotangents, Op, Sample
from graphc.operands import as_node, normalise_axis, primitive
from graphc.operators import method
from graphc.types import TensorType, promote_scalar

Shape = tuple[Dim, ...]


def replaced(shape: Shape, axis: int, *dims: Dim) -> Shape:
    """`shape` with `dims` in the place of the one at `axis`."""
    return (*shape[:axis], *dims, *shape[axis + 1 :])


def _check_window(starts: Shape, steps: tuple[int, ...], inner: Shape, outer: Shape) -> None:
    """Make sure that `inner` many elements, `steps` apart from `starts` on, lie inside of `outer`."""
    if not len(starts) == len(steps) == len(inner) == len(outer):
        raise ShapeError(f"starts {starts}, steps {steps} and shape must have an entry for each axis")
    for axis, (start, step, count, size) in enumerate(zip(starts, steps, inner, outer, strict=True)):
        if start == 0 and step == 1 and count == size:
            continue
        reason = f"axis {axis}: {count} elements from {start} on, {step} apart, in {size}"
        require_at_least(start, 0, reason)
        require_at_least(count, 0, reason)
        require_at_least(ceil_div(size - start, step), count, reason)


def _infer_slice(x: TensorType, *, starts: Shape, steps: tuple[int, ...], shape: Shape) -> TensorType:
    _check_window(starts, steps, shape, x.shape)
    return x.with_shape(shape)


def _infer_pad(
    x: TensorType, *, starts: Shape, steps: tuple[int, ...], shape: Shape, value: float | bool
) -> TensorType:
    _check_window(starts, steps, x.shape, shape)
    if value != 0 and promote_scalar(x.dtype, value) != x.dtype:
        raise DTypeError(f"{x} can't hold the value {value!r} that it is padded with")
    return x.with_shape(shape)


def _window(starts: Sequence[int], steps: Sequence[int], counts: Sequence[int]) -> tuple[slice, ...]:
    return tuple([slice(s, s + n * d, d) for s, d, n in zip(starts, steps, counts, strict=True)])


def _padded(x: Array, *, starts: Any, steps: Any, shape: Any, value: Any) -> Array:
    out = np.full(shape, value, x.dtype)
    out[_window(starts, steps, x.shape)] = x
    return out


def _slices(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((rng.standard_normal((5, 4)),), {"starts": (1, 0), "steps": (2, 1), "shape": (2, 3)}),
        Sample((rng.standard_normal((3,)),), {"starts": (3,), "steps": (1,), "shape": (0,)}),
        Sample((rng.standard_normal((0, 2)),), {"starts": (0, 1), "steps": (3, 1), "shape": (0, 1)}),
        Sample((rng.standard_normal(()),), {"starts": (), "steps": (), "shape": ()}),
    ]


def _pads(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((rng.standard_normal((2, 3)),), {"starts": (1, 0), "steps": (2, 1), "shape": (5, 4)}),
        Sample((rng.standard_normal((3,)),), {"starts": (2,), "steps": (1,), "shape": (6,), "value": -1}),
        Sample((rng.standard_normal((0, 2)),), {"starts": (1, 0), "steps": (1, 1), "shape": (3, 2)}),
        Sample((rng.standard_normal(()),), {"starts": (), "steps": (), "shape": ()}),
    ]


def _slice_vjp(g: Node, y: Node, x: Node, *, starts: Shape, steps: tuple[int, ...], shape: Shape) -> Cotangents:
    return (pad_op(g, starts=starts, steps=steps, shape=x.shape),)


def _pad_vjp(
    g: Node, y: Node, x: Node, *, starts: Shape, steps: tuple[int, ...], shape: Shape, value: float
) -> Cotangents:
    return (slice_op(g, starts=starts, steps=steps, shape=x.shape),)


slice_op: Op = primitive(
    "slice",
    _infer_slice,
    lambda x, *, starts, steps, shape: x[_window(starts, steps, shape)],
    _slice_vjp,
    "view",
    injective=True,
    required=("starts", "steps", "shape"),
    samples=_slices,
    doc="The elements `starts + k * steps` of x, for k below `shape`; steps are positive.",
)

pad_op: Op = primitive(
    "pad",
    _infer_pad,
    _padded,
    _pad_vjp,
    "concat",
    injective=True,
    required=("starts", "steps", "shape"),
    defaults={"value": 0},
    samples=_pads,
    doc="A tensor of `shape` with x at `starts + k * steps` and `value` elsewhere; the adjoint of `slice`.",
)


def windowed(x: Any, starts: Shape, steps: tuple[int, ...], shape: Shape) -> Any:
    """`slice_op`, or `x` itself where it takes everything."""
    whole = shape == x.shape and all(start == 0 for start in starts)
    return x if whole else slice_op(x, starts=starts, steps=steps, shape=shape)


@method("narrow")
def narrow(x: Any, axis: Any, start: Any, length: Any) -> Any:
    """The `length` elements of `x` from `start` on along `axis`; both may be symbolic.

    Raises:
        ShapeError: they don't lie inside; where that isn't known yet, it is checked when the sizes are.
    """
    x = as_node(x)
    axis = normalise_axis(axis, x.shape)
    starts: Shape = replaced((0,) * x.ndim, axis, start)
    return windowed(x, starts, (1,) * x.ndim, replaced(x.shape, axis, length))
