"""The native CPU target: a program's plan as machine code, run on arrays of NumPy."""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np

from graphc.cached import cached_property
from graphc.collector import paused
from graphc.dims import evaluate
from graphc.dumps import folder_of
from graphc.errors import InternalError
from graphc.ir import Node, Program
from graphc.op import Array
from graphc.ops.sorting import topk_op
from graphc.passes.plan import bind_plan, plan_kernels, updated_after
from graphc.plan import Buffer, Plan, Step, SymbolicPlan, Variant
from graphc.runtime.cpu import attention, conv, copies, driver, entry, packs
from graphc.runtime.cpu.blocks import Blocks
from graphc.runtime.cpu.copies import Copy
from graphc.runtime.cpu.driver import Command, CommandList, Scratch, State, run
from graphc.runtime.cpu.dump import dump_kernels, dump_plan
from graphc.runtime.cpu.host import Host, this_host
from graphc.runtime.cpu.jit import Code, Compiler, Loading, Objects, Unit, unit_of
from graphc.runtime.cpu.kernels import CORES, EXACT_CORES, function, native_kernel
from graphc.runtime.cpu.memory import Expected, Kept, Layout, Memory, address, reserve_all
from graphc.runtime.cpu.outlines import Outline
from graphc.runtime.cpu.packs import Pack
from graphc.runtime.cpu.parts import Part
from graphc.runtime.cpu.peak import measured_peak
from graphc.runtime.cpu.phases import NativeKernel
from graphc.runtime.cpu.pool import shared_pool
from graphc.runtime.cpu.profile import run_recorded
from graphc.runtime.cpu.report import made_of
from graphc.runtime.plan import Sizes, run_step
from graphc.runtime.profile import Description, Recorder
from graphc.runtime.reference import NOWHERE, DrawKey
from graphc.runtime.work import live_bytes, work_of
from graphc.shortage import shortage
from graphc.target import TargetInfo
from graphc.types import np_dtype

MAX_KEPT = 1 << 28  # bytes that a session's plans keep from run to run, at most; the first steps come first
MAX_BOUND = 16  # sizes for which the commands are kept; the least recently used go first


