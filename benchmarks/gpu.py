"""graphc on a GPU beside torch, torch.compile and JAX there: each in a process of its own, their turns interleaved.

All have their data on the GPU, and a step ends when its result is there. What multiplies matrices is measured as
float32 is, and with operands that are rounded to tf32 and to bfloat16: torch by `allow_tf32` and `torch.autocast`, JAX
by its default precision. graphc keeps float32 in memory in each of them.

What is bound by memory is judged by copies within the device's memory, which a process of its own makes in the same
turns. What convolves is measured with and without cuDNN's frontend, where that is installed. Where the processes don't
fit in the device's memory together, they are measured one after the other, and a line says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import graphc as gc
from benchmarks import peers
from benchmarks.measured import Failures, Results
from benchmarks.options import Options
from benchmarks.systems import COPY, GPU_SYSTEMS, PRECISIONS, WITHOUT_CUDNN
from benchmarks.workloads import COPIED_BYTES, GPU, Workload
from graphc.runtime.cuda import cudnn

AGREEMENTS = {"float32": peers.AGREEMENT, "tf32": 5e-3, "bfloat16": 5e-2}  # of the largest value
OWN = "graphc"
TORCH = "torch"
BESIDE = (OWN, WITHOUT_CUDNN, COPY)  # no peers
LACKING = ("out of memory", "outofmemory", "resource_exhausted", "of memory, and the device has", "memory lacks")


class Goal(NamedTuple):
    """What a system of graphc's should reach.

    Attributes:
        against: torch's eager execution or the best peer, and `ratio` is how many times as fast; or copies within the
            device's memory, and it is a share of their rate.
    """

    against: Literal["torch", "the best peer", "copies"]
    ratio: float


SMALL = Goal("torch", 3.0)
BY_MEMORY = Goal("copies", 0.85)
BY_PRODUCTS = Goal("the best peer", 0.95)
BY_CUDNN, BY_OWN_KERNELS = Goal("torch", 1.0), Goal("torch", 0.6)
CONVOLVING = ("lenet", "resnet18")
GOALS: Mapping[str, Goal] = {
    **dict.fromkeys(("linreg", "tiny"), SMALL),
    **dict.fromkeys(("mlp", "gpt", "matmul"), BY_PRODUCTS),
    **dict.fromkeys(("copy", "sum", "elementwise", "normsoftmax"), BY_MEMORY),
}


class Verdict(NamedTuple):
    """How far a system of graphc's came.

    Attributes:
        ratio: what it reached of the goal's kind; None where there is nothing to compare with.
        met: whether that is enough; where there is nothing to compare with, nothing is missed.
        line: both, and the goal, in words.
    """

    system: str
    goal: Goal
    ratio: float | None
    met: bool
    line: str


def goals_of(key: str, *, frontend: bool) -> dict[str, Goal]:
    """The systems of graphc's that a workload is measured in, with their goals.

    Args:
        frontend: whether cuDNN's is installed.
    """
    if key not in CONVOLVING:
        return {OWN: GOALS[key]}
    return {OWN: BY_CUDNN, WITHOUT_CUDNN: BY_OWN_KERNELS} if frontend else {OWN: BY_OWN_KERNELS}


def systems_of(key: str, precision: str, options: Options, *, frontend: bool) -> list[str]:
    """The systems that are measured on a workload, by their short names."""
    goals = goals_of(key, frontend=frontend)
    wanted = {*goals, *([COPY] if any(goal.against == "copies" for goal in goals.values()) else [])}
    ending = f" cuda {precision}"
    known = [name.removesuffix(ending) for name in GPU_SYSTEMS if name.endswith(ending)]
    asked = [name for name in known if name not in BESIDE and (not options.systems or name in options.systems)]
    return [name for name in known if name in wanted or name in asked]


# ------------------------------------------------------------------------------------------------- verdicts


def verdict(system: str, goal: Goal, workload: Workload, results: Results) -> Verdict:
    """What a system reached of its goal."""
    by_rate = goal.against == "copies"
    told = f"{system}: goal {f'{goal.ratio:.0%} of the rate of' if by_rate else f'{goal.ratio}x'} {goal.against}"
    if system not in results:
        return Verdict(system, goal, None, False, f"{told}: no figure, MISSED")
    seconds = {name: found.median for name, found in results.items()}
    rivals = {name: seconds[name] for name in seconds if name not in BESIDE and goal.against in (name, "the best peer")}
    if by_rate:
        rivals = {COPY: seconds[COPY] * workload.nbytes / COPIED_BYTES} if COPY in seconds else {}
    if not rivals:
        return Verdict(system, goal, None, True, f"{told}: nothing to compare with, not judged")
    rival = min(rivals, key=lambda name: rivals[name])
    ratio = rivals[rival] / seconds[system]
    met = ratio >= goal.ratio
    reached = f"{ratio:.1%}" if by_rate else f"{ratio:.2f}x {rival}"
    return Verdict(system, goal, ratio, met, f"{told}: {reached}, {'met' if met else 'MISSED'}")


def show(key: str, workload: Workload, results: Results, failures: Failures, precision: str, *, frontend: bool) -> bool:
    """Print the rows of a workload and what they say of its goals; whether all are met and all computed the same."""
    computed = {name: found for name, found in results.items() if name != COPY}
    peers.rows(workload, computed, failures)
    if COPY in results:
        rate = COPIED_BYTES / results[COPY].median
        shares = [f"{name} {workload.nbytes / found.median / rate:.0%}" for name, found in computed.items()]
        print(f"  of the {rate / 1e9:.4g} GB/s of copies within the device's memory: {', '.join(shares)}")
    verdicts = verdicts_on(key, workload, results, frontend=frontend)
    for each in verdicts:
        print(f"  {each.line}")
    return all([peers.agree(computed, AGREEMENTS[precision]), *(each.met for each in verdicts)])


def verdicts_on(key: str, workload: Workload, results: Results, *, frontend: bool) -> list[Verdict]:
    """What each system of graphc's reached."""
    return [verdict(*each, workload, results) for each in goals_of(key, frontend=frontend).items()]


