"""How a product of matrices is computed: what is packed into panels, by whom, and how C is divided into blocks.

All of it follows from sizes, as far as they are known, from how the operands lie, and from the machine. The limits have
been measured.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from graphc.cached import cached_property
from graphc.dims import Dim, product
from graphc.kernel import Region
from graphc.runtime.contraction import Contraction, contraction, layout, transposed
from graphc.runtime.cpu import lanes
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.microkernels import FLOATS, remainders, tile
from graphc.runtime.cpu.packing import compute_dtype
from graphc.runtime.cpu.phases import KernelCode
from graphc.runtime.strided import Strided, itemsize

PANELS_BYTES = 46 << 10  # of a panel of A and one of B, in one block of k: about the first-level cache
SMALL_BYTES, CACHE_BYTES = 32 << 10, 1 << 20  # about the first level of the cache, and the second
PART_BYTES = 256 << 10  # of an operand that stays in the second level while others stream by
PANELS, ALL_PANELS = 16, 24  # of A in one unit of work, at most; so many more if these are all and B is wide
THIN = 4  # rows of A for which B is streamed
DOT = 16  # rows of A up to which inner products are better than packing a transposed B
ALWAYS, NEVER = 1 << 62, -1
OFTEN = 256  # columns of B for which A is read often enough to pack it
LOW = 112  # rows of A that are few enough to be read as they lie
COPIED = 640  # rows of A up to which B is read in place, panel by panel, if it can be, unless it is small
SPANNED = 512, 2048  # columns of B up to which units have all columns, and up to which where they are long
SQUARE = 16  # of k: blocks are multiples of it, as what is transposed is in squares of vectors
SPANNING, SHARES = (8, 20), 4  # panels of A in such a unit, about; their number is a multiple, for threads to share
RUNS = 512, 256, 128  # columns of a unit that alone reads its part of a large B, at least: few rows, more, many
PARTS = 64  # units of a large product
UNIT_NS = 8_000, 200_000  # time of a unit of work, at least and at most: a part of all between them
FLOPS, BYTES = 150, 40  # per nanosecond, roughly: of arithmetic, and of what is read from memory
UNKNOWN = 256  # what a size is taken for that isn't known yet


@dataclass(frozen=True)
class Problem(Contraction):
    """A product on a machine.

    Attributes:
        place: where the sums may lie until they are done: `c`, or what is computed from them.
        steady: whether A is the same run after run, and its size known, so that its panels are made once; and B.
    """

    host: Host
    place: Strided | None
    steady: tuple[bool, bool]

    @cached_property
    def compute(self) -> str:
        """The dtype of the sums."""
        return compute_dtype(self.dtype)

    @cached_property
    def a_lines(self) -> str:
        """How A lies: "rows" if these are contiguous, "columns", or "strided"."""
        return layout((self.m, self.k), self.a.strides[-2:])

    @cached_property
    def b_lines(self) -> str:
        """How B lies."""
        return layout((self.k, self.n), self.b.strides[-2:])

    @cached_property
    def height(self) -> int:
        """Rows of a panel of A: as many as a tile has, or fewer that divide the rows more evenly."""
        most = tile(self.host, self.compute).rows
        if self.spans:
            return -(-self.rows_wanted // -(-self.rows_wanted // most))
        return -(-self.m // -(-self.m // most)) if isinstance(self.m, int) and self.m else most

    @cached_property
    def rows(self) -> int:
        """Rows of a unit of work: a multiple of `height`, but where units pack their panels of A."""
        if self.spans:
            return self.rows_wanted
        if not isinstance(self.m, int):
            return PANELS * self.height
        panels = -(-self.m // self.height)
        is_wide = isinstance(self.n, int) and self.n > OFTEN
        blocks = max(1, -(-panels // (ALL_PANELS if is_wide and panels <= ALL_PANELS else PANELS)))
        if blocks > 1 and isinstance(self.n, int) and not is_wide:  # there are few units besides
            blocks = -(-blocks // SHARES) * SHARES
        return self.height * max(1, -(-panels // blocks))

    @cached_property
    def rows_wanted(self) -> int:
        """Rows of a unit of work that has all columns."""
        assert isinstance(self.m, int)
        return max(1, -(-self.m // self.shares))

    @cached_property
    def shares(self) -> int:
        """Into how many parts, at least, the rows are divided where units have all columns."""
        assert isinstance(self.m, int)
        panels = -(-self.m // tile(self.host, self.compute).rows)
        wanted = max(-(-panels // SPANNING[1]), self.host.cores)
        return -(-wanted // SHARES) * SHARES

    @cached_property
    def heights(self) -> Collection[int] | None:
        """Rows that panels of A may have; None: any."""
        if not isinstance(self.m, int):
            return None
        return {height for rows in remainders(self.m, self.rows) for height in remainders(rows, self.height)}

    @property
    def few_rows(self) -> Collection[int] | None:
        """Rows that units of work may have; None: any."""
        return remainders(self.m, self.rows) if isinstance(self.m, int) else None

    @cached_property
    def columns(self) -> int:
        """Columns of a unit of work: whole tiles, as many as take the time that one should and fit the cache."""
        width = tile(self.host, self.compute).width
        m, n, k, batch = (d if isinstance(d, int) else UNKNOWN for d in (self.m, self.n, self.k, product(self.batch)))
        widest = CACHE_BYTES // 2 // (self.rows * width * itemsize(self.compute)) if self.place is None else n
        if self.spans:
            tiles = max(1, -(-n // width))
            return width * -(-tiles // -(-tiles // max(1, min(widest, SPANNED[1] // width))))
        rows = min(self.rows, m)
        column = max(2 * rows * k / FLOPS, k * itemsize(self.dtype) / BYTES, 1.0)
        least, most = UNIT_NS
        unit = min(max(column * n * (m / max(1, rows)) * batch / PARTS, least), most)
        return width * max(1, min(-(-n // width), max(round(unit / column / width), self.run // width), widest))

    @cached_property
    def run(self) -> int:
        """Columns that a unit has at least: where lines of B come from afar and as they lie, a row of them at once."""
        streams = self.b_lines == "rows" and CACHE_BYTES < self.nbytes(self.k, self.n) < math.inf
        if streams and self.packs_inside and isinstance(self.n, int):
            return min(RUNS[2], self.n // (2 * SHARES))
        if not isinstance(self.m, int) or self.m > self.limit("b") or not streams:
            return 0
        return RUNS[self.few is None or self.m > self.few[1]]

    @cached_property
    def depth(self) -> int:
        """k of one block, at most."""
        shape = tile(self.host, self.compute)
        most = PANELS_BYTES // (shape.rows + shape.width) // itemsize(self.compute) // 8 * 8
        few, in_place = self.copied
        if isinstance(self.m, int) and self.m <= min(few, in_place):
            # Rows of B that are read where they lie take single lines of a cache that doesn't hold it.
            most //= 4 if CACHE_BYTES < self.nbytes(self.k, self.n) < math.inf else 1
        blocks = -(-self.k // most) if isinstance(self.k, int) and self.k else 1
        return -(-self.k // blocks // SQUARE) * SQUARE if isinstance(self.k, int) and blocks > 1 else most

    def nbytes(self, *sizes: Dim) -> float:
        """Bytes of an array of operands; infinite while they aren't known."""
        count = product(sizes)
        return count * itemsize(self.dtype) if isinstance(count, int) else math.inf

    @property
    def c_row(self) -> int:
        """Distance of rows of a block of C in scratch."""
        return self.columns + tile(self.host, self.compute).lanes

    @property
    def block_bytes(self) -> int:
        """Scratch for a block of C: of sums, and of what they are rounded to, where these don't go to `c`."""
        native = self.dtype == self.compute
        sums = 0 if self.place and native else itemsize(self.compute)
        return self.rows * self.c_row * (sums + (0 if self.place or native else itemsize(self.dtype)))

    @cached_property
    def copied(self) -> tuple[int, int]:
        """More rows of A than this, up to that, for which panels of B are copied into scratch one by one."""
        in_place = self.b_lines == "rows" and self.dtype == self.compute and self.nbytes(self.k, self.n) > SMALL_BYTES
        return 2 * tile(self.host, self.compute).rows, self.limit("b") if in_place else 0

    @cached_property
    def packs_inside(self) -> bool:
        """Whether units pack their panels of B for themselves, as each is needed by one unit only."""
        return not self.steady[1] and isinstance(self.m, int) and self.limit("b") < self.m <= self.rows

    @cached_property
    def spans(self) -> bool:
        """Whether a unit has all columns, of a part of many rows: B stays in the cache, or A is packed for many.

        What follows then reads and writes whole rows. Where these are of a weight, whose gradient this is, the worker
        that reads them as columns of B in the next run is the same one, and has them in its cache.
        """
        if not isinstance(self.m, int) or not isinstance(self.n, int) or self.steady[0] or self.m <= LOW:
            return False
        stays = self.nbytes(self.k, self.n) <= PART_BYTES and product(self.batch) == 1
        least, most = SPANNED
        is_long = self.rows_wanted >= SPANNING[0] * tile(self.host, self.compute).rows
        return (self.packs_a and (self.n <= least or is_long)) or (stays and OFTEN <= self.n <= most)

    @property
    def packs_a_inside(self) -> bool:
        """Whether units, which have all columns, or very many, pack their panels of A for themselves."""
        return self.spans and self.packs_a

    @property
    def a_bytes(self) -> int:
        """Scratch for the panels of A of a unit."""
        panels = -(-self.rows // self.height) if self.packs_a_inside else 0
        return panels * self.height * self.depth * itemsize(self.compute)

    @property
    def copy_bytes(self) -> int:
        """Scratch for a panel of B, or for all that a unit needs."""
        few, most = self.copied
        if self.packs_inside:
            return self.depth * self.columns * itemsize(self.compute)
        return self.depth * tile(self.host, self.compute).width * itemsize(self.compute) if few < most else 0

    @property
    def cost(self) -> Dim:
        """Nanoseconds of all of it."""
        return product(self.batch) * self.k * (self.m * self.n // (FLOPS // 2) + self.n // 8 + 1) + 20

    def limit(self, which: str) -> int:
        """Rows of A up to which an operand, "a" or "b", needs no panels."""
        few = self.few[1] if self.few else NEVER
        if which == "a":
            return few if self.packs_a else ALWAYS
        if self.b_lines != "rows" or self.dtype != self.compute or self.steady[1]:
            return few
        return ALWAYS if self.nbytes(self.k, self.n) <= SMALL_BYTES else COPIED

    @cached_property
    def packs_a(self) -> bool:
        """Whether A must be packed, or is read so often, or by columns of so few lines of the cache, that it pays.

        A few rows that stay in the cache are read as they lie, unless their lines are in each other's way there.
        """
        if self.a_lines == "strided" or self.dtype != self.compute or self.steady[0]:
            return True
        is_rows = self.a_lines == "rows"
        step = self.a.strides[-2 if is_rows else -1]
        collide = isinstance(step, int) and step * itemsize(self.dtype) % 4096 == 0
        if collide and not is_rows:
            return True
        is_low = is_rows and not collide and isinstance(self.m, int) and self.m <= LOW
        often = isinstance(self.n, int) and self.n >= OFTEN
        return often and self.nbytes(self.m, self.k) > (PART_BYTES if is_low else SMALL_BYTES)

    @cached_property
    def few(self) -> tuple[str, int] | None:
        """The function for few rows of A, and up to how many: none reads what must be converted.

        Panels that are there from the run before are better from two rows on.
        """
        shape = tile(self.host, self.compute)
        if self.dtype != self.compute:
            return None
        if self.b_lines == "rows":
            small = self.nbytes(self.k, self.n) <= SMALL_BYTES
            narrow = isinstance(self.n, int) and self.n < shape.width
            return None if small and narrow else ("thin", 1 if small or self.steady[1] else THIN)
        if self.dtype not in FLOATS or self.b_lines != "columns" or self.a_lines != "rows":
            return None
        short = isinstance(self.k, int) and self.k < 2 * shape.lanes
        return "dot", 1 if self.steady[1] else THIN if short else DOT


def problem_of(code: KernelCode) -> Problem:
    """The product that a kernel computes."""
    found = contraction(code.kernel, lanes.operand(code, 0), lanes.operand(code, 1))
    place = found.c or _lent(code.kernel.results[0], found.dtype, found.swapped)
    a, b = (_is_kept(code, k) for k in ((1, 0) if found.swapped else (0, 1)))
    return Problem(**vars(found), host=code.host, place=place, steady=(a, b))


def _is_kept(code: KernelCode, k: int) -> bool:
    """Whether panels of an operand stay as they are from run to run."""
    known = all(isinstance(loop.extent, int) for loop in code.kernel.operands[k].loops)
    return bool(code.steady) and code.is_steady(k) and known


def _lent(region: Region, dtype: str, swapped: bool) -> Strided | None:
    """An array that a region makes of the elements of a product, if they may lie in it until then.

    It must not be in the bytes of an operand (`Region`), and have contiguous rows.
    """
    loaded = {load.access for load in region.loads}
    written = [store.write for store in region.stores]
    for output, store in zip(region.body.outputs, region.stores, strict=True):
        found = Strided("write", store.write, store.access.offset, store.access.strides, dtype)
        found = transposed(found) if swapped else found
        alone = store.access not in loaded and written.count(store.write) == 1
        if alone and output.dtype == dtype == compute_dtype(dtype) and found.strides[-1] == 1:
            return found
    return None
