"""The arithmetic of sliding windows, which convolutions and pooling share: arguments, sizes, and NumPy slices."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, TypeAlias, TypeVar

from graphc.dims import Dim, ceil_div, require_at_least
from graphc.errors import ArgumentError, ShapeError
from graphc.op import Array
from graphc.types import TensorType

Pads: TypeAlias = tuple[tuple[int, int], ...]  # (before, after) for each spatial axis
Size = TypeVar("Size", int, Dim)

AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}  # the spatial axes, by how many there are


# --- arguments


def per_axis(op: str, name: str, value: Any, count: int, least: int = 1) -> tuple[int, ...]:
    """`value`, one int or one for each of `count` spatial axes, as a tuple of ints.

    Raises:
        ArgumentError: another number of values, something that is no int, or one below `least`.
    """
    given = value if isinstance(value, tuple | list) else (value,) * count
    try:
        values = tuple(map(operator.index, given))
    except (TypeError, ShapeError):
        values = ()
    if len(values) != count or min(values) < least:
        raise ArgumentError(f"{op}: {name} must be an int or {count} ints that are >= {least}, got {value!r}")
    return values


def paddings(op: str, value: Any, count: int) -> Pads:
    """An explicit padding as (before, after) for each spatial axis: an int, one int an axis, or one pair an axis."""
    if isinstance(value, tuple | list) and value and all(isinstance(pair, tuple | list) for pair in value):
        pairs = tuple(per_axis(op, "each pair of padding", tuple(pair), 2, least=0) for pair in value)
        if len(pairs) != count:
            raise ArgumentError(f"{op}: padding has {len(pairs)} pairs for {count} spatial axes")
        return tuple((before, after) for before, after in pairs)
    return tuple((size, size) for size in per_axis(op, "padding", value, count, least=0))


def require_spatial(op: str, name: str, type: TensorType, count: int) -> None:
    """Check that a tensor has a batch, channels and `count` spatial axes.

    Raises:
        ShapeError: it has another number of dimensions.
    """
    if type.rank != count + 2:
        raise ShapeError(f"{op}: {name} must be [batch, channels, {AXES[count]}], got {type}")


# --- sizes


def span(kernel: Size, dilation: int) -> Size:
    """How many elements a window spans, the skipped ones included."""
    return dilation * (kernel - 1) + 1


def window_count(
    size: Dim, kernel: Dim, stride: Dim, pad: tuple[int, int], dilation: int = 1, *, ceil_mode: bool = False
) -> Dim:
    """How many windows fit an axis of `size` elements.

    With `ceil_mode` a last window may hang over the end if it starts before it: the count is then the lesser of
    `ceil((size + before + after - span) / stride) + 1` and `ceil((size + before) / stride)`. Both are ceilings over
    one divisor, so the lesser is the one with the lesser numerator, and which that is depends on no symbolic size.

    Raises:
        ShapeError: not one window fits; where that can't be known, a guard is recorded.
    """
    require_at_least(kernel, 1, "the size of the kernel")
    before, after = pad
    width, padded = span(kernel, dilation), size + before + after
    if not ceil_mode:
        require_at_least(padded, width, "the kernel must fit the padded size")
        return (padded - width) // stride + 1
    start = size + before
    numerator = start + min(after - width + stride, 0)
    require_at_least(numerator, 1, "a window must start inside the input")
    return ceil_div(numerator, stride)


def window_counts(
    spatial: tuple[Dim, ...],
    kernel: tuple[Dim, ...],
    stride: tuple[Dim, ...],
    padding: Pads,
    dilation: tuple[int, ...],
    *,
    ceil_mode: bool = False,
) -> tuple[Dim, ...]:
    """`window_count` of each spatial axis."""
    axes = zip(spatial, kernel, stride, padding, dilation, strict=True)
    return tuple(window_count(*axis, ceil_mode=ceil_mode) for axis in axes)


# --- NumPy: the elements that one position of the kernel meets


def tap(offset: int, stride: int, count: int) -> slice:
    """The elements of a padded axis that lie `offset` into each of `count` windows."""
    return slice(offset, offset + stride * (count - 1) + 1, stride)


def taps(x: Array, axis: int, kernel: int, stride: int, dilation: int, count: int) -> Iterator[Array]:
    """For each position of a window along `axis`, the elements (views) that it meets in `count` windows."""
    lead = (slice(None),) * axis
    return (x[(*lead, tap(j * dilation, stride, count))] for j in range(kernel))
