"""From a program to kernels over buffers: the clusters that fusion found, as loop nests and bodies.

Every cluster becomes a `Kernel`, which names no node of the program, and a `Step`, which says what it reads and writes.
Kernels are interned, so layers that do the same share one. Loops that every access could run as one become one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from graphc.attrs import Attrs
from graphc.dims import Dim
from graphc.ir import Node, Program, make
from graphc.kernel import Access, Kernel, Load, Loop, Region, Store
from graphc.occurrences import derived_from
from graphc.operands import constant, expand, parameter
from graphc.passes.clusters import Cluster, Space
from graphc.passes.foresight import unviewed
from graphc.passes.fuse import Fusion
from graphc.passes.index_maps import (
    ASSEMBLED,
    VIEWS,
    Index,
    Shape,
    identity,
    linear,
    placed,
    pull,
    strided,
)
from graphc.passes.layout import orders_of, strides_in
from graphc.plan import Buffer, Role, Step, SymbolicPlan
from graphc.target import Order, TargetInfo
from graphc.types import TensorType, TupleType, Type

FIRST_STEP, LAST_STEP = -1, 1 << 62  # serial numbers before and after those of all nodes


def lower(program: Program, info: TargetInfo) -> SymbolicPlan:
    """The kernels of `program`, fused, in an order in which they can run, over buffers that share no bytes yet."""
    with derived_from(parameter(0, TensorType("float32")), "lower"):  # bodies outlive the program: link to none of it
        fusion = Fusion(program, info)
        return _Lowering(program, fusion, orders_of(program, fusion, info)).plan()


# A value of a body: `(number,)` of a load, `(node,)` for a constant or size, `(dtype,)` of the core's element, or
# `(op, key of its attributes, *earlier values)`. What bodies are made from, as far as it doesn't depend on the program.
_Item = tuple[Any, ...]


# A value of a body that is stored: its place, where its element lies, and the buffers (or their numbers) that get it.
_Write = tuple[int, Access, tuple[int, ...]]


class _Lowering:
    """The plan in the making: its buffers and steps.

    Attributes:
        orders: of values that aren't row-major.
        targets: for each value that the run stores, the buffers that get it; users read the first.
    """

    def __init__(self, program: Program, fusion: Fusion, orders: Mapping[Node, Order]) -> None:
        self.program = program
        self.fusion = fusion
        self.orders = orders
        self.buffers: list[Buffer] = []
        self.steps: list[tuple[int, Step]] = []
        self.targets: dict[Node, tuple[int, ...]] = {}
        self.given: dict[Node, int] = {}
        self.parameters: dict[tuple[int, Type], Node] = {}
        self.numbers: dict[Node, Node] = {}
        # Everything that repeats is made once, found by what it is made from:
        self.regions: dict[tuple[Any, ...], Region] = {}
        self.cores: dict[tuple[Any, ...], Node] = {}
        self.kernels: dict[tuple[Any, ...], Kernel] = {}

    def plan(self) -> SymbolicPlan:
        """Make all of it."""
        roots = self.program.roots
        outputs = len(self.program.outputs)
        slots = [self._buffer("result" if k < outputs else "update", root) for k, root in enumerate(roots)]
        owners = [self.owner(root) for root in roots]
        stored = self.fusion.stored
        for owner, slot in zip(owners, slots, strict=True):
            if owner in stored:
                self.targets[owner] = (*self.targets.get(owner, ()), slot)
        for node in stored:
            if node not in self.targets:
                self.targets[node] = (self._buffer("arena", node, self.orders.get(node)),)
        for cluster in self.fusion.clusters:
            nodes = tuple(cluster.nodes())
            kernel, reads, writes = _KernelBuilder(self, cluster).kernel()
            self.steps.append((nodes[-1].serial, Step(kernel, reads, writes, nodes)))
            cluster.dissolve()
        for k, (owner, slot) in enumerate(zip(owners, slots, strict=True)):
            if owner not in stored:
                serial = FIRST_STEP if k < outputs else LAST_STEP
                self.steps.append((serial, Step(self._copy(owner), (self.source(owner),), (slot,), (roots[k],))))
        return SymbolicPlan(
            self.program,
            tuple(self.buffers),
            tuple(in_order(self.steps)),
            self.given,
            tuple(slots[:outputs]),
            tuple(slots[outputs:]),
        )

    def owner(self, node: Node) -> Node:
        """The value whose bytes `node` is."""
        return self.fusion.owner(node)

    def source(self, node: Node) -> int:
        """The buffer from which `node` is read."""
        found = self.targets.get(node)  # as of nearly all, which are no views
        if found is not None:
            return found[0]
        owner = self.owner(node)
        found = self.targets.get(owner)
        if found is None:
            role: Role = "constant" if owner.op.kind == "constant" else "given"
            found = self.targets[owner] = (self._buffer(role, owner),)
            if role == "given":
                self.given[owner] = found[0]
        return found[0]

    def parameter(self, number: int, type: Type) -> Node:
        """The parameter of a body."""
        key = (number, type)
        found = self.parameters.get(key)
        if found is None:
            found = self.parameters[key] = parameter(*key)
        return found

    def number(self, node: Node) -> Node:
        """What all elements of a uniform value are, as a scalar; few ops deep."""
        node = unviewed(node)
        found = self.numbers.get(node)
        if found is None:
            found = node
            if node.op.kind == "pointwise":
                found = make(node.op, tuple([self.number(i) for i in node.inputs]), node.attrs)
            elif node.shape:
                found = constant(node.attrs["value"].array.reshape(()), node.dtype)
            self.numbers[node] = found
        return found

    def core(self, node: Node) -> Node:
        """A node that isn't computed point by point, over parameters; a leaf stays itself."""
        if not node.inputs:
            return node
        types = [i.type for i in node.inputs]
        key = (node.op, node.attrs.key, node.body, *types)
        found = self.cores.get(key)
        if found is None:
            formals = tuple([self.parameter(k, type) for k, type in enumerate(types)])
            found = self.cores[key] = make(node.op, formals, node.attrs, node.body)
        return found

    def kernel(self, core: Node | None, operands: Sequence[Region], results: Sequence[Region]) -> Kernel:
        """The one kernel of these parts."""
        key = (core, *operands, None, *results)
        found = self.kernels.get(key)
        if found is None:
            found = self.kernels[key] = Kernel(core, tuple(operands), tuple(results))
        return found

    def position(self, node: Node, index: Index, loops: int) -> Access:
        """Where in its buffer the element of `node` at `index` lies, over loops numbered below `loops`."""
        order = self.orders.get(node)
        if order is None:
            return linear(index, node.shape, loops)
        return strided(index, strides_in(node.shape, order), loops)

    def _buffer(self, role: Role, node: Node, order: Order | None = None) -> int:
        self.buffers.append(Buffer(role, node, order=order))
        return len(self.buffers) - 1

    def _copy(self, owner: Node) -> Kernel:
        """The kernel that copies what is in memory before the run."""
        index, extents = identity(owner.shape)
        access = linear(index, owner.shape, len(extents))
        value = self.parameter(0, TensorType(owner.dtype))
        loops, (load, store) = collapsed(tuple(range(len(extents))), extents, (), [access, access])
        return self.kernel(None, (), [Region(loops, (Load(0, load),), Program((value,), (value,)), (Store(0, store),))])


