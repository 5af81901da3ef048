"""Reports of plans: what was made of a program, what lies in memory and why, and the kernels in order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from graphc.ir import Node, Program
from graphc.plan_text import LEAVES, source_line, step_name, with_unit

if TYPE_CHECKING:
    from graphc.plan import Made, Plan, Step

SHOWN = 3  # examples, in a line of a report


def report_lines(plan: Plan) -> Iterator[str]:
    """What was made of a program: bytes, what is fused, what shares bytes, and the kernels in order."""
    sizes = ", ".join(f"{name} = {size}" for name, size in plan.dims.items())
    different = len({step.kernel for step in plan.kernels})
    peak, bound = with_unit(plan.peak_bytes - plan.kept_bytes), with_unit(plan.lower_bound_bytes)
    yield f"{len(plan.kernels)} kernels, {different} different{f', for {sizes}' if sizes else ''}"
    yield f"memory: {peak} of arena, at least {bound} needed; {_others(plan)}"
    if plan.written is not None:
        yield from _simplified(plan.written, plan.symbolic.program)
    yield from _savings(plan)
    yield from _code(plan)
    yield from _table(plan)
    yield from _between(plan)
    nodes = [node for step in plan.kernels for node in step.nodes]
    opaque = dict.fromkeys(node.display_name for node in nodes if node.op.kind == "opaque")
    doubtful = f", if {', '.join(opaque)} give the same" if opaque else ""
    yield f"the same inputs and seed give the same bits in every run{doubtful}"


def _table(plan: Plan) -> Iterator[str]:
    """The kernels in order; those that follow each other and say the same are one line."""
    rows = [_row(step, made) for step, made in zip(plan.kernels, plan.made or [None] * len(plan.kernels), strict=True)]
    names, lines = (max([len(row[k]) for row in rows], default=0) for k in (0, 1))
    start = 0
    for (name, line, how), group in groupby(rows):
        count = len(list(group))
        span = f"{start}" if count == 1 else f"{start}-{start + count - 1}"
        yield f"  {span:>7}  {name:<{names}}  {line:<{lines}}  {how}".rstrip()
        start += count


def _row(step: Step, made: Made | None) -> tuple[str, str, str]:
    line = source_line(step.nodes[-1])
    if made is None:
        return step_name(step), line, ""
    if not made.native:
        return step_name(step), line, f"NumPy: {made.how}"
    parts = f" [{made.parts} parts]" if made.parts > 1 else ""
    return step_name(step), line, f"{made.how}{parts}"


# ------------------------------------------------------------------------------------------- bytes


def _others(plan: Plan) -> str:
    """The bytes that aren't in the arena, by what they are for."""
    total: Counter[str] = Counter()
    for buffer, nbytes in zip(plan.buffers, plan.nbytes, strict=True):
        in_place = buffer.role == "update" and buffer.takes is not None
        total["updated in place" if in_place else PLACES[buffer.role]] += nbytes
    del total[PLACES["arena"]]
    return ", ".join(f"{what} {with_unit(nbytes)}" for what, nbytes in total.items()) or "nothing else"


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
    yield f"reused: {with_unit(arena)} of temporaries lie in {with_unit(plan.peak_bytes - plan.kept_bytes)}"
    yield from _laid_out(plan)
    keeping = sum(made.kept > 0 for made in plan.made)
    if keeping:
        yield f"prepared: {keeping} kernels keep {with_unit(plan.kept_bytes)} of transformed operands from run to run"


def _laid_out(plan: Plan) -> Iterator[str]:
    """The orders of temporaries that aren't row-major, and why others of as many axes are."""
    images = [(b, nbytes) for b, nbytes in zip(plan.buffers, plan.nbytes, strict=True) if b.role == "arena"]
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for buffer, nbytes in images:
        if buffer.order is not None:
            found[buffer.order].append(nbytes)
    for order, sizes in found.items():
        rest = [nbytes for b, nbytes in images if b.order is None and len(b.type.shape) == len(order)]
        others = f"; {len(rest)} of as many axes stay row-major, as most bytes around them do or may" if rest else ""
        axes = " ".join(map(str, order))
        yield f"laid out: {len(sizes)} temporaries ({with_unit(sum(sizes))}) lie as {axes}, as their cores like{others}"


def _kinds(nodes: Sequence[Node]) -> str:
    return _counted(Counter(node.op.kind for node in nodes)) or "none"


