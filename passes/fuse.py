"""Fusion: which values are computed together in one kernel, so that what lies between them is never in memory.

One walk over the program from its results back to its leaves, so that a value is met after everything that uses it. A
value *joins* a kernel that uses it if it can be computed at each point of that kernel's loops: a pointwise op at the
same (or a permuted, sliced, broadcast) index, a reduction over the kernel's rows, a matmul whose result is what the
kernel's loops run over. Views join every user: they change the index and compute nothing. A value that other kernels
need too joins the kernel that runs first and is stored by it; any other value gets a kernel of its own.

The kernels must not wait for each other in a circle. Each has a *height*, greater than that of every kernel that reads
what it stores; a value joins a kernel only if that stays so. So the kernels are acyclic by construction, and the check
takes no search.

Nothing is computed twice except what costs less than reading it back: views, constants, counters, casts that widen,
and what a few light ops make of values that are in memory anyway (`passes/rematerialise.py`). The operand of
exp(x - max(x)) is never computed once for the maximum and once more for the difference, where compiled code might
round it differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter

from graphc.dims import Dim, product
from graphc.ir import Node, Program
from graphc.occurrences import on_host
from graphc.operands import cast_op
from graphc.passes.clusters import Cluster, Place, Space, Use
from graphc.passes.foresight import LEAVES, Foresight, unviewed
from graphc.passes.index_maps import ASSEMBLED, VIEWS, Index, covers, keeps_order, loops_of, pull
from graphc.passes.rematerialise import repeated
from graphc.passes.sizes import guess
from graphc.target import TargetInfo
from graphc.types import TupleType, dtype_info

TRIED = 4  # kernels that a value with many users tries to join
height_of = attrgetter("height")
LINE = 64  # bytes that are fetched from memory at a time

Fits = Callable[[Node, Space, Index, bool], bool]  # may the value join there? the flag: and be stored


class Fusion:
    """The kernels of a program, in the making.

    Attributes:
        clusters: in no order that matters.
        stored: the values that get bytes in the run, each with the cluster that stores it.
        alias: views that need no bytes of their own, each with its operand.
        items: the results that are needed of each node that has several.
        uniform: see `Foresight`.
        repeated: see `rematerialise`.
    """

    def __init__(self, program: Program, info: TargetInfo) -> None:
        if not info.fuses:
            info = replace(info, max_ops=1, epilogues=frozenset(), prologues=frozenset())
        self.info = info
        self.clusters: list[Cluster] = []
        self.stored: dict[Node, Cluster] = {}
        self.alias: dict[Node, Node] = {}
        self._uses: dict[Node, list[Use]] = {}
        self.items: dict[Node, list[Node]] = {}
        nodes = program.nodes()
        self.foresight = Foresight(nodes, info)
        self.uniform = self.foresight.uniform
        self.repeated = repeated(program, info, self.foresight)
        self._hosted = frozenset(filter(on_host, nodes) if info.hosts else ())
        result = Cluster(-1)
        for root in program.roots:
            self._uses[root] = [(result, None)]
        for node in reversed(nodes):
            uses = self._uses.pop(node, None)
            if uses is not None:
                if len(uses) > 1 or uses[0][0].into is not None:
                    uses = self._joined_users(node, uses)
                if self._hosted:
                    uses = [(cluster, self._beside(node, cluster, place)) for cluster, place in uses]
                HANDLERS.get(node.op.kind, Fusion._heavy)(self, node, uses)
        self.clusters = [cluster for cluster in self.clusters if cluster.into is None]

    def owner(self, node: Node) -> Node:
        """The value whose bytes `node` is."""
        while node in self.alias:
            node = self.alias[node]
        return node

    # ----------------------------------------------------------------------------------------- users that join

    def _joined_users(self, node: Node, uses: list[Use]) -> list[Use]:
        """`uses`, after kernels over the same loops that read `node` at the same index have become one.

        Those that reduce then read it once, if it varies along their rows. Others are joined if `node` can then be
        computed there and only there.
        """
        uses = list(map(_current, uses))
        if sum([place is not None and place[0].is_lane for _, place in uses]) < 2:
            return uses
        groups: dict[tuple[Index, object, object, tuple[int, ...]], list[Cluster]] = {}
        for cluster, place in uses:
            if place is not None and place[0].is_lane:
                space, index = place
                groups.setdefault((index, space.extents, space.order, space.rows), []).append(cluster)
        alone = len(groups) == 1 and node.op.kind == "pointwise" and all(place is not None for _, place in uses)
        changed = False
        for (index, _, _, rows), clusters in groups.items():
            if alone or not loops_of(index).isdisjoint(rows):
                first = clusters[0]
                for other in dict.fromkeys(clusters[1:]):
                    if other is not first and self._can_absorb(first, other):
                        changed = True
                        for member in other.results[0].members:
                            if self.stored.get(member) is other:
                                self.stored[member] = first
                        first.absorb(other)
        return list(map(_current, uses)) if changed else uses

    def _can_absorb(self, cluster: Cluster, other: Cluster) -> bool:
        """Whether two kernels over the same loops can be one, and neither waits for the other."""
        a, b = cluster.results[0], other.results[0]
        return (
            max(cluster.height, other.height) < min(cluster.limit, other.limit)
            and self._is_hosted(cluster) == self._is_hosted(other)
            and a.reductions + b.reductions <= self.info.max_reductions
            and len(a.members) + len(b.members) <= self.info.max_ops
            and len(a.pending.keys() | b.pending.keys()) <= self.info.max_live
            and all(a.index.get(node, index) == index for node, index in b.index.items())
        )

    def _beside(self, node: Node, cluster: Cluster, place: Place | None) -> Place | None:
        """The place of a use; none where a kernel of the host's uses what a device computes, or the other way."""
        return None if place is None or (node in self._hosted) != self._is_hosted(cluster) else place

    def _is_hosted(self, cluster: Cluster) -> bool:
        """Whether what a kernel is made for is computed by the host."""
        if not self._hosted:
            return False
        made_for = (cluster.core, cluster.assembled, *[space.sink for space in cluster.results[:1]])
        return next(node for node in made_for if node is not None) in self._hosted

    # ----------------------------------------------------------------------------------------- by kind

    def _leaf(self, node: Node, uses: list[Use]) -> None:
        """It is in memory before the run."""

    def _number(self, node: Node, uses: list[Use]) -> None:
        """A counter or a size: each user works it out, unless one needs it in memory."""
        if any(place is None for _, place in uses):
            self._own(node, uses)

    def _item(self, node: Node, uses: list[Use]) -> None:
        """One of several results: stored by the kernel of the op that has them."""
        for cluster, _ in uses:
            self._need(node.inputs[0], cluster)
        self.items.setdefault(node.inputs[0], []).append(node)

    def _view(self, node: Node, uses: list[Use]) -> None:
        if node.op not in VIEWS:
            return self._heavy(node, uses)
        pulled: list[Place] = []
        for _, place in uses:
            index = pull(node, place[1], place[0].extents) if place is not None and place[0].views else None
            if place is None or index is None:
                return self._stored_view(node, uses)
            pulled.append((place[0], index))
        source = node.inputs[0]
        for (cluster, before), (space, index) in zip(uses, pulled, strict=True):
            space.pending.pop(node, None)
            if space.rows and before is not None and (node in space.back or _leaves(space.rows, before[1], index)):
                space.back |= {source}
            self._load(source, cluster, (space, index))
        return None

    def _stored_view(self, node: Node, uses: list[Use]) -> None:
        """A view that somebody needs in memory: its operand's bytes if they are in the same order, else a copy."""
        if not keeps_order(node):
            return self._own(node, uses)
        self.alias[node] = node.inputs[0]
        for cluster, _ in uses:
            self._need(node.inputs[0], cluster)
        return None

    def _pointwise(self, node: Node, uses: list[Use]) -> None:
        if len(uses) > 1 and node in self.repeated and self._repeat(node, uses):
            return
        self._join(node, uses, self._fits_pointwise)

    def _reduce(self, node: Node, uses: list[Use]) -> None:
        self._join(node, uses, self._fits_reduce)

    def _heavy(self, node: Node, uses: list[Use]) -> None:
        self._join(node, uses, self._fits_core)

    def _concat(self, node: Node, uses: list[Use]) -> None:
        if node.op not in ASSEMBLED:
            return self._heavy(node, uses)
        copy = self._copied(node, uses)
        if copy is None:
            cluster = self._cluster(node, uses)
            self.stored[node] = cluster
        else:
            cluster = copy.cluster
        cluster.assembled, cluster.copy, cluster.results = node, copy, []
        for part in node.inputs:
            joins = "concat" in self.info.prologues
            space = Space(cluster, part, pointwise=joins, views=True, stores=True)
            cluster.results.append(space)
            self._load(part, cluster, (space, space.full))
        return None

    def _copied(self, node: Node, uses: list[Use]) -> Space | None:
        """The space that does nothing but store `node` in another order, in which its parts can be stored at once."""
        ((_, place), *others) = uses
        if others or place is None or not self.info.fuses:
            return None
        space, index = place
        copies = space.is_lane and all(member.op.kind == "view" for member in space.members)
        if not copies or space.missing(index) or not covers(index, node.shape, space.extents):
            return None
        space.index[node] = index
        return space

    # ----------------------------------------------------------------------------------------- where to

    def _join(self, node: Node, uses: list[Use], fits: Fits) -> None:
        """Compute `node` in a kernel that uses it, or in one of its own."""
        if len(uses) == 1:
            place = uses[0][1]
            if place is not None and not fits(node, *place, False):
                place = None
        else:
            place = self._place(node, uses, fits)
        if place is None:
            self._own(node, uses)
        else:
            self._enter(node, *place)

    def _place(self, node: Node, uses: list[Use], fits: Fits) -> Place | None:
        """Where `node` may join; if others need it too, it is stored there, and they wait for it."""
        places = _by_cluster(uses)
        stored = len(places) > 1
        tried = sorted(places, key=height_of, reverse=True)[:TRIED]
        for k, cluster in enumerate(tried):
            place = places[cluster]
            others = tried[0].height if k else tried[1].height if stored else -2  # the highest of them
            height = max(cluster.height, others + 1)
            if place is not None and height < cluster.limit and fits(node, *place, stored):
                cluster.height = height
                if stored:
                    self.stored[node] = cluster
                    _stored(node, cluster, uses)
                return place
        return None

    def _own(self, node: Node, uses: list[Use]) -> None:
        """Give `node` a kernel of its own, which stores it."""
        cluster = self._cluster(node, uses)
        if isinstance(node.type, TupleType):
            self.stored.update(dict.fromkeys(self.items[node], cluster))
            return self._core(node, cluster)
        self.stored[node] = cluster
        space = Space(cluster, node, pointwise=True, views=True, stores=True)
        cluster.results.append(space)
        return self._enter(node, space, space.full)

    def _cluster(self, node: Node, uses: Sequence[Use]) -> Cluster:
        cluster = Cluster(1 + max([user.height for user, _ in uses]))
        self.clusters.append(cluster)
        _stored(node, cluster, uses)
        return cluster

    def _repeat(self, node: Node, uses: list[Use]) -> bool:
        """Compute `node` in every kernel that uses it; whether all have room."""
        places = _by_cluster(uses)
        found = [place for place in places.values() if place is not None]
        fit = len(found) == len(places) and all(self._fits_pointwise(node, *place, False) for place in found)
        for place in found if fit else ():
            self._enter(node, *place)
        return fit

    # ----------------------------------------------------------------------------------------- does it fit?

    def _has_room(self, node: Node, space: Space) -> bool:
        live = len(space.pending) + len(node.inputs) - 1  # `node` itself is pending, and won't be
        return live <= self.info.max_live and len(space.members) < self.info.max_ops

    def _fits_pointwise(self, node: Node, space: Space, index: Index, stored: bool) -> bool:
        if not space.pointwise or (stored and not space.stores) or not self._has_room(node, space):
            return False
        if stored and node in self.foresight.after_row and space.rows != space.innermost(len(space.rows)):
            return False  # better computed with the rows that it comes from
        if stored and node in self.foresight.after_core and (space.rows or not space.is_lane):
            return False  # better computed where its operand is made, so that the operand never is in memory
        if index is space.full:
            return True
        missing = space.missing(index)
        over_row = set(missing) == set(space.rows)
        inside = missing == space.innermost(len(missing))
        if stored:
            new_row = not space.rows and inside and space.is_lane and node in self.foresight.after_row
            fits = not missing or over_row or (new_row and self._can_have_rows(space, missing, node.dtype))
            return fits and covers(index, node.shape, space.extents)
        # Along loops that it doesn't vary with it would be computed again and again, unless they are inside of those
        # that it varies with, or are the row. A comparison or a cast is cheaper than what it would be loaded from.
        cheap = node.dtype == "bool" or node.op is cast_op
        return over_row or cheap or inside

    def _fits_reduce(self, node: Node, space: Space, index: Index, stored: bool) -> bool:
        if not (space.is_lane and self._has_room(node, space) and space.reductions < self.info.max_reductions):
            return False
        if stored and not covers(index, node.shape, space.extents):
            return False
        missing, row = space.missing(index), _reduced(node)
        if not missing:
            return not space.rows
        if space.rows and set(missing) != set(space.rows):
            return False
        loops = space.rows or missing
        if [space.extents[loop] for loop in loops] != row:
            return False
        if node in space.back or not space.rows:
            return self._can_have_rows(space, loops, node.inputs[0].dtype)
        return self._shares_input(node, space)

    def _shares_input(self, reduction: Node, space: Space) -> bool:
        """Whether a reduction reads what the kernel reads too; else both only keep each other's operands alive."""
        near = {reduction.inputs[0], *reduction.inputs[0].inputs} - self.uniform
        others = {*space.pending, *space.members} - {reduction}
        return any(node in near or not near.isdisjoint(node.inputs) for node in others)

    def _can_have_rows(self, space: Space, loops: Sequence[int], dtype: str) -> bool:
        """Whether rows of elements of this dtype may be read more than once, along these loops.

        They must stay in the cache, and the space must not be what could be the epilogue of a core.
        """
        if not space.rows and not self.foresight.wants_core.isdisjoint(space.pending):
            return False
        between = dtype_info(dtype).itemsize if space.order[-1] in loops else LINE
        return guess(product([space.extents[loop] for loop in loops])) * between <= self.info.row_bytes

    def _fits_core(self, node: Node, space: Space, index: Index, stored: bool) -> bool:
        if node.op.kind not in self.info.epilogues or isinstance(node.type, TupleType):
            return False
        if space.rows or not space.is_lane:
            return False
        return index is space.full or (not space.missing(index) and covers(index, node.shape, space.extents))

    # ----------------------------------------------------------------------------------------- joining

    def _enter(self, node: Node, space: Space, index: Index) -> None:
        """Compute `node` in `space` at `index`, and note what that needs."""
        cluster, kind = space.cluster, node.op.kind
        space.index[node] = index
        space.pending.pop(node, None)
        if kind == "pointwise":
            space.members.append(node)
            if not space.rows and self.stored.get(node) is cluster:
                space.rows = space.missing(index)  # it is stored once for each row
            if node in space.back:
                space.back = space.back.union(node.inputs)
            place = (space, index)
            for operand in node.inputs:
                self._load(operand, cluster, place)
        elif kind == "reduce":
            space.members.append(node)
            self._load(node.inputs[0], cluster, (space, self._reduce_over(node, space, index)))
        elif kind == "view" and node.op in VIEWS:  # a copy
            space.members.append(node)
            pulled = pull(node, index, space.extents)
            assert pulled is not None  # what keeps the order is no copy
            self._load(node.inputs[0], cluster, (space, pulled))
        elif kind in ("iota", "extent"):
            space.members.append(node)
        else:
            self._core(node, cluster)

    def _reduce_over(self, node: Node, space: Space, index: Index) -> Index:
        """Make a reduction a member, with reduce loops if there are none yet; the index of its operand."""
        missing = space.missing(index)
        space.reductions += 1
        if space.rows or missing:
            space.rows = space.rows or missing
            return space.operand_index(node, index)
        space.add_rows(_reduced(node) or [1])
        inside = space.operand_index(node, index)
        space.nest_like(inside)
        return inside

    def _core(self, node: Node, cluster: Cluster) -> None:
        cluster.core = node
        pointwise = node.op.kind in self.info.prologues
        views = node.op.kind in self.info.views
        for operand in node.inputs:
            kind = operand.op.kind
            if (views and kind == "view") or (pointwise and kind not in LEAVES):
                space = Space(cluster, operand, pointwise=pointwise, views=views, stores=False)
                cluster.operands.append(space)
                if not pointwise and operand in self.uniform:
                    self._need(unviewed(operand), cluster)
                else:
                    self._load(operand, cluster, (space, space.full))
            else:
                cluster.operands.append(operand)
                self._need(operand, cluster)

    def _need(self, node: Node, cluster: Cluster) -> None:
        """Note that a kernel needs `node` in memory, as a whole."""
        self._uses.setdefault(node, []).append((cluster, None))

    def _load(self, node: Node, cluster: Cluster, place: Place) -> None:
        """Note that a kernel needs `node` at an index of one of its spaces."""
        if node in self.uniform:
            return
        space, index = place
        known = space.pending.get(node)
        if known is None:
            space.pending[node] = index
        elif known == index:
            return
        self._uses.setdefault(node, []).append((cluster, place))


