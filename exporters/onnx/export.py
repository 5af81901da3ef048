"""From a program to an ONNX model: each node by its line of the table, all problems told at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.composites import item_op
from graphc.errors import ArgumentError, ExportError
from graphc.exporters.onnx.builder import Builder, Value
from graphc.exporters.onnx.line import Line
from graphc.exporters.onnx.model import name_all, to_proto
from graphc.exporters.onnx.schema import DEFAULT_OPSET, OPSETS, Inexpressible
from graphc.exporters.onnx.table import NOT_EXPRESSIBLE, TABLE, line_for
from graphc.ir import Node, Program
from graphc.op import Array, Op
from graphc.operands import squeeze_op
from graphc.passes.decompose import expand
from graphc.types import TensorType, TupleType, Type, np_dtype

if TYPE_CHECKING:
    from onnx import ModelProto

LARGEST = (1 << 31) - (1 << 20)  # bytes of weights: a message is below 2 GiB, and the nodes need some

COMPOSE = "write them with other ops (gc.composite), in a dtype that ONNX takes (gc.cast), or export what comes before"

Result = Value | tuple[Value, ...]
Signature = tuple[Op, tuple[Type, ...], Any]  # what decides whether a composite can be said whole


@dataclass(frozen=True)
class Problem:
    """A node that ONNX can't express.

    Attributes:
        reason: what is missing.
        opset: the lowest opset that would do, or None.
    """

    node: Node
    reason: str
    opset: int | None = None

    def __str__(self) -> str:
        node = self.node
        site = node.occurrence.site
        place = f" in {node.scope}" if node.scope else ""
        types = ", ".join(str(i.type) for i in node.inputs)
        needs = f"; opset {self.opset} has it" if self.opset else ""
        line = f": {site}" if site else ""
        return f"{node.op.name}({types}){place}: {self.reason}{needs}{line}"


@dataclass(frozen=True)
class Exported:
    """A model, and what it was made from.

    Attributes:
        inputs, outputs: their types by the names that they have in the model.
        nodes: which of our nodes each named value is; of a node that broadcasts, perhaps before it does.
        operators: how often each operator occurs.
        raised: why the opset is higher than asked for, one line for each reason.
        random: the nodes whose values are drawn, so that no two runs agree.
    """

    model: ModelProto
    opset: int
    program: Program
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    nodes: Mapping[str, Node]
    operators: Mapping[str, int]
    raised: tuple[str, ...] = ()
    random: tuple[Node, ...] = field(default=())


def to_onnx(
    program: Program,
    inputs: Sequence[str],
    outputs: Sequence[str],
    variables: Mapping[Node, Array],
    *,
    opset: int | None = None,
    producer_version: str = "",
    source_lines: bool = False,
) -> Exported:
    """The model of a program whose passes have run.

    Args:
        inputs, outputs: the names of the program's inputs and roots.
        variables: the values of the variables that it reads.
        opset: the version of ONNX's operators; None takes 20, or as much more as some op needs.
        source_lines: put the user's lines into the file, with the names of their source files.

    Raises:
        ArgumentError: an opset that isn't supported.
        ExportError: all that ONNX can't express, told at once.
    """
    if opset is not None and (not isinstance(opset, int) or opset not in OPSETS):
        raise ArgumentError(f"opset={opset!r} isn't one of {OPSETS[0]} to {OPSETS[-1]}")
    used = opset or DEFAULT_OPSET
    raised: tuple[str, ...] = ()
    lowering = _lower(program, inputs, variables, used)
    helpful = [problem.opset for problem in lowering.problems]
    if opset is None and helpful and None not in helpful:
        used = max(needed for needed in helpful if needed)
        raised = tuple(map(str, lowering.problems))
        lowering = _lower(program, inputs, variables, used)
    if lowering.problems:
        raise inexpressible(lowering.problems, used)
    builder = lowering.builder
    _require_one_file(builder)
    results: dict[Value, Node] = {}
    for node, found in lowering.results.items():
        for value in _values(found):
            results.setdefault(value, node)  # a later one hands it on
    named = list(zip(outputs, lowering.roots(), strict=True))
    returned = name_all(builder, named, results)
    return Exported(
        to_proto(builder, returned, name="graphc", producer_version=producer_version, source_lines=source_lines),
        used,
        lowering.program,
        {value.name: value.type for value in builder.inputs},
        {value.name: value.type for value in returned},
        {value.name: node for value, node in results.items() if value.array is None},
        dict(sorted(Counter(step.kind for step in builder.steps).items())),
        raised,
        tuple(node for node in lowering.results if node.op.kind == "random"),
    )


def _require_one_file(builder: Builder) -> None:
    """Make sure that what is stored fits a message of protocol buffers."""
    size = sum(value.array.nbytes for value in builder.stored if value.array is not None)
    if size >= LARGEST:
        raise ExportError(
            f"the model's weights take {size / 2**30:.2f} GiB, and an ONNX file holds less than 2",
            hint="cast the variables to float16, or export the model in parts",
        )


def inexpressible(problems: Sequence[Problem], opset: int) -> ExportError:
    """The error that tells all problems."""
    opsets = [problem.opset for problem in problems]
    known = [needed for needed in opsets if needed is not None]
    count = "an operation" if len(problems) == 1 else f"{len(problems)} operations"
    return ExportError(
        f"ONNX can't express {count} of this graph at opset {opset}",
        lines=[str(problem) for problem in problems],
        hint=f"opset={max(known)} has what is missing" if len(known) == len(opsets) else COMPOSE,
    )


def _lower(program: Program, inputs: Sequence[str], variables: Mapping[Node, Array], opset: int) -> _Lowering:
    """The program, lowered; a composite that can't be said whole, such as one of integers, is decomposed."""
    refused: set[Signature] = set()

    def unsaid(node: Node) -> bool:
        return line_for(node, opset) is None or _signature(node) in refused

    while True:
        lowering = _Lowering(expand(program, unsaid), inputs, variables, opset)
        found = {_signature(problem.node) for problem in lowering.problems if problem.node.body is not None}
        if not found:
            return lowering
        refused |= found


