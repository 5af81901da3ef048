"""Which steps of a plan can fail in a run: before they have run, no variable may be overwritten.

Python functions can, and whatever a target doesn't know. Gathering and scattering can where an index may be out of
range. It can't be if it is a position that an op counted or searched within as many elements, or if an earlier step
has looked at the same indices for as many; so the backward pass of an embedding can't fail once the forward pass
has run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from graphc.dims import Dim
from graphc.ir import Node


def fallible(steps: Iterable[Any]) -> Iterator[bool]:
    """For each of the steps of a plan, in order, whether it can fail."""
    checked: set[tuple[Node, Dim]] = set()
    for step in steps:
        fails = step.kernel.can_fail
        indexing = [node for node in step.nodes if node.op.indexed]
        if indexing and fails:
            indices = {index for node in indexing for index in _indices(node)} - checked
            fails = any(not _is_position(*index) for index in indices)
            checked |= indices
        yield fails


def _indices(node: Node) -> Iterator[tuple[Node, Dim]]:
    """What a gather or scatter is given as indices, and how many elements they must lie in."""
    axes = node.attrs["axes"]
    for index, axis in zip(node.inputs[len(node.inputs) - len(axes) :], axes, strict=True):
        while index.op.kind == "view" and index.op.injective and index.size == index.inputs[0].size:
            index = index.inputs[0]  # the same numbers
        yield index, node.inputs[0].shape[axis]


def _is_position(index: Node, size: Dim) -> bool:
    while index.op.kind == "view":
        index = index.inputs[0]
    positions = index.op.positions
    return positions is not None and positions(index) == size
