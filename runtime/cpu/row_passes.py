"""What a worker keeps of a row between the passes over it."""

from __future__ import annotations

from collections.abc import Iterable

from graphc.dims import Dim, product
from graphc.ir import Node
from graphc.kernel import Region
from graphc.runtime import regions
from graphc.runtime.cpu import pointwise
from graphc.runtime.regions import Pass
from graphc.runtime.strided import aligned

KEPT = 0.15  # nanoseconds an element: a value that costs more is kept for later passes


def passes_of(region: Region) -> list[Pass]:
    """The passes over the row of a region; one, if it has no reductions."""
    return regions.passes_of(region, _is_costly)


def _is_costly(nodes: Iterable[Node]) -> bool:
    return sum(pointwise.cost(node) for node in nodes) > KEPT


def kept_bytes(region: Region, lanes: int, *, by_row: bool) -> Dim:
    """Bytes of scratch that one kept value needs: for a row, and one vector more."""
    count = product(region.rows)
    return aligned(((count if by_row else count * lanes) + lanes) * 8)
