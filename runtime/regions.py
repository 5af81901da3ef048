"""Regions of kernels, as targets that generate code see them: what they load and store, and their passes over a row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

from graphc.dims import Dim, product
from graphc.ir import Node, reachable
from graphc.kernel import Access, Kernel, Load, Loop, Region
from graphc.op import Op
from graphc.passes.index_maps import row_major
from graphc.passes.lower import collapsed
from graphc.runtime.strided import Strided, itemsize
from graphc.types import TupleType


class Port(NamedTuple):
    """A load or a store of the region.

    Attributes:
        array: its memory, with a stride for each loop.
        counter: whether it reads nothing, and its value is the offset itself.
    """

    array: Strided
    counter: bool = False


def loading(load: Load, dtype: str) -> Port:
    """The port of a load."""
    number = 0 if load.read is None else load.read
    return Port(Strided("read", number, load.access.offset, load.access.strides, dtype), counter=load.read is None)


def stored_in(region: Region) -> list[Strided]:
    """Where a region stores its outputs."""
    return [
        Strided("write", store.write, store.access.offset, store.access.strides, output.dtype)
        for output, store in zip(region.body.outputs, region.stores, strict=bool(region.stores))
    ]


def viewed(region: Region) -> Strided:
    """Where the elements of a region that computes nothing lie."""
    (load,) = region.loads
    assert region.is_view and load.read is not None
    return Strided("read", load.read, load.access.offset, load.access.strides, region.body.outputs[0].dtype)


def is_direct(region: Region) -> bool:
    """Whether the core may write its result where the region would store it: in one buffer, row-major, as it is."""
    if len(region.stores) != 1 or region.loads or region.body.outputs != region.body.inputs:
        return False
    access = region.stores[0].access
    extents = [loop.extent for loop in region.loops]
    wanted = row_major(tuple(extents))
    same = all(a == b or extent == 1 for a, b, extent in zip(access.strides, wanted, extents, strict=True))
    return access.offset == 0 and same


def result_dtype(kernel: Kernel, k: int) -> str:
    """The dtype of the k-th result of a kernel's core."""
    assert kernel.core is not None
    type = kernel.core.type
    return type.items[k].dtype if isinstance(type, TupleType) else kernel.core.dtype


class Code(Protocol):
    """The code of a kernel in the making, as both targets have it.

    Attributes:
        results: of the core, where they are in workspace.
    """

    kernel: Kernel
    results: dict[int, Strided]

    def workspace(self, nbytes: Dim) -> Dim:
        """Take memory that all of the kernel sees; its offset in bytes."""
        ...


def in_workspace(code: Code, shape: Sequence[Dim], dtype: str) -> Strided:
    """A new row-major array in workspace."""
    offset = code.workspace(product(shape) * itemsize(dtype))
    return Strided("workspace", offset, 0, row_major(tuple(shape)), dtype)


def result(code: Code, k: int) -> Strided:
    """Where the core shall write its k-th result, row-major: the buffer that is wanted, or workspace."""
    region = code.kernel.results[k]
    dtype = result_dtype(code.kernel, k)
    shape = tuple([loop.extent for loop in region.loops])
    if is_direct(region):
        return Strided("write", region.stores[0].write, 0, row_major(shape), dtype)
    found = code.results.get(k)
    if found is None:
        found = code.results[k] = in_workspace(code, shape, dtype)
    return found


def over_fewer_loops(
    region: Region, element: Strided | None, into: Strided | None
) -> tuple[Region, Strided | None, Strided | None]:
    """A region over the axes of a core, over fewer loops where what a core computed or takes allows it, too."""
    extra = [array for array in (element, into) if array is not None]
    if not extra:
        return region, element, into
    accesses = [access for _, access in (*region.loads, *region.stores)]
    accesses += [Access(array.offset, array.strides) for array in extra]
    loops, accesses = collapsed(range(len(region.loops)), [loop.extent for loop in region.loops], (), accesses)
    count = len(region.loads) + len(region.stores)
    rest = iter(accesses[count:])
    element, into = (None if a is None else a._replace(strides=next(rest).strides) for a in (element, into))
    return _over(loops, region, accesses[:count]), element, into


