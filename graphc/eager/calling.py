"""Calling ops on eager tensors: find or make the program of the call, run it, and put it on the tape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from graphc.composites import Composite
from graphc.eager.calls import Backward, Call, call_of, formals_of, is_single, results_of, traced
from graphc.eager.modes import generator, modes
from graphc.eager.tape import Edge, Entry
from graphc.eager.tensors import Tensor, lifted, zeros
from graphc.ir import Node, substitute, toposort
from graphc.op import Array, Op
from graphc.operands import ACCEPTS
from graphc.operators import METHODS, Operators
from graphc.ops.math import power_op
from graphc.ops.state import placeholder
from graphc.types import TensorType, np_dtype, promote

NUMBERS = (int, float)  # the classes of Python numbers, without bool
SCALARS = {dtype: (np_dtype(dtype), TensorType(dtype)) for dtype in ACCEPTS["float"]}
MAX_CALLS = 4096  # that are remembered in each mode
new = object.__new__  # constructors in Python would take a quarter of a small call


class Called(Entry):
    """A call of an op, whose gradient is a program too."""

    __slots__ = ("backward", "call")

    def __init__(self, call: Call, backward: Backward, parents: Sequence[Edge | None], saved: Sequence[Array]) -> None:
        self.call = call
        self.backward = backward
        self.parents = parents
        self.saved = saved
        self.hooks = None

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
        given = [self._cotangent(k, cotangents[k]) for k in self.call.floats]
        found = apply(backward.call, [*self._values(), *given])
        results = (found,) if backward.call.single else found
        return [(parents[k], g) for k, g in zip(backward.reached, results, strict=True)]  # type: ignore[misc]

    def _cotangent(self, k: int, g: Tensor | None) -> Tensor:
        return zeros(self.call.types[k]) if g is None else g

    def _values(self) -> list[Tensor]:
        """What was saved, as the tensors that it was."""
        types = self.backward.call.types_in
        if not modes.grad:
            return list(map(Tensor, self.saved, types))
        count = len(self.call.inputs)
        edges = [self.parents[k] if k < count else (self, k - count) for k in self.backward.saved]
        return list(map(Tensor, self.saved, types, edges))


def apply(call: Call, operands: Sequence[Tensor]) -> Any:
    """The result of a call, or a tuple of several, on the tape if it has a gradient there."""
    arrays = [operand._array for operand in operands]
    results = call.run(arrays)
    entry = None
    if modes.grad:
        edges = [operand._edge for operand in operands]
        if any(edges):
            backward = call.backward(tuple([edge is not None for edge in edges]))
            if backward is not None:
                known = [*arrays, *results]
                entry = Called(call, backward, edges, backward.chosen(known))
    if call.alone:
        return Tensor(results[0], call.types[0], None if entry is None else (entry, 0))
    made = [
        Tensor(array, type, (entry, k) if entry is not None and k in call.floats else None)
        for k, (array, type) in enumerate(zip(results, call.types, strict=True))
    ]
    for k, value in zip(call.updated, made[call.fresh :], strict=True):
        operands[k]._array = value._array
    return made[0] if call.single else tuple(made[: call.fresh])


def call(op: Op, args: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """What an op gives for operands of which at least one is an eager tensor."""
    operands = [arg for arg in args if arg.__class__ is Tensor]
    if len(operands) < len(args):
        args = _operands(op, args)
        operands = [arg for arg in args if isinstance(arg, Tensor)]
    if isinstance(op, Composite) and not op.pure:  # its function may read values that change
        return _traced_anew(op, args, operands, attrs)
    key: tuple[Any, ...] = (op, *[arg.type if arg.__class__ is Tensor else (arg.__class__, repr(arg)) for arg in args])
    if attrs:
        key = (*key, op.frozen_attrs(attrs).key)
    return apply(_remembered(key, lambda: traced(op.name, *_program(op, args, attrs))), operands)


def _operands(op: Op, args: Sequence[Any]) -> list[Any]:
    """Tensors, and such Python numbers as are part of the program.

    Beside floats a number is an operand as any other, of their dtype: it may change with every call. Where its value
    says more (an exponent, an integer that has to fit), each value is a program of its own.
    """
    dtype = ""
    if op.kind == "pointwise" and len(op.accepts) == 1 and op is not power_op:
        dtypes = {arg.type.dtype for arg in args if arg.__class__ is Tensor}
        if dtypes <= SCALARS.keys():
            dtype = promote(*dtypes) if len(dtypes) > 1 else dtypes.pop()
    return [arg if arg.__class__ is Tensor else _operand(arg, dtype) for arg in args]


def _operand(arg: Any, dtype: str) -> Any:
    """What isn't a tensor yet; a number becomes one of `dtype`, unless that is empty."""
    if dtype and arg.__class__ in NUMBERS:
        np_type, type = SCALARS[dtype]
        return Tensor(np.array(arg, np_type), type)
    return arg if isinstance(arg, bool | int | float) else lifted(arg)


