"""Affine index maps: which element of its operand each element of a view is, in terms of the loops around both.

A view never moves data when it is fused: a kernel reads the operand at other indices. `pull` turns the index at which a
kernel wants a view into the index at which it wants the view's operand; `linear` turns an index into a position in
row-major memory. The rules are a table, one line for each view op; an op that isn't in it is run as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from graphc.dims import Dim, lower_bound
from graphc.ir import Node
from graphc.kernel import Access
from graphc.op import Op
from graphc.operands import broadcast_op, expand_dims_op, squeeze_op
from graphc.ops.shape import concat_op, flip_op, reshape_op, transpose_op
from graphc.ops.slicing import pad_op, slice_op

Shape = tuple[Dim, ...]


class Axis(NamedTuple):
    """The index along one axis: `offset + sum(loop * factor)`, the loops by their numbers."""

    offset: Dim
    terms: tuple[tuple[int, Dim], ...]


Index = tuple[Axis, ...]  # one for each axis of the value that is indexed

FIRST = Axis(0, ())  # the only index along an axis of size 1


@lru_cache(maxsize=1024)
def along(loop: int) -> Axis:
    """The index that is a loop's counter."""
    return Axis(0, ((loop, 1),))


@lru_cache(maxsize=4096)
def identity(shape: Shape) -> tuple[Index, Shape]:
    """The index of each element of `shape` in loops over it, and the loops' extents; axes of size 1 need none."""
    index: list[Axis] = []
    extents: list[Dim] = []
    for dim in shape:
        if dim == 1:
            index.append(FIRST)
        else:
            index.append(along(len(extents)))
            extents.append(dim)
    return tuple(index), tuple(extents)


@lru_cache(maxsize=4096)
def loops_of(index: Index) -> frozenset[int]:
    """The loops that an index varies with."""
    return frozenset([loop for axis in index for loop, _ in axis.terms])


def covers(index: Index, shape: Shape, extents: Sequence[Dim]) -> bool:
    """Whether the loops visit every element of `shape`, each axis by a loop of its own from end to end."""
    seen = set()
    for axis, dim in zip(index, shape, strict=True):
        if dim == 1 and not axis.terms:
            continue
        if axis.offset != 0 or len(axis.terms) != 1:
            return False
        loop, factor = axis.terms[0]
        if factor != 1 or extents[loop] != dim or loop in seen:
            return False
        seen.add(loop)
    return True


@lru_cache(maxsize=4096)
def row_major(shape: Shape) -> tuple[Dim, ...]:
    """How many elements apart neighbours along each axis lie in row-major memory."""
    strides: list[Dim] = []
    step: Dim = 1
    for dim in reversed(shape):
        strides.append(step)
        step = step * dim
    return tuple(reversed(strides))


@lru_cache(maxsize=4096)
def linear(index: Index, shape: Shape, loops: int) -> Access:
    """The position in row-major memory of the element of `shape` at `index`, over loops numbered below `loops`."""
    return strided(index, row_major(shape), loops)


def strided(index: Index, steps: Sequence[Dim], loops: int) -> Access:
    """The position of the element at `index`, where neighbours along each axis lie so many elements apart."""
    offset: Dim = 0
    strides: list[Dim] = [0] * loops
    for axis, step in zip(index, steps, strict=True):
        if axis.offset != 0:
            offset = offset + axis.offset * step
        for loop, factor in axis.terms:
            strides[loop] = strides[loop] + factor * step
    return Access(offset, tuple(strides))


# --------------------------------------------------------------------------------------------- views

Pull = Callable[[Node, Index, Sequence[Dim]], Index | None]


def _squeezed(view: Node, index: Index, extents: Sequence[Dim]) -> Index:
    given = iter(index)
    axes = view.attrs["axes"]
    return tuple([FIRST if k in axes else next(given) for k in range(view.inputs[0].ndim)])


def _broadcast(view: Node, index: Index, extents: Sequence[Dim]) -> Index:
    source = view.inputs[0].shape
    lead = len(index) - len(source)
    return tuple([FIRST if dim == 1 else axis for dim, axis in zip(source, index[lead:], strict=True)])


def _transposed(view: Node, index: Index, extents: Sequence[Dim]) -> Index:
    place = {axis: k for k, axis in enumerate(view.attrs["axes"])}
    return tuple([index[place[axis]] for axis in range(len(index))])


def _sliced(view: Node, index: Index, extents: Sequence[Dim]) -> Index:
    return tuple([_scaled(*entry) for entry in zip(index, view.attrs["starts"], view.attrs["steps"], strict=True)])