def rows_joined(region: Region) -> Region | None:
    """A region whose last two loops are one; None where what it loads or stores doesn't allow that."""
    accesses = [access for _, access in (*region.loads, *region.stores)]
    if len(region.loops) < 2:
        return None
    *outer, above, last = region.loops
    if any(access.strides[-2] != access.strides[-1] * last.extent for access in accesses):
        return None
    joined = [Access(access.offset, (*access.strides[:-2], access.strides[-1])) for access in accesses]
    return _over((*outer, Loop(above.extent * last.extent)), region, joined)


def _over(loops: tuple[Loop, ...], region: Region, accesses: Iterable[Access]) -> Region:
    """A region over other loops, with what it loads and stores at the same elements."""
    rest = iter(accesses)
    loads = tuple([load._replace(access=next(rest)) for load in region.loads])
    stores = tuple([store._replace(access=next(rest)) for store in region.stores])
    return Region(loops, loads, region.body, stores)


# --------------------------------------------------------------------------------------------- passes over a row


class Pass(NamedTuple):
    """What happens in one pass over the row.

    Attributes:
        before: values that are one for the row, known before the pass; in the first pass only.
        elements: values of each element, in order.
        reductions: that end with this pass.
        kept: values that later passes need.
        stored: outputs that are stored in it.
        after: values that are one for the row and follow from the reductions.
    """

    before: tuple[Node, ...]
    elements: tuple[Node, ...]
    reductions: tuple[Node, ...]
    kept: tuple[Node, ...]
    stored: tuple[int, ...]
    after: tuple[Node, ...]


def passes_of(region: Region, keeps: Callable[[Iterable[Node]], bool]) -> list[Pass]:
    """The passes over the row of a region; one, if it has no reductions.

    Args:
        keeps: whether a value that is computed by these pointwise ops is kept for later passes, not computed again.
    """
    number, rows, outputs = region.passes, region.rows, region.body.outputs
    reductions = [node for node in region.values if node.op.kind == "reduce"]
    element = {node for node in region.values if node.shape == rows and node.op.kind != "reduce"}
    single = [node for node in region.values if node not in element and node.op.kind != "reduce"]
    last = max([number[node.inputs[0]] for node in reductions] + [number[n] for n in outputs if n in element] + [0])
    targets = [
        [node.inputs[0] for node in reductions if number[node] == k + 1]
        + [node for node in outputs if node in element and number[node] == k]
        for k in range(last + 1)
    ]
    wanted = [_cone(roots, element, frozenset()) for roots in targets]
    kept = {
        node
        for k, cone in enumerate(wanted)
        for user in cone
        for node in user.inputs
        if number[user] == k and node in element and number[node] < k and node in wanted[number[node]]
        if node.dtype != "bool" and keeps([n for n in _cone([node], element, ()) if n.op.kind == "pointwise"])
    }
    found = []
    for k, roots in enumerate(targets):
        elements = _cone(roots, element, {node for node in kept if number[node] < k})
        found.append(
            Pass(
                tuple([node for node in single if number[node] == 0]) if k == 0 else (),
                tuple([node for node in region.values if node in elements]),
                tuple([node for node in reductions if number[node] == k + 1]),
                tuple([node for node in region.values if node in kept and number[node] == k]),
                tuple([j for j, node in enumerate(outputs) if node in element and number[node] == k]),
                tuple([node for node in single if number[node] == k + 1]),
            )
        )
    return found


def _cone(roots: Iterable[Node], inside: Collection[Node], leaves: Collection[Node]) -> set[Node]:
    """The nodes of `inside` that `roots` are computed from, not looking beyond `leaves`."""
    return {node for node in reachable([r for r in roots if r in inside], lambda n: n in leaves or n not in inside)
            if node in inside}  # fmt: skip


def is_expressible(region: Region, pointwise: Collection[Op], reductions: Collection[Op]) -> bool:
    """Whether a target that has code for these ops can compute a region; what only moves elements is addressing."""
    known = {"pointwise": pointwise, "reduce": reductions}
    return all(node.op in known.get(node.op.kind, (node.op,)) for node in region.values)
