"""What fusion must know of values before it meets them: found in one walk from the leaves to the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from graphc.ir import Node
from graphc.operands import constant_op
from graphc.ops.shape import reshape_op
from graphc.passes.index_maps import VIEWS
from graphc.target import TargetInfo

LEAVES = frozenset({"placeholder", "variable", "parameter", "constant"})  # kinds that are in memory before the run
FEW = 8  # ops that work out one number, in every kernel that uses it


class Foresight:
    """Sets of the nodes of a program.

    Attributes:
        users: how often each value is an operand.
        uniform: values whose elements are all one number that is known when a kernel is called; they need no index.
        after_core: what can be computed in the kernel of a core that it follows from, through values used once.
        wants_core: values used once that are a core's result, or follow from one: who uses them can be its epilogue.
        after_row: what follows, by pointwise ops and views, from reductions over the last axes.
    """

    def __init__(self, nodes: Sequence[Node], info: TargetInfo) -> None:
        self.users = Counter([i for node in nodes for i in node.inputs])
        once = {node for node, count in self.users.items() if count == 1}
        self.uniform = _uniform(nodes)
        self.after_core = _after_core(nodes, info.epilogues, once)
        self.wants_core = {node for node in once if node in self.after_core or node.op.kind in info.epilogues}
        self.after_row = _after_row(nodes)


def unviewed(node: Node) -> Node:
    """What `node` is a view of; itself if it is none."""
    while node.op.kind == "view":
        node = node.inputs[0]
    return node


def _uniform(nodes: Sequence[Node]) -> set[Node]:
    """Constants of one element, sizes, views of those, and what a few pointwise ops make of them."""
    ops: dict[Node, int] = {}  # how many ops work it out, each time that a kernel is called
    for node in nodes:
        op = node.op
        if op.kind == "pointwise" or (op.kind == "view" and op in VIEWS and op is not reshape_op):
            if node.inputs[0] in ops and all(i in ops for i in node.inputs):
                count = sum([ops[i] for i in node.inputs]) + (op.kind == "pointwise")
                if count <= FEW:
                    ops[node] = count
        elif op.kind == "extent" or (op is constant_op and node.attrs["value"].array.size == 1):
            ops[node] = 0
    return set(ops)


def _after_core(nodes: Sequence[Node], kinds: frozenset[str], once: set[Node]) -> set[Node]:
    found: set[Node] = set()
    for node in nodes:
        if node.op.kind == "pointwise":
            for i in node.inputs:
                if i in once and (i in found or i.op.kind in kinds):
                    found.add(node)
                    break
    return found


def _after_row(nodes: Sequence[Node]) -> set[Node]:
    found: set[Node] = set()
    for node in nodes:
        kind = node.op.kind
        if kind == "reduce":
            rank, axes = node.ndim, node.attrs["axes"]
            if axes == tuple(range(rank - len(axes), rank)):
                found.add(node)
        elif kind in ("pointwise", "view") and not found.isdisjoint(node.inputs):
            found.add(node)
    return found
