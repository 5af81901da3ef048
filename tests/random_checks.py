"""What the tests of random programs check: agreement with the reference, and every byte that a plan touches.

Two results agree if they have the same bits, or differ no more than rounding allows. How much that is, is measured:
the program is evaluated several times with noise of a few units in the last place at each op that rounds (stochastic
arithmetic; J. Vignes, "A stochastic arithmetic for reliable scientific computation", 1993).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from op_testing import decomposed, same_bits
from random_graphs import ACCUMULATING, Case, evaluate_contiguous

from graphc.dims import evaluate
from graphc.ir import Node
from graphc.kernel import Access, Region
from graphc.ops.state import by_mode, tracked
from graphc.plan import Plan, Step
from graphc.types import is_float, np_dtype

Array = np.ndarray[Any, Any]

ULPS = 4  # noise at each op, in units in the last place
FACTOR = 4  # a difference may be this much larger than the largest one that noise made
SAMPLES = 24  # evaluations with noise
HOPELESS = 1e-2  # relative to the largest element: where noise alone makes so much, agreement says nothing

# Ops of floats that round nothing: noise at them would only break ties that every correct program keeps.
EXACT = frozenset(
    {"maximum", "minimum", "where", "negative", "abs", "sign", "clip", "floor", "ceil", "round", "cast", "relu"}
    | {"identity", "stop_gradient", "reduce_max", "reduce_min", "by_mode", "tracked", "constant", "sort", "topk"}
)


# --------------------------------------------------------------------------------------------- values


def values_of(case: Case, roots: Sequence[Node], noise: np.random.Generator | None = None) -> list[Array]:
    """The values of `roots`, each node evaluated by its op's reference in contiguous memory, in the case's mode.

    Args:
        noise: if given, what rounds is perturbed at random.
    """
    known: dict[Node, Any] = dict(case.values)
    with np.errstate(all="ignore"):
        for node in sorted(taken(case, roots), key=lambda node: node.serial):
            if node not in known:
                args = [known[i] for i in needed(case, node)]
                known[node] = args[0] if node.op in MODAL else _computed(case, node, args, noise)
    return [known[root] for root in roots]


def _computed(case: Case, node: Node, args: list[Any], noise: np.random.Generator | None) -> Any:
    if noise is None or node.op.name in EXACT:
        return evaluate_contiguous(node, args, case.dims, case.draws)
    if node.op.kind in ACCUMULATING:
        args = [_noisy(arg, noise) for arg in args]
    value = evaluate_contiguous(node, args, case.dims, case.draws)
    return value if node.op.kind in ("view", "concat") else _noisy(value, noise)


def _noisy(value: Any, noise: np.random.Generator) -> Any:
    if not isinstance(value, np.ndarray) or not is_float(value.dtype.name):
        return value
    unit = float(ml_dtypes.finfo(value.dtype).eps)
    wide = value.astype(np.float64)
    return (wide * (1 + unit * noise.uniform(-ULPS, ULPS, value.shape))).astype(value.dtype)


def updates_of(case: Case) -> dict[Node, Node]:
    """The new value of each variable that a run of the case changes, the tracked ones of a training run included."""
    updates = dict(case.program.updates)
    if case.training:
        updates |= {node.inputs[1]: node.inputs[2] for node in taken(case, case.program.roots) if node.op is tracked}
    return updates


MODAL = (by_mode, tracked)


def needed(case: Case, node: Node) -> Sequence[Node]:
    """The inputs that a node is computed from in the case's mode; of an op in `MODAL`, the first is its value."""
    if node.op is by_mode:
        return node.inputs[:1] if case.training else node.inputs[1:]
    return node.inputs[:1] if node.op is tracked and not case.training else node.inputs


def taken(case: Case, roots: Iterable[Node]) -> set[Node]:
    """The nodes that `roots` need in the case's mode."""
    stack = list(roots)
    seen = set(stack)
    while stack:
        fresh = [i for i in dict.fromkeys(needed(case, stack.pop())) if i not in seen]
        seen.update(fresh)
        stack += fresh
    return seen


