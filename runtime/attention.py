"""Attention as sizes and strides: what the targets that generate code share about it and its gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from graphc.dims import Dim
from graphc.ir import Node
from graphc.runtime.strided import Strided


class Attention(NamedTuple):
    """What a kernel with the core `scaled_dot_product_attention`, or its gradient, computes.

    Attributes:
        batch: leading sizes of the result.
        queries, keys: L and S.
        width, value_width: E and V, sizes of the elements of keys and values.
        operands: "q", "k", "v", the "mask" if there is one, and of a gradient "g"; each with a stride for each axis of
            the batch and two more.
    """

    dtype: str
    batch: tuple[Dim, ...]
    queries: Dim
    keys: Dim
    width: Dim
    value_width: Dim
    operands: Mapping[str, Strided]
    is_causal: bool
    scale: float

    def extents(self, operand: str) -> tuple[Dim, Dim]:
        """The sizes of a matrix."""
        rows = self.queries if operand in "qg" else self.keys
        return rows, self.width if operand in "qk" else self.value_width


def described(core: Node, names: Sequence[str], arrays: Sequence[Strided]) -> Attention:
    """The attention that a core computes of operands of these names, which lie there; strides are 0 along what is
    broadcast."""
    nodes = dict(zip(names, core.inputs, strict=False))
    given = nodes.get("g", core)
    *batch, queries, value_width = given.shape
    keys, width = nodes["k"].shape[-2:]
    operands = {}
    for (name, node), array in zip(nodes.items(), arrays, strict=True):
        matrix = (queries, keys) if name == "mask" else node.shape[-2:]
        wanted, missing = (*batch, *matrix), len(batch) + 2 - node.ndim
        pairs = zip(node.shape, array.strides, wanted[missing:], strict=True)
        strides = [0 if size == 1 and size != full else stride for size, stride, full in pairs]
        operands[name] = array._replace(strides=(*[0] * missing, *strides))
    sizes = (tuple(batch), queries, keys, width, value_width)
    return Attention(given.dtype, *sizes, operands, core.attrs["is_causal"], core.attrs["scale"])
