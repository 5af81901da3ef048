"""Calling compiled programs on eager tensors, and putting the calls on the tape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from graphc.eager.calls import Backward, Call
from graphc.eager.modes import modes
from graphc.eager.tape import Edge, Entry, numbers
from graphc.eager.tensors import Tensor, valued, zeros
from graphc.ir import Node, substitute
from graphc.op import Array
from graphc.ops.state import placeholder
from graphc.types import TensorType

ALL = (True,)  # the one operand needs a gradient
new = object.__new__  # constructors in Python would take a quarter of a small call


class Called(Entry):
    """A call of an op, whose gradient is a program too."""

    __slots__ = ("backward", "call")

    backward: Backward
    call: Call

    @property
    def label(self) -> str:
        """See `Entry.label`."""
        return self.call.name

    def types(self) -> Sequence[TensorType]:
        """See `Entry.types`."""
        return self.call.types

    def nodes(self, operands: Sequence[Node | None]) -> Sequence[Node]:
        """See `Entry.nodes`."""
        given = {
            formal: placeholder("value", formal.shape, formal.dtype) if operand is None else operand
            for formal, operand in zip(self.call.inputs, operands, strict=True)
        }
        return substitute(self.call.outputs, given)

    def pull(self, cotangents: Sequence[Any]) -> Iterable[tuple[Edge, Any]]:
        """Run the backward program; with the tape on, this is a call like any other."""
        backward, parents = self.backward, self.parents
        types, call = self.call.types, backward.call
        given = [zeros(types[k]) if cotangents[k] is None else cotangents[k] for k in self.call.floats]
        if modes.grad:
            found = apply(call, [*self._values(), *given])
            results = (found,) if call.single else found
        else:
            results = map(valued, call.run([*self.saved, *[g._array for g in given]]), call.types)
        edges = [parents[k] for k in backward.reached]
        return zip(edges, results, strict=True)  # type: ignore[arg-type]

    def _values(self) -> list[Tensor]:
        """What was saved, as the tensors that it was."""
        types = self.backward.call.types_in
        count = len(self.call.inputs)
        edges = [self.parents[k] if k < count else (self, k - count) for k in self.backward.saved]
        return list(map(valued, self.saved, types, edges))


def apply(call: Call, operands: Sequence[Tensor]) -> Any:
    """The result of a call, or a tuple of several, on the tape if it has a gradient there."""
    if call.alone and len(operands) <= 2:
        return apply_one(call, *operands) if len(operands) == 1 else apply_two(call, *operands)
    arrays = [operand._array for operand in operands]
    results = call.run(arrays)
    edges = [operand._edge for operand in operands]
    entry = None
    if modes.grad and any(edges):
        backward = call.backwards[tuple([edge is not None for edge in edges])]
        if backward is not None:
            entry = _entry(call, backward, edges, (*arrays, *results))
    if call.alone:
        return valued(results[0], call.type, None if entry is None else (entry, 0))
    made = [
        valued(array, type, (entry, k) if entry is not None and k in call.floats else None)
        for k, (array, type) in enumerate(zip(results, call.types, strict=True))
    ]
    for k, value in zip(call.updated, made[call.fresh :], strict=True):
        operands[k]._array = value._array
    return made[0] if call.single else tuple(made[: call.fresh])


# The commonest calls, in as few steps as can be: one result, which is no operand, of one operand or of two.


def apply_one(call: Call, a: Tensor) -> Tensor:
    """What `apply` gives, of a call that is `alone`, for one operand."""
    result = new(Tensor)
    result._array = array = call.entry(a._array)
    result.type = call.type
    result._edge = None
    edge = a._edge
    if edge is not None and modes.grad:
        backward = call.backwards[ALL]
        if backward is not None:
            result._edge = (_entry(call, backward, (edge,), (a._array, array)), 0)
    return result


def apply_two(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """What `apply` gives, of a call that is `alone`, for two operands."""
    result = new(Tensor)
    result._array = array = call.entry(a._array, b._array)
    result.type = call.type
    result._edge = None
    x, y = a._edge, b._edge
    if (x is not None or y is not None) and modes.grad:
        backward = call.backwards[x is not None, y is not None]
        if backward is not None:
            result._edge = (_entry(call, backward, (x, y), (a._array, b._array, array)), 0)
    return result


def _entry(call: Call, backward: Backward, parents: Sequence[Edge | None], known: Sequence[Array]) -> Called:
    """What the constructor would make."""
    entry = new(Called)
    entry.call = call
    entry.backward = backward
    entry.parents = parents
    entry.saved = backward.chosen(known)
    entry.hooks = None
    entry.number = next(numbers)
    return entry
