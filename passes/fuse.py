"""Fusion: which values are computed together in one kernel, so that what lies between them is never in memory.

One walk over the program from its results back to its leaves, so that a value is met after everything that uses it. A
value *joins* a kernel that uses it if it can be computed at each point of that kernel's loops: a pointwise op at the
same (or a permuted, sliced, broadcast) index, a reduction over the kernel's rows, a matmul whose result is what the
kernel's loops run over. Views join every user: they change the index and compute nothing. A value that other kernels
need too joins the kernel that runs first and is stored by it; any other value gets a kernel of its own.

The kernels must not wait for each other in a circle. Each has a *height*, greater than that of every kernel that reads
what it stores; a value joins a kernel only if that stays so. So the kernels are acyclic by construction, and the check
takes no search.

Nothing is computed twice except what costs nothing: views, constants, counters, and casts that widen. In particular
the operand of exp(x - max(x)) is never computed once for the maximum and once more for the difference, where
compiled code might round it differently.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from heapq import nlargest

from graphc.dims import Dim, product
from graphc.dims import evaluate as evaluate_dim
from graphc.errors import ShapeError
from graphc.ir import Node, Program
from graphc.operands import broadcast_op, cast_op, constant_op
from graphc.passes.index_maps import (
    ASSEMBLED,
    VIEWS,
    Index,
    along,
    covers,
    identity,
    keeps_order,
    loops_of,
    pull,
)
from graphc.target import TargetInfo
from graphc.types import TupleType, dtype_info

LEAVES = frozenset({"placeholder", "variable", "parameter", "constant"})  # they are in memory before the run
TRIED = 4  # kernels that a value with many users tries to join
NOMINAL: Mapping[str, int] = defaultdict(lambda: 64)  # sizes of symbols, where only a guess is needed
LINE = 64  # bytes that are fetched from memory at a time


class Space:
    """A loop nest in the making: the values that are computed at each of its points, and at which index.

    Attributes:
        sink: the value that its loops are made for; `full` is its index.
        extents: of the loops, by number; `order` has the numbers, outermost first, `rows` those of the reduce loops.
        members: what is computed here, users before what they use; `index` is where.
        pending: what the members need, and where, as far as it isn't computed here (yet); `live` counts it.
        back: values that are broadcast back over the row, so that the row is read once more.
        pointwise, views: whether pointwise ops and views may join.
        stores: whether it stores results; other spaces compute an operand of a core.
    """

    __slots__ = (
        "back", "cluster", "extents", "full", "index", "live", "members", "order", "pending",
        "pointwise", "reductions", "rows", "sink", "stores", "views",
    )  # fmt: skip

    def __init__(self, cluster: Cluster, sink: Node, *, pointwise: bool, views: bool, stores: bool) -> None:
        self.cluster = cluster
        self.sink = sink
        self.full, extents = identity(sink.shape)
        self.extents: list[Dim] = list(extents)
        self.order = list(range(len(extents)))
        self.rows: tuple[int, ...] = ()
        self.members: list[Node] = []
        self.index: dict[Node, Index] = {}
        self.pending: dict[Node, list[Index]] = {}
        self.back: set[Node] = set()
        self.live = self.reductions = 0
        self.pointwise = pointwise
        self.views = views
        self.stores = stores

    @property
    def is_lane(self) -> bool:
        """Whether it is the one loop nest of a kernel without a core (yet)."""
        return self.stores and self.cluster.core is None and self.cluster.assembled is None

    def missing(self, index: Index) -> list[int]:
        """The loops, outermost first, that `index` doesn't vary with."""
        used = loops_of(index)
        return [loop for loop in self.order if loop not in used]

    def need(self, node: Node, index: Index) -> bool:
        """Note that a member needs `node` at `index`; whether that is new."""
        known = self.pending.setdefault(node, [])
        if index in known:
            return False
        known.append(index)
        self.live += 1
        return True

    def settle(self, node: Node) -> None:
        """`node` is no longer pending."""
        self.live -= len(self.pending.pop(node, ()))

    def compute(self, node: Node, index: Index) -> None:
        """Make `node` a member."""
        self.members.append(node)
        self.index[node] = index
        self.settle(node)

    def add_rows(self, extents: Sequence[Dim]) -> None:
        """Add reduce loops."""
        first = len(self.extents)
        self.extents += extents
        self.rows = tuple(range(first, len(self.extents)))
        self.order += self.rows

    def operand_index(self, reduction: Node, index: Index) -> Index:
        """The index of a reduction's operand: along the axes that are reduced, the reduce loops."""
        shape = reduction.inputs[0].shape
        axes, loops = list(index), iter(self.rows)
        for axis in reduction.attrs["axes"]:
            if shape[axis] != 1:
                axes[axis] = along(next(loops))
        return tuple(axes)

    def reorder(self, index: Index) -> None:
        """Nest the loops in the order of the axes of a value at `index`."""
        axes = [loop for axis in index for loop, _ in axis.terms]
        self.order = list(dict.fromkeys([*axes, *self.order]))


