"""Rematerialisation: the values that every kernel which uses them computes for itself, so that they need no bytes.

A value is worth it where all that it follows from is in memory anyway, takes no more bytes than it would, and is a few
light ops away: a normalised activation and what it is normalised from; the polynomial of a GELU. Training keeps such
values from the forward part of a step until the backward part comes to them; computed again they cost no more than
reading them back, and the memory and the write are saved.

In general, what to keep is a minimum cut between what is known and what is needed later, weighed by bytes. Here a
value that costs time to make (a convolution, a sum) is never made twice. So those are in memory whatever else is, they
are free to read, and the cut lies right behind them: one walk finds it, with no search, and without having to ask which
part of a user's graph is the backward one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from graphc.ir import Node, Program
from graphc.operands import cast_op
from graphc.passes.foresight import LEAVES, Foresight, unviewed
from graphc.passes.sizes import guess
from graphc.target import TargetInfo
from graphc.types import TensorType, Type

FEW, MANY = 8, 24  # light ops that take no longer than reading their result: from the cache, from beyond it
CACHED = 1 << 20  # bytes of a value that may still be in the cache when it is needed again
SLACK = 8  # one part in so many of a value's bytes is read besides at no cost: means and scales of its rows or channels


class Recipe(NamedTuple):
    """How a value is computed again.

    Attributes:
        ops: how many light ones are repeated, or what costs as much; 0 for what is in memory.
        sources: the values in memory that it is computed from.
    """

    ops: int
    sources: frozenset[Node]


NUMBER = Recipe(0, frozenset())  # what needs no memory: numbers that are known when a kernel is called


def repeated(program: Program, info: TargetInfo, foresight: Foresight) -> set[Node]:
    """The values that each kernel computes for itself, if several need them: by casts that widen, and by a few ops.

    What a reduction reads directly is not repeated: an exponential of the difference to a maximum must see the very
    numbers that the maximum was taken of. Nor is what a core's kernel computes before its result is in memory.
    """
    nodes = program.nodes()
    users = _users(program, nodes)
    kept = foresight.after_core | {unviewed(node.inputs[0]) for node in nodes if node.op.kind == "reduce"}
    costs = {**dict.fromkeys(info.light, 1), **info.heavy}
    nbytes = _Bytes()
    recipes: dict[Node, Recipe] = {}
    found: set[Node] = set()
    for node in nodes:
        recipes[node] = Recipe(0, frozenset({node}))
        if node in foresight.uniform:
            recipes[node] = NUMBER
        elif node.op.kind == "view":
            recipes[node] = recipes[node.inputs[0]]
        elif node.op is cast_op and nbytes[node.inputs[0].type] <= nbytes[node.type]:
            recipes[node] = _combined([recipes[i] for i in node.inputs], 1)
            found.add(node)
        elif node.op in costs and node not in kept:
            recipe = _combined([recipes[i] for i in node.inputs], costs[node.op])
            if recipe.ops <= (FEW if nbytes[node.type] < CACHED else MANY):
                shared = _costs_nothing(node, recipe.sources, users, nbytes)
                if shared or users[node] < 2:
                    recipes[node] = recipe
                if shared and users[node] > 1:
                    found.add(node)
    return _with_operands(found, nodes, recipes)


def _users(program: Program, nodes: Sequence[Node]) -> Counter[Node]:
    """For each value how many others are computed from it, or from views of it; a result counts as one more."""
    taken = [node.inputs for node in nodes if node.op.kind != "view"]
    return Counter([unviewed(i) for inputs in (*taken, program.roots) for i in inputs])


def _combined(parts: Sequence[Recipe], cost: int) -> Recipe:
    ops = cost + sum([part.ops for part in parts])
    return Recipe(ops, frozenset().union(*[part.sources for part in parts]) if ops <= MANY else NUMBER.sources)


def _costs_nothing(
    node: Node, sources: Collection[Node], users: Mapping[Node, int], nbytes: Mapping[Type, int]
) -> bool:
    """Whether the sources are no more bytes than the value, and in memory whether it is repeated or not."""
    room = nbytes[node.type]
    large = [source for source in sources if nbytes[source.type] * SLACK > room]
    shared = all(users[source] > 1 or source.op.kind in LEAVES for source in large)
    return shared and sum([nbytes[source.type] for source in large]) <= room


def _with_operands(found: set[Node], nodes: Sequence[Node], recipes: Mapping[Node, Recipe]) -> set[Node]:
    """`found`, and what their recipes compute between the sources and them."""
    for node in reversed(nodes):
        if node in found:
            found.update([i for i in map(unviewed, node.inputs) if recipes[i].ops])
    return found


class _Bytes(dict[Type, int]):
    """Likely bytes of values, by their types, of which a program has few."""

    def __missing__(self, type: Type) -> int:
        assert isinstance(type, TensorType)  # what has several results is read by none but their items
        found = self[type] = guess(type.nbytes)
        return found
