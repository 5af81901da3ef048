"""The GPU target: a program's plan as launches on fixed memory, captured as graphs and replayed.

A run copies what is fed into its place, replays the plan's graphs, and copies results out. There is one graph unless
the host has to look in between: at steps that NumPy runs, and, before variables are written, at whether a kernel found
indices out of range. Everything that writes variables is in the last graph, so a run changes all of them or none.

The first run for some sizes launches kernels one by one, which also sees that all is loaded; the second captures.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from graphc.cached import cached_property
from graphc.errors import DeviceError, InternalError, ResourceError
from graphc.ir import Node, Program
from graphc.kernel import Kernel
from graphc.op import Array
from graphc.passes.plan import bind_plan, plan_kernels, updated_after
from graphc.plan import Plan, Step, SymbolicPlan
from graphc.plan_text import with_unit
from graphc.runtime.cpu.blocks import Blocks
from graphc.runtime.cuda.arrays import DeviceArray, DeviceFeed, lost
from graphc.runtime.cuda.bound import Addresses, Layout, Placed, Segment, Served, read_in_place, tasks_of
from graphc.runtime.cuda.carrier import Carrier
from graphc.runtime.cuda.cupy_driver import opened
from graphc.runtime.cuda.driver import Code, DeviceMemoryError, Driver, Memory
from graphc.runtime.cuda.kernels import INFO, cuda_kernel
from graphc.runtime.cuda.launches import CudaKernel, Precision
from graphc.runtime.cuda.memory import Home, Room, Stored
from graphc.runtime.cuda.report import ByLibrary, is_hosted, made_of
from graphc.runtime.plan import Sizes, run_step
from graphc.runtime.profile import Description, Recorder, Span, clock
from graphc.runtime.reference import NOWHERE, DrawKey
from graphc.runtime.work import live_bytes, work_of
from graphc.shortage import shortage
from graphc.types import np_dtype

Place = Literal["numpy", "device"]

MAX_BOUND = 16  # sizes for which commands and graphs are kept; the least recently used go first


def on_gpu(disable: Collection[str], precision: Precision, results: Place) -> CudaTarget:
    """The target of the first GPU.

    Raises:
        MissingExtra, DeviceError: it can't be used; see `cupy_driver.opened`.
    """
    return CudaTarget(opened(), disable, precision, results)


class CudaTarget:
    """Compiles for one GPU, and has a session's memory on it.

    Args:
        driver: of the device.
        disable: techniques of `graphc.passes.plan.TECHNIQUES` to leave out; "capture", graphs; "cudnn" and "cublaslt",
            these libraries.
        precision: see `launches.CudaCode`.
        results: where results are: NumPy arrays, or arrays on the device.
    """

    info = replace(INFO, hosts=True)

    def __init__(
        self,
        driver: Driver,
        disable: Collection[str] = (),
        precision: Precision = "float32",
        results: Place = "numpy",
    ) -> None:
        self.driver = driver
        self.disable = disable
        self.precision = precision
        self.results = results
        self.room = Room(driver)
        self.carrier = Carrier(driver)
        self.homes: dict[Node, Home] = {}
        self.blocks = Blocks()
        self.failure: DeviceError | None = None
        self.pending = False  # whether the device may still be busy with the last run, such as one that was interrupted
        self._kernels: dict[Kernel, CudaKernel | None] = {}
        self._modules: dict[Code, Any] = {}

    @cached_property
    def libraries(self) -> frozenset[str]:
        """Those that kernels may ask; looked for when the first kernel is made, as loading them takes a while."""
        return frozenset(self.driver.libraries) - frozenset(self.disable)

    def kernel(self, kernel: Kernel) -> CudaKernel | None:
        """The code of a kernel, made once; None where NumPy runs it."""
        if kernel not in self._kernels:
            self._kernels[kernel] = cuda_kernel(kernel, precision=self.precision, libraries=self.libraries)
        return self._kernels[kernel]

    def modules(self, codes: Iterable[Code]) -> list[Any]:
        """The loaded code of kernels, loaded once."""
        wanted = list(codes)
        missing = [code for code in dict.fromkeys(wanted) if code not in self._modules]
        if missing:
            self._modules.update(zip(missing, self.driver.load(missing), strict=True))
        return [self._modules[code] for code in wanted]

    def accepts(self, value: Any) -> DeviceFeed | None:
        """What is fed as it lies on the device; None for what the host has to convert."""
        return DeviceFeed(self.carrier, value) if self.driver.is_here(value) else None

    def compile(self, program: Program) -> CudaExecutable:
        """Fuse, schedule and generate code for a program whose passes have run."""
        return CudaExecutable(self, plan_kernels(program, self.info, disable=self.disable))

    def close(self) -> None:
        """Free all memory on the device but that of results; of one that was lost, nothing can be."""
        self.room, self.carrier, self.blocks = Room(self.driver), Carrier(self.driver), Blocks()
        self.homes.clear()
        self._modules.clear()
        with suppress(*self.driver.failures):
            self.driver.close()


class CudaExecutable:
    """A program's symbolic plan with its code, and what is done for the sizes that came last."""

    def __init__(self, target: CudaTarget, symbolic: SymbolicPlan) -> None:
        self.target = target
        kernels = dict.fromkeys(step.kernel for step in symbolic.steps)
        found = {kernel: target.kernel(kernel) for kernel in kernels}
        self.kernels = {kernel: code for kernel, code in found.items() if code is not None}
        self.hosted = frozenset(n for n, step in enumerate(symbolic.steps) if is_hosted(step, self.kernels))
        self.symbolic = updated_after(symbolic, max(self.hosted, default=-1))  # what the host does can fail
        self.constants: dict[int, Memory] = {}
        self._bound: OrderedDict[tuple[Sizes, frozenset[Node]], Bound] = OrderedDict()

    def plan(self, dims: Mapping[str, int]) -> Plan:
        """The plan for these sizes, with what is said of its code: of libraries, once it has run."""
        plan = bind_plan(self.symbolic, dims, shared="arena" not in self.target.disable)
        sizes = tuple(sorted(dims.items()))
        asked = (bound.by_library for (known, _), bound in self._bound.items() if known == sizes)
        return replace(plan, made=made_of(plan, self.kernels, next((each for each in asked if each is not None), None)))

    def bound(self, dims: Mapping[str, int], on_device: frozenset[Node] = frozenset()) -> Bound:
        """What is done for these sizes.

        Args:
            on_device: leaves whose feeds lie there already.
        """
        key = (tuple(sorted(dims.items())), on_device)
        found = self._bound.pop(key, None)
        if found is None:
            plan = bind_plan(self.symbolic, dims, shared="arena" not in self.target.disable)
            found = Bound(self.target, plan, self.kernels, self.hosted, self.constants, on_device)
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
        """See `Executable.run`; new values of variables are `Stored` on the device.

        Raises:
            ResourceError: the device has too little memory. DeviceError: it was lost.
        """
        target = self.target
        if target.failure is not None:
            raise target.failure
        try:
            target.driver.enter()
            on_device = frozenset([leaf for leaf, value in values.items() if isinstance(value, DeviceFeed)])
            bound = self.bound(dims, on_device)
            if recorder is not None:
                recorder.describe = partial(self._described, bound)
            try:
                return Run(bound, values, draws, into, out).results(recorder)
            except DeviceMemoryError as error:
                raise bound.shortage(error) from error
        except target.driver.failures as error:
            target.failure = lost(target.driver, error)
            raise target.failure from error

    def _described(self, bound: Bound) -> Description:
        plan = bound.plan
        made = zip(plan.kernels, made_of(plan, self.kernels, bound.by_library), strict=True)
        works = [work_of(step, plan, each.how if each.native else f"NumPy: {each.how}") for step, each in made]
        return Description(works, live_bytes(plan))


