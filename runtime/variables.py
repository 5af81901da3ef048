"""Values of variables: made at first need, from a recipe and a seed that depends on the variable's name only."""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphc import philox
from graphc.errors import StateError
from graphc.evaluate import evaluate
from graphc.ir import Node, toposort
from graphc.op import Array
from graphc.ops.state import Variable, Zeros
from graphc.runtime import pages
from graphc.types import TensorType, is_float, np_dtype

NO_NUMBERS = "OUSMmc"  # NumPy's kinds of dtypes that are objects, text, times and complex numbers


def materialise(wanted: Iterable[Node], known: Mapping[Node, Array], seed: int) -> dict[Node, Array]:
    """First values of the variables in `wanted` that `known` lacks, and of those that they are computed from."""
    stack = list(dict.fromkeys(v for v in wanted if v not in known))
    zero = [v for v in stack if begins_as_zeros(v)]
    made: dict[Node, Array] = dict(zip(zero, pages.zeros([v.tensor_type for v in zero]), strict=True))
    there = ChainMap(made, dict(known))
    while stack:
        variable = stack[-1]
        if variable in made:
            stack.pop()
            continue
        needed = [v for v in _sources(variable) if v not in there]
        if needed:
            stack += needed
        else:
            made[variable] = initial_value(variable, there, seed)
            stack.pop()
    return made


def begins_as_zeros(variable: Node) -> bool:
    """Whether a variable's initialiser is that of zeros, and of no class that makes other values of it."""
    initial = variable.initial if isinstance(variable, Variable) else None
    return getattr(type(initial), "__call__", None) is Zeros.__call__  # noqa: B004 - which method, not whether


def _sources(variable: Node) -> list[Node]:
    initial = variable.initial if isinstance(variable, Variable) else None
    return [n for n in toposort([initial]) if isinstance(n, Variable)] if isinstance(initial, Node) else []


def initial_value(variable: Node, known: Mapping[Node, Array], seed: int) -> Array:
    """The first value of one variable, given those of the variables that it is computed from.

    Raises:
        StateError: the initialiser returned something of another shape, no real numbers, or for integers and bools
            other values than they have.
    """
    assert isinstance(variable, Variable)
    initial, type = variable.initial, variable.tensor_type
    if isinstance(initial, np.ndarray):
        return initial
    if isinstance(initial, Node):
        nodes = toposort([initial])
        stream = philox.stream_key(variable.name)
        draws = [n for n in nodes if n.op.kind == "random"]
        env: dict[Node, Array] = {n: np.asarray(known[n]) for n in nodes if isinstance(n, Variable)}
        for k, n in enumerate(draws):
            assert n.op.ref is not None
            env[n] = n.op.ref((seed, philox.mix(stream, k), 0), **n.attrs)
        value = _alone(evaluate([initial], env).pop())
    else:
        sizes = tuple([int(dim) for dim in type.shape])
        try:
            value = _alone(initial(seed, variable.name, sizes, type.dtype))
        except Exception as error:
            error.add_note(f"in the initialiser: {variable.made_at}")
            raise
    return _checked(value, variable, type)


TEMPORARY = (lambda value: sys.getrefcount(value))(np.empty(0))  # references to what is just passed on


def _alone(value: Any) -> Array:
    """An array whose memory nobody else has: the value itself, if nothing refers to it, or a copy."""
    unused = sys.getrefcount(value) <= TEMPORARY
    if unused and value.__class__ is np.ndarray and value.base is None and value.flags.carray:
        return value
    return np.array(value, order="C", copy=True)


def _checked(value: Array, variable: Variable, type: TensorType) -> Array:
    fits = value.shape == type.shape and value.dtype.kind not in NO_NUMBERS
    with np.errstate(all="ignore"):
        cast = value.astype(np_dtype(type.dtype), copy=False) if fits else value
    if not fits or not (is_float(type.dtype) or np.array_equal(cast, value)):
        raise StateError(
            f"the initialiser of {variable.name!r} returned {value.dtype}{list(value.shape)}, expected {type}",
            lines=[variable.made_at],
        )
    return cast
