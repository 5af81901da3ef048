"""Programs that only move elements, such as `x[1]` and `x.reshape(3, 2)`: NumPy does that without compiled code.

So an index costs nothing when it is new, and what lies in memory as it did before is no copy. Tensors never change
their elements, so they may share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.ir import Node, toposort
from graphc.op import Array
from graphc.types import np_dtype

MOVES = ("view", "concat")  # kinds of ops whose results consist of elements of their operands
SMALL = 1 << 16  # bytes of a result up to which NumPy is no slower than native code

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
    results = [order.index(node) for node in made]
    if not steps or any(node.tensor_type.symbolic for node in order):
        return None
    if not (_small(made) or _in_place(inputs, order, steps, results)):
        return None

    def several(*arrays: Array) -> list[Array]:
        values = _values(arrays, steps)
        return [np.asarray(values[k], order="C") for k in results]

    ((ref, _, attrs), *others), (result, *_) = steps, results

    def one(*arrays: Array) -> Array:
        return np.asarray(_values(arrays, steps)[result], order="C")

    def single(array: Array) -> Array:
        return np.asarray(ref(array, **attrs), order="C")

    return several if not alone else single if len(inputs) == 1 and not others else one


def _values(arrays: Sequence[Array], steps: Sequence[Step]) -> list[Any]:
    values: list[Any] = list(arrays)
    for ref, operands, attrs in steps:
        values.append(ref(*[values[k] for k in operands], **attrs))
    return values


def _small(nodes: Sequence[Node]) -> bool:
    return sum([math.prod(map(int, node.shape)) * np_dtype(node.dtype).itemsize for node in nodes]) <= SMALL


def _in_place(inputs: Sequence[Node], order: Sequence[Node], steps: Sequence[Step], results: Sequence[int]) -> bool:
    """Whether the elements of all results lie in order where those of the inputs are."""
    if any(node.op.kind != "view" for node in order[len(inputs) :]):
        return False
    blank = [np.empty(node.shape, np_dtype(node.dtype)) for node in inputs]
    values = _values(blank, steps)  # views: no element is read
    return all(values[k].flags.c_contiguous for k in results)
