"""Which steps of a plan can fail in a run: before they have run, no variable may be overwritten.

Python functions can, and whatever a target doesn't know. Gathering and scattering can where an index may be out of
range. It can't be if it is a position that an op counted or searched within as many elements, or if an earlier step
has looked at the same indices for as many; so the backward pass of an embedding can't fail once the forward pass
has run. A composite that a target takes whole can fail where its body can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from graphc.composites import item_op
from graphc.dims import Dim
from graphc.ir import Node, Program
from graphc.kernel import SAFE


def fallible(steps: Iterable[Any]) -> Iterator[bool]:
    """For each of the steps of a plan, in order, whether it can fail."""
    checked: set[tuple[Node, Dim]] = set()
    for step in steps:
        if not step.kernel.can_fail:
            yield False
            continue
        core = step.kernel.core
        fails = core.body is None or _can_fail(core.body, None)
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


class _Call(NamedTuple):
    """What a body is called with: the operand for each of its parameters, and the call in whose body the call is."""

    operands: Mapping[Node, Node]
    outer: _Call | None


def _can_fail(body: Program, call: _Call | None) -> bool:
    """Whether the body of a composite can fail, for operands that aren't known outside of `call`."""
    for node in body.nodes():
        if node.body is not None:
            fails = _can_fail(node.body, _Call(dict(zip(node.body.inputs, node.inputs, strict=True)), call))
        elif node.op.indexed:
            fails = any(not _is_position(index, size, call) for index, size in _indices(node))
        else:
            fails = node.op.kind not in SAFE
        if fails:
            return True
    return False


def _is_position(index: Node, size: Dim, call: _Call | None = None) -> bool:
    """Whether an index is one of `size` elements because of what counts it, outside or in the bodies of composites."""
    while True:
        made, number = (index.inputs[0], index.attrs["index"]) if index.op is item_op else (index, 0)
        if call is not None and index in call.operands:
            index, call = call.operands[index], call.outer
        elif index.op.kind == "view":
            index = index.inputs[0]
        elif made.body is not None:
            call = _Call(dict(zip(made.body.inputs, made.inputs, strict=True)), call)
            index = made.body.outputs[number]
        else:
            positions = index.op.positions
            return positions is not None and positions(index) == size
