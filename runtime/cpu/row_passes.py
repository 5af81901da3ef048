"""The passes over the row of a region: which values are computed in which, and what is kept from one to a later one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from graphc.dims import Dim, product
from graphc.ir import Node, reachable
from graphc.kernel import Region
from graphc.runtime.cpu import pointwise
from graphc.runtime.strided import aligned

KEPT = 0.15  # nanoseconds an element: a value that costs more is kept for later passes


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


def passes_of(region: Region) -> list[Pass]:
    """The passes over the row of a region; one, if it has no reductions."""
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
        if node.dtype != "bool" and _cost(node, element) > KEPT
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


def _cost(node: Node, element: Collection[Node]) -> float:
    """Nanoseconds that an element costs."""
    return sum(pointwise.cost(n) for n in _cone([node], element, ()) if n.op.kind == "pointwise")


def kept_bytes(region: Region, lanes: int, *, by_row: bool) -> Dim:
    """Bytes of scratch that one kept value needs: for a row, and one vector more."""
    count = product(region.rows)
    return aligned(((count if by_row else count * lanes) + lanes) * 8)
