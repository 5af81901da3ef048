"""The nodes of a graph that a picture can show: constants and glue hidden, the rest connected past them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graphc.composites import item_op
from graphc.ir import Node, toposort
from graphc.operands import broadcast_op, cast_op, expand_dims_op, squeeze_op
from graphc.ops.control import identity

GLUE = frozenset({broadcast_op, cast_op, expand_dims_op, squeeze_op, item_op, identity})
ROLES = ("forward", "gradient", "update")
LEAVES = ("placeholder", "variable", "random", "parameter")
MAX_DEPTH = 16  # scopes nested deeper are seen as part of the one at this depth


class Result(NamedTuple):
    """Something that was asked for: its name, the tensor, and the visible node that it comes from."""

    name: str
    tensor: Node
    source: Node


class Sketch:
    """The visible nodes of a graph, with the hidden ones bridged.

    Attributes:
        results: what was asked for.
        all: every node that the roots need, in the order of creation.
        nodes: those of them that are visible.
        constants, glue: how many aren't.
        inputs: of each visible node, its operands and the visible nodes that these come from.
        roles: "forward", "gradient" or "update" of each node.
        paths: each scope as the scopes around it, from the outermost in.
    """

    def __init__(self, roots: Sequence[tuple[str, Node]]) -> None:
        self.all = toposort([node for _, node in roots])
        kept = {node for _, node in roots if is_constant(node)}
        source: dict[Node, Node | None] = {}
        for n in self.all:
            hidden = n not in kept and (is_constant(n) or n.op in GLUE)
            source[n] = n if not hidden else source[n.inputs[0]] if n.inputs and not is_constant(n) else None
        self.nodes = [n for n in self.all if source[n] is n]
        self.constants = sum(is_constant(n) and n not in kept for n in self.all)
        self.glue = len(self.all) - len(self.nodes) - self.constants
        self.inputs = {n: [(i, s) for i in n.inputs if (s := source[i]) is not None] for n in self.nodes}
        self.results = [Result(name, n, s) for name, n in roots if (s := source[n]) is not None]
        self.roles = roles(self.all)
        self.paths = {scope: path_of(scope) for scope in {n.scope for n in self.nodes}}


def path_of(scope: str) -> tuple[str, ...]:
    """A scope as the scopes around it and itself, from the outermost in, down to `MAX_DEPTH`."""
    parts = scope.split("/", MAX_DEPTH)[:MAX_DEPTH] if scope else []
    return tuple(["/".join(parts[: k + 1]) for k in range(len(parts))])


def is_constant(node: Node) -> bool:
    """Whether a node depends on nothing that a run gives: constants, and what is computed from them."""
    return node.graph is None and node.op.kind != "parameter"


def roles(nodes: Sequence[Node]) -> dict[Node, str]:
    """Whether each node computes values, gradients, or updates, by what it was derived from.

    A variable belongs to the first of these that reads it, so that an optimiser's own variables are with its updates.
    """
    found: dict[Node, str] = {}
    for start in nodes:
        _derived_role(start, found)
    first: dict[Node, int] = {}
    for node in nodes:
        for i in node.inputs:
            if i.op.kind == "variable":
                first[i] = min(first.get(i, len(ROLES)), ROLES.index(found[node]))
    found.update((variable, ROLES[k]) for variable, k in first.items())
    return found


def _derived_role(start: Node, found: dict[Node, str]) -> None:
    """Note the role of `start` and of what it was derived from."""
    chain: list[Node] = []
    node: Node | None = start
    role = ""
    while node is not None and not role:
        chain.append(node)
        occurrence = node.occurrence
        role = found.get(node) or (occurrence.rule if occurrence.rule in ROLES else "")
        node = occurrence.origin
    found.update(dict.fromkeys(chain, role or "forward"))
