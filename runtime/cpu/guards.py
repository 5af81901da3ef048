"""Selections by where an element is, as in a triangle of a matrix: what only one side of them needs.

Where no lane takes that side, it isn't computed, and memory stays unread for which the CPU would wait.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from graphc.cached import kept_with
from graphc.ir import Node
from graphc.kernel import Load, Region
from graphc.ops.math import where


def guards_of(region: Region) -> Mapping[Node, Sequence[Node]]:
    """For each selection, what is computed for its first operand alone, in order; only where memory is read for that.

    Its condition is `counted`. Rows that are reduced have none: what they compute may be kept for a later pass.
    """
    if region.rows:
        return {}
    reads = {formal for formal, load in _loads(region).items() if load.read is not None}
    return {selection: nodes for selection, nodes in _owned(region).items() if not reads.isdisjoint(nodes)}


@kept_with
def counted(region: Region) -> Collection[Node]:
    """The values that are made of counters and numbers alone."""
    loads = _loads(region)
    found: set[Node] = set()
    for node in region.values:
        is_core = node in region.body.inputs and node not in loads
        if loads[node].read is None if node in loads else not is_core and found.issuperset(node.inputs):
            found.add(node)
    return found


def _loads(region: Region) -> Mapping[Node, Load]:
    return dict(zip(region.body.inputs[-len(region.loads) :], region.loads, strict=True)) if region.loads else {}


def _owned(region: Region) -> Mapping[Node, Sequence[Node]]:
    """Values by the selection whose first operand alone needs them; the outermost of selections within each other."""
    positions = counted(region)
    users: dict[Node, list[Node]] = defaultdict(list)
    owner: dict[Node, Node | None] = {}

    def needing(user: Node, node: Node) -> Node | None:
        condition, *sides = user.inputs
        selects = user.op is where and condition in positions and sides[0] is node is not sides[1]
        return user if owner[user] is None and selects and node is not condition else owner[user]

    for node in reversed(region.values):
        owners = {needing(user, node) for user in users[node]}
        owner[node] = owners.pop() if len(owners) == 1 and node not in region.body.outputs else None
        for i in node.inputs:
            users[i].append(node)
    owned: dict[Node, list[Node]] = defaultdict(list)
    for node in region.values:
        if (selection := owner[node]) is not None:
            owned[selection].append(node)
    return owned
