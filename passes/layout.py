"""Layout: the order in which the axes of each temporary lie in memory.

Row-major is what the user sees, not what every kernel likes best: a convolution whose vectors hold channels would turn
its source and its result around, if channels didn't lie together. A target says in which order the operands and the
result of a core should lie (`TargetInfo.orders`); everything else follows any order, as an access has a stride for each
loop. What is met at the same points (a sum and its terms, a pooling and what it pools) should lie alike, or else one of
them is read across. So values form *groups*, and each group takes the order that more bytes speak for than against: for
it speak those whose cores like it, against it those that are row-major in any case, because the caller passes or gets
them, or a kernel takes their bytes as they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from graphc.dims import Dim
from graphc.ir import Node, Program
from graphc.passes.clusters import Cluster, Space
from graphc.passes.fuse import Fusion
from graphc.passes.index_maps import Index, Shape, row_major
from graphc.passes.sizes import guess
from graphc.passes.steadiness import is_steady, moving
from graphc.target import NO_PREFERENCE, Order, Preference, TargetInfo
from graphc.types import TupleType

LEAST = 3  # axes of what is worth another order


def orders_of(program: Program, fusion: Fusion, info: TargetInfo) -> Mapping[Node, Order]:
    """The order of each temporary that isn't row-major; the loops around them are nested to follow it."""
    wanted = _preferences(program, fusion, info)
    if not wanted:
        return {}
    found = chosen(Values(program, fusion, info, wanted))
    follow(fusion.clusters, found)
    return found


def strides_in(shape: Shape, order: Order) -> tuple[Dim, ...]:
    """How many elements apart neighbours along each axis lie, in memory with these axes outermost first."""
    steps = dict(zip(order, row_major(tuple([shape[axis] for axis in order])), strict=True))
    return tuple([steps[axis] for axis in range(len(shape))])


def follow(clusters: Sequence[Cluster], orders: Mapping[Node, Order]) -> None:
    """Nest loops without a core as what they run over lies in memory; a core's loops are its axes."""
    for cluster in clusters:
        for space in cluster.results if orders else ():
            if space.is_lane:
                met = [(node, index) for node, index in _met(space) if node in orders]
                if met:
                    node, index = max(met, key=lambda each: sum(len(axis.terms) for axis in each[1]))
                    space.nest_like(tuple([index[axis] for axis in orders[node]]))


def _met(space: Space) -> Iterator[tuple[Node, Index]]:
    """What a space computes and what it loads, with the index of each."""
    yield from space.index.items()
    yield from space.pending.items()


def _preferences(program: Program, fusion: Fusion, info: TargetInfo) -> dict[Cluster, Preference]:
    """The kernels that prefer some order."""
    if info.orders is None:
        return {}
    changing, found = moving(program), {}
    for cluster in fusion.clusters:
        core = cluster.core
        if core is not None and core.op.kind in info.prepares:
            steady = [
                k
                for k, operand in enumerate(cluster.operands)
                if isinstance(operand, Node) and is_steady(fusion.owner(operand), changing)
            ]
            preference = info.orders(core, frozenset(steady))
            if preference != NO_PREFERENCE:
                found[cluster] = preference
    return found


class Values:
    """Which values may lie in which order, and what speaks for it.

    Attributes:
        free: temporaries that nothing forces to be row-major.
        liked: the order that cores like of what they read or compute; a core can read no other but row-major.
        votes: for each value, how often it should lie in an order.
        against: how often it should be row-major, though it is free.
    """

    def __init__(
        self, program: Program, fusion: Fusion, info: TargetInfo, wanted: Mapping[Cluster, Preference]
    ) -> None:
        self.fusion, self.info = fusion, info
        fixed = {fusion.owner(node) for node in (*program.roots, *fusion.alias)}
        self.free = {node for node in fusion.stored if node not in fixed and _may_turn(node, fusion.stored[node])}
        self.liked: dict[Node, Order] = {}
        self.votes: dict[Node, Counter[Order]] = defaultdict(Counter)
        self.against: Counter[Node] = Counter()
        self._group: dict[Node, Node] = {}
        for cluster in fusion.clusters:
            preference = wanted.get(cluster, NO_PREFERENCE)
            self._read(cluster, preference)
            for space in cluster.results:
                self._meet(space, cluster, preference)

    def _read(self, cluster: Cluster, preference: Preference) -> None:
        """Note what a core reads as it lies in memory."""
        core = cluster.core
        if core is None:
            return
        anyhow = core.op.kind in self.info.views
        for k, operand in enumerate(cluster.operands):
            if isinstance(operand, Node) and operand in self.free:
                order = preference.operands.get(k)
                if order is not None and self.liked.setdefault(operand, order) == order:
                    self.votes[operand][order] += 1
                elif not anyhow:
                    self.free.discard(operand)

    def _meet(self, space: Space, cluster: Cluster, preference: Preference) -> None:
        """Put what is met at the same points in a group."""
        core, found = cluster.core, defaultdict(list)
        for node, index in _met(space):
            if node.ndim >= LEAST and (node in space.pending or self.fusion.stored.get(node) is cluster):
                found[index].append(node)
        for index, (first, *others) in found.items():
            for other in others:
                self.join(first, other)
            if core is not None and index == space.index.get(core):
                if preference.result is not None and first.ndim == len(preference.result):
                    self.votes[first][preference.result] += 1
                elif core.op.kind == "window" and isinstance(cluster.operands[0], Node):
                    self.join(first, cluster.operands[0])
                else:
                    self.against[first] += 1

    def join(self, a: Node, b: Node) -> None:
        """Make one group of those of two values."""
        a, b = self.group(a), self.group(b)
        if a is not b:
            self._group[a] = b

    def group(self, node: Node) -> Node:
        """The value that stands for the group of this one."""
        root = node
        while root in self._group:
            root = self._group[root]
        while node is not root:  # the next way is short
            self._group[node], node = root, self._group[node]
        return root

    def groups(self) -> Mapping[Node, list[Node]]:
        """All groups in which something may be chosen."""
        found: dict[Node, list[Node]] = defaultdict(list)
        for node in dict.fromkeys([*self._group, *self._group.values(), *self.votes]):
            found[self.group(node)].append(node)
        return found


def _may_turn(node: Node, cluster: Cluster) -> bool:
    """Whether what computes a value can store it in any order."""
    core = cluster.core
    return node.ndim >= LEAST and (core is None or not isinstance(core.type, TupleType))


def chosen(values: Values) -> dict[Node, Order]:
    """For the values of each group the order that more bytes speak for than against."""
    found: dict[Node, Order] = {}
    for members in values.groups().values():
        speaking: Counter[Order] = Counter()
        for node in members:
            for order, votes in values.votes.get(node, {}).items():
                speaking[order] += votes * guess(node.tensor_type.nbytes)
        objections = {node: values.against[node] + (node not in values.free) for node in members}
        against = sum([guess(node.tensor_type.nbytes) * count for node, count in objections.items()])
        for order, nbytes in speaking.most_common(1):
            if nbytes > against:
                free = [node for node in members if node in values.free]
                found |= {node: order for node in free if values.liked.get(node, order) == order}
    return found
