"""The plan target: executes plans with NumPy, in a way that shows what is wrong with them.

Kernels run block by block in a random order, temporaries lie in a real arena at their planned offsets, and the bytes of
whatever is dead are overwritten with nan. A plan that depends on an order it doesn't promise, or reads what it has
overwritten or never written, gives wrong results here; every plan is verified first.

Elements are computed by the ops' references, in the dtypes of the reference target, so results are bit-equal to its,
with one exception: NumPy chooses the order of additions, and the code for some elementary functions (`power`), by how
its operands lie in memory. Here operands are contiguous but for what is broadcast; the reference also has transposed
and sliced ones. Where those meet sums of floats or such functions, results may differ by rounding.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.dims import evaluate
from graphc.evaluate import bind_attrs, compute
from graphc.ir import Node, Program
from graphc.kernel import Access, Kernel, Region
from graphc.op import Array
from graphc.passes.plan import bind_plan, plan_kernels
from graphc.plan import Plan, Step, SymbolicPlan
from graphc.runtime.profile import Description, Recorder
from graphc.runtime.reference import NOWHERE, DrawKey, locate
from graphc.runtime.work import live_bytes, work_of
from graphc.target import TargetInfo
from graphc.types import np_dtype
from graphc.verify_plan import verify_plan

POISON = 0xFF  # makes nan of floats and -1 of integers
MAX_BOUND = 16  # sizes for which the plan is kept; the least recently used go first
CUTS = 3  # parts, at most, that a loop is cut into

Sizes = tuple[tuple[str, int], ...]  # of the symbolic dimensions
Bounds = tuple[tuple[int, int], ...]  # of each loop, for one block


class PlanTarget:
    """Runs plans with NumPy; slow, and strict.

    Args:
        seed: of the order of the blocks.
        disable: techniques of `graphc.passes.plan.TECHNIQUES` to leave out.
    """

    info = TargetInfo(
        name="plan",
        epilogues=frozenset({"contract", "conv", "window", "index", "scan", "sort", "random"}),
        prologues=frozenset({"contract", "concat", "scan"}),
        views=frozenset({"contract", "conv", "window", "index", "scan", "sort"}),
    )

    def __init__(self, seed: int = 0, disable: Collection[str] = ()) -> None:
        self.seed = seed
        self.disable = disable

    def compile(self, program: Program) -> PlanExecutable:
        """Fuse and schedule a program whose passes have run."""
        return PlanExecutable(
            plan_kernels(program, self.info, disable=self.disable), self.seed, "arena" not in self.disable
        )

    def close(self) -> None:
        """See `Target.close`: nothing is kept."""


class PlanExecutable:
    """A program's symbolic plan, and its plans for the sizes that came last."""

    def __init__(self, symbolic: SymbolicPlan, seed: int = 0, shared: bool = True) -> None:
        self.symbolic = symbolic
        self.shared = shared
        self.rng = np.random.default_rng(seed)
        self._bound: OrderedDict[Sizes, Plan] = OrderedDict()
        self._verified: set[Sizes] = set()

    def plan(self, dims: Mapping[str, int]) -> Plan:
        """The plan for these sizes."""
        key = tuple(sorted(dims.items()))
        found = self._bound.pop(key, None)
        if found is None:
            found = bind_plan(self.symbolic, dims, shared=self.shared)
        self._bound[key] = found
        if len(self._bound) > MAX_BOUND:
            self._verified.discard(self._bound.popitem(last=False)[0])
        return found

    def run(
        self,
        values: Mapping[Node, Any],
        dims: Mapping[str, int],
        draws: Mapping[Node, DrawKey],
        into: Mapping[Node, Array] = NOWHERE,
        recorder: Recorder | None = None,
        out: Sequence[Array] = (),
    ) -> tuple[list[Array], list[Array]]:
        """See `Executable.run`; what the plan updates in place is copied first, and nothing is written `into`."""
        plan, key = self.plan(dims), tuple(sorted(dims.items()))
        if key not in self._verified:
            verify_plan(plan)
            self._verified.add(key)
        return run_plan(plan, values, draws, self.rng, recorder)


def run_plan(
    plan: Plan,
    values: Mapping[Node, Any],
    draws: Mapping[Node, DrawKey],
    rng: np.random.Generator,
    recorder: Recorder | None = None,
) -> tuple[list[Array], list[Array]]:
    """Outputs and new values of variables, for the values of the leaves."""
    memory = _Memory(plan, values)
    symbolic = plan.symbolic
    if recorder is not None:
        recorder.describe = lambda: Description([work_of(step, plan) for step in plan.kernels], live_bytes(plan))
    with np.errstate(all="ignore"):
        for at, step in enumerate(plan.kernels):
            run_step(step, plan.dims, memory.of(step.reads), memory.of(step.writes), draws, rng)
            memory.drop(at)
            if recorder is not None:
                recorder.did("", at)
    return [memory.value(k) for k in symbolic.outputs], [memory.value(k) for k in symbolic.updates]


