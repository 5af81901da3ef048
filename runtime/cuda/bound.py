"""A plan for given sizes on the device: where everything lies in the memory of runs, and what is done in which order.

The memory of a run has small things first, in the order of `Layout.heads`, so that one copy brings all of them and
another fetches all of them; a mirror of that part lies in pinned memory. The rest follows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from graphc.dims import Dim, evaluate
from graphc.fallible import fallible
from graphc.ir import Node
from graphc.kernel import Kernel
from graphc.op import Array
from graphc.ops.state import Variable
from graphc.plan import Plan, Step
from graphc.runtime.cuda.driver import WORD, Convolved, Driver, Matrices, Memory, Product, Task, Tensor
from graphc.runtime.cuda.launches import (
    Argument,
    Command,
    Convolution,
    CudaKernel,
    Failed,
    Fused,
    Gemm,
    Launch,
    Pointer,
    Size,
)
from graphc.runtime.strided import Strided, aligned, itemsize

SMALL = 1 << 16  # bytes up to which a feed or result is copied together with others
LAUNCH_BYTES = 4 << 20  # that a device copies while a kernel is launched
KEY_BYTES = 3 * WORD
FLAG_BYTES = 4
NO_STEP = -1

Action = Callable[[], None]


class Served(NamedTuple):
    """A kernel that the device runs: its commands, and the module that has its functions."""

    kernel: CudaKernel
    module: object


class Asked(NamedTuple):
    """A library that was asked to do something.

    Attributes:
        library: its name, with what it was asked for.
        refused: why it can't; "" if it does it.
    """

    library: str
    refused: str


class Segment(NamedTuple):
    """What the device does without the host, and what the host does then.

    Attributes:
        actions: each with the number of the step that it is a part of; `NO_STEP` for copies around them.
        commits: whether it writes over values of variables.
        checked: whether the flags are read after it.
        host: a step that NumPy runs then, and its number.
    """

    actions: tuple[tuple[int, Action], ...]
    commits: bool = False
    checked: bool = False
    host: tuple[int, Step] | None = None


def read_in_place(plan: Plan, on_device: Collection[Node], *, fetched: bool) -> frozenset[int]:
    """The buffers of feeds and results that stay where they are: on the device, in memory of others.

    Their addresses are others in each run, so nothing can be captured: that pays where copying them takes longer than
    launching all kernels one by one.
    """
    taken = {buffer.takes for buffer in plan.buffers}
    feeds = [k for leaf, k in plan.symbolic.given.items() if leaf in on_device and k not in taken]
    found = [k for k in (*feeds, *(() if fetched else plan.symbolic.outputs)) if plan.nbytes[k] > SMALL]
    return frozenset(found if sum([plan.nbytes[k] for k in found]) > LAUNCH_BYTES * len(plan.kernels) else ())


TASKS: Mapping[type[Command], Task] = {Gemm: "products", Fused: "products", Convolution: "convolutions"}


def tasks_of(kernels: Iterable[CudaKernel]) -> frozenset[Task]:
    """What kernels ask libraries to do."""
    kinds = {type(command) for kernel in kernels for command in kernel.commands}
    return frozenset([TASKS[kind] for kind in kinds if kind in TASKS])


class Layout:
    """Offsets in the memory of a run, in bytes.

    Args:
        served: the kernels that the device can run.
        hosted: the numbers of the steps that the host runs.
        on_device: leaves whose feeds lie on the device, and are copied from there one by one.
        fetched: whether results go to the host.
        elsewhere: buffers that lie in memory of others.

    Attributes:
        leaves: the buffers of what is fed or has a default, by leaf.
        homes: the buffers of variables that lie in their homes.
        keys: of each random draw.
        flags: of each step that looks whether its operands are in range, by its number.
        fallible: the numbers of those that may find that they aren't.
        slots: of each buffer that isn't in a home, a constant, or lies in the bytes of another.
        copied: for each updated variable whose new value isn't written in its home, the buffer of that.
        flags_at, uploaded, mirrored: where the flags begin; how many bytes are uploaded, and mirrored.
        workspace: where that of the kernels is.
        nbytes: of the whole.
    """

    def __init__(
        self,
        plan: Plan,
        served: Mapping[Kernel, CudaKernel],
        hosted: Collection[int] = (),
        on_device: Collection[Node] = (),
        *,
        fetched: bool = True,
        elsewhere: Collection[int] = (),
    ) -> None:
        symbolic, buffers = plan.symbolic, plan.buffers
        fed = set(symbolic.program.inputs)
        self.homes = {k: leaf for leaf, k in symbolic.given.items() if isinstance(leaf, Variable) and leaf not in fed}
        self.leaves = {leaf: k for leaf, k in symbolic.given.items() if k not in self.homes}
        updates = zip(symbolic.program.updates, symbolic.updates, strict=True)
        in_home = {k for k in symbolic.updates if buffers[k].takes in self.homes}
        self.copied = {variable: new for (variable, _), new in updates if new not in in_home}
        cores = [step.kernel.core for step in plan.kernels if step.kernel.kind == "random"]
        looking = [n for n, step in enumerate(plan.kernels) if n not in hosted and served[step.kernel].fails]
        self.fallible = {number for number, fails in enumerate(fallible(plan.kernels)) if fails}.intersection(looking)
        seconds = [k for k, buffer in enumerate(buffers) if buffer.role == "update" and buffer.takes is None]
        small = [k for leaf, k in self.leaves.items() if plan.nbytes[k] <= SMALL and leaf not in on_device]
        large = [k for k in self.leaves.values() if k not in small and k not in elsewhere]
        place = _Places()
        self.keys = {node: place.next(KEY_BYTES) for node in dict.fromkeys(node for node in cores if node is not None)}
        self.slots = {k: place.next(plan.nbytes[k]) for k in small}
        self.flags_at = place.end
        self.flags = {number: self.flags_at + FLAG_BYTES * at for at, number in enumerate(looking)}
        self.uploaded = self.flags_at + FLAG_BYTES * len(looking)
        place.next(FLAG_BYTES * len(looking))
        together = [k for k in symbolic.outputs if plan.nbytes[k] <= SMALL] if fetched else []
        self.slots.update({k: place.next(plan.nbytes[k]) for k in together})
        self.mirrored = place.end
        large += [k for k in symbolic.outputs if k not in together and k not in elsewhere]
        self.slots.update({k: place.next(plan.nbytes[k]) for k in (*large, *seconds)})
        arena = place.next(plan.peak_bytes)
        self.slots.update({k: arena + plan.offsets[k] for k, buffer in enumerate(buffers) if buffer.role == "arena"})
        needed = [evaluate(kernel.workspace, plan.dims) for kernel in served.values()]
        self.workspace = place.next(max(needed, default=0))
        self.nbytes = place.end

    def is_small(self, buffer: int) -> bool:
        """Whether a feed or result is copied together with others."""
        return self.slots[buffer] < self.mirrored


class _Places:
    """Hands out bytes one after the other."""

    def __init__(self) -> None:
        self.end = 0

    def next(self, nbytes: int) -> int:
        """The offset of so many bytes."""
        found = self.end
        self.end += int(aligned(nbytes))
        return found


class Addresses(NamedTuple):
    """Where a plan's memory lies.

    Attributes:
        base, mirror: of the memory of a run, and the pinned bytes beside it.
        homes: of variables.
        constants: by buffer.
        elsewhere: addresses of buffers that lie in memory of others.
    """

    base: int
    mirror: Array
    homes: Mapping[Node, Memory]
    constants: Mapping[int, Memory]
    elsewhere: Mapping[int, int]


class Placed:
    """A bound plan at its addresses.

    Attributes:
        segments: one after the other they are the run.
        by_library: what libraries were asked to do in each step, by its number, in order.
        graphs: of each segment, once it was captured.
        runs: how many there were.
    """

    def __init__(
        self,
        driver: Driver,
        plan: Plan,
        layout: Layout,
        hosted: Collection[int],
        served: Mapping[Kernel, Served],
        where: Addresses,
    ) -> None:
        self._driver, self._plan, self._layout, self._where = driver, plan, layout, where
        self._hosted, self._served = hosted, served
        self.by_library: dict[int, list[Asked]] = {}
        self.segments = tuple(self._segments())
        self.graphs: dict[int, object] = {}
        self.runs = 0

    def at(self, buffer: int) -> int:
        """The address of a buffer."""
        layout, where = self._layout, self._where
        while buffer not in layout.slots:
            if buffer in layout.homes:
                return where.homes[layout.homes[buffer]].address
            if buffer in where.elsewhere:
                return where.elsewhere[buffer]
            if buffer in where.constants:
                return where.constants[buffer].address
            takes = self._plan.buffers[buffer].takes
            assert takes is not None, f"buffer {buffer} lies nowhere"
            buffer = takes
        return where.base + layout.slots[buffer]

    # ------------------------------------------------------------------------------------------- order

    def _segments(self) -> Iterator[Segment]:
        """The steps, cut where the host has to do something: run a step, or see whether one failed before variables
        are written."""
        plan, layout = self._plan, self._layout
        commits_at = self._first_commit()
        actions: list[tuple[int, Action]] = list(_around(self._upload()))
        unchecked = False
        for number, step in enumerate(plan.kernels):
            if number == commits_at and unchecked:
                yield Segment((*actions, *_around(self._download(layout.uploaded))), checked=True)
                actions, unchecked = [], False
            if number in self._hosted:
                flags = _around(self._download(layout.uploaded)) if unchecked else ()
                yield Segment((*actions, *flags), checked=unchecked, host=(number, step))
                actions, unchecked = [], False
                continue
            actions += [(number, action) for action in self._step(number, step)]
            unchecked |= number in layout.fallible
        if commits_at == len(plan.kernels) and unchecked:
            yield Segment((*actions, *_around(self._download(layout.uploaded))), checked=True)
            actions, unchecked = [], False
        last = _around([*self._copies(), *self._download(layout.mirrored)])
        yield Segment((*actions, *last), commits=commits_at is not None, checked=unchecked)

    def _first_commit(self) -> int | None:
        """The number of the first step that writes in a home; that after the last, if only copies at the end do."""
        plan, layout = self._plan, self._layout
        homed = {k for k in plan.symbolic.updates if plan.buffers[k].takes in layout.homes}
        found = next((n for n, step in enumerate(plan.kernels) if not homed.isdisjoint(step.writes)), None)
        return len(plan.kernels) if found is None and layout.copied else found

    def _upload(self) -> Iterator[Action]:
        layout, where = self._layout, self._where
        if layout.uploaded:
            yield partial(self._driver.upload, where.base, where.mirror[: layout.uploaded])

    def _download(self, end: int) -> Iterator[Action]:
        """Fetch the flags, and what lies between them and `end`."""
        layout, where = self._layout, self._where
        start = layout.flags_at
        if end > start:
            yield partial(self._driver.download, where.mirror[start:end], where.base + start)

    def _copies(self) -> Iterator[Action]:
        """Bring new values that were written elsewhere to the homes of their variables."""
        for variable, new in self._layout.copied.items():
            if nbytes := self._plan.nbytes[new]:
                home = self._where.homes[variable]
                yield partial(self._driver.copy, home.address, self.at(new), nbytes)

    # ------------------------------------------------------------------------------------------- commands

    def _step(self, number: int, step: Step) -> Iterator[Action]:
        kernel, module = self._served[step.kernel]
        commands: list[Command] = [*reversed(kernel.commands)]
        while commands:
            command = commands.pop()
            if isinstance(command, Launch):
                yield from self._launch(command, number, step, module)
            elif isinstance(command, Gemm):
                yield from self._product(command, step)
            else:
                found = self._by_library(command, step)
                refused = found if isinstance(found, str) else ""
                self.by_library.setdefault(number, []).append(Asked(command.name, refused))
                if not isinstance(found, str):
                    yield found
                after: Sequence[Command] = command.then if isinstance(command, Convolution) else ()
                commands += reversed(command.instead if refused else after)

    def _by_library(self, command: Convolution | Fused, step: Step) -> Action | str:
        """What does a command whenever it is called; or why what is there instead must."""
        if isinstance(command, Convolution):
            return self._driver.convolution(self._convolved(command, step))
        product = self._multiplied(command.gemm, step)
        if not all((product.batch, product.m, product.n, product.k)):
            return "isn't asked where there are no elements"
        bias = 0 if command.bias is None else self._first(command.bias, step)
        return self._driver.fused(product, command.epilogue, bias)

    def _launch(self, launch: Launch, number: int, step: Step, module: object) -> Iterator[Action]:
        blocks = evaluate(launch.blocks, self._plan.dims)
        if blocks:
            arguments = np.array([self._argument(a, number, step) for a in launch.arguments], np.uint64).view(np.int64)
            function = self._driver.function(module, launch.symbol, launch.shared)
            yield partial(self._driver.launch, function, blocks, launch.threads, launch.shared, arguments)

    def _argument(self, argument: Argument, number: int, step: Step) -> int:
        base, layout = self._where.base, self._layout
        if isinstance(argument, Size):
            return evaluate(argument.dim, self._plan.dims) % (1 << 64)
        if isinstance(argument, Pointer):
            return self._address(argument.place, evaluate(argument.number, self._plan.dims), step)
        if isinstance(argument, Failed):
            return base + layout.flags[number]
        assert step.kernel.core is not None
        return base + layout.keys[step.kernel.core]

    def _address(self, place: str, number: int, step: Step) -> int:
        if place == "workspace":
            return self._where.base + self._layout.workspace + number
        return self.at((step.reads if place == "read" else step.writes)[number])

    def _product(self, gemm: Gemm, step: Step) -> Iterator[Action]:
        product = self._multiplied(gemm, step)
        if product.batch and product.m and product.n:
            yield self._driver.multiplication(product)

    def _multiplied(self, gemm: Gemm, step: Step) -> Product:
        dims = self._plan.dims
        a, b, c = (self._matrices(array, step) for array in (gemm.a, gemm.b, gemm.c))
        batch, m, n, k = (evaluate(size, dims) for size in (gemm.batch, gemm.m, gemm.n, gemm.k))
        return Product(a, b, c, batch, m, n, k, gemm.compute)

    def _matrices(self, array: Strided, step: Step) -> Matrices:
        batch, rows, columns = (evaluate(stride, self._plan.dims) for stride in array.strides)
        return Matrices(self._first(array, step), (batch, rows, columns), array.dtype)

    def _first(self, array: Strided, step: Step) -> int:
        """The address of the first element of an array."""
        number, offset = (evaluate(dim, self._plan.dims) for dim in (array.number, array.offset))
        return self._address(array.place, number, step) + offset * itemsize(array.dtype)

    def _convolved(self, command: Convolution, step: Step) -> Convolved:
        arrays = zip((command.x, command.w, command.y), command.shapes, strict=True)
        x, w, y = (self._tensor(array, shape, step) for array, shape in arrays)
        attributes = (command.strides, command.dilations, command.padding, command.compute)
        return Convolved(command.direction, x, w, y, *attributes)

    def _tensor(self, array: Strided, shape: Sequence[Dim], step: Step) -> Tensor:
        dims = self._plan.dims
        sizes, strides = (tuple([evaluate(dim, dims) for dim in some]) for some in (shape, array.strides))
        return Tensor(self._first(array, step), sizes, strides, array.dtype)


def _around(actions: Iterable[Action]) -> tuple[tuple[int, Action], ...]:
    return tuple([(NO_STEP, action) for action in actions])
