"""How fast graphs are built, differentiated and planned, and whether running them in a loop leaks.

The chain is a deep recurrence with a skip connection, `h = tanh(h @ w) * 0.5 + x`: four new nodes a step.
"""

from __future__ import annotations

import gc as collector
import time
from collections.abc import Callable, Iterator

import numpy as np

import graphc as gc
from benchmarks.table import Row

NODES = 100_000
RUNS = 100_000


def chain(nodes: int) -> tuple[gc.Graph, gc.Node, gc.Node, gc.Node]:
    """The graph, the loss, the weights and the input of a chain of `nodes` forward nodes."""
    with gc.Graph() as graph:
        w = gc.Variable(np.eye(8, dtype="float32"), name="w")
        x = gc.placeholder("x", shape=(4, 8))
        h = x
        for _ in range(nodes // 4):
            h = gc.tanh(h @ w) * 0.5 + x
        return graph, gc.sum(h), w, x


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds that `work` took with a clean heap, and what it returned."""
    collector.collect()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def build() -> Iterator[Row]:
    """Nodes built a second."""
    rates = []
    for _ in range(5):
        seconds, built = timed(lambda: chain(NODES))
        rates.append(len(built[0]) / seconds)  # type: ignore[index]
        del built
    yield Row("nodes built a second", f"{sorted(rates)[2]:,.0f}", ">= 150,000", sorted(rates)[2] >= 150_000)


def scale() -> Iterator[Row]:
    """Time to build, differentiate and plan a deep chain, and how it grows with depth."""
    seconds = {}
    for nodes in (NODES // 2, NODES):
        parts = measured_chain(nodes)
        seconds[nodes] = sum(parts.values())
        shown = ", ".join(f"{name} {t:.2f} s" for name, t in parts.items())
        yield Row(f"chain of {nodes:,} forward nodes", f"{seconds[nodes]:.2f} s ({shown})", "", True)
    yield Row("  of which 100,000 nodes", f"{seconds[NODES]:.2f} s", "<= 10 s", seconds[NODES] <= 10)
    ratio = seconds[NODES] / seconds[NODES // 2]
    yield Row("  time(2n) / time(n)", f"{ratio:.2f}", "<= 2.3", ratio <= 2.3)


def measured_chain(nodes: int) -> dict[str, float]:
    """Seconds to build a chain, to differentiate it, and to plan loss and gradient together."""
    built, (_, loss, w, x) = timed(lambda: chain(nodes))  # type: ignore[misc]
    differentiated, (gradient,) = timed(lambda: gc.gradients(loss, [w]))  # type: ignore[misc]
    with gc.Session(device="plan") as sess:
        feed = {x: np.ones((4, 8), "float32")}
        planned, _ = timed(lambda: sess.plan([loss, gradient], feed))
    return {"build": built, "differentiate": differentiated, "plan": planned}


def loop() -> Iterator[Row]:
    """Rebuilding and running the same expression in a loop: nodes and memory must stay flat."""
    with gc.Graph() as graph:
        x = gc.placeholder("x", shape=(3,))
        value = np.ones(3, "float32")
        with gc.Session() as sess:
            sess.run(-x, {x: value})
            before, memory = len(graph), resident_kib()
            seconds, _ = timed(lambda: [sess.run(-x, {x: value}) for _ in range(RUNS)] and None)
            grown, more = len(graph) - before, resident_kib() - memory
    yield Row(f"{RUNS:,} x sess.run(-x): new nodes", str(grown), "0", grown == 0)
    yield Row("  growth of memory, KiB", f"{more:,}", "<= 4,096", more <= 4096)
    yield Row("  microseconds a run", f"{seconds / RUNS * 1e6:.1f}", "", True)


def resident_kib() -> int:
    """This process's resident memory."""
    collector.collect()
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    except OSError:  # no /proc: the peak is the nearest that the standard library knows
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