def _scaled(axis: Axis, start: Dim, step: Dim) -> Axis:
    if start == 0 and step == 1:
        return axis
    return Axis(start + axis.offset * step, tuple([(loop, factor * step) for loop, factor in axis.terms]))


def _flipped(view: Node, index: Index, extents: Sequence[Dim]) -> Index:
    axes, shape = view.attrs["axes"], view.shape
    return tuple([_scaled(axis, shape[k] - 1, -1) if k in axes else axis for k, axis in enumerate(index)])


def _reshaped(view: Node, index: Index, extents: Sequence[Dim]) -> Index | None:
    """The operand's index, by taking the position in memory apart again: None where that isn't affine.

    A loop that runs over several axes of the operand can't be taken apart; several loops that run over one axis can
    be put together.
    """
    source = view.inputs[0].shape
    if any(dim == 0 for dim in source):
        return (FIRST,) * len(source)
    offset, factors = linear(index, view.shape, len(extents))
    axes: list[Axis] = []
    for dim, step in zip(source, row_major(source), strict=True):
        if dim == 1:
            axes.append(FIRST)
            continue
        whole = offset // step
        offset = offset - whole * step
        terms = []
        for loop, factor in enumerate(factors):
            if factor != 0 and factor // step * step == factor:
                terms.append((loop, factor // step))
        factors = tuple([0 if f != 0 and f // step * step == f else f for f in factors])
        axes.append(Axis(whole, tuple(terms)))
    inside = all(_within(axis, dim, extents) for axis, dim in zip(axes, source, strict=True))
    return tuple(axes) if inside and offset == 0 and not any(f != 0 for f in factors) else None


def _within(axis: Axis, dim: Dim, extents: Sequence[Dim]) -> bool:
    """Whether an index provably stays in [0, dim)."""
    least, most = axis.offset, axis.offset
    for loop, factor in axis.terms:
        reach = factor * (extents[loop] - 1)
        if _not_negative(factor):
            most = most + reach
        elif _not_negative(-factor):
            least = least + reach
        else:
            return False
    return _not_negative(least) and _not_negative(dim - 1 - most)


def _not_negative(dim: Dim) -> bool:
    bound = lower_bound(dim)
    return bound is not None and bound >= 0


VIEWS: dict[Op, Pull] = {
    expand_dims_op: lambda view, index, _: tuple([a for k, a in enumerate(index) if k not in view.attrs["axes"]]),
    squeeze_op: _squeezed,
    broadcast_op: _broadcast,
    transpose_op: _transposed,
    slice_op: _sliced,
    flip_op: _flipped,
    reshape_op: _reshaped,
}


def pull(view: Node, index: Index, extents: Sequence[Dim]) -> Index | None:
    """The index of a view's operand, where the view is wanted at `index`; None where it isn't affine.

    Args:
        view: a node whose op is in `VIEWS`.
        extents: of the loops that `index` refers to.
    """
    return VIEWS[view.op](view, index, extents)


def keeps_order(view: Node) -> bool:
    """Whether the elements of a view are those of its operand in the same order, so that it needs no bytes."""
    if view.op is reshape_op:
        return True
    index, extents = identity(view.shape)
    source = view.inputs[0]
    pulled = pull(view, index, extents)
    assert pulled is not None  # only a reshape may fail
    same = linear(pulled, source.shape, len(extents)) == linear(index, view.shape, len(extents))
    return same and source.size == view.size


# --------------------------------------------------------------------------------------------- assembled tensors


class Assembly(NamedTuple):
    """How a result is put together: each operand's place, after everything has been filled with `fill`, if given.

    Attributes:
        places: for each operand, the start and step of its elements along each axis.
    """

    fill: Any
    places: tuple[tuple[tuple[Dim, int], ...], ...]


def _concatenated(node: Node) -> Assembly:
    places, start, along_axis = [], 0, node.attrs["axis"]
    for operand in node.inputs:
        places.append(tuple([(start if k == along_axis else 0, 1) for k in range(node.ndim)]))
        start = start + operand.shape[along_axis]
    return Assembly(None, tuple(places))


ASSEMBLED: dict[Op, Callable[[Node], Assembly]] = {
    concat_op: _concatenated,
    pad_op: lambda node: Assembly(
        node.attrs["value"], (tuple(zip(node.attrs["starts"], node.attrs["steps"], strict=True)),)
    ),
}


def placed(index: Index, place: Sequence[tuple[Dim, int]]) -> Index:
    """The index in the result of an operand's element at `index`."""
    return tuple([_scaled(axis, start, step) for axis, (start, step) in zip(index, place, strict=True)])
