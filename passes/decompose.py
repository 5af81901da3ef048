"""Composites, expanded into the ops that define them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from graphc.attrs import Attrs
from graphc.composites import item_op
from graphc.ir import Node, Program, make, rebuild
from graphc.occurrences import derived_from
from graphc.op import Op
from graphc.target import TargetInfo

Transform = Callable[[Program], Program]


def unchanged(body: Program) -> Program:
    """The default for `prepare`."""
    return body


def decompose(program: Program, target: TargetInfo, prepare: Transform = unchanged) -> Program:
    """`program` in primitives and the composites that `target` takes whole; `prepare` as for `expand`."""
    return expand(program, lambda node: not target.takes(node), prepare)


def inline(program: Program, target: TargetInfo, seen: Iterable[Op], prepare: Transform = unchanged) -> Program:
    """`program` with the composites expanded that neither `target` takes whole nor any rule looks for (`seen`).

    A pattern then fits across the borders of a user's own composites, while `softmax` is still one node.
    """
    looked_for = frozenset(seen)
    return expand(program, lambda node: not (node.op in looked_for or target.takes(node)), prepare)


def expand(program: Program, wanted: Callable[[Node], bool], prepare: Transform = unchanged) -> Program:
    """`program` with every composite node that is `wanted`, wherever it is nested, replaced by its body.

    Each body is expanded once and then instantiated, so the work is linear in the nodes of the result. Recursion
    goes as deep as definitions nest.

    Args:
        prepare: what to do to an expanded body before it is instantiated: once for a thousand uses.
    """

    @cache
    def template(body: Program) -> Template:
        return Template.of(prepare(expand(body, wanted, prepare)))

    if "composite" not in program.kinds:
        return program
    new: dict[Node, Node] = {}  # of what changes
    results: dict[Node, Sequence[Node]] = {}  # of the expanded nodes, which may have several
    for node in program.nodes():
        if node.body is None and new.keys().isdisjoint(node.inputs):
            continue
        inputs = tuple([new.get(i, i) for i in node.inputs])
        if node.body is not None and wanted(node):
            with derived_from(node, "decompose"):
                results[node] = template(node.body).instantiate(inputs)
            new[node] = results[node][0]
        elif node.op is item_op and node.inputs[0] in results:
            new[node] = results[node.inputs[0]][node.attrs["index"]]
        else:
            new[node] = rebuild(node, inputs)
    return program.with_roots([new.get(root, root) for root in program.roots])


@dataclass(frozen=True)
class Template:
    """A body as instructions, for many uses: each makes one value of those before it.

    Attributes:
        fixed: the values that depend on no parameter; they come behind the inputs.
        steps: op, positions of the operands, attributes, and body of each further value.
        outputs: positions of the results.
    """

    fixed: tuple[Node, ...]
    steps: tuple[tuple[Op, tuple[int, ...], Attrs, Program | None], ...]
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, body: Program) -> Template:
        """The instructions of a body."""
        varying = set(body.inputs)
        nodes = [node for node in body.nodes() if node not in varying]
        for node in nodes:
            if not varying.isdisjoint(node.inputs):
                varying.add(node)
        fixed = [node for node in nodes if node not in varying]
        computed = [node for node in nodes if node in varying]
        place = {node: k for k, node in enumerate([*body.inputs, *fixed, *computed])}
        steps = [(n.op, tuple([place[i] for i in n.inputs]), n.attrs, n.body) for n in computed]
        return cls(tuple(fixed), tuple(steps), tuple([place[output] for output in body.outputs]))

    def instantiate(self, inputs: Sequence[Node]) -> list[Node]:
        """The results for these inputs."""
        values = [*inputs, *self.fixed]
        for op, operands, attrs, body in self.steps:
            values.append(make(op, tuple([values[k] for k in operands]), attrs, body))
        return [values[k] for k in self.outputs]
