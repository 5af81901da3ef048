"""Plans as text: every step with its kernel, and every buffer; and how reports call them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphc.ir import Node
from graphc.kernel_text import kernel_lines

if TYPE_CHECKING:
    from graphc.plan import Plan, Step

UNITS = ("B", "KB", "MB", "GB", "TB")
NAMED = 4  # ops that a kernel's name says
LEAVES = frozenset({"placeholder", "variable", "parameter", "constant"})


def plan_lines(plan: Plan) -> Iterator[str]:
    """Every step with its buffers and its kernel; a kernel that was shown before is only named."""
    shown: dict[object, int] = {}
    for at, step in enumerate(plan.kernels):
        reads, writes = (", ".join(map(str, found)) for found in (step.reads, step.writes))
        yield f"step {at}: {step_name(step)}, buffers {reads or 'none'} -> {writes}{_in_place(step)}"
        first = shown.setdefault(step.kernel, at)
        yield from (f"  {line}" for line in kernel_lines(step.kernel)) if first == at else [f"  as in step {first}"]
    for k, (buffer, nbytes) in enumerate(zip(plan.buffers, plan.nbytes, strict=True)):
        place = f" at {plan.offsets[k]}" if buffer.role == "arena" else ""
        takes = "" if buffer.takes is None else f", takes the bytes of {buffer.takes}"
        order = "" if buffer.order is None else f", axes in the order {' '.join(map(str, buffer.order))}"
        yield f"buffer {k}: {buffer.role} {buffer.type}, {nbytes} bytes{place}{takes}{order}"


def step_name(step: Step) -> str:
    """The kernel's kind and the ops that it computes: `contract matmul add maximum`."""
    ops = [node.op.name for node in step.nodes if node.op.kind not in LEAVES] or ["copy"]
    more = [f"+{len(ops) - NAMED}"] if len(ops) > NAMED else []
    return " ".join([step.kernel.kind + ":", *ops[:NAMED], *more])


def _in_place(step: Step) -> str:
    pairs = ", ".join(f"{write} in the bytes of {read}" for read, write in step.in_place)
    return f", {pairs}" if pairs else ""


def source_line(node: Node) -> str:
    """The user's line of a value, `model.py:12`; "" if it isn't known."""
    site = node.occurrence.site
    return site.short if site else ""


def with_unit(count: int) -> str:
    """`1536` as `1.5 KB`."""
    size, unit = float(count), 0
    while size >= 1024 and unit + 1 < len(UNITS):
        size, unit = size / 1024, unit + 1
    return f"{size:.4g} {UNITS[unit]}"
