"""Programs as text: one line per value, each below what it is computed from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import singledispatch
from typing import Any

from graphc.errors import ArgumentError
from graphc.ir import Leaf, Node, Program
from graphc.operands import splat_value


@singledispatch
def text(x: Any, *, sources: bool = False) -> str:
    """`x` as readable text: a tensor with all it is computed from, a list of tensors, or a program.

    Args:
        sources: add to each value the line of the user's code that it comes from, and the rule that derived it.

    Raises:
        ArgumentError: something that has no text.

    Example:
        >>> import graphc as gc
        >>> x = gc.placeholder("x", shape=("batch", 3))
        >>> print(gc.text(gc.exp(x) * 2))
        x: float32[batch, 3] = placeholder
        %0: float32[batch, 3] = exp(x)
        %1: float32[batch, 3] = multiply(%0, 2.0)
        return %1
    """
    raise ArgumentError(f"a {type(x).__name__} has no text", hint="pass a tensor, a list of them, or a program")


@text.register
def _(x: Node, *, sources: bool = False) -> str:
    return text(Program((), (x,)), sources=sources)


@text.register(list)
@text.register(tuple)
def _(x: Iterable[Node], *, sources: bool = False) -> str:
    return text(Program((), tuple(x)), sources=sources)


@text.register
def _(x: Program, *, sources: bool = False) -> str:
    return "\n".join(_lines(x, sources))


def _lines(program: Program, sources: bool) -> Iterator[str]:
    nodes = _depth_first([*program.inputs, *program.roots])
    names: dict[Node, str] = {}
    if program.inputs:
        shown = [f"{names.setdefault(i, _leaf_name(i))}: {i.type}" for i in program.inputs]
        yield f"inputs {', '.join(shown)}"
    count = 0
    written_out = {i for node in nodes if node.op.kind != "pointwise" for i in node.inputs}
    for node in nodes:
        if node in names:
            continue
        number = splat_value(node)
        if number is not None and (not node.shape or node not in written_out):
            names[node] = str(number)
            continue
        names[node] = _leaf_name(node) if isinstance(node, Leaf) or node.op.kind == "parameter" else f"%{count}"
        count += names[node].startswith("%")
        yield f"{names[node]}: {node.type} = {_call(node, names)}{_source(node) if sources else ''}"
    yield f"return {', '.join(names[output] for output in program.outputs)}"
    for variable, new in program.updates:
        yield f"update {_leaf_name(variable)} = {names[new]}"


def _depth_first(roots: Sequence[Node]) -> Iterable[Node]:
    """What `roots` need, inputs first.

    Not in the order of creation: constants are shared between graphs, so theirs depends on what else was built.
    """
    order: dict[Node, None] = {}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.setdefault(node)
        elif node not in order:
            stack.append((node, True))
            stack += [(i, False) for i in reversed(node.inputs)]
    return order


def _leaf_name(node: Node) -> str:
    if node.op.kind == "parameter":
        return f"p{node.attrs['index']}"
    return node.name if isinstance(node, Leaf) else node.display_name


def _call(node: Node, names: dict[Node, str]) -> str:
    operands = [names[i] for i in node.inputs]
    attrs = [f"{name}={_value(value)}" for name, value in node.attrs.items()]
    return f"{node.op.name}({', '.join(operands + attrs)})" if operands or attrs else node.op.name


def _value(value: Any) -> str:
    """An attribute: dimensions as they print, a program on lines of its own."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, Program):
        return "{\n" + "\n".join(f"    {line}" for line in _lines(value, sources=False)) + "\n}"
    return repr(value) if isinstance(value, str) else str(value)


def _source(node: Node) -> str:
    occurrence = node.occurrence
    site = occurrence.site
    parts = [site.short if site else "", occurrence.rule]
    found = " ".join(part for part in parts if part)
    return f"  # {found}" if found else ""
