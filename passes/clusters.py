"""Kernels in the making: what fusion (`graphc.passes.fuse`) works on, and `graphc.passes.lower` makes kernels of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from graphc.dims import Dim
from graphc.ir import Node, serial_of
from graphc.passes.index_maps import Index, along, identity, loops_of

NOTHING: frozenset[Node] = frozenset()  # Python makes a new empty set for each call


@lru_cache(maxsize=64)
def in_turn(loops: int) -> tuple[int, ...]:
    """The order in which loops are numbered; one tuple for all nests of so many."""
    return tuple(range(loops))


class Space:
    """A loop nest in the making: the values that are computed at each of its points, and at which index.

    Attributes:
        sink: the value that its loops are made for; `full` is its index.
        extents: of the loops, by number; `order` has the numbers, outermost first, `rows` those of the reduce loops.
        members: what is computed here, users before what they use; `index` is where.
        pending: what the members need and isn't computed here (yet), and where; a value that is needed at several
            indices counts once here and is stored.
        back: values that are broadcast back over the row, so that the row is read once more.
        pointwise, views: whether pointwise ops and views may join.
        stores: whether it stores results; other spaces compute an operand of a core.
    """

    __slots__ = (
        "back", "cluster", "extents", "full", "index", "members", "order", "pending", "pointwise", "reductions",
        "rows", "sink", "stores", "views",
    )  # fmt: skip

    def __init__(self, cluster: Cluster, sink: Node, *, pointwise: bool, views: bool, stores: bool) -> None:
        self.cluster = cluster
        self.sink = sink
        self.full, self.extents = identity(sink.shape)
        self.order = in_turn(len(self.extents))
        self.rows: tuple[int, ...] = ()
        self.members: list[Node] = []
        self.index: dict[Node, Index] = {}
        self.pending: dict[Node, Index] = {}
        self.back = NOTHING
        self.reductions = 0
        self.pointwise = pointwise
        self.views = views
        self.stores = stores

    @property
    def is_lane(self) -> bool:
        """Whether it is the one loop nest of a kernel without a core (yet)."""
        return self.stores and self.cluster.core is None and self.cluster.assembled is None

    def missing(self, index: Index) -> tuple[int, ...]:
        """The loops, outermost first, that `index` doesn't vary with."""
        used = loops_of(index)
        return tuple([loop for loop in self.order if loop not in used])

    def innermost(self, count: int) -> tuple[int, ...]:
        """The last loops of the nest."""
        return self.order[len(self.order) - count :]

    def add_rows(self, extents: Sequence[Dim]) -> None:
        """Add reduce loops."""
        first = len(self.extents)
        self.extents = (*self.extents, *extents)
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

    def nest_like(self, index: Index) -> None:
        """Nest the loops in the order of the axes of a value at `index`."""
        axes = [loop for axis in index for loop, _ in axis.terms]
        self.order = tuple(dict.fromkeys([*axes, *self.order]))


class Cluster:
    """A kernel in the making.

    Attributes:
        height: above that of every kernel that reads what it stores.
        limit: the least height of the kernels that store what it reads; its own stays below.
        core: the one op that isn't computed point by point, if there is one.
        operands: for each input of the core the space that computes it, or the input itself if it lies in memory.
        assembled: the value of which each space in `results` stores a part; in the order of `copy` if that is given.
        results: the spaces that store; none for a core with several results.
        into: the cluster that this one has become a part of.
    """

    __slots__ = ("assembled", "copy", "core", "height", "into", "limit", "operands", "results")

    def __init__(self, height: int) -> None:
        self.height = height
        self.limit = 1 << 60
        self.into: Cluster | None = None
        self.core: Node | None = None
        self.assembled: Node | None = None
        self.copy: Space | None = None
        self.operands: list[Space | Node] = []
        self.results: list[Space] = []

    def absorb(self, other: Cluster) -> None:
        """Take over all of a cluster that is one loop nest over the same loops."""
        (space,), (taken,) = self.results, other.results
        space.members = sorted({*space.members, *taken.members}, key=serial_of, reverse=True)
        space.index |= taken.index
        space.pending = taken.pending | space.pending
        space.back |= taken.back
        space.reductions += taken.reductions
        self.height = max(self.height, other.height)
        self.limit = min(self.limit, other.limit)
        other.into, other.results = self, []

    def dissolve(self) -> None:
        """Let go of its spaces, which refer back to it: they are freed at once, and not by the cyclic collector."""
        self.operands, self.results, self.copy = [], [], None

    def nodes(self) -> list[Node]:
        """All values that are computed in it, in the order of their creation."""
        found = [node for node in (self.core, self.assembled) if node is not None]
        for space in self.results if self.copy is None else [*self.results, self.copy]:
            found += space.members
        for operand in self.operands:
            if isinstance(operand, Space):
                found += operand.members
        return sorted(dict.fromkeys(found), key=serial_of)


Place = tuple[Space, Index]
Use = tuple[Cluster, Place | None]  # what needs a value, and where; without a place: in memory, as a whole
