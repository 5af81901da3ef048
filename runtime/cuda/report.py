"""What the GPU target says of a plan: how each kernel is computed, and what the host computes, with the copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.dims import evaluate
from graphc.kernel import Kernel
from graphc.occurrences import on_host
from graphc.plan import Made, Plan, Step
from graphc.plan_text import with_unit
from graphc.runtime.cuda.bound import Asked
from graphc.runtime.cuda.launches import Convolution, CudaKernel, Fused

ByLibrary = Mapping[int, Sequence[Asked]]


def made_of(plan: Plan, kernels: Mapping[Kernel, CudaKernel], asked: ByLibrary | None = None) -> tuple[Made, ...]:
    """What the target has made of each step of a plan.

    Args:
        asked: what libraries were asked to do in each step, by its number; None before the first run, when they are.
    """
    by_step = [None if asked is None else asked.get(number, ()) for number in range(len(plan.kernels))]
    steps = zip(plan.kernels, by_step, strict=True)
    return tuple([_made(step, plan, kernels.get(step.kernel), libraries) for step, libraries in steps])


def _made(step: Step, plan: Plan, kernel: CudaKernel | None, asked: Sequence[Asked] | None) -> Made:
    if kernel is not None and not _is_left(step):
        return Made(True, _how(kernel, asked), evaluate(kernel.workspace, plan.dims), parts=0)
    core = step.kernel.core
    what = core.op.name if core is not None else ", ".join(dict.fromkeys(node.op.name for node in step.nodes))
    why = f"no code for {what}" if kernel is None else "left to the host by gc.device"
    down, up = (sum([plan.nbytes[k] for k in buffers]) for buffers in (step.reads, step.writes))
    return Made(False, f"{why}; {with_unit(down)} copied to the host, {with_unit(up)} back", copied=(down, up))


def _how(kernel: CudaKernel, asked: Sequence[Asked] | None) -> str:
    """By what a kernel is computed: a library that does it, or code of our own, and why a library doesn't."""
    own = ", ".join(kernel.notes) or "native"
    able = dict.fromkeys(command.name for command in kernel.commands if isinstance(command, Convolution | Fused))
    if not able:
        return own
    if asked is None:
        return f"{', '.join(able)} where it can, which the first run shows; else {own}"
    refused = [f"{library} {why}" for library, why in asked if why]
    return f"{own}, as {', '.join(dict.fromkeys(refused))}" if refused else ", ".join(able)


def is_hosted(step: Step, kernels: Mapping[Kernel, CudaKernel]) -> bool:
    """Whether NumPy runs a step: there is no code for it, or the user has left it to the host."""
    return step.kernel not in kernels or _is_left(step)


def _is_left(step: Step) -> bool:
    return any(map(on_host, step.nodes))