def run_step(
    step: Step,
    dims: Mapping[str, int],
    reads: Sequence[Array],
    writes: Sequence[Array],
    draws: Mapping[Node, DrawKey],
    rng: np.random.Generator | None = None,
) -> None:
    """Run one kernel on the flat elements of its buffers.

    Args:
        rng: cuts the loops into blocks, and orders them; by default each is run as a whole.
    """
    try:
        _Call(step.kernel, dims, reads, writes, draws, rng).run()
    except Exception as error:
        core = step.kernel.core  # what can fail: all around it is pointwise
        locate(error, next((n for n in step.nodes if core is not None and n.op is core.op), step.nodes[-1]))
        raise


class _Memory:
    """The bytes of a run: each buffer as a flat array of its elements."""

    def __init__(self, plan: Plan, values: Mapping[Node, Any]) -> None:
        self.plan = plan
        self.arena = np.full(plan.peak_bytes, POISON, np.uint8)
        self.flat: list[Array] = []
        overwritten = {b.takes for b in plan.buffers if b.role == "update"}
        for k, buffer in enumerate(plan.buffers):
            if buffer.role == "given":
                given = np.asarray(values[buffer.node])
                array = given.copy() if k in overwritten else given
            elif buffer.role == "constant":
                array = buffer.node.attrs["value"].array
            elif buffer.role == "arena":
                array = self.arena[plan.offsets[k] : plan.offsets[k] + plan.nbytes[k]]
            else:
                array = np.full(plan.nbytes[k], POISON, np.uint8)
            self.flat.append(np.ascontiguousarray(array).reshape(-1).view(np_dtype(buffer.type.dtype)))
        for k, buffer in enumerate(plan.buffers):
            if buffer.role == "update" and buffer.takes is not None:
                self.flat[k] = self.flat[buffer.takes]
        taken = {b.takes for b in plan.buffers}
        self.dying: list[list[int]] = [[] for _ in plan.kernels]
        for k, (_, last) in enumerate(plan.symbolic.lifetimes):
            if plan.buffers[k].role == "arena" and k not in taken:
                self.dying[last].append(k)

    def of(self, buffers: Sequence[int]) -> list[Array]:
        """The elements of these buffers."""
        return [self.flat[k] for k in buffers]

    def drop(self, at: int) -> None:
        """Overwrite what nobody reads after step `at`."""
        for k in self.dying[at]:
            self.flat[k].view(np.uint8)[...] = POISON

    def value(self, buffer: int) -> Array:
        """A buffer in its shape."""
        type = self.plan.buffers[buffer].type.bind(self.plan.dims)
        return self.flat[buffer].reshape(type.shape)


class _Call:
    """One run of a kernel."""

    def __init__(
        self,
        kernel: Kernel,
        dims: Mapping[str, int],
        reads: Sequence[Array],
        writes: Sequence[Array],
        draws: Mapping[Node, DrawKey],
        rng: np.random.Generator | None,
    ) -> None:
        self.kernel = kernel
        self.dims = dims
        self.reads = reads
        self.writes = writes
        self.draws = draws
        self.rng = rng

    def run(self) -> None:
        """Compute the core, then each region, block by block."""
        elements = self._core()
        for region, element in zip(self.kernel.results, elements, strict=True):
            if not region.stores:
                continue
            extents = [evaluate(loop.extent, self.dims) for loop in region.loops]
            for bounds in self._blocks(region, extents):
                block = _Block(self, region, bounds, element)
                for output, store, value in zip(region.body.outputs, region.stores, block.outputs(), strict=True):
                    target = block.elements(self.writes[store.write], store.access, block.shape_of(output))
                    target[...] = value

    def _core(self) -> Sequence[Array | None]:
        core = self.kernel.core
        if core is None:
            return [None] * len(self.kernel.results)
        if core in self.draws:
            args: list[Any] = [self.draws[core]]
        else:
            args = [self._operand(region) for region in self.kernel.operands]
        attrs = bind_attrs(core.attrs, self.dims) if core.attrs.symbolic else core.attrs
        found = compute(core, args, attrs, self.dims)
        return [np.asarray(x, order="C") for x in found] if isinstance(found, tuple) else [np.asarray(found, order="C")]

    def _operand(self, region: Region) -> Array:
        bounds = tuple([(0, evaluate(loop.extent, self.dims)) for loop in region.loops])
        block = _Block(self, region, bounds, None)
        (value,) = block.outputs()
        return np.array(np.broadcast_to(value, block.shape), order="C")

    def _blocks(self, region: Region, extents: Sequence[int]) -> Iterator[Bounds]:
        """Blocks that cover all points, in random order.

        Only the outer parallel loops are cut: a reduction then adds in the order that it would in the whole array.
        """
        if self.rng is None:
            return iter([tuple([(0, extent) for extent in extents])])
        outer = next((k for k, loop in enumerate(region.loops) if loop.reduce), len(region.loops))
        parts = []
        for k, extent in enumerate(extents):
            cuts = self.rng.integers(0, extent + 1, self.rng.integers(0, CUTS) if k < outer else 0)
            ends = sorted({0, extent, *map(int, cuts)})
            parts.append(list(itertools.pairwise(ends)) or [(0, 0)])
        blocks = list(itertools.product(*parts))
        return (blocks[k] for k in self.rng.permutation(len(blocks)))


