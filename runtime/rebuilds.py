"""Tells, once, when run after run compiles something new because the graph grows in the loop."""

from __future__ import annotations

import warnings

from graphc.ir import Program, next_serial

MAX_REBUILDS = 8  # runs in a row that each compile something new before the user is told why


class Rebuilds:
    """Counts, for each line of the user's, the runs that compiled a new plan because of what it built."""

    def __init__(self) -> None:
        self.last_run = next_serial()
        self.told = False
        self.lines: dict[str, int] = {}

    def reset(self) -> None:
        """A run found its plan."""
        self.lines.clear()

    def note(self, program: Program) -> None:
        """A run compiled `program`: count the line that made the first node since the run before."""
        before, self.last_run = self.last_run, next_serial()
        if self.told:
            return
        fresh = next((n for n in program.nodes() if n.serial > before and n.inputs and n.occurrence.code), None)
        site = None if fresh is None else fresh.occurrence.site
        if site is None:
            return
        line = str(site)
        self.lines[line] = self.lines.get(line, 0) + 1
        if self.lines[line] >= MAX_REBUILDS:
            self.told = True
            warnings.warn_explicit(
                f"{MAX_REBUILDS} runs in a row each compiled a new plan, because this line builds something new "
                f"each time:\n  {line}\n  hint: a Python number became part of the graph; feed it through a "
                "gc.placeholder, or keep it in a gc.Variable",
                UserWarning,
                site.file,
                site.line,
            )
