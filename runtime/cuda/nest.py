"""A region, and how the threads of a GPU walk it: what a launch's text is printed from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy

from graphc.cached import cached_property
from graphc.dims import Dim, DimExpr, ceil_div, product
from graphc.ir import Node
from graphc.kernel import Region
from graphc.runtime.cuda.launches import CudaCode, Frame
from graphc.runtime.cuda.layout import Layout, layouts_of, loops_of
from graphc.runtime.cuda.reductions import accumulator_bytes
from graphc.runtime.cuda.transposes import Crossing, crossing
from graphc.runtime.regions import Pass, Port, loading, over_fewer_loops, passes_of, stored_in
from graphc.runtime.strided import Strided


class Nest:
    """A region, and how it is walked.

    Args:
        element: where the elements of the core's result lie, for a region that begins with one.
        into: where the one output of a region without stores goes.

    Attributes:
        loads: the ports of the body's parameters.
        stores: where its outputs go.
        reduced, parallel: its loops, the one along which chunks lie the last of its kind: it is walked fastest.
        passes: over a row.
        resident: values that are kept in registers between passes.
        total: how many rows there are, or chunks of rows that lie side by side.
        chunks: of a row.
    """

    def __init__(
        self, code: CudaCode, region: Region, element: Strided | None = None, into: Strided | None = None
    ) -> None:
        region, element, into = over_fewer_loops(region, element, into)
        self.code, self.region = code, region
        formals = list(region.body.inputs)
        self.loads: dict[Node, Port] = {}
        if len(formals) > len(region.loads):
            assert element is not None, "a region of a core's result needs its elements"
            self.loads[formals.pop(0)] = Port(element)
        self.loads |= {n: loading(load, n.dtype) for n, load in zip(formals, region.loads, strict=True)}
        self.stores = [into] if into else stored_in(region)
        self.reduced, self.parallel = loops_of(region)
        arrays = [port.array for port in self.loads.values() if not port.counter] + self.stores
        passes = passes_of(region, lambda nodes: True)
        self.choice = layouts_of(region, arrays, len(passes), self.most_kept(passes))
        self.layout = self.choice.whole
        self.passes = passes if self.layout.resident else passes_of(region, lambda nodes: False)
        self.resident = self.kept(self.passes)
        self.reduced.sort(key=lambda k: k == self.axis)
        self.parallel.sort(key=lambda k: k == self.axis)
        self.total = product(self.counts(self.parallel))
        self.chunks = product(self.counts(self.reduced))

    def divided(self, layout: Layout) -> Nest:
        """The same, with rows that are divided among blocks."""
        other = copy(self)
        other.layout, other.resident = layout, []
        other.passes = passes_of(self.region, lambda nodes: False)
        return other

    @cached_property
    def crossed(self) -> Crossing | None:
        """Where operands lie across the results, if they do."""
        return crossing(self.region, self.loads, self.stores)

    @property
    def axis(self) -> int | None:
        """The loop along which chunks lie."""
        return self.layout.axis

    @property
    def rows(self) -> int:
        """How many rows a thread has side by side."""
        return self.layout.vector if self.axis in self.parallel else 1

    def counts(self, loops: Iterable[int]) -> list[Dim]:
        """Of each of these loops, how many steps are taken along it."""
        return self.layout.chunks(self.region, loops)

    def kept(self, passes: Sequence[Pass]) -> list[Node]:
        """What passes keep of each element for later ones; some values are as near without."""
        nodes = [node for current in passes for node in current.kept]
        return [n for n in nodes if n.op.kind == "pointwise" or (n in self.loads and not self.loads[n].counter)]

    def most_kept(self, passes: Sequence[Pass]) -> int:
        """Of how many values a thread must keep elements at a time."""
        last = {node: k for k, current in enumerate(passes) for node in current.elements}
        first = self.region.passes
        kept = self.kept(passes)
        return max([sum(first[node] <= k < last[node] for node in kept) for k in range(len(passes))])

    def described(self) -> str:
        """In a few words, how the points are walked."""
        layout = self.layout
        each = f"{layout.vector} elements a thread" if layout.vector > 1 else "an element a thread"
        if not self.reduced:
            return each
        who = "threads" if layout.team == 1 else f"{layout.team} threads"
        kind = "columns" if layout.across else "rows"
        kept = ", kept in registers" if layout.resident else ""
        parts = ", in parts" if layout.part else ""
        parts += " if they are long and few" if layout.part and isinstance(self.choice.when, DimExpr) else ""
        return f"{kind} by {who}{kept}{parts}, {each}"

    def launch(self, when: Dim = 1, parts: Dim = 1) -> Frame:
        """Append a launch, whose teams take all rows, or all parts of them; none, if `when` is 0."""
        return self.code.launch(ceil_div(self.total, self.layout.columns) * when * parts, self.layout.threads)

    def for_parts(self, node: Node, parts: Dim) -> Strided:
        """Workspace for what a reduction has of each part."""
        nbytes = parts * self.total * self.rows * accumulator_bytes(node)
        return Strided("workspace", self.code.workspace(nbytes), 0, (1,), "uint8")

    def at_end(self) -> list[int]:
        """The outputs that are stored after the last pass: one for a row."""
        in_passes = {k for current in self.passes for k in current.stored}
        return [k for k in range(len(self.stores)) if k not in in_passes]
