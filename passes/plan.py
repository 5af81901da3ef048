"""From kernels to a plan: which buffers share bytes, and where they lie.

`plan_kernels` makes the symbolic plan of a program, once. `bind_plan` gives it sizes, in milliseconds: no kernel
changes, only bytes and offsets. `plan_program` does both.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

from graphc.collector import paused
from graphc.fallible import fallible
from graphc.ir import Node, Program
from graphc.kernel import Kernel, Region
from graphc.passes.lower import lower
from graphc.passes.memory import Interval, assign_offsets, lower_bound, round_up, share_storage
from graphc.passes.schedule import schedule
from graphc.passes.steadiness import is_steady, moving
from graphc.plan import Plan, SymbolicPlan
from graphc.shortage import shortage
from graphc.target import TargetInfo
from graphc.types import TensorType, np_dtype

# What can be switched off here, and the change to the target's description that does it.
INFO_SWITCHES: dict[str, dict[str, object]] = {
    "fuse": {"fuses": False},
    "epilogues": {"epilogues": frozenset()},
    "prologues": {"prologues": frozenset()},
    "rows": {"row_bytes": -1},
    "rematerialise": {"light": frozenset(), "heavy": {}},
    "prepared": {"prepares": frozenset()},
    "layout": {"orders": None},
}
PLAN_SWITCHES = frozenset({"schedule", "in_place", "arena"})
TECHNIQUES = PLAN_SWITCHES | INFO_SWITCHES.keys()


def plan_kernels(program: Program, info: TargetInfo, *, disable: Collection[str] = ()) -> SymbolicPlan:
    """The kernels of `program` for a target, in order, over buffers that share storage.

    Args:
        program: resolved to one mode, and decomposed for the target.
        disable: techniques of `TECHNIQUES` to leave out; other names mean nothing here.
    """
    for name in INFO_SWITCHES.keys() & set(disable):
        info = replace(info, **INFO_SWITCHES[name])  # type: ignore[arg-type]
    with paused():
        plan = lower(program, info)
        if "schedule" not in disable:
            plan = schedule(plan)
        plan = plan if "in_place" in disable else reuse(plan)
        return told_steady(plan, info.prepares) if info.prepares else plan


def plan_program(
    program: Program, info: TargetInfo, dims: Mapping[str, int], *, disable: Collection[str] = ()
) -> Plan:
    """The plan of `program` for a target and given sizes of its symbolic dimensions."""
    return bind_plan(plan_kernels(program, info, disable=disable), dims, shared="arena" not in disable)


def bind_plan(plan: SymbolicPlan, dims: Mapping[str, int], *, shared: bool = True) -> Plan:
    """The plan for given sizes: bytes of all buffers, and offsets in one arena.

    Args:
        shared: whether buffers that never live together may have the same bytes.

    Raises:
        ShapeError: a symbolic dimension has no size in `dims`.
        ResourceError: more bytes than numbers of the machine count.
    """
    with paused():
        return _bound(plan, dims, shared)


def _bound(plan: SymbolicPlan, dims: Mapping[str, int], shared: bool) -> Plan:
    nbytes = plan.by_type(partial(_nbytes, dims))
    if sum(nbytes) > sys.maxsize:
        raise shortage(plan.buffers, nbytes, dims, sum(nbytes))
    arena = [k for k, buffer in enumerate(plan.buffers) if buffer.role == "arena"]
    number = {buffer: k for k, buffer in enumerate(arena)}
    lifetimes = plan.lifetimes
    intervals = [Interval(round_up(nbytes[k]), *lifetimes[k]) for k in arena]
    takes = [(number[giver], number[k]) for k in arena if (giver := plan.buffers[k].takes) is not None]
    storages, storage = share_storage(intervals, takes)
    if not shared:
        storages = [Interval(whole.size, 0, len(plan.steps)) for whole in storages]
    placed, peak = assign_offsets(storages)
    offsets = [0] * len(plan.buffers)
    for k, at in zip(arena, storage, strict=True):
        offsets[k] = placed[at]
    return Plan(plan, dict(dims), tuple(nbytes), tuple(offsets), peak, lower_bound(storages))


def _nbytes(dims: Mapping[str, int], type: TensorType) -> int:
    nbytes = type.bind(dims).nbytes
    assert isinstance(nbytes, int)
    return nbytes


def told_steady(plan: SymbolicPlan, kinds: Collection[str]) -> SymbolicPlan:
    """The plan, whose steps of some kinds know which of their reads are steady: see `Step.steady`."""
    changing = moving(plan.program)
    steady = {
        k
        for k, buffer in enumerate(plan.buffers)
        if buffer.role in ("constant", "given") and is_steady(buffer.node, changing)
    }
    steps = list(plan.steps)
    known: dict[frozenset[int], frozenset[int]] = {}  # so that equal ones are one object
    for at, step in enumerate(steps):
        if not steady.isdisjoint(step.reads) and step.kernel.kind in kinds:
            numbers = frozenset([number for number, k in enumerate(step.reads) if k in steady])
            steps[at] = step._replace(steady=known.setdefault(numbers, numbers))
    return plan.refined(steps, plan.buffers)


# --------------------------------------------------------------------------------------------- in place


def reuse(plan: SymbolicPlan) -> SymbolicPlan:
    """Let results take the bytes of operands that die in the step that makes them, and variables be updated in place.

    A temporary is taken over if its elements are read only where they are written. A variable's new value takes the
    variable's bytes if besides no step that runs later reads the old value or can fail: a run that fails leaves every
    variable as it was.
    """
    buffers, steps = list(plan.buffers), list(plan.steps)
    lifetimes = plan.lifetimes
    old = {
        new: plan.given[variable]
        for (variable, _), new in zip(plan.program.updates, plan.updates, strict=True)
        if variable in plan.given
    }
    sizes = plan.by_type(lambda type: type.nbytes)
    safe_from = 1 + max((at for at, fails in enumerate(fallible(steps)) if fails), default=-1)

    def may_take(taker: int, giver: int, at: int) -> bool:
        dies = lifetimes[giver][1]
        fits = sizes[giver] == sizes[taker]
        if taker in old:
            return fits and giver == old[taker] and dies <= at and at >= safe_from
        return fits and buffers[taker].role == buffers[giver].role == "arena" and dies == at

    pairs = {kernel: list(in_place_pairs(kernel)) for kernel in {step.kernel for step in steps}}
    for at, step in enumerate(steps):
        allowed: dict[int, list[int]] = {}
        if not old.keys().isdisjoint(step.writes):
            allowed = {new: [old[new]] for new in step.writes if new in old and old[new] not in step.reads}
        for read, write in pairs[step.kernel]:
            allowed.setdefault(step.writes[write], []).append(step.reads[read])
        taken: dict[int, int] = {}
        for taker, givers in allowed.items():
            giver = next((g for g in givers if g not in taken and may_take(taker, g, at)), None)
            if giver is not None:
                taken[giver] = taker
                buffers[taker] = buffers[taker].taking(giver)
        in_place = tuple([pair for pair in taken.items() if pair[0] in step.reads])
        steps[at] = step._replace(in_place=in_place) if in_place else step
    return plan.refined(steps, buffers)


def updated_after(plan: SymbolicPlan, last: int) -> SymbolicPlan:
    """The plan, in which no step up to the `last` writes over a variable: such new values get arrays of their own."""
    early = {new for new in plan.updates if plan.buffers[new].takes is not None and plan.lifetimes[new][0] <= last}
    if not early:
        return plan
    buffers = [b._replace(takes=None) if k in early else b for k, b in enumerate(plan.buffers)]
    steps = [s._replace(in_place=tuple([p for p in s.in_place if p[1] not in early])) for s in plan.steps]
    return plan.refined(steps, buffers)


def in_place_pairs(kernel: Kernel) -> Iterator[tuple[int, int]]:
    """The pairs (read, write) of a kernel that may be in the same bytes.

    Every load of the read has the same access as the one store of the write, both have elements of one size, and the
    store comes in the last pass over the row, so that no element is read after it was written.
    """
    if len(kernel.results) != 1:
        return
    region = kernel.results[0]
    outside = {load.read for operand in kernel.operands for load in operand.loads}
    formals = region.body.inputs[-len(region.loads) :] if region.loads else ()
    loads = list(zip(formals, region.loads, strict=True))
    accesses: dict[int | None, set[object]] = {}
    for formal, load in loads:
        accesses.setdefault(load.read, set()).add((load.access, np_dtype(formal.dtype).itemsize))
    last = _in_last_pass(region)
    written = Counter(store.write for store in region.stores)
    for output, store in zip(region.body.outputs, region.stores, strict=True):
        wanted = {(store.access, np_dtype(output.dtype).itemsize)}
        if output in last and written[store.write] == 1:
            for read, found in accesses.items():
                if read is not None and read not in outside and found == wanted:
                    yield read, store.write


def _in_last_pass(region: Region) -> set[Node]:
    """The values of a body that are known no earlier than in the last pass over the row in which anything is read."""
    row = region.rows
    last = max([number for node, number in region.passes.items() if node.shape == row], default=0)
    return {node for node, number in region.passes.items() if number == last + (node.shape != row)}
