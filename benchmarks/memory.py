"""Memory that training ResNet-18 needs above the idle process, in graphc and in torch, each in a process of its own.

Idle is: the model is built and its weights are materialised; the optimiser has no slots yet, and graphc, which makes
them when it compiles a step, hasn't compiled it. The peak is that of the next steps. What they are compiled to is in
the cache on disk, from a process before; the peak of that one, which has LLVM's memory in it, is told, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import graphc as gc
from benchmarks import models
from benchmarks.options import Options
from benchmarks.running import Worker, WorkerError
from benchmarks.systems import system_of
from benchmarks.systems.graphc_session import model_of, sgd, training_step
from benchmarks.table import Row
from benchmarks.workloads import FULL, WORKLOADS

WORKLOAD = "resnet18"
STEPS = 5
LIMIT_MIB = 130
MIB = 1 << 20


def peaks(options: Options) -> Iterator[Row]:
    """graphc's peak with its limit, its planned part, and torch's peak."""
    yield from rows("graphc run", options, limit=LIMIT_MIB)
    yield Row("  planned peak of the buffers", f"{planned_bytes() / MIB:.0f} MiB", "", True)
    yield from rows("torch", options)


def rows(system: str, options: Options, limit: float | None = None) -> Iterator[Row]:
    """The peak of a system above idle, and idle; or why there is none. Where there is a limit, that with LLVM, too."""
    what = f"ResNet-18 training in {system_of(system).package}, peak above idle"
    wanted = "" if limit is None else f"<= {limit} MiB"
    try:
        (compiling, _), (peak, idle) = measured(system, options)
    except WorkerError as error:
        yield Row(what, str(error), wanted, limit is None)
    else:
        yield Row(what, f"{peak:.0f} MiB", wanted, limit is None or peak <= limit)
        yield Row("  its idle process", f"{idle:.0f} MiB", "", True)
        if limit is not None:
            yield Row("  peak of the process that filled the cache", f"{compiling:.0f} MiB", "", True)


def measured(system: str, options: Options) -> list[tuple[float, float]]:
    """MiB: the peak above idle, and idle; of a process that compiles the step, and of one that finds it compiled."""
    found = []
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as caches:
        for _ in range(2):
            with Worker(system, options, caches) as worker:
                worker.answer()
                worker.ask("prepare", workload=WORKLOAD)
                told = worker.ask("peak", steps=STEPS)
            found.append(((told["peak"] - told["idle"]) / MIB, told["idle"] / MIB))
    return found


def planned_bytes() -> int:
    """Bytes that the plan of a step says its buffers need at most."""
    workload = WORKLOADS[WORKLOAD]
    data = workload.data(FULL)
    with gc.Graph(), gc.Session() as session:
        fetches, feeds = training_step(model_of(models.resnet18, workload.weights()), sgd(), data)
        return session.plan(fetches, dict(zip(feeds, data, strict=True))).peak_bytes
