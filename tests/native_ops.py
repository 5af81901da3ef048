"""Ops as native code: which have any, and their values on leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from op_testing import Call, call, retyped, samples_of

from graphc.ir import Graph, Node, Program
from graphc.op import Array, Op
from graphc.passes.pipeline import run_pipeline
from graphc.passes.plan import plan_kernels
from graphc.plan import Step
from graphc.runtime.cpu.host import this_host
from graphc.runtime.cpu.kernels import native_kernel
from graphc.runtime.cpu.target import CpuTarget
from graphc.target import TargetInfo

# What NumPy runs on the native target: the op, and the dtypes of its results.
BY_NUMPY: dict[str, frozenset[str]] = {"cumsum": frozenset({"bool"})}

# Where in runtime/cpu the code of an op of each kind is emitted.
FILES = {
    "pointwise": "pointwise.py",
    "reduce": "reductions.py",
    "contract": "gemm.py",
    "conv": "conv.py",
    "window": "window.py",
    "index": "index.py",
    "scan": "scan.py",
    "sort": "sort.py",
}


@cache
def target(threads: int) -> CpuTarget:
    """A target that the tests share, so that it makes each kernel once."""
    return CpuTarget(threads)


def lacks_code(op: Op) -> str | None:
    """What is missing for an op to run natively in float32 (or in the dtypes of its samples), or None."""
    graph = Graph()
    calls = [call(op, retyped(sample, "float32"), graph=graph) for sample in samples_of(op)]
    steps = plan_kernels(program_of(calls, [made.results for made in calls]), CpuTarget.info).steps
    for step in steps:
        if native_kernel(step.kernel, this_host()) is None:
            node = _without_code(step)
            return f"{node.op.name} has no native code: add it to runtime/cpu/{FILES.get(node.op.kind, 'kernels.py')}"
    return None


def _without_code(step: Step) -> Node:
    """The node of a step that is the likely reason: its core, or else what it computes last."""
    core = step.kernel.core
    return step.nodes[-1] if core is None else core


def program_of(
    calls: Sequence[Call], roots: Sequence[Sequence[Node]], info: TargetInfo = CpuTarget.info
) -> Program:
    """What is computed from the leaves of several calls, ready for a target."""
    leaves = tuple([leaf for made in calls for leaf in made.feeds])
    program = Program(leaves, tuple([root for some in roots for root in some]), ())
    return run_pipeline(program, info, training=False)


def native_values(calls: Sequence[Call], roots: Sequence[Sequence[Node]]) -> tuple[Iterator[Array], frozenset[str]]:
    """The values of the roots, by one program of native code, and the dtypes of those that NumPy computed.

    They have the same bits when the work is divided among threads.
    """
    feeds = {leaf: value for made in calls for leaf, value in made.feeds.items()}
    executable = target(1).compile(program_of(calls, roots))
    by_numpy = [step for step in executable.symbolic.steps if step.variant not in executable.natives]
    found, _ = executable.run(feeds, {}, {})
    executable.target = target(3)
    divided, _ = executable.run(feeds, {}, {})
    assert [value.tobytes() for value in divided] == [value.tobytes() for value in found]
    return iter(found), frozenset(node.dtype for step in by_numpy for node in step.nodes)