def disagreement(found: Array, case: Case, root: Node, wanted: Array, *, bits: bool = False) -> str:
    """What is wrong with the value `found` of `root`, of which the reference says `wanted`; empty if nothing is.

    Args:
        bits: whether they must be equal bit for bit.
    """
    if same_bits(np.asarray(found), wanted):
        return ""
    shown = f"{root!r} is\n{found!r}\ninstead of\n{wanted!r}"
    if bits or found.dtype != wanted.dtype or found.shape != wanted.shape:
        return shown
    allowed = FACTOR * spread(case, root, wanted) + ULPS * _unit(wanted) * _size(wanted)
    finite = np.isfinite(wanted.astype(np.float64))
    with np.errstate(invalid="ignore"):
        difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    worst = float(np.max(difference, where=finite, initial=0))
    return "" if worst <= allowed else f"{shown}\nwhich is off by {worst:.3g}, where {allowed:.3g} is allowed"


def spread(case: Case, root: Node, wanted: Array) -> float:
    """The largest difference that noise makes; infinite if it makes something that isn't finite."""
    (whole,) = decomposed([root])
    largest = 0.0
    finite = np.isfinite(wanted.astype(np.float64))
    for k in range(SAMPLES):
        (value,) = values_of(case, [whole], np.random.default_rng(k))
        difference = np.abs(value.astype(np.float64) - wanted.astype(np.float64))[finite]
        largest = max(largest, float(np.max(difference, initial=0)))
        if not np.isfinite(largest):
            return np.inf
    return largest


def is_hopeless(case: Case, root: Node, wanted: Array) -> bool:
    """Whether rounding alone may change a value beyond recognition."""
    return spread(case, root, wanted) > HOPELESS * _size(wanted)


def _unit(array: Array) -> float:
    return float(ml_dtypes.finfo(array.dtype).eps) if is_float(array.dtype.name) else 0.0


def _size(array: Array) -> float:
    wide = np.abs(array.astype(np.float64))
    return max(1.0, float(np.max(wide, where=np.isfinite(wide), initial=0)))


# --------------------------------------------------------------------------------------------- bytes


def byte_problems(plan: Plan) -> Iterator[str]:
    """What goes wrong when the steps run one after the other, byte by byte.

    Every byte knows the buffer that was written there last. A step may read only bytes of the buffer that it means,
    and may overwrite what it reads itself only where the plan says so, at the same places.
    """
    memory = _Bytes(plan)
    for at, step in enumerate(plan.kernels):
        reads = list(_touched(plan, step, writes=False))
        writes = list(_touched(plan, step, writes=True))
        for buffer, access, places in reads:
            if not memory.holds(buffer, places):
                yield f"step {at} reads bytes of buffer {buffer} that {memory.owners(buffer, places)} hold"
            for other, target, spots in writes:
                shared = memory.share(buffer, places, other, spots)
                if shared and not ((buffer, other) in step.in_place and access == target):
                    yield f"step {at} writes buffer {other} over buffer {buffer}, which it reads"
        for k, (buffer, _, places) in enumerate(writes):
            for other, _, spots in writes[:k]:
                if buffer != other and memory.share(buffer, places, other, spots):
                    yield f"step {at} writes buffers {buffer} and {other} to the same bytes"
        for buffer, _, places in writes:
            memory.write(buffer, places)
    for buffer in (*plan.symbolic.outputs, *plan.symbolic.updates):
        if not memory.holds(buffer, np.arange(plan.nbytes[buffer])):
            yield f"buffer {buffer} is not whole at the end of the run"


