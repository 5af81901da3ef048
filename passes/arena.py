"""Where buffers lie in one arena: offsets for sizes and lifetimes, so that the peak stays near the live bytes.

Finding the smallest arena (dynamic storage allocation) is NP-hard, so a few heuristics run, cheapest first, until one
is near the lower bound, the most bytes live at any step. They differ in what they are good at:

- `sweep` walks time outwards from the fullest step, whose buffers it stacks without a gap. It takes O(log n) a buffer
  and is exact for nested lifetimes, which is what forward and backward chains have.
- `greedy` gives each buffer, in some order, the tightest gap between the buffers placed before (greedy by size is
  Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020). It looks at every conflict, so
  it is for graphs in which few buffers live together.
- `improve` reorders a greedy placement: a buffer that doesn't fit below the peak known so far is placed earlier, and
  everything after it again (squeaky-wheel optimisation: Joslin and Clements, 1999).

All is measured in visits (about 0.1 µs each) and never in seconds, so that equal inputs give equal arenas everywhere.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from graphc.cached import cached_property

Ints = npt.NDArray[np.int64]
Order = Callable[["Buffers"], Ints]

NEAR = 1.01  # a peak this near to the lower bound ends the search for a lower one
VISITS, VISITS_PER_BUFFER = 750_000, 100  # what all heuristics together may cost
SWEEP_COST = 40  # visits that a sweep takes for a buffer
GREEDY_COST = 20  # visits that a greedy placement takes for a buffer, beside those of its conflicts
TIGHTEST = 8  # gaps that a sweep chooses among
GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, spread evenly and never repeat
FAR = 1 << 62  # later than any step, above any offset


@dataclass(frozen=True)
class Placement:
    """Offsets of the buffers, and the peak: the end of the highest one, in bytes."""

    offsets: list[int]
    peak: int


@dataclass(frozen=True)
class Buffers:
    """Buffers that have bytes, as columns, in ascending order of their first step.

    Args:
        size: bytes, each positive.
        start: first step at which the buffer is live.
        end: last step at which it is live.
    """

    size: Ints
    start: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.size)

    @cached_property
    def lower_bound(self) -> int:
        """Most bytes live at any step."""
        return int(self._live.max(initial=0))

    @cached_property
    def fullest_step(self) -> int:
        """The first step at which `lower_bound` bytes are live."""
        return int(self.start[self._live.argmax()])

    @cached_property
    def at_fullest(self) -> npt.NDArray[np.bool_]:
        """Which buffers are live at the fullest step."""
        return (self.start <= self.fullest_step) & (self.end >= self.fullest_step)

    @cached_property
    def _live(self) -> Ints:
        """Bytes live when each buffer has been born; the fullest step is one at which some buffer is born."""
        by_end = np.argsort(self.end, kind="stable")
        freed = np.concatenate([[0], np.cumsum(self.size[by_end])])
        dead: Ints = freed[np.searchsorted(self.end[by_end], self.start)]
        return np.cumsum(self.size) - dead

    @cached_property
    def until(self) -> Ints:
        """`until[i]`: buffers `i + 1` to `until[i]`, exclusive, are born while buffer `i` lives."""
        return np.searchsorted(self.start, self.end, side="right")

    @cached_property
    def conflicts(self) -> int:
        """How many pairs of buffers live at a common step."""
        return int(self.until.sum()) - len(self) * (len(self) + 1) // 2

    @cached_property
    def earlier(self) -> list[list[int]]:
        """For each buffer, those before it that are still live when it is born."""
        n = len(self)
        counts = self.until - np.arange(1, n + 1)
        born_before = np.repeat(np.arange(n), counts)
        row_starts = np.cumsum(counts) - counts
        born_after = np.arange(self.conflicts) - np.repeat(row_starts - np.arange(1, n + 1), counts)
        found = born_before[np.argsort(born_after, kind="stable")].tolist()
        bounds = np.concatenate([[0], np.cumsum(np.bincount(born_after, minlength=n))]).tolist()
        return [found[lo:hi] for lo, hi in pairwise(bounds)]


def place(buffers: Buffers) -> Placement:
    """A placement whose peak is the lower bound or, mostly, at most a few per cent more (for one buffer or more)."""
    enough = int(NEAR * buffers.lower_bound)
    visits = VISITS + VISITS_PER_BUFFER * len(buffers)
    best = Placement([], FAR)
    for heuristic, cost in HEURISTICS:
        if cost(buffers) <= visits:
            visits -= cost(buffers)
            best = min(best, heuristic(buffers), key=lambda placement: placement.peak)
            if best.peak <= enough:
                return best
    if _greedy_visits(buffers) <= visits:
        best = improve(buffers, best, enough, visits)
    return best


# Sweeping


class _SweptArena:
    """An arena at one moment of a sweep: the live buffers' deaths by their ends, and the gaps between them."""

    def __init__(self) -> None:
        self.top = 0  # end of the arena
        self.by_size: list[tuple[int, int]] = []  # the gaps: (bytes, offset), ascending
        self.gap_size: dict[int, int] = {}  # offset of a gap -> its bytes
        self.gap_offset: dict[int, int] = {}  # end of a gap -> its offset
        self.death_above: dict[int, int] = {}  # offset of a live buffer -> the last step of that buffer
        self.death_below: dict[int, int] = {}  # end of a live buffer -> the last step of that buffer

    def put(self, size: int, death: int) -> int:
        """Place a buffer and return its offset.

        Among the tightest gaps and their two sides the one is taken whose neighbour dies nearest to `death`: what
        dies together leaves one gap. The floor is a good neighbour for any buffer.
        """
        first = bisect_left(self.by_size, (size, -1))
        nearest, offset, gap = FAR, -1, -1
        for room, lo in self.by_size[first : first + TIGHTEST]:
            if room == size:
                offset = gap = lo
                break
            below = abs(self.death_below[lo] - death) if lo else 0
            above = abs(self.death_above.get(lo + room, FAR) - death)
            if min(below, above) < nearest:
                nearest, gap = min(below, above), lo
                offset = lo if below <= above else lo + room - size
        if gap >= 0:
            end = gap + self._remove_gap(gap)
            self._add_gap(gap, offset)
            self._add_gap(offset + size, end)
        else:
            offset = self.gap_offset.get(self.top, self.top)
            if offset < self.top:
                self._remove_gap(offset)
            self.top = offset + size
        self.death_above[offset] = self.death_below[offset + size] = death
        return offset

    def free(self, offset: int, size: int) -> None:
        """Free a live buffer; its bytes join the gaps beside it."""
        lo, hi = offset, offset + size
        del self.death_above[lo], self.death_below[hi]
        if hi in self.gap_size:
            hi += self._remove_gap(hi)
        if lo in self.gap_offset:
            lo = self.gap_offset[lo]
            self._remove_gap(lo)
        self._add_gap(lo, hi)

    def _add_gap(self, lo: int, hi: int) -> None:
        if lo < hi:
            insort(self.by_size, (hi - lo, lo))
            self.gap_size[lo] = hi - lo
            self.gap_offset[hi] = lo

    def _remove_gap(self, lo: int) -> int:
        size = self.gap_size.pop(lo)
        del self.gap_offset[lo + size]
        del self.by_size[bisect_left(self.by_size, (size, lo))]
        return size


