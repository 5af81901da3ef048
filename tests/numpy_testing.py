"""What tests of NumPy's functions share: the same call on arrays and on leaves, of known and of symbolic sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.dims import symbol
from graphc.evaluate import evaluate
from graphc.ir import Node, toposort
from graphc.operands import parameter
from graphc.types import TensorType

Array = np.ndarray[Any, Any]


def numbers(*shape: int, dtype: str = "float32") -> Array:
    """An array of different values."""
    count = int(np.prod(shape))
    return (np.arange(count) * 7 % max(count, 1) - count // 3).reshape(shape).astype(dtype)


def leaf(array: Array, dims: dict[str, int] | None = None, index: int = 0) -> Node:
    """A leaf of the type of `array`; with `dims`, a symbol for each size other than 1, entered there."""
    shape: list[Any] = list(array.shape)
    for axis, size in enumerate(array.shape):
        if dims is not None and size != 1:
            shape[axis] = symbol(f"n{size}")
            dims[f"n{size}"] = size
    return parameter(index, TensorType(array.dtype.name, tuple(shape)))


def run(fn: Callable[..., Any], *arrays: Array, symbolic: bool = False) -> Any:
    """What `fn` of leaves gives for `arrays`: an array, or a tuple of arrays.

    On the way every guard must hold for these sizes, and every result must have the type that was inferred.
    """
    dims: dict[str, int] | None = {} if symbolic else None
    nodes = [leaf(array, dims, index) for index, array in enumerate(arrays)]
    returned = fn(*nodes)
    roots = list(returned) if isinstance(returned, tuple | list) else [returned]
    broken = [str(guard) for node in toposort(roots) for guard in node.guards if not guard.holds(dims or {})]
    assert not broken, "guards that do not hold"
    values = evaluate(roots, dict(zip(nodes, arrays, strict=True)), dims)
    for node, value in zip(roots, values, strict=True):
        assert node.tensor_type.bind(dims or {}) is TensorType(value.dtype.name, value.shape)
    return tuple(values) if isinstance(returned, tuple | list) else values[0]


def check(fn: Callable[..., Any], expected: Callable[..., Any], *arrays: Array, symbolic: bool = False) -> None:
    """`fn` of leaves gives what `expected` gives for `arrays`."""
    got, wanted = run(fn, *arrays, symbolic=symbolic), expected(*arrays)
    if not isinstance(wanted, tuple | list):
        got, wanted = [got], [wanted]
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def guards(*roots: Node) -> list[str]:
    """The guards that `roots` need, as text."""
    return [str(guard) for node in toposort(roots) for guard in node.guards]