def _program(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> tuple[list[TensorType], Any, bool]:
    """What `traced` takes for a call of `op`, in which numbers stay what they are."""
    places = [k for k, operand in enumerate(operands) if isinstance(operand, Tensor)]

    def build(formals: Sequence[Node]) -> Any:
        given = list(operands)
        for k, formal in zip(places, formals, strict=True):
            given[k] = formal
        return op(*given, **attrs)

    return [operands[k].type for k in places], build, modes.training


def _traced_anew(op: Op, args: Sequence[Any], operands: Sequence[Tensor], attrs: dict[str, Any]) -> Any:
    """Call an op that is traced each time. Equal programs are compiled once, so what they draw is an operand."""
    types, build, training = _program(op, args, attrs)
    formals = formals_of(types)
    returned = build(formals)
    results = results_of(returned)
    leaves = [node for node in toposort(results) if node.op.kind == "random"]
    inputs = formals_of([*types, *[leaf.tensor_type for leaf in leaves]])
    results = substitute(results, dict(zip(leaves, inputs[len(formals) :], strict=True)))
    found = _remembered(
        (inputs, results), lambda: call_of(op.name, inputs, results, training, single=is_single(returned))
    )
    return apply(found, [*operands, *[Tensor(generator.draw(leaf), leaf.tensor_type) for leaf in leaves]])


def _remembered(key: tuple[Any, ...], make: Callable[[], Call]) -> Call:
    """What is known in this mode under a key, made if it isn't."""
    known = modes.known
    found: Call | None = known.get(key)
    if found is None:
        if len(known) >= MAX_CALLS:
            known.clear()
        found = known[key] = make()
    return found


# --------------------------------------------------------------------------------------------- the ways in


def pair(op: Op, a: Any, b: Any) -> Any:
    """What `call` gives for two operands: the commonest calls in as few steps as can be, all others by `call`."""
    if a.__class__ is not Tensor or b.__class__ is not Tensor:
        a, b = _operands(op, (a, b))
        if a.__class__ is not Tensor or b.__class__ is not Tensor:
            return call(op, (a, b), {})
    known = modes.known.get((op, a.type, b.type))
    if known is None or not known.alone:
        return call(op, (a, b), {})
    x, y = a._edge, b._edge
    result = new(Tensor)
    result._array = array = known.entry(a._array, b._array)
    result.type = known.type
    result._edge = None
    if (x is None and y is None) or not modes.grad:
        return result
    backward = known.backward((x is not None, y is not None))
    if backward is not None:
        entry = new(Called)
        entry.call = known
        entry.backward = backward
        entry.parents = (x, y)
        entry.saved = backward.chosen((a._array, b._array, array))
        entry.hooks = None
        result._edge = (entry, 0)
    return result


def dispatched(first: Tensor, op: Op, args: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """`Tensor.__graphc_op__`: a tensor that is an operand takes the call."""
    if len(args) == 2 and not attrs:
        a, b = args
        return pair(op, a, b)
    return call(op, args, attrs)


# The operators whose meaning is an op itself, where it is worth while to go straight to it.
OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


def _operators(name: str, op: Any) -> dict[str, Callable[[Any, Any], Any]]:
    return {f"__{name}__": lambda a, b: pair(op, a, b), f"__r{name}__": lambda b, a: pair(op, a, b)}


Tensor.__graphc_op__ = dispatched
for _name, _method in OPERATORS.items():
    for _operator, _meaning in _operators(_name, METHODS[_method]).items():
        if hasattr(Operators, _operator):  # comparisons are reflected by each other
            setattr(Tensor, _operator, _meaning)
