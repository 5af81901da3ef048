"""What a kernel becomes on a GPU: CUDA C, and commands that run one after the other, most of them launches of it.

A room that emits a core asks `CudaCode.launch` for a `Frame`, fills it with lines, and names memory and sizes by what
the frame gives: parameters appear as they are used. All text is C++ for NVRTC without any header; `prelude.py` has the
types and functions that it may use. Buffers and workspace begin at multiples of 64 bytes. Offsets and counters have the
type `Index`: 32 bits wide where everything that the kernel reaches fits, which is known when sizes are, else 64.

A launch must give the same bits whatever the order of its blocks: no block reads what another one writes, and there
are no atomic additions of floats. Launches of one kernel run in order; each sees all that those before it have written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from graphc.dims import Dim, DimExpr, evaluate, product
from graphc.kernel import Access, Kernel, Region
from graphc.runtime.cuda.scalars import MEMORY
from graphc.runtime.strided import Strided, aligned

Precision = Literal["float32", "tf32", "bfloat16"]

NARROW = 1 << 30  # offsets below this are 32 bits wide: a block may count beyond the last by its own size
INDENT = "    "


class Pointer(NamedTuple):
    """The address of a buffer that the kernel reads or writes, or of workspace.

    Attributes:
        number: of the kernel's reads or writes; in "workspace" an offset in bytes.
    """

    place: Literal["read", "write", "workspace"]
    number: Dim


class Size(NamedTuple):
    """An int64 that is known when a plan is bound."""

    dim: Dim


@dataclass(frozen=True)
class Key:
    """The address on the device of the 3 int64 of a draw's key: seed, stream and counter."""


@dataclass(frozen=True)
class Failed:
    """The address on the device of the run's int32 flag; a kernel whose operands are out of range makes it 1."""


Argument = Pointer | Size | Key | Failed


class Launch(NamedTuple):
    """A launch of a `__global__` function on a grid of one dimension.

    Attributes:
        symbol: its name.
        blocks: of the grid; with 0 nothing is launched.
        threads: of a block.
        arguments: of its parameters, in order.
        shared: bytes of dynamic shared memory; what is declared in the function isn't counted.
    """

    symbol: str
    blocks: Dim
    threads: int
    arguments: tuple[Argument, ...]
    shared: int = 0


class Gemm(NamedTuple):
    """c = a @ b for each matrix of a batch, by cuBLAS.

    Attributes:
        a, b, c: of shapes [batch, m, k], [batch, k, n] and [batch, m, n]; each has a stride of 1 along one of its last
            two axes, c along the last one. The stride of the batch may be 0 in a and b.
        compute: in what is multiplied and added: "float32", "float64", or float32 of operands that are rounded to
            "tf32" or "bfloat16".
    """

    a: Strided
    b: Strided
    c: Strided
    batch: Dim
    m: Dim
    n: Dim
    k: Dim
    compute: str


class Convolution(NamedTuple):
    """A convolution by cuDNN, if it can do this one.

    Attributes:
        direction: which of the three is computed: the result ("forward"), or the gradient of the input ("data") or of
            the weight ("weight").
        x, w, y: input [n, c, *space], weight [k, c / groups, *window] and result [n, k, *space].
        shapes: of x, w and y.
        strides, dilations: of the convolution.
        padding: before and after each axis of space.
        compute: as `Gemm.compute`.
        then: launches that do what follows.
        instead: launches that do all of it.
    """

    direction: Literal["forward", "data", "weight"]
    x: Strided
    w: Strided
    y: Strided
    shapes: tuple[tuple[Dim, ...], tuple[Dim, ...], tuple[Dim, ...]]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    compute: str
    then: tuple[Launch, ...] = ()
    instead: tuple[Launch, ...] = ()

    @property
    def name(self) -> str:
        """For reports."""
        rounds = self.x.dtype == "float32" and self.compute != "float32"
        return "cudnn, operands rounded to tf32" if rounds else "cudnn"


class Fused(NamedTuple):
    """A product of matrices and what follows from it, by cublasLt, if it can do this one.

    Attributes:
        gemm: the product, with what follows from it in `c`.
        epilogue: its name there, without CUBLASLT_EPILOGUE_.
        bias: of shape [n], contiguous; None for an epilogue without one.
        instead: launches and products that do all of it.
    """

    gemm: Gemm
    epilogue: str
    bias: Strided | None
    instead: tuple[Launch | Gemm, ...] = ()

    @property
    def name(self) -> str:
        """For reports."""
        return f"cublaslt with {self.epilogue.lower().replace('_', ' of ')}"