class CpuTarget:
    """Compiles for this machine.

    Args:
        threads: that a run may use; by default the cores that the process may use.
        disable: techniques of `graphc.passes.plan.TECHNIQUES` to leave out; "commands", one call of native code for
            many kernels; "entry", runs that come again without Python.
        host: another host's instructions, such as narrower vectors.
        conv_precision: see `Session`.
    """

    info = TargetInfo(
        name="cpu",
        whole=frozenset({topk_op, *attention.CORES}),
        suits=lambda node: node.op is topk_op or attention.suits(node),
        epilogues=frozenset({"contract", "conv", "window", "index", "composite"}),
        views=frozenset({"contract", "window", "index", "scan", "sort", "composite"}),
        prepares=frozenset({"contract", "conv"}),
    )

    def __init__(
        self,
        threads: int | None = None,
        disable: Collection[str] = (),
        host: Host | None = None,
        conv_precision: Literal["winograd4", "exact"] = "winograd4",
    ) -> None:
        self.disable = disable
        self.host = this_host() if host is None else host
        self.info = replace(CpuTarget.info, orders=partial(conv.preference, self.host, conv_precision))
        self.pool = shared_pool(threads)
        self.memory = Memory()
        self.scratch = Scratch(self.pool.threads)
        self.blocks = Blocks()
        self.conv_precision = conv_precision
        self.cores = CORES if conv_precision == "winograd4" else EXACT_CORES
        self._kept: weakref.WeakValueDictionary[tuple[Variant, tuple[Node, ...]], Kept] = weakref.WeakValueDictionary()
        self.epoch = np.zeros(1, np.int64)  # counts the runs that changed variables
        self._natives: dict[Variant, NativeKernel | None] = {}
        self._units: dict[Variant, Unit] = {}
        self._expected = Expected()

    def native(self, variant: Variant) -> NativeKernel | None:
        """The code of a kernel, made once, whose assembly may be missing; None where NumPy runs it."""
        if variant not in self._natives:
            self._natives[variant] = self._written(variant)
        return self._natives[variant]

    def _written(self, variant: Variant) -> NativeKernel | None:
        return native_kernel(variant.kernel, self.host, self.cores, variant.steady)

    def written(self, variant: Variant) -> NativeKernel:
        """A kernel that has code, with its assembly."""
        native = self.native(variant)
        if native is not None and not native.assembly:  # it was recalled
            native = self._natives[variant] = self._written(variant)
        assert native is not None
        return native

    def assembly(self, variant: Variant) -> str:
        """The assembly of a kernel that has code."""
        return self.written(variant).assembly

    def unit(self, variant: Variant) -> Unit:
        """What is to be known of the module of a kernel that has code."""
        found = self._units.get(variant)
        if found is None:
            native = self.written(variant)
            found = self._units[variant] = unit_of(native.assembly, [phase.symbol for phase in native.phases])
        return found

    def learn(self, variants: Sequence[Variant], pack: Pack) -> None:
        """Take over what is known of kernels, of those that weren't met before."""
        for variant, native, unit in zip(variants, pack.natives, pack.units, strict=False):
            if variant not in self._natives:
                self._natives[variant] = native
                if unit is not None:
                    self._units[variant] = unit

    def pack(self, variants: Sequence[Variant], objects: Objects) -> Pack:
        """What is known of kernels, with their object files."""
        natives = [self.native(variant) for variant in variants]
        bare = tuple([native and replace(native, assembly="") for native in natives])
        return Pack(bare, tuple([self._units.get(variant) for variant in variants]), objects)

    def within_budget(self, symbolic: SymbolicPlan) -> tuple[SymbolicPlan, dict[tuple[int, ...], Kept]]:
        """The plan, in which no more steps keep what they derive from steady reads than memory is meant for; and where
        those do that write these buffers."""
        left, blocks = MAX_KEPT - sum(block.nbytes for block in self._kept.values()), {}
        refused: dict[int, Step] = {}
        for at, step in enumerate(symbolic.steps):
            native = self.native(step.variant) if step.steady else None
            if native is not None and native.kept:
                key = step.variant, tuple([symbolic.buffers[step.reads[k]].node for k in sorted(step.steady)])
                block = self._kept.get(key)
                if block is None and native.kept <= left:
                    block = self._kept[key] = Kept(native.kept)
                    left -= native.kept
                if block is None:
                    refused[at] = step._replace(steady=frozenset())
                else:
                    blocks[step.writes] = block
        if refused:
            symbolic = replace(symbolic, steps=tuple([refused.get(at, s) for at, s in enumerate(symbolic.steps)]))
        return symbolic, blocks

    def expect(self, arrays: Iterable[Array]) -> None:
        """Have the memory of new arrays made by another thread, if runs may use several."""
        if self.pool.threads > 1:
            self._expected.add(arrays)

    def compile(self, program: Program, compiler: Compiler | None = None) -> CpuExecutable:
        """Fuse, schedule and generate code for a program whose passes have run; `compiler` may have begun with it."""
        symbolic = plan_kernels(program, self.info, disable=self.disable)
        self._expected.prefault()  # other threads have compiled the driver meanwhile
        return CpuExecutable(self, symbolic, compiler=compiler)

    def close(self) -> None:
        """Free the memory of runs, and let go of the threads, which end with their last user."""
        self.pool = shared_pool(1)
        self.memory, self.scratch, self.blocks = Memory(), Scratch(1), Blocks()


class _RefusedError(Exception):
    """Native code refused its operands, in a plan that is known by its outline."""


