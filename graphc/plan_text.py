"""Plans as text: a report of what was made of a program, and the kernels themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
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
        yield f"buffer {k}: {buffer.role} {buffer.type}, {nbytes} bytes{place}{takes}"


def report_lines(plan: Plan) -> Iterator[str]:
    """What was made of a program: bytes, what is fused, what shares bytes, and the kernels in order."""
    sizes = ", ".join(f"{name} = {size}" for name, size in plan.dims.items())
    different = len({step.kernel for step in plan.kernels})
    peak, bound = _bytes(plan.peak_bytes), _bytes(plan.lower_bound_bytes)
    yield f"{len(plan.kernels)} kernels, {different} different{f', for {sizes}' if sizes else ''}"
    yield f"memory: {peak} of arena, at least {bound} needed; {_others(plan)}"
    yield from _savings(plan)
    width = max([len(step_name(step)) for step in plan.kernels], default=0)
    start = 0
    for (name, line), group in groupby(plan.kernels, key=lambda step: (step_name(step), _source(step))):
        count = len(list(group))
        span = f"{start}" if count == 1 else f"{start}-{start + count - 1}"
        yield f"  {span:>7}  {name:<{width}}  {line}".rstrip()
        start += count
    nodes = [node for step in plan.kernels for node in step.nodes]
    opaque = dict.fromkeys(node.display_name for node in nodes if node.op.kind == "opaque")
    doubtful = f", if {', '.join(opaque)} give the same" if opaque else ""
    yield f"the same inputs and seed give the same bits in every run{doubtful}"


def step_name(step: Step) -> str:
    """The kernel's kind and the ops that it computes: `contract matmul add maximum`."""
    ops = [node.op.name for node in step.nodes if node.op.kind not in LEAVES] or ["copy"]
    more = [f"+{len(ops) - NAMED}"] if len(ops) > NAMED else []
    return " ".join([step.kernel.kind + ":", *ops[:NAMED], *more])


def _in_place(step: Step) -> str:
    pairs = ", ".join(f"{write} in the bytes of {read}" for read, write in step.in_place)
    return f", {pairs}" if pairs else ""


def _source(step: Step) -> str:
    site = step.nodes[-1].occurrence.site
    return site.short if site else ""


def _others(plan: Plan) -> str:
    """The bytes that aren't in the arena, by what they are for."""
    total: Counter[str] = Counter()
    for buffer, nbytes in zip(plan.buffers, plan.nbytes, strict=True):
        in_place = buffer.role == "update" and buffer.takes is not None
        total["updated in place" if in_place else PLACES[buffer.role]] += nbytes
    del total[PLACES["arena"]]
    return ", ".join(f"{what} {_bytes(nbytes)}" for what, nbytes in total.items()) or "nothing else"


PLACES = {
    "given": "given",
    "constant": "constants",
    "arena": "temporaries",
    "result": "results",
    "update": "second arrays of variables",
}


def _savings(plan: Plan) -> Iterator[str]:
    nodes = [node for node in plan.symbolic.program.nodes() if node.op.kind not in LEAVES]
    stored = {buffer.node for buffer in plan.buffers if buffer.role not in ("given", "constant")}
    fused = [node for node in nodes if node not in stored]
    yield f"fused: {len(fused)} of {len(nodes)} values are never in memory ({_kinds(fused)})"
    shared = [(plan.buffers[k], nbytes) for k, nbytes in enumerate(plan.nbytes) if plan.buffers[k].takes is not None]
    updates = sum(buffer.role == "update" for buffer, _ in shared)
    temporaries = len(shared) - updates
    yield f"in place: {temporaries} temporaries, {updates} of {len(plan.symbolic.updates)} updates"
    arena = sum(nbytes for buffer, nbytes in zip(plan.buffers, plan.nbytes, strict=True) if buffer.role == "arena")
    yield f"reused: {_bytes(arena)} of temporaries lie in {_bytes(plan.peak_bytes)}"


def _kinds(nodes: Sequence[Node]) -> str:
    counts = Counter(node.op.kind for node in nodes)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: -item[1])) or "none"


def _bytes(count: int) -> str:
    """`1536` as `1.5 KB`."""
    size, unit = float(count), 0
    while size >= 1024 and unit + 1 < len(UNITS):
        size, unit = size / 1024, unit + 1
    return f"{size:.4g} {UNITS[unit]}"