Command = Launch | Gemm | Convolution | Fused


@dataclass(frozen=True)
class CudaKernel:
    """A kernel as CUDA C and commands.

    Attributes:
        source: without what `prelude.translation_unit` puts before it.
        commands: in the order in which they run.
        workspace: bytes of memory that the commands share while the kernel runs.
        draws: whether a launch takes a draw's `Key`.
        fails: whether a launch takes the flag `Failed`.
        spans: no offset or counter is greater than the greatest of these.
        notes: how it computes what it does, for reports: "rows by warps", "implicit gemm 128x64x16".
    """

    source: str
    commands: tuple[Command, ...]
    workspace: Dim
    draws: bool
    fails: bool
    spans: tuple[Dim, ...]
    notes: tuple[str, ...] = ()

    @property
    def launches(self) -> tuple[Launch, ...]:
        """All launches, those included that run after or instead of a library's function."""
        found: list[Launch] = []
        for command in self.commands:
            if isinstance(command, Launch):
                found.append(command)
            elif isinstance(command, Convolution):
                found += (*command.then, *command.instead)
            elif isinstance(command, Fused):
                found += [each for each in command.instead if isinstance(each, Launch)]
        return tuple(found)

    def is_wide(self, dims: Mapping[str, int]) -> bool:
        """Whether `Index` must have 64 bits for these sizes."""
        return any(evaluate(span, dims) > NARROW for span in self.spans)


class CudaCode:
    """The code of a kernel in the making: its commands, and the memory between them.

    Attributes:
        precision: to which products round operands of float32: "float32", not at all, "tf32" or "bfloat16".
        libraries: that may be asked: "cudnn", "cublaslt".
        reads, writes: how many buffers the kernel has of each.
        results: of the core, where they are in workspace.
    """

    def __init__(
        self, kernel: Kernel, precision: Precision = "float32", libraries: Collection[str] = frozenset()
    ) -> None:
        self.kernel = kernel
        self.precision = precision
        self.libraries = libraries
        self.reads = 1 + max(
            (load.read for r in kernel.regions for load in r.loads if load.read is not None), default=-1
        )
        self.writes = 1 + max((store.write for r in kernel.regions for store in r.stores), default=-1)
        self.results: dict[int, Strided] = {}
        self._notes: dict[str, None] = {}
        self._declared: dict[str, None] = {}
        self._frames: list[Frame] = []
        self._commands: list[Frame | _Again | Gemm | _Either | _Fused] = []
        self._spans: dict[Dim, None] = {}
        self._workspace: Dim = 0
        for region in kernel.regions:
            for span in _spans(region):
                self.span(span)

    def launch(self, blocks: Dim, threads: int, shared: int = 0) -> Frame:
        """Append a launch of a new function, to be filled."""
        frame = Frame(self, f"kernel{len(self._frames)}", blocks, threads, shared)
        self._frames.append(frame)
        self._commands.append(frame)
        return frame

    def again(self, frame: Frame, blocks: Dim, instead: Mapping[Argument, Argument]) -> None:
        """Append another launch of a function, with other arguments in the place of some."""
        self._commands.append(_Again(frame, blocks, instead))

    def gemm(self, command: Gemm) -> None:
        """Append a product of matrices."""
        self._commands.append(command)

    @property
    def position(self) -> int:
        """How many commands there are."""
        return len(self._commands)

    def convolution(self, command: Convolution, since: int, then: int) -> None:
        """Append a convolution. The launches from position `since` on do all of it; those from `then` on follow it."""
        launches = [found for found in self._commands[since:] if isinstance(found, Frame | _Again)]
        self._commands[since:] = [_Either(command, launches[: then - since], launches[then - since :])]

    def fused(self, command: Fused, since: int) -> None:
        """Append a product with its epilogue; the commands from position `since` on do all of it instead."""
        own = [found for found in self._commands[since:] if isinstance(found, Frame | _Again | Gemm)]
        self._commands[since:] = [_Fused(command, own)]

    def declare(self, text: str) -> None:
        """Add `__device__` functions or types that launches use; said twice, they are there once."""
        self._declared[text] = None

    def note(self, words: str) -> None:
        """Say in a few words how something is computed, for reports; said twice, it is there once."""
        self._notes[words] = None

    def span(self, dim: Dim) -> None:
        """Say that something counts up to here. What the kernel's loops, loads and stores reach is known."""
        self._spans[dim] = None

    def workspace(self, nbytes: Dim) -> Dim:
        """Take memory that all launches see; its offset in bytes."""
        offset = self._workspace
        self._workspace = offset + aligned(nbytes)
        self.span(self._workspace)
        return offset

    def finished(self) -> CudaKernel:
        """What has been made."""
        commands: list[Command] = []
        for command in self._commands:
            if isinstance(command, Frame | _Again):
                commands.append(command.launch())
            elif isinstance(command, Gemm):
                commands.append(command)
            else:
                commands.append(command.command())
        source = "\n\n".join([*self._declared, *(frame.text() for frame in self._frames)]) + "\n"
        taken = {type(argument) for frame in self._frames for argument in frame.launch().arguments}
        kernel = CudaKernel(source, tuple(commands), self._workspace, Key in taken, Failed in taken, ())
        return replace(kernel, spans=tuple(self._spans), notes=tuple(self._notes))


