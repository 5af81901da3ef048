"""Programs that only move elements, such as `x[1]` and `x.reshape(3, 2)`: NumPy does that without compiled code.

So an index costs nothing when it is new, and what lies in memory as it did before is no copy. Tensors never change
their elements, so they may share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any

import numpy as np

from graphc.ir import Node, toposort
from graphc.op import Array
from graphc.types import np_dtype

MOVES = ("view", "concat")  # kinds of ops whose results consist of elements of their operands
SMALL = 1 << 16  # bytes of a result up to which NumPy is no slower than native code

FEW, MANY = 1024, 1 << 16  # elements of a result whose places are remembered, and of what they are places in

Step = tuple[Callable[..., Any], Sequence[int], Mapping[str, Any]]  # a meaning, where its operands are, attributes


def moved(inputs: Sequence[Node], made: Sequence[Node], alone: bool) -> Callable[..., Any] | None:
    """What computes `made` from the values of `inputs`, in a list unless `alone`; None if that needs native code."""
    order = list(inputs)
    steps: list[Step] = []
    for node in toposort(made):
        if node in inputs:
            continue
        if node.op.kind not in MOVES or node.op.ref is None:
            return None
        steps.append((node.op.ref, [order.index(operand) for operand in node.inputs], node.attrs))
        order.append(node)
    if not steps or any(node.tensor_type.symbolic for node in order):
        return None
    views = all(node.op.kind == "view" for node in order[len(inputs) :])
    found = _viewed(inputs[0], steps) if alone and views else None
    return found or (_stepwise(steps, [order.index(node) for node in made], alone) if _small(made) else None)


def _small(nodes: Sequence[Node]) -> bool:
    return sum([math.prod(map(int, node.shape)) * np_dtype(node.dtype).itemsize for node in nodes]) <= SMALL


def _viewed(operand: Node, steps: Sequence[Step]) -> Callable[[Array], Array] | None:
    """Views, one after the other, as one: a part of the array as it lies in memory, or a few elements by place."""
    try:
        blank = np.empty(operand.shape, np_dtype(operand.dtype))
        view = np.asarray(_values([blank], steps)[-1])  # where views are views, no element is read
    except MemoryError:
        return None
    if not (view.flags.c_contiguous and np.may_share_memory(view, blank)):  # empty arrays share none
        return _taken(blank.shape, steps) if blank.size <= MANY and view.size <= FEW else None
    if view.size == blank.size:
        return methodcaller("reshape", view.shape)
    return _part((view.ctypes.data - blank.ctypes.data) // blank.itemsize, view.shape)


def _part(start: int, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    part = slice(start, start + math.prod(shape))
    return lambda array: array.reshape(-1)[part].reshape(shape)


def _taken(shape: tuple[int, ...], steps: Sequence[Step]) -> Callable[[Array], Array]:
    places = np.array(_values([np.arange(math.prod(shape)).reshape(shape)], steps)[-1], order="C")
    if not places.ndim:  # of which NumPy would make a scalar
        return _part(int(places), ())
    return methodcaller("take", places, None, None, "clip")


def _stepwise(steps: Sequence[Step], results: Sequence[int], alone: bool) -> Callable[..., Any]:
    ((ref, operands, attrs), *others), result = steps, results[0]
    if alone and not others and operands == [0]:
        return lambda array: np.asarray(ref(array, **attrs), order="C")
    if alone:
        return lambda *arrays: np.asarray(_values(arrays, steps)[result], order="C")
    return lambda *arrays: [np.asarray(values[k], order="C") for values in (_values(arrays, steps),) for k in results]


def _values(arrays: Sequence[Array], steps: Sequence[Step]) -> list[Any]:
    """Of the operands and of each step after them."""
    values: list[Any] = list(arrays)
    for ref, operands, attrs in steps:
        values.append(ref(*[values[k] for k in operands], **attrs))
    return values
