"""One system, in a process of its own that is told what to do, a line of JSON at a time.

`python -m benchmarks.worker SYSTEM THREADS` first says `{"version": ...}`, or `{"missing": why}` where the system isn't
installed. Then it answers requests `{"what": name, ...}`: `prepare` a workload, or one of `ANSWERS` about the one that
is prepared. What can't be done is answered by `{"missing": why}`, what fails by `{"failed": why}`.
"""

from __future__ import annotations

import ctypes
import gc as collector
import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks import op_cases
from benchmarks.systems import Prepared, Table, system_of
from benchmarks.workloads import FULL, workload_of

CHECKED_STEPS = 3
CHECKED_VALUES = 16  # of the result of a step

Answer = dict[str, Any]


def main(name: str, threads: int) -> None:
    """Say what this is, then answer requests until the input ends."""
    answers = private_stdout()
    use_cores(threads)
    system = system_of(name)
    try:
        table = importlib.import_module(f"benchmarks.systems.{system.module}").prepare(system.variant, threads)
        say(answers, {"version": importlib.metadata.version(system.package)})
    except ModuleNotFoundError as error:  # importlib.metadata's error is one
        say(answers, {"missing": f"not installed: {error}"})
        return
    except Exception as error:
        say(answers, failure(error))
        return
    ready: list[Prepared] = []
    for line in sys.stdin:
        try:
            say(answers, answered(table, ready, **json.loads(line)))
        except Exception as error:  # a worker outlives what a system can't do
            say(answers, failure(error))


def failure(error: Exception) -> Answer:
    """What is said of an error."""
    return {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}


def answered(table: Table, ready: list[Prepared], what: str, **request: Any) -> Answer:
    """The answer to a request, about the workload that is ready, or makes one ready instead."""
    return ANSWERS[what](*ready, **request) if what != "prepare" else prepare(table, ready, **request)


def prepare(table: Table, ready: list[Prepared], workload: str) -> Answer:
    """A workload as the system computes it, before its first step."""
    ready.clear()
    collector.collect()
    if workload not in table:
        return {"missing": "has no form of it"}
    wanted = workload_of(workload) or op_cases.workload(workload)
    ready.append(table[workload](wanted.weights(), wanted.data(FULL)))
    return {}


# ------------------------------------------------------------------------------------------------- answers


def values(prepared: Prepared) -> Answer:
    """Take the first steps; values of them, evenly spaced in their results."""
    results = [np.asarray(prepared.read(prepared.step()), np.float64).ravel() for _ in range(CHECKED_STEPS)]
    return {"values": [float(v) for r in results for v in r[:: max(1, r.size // CHECKED_VALUES)]]}


def timed(prepared: Prepared, steps: int, turn: float) -> Answer:
    """Seconds of a step, from the time of `steps`; of as many as last `turn` seconds if that is 0."""
    steps = steps or chosen_steps(prepared.step, turn)
    return {"steps": steps, "seconds": seconds_of(prepared.step, steps) / steps, "aside": prepared.aside()}


def peak(prepared: Prepared, steps: int) -> Answer:
    """Resident memory with the weights materialised, and at most during the steps after that; in bytes."""
    prepared.materialise()
    collector.collect()
    return_free_memory()
    idle = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again from here
    for _ in range(steps):
        prepared.step()
    return {"idle": idle, "peak": memory("VmHWM")}


ANSWERS: dict[str, Callable[..., Answer]] = {"values": values, "time": timed, "peak": peak}


def return_free_memory() -> None:
    """Let glibc give back what was freed, which steps would use again without being seen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def memory(field: str) -> int:
    """Bytes, by a field of the status that Linux gives of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def chosen_steps(step: Callable[[], Any], turn: float) -> int:
    """How many steps last about `turn` seconds."""
    steps = 1
    while (seconds := seconds_of(step, steps)) < turn / 4:
        steps *= 2
    return max(1, round(steps * turn / seconds))


def seconds_of(step: Callable[[], Any], steps: int) -> float:
    """How long they take."""
    start = time.perf_counter()
    for _ in repeat(None, steps):
        step()
    return time.perf_counter() - start


def use_cores(count: int) -> None:
    """Let this process use so many cores, where the system can say so: some systems take all that they see."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def private_stdout() -> TextIO:
    """The standard output, for answers alone: whatever libraries print goes to the errors."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def say(answers: TextIO, answer: Answer) -> None:
    """One line."""
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
