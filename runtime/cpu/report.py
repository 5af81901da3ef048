"""What the native target says of a plan: how each kernel is computed, what it needs, and what has no code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from graphc.dims import evaluate
from graphc.plan import Made, Plan, Step, Variant
from graphc.runtime.cpu.driver import tickets_of
from graphc.runtime.cpu.phases import NativeKernel


def made_of(plan: Plan, natives: Mapping[Variant, NativeKernel]) -> tuple[Made, ...]:
    """What the target has made of each step of a plan."""
    return tuple(_made(plan, natives))


def _made(plan: Plan, natives: Mapping[Variant, NativeKernel]) -> Iterator[Made]:
    for native, group in groupby(plan.kernels, lambda step: step.variant in natives):
        steps = list(group)
        if not native:
            yield from [Made(False, f"no code for {_without_code(step)}") for step in steps]
            continue
        found = [_phases(natives[step.variant], plan.dims) for step in steps]
        for step, phases in zip(steps, found, strict=True):
            code = natives[step.variant]
            parts = [tickets_of(units, cost)[1] for units, cost, _ in phases]
            scratch = max([scratch for _, _, scratch in phases], default=0)
            how, workspace = ", ".join(code.notes) or "native", evaluate(code.workspace, plan.dims)
            yield Made(True, how, workspace, scratch, max([1, *parts]), code.kept or 0)


def _phases(native: NativeKernel, dims: Mapping[str, int]) -> Sequence[tuple[int, int, int]]:
    """Units, cost and scratch of each phase that runs in each run."""
    phases = [phase for phase in native.phases if not phase.prepares]
    return [(evaluate(p.units, dims), evaluate(p.cost, dims), evaluate(p.scratch, dims)) for p in phases]


def _without_code(step: Step) -> str:
    core = step.kernel.core
    return core.op.name if core is not None else ", ".join(dict.fromkeys(node.op.name for node in step.nodes))
