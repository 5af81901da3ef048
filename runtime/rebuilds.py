"""Tells, once, when run after run compiles something new because the graph grows in the loop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from graphc.ir import Leaf, Node, next_serial, reachable, serial_of
from graphc.ops.state import Updates

MAX_REBUILDS = 8  # new plans because of one line, before the user is told why
MAX_BETWEEN = 8  # runs from one of these to the next, at most


class Rebuilds:
    """Counts, for each line of the user's, the runs that compiled a new plan because of what it built."""

    def __init__(self) -> None:
        self.runs = 0
        self.last_serial = next_serial()
        self.told = False
        self.lines: dict[str, tuple[int, int]] = {}  # how many there were, and the run that was the last

    def reused(self) -> None:
        """A run found its plan."""
        self.runs += 1

    def compiled(self, fetched: Sequence[Node | Updates]) -> None:
        """A run compiled what it fetches: count the line that made the first node since the last such run."""
        self.runs += 1
        before, self.last_serial = self.last_serial, next_serial()
        updates = [leaf for leaf in fetched if isinstance(leaf, Updates)]
        roots = [leaf for leaf in fetched if isinstance(leaf, Node)] + [node for u in updates for node in u.values()]
        # What a node is computed from is older than it, so there is no need to look behind old ones.
        young = [n for n in reachable(roots, lambda n: n.serial <= before) if n.serial > before]
        fresh = min([n for n in young if not isinstance(n, Leaf)], key=serial_of, default=None)
        if fresh is None or self.told:
            return
        # What an optimiser builds is derived from the gradients: the line that called it is that of its updates.
        written = fresh.occurrence.code is not None or not updates
        site = (fresh if written else updates[-1]).occurrence.site
        if site is None:
            return
        line = str(site)
        count, last = self.lines.get(line, (0, self.runs))
        count = count + 1 if self.runs - last <= MAX_BETWEEN else 1
        self.lines[line] = count, self.runs
        if count >= MAX_REBUILDS:
            self.told = True
            warnings.warn_explicit(
                f"{count} runs compiled a new plan each, because this line builds something new each time:\n  {line}\n"
                "  hint: a Python number became part of the graph; feed it through a gc.placeholder, or keep it in a "
                "gc.Variable",
                UserWarning,
                site.file,
                site.line,
            )
