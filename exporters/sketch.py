"""The nodes of a graph that a picture can show: constants and glue hidden, the rest connected past them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.ir import Node, toposort

GLUE = frozenset({"broadcast_to", "cast", "expand_dims", "squeeze", "item", "identity"})
ROLES = ("forward", "gradient", "update")
LEAVES = ("placeholder", "variable", "random", "parameter")


class Sketch:
    """The visible nodes of a graph, with the hidden ones bridged."""

    def __init__(self, roots: Sequence[tuple[str, Node]]) -> None:
        self.roots = roots
        self.all = toposort([node for _, node in roots])
        kept = {node for _, node in roots}
        self.nodes = [n for n in self.all if n in kept or not (is_constant(n) or n.op.name in GLUE)]
        self.constants = sum(is_constant(n) for n in self.all)
        self.glue = len(self.all) - len(self.nodes) - self.constants
        shown = set(self.nodes)
        source: dict[Node, Node | None] = {}
        for n in self.all:
            source[n] = n if n in shown else None if is_constant(n) or not n.inputs else source[n.inputs[0]]
        self.inputs = {n: [(i, s) for i in n.inputs if (s := source[i]) is not None] for n in self.nodes}
        self.roles = roles(self.all)


def is_constant(node: Node) -> bool:
    """Whether a node depends on nothing that a run gives: constants, and what is computed from them."""
    return node.graph is None and node.op.kind != "parameter"


def roles(nodes: Iterable[Node]) -> dict[Node, str]:
    """Whether each node computes values, gradients, or updates, by what it was derived from."""
    found: dict[Node, str] = {}
    for start in nodes:
        chain, node = [], start
        role = ""
        while not role:
            chain.append(node)
            occurrence = node.occurrence
            role = found.get(node) or (occurrence.rule if occurrence.rule in ROLES else "")
            if not role and occurrence.origin is None:
                role = "forward"
            elif not role:
                node = occurrence.origin  # type: ignore[assignment]
        found.update(dict.fromkeys(chain, role))
    return found