class _Block:
    """The body of a region, evaluated at all points of a block at once: arrays over the loops.

    Along the reduce loops, a value that is one for the whole row has size 1.
    """

    def __init__(self, call: _Call, region: Region, bounds: Bounds, element: Array | None) -> None:
        self.call = call
        self.region = region
        self.bounds = bounds
        self.element = element
        self.rows = tuple([k for k, loop in enumerate(region.loops) if loop.reduce])
        self.shape = tuple([hi - lo for lo, hi in bounds])

    def outputs(self) -> list[Array]:
        """The values of the body's outputs."""
        formals = list(self.region.body.inputs)
        values: dict[Node, Array] = {}
        if self.element is not None:
            values[formals.pop(0)] = self.element[tuple([slice(lo, hi) for lo, hi in self.bounds])]
        for formal, load in zip(formals, self.region.loads, strict=True):
            values[formal] = self._loaded(formal, load.read, load.access)
        for node in self.region.values:
            if node not in values:
                values[node] = self._computed(node, [values[i] for i in node.inputs])
        return [values[output] for output in self.region.body.outputs]

    def _computed(self, node: Node, args: Sequence[Array]) -> Array:
        dims = self.call.dims
        attrs: Mapping[str, Any] = bind_attrs(node.attrs, dims) if node.attrs.symbolic else node.attrs
        kind = node.op.kind
        if kind == "view":  # a broadcast over the row
            return np.broadcast_to(args[0], self.shape_of(node))
        if kind == "reduce":
            attrs = {**attrs, "axes": self.rows}
        found: Array = compute(node, args, attrs, dims)
        return found if args else np.broadcast_to(found, self.shape_of(node))

    def shape_of(self, node: Node) -> tuple[int, ...]:
        """The shape over the block of a value that is typed over the row."""
        if node.shape == self.region.rows and node.shape:
            return self.shape
        return tuple([1 if k in self.rows else extent for k, extent in enumerate(self.shape)])

    def _loaded(self, formal: Node, read: int | None, access: Access) -> Array:
        shape = self.shape_of(formal)
        if read is not None:
            return _kept(self.elements(self.call.reads[read], access, shape))
        offset, strides = self._bound(access)
        position = np.full(shape, offset, np.int64)
        for k, stride in enumerate(strides):
            counter = np.arange(shape[k], dtype=np.int64) * stride
            position += counter.reshape([-1 if j == k else 1 for j in range(len(strides))])
        return position

    def elements(self, flat: Array, access: Access, shape: tuple[int, ...]) -> Array:
        """The elements of a buffer that an access reaches in this block, not copied."""
        if 0 in shape:
            return np.empty(shape, flat.dtype)
        offset, strides = self._bound(access)
        steps = [stride * flat.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps)

    def _bound(self, access: Access) -> tuple[int, list[int]]:
        """Offset of the block's first element, and strides."""
        dims = self.call.dims
        strides = [evaluate(stride, dims) for stride in access.strides]
        start = sum([lo * stride for (lo, _), stride in zip(self.bounds, strides, strict=True)])
        return evaluate(access.offset, dims) + start, strides


def _kept(view: Array) -> Array:
    """A copy in which every element is there once: what is broadcast stays so, as the ops' references see it."""
    once = view[tuple([slice(None) if stride else slice(0, 1) for stride in view.strides])]
    return np.broadcast_to(np.array(once, order="C"), view.shape)