# ------------------------------------------------------------------------------------------------- measuring


def lacks_memory(why: str) -> bool:
    """Whether a system has failed since the device, which others use too, had too little memory."""
    return any(words in why.lower() for words in LACKING)


def measured(names: list[str], key: str, precision: str, options: Options) -> tuple[Results, Failures]:
    """What systems take in turns; one after the other where their data don't fit on the device together."""
    ending = f" cuda {precision}"
    results, failures = peers.interleaved([name + ending for name in names], key, options)
    if any(map(lacks_memory, failures.values())) and len(names) > 1:
        print(f"\n{len(names)} processes don't fit on the device together: one after the other, so less comparable")
        results, failures = {}, {}
        for name in names:
            found, missing = peers.interleaved([name + ending], key, options)
            results, failures = {**results, **found}, {**failures, **missing}
    by_name = {name.removesuffix(ending): found for name, found in results.items()}
    return by_name, {name.removesuffix(ending): why for name, why in failures.items()}


def rows_of(options: Options) -> Iterator[tuple[str, str]]:
    """What is measured: workloads, each with its precisions."""
    for key, workload in GPU.items():
        for precision in PRECISIONS if workload.rounds else PRECISIONS[:1]:
            if options.wants(key):
                yield key, precision


def compare(options: Options) -> bool:
    """Measure all wanted workloads and print them; whether every goal was reached. Without a GPU, say so."""
    try:
        gc.Session(device="cuda").close()
    except gc.GraphcError as error:
        print(f"nothing is measured on a GPU: {error.message}")
        return True
    frontend = cudnn.installed() is not None
    report: list[dict[str, Any]] = []
    reached, told = True, set[str]()
    print(f"{options.rounds} rounds of {options.turn} s; medians (quartiles)")
    if not frontend:
        print("cuDNN's frontend isn't installed: what convolves is measured without it (pip install 'graphc[cudnn]')")
    for key, precision in rows_of(options):
        names = systems_of(key, precision, options, frontend=frontend)
        results, failures = measured(names, key, precision, options)
        peers.left_out(failures, told)
        workload = GPU[key]._replace(title=f"{GPU[key].title}, {precision}")
        reached &= show(key, workload, results, failures, precision, frontend=frontend)
        verdicts = [each._asdict() for each in verdicts_on(key, workload, results, frontend=frontend)]
        row = {"workload": key, "precision": precision, "failures": failures, "goals": verdicts}
        report.append({**row, **peers.figures(results)})
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return reached