def _sweep_side(
    size: Ints, birth: Ints, death: Ints, stacked: Sequence[int], arriving: Ints, offsets: list[int]
) -> int:
    """Place the buffers `arriving` on one side of the fullest step, in the order of their births; returns the peak.

    The buffers `stacked` are live at the fullest step and lie in this order from offset 0. Time runs away from the
    fullest step, so towards the past births and deaths are the negated last and first steps. Fills in `offsets`.
    """
    arena = _SweptArena()
    living = []
    for i, bytes_, last in zip(stacked, size[stacked].tolist(), death[stacked].tolist(), strict=True):
        offsets[i] = arena.put(bytes_, last)
        living.append((last, offsets[i], bytes_))
    heapq.heapify(living)
    columns = (arriving, birth[arriving], death[arriving], size[arriving])
    for i, first, last, bytes_ in zip(*(column.tolist() for column in columns), strict=True):
        while living and living[0][0] < first:
            _, freed, freed_bytes = heapq.heappop(living)
            arena.free(freed, freed_bytes)
        offsets[i] = arena.put(bytes_, last)
        heapq.heappush(living, (last, offsets[i], bytes_))
    return arena.top


def sweep(order: Order, buffers: Buffers) -> Placement:
    """Stack the buffers of the fullest step in `order`, then allocate and free outwards from it, to both sides."""
    size, start, end = buffers.size, buffers.start, buffers.end
    by_order = order(buffers)
    stacked = by_order[buffers.at_fullest[by_order]].tolist()
    after = np.flatnonzero(start > buffers.fullest_step)
    after = after[np.lexsort((-size[after], start[after]))]
    before = np.flatnonzero(end < buffers.fullest_step)
    before = before[np.lexsort((-size[before], -end[before]))]
    offsets = [0] * len(buffers)
    peak_after = _sweep_side(size, start, end, stacked, after, offsets)
    peak_before = _sweep_side(size, -end, -start, stacked, before, offsets)
    return Placement(offsets, max(peak_after, peak_before))


# Greedy placement, and its improvement