class Frame:
    """A `__global__` function in the making, with what its parameters mean."""

    def __init__(self, code: CudaCode, symbol: str, blocks: Dim, threads: int, shared: int) -> None:
        self.code = code
        self._launch = Launch(symbol, blocks, threads, (), shared)
        self._parameters: dict[tuple[Argument, str], str] = {}  # an argument as a C type: the name of the parameter
        self._indices: dict[str, None] = {}  # the sizes that are wanted as an `Index`
        self._lines: list[str] = []
        self._depth = 1
        self._names = 0

    # ------------------------------------------------------------------------------------ text

    def line(self, text: str) -> None:
        """Append a line."""
        self._lines.append(f"{INDENT * self._depth}{text}")

    @contextmanager
    def block(self, head: str = "", end: str = "}") -> Iterator[None]:
        """Lines in braces, after `head`: "for (...)", "if (...)", "const auto f = [&](int i)" (which ends as "};")."""
        self.line(f"{head} {{" if head else "{")
        self._depth += 1
        yield
        self._depth -= 1
        self.line(end)

    def name(self, stem: str = "v") -> str:
        """A name that nothing else in the function has."""
        self._names += 1
        return f"{stem}_{self._names}"

    def value(self, type: str, expression: str, stem: str = "v") -> str:
        """Declare a constant of a C type; its name."""
        name = self.name(stem)
        self.line(f"const {type} {name} = {expression};")
        return name

    # ------------------------------------------------------------------------------------ parameters

    def size(self, dim: Dim) -> str:
        """A dimension as an `Index`: a number if it is known, else a parameter."""
        if not isinstance(dim, DimExpr):
            return str(dim) if abs(dim) < 1 << 31 else f"{dim}LL"
        name = self.number(dim)[:-1]
        self._indices[name] = None
        return name

    def number(self, dim: Dim) -> str:
        """A dimension as an i64: a number if it is known, else a parameter."""
        if not isinstance(dim, DimExpr):
            return f"{dim}LL" if dim >= 0 else f"({dim}LL)"
        count = sum(isinstance(argument, Size) for argument, _ in self._parameters)
        return self._parameter(Size(dim), "const long long", f"n{count}_")

    def parameter(self, dim: Dim, name: str) -> str:
        """A size as a parameter of this name, a `long long`, even if it is known: `CudaCode.again` may replace it."""
        return self._parameter(Size(dim), "const long long", name)

    def base(self, array: Strided) -> str:
        """The pointer from which the offsets of an array count, to elements of its dtype."""
        assert array.place != "scratch" and array.place != "kept", "only the CPU target has such memory"
        return self.pointer(array.place, array.number, array.dtype)

    def pointer(self, place: Literal["read", "write", "workspace"], number: Dim, dtype: str) -> str:
        """A pointer to memory as elements of a dtype; what the kernel reads is const."""
        name = f"{place[0]}{number}" if place != "workspace" else f"t{len(self._parameters)}"
        type = f"const {MEMORY[dtype]}*" if place == "read" else f"{MEMORY[dtype]}*"
        return self._parameter(Pointer(place, number), type, name)

    def at(self, array: Strided, index: Sequence[str] = ()) -> str:
        """An element of an array, as C has it: "r0[i * 4 + j]"; without an index, the first."""
        return f"{self.base(array)}[{self.offset(array.offset, array.strides, index)}]"

    def offset(self, offset: Dim, strides: Sequence[Dim], index: Sequence[str]) -> str:
        """An expression: `offset + sum(index * stride)`."""
        terms = [] if offset == 0 else [self.size(offset)]
        for i, stride in zip(index, strides, strict=False):
            if stride == 0 or i == "0":
                continue
            terms.append(_factor(i) if stride == 1 else f"{_factor(i)} * {_factor(self.size(stride))}")
        return " + ".join(terms) or "0"

    def counted(self, offset: Dim, strides: Sequence[Dim], index: Sequence[str]) -> str:
        """The same as an i64, however wide an `Index` is."""
        terms = [] if offset == 0 else [self.number(offset)]
        for i, stride in zip(index, strides, strict=False):
            if stride != 0 and i != "0":
                terms.append(f"(i64){_factor(i)} * {self.number(stride)}" if stride != 1 else f"(i64){_factor(i)}")
        return " + ".join(terms) or "0LL"

    def key(self) -> str:
        """The name of the draw's key, a `const long long*`: seed, stream and counter."""
        return self._parameter(Key(), "const long long*", "key")

    def failed(self) -> str:
        """The name of the flag, an `int*`."""
        return self._parameter(Failed(), "int*", "failed")

    def _parameter(self, argument: Argument, type: str, name: str) -> str:
        return self._parameters.setdefault((argument, type), name)

    # ------------------------------------------------------------------------------------ the whole

    def launch(self) -> Launch:
        """The launch, with the arguments of all that was named so far."""
        return self._launch._replace(arguments=tuple([argument for argument, _ in self._parameters]))

    def text(self) -> str:
        """The function."""
        parameters = ", ".join([f"{type} {name}" for (_, type), name in self._parameters.items()])
        head = f'extern "C" __global__ void __launch_bounds__({self._launch.threads}) {self._launch.symbol}'
        sizes = [f"{INDENT}const Index {name} = (Index){name}_;" for name in self._indices]
        return "\n".join([f"{head}({parameters}) {{", *sizes, *self._lines, "}"])


