"""Level 2: plans, kernels in order over buffers at known bytes. Data only.

A `SymbolicPlan` is made once for a program; a `Plan` is one for given sizes of its symbolic dimensions, in which every
buffer has bytes and every arena buffer an offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeVar

from graphc.cached import cached_property
from graphc.ir import Node, Program
from graphc.kernel import Kernel
from graphc.plan_report import report_lines
from graphc.plan_text import plan_lines
from graphc.printer import text
from graphc.target import Order
from graphc.types import TensorType

T = TypeVar("T")
Role = Literal["given", "constant", "arena", "result", "update"]


class Buffer(NamedTuple):
    """Contiguous bytes that hold one value, and views of it that keep its order.

    Attributes:
        role: "given": a placeholder, parameter or variable, whose array the caller passes; never written, except by
            the update that takes its bytes. "constant": the bytes of a constant node. "arena": a temporary. "result":
            a fresh array that the caller keeps. "update": a variable's new value.
        node: the value that it holds.
        takes: the buffer whose bytes it takes over, which nobody reads any more: an arena buffer that of an arena
            buffer, an update that of its variable. An update without one is a second array, and becomes the
            variable's when the run commits.
        order: the axes as they lie in memory, outermost first, of an arena buffer that isn't row-major.
    """

    role: Role
    node: Node
    takes: int | None = None
    order: Order | None = None

    @property
    def type(self) -> TensorType:
        """dtype and shape; dims may be symbolic."""
        return self.node.tensor_type

    def taking(self, giver: int) -> Buffer:
        """The buffer, which takes the bytes of another."""
        return Buffer(self.role, self.node, giver, self.order)


class Variant(NamedTuple):
    """What the code of a step depends on: the kernel, and which of its reads are steady."""

    kernel: Kernel
    steady: frozenset[int]


class Step(NamedTuple):
    """A call of a kernel.

    Attributes:
        reads: buffers, in the order of `Load.read`.
        writes: buffers, in the order of `Store.write`.
        nodes: what it computes, in the program's terms: for names, lines and errors.
        in_place: pairs (read, write) of buffers that share bytes: each element is loaded, by the same access, before
            it is stored, so a target must not store anything else there first (such as partial sums).
        steady: numbers of the reads that a run never changes and that the next run mostly finds unchanged, if the plan
            was made to tell: constants, and variables that are neither fed nor updated by this program.
    """

    kernel: Kernel
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    nodes: tuple[Node, ...]
    in_place: tuple[tuple[int, int], ...] = ()
    steady: frozenset[int] = frozenset()

    @property
    def variant(self) -> Variant:
        """What its code depends on."""
        return Variant(self.kernel, self.steady)


@dataclass(frozen=True)
class SymbolicPlan:
    """What a program becomes, once, for all sizes of its symbolic dimensions.

    Attributes:
        program: what it was made from.
        buffers: all storage.
        steps: in the order of execution.
        given: the buffer of each leaf that the caller passes: placeholders, parameters, variables.
        outputs: the result buffer of each of the program's outputs; no two are the same.
        updates: the update buffer of each of the program's updates, in order.
    """

    program: Program
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    given: Mapping[Node, int]
    outputs: tuple[int, ...]
    updates: tuple[int, ...]

    def refined(self, steps: Iterable[Step], buffers: Iterable[Buffer]) -> SymbolicPlan:
        """The plan with other steps and buffers; each still reads, writes and holds what it did, so lifetimes stay."""
        made = replace(self, steps=tuple(steps), buffers=tuple(buffers))
        made.__dict__["lifetimes"] = self.lifetimes
        return made

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """What the code of each step depends on; one object for all steps that share it."""
        known: dict[Variant, Variant] = {}
        return tuple([known.setdefault(variant, variant) for variant in [step.variant for step in self.steps]])

    def by_type(self, measure: Callable[[TensorType], T]) -> list[T]:
        """For each buffer what `measure` gives for its type, which few types share."""
        types = [buffer.type for buffer in self.buffers]
        found = {type: measure(type) for type in dict.fromkeys(types)}
        return [found[type] for type in types]

    @cached_property
    def lifetimes(self) -> tuple[tuple[int, int], ...]:
        """For each buffer the step that writes it and the last that reads it, by position.

        What is there before the run is written in step -1; what nobody reads lives in the step that writes it.
        """
        born = [-1] * len(self.buffers)
        last = [-1] * len(self.buffers)
        for at, step in enumerate(self.steps):
            for buffer in step.writes:
                born[buffer] = last[buffer] = at
            for buffer in step.reads:
                last[buffer] = at
        return tuple(zip(born, last, strict=True))


class Made(NamedTuple):
    """What a target has made of a step, for reports.

    Attributes:
        native: whether there is code for it; otherwise NumPy runs it.
        how: it computes, in a few words: "gemm 14x32, B packed"; without code, why there is none.
        workspace, scratch: bytes that it needs while it runs: for all threads, and for each.
        parts: into which it is divided, so that several threads can help; 1 if it isn't, 0 on a device that sees to
            it by itself.
        kept: bytes of what it derives from steady operands, kept from run to run.
        copied: bytes that go from a device to the host, where NumPy runs it, and back.
    """

    native: bool
    how: str
    workspace: int = 0
    scratch: int = 0
    parts: int = 1
    kept: int = 0
    copied: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Plan:
    """A plan for given sizes: bytes, and offsets in the arena.

    Attributes:
        symbolic: kernels, steps and buffers.
        dims: sizes of the symbolic dimensions.
        nbytes: bytes of each buffer, as they are read and written.
        offsets: byte offset in the arena of each buffer with role "arena", 0 for all others; multiples of 64.
        peak_bytes: bytes of the arena, of everything that lives only during a run, and of `kept_bytes`. What the
            caller passes and gets (feeds, variables, results), constants, and second arrays of updates are not in it;
            `report` lists them.
        kept_bytes: of what steps keep from run to run.
        lower_bound_bytes: most bytes of arena buffers that are live at any step; no placement needs fewer.
        made: of each step, by a target that generates code; empty for others.
        written: the program before the passes, if that is known.
    """

    symbolic: SymbolicPlan
    dims: Mapping[str, int]
    nbytes: tuple[int, ...]
    offsets: tuple[int, ...]
    peak_bytes: int
    lower_bound_bytes: int = field(compare=False)
    made: tuple[Made, ...] = field(default=(), compare=False)
    kept_bytes: int = 0
    written: Program | None = field(default=None, compare=False, repr=False)

    @property
    def kernels(self) -> tuple[Step, ...]:
        """The steps, in the order of execution."""
        return self.symbolic.steps

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All storage."""
        return self.symbolic.buffers

    def report(self) -> str:
        """What was made of the program: what was simplified, fused, reused and in place, the kernels in order, and how
        their code works; what lies in memory between kernels, and why."""
        return "\n".join(report_lines(self))


@text.register
def _(x: Plan, *, sources: bool = False) -> str:
    return "\n".join(plan_lines(x))