class Cluster:
    """A kernel in the making.

    Attributes:
        height: above that of every kernel that reads what it stores.
        limit: the least height of the kernels that store what it reads; its own stays below.
        core: the one op that isn't computed point by point; `operands` has a space for each of its inputs.
        assembled: the value of which each space in `results` stores a part.
        results: the spaces that store; none for a core with several results.
    """

    __slots__ = ("assembled", "core", "height", "limit", "operands", "results")

    def __init__(self, height: int) -> None:
        self.height = height
        self.limit = 1 << 60
        self.core: Node | None = None
        self.assembled: Node | None = None
        self.operands: list[Space] = []
        self.results: list[Space] = []

    def nodes(self) -> tuple[Node, ...]:
        """All values that are computed in it, in the order of their creation."""
        found = {node for space in (*self.operands, *self.results) for node in space.members}
        found.update(node for node in (self.core, self.assembled) if node is not None)
        return tuple(sorted(found, key=lambda node: node.serial))


Use = tuple[Space | None, Index | None]  # where; index None: in memory, whole; space None: as a result of the program
Place = tuple[Space, Index]
Fits = Callable[[Node, Space, Index, bool], bool]  # may the value join there? the flag: and be stored


class Fusion:
    """The kernels of a program, in the making.

    Attributes:
        clusters: in no order that matters.
        stored: the values that get bytes in the run, each with the cluster that stores it.
        alias: views that need no bytes of their own, each with its operand.
    """

    def __init__(self, program: Program, info: TargetInfo) -> None:
        self.info = info
        self.clusters: list[Cluster] = []
        self.stored: dict[Node, Cluster] = {}
        self.alias: dict[Node, Node] = {}
        self._uses: dict[Node, list[Use]] = {}
        self._items: dict[Node, list[Node]] = {}
        self._uniform: dict[Node, bool] = {}
        nodes = program.nodes()
        self._after_core = _epilogues(nodes, info.epilogues) if info.fuses else set()
        for root in program.roots:
            self._use(root, None, None)
        for node in reversed(nodes):
            uses = self._uses.pop(node, None)
            if uses is not None:
                HANDLERS.get(node.op.kind, Fusion._heavy)(self, node, uses)

    def is_uniform(self, node: Node) -> bool:
        """Whether all elements are one number that is known when a kernel is called."""
        found = self._uniform.get(node)
        if found is None:
            base = unbroadcast(node)
            found = base.op.kind == "extent" or (base.op is constant_op and base.attrs["value"].array.size == 1)
            self._uniform[node] = found
        return found

    # ----------------------------------------------------------------------------------------- by kind

    def _leaf(self, node: Node, uses: list[Use]) -> None:
        """It is in memory before the run."""

    def _number(self, node: Node, uses: list[Use]) -> None:
        """A counter or a size: each user works it out, unless one needs it in memory."""
        if any(index is None for _, index in uses):
            self._own(node, uses)

    def _item(self, node: Node, uses: list[Use]) -> None:
        """One of several results: stored by the kernel of the op that has them."""
        for space, _ in uses:
            self._use(node.inputs[0], space, None)
        self._items.setdefault(node.inputs[0], []).append(node)

    def _view(self, node: Node, uses: list[Use]) -> None:
        if node.op not in VIEWS:
            return self._heavy(node, uses)
        pulled = [_pulled(node, *use) for use in uses]
        if None in pulled:
            return self._stored_view(node, uses)
        for (space, before), index in zip(uses, pulled, strict=True):
            assert space is not None  # or it would not have been pulled
            space.settle(node)
            rows = set(space.rows)
            if node in space.back or (rows & loops_of(before or ()) and not rows & loops_of(index or ())):
                space.back.add(node.inputs[0])
            self._use(node.inputs[0], space, index)
        return None

    def _stored_view(self, node: Node, uses: list[Use]) -> None:
        """A view that somebody needs in memory: its operand's bytes if they are in the same order, else a copy."""
        if not keeps_order(node):
            return self._own(node, uses)
        self.alias[node] = node.inputs[0]
        for space, _ in uses:
            self._use(node.inputs[0], space, None)
        return None

    def _pointwise(self, node: Node, uses: list[Use]) -> None:
        if len(uses) > 1 and _widens(node) and self._repeat(node, uses):
            return
        self._join(node, uses, self._fits_pointwise)

    def _reduce(self, node: Node, uses: list[Use]) -> None:
        self._join(node, uses, self._fits_reduce)

    def _heavy(self, node: Node, uses: list[Use]) -> None:
        self._join(node, uses, self._fits_core)

    def _concat(self, node: Node, uses: list[Use]) -> None:
        if node.op not in ASSEMBLED:
            return self._heavy(node, uses)
        cluster = self._cluster(uses)
        cluster.assembled = node
        self.stored[node] = cluster
        for operand in node.inputs:
            cluster.results.append(self._operand(cluster, operand, node.op.kind, stores=True))
        return None

    # ----------------------------------------------------------------------------------------- where to

    def _join(self, node: Node, uses: list[Use], fits: Fits) -> None:
        """Compute `node` in a kernel that uses it, or in one of its own."""
        place = self._place(node, uses, fits) if self.info.fuses else None
        if place is None:
            return self._own(node, uses)
        (space, index), stored = place
        if stored:
            self.stored[node] = space.cluster
        self._limit(space.cluster, uses)
        self._enter(node, space, index)
        return None

    def _place(self, node: Node, uses: list[Use], fits: Fits) -> tuple[Place, bool] | None:
        """Where `node` may join, and whether it must be stored there because others need it too."""
        by_cluster = _by_cluster(uses)
        stored = len(by_cluster) > 1
        tried = nlargest(TRIED, by_cluster, key=_height)
        for k, cluster in enumerate(tried):
            place = by_cluster[cluster]
            if cluster is None or place is None:
                continue
            others = max((_height(other) for other in tried[:1] * (k > 0) + tried[k + 1 : k + 2]), default=-2)
            height = max(cluster.height, others + 1)
            if height < cluster.limit and fits(node, *place, stored):
                cluster.height = height
                return place, stored
        return None

    def _own(self, node: Node, uses: list[Use]) -> None:
        """Give `node` a kernel of its own, which stores it."""
        cluster = self._cluster(uses)
        if isinstance(node.type, TupleType):
            self.stored.update(dict.fromkeys(self._items[node], cluster))
            return self._core(node, cluster)
        self.stored[node] = cluster
        space = Space(cluster, node, pointwise=self.info.fuses, views=True, stores=True)
        cluster.results.append(space)
        return self._enter(node, space, space.full)

    def _cluster(self, uses: Sequence[Use]) -> Cluster:
        cluster = Cluster(1 + max(_height(_cluster_of(space)) for space, _ in uses))
        self.clusters.append(cluster)
        self._limit(cluster, uses)
        return cluster

    def _limit(self, cluster: Cluster, uses: Sequence[Use]) -> None:
        """The kernels in `uses` read what `cluster` stores, so they stay below it."""
        for space, _ in uses:
            if space is not None and space.cluster is not cluster:
                space.cluster.limit = min(space.cluster.limit, cluster.height)

    def _repeat(self, node: Node, uses: list[Use]) -> bool:
        """Compute a cheap `node` in every kernel that uses it; whether all have room."""
        places = {space: index for space, index in uses if space is not None and index is not None}
        fit = len(places) == len(uses) and all(self._fits_pointwise(node, *place, False) for place in places.items())
        for space, index in places.items() if fit else ():
            self._enter(node, space, index)
        return fit

    # ----------------------------------------------------------------------------------------- does it fit?

    def _has_room(self, node: Node, space: Space) -> bool:
        live = space.live - len(space.pending.get(node, ())) + len(node.inputs)
        return len(space.members) < self.info.max_ops and live <= self.info.max_live

    def _fits_pointwise(self, node: Node, space: Space, index: Index, stored: bool) -> bool:
        if not space.pointwise or (stored and not space.stores) or not self._has_room(node, space):
            return False
        if stored and node in self._after_core and (space.rows or not space.is_lane):
            return False  # better computed where its operand is made, so that the operand never is in memory
        if index is space.full:
            return True
        missing = space.missing(index)
        if stored:
            return set(missing) in (set(), set(space.rows)) and covers(index, node.shape, space.extents)
        # Along loops that it doesn't vary with it would be computed again and again, unless they are inside of those
        # that it varies with, or are all of the row.
        return set(missing) == set(space.rows) or missing == space.order[len(space.order) - len(missing) :]

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
        loops = space.rows or tuple(missing)
        again = node in space.back or not space.rows
        return [space.extents[loop] for loop in loops] == row and (not again or self._row_fits(node, loops, space))

    def _row_fits(self, node: Node, loops: Sequence[int], space: Space) -> bool:
        """Whether the row stays in the cache until it is read again."""
        itemsize = dtype_info(node.inputs[0].dtype).itemsize
        between = itemsize if space.order[-1] in loops else LINE
        return guess(product(_reduced(node))) * between <= self.info.row_bytes

    def _fits_core(self, node: Node, space: Space, index: Index, stored: bool) -> bool:
        return (
            node.op.kind in self.info.epilogues
            and not isinstance(node.type, TupleType)
            and space.is_lane
            and not space.rows
            and not space.missing(index)
            and covers(index, node.shape, space.extents)
        )

    # ----------------------------------------------------------------------------------------- joining

    def _enter(self, node: Node, space: Space, index: Index) -> None:
        """Compute `node` in `space` at `index`, and note what that needs."""
        kind = node.op.kind
        if kind == "pointwise":
            space.compute(node, index)
            if node in space.back:
                space.back.update(node.inputs)
            for operand in node.inputs:
                self._use(operand, space, index)
        elif kind == "reduce":
            self._enter_reduce(node, space, index)
        elif kind == "view" and node.op in VIEWS:  # a copy
            space.compute(node, index)
            self._use(node.inputs[0], space, pull(node, index, space.extents))
        elif kind in ("iota", "extent"):
            space.compute(node, index)
        else:
            space.index[node] = index
            space.settle(node)
            self._core(node, space.cluster)

    def _enter_reduce(self, node: Node, space: Space, index: Index) -> None:
        missing = space.missing(index)
        space.compute(node, index)
        space.reductions += 1
        created = not space.rows and not missing
        if created:
            space.add_rows(_reduced(node) or [1])
        elif not space.rows:
            space.rows = tuple(missing)
        inside = space.operand_index(node, index)
        if created:
            space.reorder(inside)
        self._use(node.inputs[0], space, inside)

    def _core(self, node: Node, cluster: Cluster) -> None:
        cluster.core = node
        cluster.operands = [self._operand(cluster, i, node.op.kind, stores=False) for i in node.inputs]

    def _operand(self, cluster: Cluster, operand: Node, kind: str, *, stores: bool) -> Space:
        """A space that runs over an operand of a core, or over a part of an assembled value."""
        pointwise = self.info.fuses and kind in self.info.prologues
        space = Space(cluster, operand, pointwise=pointwise, views=kind in self.info.views, stores=stores)
        if not space.views:
            self._use(operand, space, None)
        elif not pointwise and self.is_uniform(operand):
            self._use(unbroadcast(operand), space, None)
        else:
            self._use(operand, space, space.full)
        return space

    def _use(self, node: Node, space: Space | None, index: Index | None) -> None:
        """Note that `space` needs `node` at `index`."""
        if space is not None and index is not None and (self.is_uniform(node) or not space.need(node, index)):
            return
        self._uses.setdefault(node, []).append((space, index))


