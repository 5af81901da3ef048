"""Evaluate nodes by their ops' NumPy references: the meaning of every program, one node at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.attrs import Attrs
from graphc.dims import DimExpr
from graphc.dims import evaluate as evaluate_dim
from graphc.errors import InternalError
from graphc.ir import Node, reachable
from graphc.op import Array
from graphc.types import DTYPES, TensorType


def evaluate(roots: Iterable[Node], env: Mapping[Node, Any], dims: Mapping[str, int] | None = None) -> list[Any]:
    """Values of `roots`, given the values of the leaves (or of any other nodes) in `env`.

    Args:
        env: arrays by node; what it holds is taken as it is and never computed.
        dims: values of the symbolic dimensions.

    Raises:
        InternalError: a leaf whose value is missing.
    """
    roots, dims = list(roots), dims or {}
    values: dict[Node, Any] = dict(env)
    with np.errstate(all="ignore"):
        for node in sorted(reachable(roots, env.__contains__), key=lambda n: n.serial):
            if node not in values:
                attrs = bind_attrs(node.attrs, dims) if node.attrs.symbolic else node.attrs
                values[node] = compute(node, [values[i] for i in node.inputs], attrs, dims)
    return [values[root] for root in roots]


def compute(node: Node, args: Sequence[Any], attrs: Mapping[str, Any], dims: Mapping[str, int]) -> Any:
    """The value of one node, an array or a tuple of arrays, for the values of its inputs and bound attributes.

    16-bit floats are computed in float32 and rounded once; floating-point warnings are the caller's to silence.
    """
    if node.body is not None:
        found = evaluate(node.body.outputs, dict(zip(node.body.inputs, args, strict=True)), dims)
        return found[0] if len(found) == 1 else tuple(found)
    if node.op.ref is None:
        raise InternalError(f"{node!r} has no value and can't be computed")
    result = node.op.ref(*map(widened, args), **attrs)
    type = node.type
    if isinstance(type, TensorType):
        return stored(result, type)
    return tuple([stored(r, t) for r, t in zip(result, type.items, strict=True)])


def widened(array: Any) -> Any:
    """A 16-bit float array as float32; anything else as it is."""
    if isinstance(array, np.ndarray) and array.dtype.itemsize == 2 and array.dtype.kind in "fV":
        return array.astype(np.float32)
    return array


def stored(result: Any, type: TensorType) -> Array:
    """`result` as an array of the dtype of `type`."""
    dtype = DTYPES[type.dtype].np_dtype
    if result.__class__ is np.ndarray and result.dtype is dtype:
        return result  # as nearly always
    return np.asarray(result).astype(dtype, copy=False)


def bind_attrs(attrs: Attrs, dims: Mapping[str, int]) -> dict[str, Any]:
    """`attrs` with every symbolic dimension replaced by its value."""
    return {name: bind_value(value, dims) for name, value in attrs.items()}


def bind_value(value: Any, dims: Mapping[str, int]) -> Any:
    """One attribute with every symbolic dimension replaced."""
    if isinstance(value, tuple):
        return tuple([bind_value(v, dims) for v in value])
    return evaluate_dim(value, dims) if isinstance(value, DimExpr) else value
