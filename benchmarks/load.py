"""How long runs take beside a busy process: of a session with all threads, and of one with a single thread.

What divides its work among threads waits for the slowest; where another process takes a core away, a run should still
not take much longer than one that never wanted that core.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import numpy as np

from benchmarks.measured import duration
from benchmarks.options import Options
from benchmarks.running import warn_if_busy
from benchmarks.systems import graphc_session
from benchmarks.table import Row
from benchmarks.workloads import FULL, WORKLOADS

RUNS, BLOCK = 1000, 50  # of each session; how many follow each other before the other has its turn
LIMIT = 1.5  # times the 95th percentile of a single thread
LONG_ENOUGH = ("elementwise", "matmul", "resnet18_infer")  # workloads of 5 ms and more
BUSY = "while True: pass"


def percentiles(options: Options) -> Iterator[Row]:
    """For each workload the 95th percentiles of both sessions, and their ratio."""
    warn_if_busy()
    for name in filter(options.wants, LONG_ENOUGH):
        with busy_process():
            many, one = np.percentile(durations(name, (options.threads, 1)), 95, axis=1)
        both = f"{duration(many)}, 1 thread {duration(one)}"
        yield Row(f"{name} beside a busy process, p95", both, "", True)
        ratio = many / one
        yield Row("  times that of 1 thread", f"{ratio:.2f}x", f"<= {LIMIT}x", bool(ratio <= LIMIT))


@contextmanager
def busy_process() -> Iterator[None]:
    """A process that takes all the time it can get of one core."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def durations(name: str, threads: tuple[int, ...], runs: int = RUNS) -> list[list[float]]:
    """Seconds of each run, for sessions of so many threads that take turns."""
    workload = WORKLOADS[name]
    steps = [graphc_session.prepare("step", n)[name](workload.weights(), workload.data(FULL)).step for n in threads]
    for step in steps:
        step()  # compiles
    found: list[list[float]] = [[] for _ in steps]
    for _ in range(runs // BLOCK):
        for step, seconds in zip(steps, found, strict=True):
            seconds += [timed(step) for _ in repeat(None, BLOCK)]
    return found


def timed(step: Callable[[], Any]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