class _KernelBuilder:
    """The kernel of one cluster, and the buffers that it reads and writes, by their numbers in the kernel."""

    __slots__ = ("cluster", "lowering", "reads", "writes")

    def __init__(self, lowering: _Lowering, cluster: Cluster) -> None:
        self.lowering = lowering
        self.cluster = cluster
        self.reads: dict[int, int] = {}
        self.writes: dict[int, int] = {}

    def kernel(self) -> tuple[Kernel, tuple[int, ...], tuple[int, ...]]:
        """Make it, with what it reads and writes."""
        cluster, core = self.cluster, self.cluster.core
        operands = [self._operand(operand) for operand in cluster.operands]
        if cluster.assembled is not None:
            results = list(self._pieces(cluster.assembled))
        elif core is not None and isinstance(core.type, TupleType):
            results = self._items(core, core.type)
        else:
            results = [self._result(space) for space in cluster.results]
        kernel = self.lowering.kernel(None if core is None else self.lowering.core(core), operands, results)
        return kernel, tuple(self.reads), tuple(self.writes)

    def _operand(self, operand: Space | Node) -> Region:
        if isinstance(operand, Space):
            builder = _RegionBuilder(self, operand)
            value = builder.resolve(operand.sink, operand.full)
            element = linear(operand.full, operand.sink.shape, len(operand.extents))
            return builder.region([(value, element, ())], axes=operand.full)
        read = self.read(self.lowering.source(operand))
        key = (operand.type, self.lowering.orders.get(operand), read)
        found = self.lowering.regions.get(key)
        if found is None:
            found = self.lowering.regions[key] = self._whole(operand, read)
        return found

    def _whole(self, operand: Node, read: int) -> Region:
        """The region of an operand that lies in memory as it is wanted."""
        index, extents = identity(operand.shape)
        access = _spread(self.lowering.position(operand, index, len(extents)), index)
        element = self.lowering.parameter(0, TensorType(operand.dtype))
        loops = tuple([Loop(dim) for dim in operand.shape])
        return Region(loops, (Load(read, access),), Program((element,), (element,)))

    def _result(self, space: Space) -> Region:
        core = self.cluster.core
        builder = _RegionBuilder(self, space)
        return builder.region(builder.stored(), axes=None if core is None else space.index[core])

    def _pieces(self, whole: Node) -> Iterable[Region]:
        """The regions that each store their part of a value, after one that fills it."""
        assembly = ASSEMBLED[whole.op](whole)
        copy = self.cluster.copy
        if copy is None:
            targets = self.lowering.targets[whole]
            strides = strides_in(whole.shape, self.lowering.orders.get(whole, tuple(range(whole.ndim))))
        else:  # what is stored is a view of it: along each of its axes runs one loop, or none
            targets = self.lowering.targets[copy.sink]
            index, by_loop = copy.index[whole], self.lowering.position(copy.sink, copy.full, len(copy.extents)).strides
            strides = tuple([by_loop[axis.terms[0][0]] if axis.terms else 0 for axis in index])
        if assembly.fill is not None:
            yield self._filled(whole, constant(assembly.fill, whole.dtype), targets)
        for space, place in zip(self.cluster.results, assembly.places, strict=True):
            builder = _RegionBuilder(self, space)
            stored = builder.stored()
            value = builder.resolve(space.sink, space.full)
            access = strided(placed(space.full, place), strides, len(space.extents))
            yield builder.region([(value, access, targets), *stored])

    def _filled(self, whole: Node, number: Node, targets: Sequence[int]) -> Region:
        index, extents = identity(whole.shape)
        access = linear(index, whole.shape, len(extents))  # all elements, in whatever order
        loops, (access,) = collapsed(tuple(range(len(extents))), extents, (), [access])
        stores = tuple([Store(self.write(buffer), access) for buffer in targets])
        return Region(loops, (), Program((), (number,) * len(stores)), stores)

    def _items(self, core: Node, type: TupleType) -> list[Region]:
        """The regions of a core that has several results: each stored as it is, or not at all."""
        fusion = self.lowering.fusion
        stored = {item.attrs["index"]: item for item in fusion.items[core]}
        regions = []
        for k, item_type in enumerate(type.items):
            element = self.lowering.parameter(0, TensorType(item_type.dtype))
            targets = self.lowering.targets[stored[k]] if k in stored else ()
            index, extents = identity(item_type.shape)
            loops = tuple([Loop(dim) for dim in item_type.shape])
            access = _spread(linear(index, item_type.shape, len(extents)), index)
            stores = tuple([Store(self.write(buffer), access) for buffer in targets])
            regions.append(Region(loops, (), Program((element,), (element,) * len(stores)), stores))
        return regions

    def read(self, buffer: int) -> int:
        """The number of a buffer among the kernel's reads."""
        return self.reads.setdefault(buffer, len(self.reads))

    def write(self, buffer: int) -> int:
        """The number of a buffer among the kernel's writes."""
        return self.writes.setdefault(buffer, len(self.writes))