def _counted(counts: Mapping[str, int]) -> str:
    """`12 pointwise, 3 view`, the most first."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items(), key=lambda item: -item[1]) if count)


def _code(plan: Plan) -> Iterator[str]:
    """What the code needs, if a target says so."""
    native = [made for made in plan.made if made.native]
    if not plan.made:
        return
    workspace = max([made.workspace for made in native], default=0)
    scratch = max([made.scratch for made in native], default=0)
    what, needed = f"{len(native)} of {len(plan.made)} kernels are native", f"{with_unit(workspace)} of workspace"
    if all(made.parts for made in native):
        divided = sum(made.parts > 1 for made in native)
        what += f"; {divided} are divided among threads"
        needed += f", {with_unit(scratch)} of scratch a thread"
    yield f"code: {what}; {needed}"
    to_host, back = (sum([made.copied[way] for made in plan.made]) for way in (0, 1))
    if to_host or back:
        copied = f"{with_unit(to_host)} to the host, for what NumPy computes, and {with_unit(back)} back"
        yield f"copies: a run takes {copied}"


# ------------------------------------------------------------------------------------------- what became of ops


def _simplified(written: Program, program: Program) -> Iterator[str]:
    """How many ops there were, with composites taken apart, and which of them are gone."""
    counts = _ops(written)
    before, after = counts[written], Counter(node.op.name for node in program.nodes() if node.op.kind not in LEAVES)
    constants = {node for node in program.nodes() if node.op.kind == "constant"}
    ahead = len(constants.difference(*[within.nodes() for within in counts]))
    gone = before - after
    shown = dict(gone.most_common(SHOWN))
    rest = sum(gone.values()) - sum(shown.values())
    what = f" (fewer: {_counted(shown)}{f', {rest} others' if rest else ''})" if gone else ""
    yield (
        f"simplified: {sum(before.values())} ops, with composites taken apart, are {sum(after.values())}{what}; "
        f"{ahead} constants are computed ahead"
    )


def _ops(program: Program) -> dict[Program, Counter[str]]:
    """The primitive ops of a program, and of each body of a composite in it, those in bodies included."""
    counts: dict[Program, Counter[str]] = {}
    waiting = [program]
    while waiting:
        nodes = waiting[-1].nodes()
        missing = [node.body for node in nodes if node.body is not None and node.body not in counts]
        if missing:
            waiting += missing
            continue
        found = Counter(node.op.name for node in nodes if node.body is None and node.op.kind not in LEAVES)
        for body, times in Counter(node.body for node in nodes if node.body is not None).items():
            found.update({name: times * count for name, count in counts[body].items()})
        counts[waiting.pop()] = found
    return counts


# ------------------------------------------------------------------------------------------- why not fused


def _between(plan: Plan) -> Iterator[str]:
    """The values that one kernel writes and another reads: how many bytes, and what keeps them from being fused."""
    writers = {k: step for step in plan.kernels for k in step.writes}
    readers: dict[int, list[Step]] = defaultdict(list)
    for step in plan.kernels:
        for k in dict.fromkeys(step.reads):
            if k in writers:
                readers[k].append(step)
    if not readers:
        return
    found: dict[str, list[int]] = defaultdict(list)
    for k, steps in readers.items():
        found[_reason(k, writers[k], steps)].append(k)
    total = with_unit(sum(plan.nbytes[k] for k in readers))
    yield f"not fused: {len(readers)} values ({total}) are written by one kernel and read by another"
    for reason, buffers in sorted(found.items(), key=lambda item: -sum(plan.nbytes[k] for k in item[1])):
        names = list(dict.fromkeys(_name_and_line(plan.buffers[k].node) for k in buffers))
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        yield f"  {with_unit(sum(plan.nbytes[k] for k in buffers)):>9}  {reason}: {shown}"


def _name_and_line(node: Node) -> str:
    line = source_line(node)
    return f"{node.display_name} ({line})" if line else node.display_name


def _reason(buffer: int, writer: Step, readers: Sequence[Step]) -> str:
    """Why a value lies in memory, as far as the plan shows it; a value that several kernels need is one that none can
    keep to itself, whatever else holds."""
    if len(readers) > 1:
        return "several kernels read them, each of which would compute them again"
    (reader,) = readers
    core = reader.kernel.core
    if core is not None and any(
        load.read is not None and reader.reads[load.read] == buffer
        for region in reader.kernel.operands
        for load in region.loads
    ):
        often = core.op.kind in ("contract", "conv", "window")
        return f"{core.op.name} reads {'each element many times' if often else 'its operands as they lie in memory'}"
    if writer.kernel.core is not None and reader.kernel.kind == "reduce":
        return f"a kernel that sums computes what follows {writer.kernel.core.op.name}"
    if writer.kernel.kind == "reduce" and reader.kernel.core is None:
        return "results of a reduction, which is over before other loops use them"
    if writer.kernel.core is not None:
        return f"what follows {writer.kernel.core.op.name} has a kernel of its own"
    return "their users run over other loops, or their kernel is full"
