"""Pointwise regions that load along one loop and store along another: tiles of both, by way of shared memory.

A block loads a square of points with neighbouring threads along the loop where an operand is contiguous, and computes
them with neighbouring threads along the loop where the results are. Rows of a tile are one element longer than they
need be, so that a column of it lies in different banks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple

from graphc.dims import ceil_div, product
from graphc.ir import Node
from graphc.kernel import Region
from graphc.runtime.cuda.grids import unravelled
from graphc.runtime.cuda.launches import CudaCode
from graphc.runtime.cuda.points import Known, loaded_at, settled
from graphc.runtime.cuda.scalars import MEMORY, loaded, stored
from graphc.runtime.regions import Port
from graphc.runtime.strided import Strided, itemsize

SIDE = 32  # points along each side of a tile
ROWS = 8  # rows of a tile that the threads of a block take at a time
SHARED = 40 << 10  # bytes of shared memory, at most: what is left of 48 KiB is for others
SHORT = 8  # loops that are shorter aren't worth a tile


class Crossing(NamedTuple):
    """Where operands lie across the results.

    Attributes:
        axis: the loop along which results are contiguous.
        across: the loop along which operands are that are scattered along `axis`.
        turned: these operands.
    """

    axis: int
    across: int
    turned: list[Node]


def crossing(region: Region, loads: Mapping[Node, Port], stores: Sequence[Strided]) -> Crossing | None:
    """Where operands lie across the results, if they do and that is worth tiles; as many of them as fit."""
    long = [k for k in range(len(region.loops)) if not _is_short(region, k)]
    axis = next((k for k in reversed(long) if all(array.strides[k] == 1 for array in stores)), None)
    if axis is None or any(loop.reduce for loop in region.loops):
        return None
    arrays = {node: port.array for node, port in loads.items() if not port.counter}
    scattered = {node: array for node, array in arrays.items() if array.strides[axis] not in (0, 1, -1)}
    for across in reversed([k for k in long if k != axis]):
        turned = [node for node, array in scattered.items() if array.strides[across] == 1]
        ends = accumulate([SIDE * (SIDE + 1) * itemsize(scattered[node].dtype) for node in turned])
        if turned:
            return Crossing(axis, across, [node for node, end in zip(turned, ends, strict=True) if end <= SHARED])
    return None


def _is_short(region: Region, loop: int) -> bool:
    extent = region.loops[loop].extent
    return isinstance(extent, int) and extent < SHORT


class Tiles:
    """A launch that computes a region tile by tile."""

    def __init__(self, code: CudaCode, region: Region, loads: Mapping[Node, Port], crossed: Crossing) -> None:
        self.region, self.loads = region, loads
        self.axis, self.across, turned = crossed
        axis, across = self.axis, self.across
        order = [*(k for k in range(len(region.loops)) if k not in (axis, across)), across, axis]
        counts = [ceil_div(region.loops[k].extent, SIDE if k in (axis, across) else 1) for k in order]
        self.f = f = code.launch(product(counts), SIDE * ROWS)
        code.note(f"tiles of {SIDE}x{SIDE} by way of shared memory")
        self.tile = dict(zip(order, unravelled(f, "(Index)blockIdx.x", counts), strict=True))
        self.lane = f.value("int", f"threadIdx.x % {SIDE}", "lane")
        self.first = f.value("int", f"threadIdx.x / {SIDE}", "first")
        self.slots = {node: f.name("tile") for node in turned}

    def print(self, stores: Sequence[Strided]) -> None:
        """Load what is turned, then compute and store."""
        f, loops = self.f, range(len(self.region.loops))
        for node, name in self.slots.items():
            f.line(f"__shared__ {MEMORY[self.loads[node].array.dtype]} {name}[{SIDE}][{SIDE} + 1];")
        with self.points(along=self.across, other=self.axis) as (row, index):
            for node, name in self.slots.items():
                element = f.at(self.loads[node].array, [index[k] for k in loops])
                f.line(f"{name}[{row}][{self.lane}] = {element};")
        f.line("__syncthreads();")
        with self.points(along=self.axis, other=self.across) as (row, index):
            known: Known = {
                node: loaded(self.loads[node].array.dtype, f"{name}[{self.lane}][{row}]")
                for node, name in self.slots.items()
            }
            for node, port in self.loads.items():
                if node not in known:
                    known[node] = loaded_at(f, port, [index[k] for k in loops])
            settled(f, self.region.values, known)
            for output, array in zip(self.region.body.outputs, stores, strict=True):
                f.line(f"{f.at(array, [index[k] for k in loops])} = {stored(array.dtype, known[output])};")

    @contextmanager
    def points(self, along: int, other: int) -> Iterator[tuple[str, dict[int, str]]]:
        """For each point that a thread has, with neighbours along a loop: its row of the tile, and its index."""
        f, row = self.f, self.f.name("row")
        f.line("#pragma unroll")
        with f.block(f"for (int {row} = {self.first}; {row} < {SIDE}; {row} += {ROWS})"):
            steps = {along: self.lane, other: row}
            index = {k: f.value("Index", f"{self.tile[k]} * {SIDE} + {step}", "i") for k, step in steps.items()}
            inside = [f"{at} < {f.size(self.region.loops[k].extent)}" for k, at in index.items()]
            with f.block(f"if ({' && '.join(inside)})"):
                yield row, {**self.tile, **index}