class _RegionBuilder:
    """The region of one space: first which values its body has, then the loops, then the body over them.

    Attributes:
        loads: what is loaded, with the place of its item.
        items: the values of the body; `nodes` has the program's node of each, None for a load, and `place` the inverse.
    """

    __slots__ = ("has_core", "items", "kernel", "loads", "lowering", "nodes", "place", "space")

    def __init__(self, kernel: _KernelBuilder, space: Space) -> None:
        self.kernel = kernel
        self.lowering = kernel.lowering
        self.space = space
        self.loads: dict[tuple[int | None, Access, str], int] = {}
        self.items: list[_Item] = []
        self.nodes: list[Node | None] = []
        self.place: dict[Node, int] = {}
        core = kernel.cluster.core
        self.has_core = core is not None and space.stores
        if core is not None and space.stores:
            self._add(core, (core.dtype,))
        for member in reversed(space.members):
            index = space.index[member]
            kind = member.op.kind
            if kind == "pointwise":
                operands = [self.resolve(i, index) for i in member.inputs]
                self._add(member, (member.op, member.attrs.key, *operands))
            elif kind == "reduce":
                operand = self.resolve(member.inputs[0], space.operand_index(member, index))
                self._add(member, (member.op, member.attrs.key, operand))
            else:  # a copy of a view or of a counter
                self.place[member] = self._copied(member, index)

    def _add(self, node: Node, item: _Item) -> int:
        at = self.place[node] = len(self.items)
        self.items.append(item)
        self.nodes.append(node)
        return at

    # ------------------------------------------------------------------------------------ values

    def resolve(self, node: Node, index: Index) -> int:
        """The value of the body that is `node` at `index`: computed here, a number, or loaded."""
        fusion = self.lowering.fusion
        while node not in self.place:
            if node in fusion.uniform and (self.space.pointwise or self.space.stores):
                return self._number(node)
            kind = node.op.kind
            if kind != "view" or node in fusion.stored or node in fusion.alias or node.op not in VIEWS:
                in_memory = kind != "iota" or node in fusion.stored
                return self._load(self.lowering.source(node) if in_memory else None, node, index)
            node, index = node.inputs[0], self._pulled(node, index)
        return self.place[node]

    def _copied(self, node: Node, index: Index) -> int:
        """The value of a view, counter or size that is stored here: what it is a copy of."""
        if node in self.lowering.fusion.uniform:
            return self._number(node)
        if node.op.kind == "iota":
            return self._load(None, node, index)
        return self.resolve(node.inputs[0], self._pulled(node, index))

    def _pulled(self, view: Node, index: Index) -> Index:
        pulled = pull(view, index, self.space.extents)
        assert pulled is not None  # or fusion would have stored it
        return pulled

    def _number(self, node: Node) -> int:
        number = self.lowering.number(node)
        found = self.place.get(number)
        return self._add(number, (number,)) if found is None else found

    def _load(self, buffer: int | None, node: Node, index: Index) -> int:
        access = self.lowering.position(node, index, len(self.space.extents))
        key = (None if buffer is None else self.kernel.read(buffer), access, node.dtype)
        found = self.loads.get(key)
        if found is None:
            found = self.loads[key] = len(self.items)
            self.items.append((len(self.loads) - 1,))
            self.nodes.append(None)
        return found

    def stored(self) -> list[_Write]:
        """What the space stores of its own values."""
        cluster, space, stored = self.kernel.cluster, self.space, self.lowering.fusion.stored
        return [
            (place, self.lowering.position(node, space.index[node], len(space.extents)), self.lowering.targets[node])
            for node, place in self.place.items()
            if stored.get(node) is cluster and node in space.index
        ]

    # ------------------------------------------------------------------------------------ loops and body

    def region(self, writes: Sequence[_Write], axes: Index | None = None) -> Region:
        """The region that computes the values and stores `writes`.

        Args:
            axes: where the loops must be axes, one each, the index of the value that has them.
        """
        space = self.space
        numbered = tuple([(value, at, tuple(map(self.kernel.write, buffers))) for value, at, buffers in writes])
        key = (space.order, space.extents, space.rows, axes, *self.loads, *self.items, *numbered)
        found = self.lowering.regions.get(key)
        if found is None:
            found = self.lowering.regions[key] = self._made(numbered, axes)
        return found

    def _made(self, writes: Sequence[_Write], axes: Index | None) -> Region:
        space = self.space
        accesses = [access for _, access, _ in self.loads] + [access for _, access, _ in writes]
        if axes is None:
            loops, accesses = collapsed(space.order, space.extents, space.rows, accesses)
        else:
            loops = tuple([Loop(space.extents[a.terms[0][0]] if a.terms else 1) for a in axes])
            accesses = [_spread(access, axes) for access in accesses]
        loads = tuple([Load(key[0], access) for key, access in zip(self.loads, accesses, strict=False)])
        values = self._body(loops, loads)
        row = _row(loops)
        stores: list[Store] = []
        outputs: list[Node] = []
        for (value, _, numbers), access in zip(writes, accesses[len(loads) :], strict=True):
            output = values[value]
            if output.shape != row:  # a number, in a body over rows
                output = expand(output, row if _varies(access, loops) else (1,) * len(row))
            outputs += [output] * max(len(numbers), 1)  # an operand has one output, and stores nothing
            stores += [Store(number, access) for number in numbers]
        inputs = [values[0]] if self.has_core else []
        inputs += [values[place] for place in self.loads.values()]
        return Region(loops, loads, Program(tuple(inputs), tuple(outputs)), tuple(stores))

    def _body(self, loops: Sequence[Loop], loads: Sequence[Load]) -> list[Node]:
        """The nodes of the body, one for each value."""
        row = _row(loops)
        ones: Shape = (1,) * len(row)
        dtypes = [dtype for _, _, dtype in self.loads]
        built: list[Node] = []
        for node, item in zip(self.nodes, self.items, strict=True):
            if node is None:
                number = item[0]
                type = TensorType(dtypes[number], row if _varies(loads[number].access, loops) else ones)
                built.append(self.lowering.parameter(number + self.has_core, type))
            elif len(item) == 1:  # a number, or the core's element
                (what,) = item
                built.append(self.lowering.parameter(0, TensorType(what)) if isinstance(what, str) else what)
            elif node.op.kind == "reduce":
                attrs = Attrs({**node.attrs, "axes": tuple(range(len(row)))})
                built.append(make(node.op, (expand(built[item[-1]], row),), attrs))
            else:
                given = [built[k] for k in item[2:]]
                if row:
                    shapes = {i.shape for i in given}
                    shape = row if row in shapes else ones if ones in shapes else ()
                    given = [expand(i, shape) for i in given]
                built.append(make(node.op, tuple(given), node.attrs))
        return built


