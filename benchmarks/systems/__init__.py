"""How each system computes the workloads: one module a system, which imports that system and nothing of the others.

A module's `prepare(variant, threads)` gives a table: name of a workload -> what makes a `Prepared` of its weights and
data. A workload that a system can't express is missing there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.workloads import Array


class Prepared(NamedTuple):
    """A workload, ready to be timed.

    Attributes:
        step: one training step or inference; returns when its result is there.
        read: the result of a step as an array: the loss before the step, or what was inferred.
        materialise: make the values of the weights, where that would wait for the first step.
        aside: seconds of the steps so far that imports and initial values took, of whole first steps.
    """

    step: Callable[[], Any]
    read: Callable[[Any], Any] = np.asarray
    materialise: Callable[[], Any] = list
    aside: Callable[[], float] = float


Prepare = Callable[[dict[str, Array], tuple[Array, ...]], Prepared]
Table = Mapping[str, Prepare]


class System(NamedTuple):
    """A column of the comparison.

    Attributes:
        module: in this package.
        variant: how it is used, where there are several ways.
        package: the distribution whose version is shown.
    """

    module: str
    variant: str
    package: str


SYSTEMS: dict[str, System] = {
    "graphc": System("graphc_session", "step", "graphc"),
    "graphc run": System("graphc_session", "run", "graphc"),
    "graphc exact": System("graphc_session", "exact", "graphc"),
    "torch": System("torch_eager", "eager", "torch"),
    "torch.compile": System("torch_eager", "compile", "torch"),
    "tf1": System("tf1_session", "", "tensorflow-cpu"),
    "jax": System("jax_jit", "", "jax"),
    "pytensor": System("pytensor_function", "", "pytensor"),
    "onnxruntime": System("ort_session", "", "onnxruntime"),
}

# Those that know single ops.
OP_SYSTEMS: dict[str, System] = {
    "graphc ops": System("graphc_ops", "", "graphc"),
    "torch ops": System("torch_ops", "", "torch"),
}

# graphc's eager twin, which is measured against torch alone.
EAGER_SYSTEMS: dict[str, System] = {"graphc eager": System("graphc_eager", "", "graphc")}

# Those that compute on a GPU, with products that round as a variant says: its last word. `WITHOUT_CUDNN` convolves by
# kernels of graphc's own, and `COPY` is no system, but what copies within the device's memory take.
PRECISIONS = ("float32", "tf32", "bfloat16")
WITHOUT_CUDNN, COPY = "graphc without cudnn", "device copy"
GPU_SYSTEMS: dict[str, System] = {
    f"{name} cuda {precision}": system._replace(variant=f"{way} cuda {precision}")
    for name, way, system in (
        ("graphc", "step", SYSTEMS["graphc"]),
        (WITHOUT_CUDNN, "own", SYSTEMS["graphc"]),
        (COPY, "", System("device_copy", "", "graphc")),
        ("torch", "eager", SYSTEMS["torch"]),
        ("torch.compile", "compile", SYSTEMS["torch"]),
        ("jax", "", SYSTEMS["jax"]),
    )
    for precision in PRECISIONS
}

OWN = tuple(name for name, system in SYSTEMS.items() if system.package == "graphc")


def system_of(name: str) -> System:
    """The system of a worker."""
    return {**SYSTEMS, **OP_SYSTEMS, **EAGER_SYSTEMS, **GPU_SYSTEMS}[name]


def on_gpu(variant: str) -> str | None:
    """To what products round in a variant that computes on a GPU; None for all others."""
    return variant.split()[-1] if " cuda " in f" {variant}" else None
