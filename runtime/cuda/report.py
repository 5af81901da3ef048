"""What the GPU target says of a plan: how each kernel is computed, and what the host computes, with the copies."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.dims import evaluate
from graphc.kernel import Kernel
from graphc.occurrences import on_host
from graphc.plan import Made, Plan, Step
from graphc.plan_text import with_unit
from graphc.runtime.cuda.launches import CudaKernel


def made_of(plan: Plan, kernels: Mapping[Kernel, CudaKernel]) -> tuple[Made, ...]:
    """What the target has made of each step of a plan."""
    return tuple([_made(step, plan, kernels.get(step.kernel)) for step in plan.kernels])


def _made(step: Step, plan: Plan, kernel: CudaKernel | None) -> Made:
    if kernel is not None and not _is_left(step):
        return Made(True, ", ".join(kernel.notes) or "native", evaluate(kernel.workspace, plan.dims), parts=0)
    core = step.kernel.core
    what = core.op.name if core is not None else ", ".join(dict.fromkeys(node.op.name for node in step.nodes))
    why = f"no code for {what}" if kernel is None else "left to the host by gc.device"
    down, up = (sum([plan.nbytes[k] for k in buffers]) for buffers in (step.reads, step.writes))
    return Made(False, f"{why}; {with_unit(down)} copied to the host, {with_unit(up)} back", copied=(down, up))


def is_hosted(step: Step, kernels: Mapping[Kernel, CudaKernel]) -> bool:
    """Whether NumPy runs a step: there is no code for it, or the user has left it to the host."""
    return step.kernel not in kernels or _is_left(step)


def _is_left(step: Step) -> bool:
    return any(map(on_host, step.nodes))
