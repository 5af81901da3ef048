"""The order of the kernels: one in which few bytes are live at a time.

The order in which the program was written is mostly good already: a network's forward and backward passes are. What it
misses is work that frees memory and comes late, such as an optimiser's updates, written after all gradients. So a list
scheduler runs each kernel that frees at least what it allocates as soon as it can. In between it takes the written
order, or goes on with what has just become possible (which finishes one branch before it begins the next), or takes
the kernel that grows least. The best of these orders is kept, measured exactly.

Variables are updated in place where every other reader of the old value runs before (`graphc.passes.plan`), so a step
that makes a new value lets those readers go first, unless they wait for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from graphc.passes.memory import round_up
from graphc.passes.sizes import guess
from graphc.plan import SymbolicPlan


def schedule(plan: SymbolicPlan) -> SymbolicPlan:
    """`plan` with its steps in the best order found; deterministic, and linearithmic in their number."""
    work = _Work.of(plan)
    # The steps are in the written order already, but for those that let others go first.
    written = _listed(work, WRITTEN) if work.followers else list(range(len(plan.steps)))
    best = min([written, *[_listed(work, urgency) for urgency in URGENCIES]], key=work.footprint)
    return replace(plan, steps=tuple([plan.steps[k] for k in best]))


@dataclass(frozen=True)
class _Work:
    """The steps as numbers: bytes of arena buffers, and who waits for whom.

    Attributes:
        allocates: bytes that each step allocates; `grows`, less those of what it alone reads.
        uses: the arena buffers that each step reads.
        sizes: bytes of each buffer; 0 for those outside the arena.
        users: the steps that need what each step makes; `waiting` counts, for each step, those that it needs.
        followers: the steps that let each step go first; `polite` counts, for each step, those that it lets go first.
        readers: how many steps read each buffer.
        last: the sum of the numbers of the steps that read each buffer.
    """

    allocates: list[int]
    grows: list[int]
    uses: list[list[int]]
    sizes: list[int]
    users: list[list[int]]
    waiting: list[int]
    followers: dict[int, list[int]]
    polite: list[int]
    readers: list[int]
    last: list[int]

    @classmethod
    def of(cls, plan: SymbolicPlan) -> _Work:
        """Those of a plan, symbolic sizes taken as nominal ones."""
        count = len(plan.steps)
        sizes = _sizes(plan)
        users: list[list[int]] = [[] for _ in range(count)]
        waiting, polite = [0] * count, [0] * count
        readers, last = [0] * len(sizes), [0] * len(sizes)
        followers: dict[int, list[int]] = {}
        writer = {buffer: k for k, step in enumerate(plan.steps) for buffer in step.writes}
        overwriter = {
            plan.given[variable]: writer[new]
            for (variable, _), new in zip(plan.program.updates, plan.updates, strict=True)
            if variable in plan.given
        }
        uses = []
        for k, step in enumerate(plan.steps):
            reads = [buffer for buffer in step.reads if sizes[buffer]]
            uses.append(reads)
            for buffer in reads:
                readers[buffer] += 1
                last[buffer] += k
            for before in {writer[buffer] for buffer in step.reads if buffer in writer}:
                users[before].append(k)
                waiting[k] += 1
            if not overwriter.keys().isdisjoint(step.reads):
                for after in {overwriter[buffer] for buffer in step.reads if buffer in overwriter} - {k}:
                    followers.setdefault(k, []).append(after)
                    polite[after] += 1
        allocates = [sum([sizes[buffer] for buffer in step.writes]) for step in plan.steps]
        grows = [
            allocated - sum([sizes[buffer] for buffer in reads if readers[buffer] == 1])
            for allocated, reads in zip(allocates, uses, strict=True)
        ]
        return cls(allocates, grows, uses, sizes, users, waiting, followers, polite, readers, last)

    def footprint(self, order: Sequence[int]) -> tuple[int, int]:
        """Most bytes live at a time if the steps run in this order, and the sum over the steps.

        The sum decides between equal peaks: with other sizes than the guessed ones, the peak is elsewhere.
        """
        left, sizes = self.readers.copy(), self.sizes
        live = peak = total = 0
        for k in order:
            live += self.allocates[k]
            if live > peak:
                peak = live
            for buffer in self.uses[k]:
                left[buffer] -= 1
                if not left[buffer]:
                    live -= sizes[buffer]
            total += live
        return peak, total


def _sizes(plan: SymbolicPlan) -> list[int]:
    """Bytes of each buffer in the arena, 0 for all others."""
    nbytes = plan.by_type(lambda type: round_up(guess(type.nbytes)))
    return [size if buffer.role == "arena" else 0 for buffer, size in zip(plan.buffers, nbytes, strict=True)]


# What is run first, before equals of a lower number, is least: of the bytes a step grows by, whether it grows at all,
# and how many of all steps ran before it could. One number, so that the heap needs to compare nothing else.
Urgency = Callable[[int, int, int], int]

WRITTEN: Urgency = lambda grows, ran, count: 0  # noqa: E731 - a row like those of the table
URGENCIES: tuple[Urgency, ...] = (
    lambda grows, ran, count: int(grows > 0),
    lambda grows, ran, count: count - ran if grows > 0 else -ran,
    lambda grows, ran, count: grows,
)


def _listed(work: _Work, urgency: Urgency) -> list[int]:
    """The steps in an order in which always the most urgent one of those that can run is next (list scheduling)."""
    waiting, polite, left, last = work.waiting.copy(), work.polite.copy(), work.readers.copy(), work.last.copy()
    grows = work.grows.copy()
    count = len(waiting)
    done = [False] * count
    order: list[int] = []
    ready: list[int] = []  # urgency * count + number of each step that can run
    held: list[int] = []  # only politeness keeps these waiting

    def offer(k: int) -> None:
        if polite[k]:
            heapq.heappush(held, k)
        else:
            heapq.heappush(ready, urgency(grows[k], len(order), count) * count + k)

    for k in range(count):
        if not waiting[k]:
            offer(k)
    while ready or held:
        k = heapq.heappop(ready) % count if ready else heapq.heappop(held)
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
                    offer(reader)
        for user in work.users[k]:
            waiting[user] -= 1
            if not waiting[user]:
                offer(user)
        for follower in work.followers.get(k, ()):
            polite[follower] -= 1
            if not waiting[follower]:
                offer(follower)
    return order