def _row(loops: Sequence[Loop]) -> Shape:
    return tuple([loop.extent for loop in loops if loop.reduce])


def _varies(access: Access, loops: Sequence[Loop]) -> bool:
    """Whether an access varies along the row."""
    return any(loop.reduce and stride != 0 for loop, stride in zip(loops, access.strides, strict=True))


def _spread(access: Access, axes: Index) -> Access:
    """An access over loops as one over axes, of which those of size 1 have no loop."""
    return Access(access.offset, tuple([access.strides[a.terms[0][0]] if a.terms else 0 for a in axes]))


def collapsed(
    order: Iterable[int], extents: Sequence[Dim], rows: Sequence[int], accesses: Sequence[Access]
) -> tuple[tuple[Loop, ...], list[Access]]:
    """The loops numbered in `order`, outermost first, with neighbours joined wherever every access allows it.

    Two loops can run as one if, in every access, the outer one's step is what the inner one's steps add up to.
    """
    kept: list[tuple[int, Dim]] = []  # the innermost loop of each group, and the group's extent
    for loop in order:
        extent = extents[loop]
        if kept:
            outer, size = kept[-1]
            same_role = (outer in rows) == (loop in rows)
            if same_role and all(a.strides[outer] == a.strides[loop] * extent for a in accesses):
                kept[-1] = (loop, size * extent)
                continue
        kept.append((loop, extent))
    loops = tuple([Loop(extent, loop in rows) for loop, extent in kept])
    return loops, [Access(a.offset, tuple([a.strides[loop] for loop, _ in kept])) for a in accesses]


def in_order(steps: Sequence[tuple[int, Step]]) -> list[Step]:
    """The steps with the least number first, as far as what they read allows it (Kahn, 1962)."""
    steps = sorted(steps, key=itemgetter(0))
    writer = {buffer: k for k, (_, step) in enumerate(steps) for buffer in step.writes}
    users: list[list[int]] = [[] for _ in steps]
    waiting = [0] * len(steps)
    for k, (_, step) in enumerate(steps):
        for before in {writer[buffer] for buffer in step.reads if buffer in writer}:
            users[before].append(k)
            waiting[k] += 1
    ready = [(serial, k) for k, (serial, _) in enumerate(steps) if not waiting[k]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, k = heapq.heappop(ready)
        ordered.append(steps[k][1])
        for user in users[k]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, (steps[user][0], user))
    return ordered
