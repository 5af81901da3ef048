"""From a program to kernels over buffers: the clusters that fusion found, as loop nests and bodies.

Every cluster becomes a `Kernel`, which names no node of the program, and a `Step`, which says what it reads and writes.
Kernels are interned, so layers that do the same share one. Loops that every access could run as one become one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from graphc.attrs import Attrs
from graphc.dims import Dim
from graphc.ir import Node, Program, derived_from, make
from graphc.kernel import Access, Kernel, Load, Loop, Region, Store
from graphc.operands import constant, expand, parameter
from graphc.passes.fuse import Cluster, Fusion, Space, unbroadcast
from graphc.passes.index_maps import (
    ASSEMBLED,
    VIEWS,
    Index,
    Shape,
    identity,
    linear,
    placed,
    pull,
)
from graphc.plan import Buffer, Step, SymbolicPlan
from graphc.target import TargetInfo
from graphc.types import TensorType, TupleType

FIRST_STEP, LAST_STEP = -1, 1 << 62  # serial numbers before and after those of all nodes


def lower(program: Program, info: TargetInfo) -> SymbolicPlan:
    """The kernels of `program`, fused, in an order in which they can run, over buffers that share no bytes yet."""
    with derived_from(parameter(0, TensorType("float32")), "lower"):  # bodies outlive the program: link to none of it
        return _Lowering(program, Fusion(program, info)).plan()


class _Item(NamedTuple):
    """A value of a body, before it is built: a load by its number, or a node over earlier values."""

    node: Node | None
    operands: tuple[int, ...]


class _Write(NamedTuple):
    """A value of a body that is stored: where its element lies, and in which buffers."""

    value: int
    access: Access
    buffers: tuple[int, ...]


class _Lowering:
    """The plan in the making: its buffers and steps.

    Attributes:
        targets: for each value that the run stores, the buffers that get it; users read the first.
    """

    def __init__(self, program: Program, fusion: Fusion) -> None:
        self.program = program
        self.fusion = fusion
        self.buffers: list[Buffer] = []
        self.steps: list[tuple[int, Step]] = []
        self.targets: dict[Node, tuple[int, ...]] = {}
        self.given: dict[Node, int] = {}
        self.kernels: dict[Kernel, Kernel] = {}
        self.parameters: dict[tuple[int, TensorType], Node] = {}
        self.numbers: dict[Node, Node] = {}

    def plan(self) -> SymbolicPlan:
        """Make all of it."""
        roots = self.program.roots
        outputs = len(self.program.outputs)
        slots = [self._buffer("result" if k < outputs else "update", root) for k, root in enumerate(roots)]
        owners = [self.owner(root) for root in roots]
        for owner, slot in zip(owners, slots, strict=True):
            if owner in self.fusion.stored:
                self.targets[owner] = (*self.targets.get(owner, ()), slot)
        for node in self.fusion.stored:
            if node not in self.targets:
                self.targets[node] = (self._buffer("arena", node),)
        for cluster in self.fusion.clusters:
            nodes = cluster.nodes()
            self._step(_KernelBuilder(self, cluster).kernel(), nodes, nodes[-1].serial)
        for k, (owner, slot) in enumerate(zip(owners, slots, strict=True)):
            if owner not in self.fusion.stored:
                self._copy(owner, slot, FIRST_STEP if k < outputs else LAST_STEP)
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
        alias = self.fusion.alias
        while node in alias:
            node = alias[node]
        return node

    def source(self, node: Node) -> int:
        """The buffer from which `node` is read."""
        owner = self.owner(node)
        found = self.targets.get(owner)
        if found is None:
            role = "constant" if owner.op.kind == "constant" else "given"
            found = self.targets[owner] = (self._buffer(role, owner),)
            if role == "given":
                self.given[owner] = found[0]
        return found[0]

    def parameter(self, number: int, type: TensorType) -> Node:
        """The parameter of a body."""
        key = (number, type)
        found = self.parameters.get(key)
        if found is None:
            found = self.parameters[key] = parameter(*key)
        return found

    def number(self, node: Node) -> Node:
        """A constant of one element, or a size, as a scalar."""
        found = self.numbers.get(node)
        if found is None:
            found = node
            if node.shape:
                found = constant(node.attrs["value"].array.reshape(()), node.dtype)
            self.numbers[node] = found
        return found

    def _buffer(self, role: str, node: Node) -> int:
        self.buffers.append(Buffer(role, node))  # type: ignore[arg-type]
        return len(self.buffers) - 1

    def _copy(self, owner: Node, slot: int, serial: int) -> None:
        """A step that copies what is in memory before the run."""
        index, extents = identity(owner.shape)
        access = linear(index, owner.shape, len(extents))
        value = self.parameter(0, TensorType(owner.dtype))
        loops, (load, store) = collapsed(range(len(extents)), extents, (), [access, access])
        region = Region(loops, (Load(0, load),), Program((value,), (value,)), (Store(0, store),))
        built = _Built(Kernel(None, (), (region,)), (self.source(owner),), (slot,))
        self._step(built, (self.buffers[slot].node,), serial)

    def _step(self, built: _Built, nodes: tuple[Node, ...], serial: int) -> None:
        kernel = self.kernels.setdefault(built.kernel, built.kernel)
        self.steps.append((serial, Step(kernel, built.reads, built.writes, nodes)))


class _Built(NamedTuple):
    kernel: Kernel
    reads: tuple[int, ...]
    writes: tuple[int, ...]


class _KernelBuilder:
    """The kernel of one cluster."""

    def __init__(self, lowering: _Lowering, cluster: Cluster) -> None:
        self.lowering = lowering
        self.cluster = cluster
        self.reads: dict[int, int] = {}
        self.writes: dict[int, int] = {}

    def kernel(self) -> _Built:
        """Make it, with what it reads and writes."""
        cluster = self.cluster
        operands = tuple([self._operand(space) for space in cluster.operands])
        results = [*self._pieces()] if cluster.assembled is not None else [*map(self._result, cluster.results)]
        core = cluster.core
        if core is not None and isinstance(core.type, TupleType):
            results = self._items(core, core.type)
        if core is not None and core.inputs:
            formals = tuple([parameter(k, i.type) for k, i in enumerate(core.inputs)])
            core = make(core.op, formals, core.attrs, core.body)
        return _Built(Kernel(core, operands, tuple(results)), tuple(self.reads), tuple(self.writes))

    def _operand(self, space: Space) -> Region:
        builder = _RegionBuilder(self, space)
        value = builder.resolve(space.sink, space.full)
        return builder.region([_Write(value, Access(0, ()), ())], axes=space.full)

    def _result(self, space: Space) -> Region:
        core = self.cluster.core
        builder = _RegionBuilder(self, space)
        return builder.region(builder.stored(), axes=None if core is None else space.index[core])

    def _pieces(self) -> Iterable[Region]:
        """The regions that each store their part of a value, after one that fills it."""
        whole = self.cluster.assembled
        assert whole is not None
        assembly = ASSEMBLED[whole.op](whole)
        targets = self.lowering.targets[whole]
        if assembly.fill is not None:
            yield self._filled(whole, constant(assembly.fill, whole.dtype), targets)
        for space, place in zip(self.cluster.results, assembly.places, strict=True):
            builder = _RegionBuilder(self, space)
            stored = builder.stored()
            value = builder.resolve(space.sink, space.full)
            access = linear(placed(space.full, place), whole.shape, len(space.extents))
            yield builder.region([_Write(value, access, targets), *stored])

    def _filled(self, whole: Node, number: Node, targets: Sequence[int]) -> Region:
        index, extents = identity(whole.shape)
        access = linear(index, whole.shape, len(extents))
        loops, (access,) = collapsed(range(len(extents)), extents, (), [access])
        stores = tuple([Store(self.write(buffer), access) for buffer in targets])
        return Region(loops, (), Program((), (number,) * len(stores)), stores)

    def _items(self, core: Node, type: TupleType) -> list[Region]:
        """The regions of a core that has several results: each stored as it is, or not at all."""
        stored = {item.attrs["index"]: item for item, by in self.lowering.fusion.stored.items() if by is self.cluster}
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
    """The region of one space: first which values its body has, then the loops, then the body over them."""

    def __init__(self, kernel: _KernelBuilder, space: Space) -> None:
        self.kernel = kernel
        self.lowering = kernel.lowering
        self.fusion = kernel.lowering.fusion
        self.space = space
        self.loads: dict[tuple[int | None, Access, str], int] = {}
        self.items: list[_Item] = []
        self.place: dict[Node, int] = {}
        core = kernel.cluster.core
        self.core = core if core is not None and space.stores else None
        if self.core is not None:
            self._add(self.core, ())
        for member in reversed(space.members):
            index = space.index[member]
            if member.op.kind in ("pointwise", "reduce"):
                at = self._operand_index(member, index)
                self._add(member, tuple([self.resolve(i, at) for i in member.inputs]))
            else:  # a copy of a view or of a counter
                self.place[member] = self._look_through(member, index)

    def _operand_index(self, member: Node, index: Index) -> Index:
        if member.op.kind != "reduce":
            return index
        return self.space.operand_index(member, index)

    def _add(self, node: Node, operands: tuple[int, ...]) -> None:
        self.place[node] = len(self.items)
        self.items.append(_Item(node, operands))

    # ------------------------------------------------------------------------------------ values

    def resolve(self, node: Node, index: Index) -> int:
        """The value of the body that is `node` at `index`: computed here, a number, or loaded."""
        found = self.place.get(node)
        return self._look_through(node, index) if found is None else found

    def _look_through(self, node: Node, index: Index) -> int:
        """As `resolve`, for what isn't computed here: views and counters are only looked through."""
        fusion = self.fusion
        first = node in self.space.index  # a copy: look through it even though it is stored, here
        while first or not (node in fusion.stored or node in fusion.alias):
            first = False
            if fusion.is_uniform(node) and (self.space.pointwise or self.space.stores):
                return self._number(unbroadcast(node))
            kind = node.op.kind
            if kind == "iota":
                return self._load(None, linear(index, node.shape, len(self.space.extents)), node.dtype)
            if kind != "view" or node.op not in VIEWS:
                break
            pulled = pull(node, index, self.space.extents)
            assert pulled is not None
            node, index = node.inputs[0], pulled
            found = self.place.get(node)
            if found is not None:
                return found
        return self._load(
            self.kernel.read(self.lowering.source(node)),
            linear(index, node.shape, len(self.space.extents)),
            node.dtype,
        )

    def _number(self, node: Node) -> int:
        found = self.place.get(node)
        if found is None:
            self._add(node, ())
            found = self.place[node]
        return found

    def _load(self, read: int | None, access: Access, dtype: str) -> int:
        key = (read, access, dtype)
        found = self.loads.get(key)
        if found is None:
            found = self.loads[key] = len(self.items)
            self.items.append(_Item(None, (len(self.loads) - 1,)))
        return found

    def stored(self) -> list[_Write]:
        """What the space stores of its own values."""
        writes = []
        cluster, space = self.kernel.cluster, self.space
        for node, place in self.place.items():
            if self.fusion.stored.get(node) is cluster and node in space.index:
                access = linear(space.index[node], node.shape, len(space.extents))
                writes.append(_Write(place, access, self.lowering.targets[node]))
        return writes

    # ------------------------------------------------------------------------------------ loops and body

    def region(self, writes: Sequence[_Write], axes: Index | None = None) -> Region:
        """The region that computes the values and stores `writes`.

        Args:
            axes: where the loops must be axes, one each, the index of the value that has them.
        """
        space = self.space
        accesses = [access for _, access, _ in self.loads]
        targets = [write for write in writes if write.buffers]
        accesses += [write.access for write in targets]
        if axes is None:
            loops, accesses = collapsed(space.order, space.extents, space.rows, accesses)
        else:
            loops = tuple([Loop(space.extents[a.terms[0][0]] if a.terms else 1) for a in axes])
            accesses = [_spread(access, axes) for access in accesses]
        loads = tuple([Load(key[0], access) for key, access in zip(self.loads, accesses, strict=False)])
        values = self._body(loops, loads)
        row, stores, outputs = _row(loops), [], []
        for write, access in zip(targets, accesses[len(loads) :], strict=True):
            output = values[write.value]
            if output.shape != row:  # a number, in a body over rows
                output = expand(output, row if _varies(access, loops) else (1,) * len(row))
            for buffer in write.buffers:
                stores.append(Store(self.kernel.write(buffer), access))
                outputs.append(output)
        if not targets:  # an operand
            outputs = [values[write.value] for write in writes]
        inputs = [values[0]] if self.core is not None else []
        inputs += [values[place] for place in self.loads.values()]
        return Region(loops, loads, Program(tuple(inputs), tuple(outputs)), tuple(stores))

    def _body(self, loops: Sequence[Loop], loads: Sequence[Load]) -> list[Node]:
        """The nodes of the body, one for each value."""
        row = _row(loops)
        ones: Shape = (1,) * len(row)
        dtypes = [dtype for _, _, dtype in self.loads]
        first = 0 if self.core is None else 1
        nodes: list[Node] = []
        for node, operands in self.items:
            if node is None:
                (number,) = operands
                type = TensorType(dtypes[number], row if _varies(loads[number].access, loops) else ones)
                nodes.append(self.lowering.parameter(first + number, type))
            elif node is self.core:
                nodes.append(self.lowering.parameter(0, TensorType(node.dtype)))
            elif not operands:
                nodes.append(self.lowering.number(node))
            elif node.op.kind == "reduce":
                attrs = Attrs({**node.attrs, "axes": tuple(range(len(row)))})
                nodes.append(make(node.op, (expand(nodes[operands[0]], row),), attrs))
            else:
                given = [nodes[k] for k in operands]
                if row:
                    shapes = {i.shape for i in given}
                    shape = row if row in shapes else ones if ones in shapes else ()
                    given = [expand(i, shape) for i in given]
                nodes.append(make(node.op, tuple(given), node.attrs))
        return nodes


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