HANDLERS: dict[str, Callable[[Fusion, Node, list[Use]], None]] = {
    **dict.fromkeys(LEAVES, Fusion._leaf),
    **dict.fromkeys(("iota", "extent"), Fusion._number),
    "tuple": Fusion._item,
    "view": Fusion._view,
    "pointwise": Fusion._pointwise,
    "reduce": Fusion._reduce,
    "concat": Fusion._concat,
}


def _current(use: Use) -> Use:
    """`use`, where its cluster has become a part of another, by that one."""
    cluster, place = use
    while cluster.into is not None:
        cluster = cluster.into
    if cluster is use[0]:
        return use
    return cluster, None if place is None else (cluster.results[0], place[1])


def _stored(node: Node, cluster: Cluster, uses: Sequence[Use]) -> None:
    """The kernels in `uses` read `node`, which `cluster` stores, so they stay below it.

    The space of an operand that might have been computed as it is wanted is let go: the operand lies in memory.
    """
    for user, place in uses:
        if user is not cluster and user.limit > cluster.height:
            user.limit = cluster.height
        if place is not None and place[0].sink is node and not place[0].stores:
            user.operands[user.operands.index(place[0])] = node


def _by_cluster(uses: Sequence[Use]) -> dict[Cluster, Place | None]:
    """The kernels that use a value, each with the one place where it does: None if there are several, or in memory."""
    found: dict[Cluster, Place | None] = {}
    for cluster, place in uses:
        found[cluster] = place if cluster not in found or found[cluster] == place else None
    return found


def _leaves(rows: Sequence[int], before: Index, after: Index) -> bool:
    """Whether an index varies along the row before, and not after."""
    return not loops_of(before).isdisjoint(rows) and loops_of(after).isdisjoint(rows)


def _reduced(node: Node) -> list[Dim]:
    """The extents that a reduction reduces, but those of 1."""
    shape = node.inputs[0].shape
    return [shape[axis] for axis in node.attrs["axes"] if shape[axis] != 1]
