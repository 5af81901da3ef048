"""What passes over a row leave for later ones: values that are kept, the next row on its way, inverses of sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.cached import kept_with
from graphc.dims import Dim, product
from graphc.ir import Node
from graphc.kernel import Region
from graphc.operands import broadcast_op, reduce_sum, splat_value
from graphc.ops.math import divide, exp, maximum, subtract
from graphc.ops.reduce import reduce_max
from graphc.runtime import regions
from graphc.runtime.cpu import pointwise
from graphc.runtime.regions import Pass
from graphc.runtime.strided import aligned

KEPT = 0.15  # nanoseconds an element: a value that costs more is kept for later passes


@kept_with
def passes_of(region: Region) -> Sequence[Pass]:
    """The passes over the row of a region; one, if it has no reductions."""
    return regions.passes_of(region, _is_costly)


def _is_costly(nodes: Iterable[Node]) -> bool:
    return sum(pointwise.cost(node) for node in nodes) > KEPT


def kept_bytes(region: Region, lanes: int, *, by_row: bool) -> Dim:
    """Bytes of scratch that one kept value needs: for a row, and one vector more."""
    count = product(region.rows)
    return aligned(((count if by_row else count * lanes) + lanes) * 8)


def fetching(passes: Iterable[Pass]) -> int | None:
    """The pass behind which the next row is fetched: the one that computes the most, if that is more than reading."""
    costs = [sum(pointwise.cost(node) for node in each.elements if node.op.kind == "pointwise") for each in passes]
    return costs.index(max(costs)) if max(costs) > KEPT else None


def inverted(region: Region) -> frozenset[Node]:
    """Divisors, repeated along the row, of which the inverse is multiplied with: a division takes as long as eight of
    these.

    Only the sum of exponentials of which one is 1, or a sum that is 1 at least: its inverse is neither inf nor
    subnormal, and the 1 becomes what it would. Others are divided by, as x / max(x) shall have a 1 in it.
    """
    uses = [(i, node.op is divide and k == 1 and _is_share(*node.inputs))
            for node in region.values for k, i in enumerate(node.inputs)]  # fmt: skip
    return frozenset({i for i, is_divisor in uses if is_divisor} - {i for i, is_divisor in uses if not is_divisor})


def _is_share(term: Node, divisor: Node) -> bool:
    """Whether exponentials are divided by their sum, which is 1 at least or nan."""
    if term.op is not exp or divisor.op is not broadcast_op:
        return False
    (total,) = divisor.inputs
    bounded = total.op is maximum and splat_value(total.inputs[1]) == 1
    total = total.inputs[0] if bounded else total
    return total.op is reduce_sum and total.inputs[0] is term and (bounded or _is_shifted(term.inputs[0]))


def _is_shifted(x: Node) -> bool:
    """Whether elements of a row are less their greatest."""
    if x.op is not subtract or x.inputs[1].op is not broadcast_op:
        return False
    (top,) = x.inputs[1].inputs
    return top.op is reduce_max and top.inputs[0] is x.inputs[0]