HANDLERS: dict[str, Callable[[Fusion, Node, list[Use]], None]] = {
    **dict.fromkeys(LEAVES, Fusion._leaf),
    **dict.fromkeys(("iota", "extent"), Fusion._number),
    "tuple": Fusion._item,
    "view": Fusion._view,
    "pointwise": Fusion._pointwise,
    "reduce": Fusion._reduce,
    "concat": Fusion._concat,
}


def _height(cluster: Cluster | None) -> int:
    return -1 if cluster is None else cluster.height


def _cluster_of(space: Space | None) -> Cluster | None:
    return None if space is None else space.cluster


def _by_cluster(uses: Sequence[Use]) -> dict[Cluster | None, Place | None]:
    """The kernels that use a value, each with the one place where it does: None if there are several, or in memory."""
    found: dict[Cluster | None, Place | None] = {}
    for space, index in uses:
        cluster = _cluster_of(space)
        place = None if space is None or index is None else (space, index)
        found[cluster] = place if cluster not in found or found[cluster] == place else None
    return found


def _pulled(view: Node, space: Space | None, index: Index | None) -> Index | None:
    return None if space is None or index is None or not space.views else pull(view, index, space.extents)


def _reduced(node: Node) -> list[Dim]:
    """The extents that a reduction reduces, but those of 1."""
    shape = node.inputs[0].shape
    return [shape[axis] for axis in node.attrs["axes"] if shape[axis] != 1]


def _widens(node: Node) -> bool:
    """Whether it is a cast that reads no more bytes than it makes, so that it is better repeated than stored."""
    return node.op is cast_op and dtype_info(node.inputs[0].dtype).itemsize <= dtype_info(node.dtype).itemsize


def guess(dim: Dim) -> int:
    """A likely value of `dim`, from sizes of 64 for all symbols."""
    try:
        return max(evaluate_dim(dim, NOMINAL), 0)
    except ShapeError:  # it divides by what isn't positive at these sizes
        return NOMINAL[""]


def unbroadcast(node: Node) -> Node:
    """What `node` is a broadcast of; itself if it is none."""
    while node.op is broadcast_op:
        node = node.inputs[0]
    return node


def _epilogues(nodes: Sequence[Node], kinds: frozenset[str]) -> set[Node]:
    """Pointwise nodes that can be computed in the kernel of a core they follow from, through values used once."""
    users = Counter(i for node in nodes for i in node.inputs)
    found: set[Node] = set()
    for node in nodes:
        if node.op.kind == "pointwise" and any(
            users[i] == 1 and (i in found or i.op.kind in kinds) for i in node.inputs
        ):
            found.add(node)
    return found
