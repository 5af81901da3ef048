"""What `x[index]` means: NumPy's indexing, by views and a gather.

Slices, integers and new axes are views; integer tensors and arrays are a `gather`. A mask can't index: how much it
chooses is not known before the run.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np

from graphc.composites import items
from graphc.dims import Dim, DimExpr, ceil_div, lower_bound, upper_bound
from graphc.errors import ArgumentError, ShapeError
from graphc.operands import as_node, expand_dims_op, squeeze_op
from graphc.operators import method
from graphc.ops.indexing import check_integer, check_range, gather_op, index_of
from graphc.ops.shape import flip_op, moveaxis
from graphc.ops.slicing import windowed
from graphc.types import TupleType, dtype_name


@method("getitem")
def getitem(x: Any, index: Any) -> Any:
    """`x[index]` with NumPy's meaning: integers, slices of any step, `...`, new axes, and integer tensors or arrays.

    Several integer tensors are broadcast and index together; their axes come first in the result if a slice
    separates them. The bounds of slices may be symbolic, and so may what they cut: they are not clipped then, but
    checked when the sizes are known: `x[:3]` and `x[-3:]` of n elements have 3 and demand n >= 3, and `x[1:]`
    has n - 1.

    Raises:
        ArgumentError: an integer out of range, or an index that is none.
        DTypeError: an index of floats, or a mask, whose result would have a shape that depends on data.
        ShapeError: more indices than axes.
    """
    x = as_node(x)
    if isinstance(x.type, TupleType):
        return items(x)[index]
    return _get(x, _entries(index, x))


def _entries(index: Any, x: Any) -> list[Any]:
    """The checked entries of an index, with the slices that `...` stands for behind it, or at the end without one."""
    entries = [_entry(item) for item in (index if isinstance(index, tuple) else (index,))]
    dots = [k for k, entry in enumerate(entries) if entry is Ellipsis]
    if len(dots) > 1:
        raise ArgumentError("an index can have one ellipsis only")
    used = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if used > x.ndim:
        raise ShapeError(f"{used} indices for the {x.ndim} axes of {x.type}")
    at = dots[0] + 1 if dots else len(entries)
    return [*entries[:at], *[slice(None)] * (x.ndim - used), *entries[at:]]


def _entry(item: Any) -> Any:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, DimExpr):
        return _from_start(item)
    if isinstance(item, int | np.integer) and not isinstance(item, bool):
        return int(item)
    if isinstance(item, list | tuple):
        item = np.asarray(item if len(item) else np.zeros(0, np.int64))
    if not hasattr(item, "dtype"):
        raise ArgumentError(f"an index can't be {item!r}", hint="use integers, slices, ..., None or integer tensors")
    check_integer(dtype_name(item.dtype))
    return item


class _Cut(NamedTuple):
    """Which elements of an axis are kept: of the flipped axis, if it runs backwards."""

    backwards: bool
    start: Dim
    step: int
    size: Dim


def _get(x: Any, entries: list[Any]) -> Any:
    """`x` at checked entries: flipped where a step is negative, cut, squeezed, expanded, then gathered."""
    cuts: list[_Cut] = []
    dropped, added, gathers = [], [], []
    rank = 0  # of what is kept so far
    for entry in entries:
        if entry is Ellipsis:  # stays in the list because it separates integers even where it stands for no axis
            continue
        if entry is None:
            added.append(rank)
            rank += 1
            continue
        axis = len(cuts)
        size = x.shape[axis]
        if isinstance(entry, int | DimExpr):
            cuts.append(_Cut(False, _position(entry, size, axis), 1, 1))
            dropped.append(axis)
            continue
        if isinstance(entry, slice):
            cuts.append(_cut(entry, size))
        else:
            cuts.append(_Cut(False, 0, 1, size))
            gathers.append((rank, index_of(entry, size, axis)))
        rank += 1
    backwards = tuple([axis for axis, cut in enumerate(cuts) if cut.backwards])
    y = flip_op(x, axes=backwards) if backwards else x
    y = windowed(y, tuple([c.start for c in cuts]), tuple([c.step for c in cuts]), tuple([c.size for c in cuts]))
    y = squeeze_op(y, axes=tuple(dropped)) if dropped else y
    y = expand_dims_op(y, axes=tuple(added)) if added else y
    return _gathered(y, gathers, entries) if gathers else y


def _gathered(x: Any, gathers: list[tuple[int, Any]], entries: list[Any]) -> Any:
    """`x` at integer tensors; their axes come first if something lies between two entries of integers."""
    y = gather_op(x, *[index for _, index in gathers], axes=tuple([axis for axis, _ in gathers]))
    views = (type(None), type(Ellipsis), slice)
    integers = [k for k, entry in enumerate(entries) if not isinstance(entry, views)]
    if integers[-1] - integers[0] == len(integers) - 1:
        return y
    first, rank = gathers[0][0], max(index.ndim for _, index in gathers)
    return moveaxis(y, list(range(first, first + rank)), list(range(rank)))


def _position(entry: int | DimExpr, size: Dim, axis: int) -> Dim:
    """The element that an integer index means."""
    if isinstance(entry, int) and isinstance(size, int):
        check_range(np.asarray(entry), size, axis)
    return size + entry if isinstance(entry, int) and entry < 0 else entry


def _cut(entry: slice, size: Dim) -> _Cut:
    """What a slice keeps of an axis of `size`; its bounds are clipped where they provably lie outside."""
    start, stop = _bound(entry.start), _bound(entry.stop)
    step = 1 if entry.step is None else _bound(entry.step)
    if not isinstance(step, int) or step == 0:
        raise ArgumentError(f"a slice's step must be an integer other than 0, got {entry.step!r}")
    backwards = step < 0
    if not any(isinstance(dim, DimExpr) for dim in (start, stop, size)):
        chosen = range(size)[slice(start, stop, step)]
        first = size - 1 - chosen.start if backwards else chosen.start
        return _Cut(backwards, first, abs(step), len(chosen))

    def place(bound: Dim | None, default: Dim) -> Dim:
        if bound is None:
            return default
        at = size + bound if isinstance(bound, int) and bound < 0 else bound
        return _clipped(size - 1 - at if backwards else at, size)

    first, last = place(start, 0), place(stop, size)
    if _proven(first - last):
        return _Cut(backwards, 0, abs(step), 0)
    return _Cut(backwards, first, abs(step), ceil_div(last - first, abs(step)))


def _bound(value: Any) -> Any:
    """A bound or step of a slice: None, an int or a symbolic dimension."""
    if isinstance(value, DimExpr):
        return _from_start(value)
    try:
        return None if value is None else operator.index(value)
    except (TypeError, ArgumentError):
        raise ArgumentError(
            f"the bounds of a slice must be integers or dimensions, got {value!r}",
            hint="gc.take(x, start + gc.arange(count), axis) starts at a tensor",
        ) from None


def _from_start(place: DimExpr) -> DimExpr:
    """`place`, which always counts from the start, as its sign isn't known; it must not be negative in every run."""
    highest = upper_bound(place)
    if highest is not None and highest <= 0:
        raise ArgumentError(f"the index {place} is negative", hint="count from the start: x.shape[axis] - n")
    return place


def _clipped(place: Dim, size: Dim) -> Dim:
    """`place` moved into [0, size] where it provably lies outside."""
    if _proven(-place):
        return 0
    return size if _proven(place - size) else place


def _proven(dim: Dim) -> bool:
    """Whether `dim` is never negative."""
    bound = lower_bound(dim)
    return bound is not None and bound >= 0
