"""What must hold of every kernel and plan, checked: the invariants of level 2.

Nothing here uses what the planner knew. The order, the bytes and every reuse of them are checked by going through the
steps as a run does, and every access by its least and greatest element.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from graphc.dims import evaluate
from graphc.errors import InternalError
from graphc.fallible import fallible
from graphc.ir import Node
from graphc.kernel import Access, Kernel, Region
from graphc.plan import Plan
from graphc.types import TupleType, dtype_info

ALIGNMENT = 64  # bytes
IN_BODIES = frozenset({"pointwise", "reduce", "view", "constant", "extent", "parameter"})


def verify_plan(plan: Plan) -> None:
    """Raise InternalError, with all that is wrong, unless `plan` is right.

    Every kernel is well formed and stays inside its buffers; every value is written once, before it is read; buffers
    that are live together share no bytes, except a result that takes those of an operand which is read only where it
    is written; a variable is overwritten only after its last reader, when nothing can fail any more; results are
    arrays of their own.
    """
    kernels = dict.fromkeys(step.kernel for step in plan.kernels)
    problems = [problem for kernel in kernels for problem in kernel_problems(kernel)]
    problems += [*_buffer_problems(plan), *_order_problems(plan)]
    problems = problems or [*_access_problems(plan), *_byte_problems(plan), *_update_problems(plan)]
    if problems:
        raise InternalError("a plan is not well formed", lines=problems)


# --------------------------------------------------------------------------------------------- kernels


def kernel_problems(kernel: Kernel) -> Iterator[str]:
    """What is wrong with a kernel in itself."""
    core = kernel.core
    if core is not None:
        if len(core.inputs) != len(kernel.operands):
            yield f"{core!r} has {len(core.inputs)} inputs, its kernel {len(kernel.operands)} operands"
        results = core.type.items if isinstance(core.type, TupleType) else (core.type,)
        if len(results) != len(kernel.results):
            yield f"{core!r} has {len(results)} results, its kernel {len(kernel.results)} regions for them"
        types = (*(i.tensor_type for i in core.inputs), *results)
        for type, region in zip(types, kernel.regions, strict=False):
            if tuple([loop.extent for loop in region.loops]) != type.shape and (region.stores or region.loads):
                yield f"a region of {core!r} doesn't run over {type}"
    for k, region in enumerate(kernel.regions):
        element = core is not None and k >= len(kernel.operands)
        yield from (f"{kernel.kind} kernel, region {k}: {problem}" for problem in _region_problems(region, element))
        if core is not None and k < len(kernel.operands) and (region.stores or len(region.body.outputs) != 1):
            yield f"{kernel.kind} kernel: operand {k} must give one value and store none"


def _region_problems(region: Region, element: bool) -> Iterator[str]:
    rank, row = len(region.loops), region.rows
    if len(region.body.inputs) != len(region.loads) + element:
        yield f"{len(region.body.inputs)} parameters for {len(region.loads)} loads"
    if region.stores and len(region.stores) != len(region.body.outputs):
        yield f"{len(region.stores)} stores of {len(region.body.outputs)} outputs"
    accesses = [load.access for load in region.loads] + [store.access for store in region.stores]
    yield from (f"{access} over {rank} loops" for access in accesses if len(access.strides) != rank)
    shapes = {(), row, (1,) * len(row)}
    for node in region.values:
        if node.op.kind not in IN_BODIES or node.shape not in shapes:
            yield f"{node!r} in a body over rows {list(row)}"
        if node.op.kind == "reduce" and len(node.attrs["axes"]) != len(row):
            yield f"{node!r} doesn't reduce the whole row {list(row)}"
        if node.op.kind == "parameter" and node not in region.body.inputs:
            yield f"{node!r} is no parameter of its body"


def _access_problems(plan: Plan) -> Iterator[str]:
    """Accesses outside of their buffers, and loads of another dtype."""
    elements = [nbytes // b.type.itemsize for nbytes, b in zip(plan.nbytes, plan.buffers, strict=True)]
    seen: set[tuple[object, ...]] = set()
    for at, step in enumerate(plan.kernels):
        key = (step.kernel, *(elements[b] for b in step.reads), *(elements[b] for b in step.writes))
        if key in seen:
            continue
        seen.add(key)
        for write, count in _stored_elements(step.kernel, plan.dims).items():
            if count < elements[step.writes[write]]:
                yield f"step {at} writes {count} of the {elements[step.writes[write]]} elements of {step.writes[write]}"
        for region in step.kernel.regions:
            extents = [evaluate(loop.extent, plan.dims) for loop in region.loops]
            for buffer, access, dtype in _touched(region, step.reads, step.writes):
                if dtype_info(dtype).itemsize != plan.buffers[buffer].type.itemsize:
                    yield f"step {at} uses buffer {buffer}, {plan.buffers[buffer].type}, as {dtype}"
                least, most = _reach(access, extents, plan.dims)
                if 0 not in extents and not 0 <= least <= most < elements[buffer]:
                    yield f"step {at} uses elements {least} to {most} of buffer {buffer}, which has {elements[buffer]}"


def _stored_elements(kernel: Kernel, dims: Mapping[str, int]) -> dict[int, int]:
    """How many elements a kernel stores in each of its writes, at most."""
    found: dict[int, int] = {}
    for region in kernel.results:
        runs = all(evaluate(loop.extent, dims) for loop in region.loops if not loop.reduce)
        for store in region.stores:
            moved = [loop for loop, stride in zip(region.loops, store.access.strides, strict=True) if stride != 0]
            count = math.prod([evaluate(loop.extent, dims) for loop in moved]) if runs else 0
            found[store.write] = found.get(store.write, 0) + count
    return found


def _touched(region: Region, reads: Sequence[int], writes: Sequence[int]) -> Iterator[tuple[int, Access, str]]:
    formals = region.body.inputs[len(region.body.inputs) - len(region.loads) :]
    for formal, load in zip(formals, region.loads, strict=True):
        if load.read is not None:
            yield reads[load.read], load.access, formal.dtype
    for output, store in zip(region.body.outputs, region.stores, strict=False):
        yield writes[store.write], store.access, output.dtype


def _reach(access: Access, extents: Sequence[int], dims: Mapping[str, int]) -> tuple[int, int]:
    least = most = evaluate(access.offset, dims)
    for stride, extent in zip(access.strides, extents, strict=True):
        step = evaluate(stride, dims) * (extent - 1)
        least, most = least + min(step, 0), most + max(step, 0)
    return least, most


# --------------------------------------------------------------------------------------------- buffers and order


def _buffer_problems(plan: Plan) -> Iterator[str]:
    symbolic = plan.symbolic
    end = 0
    for k, (buffer, nbytes, offset) in enumerate(zip(plan.buffers, plan.nbytes, plan.offsets, strict=True)):
        if nbytes != buffer.type.bind(plan.dims).nbytes:
            yield f"buffer {k}, {buffer.type}, has {nbytes} bytes"
        axes = [*range(len(buffer.type.shape))]
        if buffer.order is not None and (buffer.role != "arena" or sorted(buffer.order) != axes):
            yield f"buffer {k}, {buffer.role} {buffer.type}, has the order {buffer.order}"
        if buffer.role == "arena":
            end = max(end, offset + nbytes)
            if offset < 0 or offset % ALIGNMENT:
                yield f"buffer {k} has offset {offset}, no multiple of {ALIGNMENT} from 0 up"
        elif offset:
            yield f"buffer {k} has offset {offset} but is not in the arena"
    if not end <= plan.peak_bytes or plan.lower_bound_bytes > plan.peak_bytes:
        yield f"the arena has {plan.peak_bytes} bytes; {end} are used, and {plan.lower_bound_bytes} live at once"
    slots = [("result", symbolic.program.outputs, symbolic.outputs)]
    slots.append(("update", tuple([new for _, new in symbolic.program.updates]), symbolic.updates))
    for role, nodes, found in slots:
        if len(set(found)) != len(nodes):
            yield f"{len(set(found))} buffers for {len(nodes)} {role}s"
        for node, k in zip(nodes, found, strict=True):
            if plan.buffers[k].role != role or plan.buffers[k].type is not node.type:
                yield f"buffer {k} holds {node!r}, but is {plan.buffers[k].role} of {plan.buffers[k].type}"


def _order_problems(plan: Plan) -> Iterator[str]:
    """Values that are read before they are written, written twice or never."""
    written = Counter(k for k, buffer in enumerate(plan.buffers) if buffer.role in ("given", "constant"))
    for at, step in enumerate(plan.kernels):
        numbers = [store.write for region in step.kernel.results for store in region.stores]
        if set(numbers) != set(range(len(step.writes))):
            yield f"step {at} writes {len(step.writes)} buffers, its kernel {len(set(numbers))}"
        read = {load.read for region in step.kernel.regions for load in region.loads} - {None}
        if read != set(range(len(step.reads))):
            yield f"step {at} reads {len(step.reads)} buffers, its kernel {len(read)}"
        yield from (f"step {at} reads buffer {k} before it is written" for k in step.reads if not written[k])
        yield from (f"step {at} writes buffer {k} again" for k in step.writes if written[k])
        written.update(step.writes)
    wanted = (*plan.symbolic.outputs, *plan.symbolic.updates)
    yield from (f"buffer {k} is never written" for k in wanted if not written[k])


# --------------------------------------------------------------------------------------------- bytes


def _byte_problems(plan: Plan) -> Iterator[str]:
    """Buffers that are written over bytes which somebody still reads."""
    last: dict[int, int] = {}
    for at, step in enumerate(plan.kernels):
        last.update(dict.fromkeys((*step.writes, *step.reads), at))
    dying: list[list[int]] = [[] for _ in plan.kernels]
    for buffer, at in last.items():
        dying[at].append(buffer)
    live: list[tuple[int, int, int]] = []  # (offset, end, buffer) of those that hold a value, ascending
    for at, step in enumerate(plan.kernels):
        for write in step.writes:
            if plan.buffers[write].role != "arena" or not plan.nbytes[write]:
                continue
            start, end = plan.offsets[write], plan.offsets[write] + plan.nbytes[write]
            first = bisect_left(live, (start, -1, -1))
            first -= first > 0 and live[first - 1][1] > start
            after = bisect_left(live, (end, -1, -1))
            for _, _, old in live[first:after]:
                if not _may_overlap(plan, at, old, write, last):
                    yield f"step {at} writes buffer {write} over buffer {old}, which is read in step {last[old]}"
            live[first:after] = [(start, end, write)]
        for dead in dying[at]:
            entry = (plan.offsets[dead], plan.offsets[dead] + plan.nbytes[dead], dead)
            place = bisect_left(live, entry)
            if live[place : place + 1] == [entry]:
                del live[place]


def _may_overlap(plan: Plan, at: int, old: int, new: int, last: Mapping[int, int]) -> bool:
    """Whether step `at` may write `new` into the bytes of `old`, which it reads."""
    step = plan.kernels[at]
    same = plan.offsets[old] == plan.offsets[new] and plan.nbytes[old] == plan.nbytes[new]
    declared = plan.buffers[new].takes == old and (old, new) in step.in_place
    return same and declared and last[old] == at and reads_before_writing(step.kernel, *_numbers(plan, at, old, new))


def _numbers(plan: Plan, at: int, read: int, write: int) -> tuple[int, int]:
    step = plan.kernels[at]
    return step.reads.index(read), step.writes.index(write)


def reads_before_writing(kernel: Kernel, read: int, write: int) -> bool:
    """Whether a kernel reads every element of a buffer before it writes the same bytes of another, in any order."""
    regions = [region for region in kernel.regions if any(load.read == read for load in region.loads)]
    if len(kernel.results) != 1 or regions != [kernel.results[0]]:
        return False
    region = kernel.results[0]
    stores = [(o, s.access) for o, s in zip(region.body.outputs, region.stores, strict=True) if s.write == write]
    formals = region.body.inputs[len(region.body.inputs) - len(region.loads) :]
    loads = [(f, x.access) for f, x in zip(formals, region.loads, strict=True) if x.read == read]
    if len(stores) != 1 or any(access != stores[0][1] for _, access in loads):
        return False
    output = stores[0][0]
    if any(dtype_info(formal.dtype).itemsize != dtype_info(output.dtype).itemsize for formal, _ in loads):
        return False
    return all(_last_read(region, formal) <= _pass(region, output) for formal, _ in loads)


def _pass(region: Region, output: Node) -> int:
    number = region.passes[output]
    return number if output.shape == region.rows else number - 1  # what isn't per element is known after a pass


def _last_read(region: Region, formal: Node) -> int:
    """The last pass over the row in which an element of a load may be wanted."""
    passes = region.passes
    wanted = {formal}
    latest = 0
    for node in region.values:
        used = [i for i in node.inputs if i in wanted]
        if used and node.op.kind == "reduce":
            latest = max(latest, passes[node] - 1)
        elif used:
            wanted.add(node)
            if node.shape == region.rows:
                latest = max(latest, passes[node])
    return latest


def _update_problems(plan: Plan) -> Iterator[str]:
    """Variables that are overwritten while somebody may still want the old value, and arrays that share bytes."""
    symbolic = plan.symbolic
    allowed = {
        new: symbolic.given.get(variable)
        for (variable, _), new in zip(symbolic.program.updates, symbolic.updates, strict=True)
    }
    fails = list(fallible(plan.kernels))
    for k, buffer in enumerate(plan.buffers):
        if buffer.takes is None:
            continue
        giver = plan.buffers[buffer.takes]
        if buffer.role == "arena" and giver.role == "arena":
            continue
        if buffer.role != "update" or allowed[k] != buffer.takes:
            yield f"buffer {k}, {buffer.role}, takes the bytes of buffer {buffer.takes}, {giver.role}"
            continue
        writer = next(at for at, step in enumerate(plan.kernels) if k in step.writes)
        for at, step in enumerate(plan.kernels[writer:], writer):
            if fails[at]:
                yield f"step {at} can fail after step {writer} has overwritten {giver.node!r}"
            reads = buffer.takes in step.reads
            if reads and (at > writer or not reads_before_writing(step.kernel, *_numbers(plan, at, buffer.takes, k))):
                yield f"step {at} reads {giver.node!r} after step {writer} has overwritten it"
