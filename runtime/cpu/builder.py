"""LLVM IR as text, in final form: loops, vectors and masks are written as they shall run, so LLVM needs no IR pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

from graphc.runtime.cpu.instructions import Instructions, OpenLoop
from graphc.runtime.cpu.values import I64, PTR, Int, Value, literal

T = TypeVar("T")

ATTRIBUTES = 'attributes #0 = { nounwind "prefer-vector-width"="512" }'
METADATA = "!0 = !{i32 1}"


class Span(NamedTuple):
    """Where a loop is among the lines of its function.

    Attributes:
        first, last: the lines of the labels of its head and of what comes after it.
        carries: whether values leave it.
    """

    first: int
    last: int
    carries: bool


class Module:
    """Functions, which may use AVX-512 or not, what they declare, and constant tables; `text()` is what LLVM parses."""

    def __init__(self, avx512: bool = False) -> None:
        self.avx512 = avx512
        self.declared: dict[str, str] = {}
        self._globals: list[str] = []
        self._addresses: dict[str, str] = {}  # names of arrays of addresses, by content
        self.functions: list[Function] = []
        self._names: set[str] = set()

    def function(
        self, name: str, parameters: Sequence[tuple[str, str]], result: str = "void", *, internal: bool = False
    ) -> Function:
        """A new function, to be filled.

        Args:
            parameters: types, with attributes such as `"ptr noalias"`, and names.
        """
        made = Function(self, name, parameters, result, internal)
        self.functions.append(made)
        self._names.add(name)
        return made

    def has(self, name: str) -> bool:
        """Whether a function of this name has been begun."""
        return name in self._names

    def declare(self, name: str, result: str, parameters: Sequence[str]) -> None:
        """Declare an external function or intrinsic; as often as one likes."""
        if name not in self._names:
            self.declared[name] = f"declare {result} @{name}({', '.join(parameters)})"

    def table(self, name: str, element: str, numbers: Sequence[float | int]) -> Value:
        """A constant array; its address."""
        entries = ", ".join(f"{element} {literal(element, number)}" for number in numbers)
        self._globals.append(
            f"@{name} = private unnamed_addr constant [{len(numbers)} x {element}] [{entries}], align 64"
        )
        return Value(f"@{name}", PTR)

    def addresses(self, functions: Sequence[str | None], parameters: Sequence[str]) -> Value:
        """A constant array of the addresses of external functions without a result, null for None; its address."""
        for function in filter(None, functions):
            self.declare(function, "void", parameters)
        entries = ", ".join(["ptr null" if function is None else f"ptr @{function}" for function in functions])
        content = f"private unnamed_addr constant [{len(functions)} x ptr] [{entries}]"
        name = self._addresses.setdefault(content, f"addresses{len(self._addresses)}")
        return Value(f"@{name}", PTR)

    @property
    def tables(self) -> list[str]:
        """The lines of its constant arrays."""
        return [*self._globals, *[f"@{name} = {content}" for content, name in self._addresses.items()]]

    def text(self) -> str:
        """The module as LLVM assembly."""
        functions = [function.text() for function in self.functions]
        return "\n".join([*self.declared.values(), *self.tables, *functions, ATTRIBUTES, METADATA, ""])


@cache
def _bare(type: str) -> str:
    """The type of a parameter without its attributes."""
    return type[: type.index(">") + 1] if type.startswith("<") else type.split(" ")[0]


class Function(Instructions):
    """The body of a function in the making: see `Instructions`; and control flow."""

    def __init__(
        self, module: Module, name: str, parameters: Sequence[tuple[str, str]], result: str, internal: bool
    ) -> None:
        super().__init__(module.declare)
        self.module = module
        self.name = name
        self.result = result
        self.internal = internal
        self.spans: list[Span] = []  # of its loops, those inside others before these
        self._parameters = list(parameters)
        self._block = "entry"
        self._given = [Value(f"%{name}", _bare(type)) for type, name in parameters]
        self.types.update(self._given)

    def parameter(self, number: int) -> Value:
        """The value of a parameter."""
        return self._given[number]

    @property
    def lines(self) -> Sequence[str]:
        """What follows the entry; some are several lines, or none."""
        return self._lines

    def text(self, lines: Sequence[str] | None = None, attributes: str = "#0") -> str:
        """The function as LLVM assembly, or one with other lines after its entry."""
        linkage = "internal " if self.internal else ""
        parameters = ", ".join(f"{type} %{name}" for type, name in self._parameters)
        head = f"define {linkage}{self.result} @{self.name}({parameters}) {attributes} {{"
        return "\n".join([head, "entry:", *self._entry, *(self._lines if lines is None else lines), "}"])

    def _inside(self, write: Callable[[], T]) -> T:
        """What `write` gives, which writes a block that doesn't dominate what follows it."""
        self._blocks.append([])
        given = write()
        for instruction in self._blocks.pop():
            del self._known[instruction]
        return given

    def _repeated(self, slot: int, phis: Sequence[Value], write: Callable[[], T]) -> T:
        """What `write` gives, which writes the body of a loop, with values that change from step to step.

        Args:
            slot: gets what is computed before the loop.
        """
        depth = len(self._blocks) - 1
        loop = OpenLoop(depth, [])
        self._loops.append(loop)
        self._depths.update([(phi.text, depth + 1) for phi in phis])
        self.types.update(phis)
        given = self._inside(write)
        self._depths.update([(phi.text, depth) for phi in phis])  # after the loop they are as what follows it
        self._loops.pop()
        self._lines[slot] = "\n".join(loop.before)
        return given

    def _end_loop(self, first: int, after: str, phis: Sequence[Value]) -> None:
        """Go on after a loop whose head's label is this line."""
        self.spans.append(Span(first, len(self._lines), bool(phis)))
        self.begin(after)

    def label(self) -> str:
        """A new block's name."""
        self._count += 1
        return f"b{self._count}"

    def begin(self, block: str) -> None:
        """Go on in a new block."""
        self._lines.append(f"{block}:")
        self._block = block

    @property
    def block(self) -> str:
        """The block in which the next instruction will be."""
        return self._block

    def loop(
        self,
        low: Int,
        high: Int,
        step: int,
        body: Callable[[Value, list[Value]], Sequence[Value] | None],
        carried: Sequence[Value] = (),
    ) -> list[Value]:
        """`for (i = low; i < high; i += step)`.

        Args:
            body: takes the counter and the carried values, and returns their next values.
            carried: their first values.

        Returns:
            The carried values after the loop.
        """
        before, head, inner, after = self._block, self.label(), self.label(), self.label()
        early = len(self._lines)
        self.do("")  # what is computed before the loop
        self.do(f"br label %{head}")
        self.begin(head)
        self._count += 1
        i, following = Value(f"%i{self._count}", I64), f"%n{self._count}"
        phis = [Value(f"%p{self._count}.{k}", value.type) for k, value in enumerate(carried)]
        slot = len(self._lines)
        self._lines += [""] * (1 + len(phis))  # written when the body's last block is known
        self.do(f"%c{self._count} = icmp slt i64 {i.text}, {self.i64(high).text}")
        self.do(f"br i1 %c{self._count}, label %{inner}, label %{after}")
        self.begin(inner)
        values = self._repeated(early, [i, *phis], lambda: body(i, list(phis))) or ()
        assert len(values) == len(phis)
        self.do(f"{following} = add nsw i64 {i.text}, {step}")
        self.do(f"br label %{head}")
        last = self._block
        self._lines[slot] = f"  {i.text} = phi i64 [ {self.i64(low).text}, %{before} ], [ {following}, %{last} ]"
        for k, (phi, first, value) in enumerate(zip(phis, carried, values, strict=True)):
            assert first.type == value.type, (first, value)
            incoming = f"[ {first.text}, %{before} ], [ {value.text}, %{last} ]"
            self._lines[slot + 1 + k] = f"  {phi.text} = phi {phi.type} {incoming}"
        self._end_loop(slot - 1, after, phis)
        return phis

    def loop_while(
        self,
        test: Callable[[list[Value]], Value],
        body: Callable[[list[Value]], Sequence[Value]],
        carried: Sequence[Value],
    ) -> list[Value]:
        """`while (test(values)) values = body(values)`; the values after it."""
        before, head, inner, after = self._block, self.label(), self.label(), self.label()
        early = len(self._lines)
        self.do("")
        self.do(f"br label %{head}")
        self.begin(head)
        self._count += 1
        phis = [Value(f"%p{self._count}.{k}", value.type) for k, value in enumerate(carried)]
        slot = len(self._lines)
        self._lines += [""] * len(phis)

        def write() -> Sequence[Value]:
            condition = test(list(phis))
            self.do(f"br i1 {condition.text}, label %{inner}, label %{after}")
            tested = self._block
            assert tested == head, "a test has no control flow of its own"
            self.begin(inner)
            return body(list(phis))

        values = self._repeated(early, phis, write)
        assert len(values) == len(phis)
        self.do(f"br label %{head}")
        for k, (phi, first, value) in enumerate(zip(phis, carried, values, strict=True)):
            incoming = f"[ {first.text}, %{before} ], [ {value.text}, %{self._block} ]"
            self._lines[slot + k] = f"  {phi.text} = phi {phi.type} {incoming}"
        self._end_loop(slot - 1, after, phis)
        return phis

    def if_(
        self,
        condition: Value,
        then: Callable[[], Sequence[Value] | None],
        otherwise: Callable[[], Sequence[Value] | None] = lambda: None,
    ) -> list[Value]:
        """Do one or the other; the values that they return, which must be of the same types."""
        yes, no, after = self.label(), self.label(), self.label()
        self.do(f"br i1 {condition.text}, label %{yes}, label %{no}")
        found = []
        for block, branch in ((yes, then), (no, otherwise)):
            self.begin(block)
            given = self._inside(branch)
            values = list(given or ())
            self.do(f"br label %{after}")
            found.append((values, self._block))
        self.begin(after)
        (ours, here), (theirs, there) = found
        return [
            self.emit(a.type, f"phi {a.type} [ {a.text}, %{here} ], [ {b.text}, %{there} ]")
            for a, b in zip(ours, theirs, strict=True)
        ]

    def ret(self, value: Value | None = None) -> None:
        """Return."""
        self.do("ret void" if value is None else f"ret {value.type} {value.text}")
