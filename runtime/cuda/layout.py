"""How the threads of a GPU walk a region: which loop a thread takes several neighbours of, and who shares a row.

A *chunk* is `vector` neighbours along one loop, which one thread loads and stores by accesses of 16 bytes. Threads of a
*team* share a row (or, where the vector lies across rows, `vector` rows): each takes every so many'th chunk of it. A
block has `columns` teams. Nothing here depends on how many processors a GPU has, so results have the same bits on all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from graphc.dims import Dim, ceil_div, product
from graphc.kernel import Region
from graphc.passes.sizes import guess
from graphc.runtime.cuda.grids import THREADS
from graphc.runtime.strided import Strided, itemsize

WARP = 32
ACCESS = 16  # bytes of the widest access
MAX_VECTOR = 8  # elements
SCATTERED = 8  # how much more an access costs whose neighbours aren't neighbours in memory
SMALL = 1 << 14  # chunks that occupy a GPU; with fewer, chunks are shorter
WARP_CHUNKS = 8  # chunks of a row for each thread of a warp, at most; longer rows are shared by more
BLOCK_CHUNKS = 4  # for each thread of a larger team, if that isn't the largest
MAX_TEAM = 512
SYMBOLIC_TEAM = 128  # for a row whose length isn't known
DEEP = 4  # steps of a column for each thread of a team, at least
RESIDENT = 64  # registers of a thread for elements of a row that several passes need
FEW = 128  # blocks that are few: long rows are divided
PARTS = 1024  # of all rows together, about, if rows are divided
SHORT = 16  # chunks for each thread of a row that isn't worth dividing
PART_CHUNKS = 4, 64  # for each thread in a part: at least, and at most


class Layout(NamedTuple):
    """How a region is walked.

    Attributes:
        axis: the loop along which a chunk lies; None if there is no loop.
        vector: elements of a chunk.
        team: threads that share a row, a power of 2.
        columns: teams of a block.
        across: whether neighbouring threads have neighbouring rows, not neighbouring chunks of a row.
        resident: chunks of its row that each thread keeps in registers; 0: each pass loads them again.
        part: chunks of a part of a row, if rows are divided among blocks; 0: they aren't.
    """

    axis: int | None
    vector: int
    team: int
    columns: int
    across: bool
    resident: int = 0
    part: int = 0

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.team * self.columns

    def chunks(self, region: Region, loops: Iterable[int]) -> list[Dim]:
        """For each of some loops, how many chunks it has."""
        extents = [(k, region.loops[k].extent) for k in loops]
        return [ceil_div(extent, self.vector) if k == self.axis else extent for k, extent in extents]


class Choice(NamedTuple):
    """Ways of walking a region.

    Attributes:
        whole: in which a team is done with its rows.
        divided: in which rows are divided among blocks; None if that never pays.
        when: 1 for sizes for which rows are divided, 0 for others.
    """

    whole: Layout
    divided: Layout | None = None
    when: Dim = 0


def layouts_of(region: Region, arrays: Sequence[Strided], passes: int, kept: int) -> Choice:
    """How to walk a region.

    Args:
        arrays: what it loads and stores.
        passes: over a row.
        kept: values of an element that a pass leaves for later ones, at most.
    """
    reduced, parallel = loops_of(region)
    if not reduced:
        return Choice(_flat(region, arrays, parallel))
    varying = [array for array in arrays if any(array.strides[k] != 0 for k in reduced)] or list(arrays)
    row, column = _best(region, varying, reduced), _best(region, varying, parallel)
    if column is not None and _cost(region, varying, column) < _cost(region, varying, row):
        return _by_column(region, arrays, column)
    return _by_row(region, varying, row, passes, kept)


def loops_of(region: Region) -> tuple[list[int], list[int]]:
    """The reduce loops, and the parallel ones."""
    reduced = [k for k, loop in enumerate(region.loops) if loop.reduce]
    return reduced, [k for k in range(len(region.loops)) if k not in reduced]


# --------------------------------------------------------------------------------------------- kinds of walks


def _flat(region: Region, arrays: Sequence[Strided], parallel: Sequence[int]) -> Layout:
    """Without reductions: each thread has a chunk."""
    axis = _best(region, arrays, parallel)
    points = product([region.loops[k].extent for k in parallel])
    vector = _vector(region, arrays, axis)
    while vector > 1 and isinstance(points, int) and points < SMALL * vector:
        vector //= 2
    return Layout(axis, vector, 1, THREADS, across=True)


def _by_row(region: Region, varying: Sequence[Strided], axis: int | None, passes: int, kept: int) -> Choice:
    """Neighbouring threads have neighbouring chunks of a row."""
    reduced, parallel = loops_of(region)
    layout = Layout(axis, _vector(region, varying, axis), 1, 1, across=False)
    chunks = product(layout.chunks(region, reduced))
    rows = product([region.loops[k].extent for k in parallel])
    if not isinstance(chunks, int):
        team = THREADS if isinstance(rows, int) and rows < FEW else SYMBOLIC_TEAM
    elif chunks <= WARP * WARP_CHUNKS:
        team = min(WARP, _power(chunks))
    else:
        team = min(MAX_TEAM, _power(-(-chunks // BLOCK_CHUNKS)))
    columns = THREADS // team
    if isinstance(rows, int):
        columns = min(columns, _power(rows // FEW))  # few rows are shared by many blocks
    columns = max(columns, WARP // team, 1)
    each = -(-chunks // team) if isinstance(chunks, int) else 0
    fits = passes > 1 and each * layout.vector * max(kept, 1) <= RESIDENT
    whole = layout._replace(team=team, columns=columns, resident=each if fits else 0)
    return _choice(whole, layout._replace(team=THREADS), chunks, rows)


def _by_column(region: Region, arrays: Sequence[Strided], axis: int) -> Choice:
    """Neighbouring threads have neighbouring rows, and take the same steps along them."""
    reduced, parallel = loops_of(region)
    layout = Layout(axis, _vector(region, arrays, axis), 1, THREADS, across=True)
    steps = product([region.loops[k].extent for k in reduced])
    groups = product(layout.chunks(region, parallel))
    columns = min(WARP, _power(groups)) if isinstance(groups, int) else WARP
    deepest = THREADS // columns
    team = min(deepest, _power(-(-steps // DEEP))) if isinstance(steps, int) else deepest
    whole = layout._replace(team=team, columns=columns) if team > 1 else layout
    return _choice(whole, layout._replace(team=deepest, columns=columns), steps, ceil_div(groups, columns))


def _choice(whole: Layout, divided: Layout, chunks: Dim, blocks: Dim) -> Choice:
    """Rows are divided if they are long, and few."""
    short = divided.team * SHORT
    is_short, is_few = 1 // (1 + chunks // (short + 1)), 1 // (1 + blocks // FEW)
    when = (1 - is_short) * is_few
    if when == 0:
        return Choice(whole)
    return Choice(whole, divided._replace(part=_part(divided, chunks, blocks)), when)


def _part(layout: Layout, chunks: Dim, blocks: Dim) -> int:
    """Chunks of a part: a multiple of the team, so that all threads have as much to do."""
    if not isinstance(chunks, int):
        return layout.team * SHORT
    least, most = (each * layout.team for each in PART_CHUNKS)
    wanted = -(-chunks * guess(blocks) // PARTS)
    return min(most, max(least, -(-wanted // layout.team) * layout.team))


# --------------------------------------------------------------------------------------------- memory


def _best(region: Region, arrays: Sequence[Strided], loops: Iterable[int]) -> int | None:
    """The loop along which most is contiguous, the innermost if several are as good."""
    order = list(loops)[::-1]
    return min(order, key=lambda k: _cost(region, arrays, k)) if order else None


def _cost(region: Region, arrays: Sequence[Strided], loop: int | None) -> float:
    """What accesses cost whose neighbours lie along a loop."""
    if loop is None or region.loops[loop].extent == 1:
        return math.inf
    strides = [array.strides[loop] for array in arrays]
    return sum([0 if stride == 0 else 1 if stride in (1, -1) else SCATTERED for stride in strides])


def _vector(region: Region, arrays: Sequence[Strided], axis: int | None) -> int:
    """How many neighbours along a loop one access can take: whatever is contiguous along it must be aligned."""
    contiguous = [array for array in arrays if axis is not None and array.strides[axis] == 1]
    if axis is None or not contiguous:
        return 1
    sizes = [itemsize(array.dtype) for array in contiguous]
    vector = min(MAX_VECTOR, ACCESS // min(sizes), 2 * ACCESS // max(sizes))  # two accesses of the widest, at most
    extent = region.loops[axis].extent
    while vector > 1 and not (_fits(extent, vector) and all(_aligned(region, a, axis, vector) for a in contiguous)):
        vector //= 2
    return vector


def _fits(extent: Dim, vector: int) -> bool:
    """Whether chunks waste little of a loop."""
    return not isinstance(extent, int) or extent % vector == 0 or extent >= WARP * vector


def _aligned(region: Region, array: Strided, axis: int, vector: int) -> bool:
    """Whether chunks along a loop begin at multiples of their length."""
    steps = [s for k, s in enumerate(array.strides) if k != axis and region.loops[k].extent != 1]
    return all(step % vector == 0 for step in (array.offset, *steps))


def _power(count: int) -> int:
    """The least power of 2 that isn't less."""
    return 1 << max(count - 1, 0).bit_length()
