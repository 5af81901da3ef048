"""How a loop nest around a region is walked: which loop lies in the lanes of vectors, and how many are in flight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from graphc.dims import Dim
from graphc.ir import Node
from graphc.kernel import Region
from graphc.runtime.cpu import pointwise
from graphc.runtime.cpu.guards import counted
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.pointwise import HALVES
from graphc.runtime.cpu.row_passes import passes_of
from graphc.runtime.regions import Port
from graphc.runtime.strided import itemsize

BLOCK = 4096  # elements of a parallel vector loop in one unit of work
COLUMNS = 8  # vectors whose rows are reduced side by side, at most
FOLLOWED = 4  # of those vectors, at most, if much is computed from what a row is reduced to: that is code for each
ACCUMULATORS = 4  # vectors of one row that are reduced side by side, at most
FLIGHT = 2  # vectors of a loop without reductions, at most
ENOUGH = 16  # instructions, about, that hide how long each takes: more vectors side by side are but more code


class Layout(NamedTuple):
    """How a nest is walked.

    Attributes:
        axis: the vector loop; None without loops.
        lanes: of its vectors.
        flight: vectors that are computed side by side.
        across: a parallel loop that is walked inside a parallel vector loop, vector by vector, because what lies
            scattered along the vector loop is contiguous along it: then each line that is fetched is used up.
        block, tile: steps of a parallel vector loop, and of `across`, in one unit of work.
    """

    axis: int | None
    lanes: int
    flight: int
    across: int | None
    block: int
    tile: int = 64


def layout_of(region: Region, host: Host, ports: Sequence[Port], element: int | None = None) -> Layout:
    """How a region is walked: along the loop of the fewest instructions an element.

    Args:
        element: the axis along which the core's elements are contiguous, if the region has one; it is the vector loop.
    """
    if not region.loops:
        return Layout(None, 1, 1, None, 1)
    lanes = host.lanes(max([register_bytes(node.dtype) for node in _values(region)]))
    order = range(len(region.loops))[::-1]
    if element is not None:
        axis = order[::-1][element]  # even where it has one element: the next axis needn't be contiguous
    else:
        axis = min(order, key=lambda loop: _instructions(region, ports, loop, lanes))
    extent = region.loops[axis].extent
    if isinstance(extent, int):
        lanes = min(lanes, 1 << max(extent - 1, 0).bit_length())
    passes = passes_of(region)
    if not region.rows:
        across = None if element is not None else _across(region, ports, axis, lanes)
        flight = _dividing(extent, lanes, side_by_side(region.values, FLIGHT))
        return Layout(axis, lanes, flight if across is None else 1, across, BLOCK if across is None else lanes * 16)
    if region.loops[axis].reduce:
        return Layout(axis, lanes, _dividing(extent, lanes, ACCUMULATORS), None, 1)
    most = max([len(current.reductions) for current in passes])
    flight = 1 if any(current.kept for current in passes) else max(1, COLUMNS // max(1, most))
    flight = min([flight, *(side_by_side(current.elements, flight) for current in passes)])
    flight = _dividing(extent, lanes, max(min(flight, FOLLOWED), side_by_side(region.values, flight)))
    return Layout(axis, lanes, flight, None, lanes * flight)


def _values(region: Region) -> list[Node]:
    """The values that decide how many lanes vectors have: not int64 made of counters alone, as masks compare them."""
    known = counted(region)
    return [node for node in region.values if node not in known or node in region.body.outputs] or [*region.values]


def side_by_side(nodes: Iterable[Node], most: int) -> int:
    """How many vectors of these values are worth computing side by side, a power of 2."""
    instructions = sum(pointwise.cost(node) if node.op.kind == "pointwise" else pointwise.PLAIN for node in nodes)
    wanted = math.ceil(ENOUGH * pointwise.PLAIN / max(pointwise.PLAIN, instructions))
    return min(most, 1 << (wanted - 1).bit_length())


def _dividing(extent: Dim, lanes: int, flight: int) -> int:
    """At most `flight` vectors side by side: fewer, if those divide the loop and `flight` don't."""
    if isinstance(extent, int):
        while flight > 1 and extent % (lanes * flight) and extent % lanes == 0:
            flight //= 2
    return flight


def _instructions(region: Region, ports: Sequence[Port], loop: int, lanes: int) -> float:
    """Instructions an element, roughly, if a loop is the vector loop."""
    extent = region.loops[loop].extent
    size = extent if isinstance(extent, int) else 64
    if size <= 1:
        return math.inf
    used = size / (-(-size // lanes) * lanes)
    strides = [port.array.strides[loop] for port in ports if not port.counter]
    each = sum(0 if stride == 0 else 1 / lanes if stride in (1, -1) else 1 for stride in strides)
    each += len(region.values) / lanes / used
    if region.loops[loop].reduce:
        reductions = sum(node.op.kind == "reduce" for node in region.values)
        each += reductions * 3 * lanes.bit_length() / size
    return each


def _across(region: Region, ports: Sequence[Port], axis: int, lanes: int) -> int | None:
    """The loop along which some port is contiguous that is scattered along the vector loop."""
    arrays = [port.array for port in ports if not port.counter]
    scattered = [array.strides for array in arrays if array.strides[axis] not in (0, 1, -1)]
    found = [k for k in range(len(region.loops)) if k != axis and any(strides[k] == 1 for strides in scattered)]
    return found[-1] if found and lanes > 1 else None


def register_bytes(dtype: str) -> int:
    """Bytes of an element in a register, at least 4."""
    return 4 if dtype in HALVES else max(4, itemsize(dtype))