class CpuExecutable:
    """A program's symbolic plan with its code, and the commands for the sizes that came last.

    Args:
        symbolic: the plan, or its outline; see `outlines`.
        pack: the code of an outline.
        whole: makes what the outline is of, for what a run doesn't know.
        compiler: of the plan's modules.

    Attributes:
        pack: under which its code is kept, or None.
        is_plain: whether all kernels have code, and none keeps anything from run to run.
    """

    def __init__(
        self,
        target: CpuTarget,
        symbolic: SymbolicPlan,
        pack: Pack = packs.EMPTY,
        whole: Callable[[], CpuExecutable] | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self.target = target
        self._whole = whole
        self._folder = None if whole else folder_of(symbolic.program)
        variants = _variants(symbolic)
        plain = self._folder is None and whole is None
        self.pack = key = packs.key_of(variants, target.host, target.conv_precision) if plain else None
        pack = pack if whole else packs.recalled(key)
        target.learn(variants, pack)
        symbolic, self.kept = target.within_budget(symbolic)
        library = partial(function, target.host)
        loading = Loading(library, pack.objects, compiler)
        self.natives: dict[Variant, NativeKernel] = {}
        for variant in _variants(symbolic):
            native = target.native(variant)
            if native is not None:
                self.natives[variant] = native
                loading.take(pack.loaded(target.unit(variant)), partial(target.assembly, variant))
        for part in shared_parts(len(variants)):
            part.take(loading)
        by_numpy = [at for at, variant in enumerate(symbolic.variants) if variant not in self.natives]
        self._together = "commands" not in target.disable
        last = max(by_numpy, default=-1) if self._together else len(symbolic.steps) - 1
        self.symbolic = updated_after(symbolic, last)  # what Python calls can fail, and be interrupted
        if self._folder is not None:
            written = {variant: target.written(variant) for variant in self.natives}
            dump_kernels(self._folder, self.symbolic, written, target.host, library)
        codes = loading.codes(later=True)  # linked while it is kept on disk, and the run prepared
        self.code = dict(zip(self.natives, codes, strict=False))
        self._shared = codes[len(self.natives) :]
        if key is not None and pack is packs.EMPTY:
            objects = loading.objects()
            if objects is None:
                self.pack = None
            else:
                packs.keep(key, target.pack(variants, objects))
        self.is_plain = not (by_numpy or self.kept)
        self._bound: OrderedDict[Sizes, Bound] = OrderedDict()
        self._foreseen: tuple[Plan, Layout] | None = None

    def _placed(self, dims: Mapping[str, int]) -> tuple[Plan, Layout]:
        """The plan for these sizes, and where everything lies."""
        found, self._foreseen = self._foreseen, None
        if found is not None and found[0].dims == dims:
            return found
        plan = bind_plan(self.symbolic, dims, shared="arena" not in self.target.disable)
        return plan, Layout.of(plan, self.natives.values())

    def foresee(self, dims: Mapping[str, int]) -> None:
        """Expect a run with these sizes: what can be done for it before its code is linked, is done now."""
        with suppress(MemoryError):  # the run tells
            with paused():
                self._foreseen = found = self._placed(dims)
            self.target.memory.reserve(found[1].nbytes, ahead=self.target.pool.threads > 1)

    def plan(self, dims: Mapping[str, int]) -> Plan:
        """The plan for these sizes, with what is said of its code."""
        if self._whole is not None:
            return self._whole().plan(dims)
        bound = self.bound(dims)
        plan, kept = bound.plan, bound.kept
        return replace(plan, made=made_of(plan, self.natives), peak_bytes=plan.peak_bytes + kept, kept_bytes=kept)

    def bound(self, dims: Mapping[str, int]) -> Bound:
        """The commands for these sizes."""
        key = tuple(sorted(dims.items()))
        found = self._bound.pop(key, None)
        if found is None:
            with paused():
                plan, layout = self._placed(dims)
                found = Bound(
                    plan, layout, self.natives, self.code, self.target.epoch, self.kept, together=self._together
                )
            if self._folder is not None:
                dump_plan(self._folder, replace(plan, made=made_of(plan, self.natives)))
        self._bound[key] = found
        if len(self._bound) > MAX_BOUND:
            self._bound.popitem(last=False)
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
        """See `Executable.run`; what is written `into` is written by the last call of native code."""
        if self._whole is None:
            return self._run(values, dims, draws, into, recorder, out)
        if recorder is None:
            try:
                return self._run(values, dims, draws, into, None, out)
            except (MemoryError, _RefusedError):  # nothing was changed: it tells what is wrong
                pass
        return self._whole().run(values, dims, draws, into, recorder, out)

    def _run(
        self,
        values: Mapping[Node, Any],
        dims: Mapping[str, int],
        draws: Mapping[Node, DrawKey],
        into: Mapping[Node, Array],
        recorder: Recorder | None,
        out: Sequence[Array],
    ) -> tuple[list[Array], list[Array]]:
        bound = self.bound(dims)
        if recorder is not None:
            recorder.describe = partial(self._described, bound)
        try:
            made = Run(self, bound, values, draws, into, out)
        except MemoryError:
            if self._whole is not None:
                raise
            plan = bound.plan
            needed = bound.total_bytes(self.target.scratch.workers)
            raise shortage(plan.buffers, plan.nbytes, plan.dims, needed) from None
        return made.results(recorder)

    def _described(self, bound: Bound) -> Description:
        steps = zip(bound.plan.kernels, made_of(bound.plan, self.natives), strict=True)
        works = [work_of(step, bound.plan, made.how if made.native else f"NumPy: {made.how}") for step, made in steps]
        threads = self.target.pool.threads
        return Description(works, live_bytes(bound.plan), threads, partial(measured_peak, threads))


def shared_parts(kernels: int) -> list[Part]:
    """What is compiled along with a plan's kernels: what runs plans; with many kernels, what serves some plans, too."""
    return [driver.module(), *([copies.MODULE, entry.MODULE] if kernels >= packs.MIN_KERNELS else [])]


def _variants(symbolic: SymbolicPlan) -> list[Variant]:
    """The kernels of a plan, in the order in which they come first."""
    return list(dict.fromkeys(symbolic.variants))


class Segment(NamedTuple):
    """Steps that follow each other and are run by one call of native code; or one step that NumPy runs."""

    steps: tuple[Step, ...]
    commands: CommandList | None


class Bound:
    """A plan for given sizes, as commands: immutable, so that many runs may use it.

    Attributes:
        scratch: bytes that each worker needs.
        slots: entries of the table: the workspace, each buffer, each random draw, each variable that is copied to, what
            each step keeps.
        kept: bytes that steps keep from run to run.
        draws: the slot of each random draw.
        copied: for each variable whose new value doesn't take its bytes, the buffer of that and the slot for it.
        memory_bytes: see `Layout`.
        offsets: where in that memory each slot lies; 0 for what lies elsewhere.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        natives: Mapping[Variant, NativeKernel],
        code: Mapping[Variant, Code],
        epoch: Array,
        kept: Mapping[tuple[int, ...], Kept],
        *,
        together: bool = True,
    ) -> None:
        self.plan = plan
        dims, steps = plan.dims, plan.kernels
        draws = [step.kernel.core for step in steps if step.kernel.kind == "random"]
        slots = itertools.count(1 + len(plan.buffers))
        self.draws = {node: next(slots) for node in dict.fromkeys(node for node in draws if node is not None)}
        self.copied = {variable: (new, next(slots)) for variable, new in layout.copied.items()}
        self._kept = {next(slots): kept[step.writes] for step in steps if step.writes in kept}
        self.slots = next(slots)
        self.kept = sum(block.nbytes for block in self._kept.values())
        keeping = [step for step in steps if step.writes in kept]
        self._kept_slots = dict(zip(keeping, self._kept, strict=True))
        steady = dict.fromkeys(plan.buffers[step.reads[number]] for step in keeping for number in step.steady)
        self._sources = [buffer.node for buffer in steady if buffer.role == "given"]
        self._seen: list[weakref.ref[Array]] = []
        phases = [phase for native in natives.values() for phase in native.phases]
        self.scratch = max([evaluate(phase.scratch, dims) for phase in phases], default=0)
        self.offsets = np.zeros(self.slots, np.int64)
        self.offsets[: len(layout.offsets)] = layout.offsets
        self.memory_bytes = layout.nbytes
        self._called: dict[Variant, _Called] = {}
        self.segments = tuple(self._segments(natives, code, epoch, together))

    def place_kept(self, table: Array, values: Mapping[Node, Array]) -> None:
        """Put the addresses of what steps keep into a table, and see that it is made of these values.

        What plans write over variables, they count themselves (`CpuTarget.epoch`); here other arrays are noticed.
        """
        reserve_all(self._kept.values())
        for slot, block in self._kept.items():
            table[slot] = block.base
        arrays = [values[node] for node in self._sources]
        if len(self._seen) != len(arrays) or any(r() is not a for r, a in zip(self._seen, arrays, strict=True)):
            self.state.forget()  # first: this may be interrupted
            self._seen = [weakref.ref(array) for array in arrays]

    @cached_property
    def numbers(self) -> Mapping[Step, int]:
        """The place of each step in the plan."""
        return {step: number for number, step in enumerate(self.plan.kernels)}

    def total_bytes(self, workers: int) -> int:
        """Bytes that a run takes: while it runs, and for its results."""
        sizes = zip(self.plan.buffers, self.plan.nbytes, strict=True)
        results = sum([nbytes for buffer, nbytes in sizes if buffer.role == "result"])
        return self.memory_bytes + self.kept + self.scratch * workers + results

    def _segments(
        self, natives: Mapping[Variant, NativeKernel], code: Mapping[Variant, Code], epoch: Array, together: bool
    ) -> Iterator[Segment]:
        whole = zip(self.plan.kernels, self.plan.symbolic.variants, strict=True)
        groups = [(native, [*calls]) for native, calls in groupby(whole, lambda call: call[1] in natives)]
        if not together:
            groups = [(native, [call]) for native, calls in groups for call in calls]
        if self.copied and not (groups and groups[-1][0]):
            groups.append((True, []))
        kept = [(step, step.variant) for step in self._kept_slots]
        prepares = [c for call in kept for c in self._commands(*call, natives, code, prepares=True)]
        self.state = State(epoch, CommandList(prepares))
        updates = bool(self.plan.symbolic.program.updates)
        for number, (native, calls) in enumerate(groups, 1):
            if not native:
                yield from [Segment((step,), None) for step, _ in calls]
                continue
            pairs = [(call[0], c) for call in calls for c in self._commands(*call, natives, code)]
            commands = [command for _, command in pairs]
            is_last = number == len(groups)
            if is_last:
                nbytes = self.plan.nbytes
                commands += [copies.command(Copy(1 + k, slot, nbytes[k])) for k, slot in self.copied.values()]
            state = self.state if updates or prepares else None
            listed = CommandList(commands, state, changes=updates and is_last)
            yield Segment(tuple([step for step, _ in pairs]), listed)

    def _commands(
        self,
        step: Step,
        variant: Variant,
        natives: Mapping[Variant, NativeKernel],
        code: Mapping[Variant, Code],
        *,
        prepares: bool = False,
    ) -> Iterator[Command]:
        native = natives[variant]
        called = self._called.get(variant)
        if called is None:
            called = self._called[variant] = _Called.of(step.kernel.kind, native, code[variant], self.plan.dims)
        slots = [1 + buffer for buffer in (*step.reads, *step.writes)]
        if native.draws:
            assert step.kernel.core is not None
            slots.append(self.draws[step.kernel.core])
        if native.kept is not None:
            slots.append(self._kept_slots.get(step, 0))
        args = (*slots, *called.dims)
        for called_at, units, cost in called.prepares if prepares else called.phases:
            yield Command(called_at, args, units, cost, called.kind)


class _Called(NamedTuple):
    """What all calls of a kernel have in common, for given sizes.

    Attributes:
        kind: of the kernel.
        prepares, phases: address, units and cost of each phase, of those that prepare and of the others.
        dims: sizes that the code is told.
    """

    kind: str
    prepares: Sequence[tuple[int, int, int]]
    phases: Sequence[tuple[int, int, int]]
    dims: Sequence[int]

    @staticmethod
    def of(kind: str, native: NativeKernel, code: Code, dims: Mapping[str, int]) -> _Called:
        """For a kernel of a kind."""
        prepares: list[tuple[int, int, int]] = []
        phases: list[tuple[int, int, int]] = []
        for phase in native.phases:
            call = code.address(phase.symbol), evaluate(phase.units, dims), evaluate(phase.cost, dims)
            (prepares if phase.prepares else phases).append(call)
        return _Called(kind, prepares, phases, [evaluate(dim, dims) for dim in native.dims])


class Run:
    """One run of a bound plan: its memory, and the arrays that it reads and makes."""

    def __init__(
        self,
        executable: CpuExecutable,
        bound: Bound,
        values: Mapping[Node, Any],
        draws: Mapping[Node, DrawKey],
        into: Mapping[Node, Array],
        out: Sequence[Array] = (),
    ) -> None:
        self.target = target = executable.target
        self.bound = bound
        self.draws = draws
        target.memory.reserve(bound.memory_bytes)
        target.scratch.reserve(bound.scratch)
        self.arrays: dict[int, Array] = {}  # of buffers outside of the run's memory
        pairs = zip(bound.plan.symbolic.outputs, out, strict=bool(out))
        self._out = {k: array for k, array in pairs if _can_be_written(array, values.values())}
        self.table = bound.offsets + target.memory.base
        self._inside = {buffer for buffer, _ in bound.copied.values()}
        self._take(values, into)
        bound.place_kept(self.table, values)
        keys = [np.array(draws[node], np.uint64).view(np.int64) for node in bound.draws]
        for slot, key in zip(bound.draws.values(), keys, strict=True):
            self.table[slot] = address(key)
        self._keys = keys  # alive while the code runs

    def _take(self, values: Mapping[Node, Any], into: Mapping[Node, Array]) -> None:
        """The arrays of all buffers outside of the run's memory; first what is given, which others may take over."""
        buffers, copied = self.bound.plan.buffers, self.bound.copied
        overwritten = {buffer.takes for buffer in buffers if buffer.role == "update"}
        outside = [k for k, buffer in enumerate(buffers) if buffer.role != "arena" and k not in self._inside]
        for k in sorted(outside, key=lambda k: buffers[k].role != "given"):
            copy = k in overwritten and buffers[k].node not in into
            array = self.arrays[k] = self._out[k] if k in self._out else self._array(buffers[k], values, copy)
            self.table[1 + k] = address(array)
        for variable, (new, slot) in copied.items():
            found = into.get(variable)
            self.arrays[new] = self._empty(buffers[new]) if found is None else found
            self.table[slot] = address(self.arrays[new])

    def _array(self, buffer: Buffer, values: Mapping[Node, Any], copy: bool) -> Array:
        if buffer.role == "given":
            array: Array = np.asarray(values[buffer.node])
            fits = array.flags.c_contiguous and array.flags.aligned and not copy
            return array if fits else np.array(array, order="C", copy=True)
        if buffer.role == "constant":
            constant: Array = buffer.node.attrs["value"].array
            return np.ascontiguousarray(constant)
        return self._empty(buffer) if buffer.takes is None else self.arrays[buffer.takes]

    def _empty(self, buffer: Buffer) -> Array:
        shape = [evaluate(dim, self.bound.plan.dims) for dim in buffer.type.shape]
        return self.target.blocks.array(shape, np_dtype(buffer.type.dtype))

    def results(self, recorder: Recorder | None = None) -> tuple[list[Array], list[Array]]:
        """Run all segments; outputs and new values of variables."""
        target, symbolic = self.target, self.bound.plan.symbolic
        if recorder is not None:
            recorder.did("prepare")
        for segment in self.bound.segments:
            if segment.commands is None:
                self._by_numpy(segment.steps[0])
                if recorder is not None:
                    recorder.did("", self.bound.numbers[segment.steps[0]])
                continue
            if recorder is None:
                status = run(segment.commands, address(self.table), target.scratch, target.pool)
            else:
                status = self._recorded(segment, segment.commands, recorder)
            if status:
                step = segment.steps[status - 1]
                if isinstance(step.kernel, Outline):
                    raise _RefusedError
                self._by_numpy(step)
                raise InternalError(f"native code refused what NumPy computes: {step.nodes[-1]!r}")
        return [self.arrays[k] for k in symbolic.outputs], [self.arrays[k] for k in symbolic.updates]

    def _recorded(self, segment: Segment, commands: CommandList, recorder: Recorder) -> int:
        steps = [self.bound.numbers[step] for step in segment.steps]
        return run_recorded(commands, address(self.table), self.bound.scratch, self.target.pool, steps, recorder)

    def _by_numpy(self, step: Step) -> None:
        """Run a step that has no code, or whose code refused its operands: then this raises what is wrong."""
        with np.errstate(all="ignore"):
            run_step(step, self.bound.plan.dims, self._flat(step.reads), self._flat(step.writes), self.draws)

    def _flat(self, buffers: Sequence[int]) -> list[Array]:
        return [self._elements(k) for k in buffers]

    def _elements(self, k: int) -> Array:
        """The elements of a buffer, flat; those of a new value that is copied later are not yet in its array."""
        plan = self.bound.plan
        dtype = np_dtype(plan.buffers[k].type.dtype)
        if k in self.arrays and k not in self._inside:
            return self.arrays[k].reshape(-1).view(dtype)
        offset = int(self.bound.offsets[1 + k])
        return self.target.memory.bytes[offset : offset + plan.nbytes[k]].view(dtype)


def _can_be_written(array: Array, values: Iterable[Any]) -> bool:
    """Whether a run can write a result to an array that the user has, while it reads these values."""
    return array.flags.carray and not any(np.may_share_memory(array, value) for value in values)
