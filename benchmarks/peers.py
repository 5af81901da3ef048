"""graphc and its peers side by side: every system in a process of its own, their turns interleaved.

A machine that is busy with something else slows all systems alike, so what counts is the ratio of medians of one run.
Peers that aren't installed are left out with a line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import charts
from benchmarks.measured import Failures, Measured, Results, duration
from benchmarks.options import Options
from benchmarks.running import Worker, WorkerError, warn_if_busy
from benchmarks.systems import OWN, SYSTEMS
from benchmarks.workloads import WORKLOADS, Workload

# Seconds between turns. Threads of the system before spin on for a while: OpenBLAS's, which PyTensor's products run on,
# for 2^28 cycles, a tenth of a second. Whoever comes behind it, always the same, has fewer cores until then.
PAUSE = 0.25
FRESH_ROUNDS = 3
LONG = 10.0  # seconds; what takes longer from scratch is measured once
AGREEMENT = 1e-3  # of the largest value


# ------------------------------------------------------------------------------------------------- measuring


def interleaved(names: Sequence[str], workload: str, options: Options) -> tuple[Results, Failures]:
    """All systems prepare; then each has a turn a round."""
    results: Results = {}
    failures: Failures = {}
    with ExitStack() as stack:
        workers = {name: Worker(name, options) for name in names}
        for worker in workers.values():
            stack.callback(worker.close)
        steps: dict[str, int] = {}
        for name in names:
            with Noted(failures, name):
                version = workers[name].answer()["version"]
                workers[name].ask("prepare", workload=workload)
                results[name] = Measured(version, workers[name].ask("values")["values"], [])
        for _ in range(options.rounds + 1):  # the first chooses the numbers of steps, and warms up
            for name in [name for name in results if name not in failures]:
                time.sleep(PAUSE)
                with Noted(failures, name):
                    found = workers[name].ask("time", steps=steps.get(name, 0), turn=options.turn)
                    results[name].samples.extend([found["seconds"]] if name in steps else [])
                    steps[name] = found["steps"]
    return {name: found for name, found in results.items() if name not in failures}, failures


def from_scratch(names: Sequence[str], workload: str, options: Options) -> tuple[Results, Failures]:
    """Each sample is a first step in a new process, whose caches are empty."""
    results: Results = {}
    failures: Failures = {}
    for _ in range(min(FRESH_ROUNDS, options.rounds)):
        for name in names:
            if name in failures or (name in results and max(results[name].samples) > LONG):
                continue
            with Worker(name, options) as worker, Noted(failures, name):
                version = worker.answer()["version"]
                worker.ask("prepare", workload=workload)
                seconds = worker.ask("time", steps=1, turn=options.turn)["seconds"]
                results.setdefault(name, Measured(version, [], [])).samples.append(seconds)
    return {name: found for name, found in results.items() if name not in failures}, failures


class Noted:
    """A context that notes a failure instead of passing it on."""

    def __init__(self, failures: Failures, name: str) -> None:
        self.failures, self.name = failures, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, WorkerError):
            self.failures[self.name] = str(error)
        return isinstance(error, WorkerError)


# ------------------------------------------------------------------------------------------------- the table


def compare(options: Options) -> bool:
    """Measure all wanted workloads and print them; whether every goal was reached and all computed the same."""
    names = [*OWN, *(name for name in SYSTEMS if name not in OWN and (not options.systems or name in options.systems))]
    everything: dict[str, Results] = {}
    report, reached, told = [], True, set[str]()
    warn_if_busy()
    print(f"{options.threads} threads, {options.rounds} rounds of {options.turn} s; medians (quartiles)")
    for key, workload in WORKLOADS.items():
        if not options.wants(key):
            continue
        measure = from_scratch if workload.fresh else interleaved
        results, failures = measure(names, key, options)
        for name in left_out(failures, told):
            names.remove(name)
        reached &= show(workload, results, failures)
        everything[key] = results
        report.append({"workload": key, "failures": failures, **figures(results)})
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1), encoding="utf-8")
    if options.charts:
        print(f"\nwrote {', '.join(map(str, charts.draw(everything, Path(options.charts))))}")
    return reached


def left_out(failures: Failures, told: set[str]) -> list[str]:
    """The systems that aren't installed, which is told if it wasn't before; `told` has them from now on."""
    new = [name for name, why in failures.items() if why.startswith("not installed") and name not in told]
    for name in new:
        print(f"left out: {name}, {failures[name]}")
    told.update(new)
    return new


def figures(results: Results) -> dict[str, Any]:
    """What is kept of one workload."""
    return {"systems": {name: {**found._asdict(), "quartiles": found.quartiles} for name, found in results.items()}}


def show(workload: Workload, results: Results, failures: Failures) -> bool:
    """Print the rows of a workload; whether graphc reached its goal and every system computed the same."""
    rows(workload, results, failures)
    return agree(results) and all(line_of_goal(workload, results))


def rows(workload: Workload, results: Results, failures: Failures) -> None:
    """Print what each system took, or why it has no figure."""
    print(f"\n{workload.title}")
    own = results.get("graphc")
    for name, found in results.items():
        low, middle, high = found.quartiles
        times = f"{duration(middle)}  ({duration(low)} – {duration(high)})"
        ratio = f"{middle / own.median:7.2f}x" if own else ""
        rate = f"  {workload.flops / middle / 1e9:6.1f} GFLOP/s" if workload.flops else ""
        rate += f"  {workload.nbytes / middle / 1e9:6.1f} GB/s" if workload.nbytes else ""
        print(f"  {name:20s} {found.version:12s} {times:38s} {ratio}{rate}", flush=True)
    for name, why in failures.items():
        if not why.startswith(("has no form", "not installed")):
            print(f"  {name:20s} failed: {why}")


def agree(results: Results, agreement: float = AGREEMENT) -> bool:
    """Whether all systems computed the same; print who didn't."""
    apart = differing(results, agreement)
    if apart:
        print(f"  DIFFERENT RESULTS: {', '.join(apart)}")
    return not apart


def line_of_goal(workload: Workload, results: Results) -> Iterator[bool]:
    """Print how far ahead of the best peer graphc is; whether that is enough."""
    peers = {name: found.median for name, found in results.items() if name not in OWN}
    if "graphc" not in results:
        print("  graphc has no figure: MISSED")
        yield False
    elif peers:
        best = min(peers, key=lambda name: peers[name])
        ratio = peers[best] / results["graphc"].median
        goal = f", goal {workload.goal}x: {'met' if ratio >= workload.goal else 'MISSED'}" if workload.goal else ""
        print(f"  {ratio:.2f}x as fast as the best peer, {best}{goal}")
        yield ratio >= workload.goal


def differing(results: Mapping[str, Measured], agreement: float = AGREEMENT) -> list[str]:
    """The systems whose values aren't those of the first."""
    first = next((np.array(found.values) for found in results.values()), np.zeros(0))
    limit = agreement * max(np.abs(first), default=0.0)

    def far(values: list[float]) -> bool:
        return len(values) != len(first) or not np.all(np.abs(np.array(values) - first) <= limit)

    return [name for name, found in results.items() if far(found.values)]