def _signature(node: Node) -> Signature:
    return node.op, tuple([i.type for i in node.inputs]), node.attrs.key


class _Lowering:
    """Goes over the nodes of a program once, and keeps what each became."""

    def __init__(self, program: Program, inputs: Sequence[str], variables: Mapping[Node, Array], opset: int) -> None:
        self.program = program
        given = [Value(node.tensor_type, name=name) for node, name in zip(program.inputs, inputs, strict=True)]
        self.builder = Builder(opset, given)
        self.results: dict[Node, Result] = dict(zip(program.inputs, given, strict=True))
        self.problems: list[Problem] = []
        nodes = self.program.nodes()
        self.users = Counter(i for node in nodes for i in node.inputs) + Counter(self.program.roots)
        merged = {node: reduced for node in nodes if (reduced := self._squeezed(node)) is not None}
        skipped = set(merged.values())
        for node in nodes:
            if node not in self.results and node not in skipped:
                origin = self.builder.origin = merged.get(node, node)
                try:
                    self.results[node] = self._emit(node, merged.get(node), variables)
                except Inexpressible as error:
                    self.problems.append(Problem(origin, error.message, error.opset))
                    self.results[node] = _placeholder(node)

    def _squeezed(self, node: Node) -> Node | None:
        """The reduction whose axes a squeeze drops, if nothing else uses it: both are one step of ONNX's."""
        if node.op is not squeeze_op:
            return None
        reduced = node.inputs[0]
        line = TABLE.get(reduced.op)
        fits = line is not None and line.keepdims and reduced.attrs["axes"] == node.attrs["axes"]
        return reduced if fits and self.users[reduced] == 1 else None

    def _emit(self, node: Node, reduced: Node | None, variables: Mapping[Node, Array]) -> Result:
        if node.op.kind == "variable":
            return self.builder.parameter(variables[node], dotted(node.display_name))
        if isinstance(node.type, TensorType) and 0 in node.shape and not node.type.symbolic:
            return self.builder.constant(np.zeros(node.shape, np_dtype(node.dtype)))  # nothing, whatever computes it
        if node.op is item_op:
            found = self.results[node.inputs[0]]
            assert isinstance(found, tuple)
            index: int = node.attrs["index"]
            return found[index]
        if reduced is not None:
            return TABLE[reduced.op].emit(self.builder, reduced, self._full(reduced.inputs[0]), keepdims=0)
        line = TABLE.get(node.op)
        if line is None:
            raise Inexpressible(NOT_EXPRESSIBLE.get(node.op, "ONNX has no such operator"))
        return line.emit(self.builder, node, *[self._operand(i, line) for i in node.inputs])

    def _operand(self, node: Node, line: Line) -> Value:
        """The value of an operand with as many axes broadcast as the line needs."""
        x = self._value(node)
        if line.trailing is None:
            return self.builder.expand(x, node.shape)
        tail = node.shape[node.ndim - line.trailing :]
        lead = x.shape[: max(len(x.shape) - line.trailing, 0)]
        return self.builder.expand(x, (*lead, *tail))

    def roots(self) -> list[Value]:
        """The values of the program's roots, in their shapes."""
        found = []
        for root in self.program.roots:
            self.builder.origin = root
            found.append(self._full(root))
        self.builder.origin = None
        return found

    def _full(self, node: Node) -> Value:
        return self.builder.expand(self._value(node), node.shape)

    def _value(self, node: Node) -> Value:
        found = self.results[node]
        assert isinstance(found, Value)
        return found


def _values(found: Result) -> tuple[Value, ...]:
    return found if isinstance(found, tuple) else (found,)


def _placeholder(node: Node) -> Result:
    """What stands for a node that couldn't be expressed, so that the search for further problems goes on."""
    types = node.type.items if isinstance(node.type, TupleType) else (node.type,)
    made = tuple(Value(type) for type in types)
    return made if isinstance(node.type, TupleType) else made[0]


def dotted(name: str) -> str:
    """The name of a variable in files, as torch writes it."""
    return name.replace("/", ".")
