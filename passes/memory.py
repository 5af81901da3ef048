"""Memory planning: which buffers share bytes of the arena, from their sizes and lifetimes alone.

Steps are positions in the order of execution. A buffer is live from the step that writes it to the last step that
reads it, both included, so what one step reads and what it writes never overlap unless they are one storage
(`share_storage`). The placement itself is in `graphc.passes.arena`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from graphc.errors import InternalError
from graphc.passes.arena import Buffers, place

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


class Interval(NamedTuple):
    """A buffer of `size` bytes (a multiple of 64, see `round_up`), live from step `start` to step `end` inclusive."""

    size: int
    start: int
    end: int


def round_up(size: int) -> int:
    """`size` bytes, rounded up to a multiple of the alignment.

    >>> round_up(0), round_up(1), round_up(64), round_up(65)
    (0, 64, 64, 128)
    """
    return -(-size // ALIGNMENT) * ALIGNMENT


def lower_bound(intervals: Sequence[Interval]) -> int:
    """Most bytes live at any step: no arena can be smaller.

    Raises:
        InternalError: an interval isn't well formed.
    """
    return _columns(intervals)[1].lower_bound


def assign_offsets(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """Offsets of the intervals in one arena, and the bytes that the arena needs.

    Intervals that are live at a common step never overlap; offsets are multiples of 64; an empty interval has offset
    0. Equal intervals give equal offsets, in every process and on every machine.

    Raises:
        InternalError: an interval isn't well formed.
    """
    places, buffers = _columns(intervals)
    offsets = [0] * len(intervals)
    if not len(buffers):
        return offsets, 0
    placement = place(buffers)
    for i, offset in zip(places, placement.offsets, strict=True):
        offsets[i] = offset
    return offsets, placement.peak


def _columns(intervals: Sequence[Interval]) -> tuple[list[int], Buffers]:
    """The intervals that have bytes, in ascending order of their starts, and their indices among `intervals`."""
    table = np.array(intervals, dtype=np.int64).reshape(-1, 3)
    size, start, end = table.T
    wrong = np.flatnonzero((size < 0) | (size % ALIGNMENT != 0) | (end < start))
    if len(wrong):
        raise InternalError(
            f"a buffer needs a size ≥ 0 that is a multiple of {ALIGNMENT}, and an end that is not before its start",
            lines=[f"buffer {i}: {intervals[i]}" for i in wrong.tolist()],
        )
    kept = np.flatnonzero(size)
    kept = kept[np.argsort(start[kept], kind="stable")]
    return kept.tolist(), Buffers(size[kept], start[kept], end[kept])


def share_storage(intervals: Sequence[Interval], reuse: Iterable[tuple[int, int]]) -> tuple[list[Interval], list[int]]:
    """Merge buffers that take over another's bytes: the storages, and the index of each buffer's storage.

    In a pair `(giver, taker)` of indices the giver dies in the step in which the taker is born. Chains become one
    storage, as large as the largest buffer in it and live as long as all of them; a buffer in no pair is a storage of
    its own. Storages are in the order of their first buffers.

    >>> share_storage([Interval(64, 0, 2), Interval(64, 1, 5), Interval(128, 2, 3)], [(0, 2)])[0]
    [Interval(size=128, start=0, end=3), Interval(size=64, start=1, end=5)]

    Raises:
        InternalError: a buffer gives or takes twice, two of a pair don't meet in one step, or pairs form a ring.
    """
    taker_of: dict[int, int] = {}
    takers: set[int] = set()
    for giver, taker in reuse:
        if giver in taker_of or taker in takers:
            raise InternalError(f"storage is handed on twice, the second time from buffer {giver} to {taker}")
        if intervals[giver].end != intervals[taker].start:
            raise InternalError(
                f"buffer {taker} must be born in the step in which buffer {giver} dies, to take its storage",
                lines=[f"buffer {i}: {intervals[i]}" for i in (giver, taker)],
            )
        taker_of[giver] = taker
        takers.add(taker)
    storages: list[Interval] = []
    storage_of = [-1] * len(intervals)
    for head, first in enumerate(intervals):
        if head in takers:
            continue
        storage_of[head] = len(storages)
        size, last = first.size, head
        while last in taker_of:
            last = taker_of[last]
            storage_of[last] = len(storages)
            size = max(size, intervals[last].size)
        storages.append(Interval(size, first.start, intervals[last].end))
    if -1 in storage_of:
        raise InternalError(f"buffer {storage_of.index(-1)} takes its storage from itself, through others")
    return storages, storage_of


def verify(intervals: Sequence[Interval], offsets: Sequence[int]) -> None:
    """Check a placement, independently of how it was found.

    Raises:
        InternalError: an offset is negative or misaligned, or two buffers live at one step overlap; the text names
            the buffers.
    """
    if len(intervals) != len(offsets):
        raise InternalError(f"{len(intervals)} buffers have {len(offsets)} offsets")
    for i, offset in enumerate(offsets):
        if offset < 0 or offset % ALIGNMENT:
            raise InternalError(f"buffer {i} has offset {offset}, which is no multiple of {ALIGNMENT} from 0 up")
    live: list[tuple[int, int]] = []  # (offset, index), ascending; disjoint so far, so only neighbours can overlap
    deaths: list[tuple[int, int]] = []  # heap of (last step, index)
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i].start):
        if intervals[i].size == 0:
            continue
        while deaths and deaths[0][0] < intervals[i].start:
            dead = heapq.heappop(deaths)[1]
            del live[bisect_left(live, (offsets[dead], dead))]
        at = bisect_left(live, (offsets[i], i))
        for _, other in live[max(at - 1, 0) : at + 1]:
            low, high = sorted((i, other), key=offsets.__getitem__)
            if offsets[low] + intervals[low].size > offsets[high]:
                raise InternalError(
                    f"buffers {low} and {high} overlap while both are live",
                    lines=[f"buffer {k}: {intervals[k]} at {offsets[k]}" for k in (low, high)],
                )
        live.insert(at, (offsets[i], i))
        heapq.heappush(deaths, (intervals[i].end, i))
