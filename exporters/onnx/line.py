"""The form of a line of the table: how one op is said in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.dims import Dim
from graphc.exporters.onnx.builder import Builder, Value
from graphc.ir import Node

Emit = Callable[..., Value | tuple[Value, ...]]


def always(node: Node) -> bool:
    """The condition of a line that holds for every node of its op."""
    return True


@dataclass(frozen=True)
class Line:
    """How one op is said in ONNX.

    Attributes:
        emit: `(builder, node, *operands) -> result`, a value or, for an op with several results, a tuple of them.
        trailing: how many trailing axes the operands need in full. Leading ones may still have size 1 where the
            node's operands are broadcast, and so may the result's; None: all axes are needed.
        since: the opset from which on it holds. Below, a composite is decomposed.
        when: the nodes for which it holds; a composite that it doesn't hold for is decomposed.
        keepdims: `emit` takes `keepdims`, so a squeeze of the axes that were reduced costs nothing.
    """

    emit: Emit
    trailing: int | None = None
    since: int = 0
    when: Callable[[Node], bool] = always
    keepdims: bool = False


def exact_floats(*names: str) -> Callable[[Node], bool]:
    """The condition that attributes survive being stored in 32 bits, as ONNX's floats are, if the node needs more."""

    def exact(value: Any) -> bool:
        return not isinstance(value, float) or float(np.float32(value)) == value

    return lambda node: node.dtype != "float64" or all(exact(node.attrs[name]) for name in names)


def direct(kind: str, *, bools: str | None = None, since: int = 0, when: Callable[[Node], bool] = always) -> Line:
    """A pointwise op that ONNX has, under another name for bools if `bools` is given."""

    def emit(b: Builder, node: Node, *xs: Value) -> Value:
        return b.op(bools if bools and xs[0].dtype == "bool" else kind, *xs)

    return Line(emit, trailing=0, since=since, when=when)


def pointwise(fn: Callable[..., Value], *, rounds: bool = True, when: Callable[[Node], bool] = always) -> Line:
    """A pointwise op that is an expression of several, `fn(builder, *operands)`.

    Args:
        rounds: it computes something, so that 16-bit floats are taken wider and rounded at its end only.
    """

    def emit(b: Builder, node: Node, *xs: Value) -> Value:
        return b.cast(fn(b, *map(b.wide, xs)), node.dtype) if rounds else fn(b, *xs)

    return Line(emit, trailing=0, when=when)


def parametric(kind: str, *, since: int = 0, when: Callable[[Node], bool] = always, **attrs: str) -> Line:
    """A pointwise op that ONNX has, with attributes; `attrs` maps ONNX's names to ours."""
    exact = exact_floats(*attrs.values())

    def emit(b: Builder, node: Node, *xs: Value) -> Value:
        return b.op(kind, *xs, **{theirs: node.attrs[ours] for theirs, ours in attrs.items()})

    return Line(emit, trailing=0, since=since, when=lambda node: when(node) and exact(node))


def shaped(
    kind: str,
    attrs: Callable[[Node], dict[str, Any]] = lambda node: {},
    *,
    since: int = 0,
    when: Callable[[Node], bool] = always,
) -> Line:
    """An op that ONNX has, whose result has the node's shape."""

    def emit(b: Builder, node: Node, *xs: Value) -> Value:
        return b.op(kind, *xs, out=node.shape, **attrs(node))

    return Line(emit, since=since, when=when)


def without(shape: tuple[Dim, ...], axes: Sequence[int]) -> tuple[Dim, ...]:
    """`shape` without some axes."""
    return tuple([dim for k, dim in enumerate(shape) if k not in axes])


def reduction(kind: str, *, when: Callable[[Node], bool] = always) -> Line:
    """A reduction over the attribute `axes`."""

    def emit(b: Builder, node: Node, x: Value, keepdims: int = 1) -> Value:
        axes = node.attrs["axes"]
        shape = node.shape if keepdims else without(node.shape, axes)
        return b.op(kind, x, out=shape, axes=axes, keepdims=keepdims) if axes else x

    return Line(emit, when=when, keepdims=True)
