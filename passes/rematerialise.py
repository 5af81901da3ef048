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
from collections.abc import Collection, Mapping, Sequence, Set
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
    sources: Set[Node]


NUMBER = Recipe(0, frozenset())  # what needs no memory: numbers that are known when a kernel is called


def repeated(program: Program, info: TargetInfo, foresight: Foresight) -> set[Node]:
    """The values that each kernel computes for itself, if several need them: by casts that widen, and by a few ops.

    What a reduction reads directly is not repeated: an exponential of the difference to a maximum must see the very
    numbers that the maximum was taken of. Nor is what a core's kernel computes before its result is in memory.
    """
    nodes = program.nodes()
    users = _users(program, nodes, foresight.users)
    kept = foresight.after_core | {unviewed(node.inputs[0]) for node in nodes if node.op.kind == "reduce"}
    costs = {**dict.fromkeys(info.light, 1), **info.heavy}
    nbytes = _Bytes()
    recipes: dict[Node, Recipe] = {}  # of what isn't in memory, and no view
    found: set[Node] = set()
    for node in nodes:
        op = node.op
        if node in foresight.uniform:
            recipes[node] = NUMBER
        elif op is cast_op and nbytes[node.inputs[0].type] <= nbytes[node.type]:
            recipes[node] = _combined(node.inputs, 1, recipes)
            found.add(node)
        elif op in costs and node not in kept:
            recipe = _combined(node.inputs, costs[op], recipes)
            if recipe.ops <= (FEW if nbytes[node.type] < CACHED else MANY):
                shared = _costs_nothing(node, recipe.sources, users, nbytes)
                if shared or users[node] < 2:
                    recipes[node] = recipe
                if shared and users[node] > 1:
                    found.add(node)
    return _with_operands(found, nodes, recipes)


def _users(program: Program, nodes: Sequence[Node], direct: Counter[Node]) -> Counter[Node]:
    """For each value how many others are computed from it, or from views of it; a result counts as one more.

    Args:
        direct: how often each value is an operand.
    """
    users = direct.copy()
    users.update(program.roots)
    for node in reversed(nodes):  # users first, so that a view's own are all there
        if node.op.kind == "view":
            users[node.inputs[0]] += users[node] - 1
    return users


def _combined(operands: Sequence[Node], cost: int, recipes: Mapping[Node, Recipe]) -> Recipe:
    """The recipe of what costs so much to compute from `operands`; what has none is in memory."""
    ops = cost
    sources: set[Node] = set()
    for operand in operands:
        value = unviewed(operand)
        recipe = recipes.get(value)
        if recipe is None:
            sources.add(value)
        else:
            ops += recipe.ops
            sources |= recipe.sources
    return Recipe(ops, sources if ops <= MANY else NUMBER.sources)


def _costs_nothing(
    node: Node, sources: Collection[Node], users: Mapping[Node, int], nbytes: Mapping[Type, int]
) -> bool:
    """Whether the sources are no more bytes than the value, and in memory whether it is repeated or not."""
    room = left = nbytes[node.type]
    for source in sources:
        size = nbytes[source.type]
        if size * SLACK > room:
            if users[source] < 2 and source.op.kind not in LEAVES:
                return False
            left -= size
    return left >= 0


def _with_operands(found: set[Node], nodes: Sequence[Node], recipes: Mapping[Node, Recipe]) -> set[Node]:
    """`found`, and what their recipes compute between the sources and them."""
    for node in reversed(nodes):
        if node in found:
            found.update([i for i in map(unviewed, node.inputs) if i in recipes and recipes[i].ops])
    return found


class _Bytes(dict[Type, int]):
    """Likely bytes of values, by their types, of which a program has few."""

    def __missing__(self, type: Type) -> int:
        assert isinstance(type, TensorType)  # what has several results is read by none but their items
        found = self[type] = guess(type.nbytes)
        return found
