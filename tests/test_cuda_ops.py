"""Kernels of all ops as CUDA C: each gives what NumPy gives for the same buffers, on a CPU.

All are compiled by NVRTC for two architectures, too. `GRAPHC_TEST_CUDA=all` takes every kernel of every sample in every
dtype; otherwise a few of each op are taken, spread over dtypes and shapes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_host import Module, in_namespace, needs_compiler, run_on_host
from op_testing import FLOATS, Call, call, close, retyped, samples_of
from test_ops import TESTED, differentiable
from test_ops_cpu import GRADIENT_ULPS, ROUNDED, calls_of, gradients_of

from graphc.dims import product
from graphc.ir import Graph, Node, Program
from graphc.kernel import Kernel
from graphc.op import Op
from graphc.passes.pipeline import run_pipeline
from graphc.passes.plan import plan_kernels
from graphc.plan import SymbolicPlan
from graphc.runtime.cuda import nvrtc
from graphc.runtime.cuda.kernels import INFO, cuda_kernel
from graphc.runtime.cuda.launches import CudaKernel
from graphc.runtime.cuda.prelude import prelude
from graphc.runtime.plan import run_step
from graphc.types import is_float, np_dtype

pytestmark = needs_compiler

Array = np.ndarray[Any, Any]
EVERYTHING = os.environ.get("GRAPHC_TEST_CUDA") == "all"
FEW = 6  # kernels of an op that are taken otherwise
ARCHITECTURES = ("sm_80", "sm_90")
TOGETHER = 8  # ops whose kernels are compiled together
BATCHES = [TESTED[k : k + TOGETHER] for k in range(0, len(TESTED), TOGETHER)]
each_batch = pytest.mark.parametrize("ops", [pytest.param(ops, id=f"{ops[0].name}-{ops[-1].name}") for ops in BATCHES])


@dataclass(frozen=True)
class Case:
    """A kernel of an op, with the buffers that it reads, and what NumPy writes.

    Attributes:
        eps: precision of the coarsest float dtype that is computed in; 0 if there is none.
    """

    name: str
    kernel: CudaKernel
    reads: list[Array]
    expected: list[Array]
    eps: float
    ulps: float

    def check(self, module: Module) -> None:
        """Run it, and compare."""
        writes = [(array.shape, array.dtype.name) for array in self.expected]
        found = run_on_host(self.kernel, self.reads, writes, module=module)
        for value, wanted in zip(found, self.expected, strict=True):
            with np.errstate(all="ignore"):
                near = close(value, wanted, self.ulps * self.eps)
            types = ", ".join(f"{array.dtype}[{array.size}]" for array in self.reads)
            assert near, f"{self.name}({types}): {value} is not {wanted}\n{self.kernel.source}"


def cases_of(name: str, calls: Sequence[Call], roots: Sequence[Sequence[Node]], ulps: float) -> list[Case]:
    """The kernels of a program without a core, each once; some of them, unless everything is tested."""
    plan = plan_of(calls, roots)
    memory = memory_of(plan, {leaf: value for made in calls for leaf, value in made.feeds.items()})
    found: dict[Kernel, Case] = {}
    for step in plan.steps:
        reads = [memory[k].copy() for k in step.reads]
        writes = [memory[k] for k in step.writes]
        with np.errstate(all="ignore"):
            run_step(step, {}, reads, writes, {})
        if step.kernel.core is None and step.kernel not in found:
            kernel = cuda_kernel(step.kernel)
            assert kernel is not None, f"{name} has no code: see runtime/cuda/pointwise.py and reductions.py"
            eps = epsilon(step.kernel)
            found[step.kernel] = Case(name, kernel, reads, [array.copy() for array in writes], eps, ulps)
    cases = list(found.values())
    return cases if EVERYTHING else cases[:: max(1, len(cases) // FEW)]


def plan_of(calls: Sequence[Call], roots: Sequence[Sequence[Node]]) -> SymbolicPlan:
    """The plan of a program that computes all roots."""
    leaves = tuple([leaf for made in calls for leaf in made.feeds])
    program = Program(leaves, tuple([root for some in roots for root in some]), ())
    return plan_kernels(run_pipeline(program, INFO, training=False), INFO)


def memory_of(plan: SymbolicPlan, feeds: dict[Node, Any]) -> list[Array]:
    """The elements of each buffer, in memory of its own; those that kernels write are nan."""
    memory = []
    for buffer in plan.buffers:
        dtype = np_dtype(buffer.type.dtype)
        if buffer.role == "given":
            array = np.asarray(feeds[buffer.node], dtype)
        elif buffer.role == "constant":
            array = buffer.node.attrs["value"].array
        else:
            array = np.full(int(product(buffer.type.shape)) * dtype.itemsize, 0xFF, np.uint8).view(dtype)
        memory.append(np.ascontiguousarray(array).reshape(-1))
    return memory


def epsilon(kernel: Kernel) -> float:
    """The precision of the coarsest float dtype in a kernel."""
    dtypes = {node.dtype for region in kernel.regions for node in region.values if is_float(node.dtype)}
    return max([float(ml_dtypes.finfo(np_dtype(dtype)).eps) for dtype in dtypes], default=0.0)


def check(cases: Sequence[Case]) -> None:
    """Compile all kernels together and run them."""
    if not cases:
        return
    module = Module([case.kernel for case in cases])
    for case in cases:
        case.check(module)
    if nvrtc.is_available():
        compile_together(case.kernel for case in cases)


def compile_together(kernels: Iterable[CudaKernel]) -> None:
    """Make machine code of all of them, for each architecture."""
    sources = dict.fromkeys(kernel.source for kernel in kernels)
    text = "\n".join([prelude(False), *map(in_namespace, sources, range(len(sources)))])
    assert all(nvrtc.compile(text, architecture) for architecture in ARCHITECTURES)


@each_batch
def test_values_are_those_of_the_reference(ops: Sequence[Op]) -> None:
    cases: list[Case] = []
    for op in ops:
        calls = list(calls_of(op))
        cases += cases_of(op.name, calls, [made.results for made in calls], ROUNDED.get(op.name, 0))
    check(cases)


def differentiable_calls(op: Op) -> list[Call]:
    """Calls of the samples that have gradients, in each float dtype."""
    samples, graph = [sample for sample in samples_of(op) if differentiable(op, sample)], Graph()
    return [call(op, retyped(sample, dtype), graph=graph) for dtype in FLOATS for sample in samples]


@each_batch
def test_gradients_are_those_of_the_reference(ops: Sequence[Op]) -> None:
    cases: list[Case] = []
    for op in ops:
        calls = differentiable_calls(op)
        if calls:
            cases += cases_of(f"gradient of {op.name}", calls, [gradients_of(made) for made in calls], GRADIENT_ULPS)
    check(cases)


@pytest.mark.skipif(not nvrtc.is_available(), reason="there is no NVRTC to compile CUDA C")
@each_batch
def test_kernels_around_cores_compile(ops: Sequence[Op]) -> None:
    """What they compute is tested room by room; here are those of all ops and their gradients."""
    for op in ops:
        values, varied = list(calls_of(op)), differentiable_calls(op)
        plans = [plan_of(values, [made.results for made in values])]
        plans += [plan_of(varied, [gradients_of(made) for made in varied])] if varied else []
        kernels = dict.fromkeys(step.kernel for plan in plans for step in plan.steps if step.kernel.core is not None)
        taken = [*kernels] if EVERYTHING else [*kernels][:1]
        found = [printed for printed in map(cuda_kernel, taken) if printed is not None and printed.source]
        if found:
            compile_together(found)