class _Either(NamedTuple):
    """A convolution, and what runs instead of it or after it."""

    library: Convolution
    instead: Sequence[Frame | _Again]
    then: Sequence[Frame | _Again]

    def command(self) -> Convolution:
        """The command."""
        then, instead = (tuple([found.launch() for found in some]) for some in (self.then, self.instead))
        return self.library._replace(then=then, instead=instead)


class _Fused(NamedTuple):
    """A product with its epilogue, and what runs instead of it."""

    library: Fused
    instead: Sequence[Frame | _Again | Gemm]

    def command(self) -> Fused:
        """The command."""
        instead = [found if isinstance(found, Gemm) else found.launch() for found in self.instead]
        return self.library._replace(instead=tuple(instead))


class _Again(NamedTuple):
    """Another launch of a function."""

    frame: Frame
    blocks: Dim
    instead: Mapping[Argument, Argument]

    def launch(self) -> Launch:
        """The launch."""
        first = self.frame.launch()
        arguments = tuple([self.instead.get(argument, argument) for argument in first.arguments])
        return first._replace(blocks=self.blocks, arguments=arguments)


def _factor(expression: str) -> str:
    return expression if expression.replace("_", "").isalnum() else f"({expression})"


def _spans(region: Region) -> Iterator[Dim]:
    """How far the loops of a region count, and its accesses reach."""
    extents = [loop.extent for loop in region.loops]
    yield product(extents)
    accesses = [load.access for load in region.loads if load.read is not None]
    for access in (*accesses, *(store.access for store in region.stores)):
        yield access.offset
        yield _reach(access, extents)


def _reach(access: Access, extents: Sequence[Dim]) -> Dim:
    """A bound of an access's offsets from its first one on; a stride of unknown sign is taken to go forward."""
    reach = access.offset
    for stride, extent in zip(access.strides, extents, strict=True):
        forward = isinstance(stride, DimExpr) or stride > 0
        reach = reach + (stride if forward else -stride) * extent
    return reach
