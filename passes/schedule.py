"""The order of the kernels: one in which few bytes are live at a time.

The order in which the program was written is mostly good already: a network's forward and backward passes are. What it
misses is work that frees memory and comes late, such as an optimiser's updates, written after all gradients. So a list
scheduler runs each kernel that frees at least what it allocates as soon as it can, and everything else in the written
order; a second one always takes the kernel that grows least. The best of the three orders is kept, measured exactly.

Variables are updated in place where every other reader of the old value runs before (`graphc.passes.plan`), so an
update that was written after those readers stays after them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from graphc.passes.fuse import guess
from graphc.plan import SymbolicPlan


def schedule(plan: SymbolicPlan) -> SymbolicPlan:
    """`plan` with its steps in the best order found; deterministic, and linearithmic in their number."""
    work = _Work.of(plan)
    orders = [list(range(len(plan.steps))), *(_listed(work, urgency) for urgency in (_shrinking_first, _least_growing))]
    best = min(orders, key=work.peak)
    return replace(plan, steps=tuple([plan.steps[k] for k in best]))


@dataclass(frozen=True)
class _Work:
    """The steps as numbers: bytes of arena buffers, and who waits for whom.

    Attributes:
        allocates: bytes that each step allocates.
        uses: the arena buffers that each step reads.
        sizes: bytes of each buffer; 0 for those outside the arena.
        users: the steps that wait for each step.
        waiting: how many steps each step waits for.
        readers: how many steps read each buffer.
        last: the sum of the numbers of the steps that read each buffer.
    """

    allocates: list[int]
    uses: list[list[int]]
    sizes: list[int]
    users: list[list[int]]
    waiting: list[int]
    readers: list[int]
    last: list[int]

    @classmethod
    def of(cls, plan: SymbolicPlan) -> _Work:
        """Those of a plan, symbolic sizes taken as nominal ones."""
        count = len(plan.steps)
        sizes = _sizes(plan)
        users: list[list[int]] = [[] for _ in range(count)]
        waiting = [0] * count
        readers, last = [0] * len(sizes), [0] * len(sizes)
        uses = []
        for k, step in enumerate(plan.steps):
            reads = [buffer for buffer in step.reads if sizes[buffer]]
            uses.append(reads)
            for buffer in reads:
                readers[buffer] += 1
                last[buffer] += k
        for before, after in _waits(plan):
            users[before].append(after)
            waiting[after] += 1
        allocates = [sum([sizes[buffer] for buffer in step.writes]) for step in plan.steps]
        return cls(allocates, uses, sizes, users, waiting, readers, last)

    def peak(self, order: Sequence[int]) -> int:
        """Most bytes live at a time if the steps run in this order."""
        left, sizes = self.readers.copy(), self.sizes
        live = peak = 0
        for k in order:
            live += self.allocates[k]
            if live > peak:
                peak = live
            for buffer in self.uses[k]:
                left[buffer] -= 1
                if not left[buffer]:
                    live -= sizes[buffer]
        return peak


def _sizes(plan: SymbolicPlan) -> list[int]:
    """Bytes of each buffer in the arena, 0 for all others."""
    types = {buffer.type for buffer in plan.buffers}
    nbytes = {type: guess(type.nbytes) for type in types}
    return [nbytes[buffer.type] if buffer.role == "arena" else 0 for buffer in plan.buffers]


def _waits(plan: SymbolicPlan) -> Iterator[tuple[int, int]]:
    """Pairs of steps, each once, of which the first must run before the second."""
    writer = {buffer: k for k, step in enumerate(plan.steps) for buffer in step.writes}
    updated = {
        plan.given[variable]: writer[new]
        for (variable, _), new in zip(plan.program.updates, plan.updates, strict=True)
        if variable in plan.given
    }
    for k, step in enumerate(plan.steps):
        before = {writer[buffer] for buffer in step.reads if buffer in writer}
        yield from ((b, k) for b in sorted(before))
        overwriting = {updated[buffer] for buffer in step.reads if buffer in updated}
        yield from ((k, after) for after in sorted(overwriting) if after > k)


Urgency = Callable[[int, int], tuple[int, int]]  # (bytes a step grows by, its number) -> what is run first is least


def _shrinking_first(grows: int, number: int) -> tuple[int, int]:
    return (grows > 0, number)


def _least_growing(grows: int, number: int) -> tuple[int, int]:
    return (grows, number)


def _listed(work: _Work, urgency: Urgency) -> list[int]:
    """The steps in an order in which always the most urgent one of those that can run is next (list scheduling)."""
    grows = [
        allocated - sum([work.sizes[b] for b in reads if work.readers[b] == 1])
        for allocated, reads in zip(work.allocates, work.uses, strict=True)
    ]
    waiting, left, last = work.waiting.copy(), work.readers.copy(), work.last.copy()
    done = [False] * len(waiting)
    ready = [(urgency(grows[k], k), k) for k, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, k = heapq.heappop(ready)
        if done[k]:
            continue
        done[k] = True
        order.append(k)
        for buffer in work.uses[k]:
            left[buffer] -= 1
            last[buffer] -= k
            if left[buffer] == 1:  # one reader is left, and will free it
                reader = last[buffer]
                grows[reader] -= work.sizes[buffer]
                if not waiting[reader]:
                    heapq.heappush(ready, (urgency(grows[reader], reader), reader))
        for user in work.users[k]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, (urgency(grows[user], user), user))
    return order
