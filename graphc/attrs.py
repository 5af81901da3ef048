"""Attributes of nodes: plain immutable values, with a key that tells apart what Python's `==` does not."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc.dims import DimExpr
from graphc.errors import ArgumentError


class Attrs(dict[str, Any]):
    """The immutable attributes of a node; `key` is their hashable, type-exact form."""

    __slots__ = ("key",)

    def __init__(self, values: Mapping[str, Any] = {}) -> None:
        super().__init__(values)
        self.key = tuple((name, freeze(value)) for name, value in sorted(values.items()))

    @property
    def symbolic(self) -> bool:
        """Whether some attribute holds a symbolic dimension, to be bound before the node can run."""
        return any(_is_symbolic(value) for value in self.values())


NO_ATTRS = Attrs()


def freeze(value: Any) -> Any:
    """A hashable key that tells apart what Python's `==` does not: `1`, `True` and `1.0`; `0.0` and `-0.0`."""
    match value:
        case bool():
            return (bool, value)
        case float():
            return (float, struct.pack("<d", value))
        case tuple():
            return tuple(map(freeze, value))
        case np.generic() | list() | dict() | set() | np.ndarray():
            raise ArgumentError(f"an attribute can't be {value!r}", hint="pass ints, floats, strings or tuples of them")
        case _:
            return value


def normalise(value: Any) -> Any:
    """The plain immutable form of a user's attribute: NumPy scalars become Python's, lists become tuples."""
    match value:
        case np.generic():
            return value.item()
        case list() | tuple():
            return tuple(map(normalise, value))
        case _:
            return value


def _is_symbolic(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_is_symbolic, value))
    return isinstance(value, DimExpr)
