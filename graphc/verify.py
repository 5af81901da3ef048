"""What must hold of every program, checked: the invariants of level 1.

`GRAPHC_VERIFY=1` checks them after each pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from graphc.dims import take_guards
from graphc.errors import GraphcError, InternalError
from graphc.ir import Leaf, Node, Program
from graphc.types import TensorType


def verify(program: Program) -> None:
    """Raise InternalError, with all that is wrong, unless `program` is well formed.

    Every type is what its op infers from the inputs; inputs are older than their users; all nodes belong to one
    graph; parameters and placeholders are inputs of the program; updates give variables values of their own type,
    once each.
    """
    problems = list(_problems(program))
    if problems:
        raise InternalError("a program is not well formed", lines=problems)


def _problems(program: Program) -> Iterator[str]:
    nodes = program.nodes()
    yield from _root_problems(program)
    graphs = {node.graph.name for node in (*program.inputs, *nodes) if node.graph is not None}
    if len(graphs) > 1:
        yield f"its nodes belong to {len(graphs)} graphs: {', '.join(sorted(graphs))}"
    given = set(program.inputs)
    for node in nodes:
        if node.op.kind in ("parameter", "placeholder") and node not in given:
            yield f"{node!r} is no input of the program"
        yield from (f"{node!r} is older than its input {i!r}" for i in node.inputs if i.serial >= node.serial)
        yield from _type_problems(node)


def _root_problems(program: Program) -> Iterator[str]:
    if len(set(program.inputs)) < len(program.inputs):
        yield "an input is given twice"
    for root in program.roots:
        if not isinstance(root.type, TensorType):
            yield f"{root!r} is a root but no tensor"
    times = Counter([variable for variable, _ in program.updates])
    for variable, new in program.updates:
        if variable.op.kind != "variable":
            yield f"{variable!r} is updated but is no variable"
        if variable.type is not new.type:
            yield f"{variable!r} is given {new!r}"
    yield from (f"{variable!r} is updated twice" for variable, count in times.items() if count > 1)


def _type_problems(node: Node) -> Iterator[str]:
    if isinstance(node, Leaf):
        return
    given = [i.type for i in node.inputs]
    if node.body is not None:
        if [i.type for i in node.body.inputs] != given or node.body.type is not node.type:
            yield f"{node!r} doesn't fit its body, {_signature(node.body)}"
        yield from (f"in the body of {node!r}: {problem}" for problem in _body_problems(node.body))
        return
    try:
        inferred = node.op.infer(*given, **node.attrs)
    except GraphcError as error:
        yield f"{node!r} can't be typed: {error.message}"
    else:
        if inferred is not node.type:
            yield f"{node!r} is {inferred} by its op's rule"
    finally:
        take_guards()  # they were recorded when the node was built


@lru_cache(maxsize=4096)
def _body_problems(body: Program) -> tuple[str, ...]:
    return tuple(_problems(body))


def _signature(body: Program) -> str:
    return f"({', '.join(str(i.type) for i in body.inputs)}) -> {body.type}"