class _Bytes:
    """The memory of a run; for each byte the number of the buffer that it belongs to."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.arena = np.full(plan.peak_bytes, -1)
        self.own = [np.full(nbytes, -1) for nbytes in plan.nbytes]
        for k, buffer in enumerate(plan.buffers):
            if buffer.role in ("given", "constant"):
                self.own[k][:] = k

    def _at(self, buffer: int) -> tuple[int, Array, int]:
        """The memory that a buffer lies in, with a number for it, and where it begins."""
        found = self.plan.buffers[buffer]
        if found.role == "arena":
            return -1, self.arena, self.plan.offsets[buffer]
        home = buffer if found.takes is None else found.takes
        return home, self.own[home], 0

    def holds(self, buffer: int, places: Array) -> bool:
        """Whether these bytes of a buffer are there, and are its own."""
        _, memory, start = self._at(buffer)
        at = start + places
        inside = bool(np.all((places >= 0) & (places < self.plan.nbytes[buffer]) & (at < len(memory))))
        return inside and bool(np.all(memory[at] == buffer))

    def owners(self, buffer: int, places: Array) -> list[int]:
        """The buffers that these bytes belong to."""
        _, memory, start = self._at(buffer)
        return sorted(set(memory[np.clip(start + places, 0, len(memory) - 1)].tolist()))

    def share(self, buffer: int, places: Array, other: int, spots: Array) -> bool:
        """Whether bytes of two buffers are the same ones."""
        home, _, start = self._at(buffer)
        another, _, begin = self._at(other)
        return home == another and bool(np.isin(start + places, begin + spots).any())

    def write(self, buffer: int, places: Array) -> None:
        """Make these bytes the buffer's."""
        _, memory, start = self._at(buffer)
        memory[start + places] = buffer


def _touched(plan: Plan, step: Step, *, writes: bool) -> Iterator[tuple[int, Access, Array]]:
    """The bytes that a step reads or writes: the buffer, by which access, and which of its bytes."""
    for region in step.kernel.regions:
        for buffer, access in _accesses(step, region, writes):
            # The result of a reduction is stored once for each row, be the row empty.
            loops = list(zip(region.loops, access.strides, strict=True))
            once = [writes and loop.reduce and stride == 0 for loop, stride in loops]
            extents = [1 if o else evaluate(loop.extent, plan.dims) for o, (loop, _) in zip(once, loops, strict=True)]
            elements = np.full(extents, evaluate(access.offset, plan.dims))
            for k, stride in enumerate(access.strides):
                counter = np.arange(extents[k]) * evaluate(stride, plan.dims)
                elements += counter.reshape([-1 if j == k else 1 for j in range(len(extents))])
            size = np_dtype(plan.buffers[buffer].type.dtype).itemsize
            yield buffer, access, (elements.reshape(-1, 1) * size + np.arange(size)).ravel()


def _accesses(step: Step, region: Region, writes: bool) -> Iterator[tuple[int, Access]]:
    if writes:
        yield from ((step.writes[store.write], store.access) for store in region.stores)
    else:
        yield from ((step.reads[load.read], load.access) for load in region.loads if load.read is not None)


def least_peak(plan: Plan) -> int:
    """Most bytes of temporaries that are live at any step, each rounded up to 64, what shares bytes counted once."""
    size = {k: -(-plan.nbytes[k] // 64) * 64 for k, buffer in enumerate(plan.buffers) if buffer.role == "arena"}
    last = {k: at for at, step in enumerate(plan.kernels) for k in (*step.writes, *step.reads)}
    live: set[int] = set()
    most = 0
    for at, step in enumerate(plan.kernels):
        live |= size.keys() & set(step.writes)
        given = {plan.buffers[k].takes for k in step.writes}
        most = max(most, sum([size[k] for k in live - given]))
        live -= {k for k in live if last[k] == at}
    return most


def is_tight(plan: Plan) -> bool:
    """Whether the arena is at most 8 % larger than what must be live at a time."""
    return plan.peak_bytes - plan.kept_bytes <= 1.08 * least_peak(plan)
