"""Level 2: kernels, the loops around scalar programs that both code-generating targets lower. Data only.

A kernel is code without its buffers: two layers of a network that do the same are one `Kernel`, equal and interned, so
it is compiled once. A `Step` of a plan (`graphc.plan`) is a call of it: it says which buffers the kernel reads and
writes. Dimensions may be symbolic; a target compiles ints in and takes symbols as arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from graphc.cached import cached_property
from graphc.dims import Dim
from graphc.ir import Node, Program

# Kinds that can't fail in a run. Python functions can, indices out of range, and whatever isn't known here.
SAFE = frozenset(
    {"parameter", "constant", "extent", "iota", "random", "tuple", "pointwise", "view", "concat"}
    | {"reduce", "contract", "conv", "window", "sort", "scan"}
)


class Loop(NamedTuple):
    """One loop of an iteration space.

    Attributes:
        extent: how often it runs; may be symbolic, and 0.
        reduce: whether the body's reductions run over it; other loops are parallel, in any order.
    """

    extent: Dim
    reduce: bool = False


class Access(NamedTuple):
    """An affine map from the loops to an element: `offset + sum(index * stride)`, counted in elements, not bytes.

    Attributes:
        strides: one for each loop of the region; 0 where the element doesn't depend on it, negative where flipped.
    """

    offset: Dim
    strides: tuple[Dim, ...]


class Load(NamedTuple):
    """A value that the body takes.

    Attributes:
        read: which of the kernel's reads it comes from. None: no memory is read, the value is the access itself, an
            int64 (this is how a counter, `iota`, enters a kernel).
    """

    read: int | None
    access: Access


class Store(NamedTuple):
    """Where an output of the body goes: which of the kernel's writes, and the element."""

    write: int
    access: Access


@dataclass(frozen=True)
class Region:
    """A loop nest around a program of scalars: what is computed at each point of an iteration space.

    The body is an ordinary `Program` for one point of the parallel loops. Its parameters and nodes are typed over the
    reduce loops alone: without any, all are scalars. With reduce loops of extents `(n,)`, a value that varies along
    the row is `[n]`, one that doesn't (the result of a reduction, and what follows from it) is `[1]`, and it is
    broadcast back by an explicit node. So softmax over rows is

        m = reduce_max(x); e = exp(x - broadcast(m)); y = e / broadcast(reduce_sum(e))

    and a target sees from the types which passes over the row it takes. Reductions run over all reduce loops.

    In each pass over the row, all loads at a point happen before the first store there. A result of the last pass may
    lie in the bytes of an operand that is loaded by the same access (`Step.in_place`).

    Attributes:
        loops: outermost first; adjacent loops that every access could run as one are one.
        loads: the body's parameters, in order. In a kernel with a core, the result regions take one parameter more,
            the first: the element of the core's result at this point.
        body: pointwise ops, reductions and broadcasts over the reduce loops; constants, and `extent` (a size).
        stores: where `body.outputs` go, in order; the region of an operand has one output and no store.
    """

    loops: tuple[Loop, ...]
    loads: tuple[Load, ...]
    body: Program
    stores: tuple[Store, ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.loops, self.loads, self.body, self.stores))

    @cached_property
    def values(self) -> tuple[Node, ...]:
        """The nodes of the body, each after its operands, in an order that depends on the body alone.

        Nodes are interned, so the order in which they were made depends on what the process has done before.
        """
        return postorder(self.body.outputs)

    @cached_property
    def passes(self) -> Mapping[Node, int]:
        """For each value the pass over the row in which it is known, from 0: how many reductions lie in its way.

        A value per element is computed in that pass; one per row is known before the elements of that pass are.
        """
        found: dict[Node, int] = {}
        for node in self.values:
            found[node] = max([found[i] for i in node.inputs], default=0) + (node.op.kind == "reduce")
        return found

    @property
    def rows(self) -> tuple[Dim, ...]:
        """Extents of the reduce loops: the shape of what the body calls a row."""
        return tuple([loop.extent for loop in self.loops if loop.reduce])

    @property
    def is_view(self) -> bool:
        """Whether it computes nothing: it is a strided view of one read."""
        return len(self.loads) == 1 and self.body.outputs == self.body.inputs and self.loads[0].read is not None


@dataclass(frozen=True)
class Kernel:
    """A unit of work: lanes alone, or one core op with lanes before and after it.

    Without a core, the regions in `results` run one after the other; each computes every element that it stores.
    With a core, `operands[k]` says what the core's k-th operand is, point by point over all its axes (its loops are
    the axes, one each); the core is computed from these as its op says; then `results[k]` runs over the axes of the
    core's k-th result. A result that nobody needs has a region without stores.

    Attributes:
        core: a node whose inputs are parameters of the operands' types: matmul, convolution, gather, sort, a random
            leaf, a composite that the target takes whole. None for kernels of pointwise ops and reductions.
        operands: a region for each input of the core.
        results: the regions that store.
    """

    core: Node | None
    operands: tuple[Region, ...]
    results: tuple[Region, ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.core, self.operands, self.results))

    @property
    def kind(self) -> str:
        """What decides how it is run: the kind of the core, or "reduce" or "pointwise"."""
        if self.core is not None:
            return self.core.op.kind
        return "reduce" if any(loop.reduce for region in self.results for loop in region.loops) else "pointwise"

    @cached_property
    def can_fail(self) -> bool:
        """Whether running it can raise, for some operands; see `graphc.fallible`."""
        if self.core is None:
            return False
        inside = self.core.body.nodes() if self.core.body is not None else [self.core]
        return any(node.op.kind not in SAFE for node in inside)

    @property
    def regions(self) -> tuple[Region, ...]:
        """All regions, those of the operands first."""
        return (*self.operands, *self.results)


def postorder(roots: Iterable[Node]) -> tuple[Node, ...]:
    """All nodes that `roots` need, each after its inputs, depth first and from left to right."""
    found: dict[Node, None] = {}
    stack = list(reversed(list(roots)))
    while stack:
        node = stack[-1]
        missing = [i for i in node.inputs if i not in found]
        if missing and node not in found:
            stack += reversed(missing)
        else:
            found.setdefault(stack.pop())
    return tuple(found)
