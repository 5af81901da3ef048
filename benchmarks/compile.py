"""How long the first step takes, from declaration to result: ResNet-18's training and deep chains; and its weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

import graphc as gc
from benchmarks import models
from benchmarks.options import Options
from benchmarks.running import Worker
from benchmarks.systems.graphc_session import LIBRARY, placeholders
from benchmarks.table import Row
from benchmarks.workloads import FULL, LONG, WORKLOADS

ROUNDS = 3
EMPTY_LIMIT, FILLED_LIMIT, WEIGHTS_LIMIT = 0.5, 0.1, 0.15  # seconds
CHAINS = {"chain": 1.0, "long_chain": 10.0}  # seconds that each may take


def first_steps(options: Options) -> Iterator[Row]:
    """Imports and initialising the variables aside: with nothing compiled before, with all of it, and the weights."""
    empty, filled = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="graphc-bench-") as caches:
            empty.append(first_step(options, caches))
            filled.append(first_step(options, caches))
    yield _row("ResNet-18 training, first step, empty cache", min(empty), EMPTY_LIMIT)
    yield _row("  with a filled cache", min(filled), FILLED_LIMIT)
    yield _row("  initialising its 11.7 M weights", min(weights_seconds() for _ in range(ROUNDS)), WEIGHTS_LIMIT)
    for name, limit in CHAINS.items():
        yield _row({**WORKLOADS, **LONG}[name].title, min(from_nothing(options, name) for _ in range(ROUNDS)), limit)


def _row(what: str, seconds: float, limit: float) -> Row:
    return Row(what, f"{seconds:.3f} s", f"<= {limit} s", seconds <= limit)


def from_nothing(options: Options, workload: str) -> float:
    """Seconds that the first step of a workload takes with an empty cache."""
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as caches:
        return first_step(options, caches, workload)


def first_step(options: Options, caches: str, workload: str = "first_step") -> float:
    """Seconds that it takes in a new process, without what a workload puts aside."""
    with Worker("graphc", options, caches) as worker:
        worker.answer()
        worker.ask("prepare", workload=workload)
        taken = worker.ask("time", steps=1, turn=options.turn)
        seconds: float = taken["seconds"] - taken["aside"]
        return seconds


def weights_seconds() -> float:
    """Seconds to make the initial values of all variables of ResNet-18; copying them out is taken off."""
    with gc.Graph(), gc.Session() as session:
        model = models.resnet18(LIBRARY)
        model(placeholders(WORKLOADS["first_step"].data(FULL))[0])
        variables = list(model.parameters())
        passes = []
        for _ in range(2):
            start = time.perf_counter()
            for variable in variables:
                session[variable]
            passes.append(time.perf_counter() - start)
    return passes[0] - passes[1]
