"""Regions of the kernel IR as CUDA C: pointwise ops, reductions, and bodies that pass over their rows several times.

A team of threads goes over its row once for each pass, chunk by chunk, joins what its threads have in a fixed order,
and goes on with the values that follow. Elements that several passes need stay in registers where a row is short
enough, and are loaded again otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from graphc.dims import Dim
from graphc.ir import Node
from graphc.runtime.cuda.grids import unravelled
from graphc.runtime.cuda.launches import Frame
from graphc.runtime.cuda.nest import Nest
from graphc.runtime.cuda.points import Known, settled
from graphc.runtime.cuda.reductions import has_positions, join_of
from graphc.runtime.cuda.scalars import MEMORY, REGISTER, loaded, stored
from graphc.runtime.regions import Pass
from graphc.runtime.strided import Strided

BLOCK = "(Index)blockIdx.x"


class Walk:
    """The text of a launch, and what is known where it has come to.

    Args:
        passes: over the row, that it will do.
        at_end: outputs that it will store after the last pass.
        parts: into which rows are divided.
        block: the expression of the block's number.

    Attributes:
        known: expressions of values. Of those that differ within a chunk, for the element `v` of it.
        index: expressions of the first element of a chunk, for each loop.
        bases: where rows begin, in each array.
        slots: arrays in registers of what is kept of each chunk of a row.
    """

    def __init__(
        self,
        nest: Nest,
        frame: Frame,
        passes: Iterable[int],
        at_end: Sequence[int],
        parts: Dim | None = None,
        block: str = BLOCK,
    ) -> None:
        self.nest, self.layout, self.region = nest, nest.layout, nest.region
        self.f, self.parts, self.outputs = frame, parts, at_end
        self.known: Known = {}
        self.index: dict[int, str] = {}
        self.slots: dict[Node, str] = {}
        self.filled: set[Node] = set()
        self.place(block)
        self.bases = self.named_bases(self.arrays([nest.passes[k] for k in passes]))
        self.before(nest.passes[0].before)

    @property
    def wide(self) -> bool:
        """Whether a chunk has several elements."""
        return self.layout.vector > 1

    @property
    def across(self) -> bool:
        """Whether the elements of a chunk are of different rows."""
        return self.nest.axis in self.nest.parallel

    @property
    def v(self) -> str:
        """The element of a chunk."""
        return "v" if self.wide else "0"

    # ------------------------------------------------------------------------------------ where

    def place(self, block: str) -> None:
        """Name the thread's place: its row, and its position in the team."""
        f, layout, nest = self.f, self.layout, self.nest
        if self.parts is not None:
            parts = f.size(self.parts)
            self.part = f.value("Index", f"{block} % {parts}", "part")
            block = f.value("Index", f"{block} / {parts}", "block")
        thread, self.position = "threadIdx.x", "0"
        if layout.team > 1:
            by, of = (layout.columns, layout.columns) if layout.across else (layout.team, layout.team)
            thread = f"(Index)threadIdx.x {'%' if layout.across else '/'} {by}"
            self.position = f.value("Index", f"(Index)threadIdx.x {'/' if layout.across else '%'} {of}", "position")
        unit = f.value("Index", block if layout.columns == 1 else f"{block} * {layout.columns} + {thread}", "unit")
        exact = layout.columns == 1 or (isinstance(nest.total, int) and nest.total % layout.columns == 0)
        self.active = None if exact else f"{unit} < {f.size(nest.total)}"
        self.row = unit if exact else f.value("Index", f"least<Index>({unit}, {f.size(nest.total)} - 1)", "row")
        self.step_to(nest.parallel, self.row)

    def step_to(self, loops: Sequence[int], number: str) -> None:
        """The index of some loops, for the number of a chunk."""
        axis, vector = self.nest.axis, self.layout.vector
        for k, at in zip(loops, unravelled(self.f, number, self.nest.counts(loops)), strict=True):
            self.index[k] = self.f.value("Index", f"{at} * {vector}") if k == axis and vector > 1 else at

    def count(self) -> str | None:
        """How many elements the chunk has, if that isn't the same everywhere."""
        axis, vector = self.nest.axis, self.layout.vector
        extent = 1 if axis is None else self.region.loops[axis].extent
        if axis is None or vector == 1 or (isinstance(extent, int) and extent % vector == 0):
            return None
        return self.f.value("int", f"(int)least<Index>({vector}, {self.f.size(extent)} - {self.index[axis]})", "count")

    def arrays(self, passes: Sequence[Pass]) -> list[Strided]:
        """What is loaded and stored."""
        nodes = [*self.nest.passes[0].before, *(node for current in passes for node in current.elements)]
        ports = [self.nest.loads[node] for node in dict.fromkeys(nodes) if node in self.nest.loads]
        outputs = [*self.outputs, *(k for current in passes for k in current.stored)]
        found = [port.array for port in ports if not port.counter] + [self.nest.stores[k] for k in outputs]
        return list(dict.fromkeys(found))

    def named_bases(self, arrays: Sequence[Strided]) -> dict[Strided, str]:
        """Where the row begins in each array; those where it begins at the same element share a name."""
        loops, names, found = self.nest.parallel, {}, {}
        for array in arrays:
            text = self.f.offset(array.offset, [array.strides[k] for k in loops], [self.index[k] for k in loops])
            if text not in names:
                names[text] = text if text.replace("_", "").isalnum() else self.f.value("Index", text, "at")
            found[array] = names[text]
        return found

    def offset(self, array: Strided) -> str:
        """Where the chunk's first element lies."""
        base, moving = self.bases[array], [k for k in self.nest.reduced if k in self.index]
        inner = self.f.offset(0, [array.strides[k] for k in moving], [self.index[k] for k in moving])
        return base if inner == "0" else inner if base == "0" else f"{base} + {inner}"

    @contextmanager
    def each(self) -> Iterator[None]:
        """For each element of a chunk."""
        if not self.wide:
            yield
            return
        self.f.line("#pragma unroll")
        with self.f.block(f"for (int v = 0; v < {self.layout.vector}; ++v)"):
            yield

    @contextmanager
    def guarded(self, *conditions: str | None) -> Iterator[None]:
        """Where all conditions hold; None always does."""
        text = " && ".join([condition for condition in conditions if condition])
        if not text:
            yield
            return
        with self.f.block(f"if ({text})"):
            yield

    # ------------------------------------------------------------------------------------ values of rows

    def before(self, nodes: Sequence[Node]) -> None:
        """Make known values that are one for the row."""
        count = self.count() if self.across else None
        for node in nodes:
            if node in self.nest.loads:
                self.known[node] = self.load(node, count)
        rest = [node for node in nodes if node not in self.known]
        self.compute_rows(rest)

    def compute_rows(self, nodes: Sequence[Node]) -> None:
        """Compute values that are one for the row, or one for each row of a chunk."""
        f = self.f
        if not (self.wide and self.across):
            settled(f, nodes, self.known)
            return
        inside = dict(self.known)
        plain = [node for node in nodes if node.op.kind in ("constant", "extent")]
        settled(f, plain, self.known)
        inside |= self.known
        rest = [node for node in nodes if node not in self.known]
        names = {node: f.name("s") for node in rest}
        for node, name in names.items():
            f.line(f"{REGISTER[node.dtype]} {name}[{self.layout.vector}];")
        if rest:
            with self.each():
                settled(f, rest, inside)
                for node, name in names.items():
                    f.line(f"{name}[v] = {inside[node]};")
        self.known |= {node: f"{name}[v]" for node, name in names.items()}

    # ------------------------------------------------------------------------------------ passes

    def over_row(self, number: int) -> list[str]:
        """One pass of a thread over its chunks: the names of its accumulators, an array for each reduction."""
        current = self.nest.passes[number]
        names = self.started(current.reductions, self.layout.vector)
        for node in current.elements:
            if node in self.nest.resident and node not in self.slots:
                self.slots[node] = self.declared(node)
        with self.steps():
            self.chunk(current, names, number)
        self.index = {k: at for k, at in self.index.items() if k in self.nest.parallel}
        return names

    def declared(self, node: Node) -> str:
        """Declare registers for what is kept of each chunk of a row."""
        name, count = self.f.name("kept"), self.layout.resident
        type, each = REGISTER[node.dtype], f"[{self.layout.vector}]" if self.wide else ""
        if node in self.nest.loads and self.is_packed(self.nest.loads[node].array):
            type, each = self.packed(node.dtype), ""
        self.f.line(f"{type} {name}[{count}]{each};")
        return name

    def packed(self, dtype: str) -> str:
        """The type of a chunk."""
        return f"Pack<{self.layout.vector}, {MEMORY[dtype]}>"

    @contextmanager
    def steps(self) -> Iterator[None]:
        """For each chunk of the row, or of the part, that this thread takes."""
        nest, layout, f = self.nest, self.layout, self.f
        if not nest.reduced:
            yield
            return
        chunks = f.size(nest.chunks)
        if layout.resident:
            f.line("#pragma unroll")
            with f.block(f"for (int k = 0; k < {layout.resident}; ++k)"):
                step = self.sum_of(self.position, f"k * {layout.team}" if layout.team > 1 else "k")
                at = f.value("Index", step, "chunk")
                exact = layout.resident * layout.team == nest.chunks
                with self.guarded(None if exact else f"{at} < {chunks}"):
                    self.step_to(nest.reduced, at)
                    yield
            return
        first, last = self.position, chunks
        if self.parts is not None:
            first = self.sum_of(first, f"{self.part} * {layout.part}")
            last = f.value("Index", f"least<Index>(({self.part} + 1) * {layout.part}, {chunks})", "last")
        at = f.name("chunk")
        with f.block(f"for (Index {at} = {first}; {at} < {last}; {at} += {layout.team})"):
            self.step_to(nest.reduced, at)
            yield

    @staticmethod
    def sum_of(a: str, b: str) -> str:
        """a + b as text."""
        return b if a == "0" else f"{a} + {b}"

    def chunk(self, current: Pass, accumulators: Sequence[str], number: int) -> None:
        """One pass at one chunk."""
        f, nest = self.f, self.nest
        count = self.count()
        known = dict(self.known)
        first = [node for node in current.elements if self.region.passes[node] == number]
        for node in current.elements:
            if node in nest.loads:
                known[node] = self.load(node, count) if node not in self.slots else self.kept_load(node, count)
            elif node in self.slots and node not in first:
                known[node] = self.kept_value(node)
        packs = self.packs(current.stored)
        with self.each():
            settled(f, current.elements, known)
            for node in first:
                if node in self.slots and node not in nest.loads:
                    f.line(f"{self.kept_value(node)} = {known[node]};")
            guard = None if count is None or self.across else f"v < {count}"
            with self.guarded(guard if current.reductions else None):
                for node, name in zip(current.reductions, accumulators, strict=True):
                    self.accumulate(node, name, known)
            for k in current.stored:
                self.output(k, known, packs)
        if packs:
            with self.guarded(self.active):
                for k, name in packs.items():
                    self.put(nest.stores[k], name, count)

    def kept_value(self, node: Node) -> str:
        """What is kept of a chunk."""
        return f"{self.slots[node]}[k]{'[v]' if self.wide else ''}"

    def kept_load(self, node: Node, count: str | None) -> str:
        """What was loaded of a chunk, in this pass or one before; the expression of an element of it."""
        slot, array = f"{self.slots[node]}[k]", self.nest.loads[node].array
        if node not in self.filled:
            self.filled.add(node)
            self.f.line(f"{slot} = {self.memory(array, count)};")
        return loaded(array.dtype, f"{slot}.item[v]") if self.is_packed(array) else slot

    def packs(self, outputs: Sequence[int]) -> dict[int, str]:
        """Declare the chunks of those outputs that have several elements in one."""
        found = {k: self.f.name("out") for k in outputs if self.is_packed(self.nest.stores[k])}
        for k, name in found.items():
            self.f.line(f"{self.packed(self.nest.stores[k].dtype)} {name};")
        return found

    def started(self, reductions: Sequence[Node], values: int) -> list[str]:
        """Declare accumulators, an array for each reduction."""
        names = [self.f.name("acc") for _ in reductions]
        for node, name in zip(reductions, names, strict=True):
            starts = ", ".join([f"{join_of(node)}::start()"] * values)
            self.f.line(f"{join_of(node)}::Type {name}[{values}] = {{{starts}}};")
        return names

    def accumulate(self, node: Node, name: str, known: Known) -> None:
        """Join an element with what a thread has."""
        value = known[node.inputs[0]]
        if has_positions(node):
            value = f"{join_of(node)}::Type{{{value}, {self.in_row()}}}"
        self.join_with(node, f"{name}[{self.v}]", value)

    def join_with(self, node: Node, accumulator: str, value: str) -> None:
        """Join something with what a thread has."""
        self.f.line(f"{accumulator} = {join_of(node)}::join({accumulator}, {value});")

    def in_row(self) -> str:
        """How many elements of the row come before one."""
        text = "0"
        for k in sorted(self.nest.reduced):
            size = self.f.number(self.region.loops[k].extent)
            text = f"(i64){self.index[k]}" if text == "0" else f"({text}) * {size} + {self.index[k]}"
        return f"{text} + v" if self.wide and not self.across else text

    # ------------------------------------------------------------------------------------ memory

    def load(self, node: Node, count: str | None) -> str:
        """Load a chunk; the expression of an element of it."""
        f, port = self.f, self.nest.loads[node]
        array, stride = port.array, self.stride(port.array)
        if port.counter:
            loops = sorted(self.index)
            text = f.counted(array.offset, [array.strides[k] for k in loops], [self.index[k] for k in loops])
            first = f.value("i64", text, "first")
            return first if stride == 0 or not self.wide else f"({first} + v * {f.number(stride)})"
        if not self.is_packed(array):
            return f.value(REGISTER[array.dtype], self.memory(array, count), "x")
        return loaded(array.dtype, f"{f.value(self.packed(array.dtype), self.memory(array, count), 'x')}.item[v]")

    def memory(self, array: Strided, count: str | None) -> str:
        """What is loaded of an array for a chunk: a pack, or one element in registers."""
        f, stride = self.f, self.stride(array)
        if not self.is_packed(array):
            return loaded(array.dtype, f"{f.base(array)}[{self.offset(array)}]")
        pointer, vector = self.pointer(array), self.layout.vector
        if stride == 1:
            return f"fetched<{vector}>({pointer}{'' if count is None else f', {count}, true'})"
        return f"gathered<{vector}>({pointer}, {f.size(stride)}, {count or vector})"

    def pointer(self, array: Strided) -> str:
        """Where the chunk's first element lies, as an address."""
        offset = self.offset(array)
        return self.f.base(array) if offset == "0" else f"{self.f.base(array)} + {offset}"

    def stride(self, array: Strided) -> Dim:
        """Elements of memory from one element of a chunk to the next."""
        return 0 if self.nest.axis is None else array.strides[self.nest.axis]

    def is_packed(self, array: Strided) -> bool:
        """Whether the elements of a chunk are several."""
        return self.wide and self.stride(array) != 0

    def output(self, k: int, known: Known, packs: dict[int, str]) -> None:
        """Store an element, or put it into the chunk that will be stored."""
        array = self.nest.stores[k]
        value = stored(array.dtype, known[self.region.body.outputs[k]])
        if k in packs:
            self.f.line(f"{packs[k]}.item[v] = {value};")
            return
        with self.guarded(self.active):
            self.f.line(f"{self.f.base(array)}[{self.offset(array)}] = {value};")

    def put(self, array: Strided, name: str, count: str | None) -> None:
        """Store a chunk."""
        f, stride = self.f, self.stride(array)
        pointer, whole = self.pointer(array), self.layout.vector
        if stride == 1:
            f.line(f"put<{whole}>({pointer}{'' if count is None else f', {count}, true'}, {name});")
        else:
            f.line(f"scattered<{whole}>({pointer}, {f.size(stride)}, {count or whole}, {name});")

    def store_rows(self) -> None:
        """Store the outputs that are one for the row."""
        if not self.outputs:
            return
        first = f"{self.position} == 0" if self.layout.team > 1 else None
        active, self.active = self.active, None  # it is asked for once
        with self.guarded(first, active):
            count, packs = self.count() if self.across else None, self.packs(self.outputs)
            with self.each() if self.across else self.guarded():
                for k in self.outputs:
                    self.output(k, self.known, packs)
            for k, name in packs.items():
                self.put(self.nest.stores[k], name, count)
        self.active = active

    # ------------------------------------------------------------------------------------ joins

    def settle(self, current: Pass, names: Sequence[str], values: int | None = None) -> None:
        """Make known what follows from the reductions of a pass."""
        for node, name in zip(current.reductions, names, strict=True):
            joined = self.joined(node, name, values or self.layout.vector)
            self.known[node] = f"{joined}.position" if has_positions(node) else joined
        self.compute_rows(current.after)

    def joined(self, node: Node, name: str, values: int) -> str:
        """What all threads of the team have in an array of accumulators, joined; the expression of it for a row."""
        layout, join = self.layout, join_of(node)
        if self.across:
            if layout.team > 1:
                shape = f"{layout.team}, {layout.columns}, {values}"
                self.f.line(f"joined_columns<{join}, {shape}>({name});")
            return f"{name}[{self.v}]"
        whole = f"joined_values<{join}, {values}>({name})" if values > 1 else f"{name}[0]"
        if layout.team > 1:
            whole = f"joined<{join}, {layout.team}, {layout.threads}>({whole})"
        return self.f.value(f"{join}::Type", whole, "whole")

    def keep_part(self, node: Node, name: str, place: Strided) -> None:
        """Store what the team's part of a row adds up to."""
        joined = self.joined(node, name, self.layout.vector)
        first = f"{self.position} == 0" if self.layout.team > 1 else None
        with self.guarded(first, self.active), self.each() if self.across else self.guarded():
            self.f.line(f"{self.partial(node, place, self.part)} = {joined};")

    def join_passes(self, partial: Sequence[Sequence[Strided]], parts: Dim) -> None:
        """Make known what follows from the reductions of passes whose parts are in workspace."""
        f = self.f
        for current, places in zip(self.nest.passes, partial, strict=False):
            names = self.started(current.reductions, self.nest.rows)
            at, v = f.name("part"), self.v if self.across else "0"
            if names:
                head = f"for (Index {at} = {self.position}; {at} < {f.size(parts)}; {at} += {self.layout.team})"
                with f.block(head), self.each() if self.across else self.guarded():
                    for node, name, place in zip(current.reductions, names, places, strict=True):
                        self.join_with(node, f"{name}[{v}]", self.partial(node, place, at))
            self.settle(current, names, self.nest.rows)

    def partial(self, node: Node, place: Strided, part: str) -> str:
        """Where the accumulator of a part of a row lies."""
        total, rows = self.f.size(self.nest.total), self.nest.rows
        at = part if total == "1" else f"{part} * {total} + {self.row}"
        at = f"({at}) * {rows} + {self.v}" if rows > 1 else at
        return f"(({join_of(node)}::Type*){self.f.base(place)})[{at}]"