class Bound:
    """A plan for given sizes: where things lie in the memory of a run, and its commands once they have addresses.

    Args:
        kernels: those that the device can run.
        hosted: the numbers of the steps that the host runs.
        constants: the memory of each constant, by buffer; one for all sizes.
        on_device: leaves whose feeds lie there already.
    """

    def __init__(
        self,
        target: CudaTarget,
        plan: Plan,
        kernels: Mapping[Kernel, CudaKernel],
        hosted: frozenset[int],
        constants: dict[int, Memory],
        on_device: frozenset[Node],
    ) -> None:
        self.target = target
        self.plan = plan
        self.kernels = kernels
        self.hosted = hosted
        self.constants = constants
        self.on_device = on_device
        fetched = target.results == "numpy"
        self.elsewhere = read_in_place(plan, on_device, fetched=fetched)
        self.layout = Layout(plan, kernels, hosted, on_device, fetched=fetched, elsewhere=self.elsewhere)
        self._placed: tuple[int, Placed] | None = None

    def place(self, elsewhere: Mapping[int, int]) -> Placed:
        """The commands at the addresses that things have now; memory is taken where there is none yet.

        Args:
            elsewhere: the addresses of buffers that lie in memory of others.

        Raises:
            DeviceMemoryError: there is too little; nothing has changed.
        """
        target, layout, plan = self.target, self.layout, self.plan
        if not elsewhere and self._placed is not None and self._placed[0] == target.room.generation:
            return self._placed[1]
        if (new := self._new_bytes()) and new > target.driver.free_bytes():
            raise DeviceMemoryError
        target.room.reserve(layout.nbytes, layout.mirrored)
        variables = {*layout.homes.values(), *layout.copied}
        for variable in variables - target.homes.keys():
            target.homes[variable] = Home(target.carrier, variable.tensor_type)
        self._bring_constants()
        codes = [Code(kernel, kernel.is_wide(plan.dims)) for kernel in self.kernels.values()]
        modules = zip(self.kernels.items(), target.modules(codes), strict=True)
        served = {kernel: Served(code, module) for (kernel, code), module in modules}
        homes = {variable: target.homes[variable].memory for variable in variables}
        where = Addresses(target.room.base, target.room.mirror, homes, self.constants, elsewhere)
        placed = Placed(target.driver, plan, layout, self.hosted, served, where)
        self._placed = target.room.generation, placed
        return placed

    @property
    def by_library(self) -> ByLibrary | None:
        """What libraries were asked to do; None as long as they weren't."""
        return None if self._placed is None else self._placed[1].by_library

    def _bring_constants(self) -> None:
        for k, buffer in enumerate(self.plan.buffers):
            if buffer.role == "constant" and k not in self.constants:
                array = np.ascontiguousarray(buffer.node.attrs["value"].array)
                memory = self.target.driver.allocate(max(1, array.nbytes))
                self.target.carrier.send(array, memory.address)
                self.constants[k] = memory

    def _new_bytes(self) -> int:
        """Bytes of the device that a run takes beyond those that the session has."""
        target, buffers = self.target, self.plan.buffers
        variables = {*self.layout.homes.values(), *self.layout.copied} - target.homes.keys()
        constants = [k for k, b in enumerate(buffers) if b.role == "constant" and k not in self.constants]
        apart = sum([int(v.tensor_type.bind({}).nbytes) for v in variables])
        growth = self.layout.nbytes - target.room.nbytes if self.layout.nbytes > target.room.nbytes else 0
        libraries = target.driver.to_work_in(tasks_of(self.kernels.values()))
        return growth + apart + libraries + sum([self.plan.nbytes[k] for k in constants])

    def shortage(self, error: DeviceMemoryError) -> ResourceError:
        """What to raise where memory can't be had: with what would fit, where that can be told."""
        free, plan = self.target.driver.free_bytes() + self.target.room.nbytes, self.plan
        needed = self._new_bytes() + self.target.room.nbytes
        if needed <= free and str(error):  # it isn't the plan that doesn't fit
            return ResourceError(
                f"memory lacks for what is there beside a run's {with_unit(needed)}, such as code, graphs, and pinned "
                f"memory of the host's: {error}; the device {self.target.driver.name} has {with_unit(free)} for it",
                hint="end what else uses the device, which nvidia-smi lists, or feed fewer samples at a time",
            )
        fitting = [f"{name} = {size}" for name in plan.dims if (size := self._fitting(name, free))]
        return shortage(plan.buffers, plan.nbytes, plan.dims, needed, free=free, fitting=fitting)

    def _fitting(self, name: str, free: int) -> int:
        """The largest size of a symbolic dimension with which the plan would fit into so many bytes; 0 for none."""
        fits, too_large = 0, self.plan.dims[name]
        while too_large - fits > max(1, fits // 16):
            size = (fits + too_large) // 2
            plan = bind_plan(self.plan.symbolic, {**self.plan.dims, name: size})
            bound = Bound(self.target, plan, self.kernels, self.hosted, self.constants, self.on_device)
            if bound._new_bytes() + self.target.room.nbytes <= free:
                fits = size
            else:
                too_large = size
        return fits


class Run:
    """One run of a bound plan."""

    def __init__(
        self,
        bound: Bound,
        values: Mapping[Node, Any],
        draws: Mapping[Node, DrawKey],
        into: Mapping[Node, Array],
        out: Sequence[Array],
    ) -> None:
        self.bound = bound
        self.target, self.plan, self.layout = bound.target, bound.plan, bound.layout
        self.driver = self.target.driver
        self.values, self.draws, self.into, self.out = values, draws, into, out
        self._theirs: dict[int, Memory] = {}  # of results on the device, and of feeds that had to be put in order
        self._updated = [variable for variable, _ in self.plan.symbolic.program.updates]
        self._made: dict[int, list[Array]] = {}  # what NumPy has computed, by step
        self._results = self._room_for_results()  # all that can be lacking is taken before anything is done
        self.placed = bound.place(self._elsewhere())

    # ------------------------------------------------------------------------------------------- the whole

    def results(self, recorder: Recorder | None = None) -> tuple[list[Array], list[Array]]:
        """Run all segments; outputs and new values of variables."""
        self._feed()
        if recorder is not None:
            self.driver.synchronise()
            recorder.did("feeds to the device")
        captured = recorder is None and not self.bound.elsewhere and "capture" not in self.target.disable
        captured &= self.placed.runs > 0 or any(self._is_kept(variable) for variable in self._updated)
        self.placed.runs += 1
        for number, segment in enumerate(self.placed.segments):
            if segment.commits:
                self._before_commit(all_at_once=captured)
            if recorder is not None:
                self._recorded(segment, recorder)
            elif captured:
                self._replay(number, segment)
            else:
                _do(segment)
            if segment.checked or segment.host is not None:
                self.driver.synchronise()
                self._check()
            if segment.host is not None:
                self._by_numpy(*segment.host)
                if recorder is not None:
                    recorder.did("", segment.host[0])
        outputs = self._outputs()
        if recorder is not None:
            recorder.did("results from the device")
        return outputs, self._updates()

    def _replay(self, number: int, segment: Segment) -> None:
        graph = self.placed.graphs.get(number)
        if graph is None:
            if not segment.actions:
                return
            with self.driver.capture() as found:
                _do(segment)
            (graph,) = found
            self.placed.graphs[number] = graph
        self.driver.replay(graph)

    def _recorded(self, segment: Segment, recorder: Recorder) -> None:
        """Do what is in a segment, and tell when the device did it."""
        driver, began = self.driver, clock()
        marks = [driver.mark()]
        for _, action in segment.actions:
            action()
            marks.append(driver.mark())
        driver.synchronise()
        times = [began + driver.elapsed_ns(marks[0], mark) for mark in marks]
        phases: dict[int, int] = {}
        spans = []
        for (step, _), start, end in zip(segment.actions, times, times[1:], strict=False):
            name, of_step = ("copies", None) if step < 0 else ("", step)
            phases[step] = phases.get(step, -1) + 1
            spans.append(Span(name, start, end, step=of_step, phase=phases[step]))
        recorder.did_all(lambda: spans)

    # ------------------------------------------------------------------------------------------- what goes in

    def _feed(self) -> None:
        """Bring values of variables to their homes, and all else to where the plan reads it."""
        layout, room, target = self.layout, self.target.room, self.target
        if target.pending:
            self.driver.synchronise()  # the device may be reading the mirror still
        target.pending = True
        for variable in layout.homes.values():
            target.homes[variable].bring(self.values[variable])
        mirror = room.mirror
        mirror[layout.flags_at : layout.uploaded] = 0
        for node, at in layout.keys.items():
            mirror[at : at + 24] = np.array(self.draws[node], np.uint64).view(np.uint8)
        for leaf, k in layout.leaves.items():
            if k not in self.bound.elsewhere:
                self._feed_one(leaf, k, mirror)

    def _elsewhere(self) -> dict[int, int]:
        """Where feeds and results lie that are read and written in memory of others."""
        found: dict[int, int] = {}
        for leaf, k in self.plan.symbolic.given.items():
            if k in self.bound.elsewhere:
                found[k], copied = self.values[leaf].in_order()
                if copied is not None:
                    self._theirs[k] = copied
        return found | {k: self._theirs[k].address for k in self.bound.elsewhere - found.keys()}

    def _room_for_results(self) -> list[Array]:
        """Arrays for the results: those that the caller gives, and new ones; none if they stay on the device."""
        outputs = self.plan.symbolic.outputs
        if self.target.results == "device":
            nbytes = self.plan.nbytes
            self._theirs.update({k: self.driver.allocate(max(1, nbytes[k]), pooled=True) for k in outputs})
            return []
        given: Sequence[Array | None] = self.out or [None] * len(outputs)
        usable = [None if array is None or not array.flags.carray else array for array in given]
        try:
            return [self._new(k) if array is None else array for k, array in zip(outputs, usable, strict=True)]
        except MemoryError:  # of the host's
            plan = self.plan
            needed = sum([plan.nbytes[k] for k in outputs])
            raise shortage(plan.buffers, plan.nbytes, plan.dims, needed) from None

    def _new(self, k: int) -> Array:
        type = self.plan.buffers[k].type.bind(self.plan.dims)
        return self.target.blocks.array([int(dim) for dim in type.shape], np_dtype(type.dtype))

    def _feed_one(self, leaf: Node, k: int, mirror: Array) -> None:
        value, at, nbytes = self.values[leaf], self.layout.slots[k], self.plan.nbytes[k]
        if isinstance(value, DeviceFeed):
            value.write(self.target.room.base + at)
        elif not self.layout.is_small(k):
            self.target.carrier.send(value, self.target.room.base + at)
        elif nbytes:
            mirror[at : at + nbytes].view(value.dtype).reshape(value.shape)[...] = value

    # ------------------------------------------------------------------------------------------- what the host does

    def _check(self) -> None:
        """Raise what is wrong with the operands of the first step that found some out of range."""
        layout = self.layout
        flags = self.target.room.mirror[layout.flags_at : layout.uploaded].view(np.int32)
        failed = [number for number, flag in zip(layout.flags, flags, strict=True) if flag]
        if not failed:
            return
        for segment in self.placed.segments:  # others may lie on its operands: all steps up to there once more
            for number, action in segment.actions:
                if 0 <= number < failed[0]:
                    action()
            if segment.host is not None and segment.host[0] < failed[0]:
                self._by_numpy(*segment.host)
        self._by_numpy(failed[0], self.plan.kernels[failed[0]])
        raise InternalError(f"the GPU refused what NumPy computes: {self.plan.kernels[failed[0]].nodes[-1]!r}")

    def _by_numpy(self, number: int, step: Step) -> None:
        """Run a step on the host: copy down what it reads, and up what it writes."""
        self.driver.synchronise()
        writes = self._made.get(number)
        if writes is None:
            reads, writes = [self._fetched(k) for k in step.reads], [self._empty(k) for k in step.writes]
            with np.errstate(all="ignore"):
                run_step(step, self.plan.dims, reads, writes, self.draws)
            self._made[number] = writes
        for k, array in zip(step.writes, writes, strict=True):
            if array.nbytes:
                self.target.carrier.send(array, self.placed.at(k))

    def _empty(self, k: int) -> Array:
        dtype = np_dtype(self.plan.buffers[k].type.dtype)
        return np.zeros(self.plan.nbytes[k] // dtype.itemsize, dtype)

    def _fetched(self, k: int) -> Array:
        """The elements of a buffer, flat."""
        array = self._empty(k)
        if array.nbytes:
            self.target.carrier.fetch(array, self.placed.at(k))
        return array

    # ------------------------------------------------------------------------------------------- variables

    def _is_kept(self, variable: Node) -> bool:
        """Whether a variable's value is in its home, and new ones may be written there at once."""
        kept: Any = self.into.get(variable)
        home = self.target.homes[variable]
        return isinstance(kept, Stored) and kept.memory is home.memory

    def _before_commit(self, *, all_at_once: bool) -> None:
        """Give values that must survive memory of their own.

        Args:
            all_at_once: nothing can come between the first write and the last.
        """
        for variable in self._updated:
            home = self.target.homes[variable]
            if not (all_at_once and self._is_kept(variable)):
                home.preserve()
            home.overwritten()

    def _updates(self) -> list[Any]:
        """The new values, which are in their homes."""
        kept = [self.into[v] if self._is_kept(v) else self.target.homes[v].lend() for v in self._updated]
        return list(kept)

    # ------------------------------------------------------------------------------------------- what comes out

    def _outputs(self) -> list[Any]:
        outputs = self.plan.symbolic.outputs
        if self.target.results == "device":
            found = [self._on_device(k) for k in outputs]
            if self.layout.flags or self.bound.on_device:  # whose owners may write to them from now on
                self._settle()
            return found
        self._settle()
        for k, array in zip(outputs, self._results, strict=True):
            self._fetch(k, array)
        return list(self._results)

    def _settle(self) -> None:
        """Wait for the device, and see whether a step failed."""
        self.driver.synchronise()
        self.target.pending = False
        self._check()

    def _on_device(self, k: int) -> DeviceArray:
        type = self.plan.buffers[k].type.bind(self.plan.dims)
        memory, nbytes = self._theirs[k], self.plan.nbytes[k]
        if nbytes and k not in self.bound.elsewhere:
            self.driver.copy(memory.address, self.placed.at(k), nbytes)
        return DeviceArray(self.target.carrier, memory, tuple([int(dim) for dim in type.shape]), type.dtype)

    def _fetch(self, k: int, array: Array) -> None:
        """Copy a result into the caller's array."""
        at, nbytes = self.layout.slots[k], self.plan.nbytes[k]
        if self.layout.is_small(k):
            array[...] = self.target.room.mirror[at : at + nbytes].view(array.dtype).reshape(array.shape)
        elif nbytes:
            self.target.carrier.fetch(array, self.placed.at(k))


def _do(segment: Segment) -> None:
    for _, action in segment.actions:
        action()