class _Layout:
    """A placement in the making: buffers in `order`, each in the tightest gap that the ones before it leave."""

    def __init__(self, buffers: Buffers, order: list[int]) -> None:
        self.order = order
        self.size: list[int] = buffers.size.tolist()
        self.until: list[int] = buffers.until.tolist()
        self.earlier = buffers.earlier
        self.ranges: list[tuple[int, int] | None] = [None] * len(order)  # (offset, end) of a placed buffer
        self.promotions = 0

    def fill(self, first: int, limit: int) -> tuple[int, int]:
        """Place the buffers from position `first` of the order, none of them to end above `limit`.

        Returns the position of the buffer that didn't fit (the length of the order if all did), and visits spent.
        """
        ranges, size = self.ranges, self.size
        visits = 0
        for position in range(first, len(self.order)):
            i = self.order[position]
            earlier = self.earlier[i]
            taken = list(filter(None, ranges[i + 1 : self.until[i]]))
            taken += filter(None, map(ranges.__getitem__, earlier))
            taken.sort()
            visits += GREEDY_COST + self.until[i] - i + len(earlier)
            need, top, offset, tightest = size[i], 0, -1, FAR
            for lo, hi in taken:
                if need <= lo - top < tightest:
                    offset, tightest = top, lo - top
                if hi > top:
                    top = hi
            if offset < 0:
                offset = top
            if offset + need > limit:
                return position, visits
            ranges[i] = (offset, offset + need)
        return len(self.order), visits

    def promote(self, position: int) -> int:
        """Move the buffer that didn't fit towards the front, and unplace those it overtakes; its new position.

        How far is different each time: with a fixed fraction the search runs in circles.
        """
        self.promotions += 1
        earlier = int(position * (self.promotions * GOLDEN % 1))
        self.order.insert(earlier, self.order.pop(position))
        self._unplace(earlier, position + 1)
        return earlier

    def unplace_top(self, peak: int) -> int:
        """Unplace from the first buffer in the order that ends at `peak`, and all after it; returns its position."""
        ends = (taken[1] for taken in map(self.ranges.__getitem__, self.order) if taken)
        position = next(position for position, end in enumerate(ends) if end == peak)
        self._unplace(position, len(self.order))
        return position

    def _unplace(self, first: int, stop: int) -> None:
        for i in self.order[first:stop]:
            self.ranges[i] = None

    def placement(self) -> Placement:
        """The placement, once every buffer has its range."""
        placed = [taken for taken in self.ranges if taken]
        return Placement([lo for lo, _ in placed], max(hi for _, hi in placed))


def greedy(order: Order, buffers: Buffers) -> Placement:
    """Place the buffers in `order`, each in the tightest gap between those placed before that live with it."""
    layout = _Layout(buffers, order(buffers).tolist())
    layout.fill(0, FAR)
    return layout.placement()


def improve(buffers: Buffers, best: Placement, enough: int, visits: int) -> Placement:
    """The best placement found in so many `visits`, from `best` on; the search ends at a peak of `enough`."""
    layout = _Layout(buffers, sorted(range(len(buffers)), key=best.offsets.__getitem__))
    position = 0
    while visits > 0:
        position, spent = layout.fill(position, best.peak - 1)
        visits -= spent
        if position == len(buffers):
            best = layout.placement()
            if best.peak <= enough:
                break
            position = layout.unplace_top(best.peak)
        position = layout.promote(position)
    return best


# The heuristics


def _by_size(buffers: Buffers) -> Ints:
    return np.argsort(-buffers.size, kind="stable")


def _by_area(buffers: Buffers) -> Ints:
    return np.argsort(-buffers.size * (buffers.end - buffers.start + 1), kind="stable")


def _by_length(buffers: Buffers) -> Ints:
    return np.argsort(buffers.start - buffers.end, kind="stable")


def _by_end(buffers: Buffers) -> Ints:
    return np.argsort(-buffers.end, kind="stable")


def _by_fullest(buffers: Buffers) -> Ints:
    """Those live at the fullest step, longest first; then the others, largest first."""
    at = buffers.at_fullest
    return np.lexsort((-buffers.size, at * (buffers.start - buffers.end), ~at))


def _sweep_visits(buffers: Buffers) -> int:
    return SWEEP_COST * len(buffers)


def _greedy_visits(buffers: Buffers) -> int:
    return GREEDY_COST * len(buffers) + 3 * buffers.conflicts


HEURISTICS: tuple[tuple[Callable[[Buffers], Placement], Callable[[Buffers], int]], ...] = (
    (partial(sweep, _by_length), _sweep_visits),
    (partial(greedy, _by_size), _greedy_visits),
    (partial(sweep, _by_end), _sweep_visits),
    (partial(greedy, _by_fullest), _greedy_visits),
    (partial(greedy, _by_area), _greedy_visits),
)
