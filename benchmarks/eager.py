"""Eager execution, op by op over a tape, against torch's: what a small op costs, and steps of training.

Both run in processes of their own and take turns.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measured import duration
from benchmarks.ops import sampled
from benchmarks.options import Options
from benchmarks.running import Worker, WorkerError, warn_if_busy
from benchmarks.table import Row
from benchmarks.workloads import EAGER


def compare(options: Options) -> Iterator[Row]:
    """For each workload the times, and how many times torch's time graphc takes."""
    warn_if_busy()
    with Worker("graphc eager", options) as ours, Worker("torch", options) as theirs:
        try:
            for worker in (ours, theirs):
                worker.answer()
        except WorkerError as failure:
            yield Row("eager execution isn't compared", str(failure), "", True)
            return
        for name in filter(options.wants, EAGER):
            workload = EAGER[name]
            found = sampled(name, (ours, theirs), options)
            both = f"{duration(found.ours)}, torch {duration(found.theirs)}"
            yield Row(f"eager: {workload.title}", both, "" if found.same else "the same values", found.same)
            wanted = f"<= {1 / workload.goal:.1f}x" if workload.goal else ""
            reached = not workload.goal or found.ratio <= 1 / workload.goal
            yield Row("  times torch's time", f"{found.ratio:.2f}x", wanted, reached)
