"""What the GPU target says of a plan: how each kernel is computed, and what the host computes, with the copies."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.dims import evaluate
from graphc.kernel import Kernel
from graphc.plan import Made, Plan, Step
from graphc.plan_text import with_unit
from graphc.runtime.cuda.launches import CudaKernel


def made_of(plan: Plan, kernels: Mapping[Kernel, CudaKernel]) -> tuple[Made, ...]:
    """What the target has made of each step of a plan."""
    return tuple([_made(step, plan, kernels.get(step.kernel)) for step in plan.kernels])


def _made(step: Step, plan: Plan, kernel: CudaKernel | None) -> Made:
    if kernel is not None:
        return Made(True, ", ".join(kernel.notes) or "native", evaluate(kernel.workspace, plan.dims))
    core = step.kernel.core
    what = core.op.name if core is not None else ", ".join(dict.fromkeys(node.op.name for node in step.nodes))
    down, up = (with_unit(sum([plan.nbytes[k] for k in buffers])) for buffers in (step.reads, step.writes))
    return Made(False, f"no code for {what}; {down} copied to the host, {up} back")
