"""Training or evaluation: what depends on it is decided here, once, before anything else happens to a program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from graphc.ir import Node, Program, rebuild, serial_of, substitute
from graphc.ops.state import conflict
from graphc.passes.decompose import expand
from graphc.source import Site

MODAL = frozenset({"mode", "auxiliary"})  # the kinds of ops that differ between training and evaluation


def resolve_mode(program: Program, *, training: bool) -> Program:
    """`program` with every choice by mode made, and in a training run with the auxiliary updates that it meets.

    Each distinct auxiliary node that is still reachable gives its variable the new value once. Several on one variable
    compose in the order of their creation: a later one sees what an earlier one left.

    Raises:
        StateError: a variable has an auxiliary and an explicit update; names both lines.
    """
    if not _has_modal(program):
        return program
    program = expand(program, lambda node: node.body is not None and _is_modal(node.body))
    new: dict[Node, Node] = {}  # of what changes
    auxiliary: list[Node] = []
    for node in sorted(_reachable(program.roots, training), key=serial_of):
        if node.op.kind in MODAL:
            stays = _needed(node, training)[0]
            new[node] = new.get(stays, stays)
            if node.op.kind == "auxiliary":
                auxiliary.append(node)
        elif not new.keys().isdisjoint(node.inputs):
            new[node] = rebuild(node, tuple([new.get(i, i) for i in node.inputs]))
    resolved = program.with_roots([new.get(root, root) for root in program.roots])
    if not training or not auxiliary:
        return resolved
    _refuse_conflicts(program, auxiliary)
    return Program(resolved.inputs, resolved.outputs, (*resolved.updates, *_composed(auxiliary, new)))


def _has_modal(program: Program) -> bool:
    """Whether something in it depends on the mode, inside composites included."""
    if not MODAL.isdisjoint(program.kinds):
        return True
    composite = "composite" in program.kinds
    return composite and any(node.body is not None and _is_modal(node.body) for node in program.nodes())


_is_modal = lru_cache(maxsize=1024)(_has_modal)  # of bodies, which many nodes share


def _branch(node: Node, training: bool) -> Node:
    return node.inputs[0 if training else 1]


def _needed(node: Node, training: bool) -> Sequence[Node]:
    """The inputs that a node is computed from in this mode."""
    if node.op.kind == "mode":
        return (_branch(node, training),)
    return node.inputs if training or node.op.kind != "auxiliary" else node.inputs[:1]


def _reachable(roots: Iterable[Node], training: bool) -> set[Node]:
    stack = list(roots)
    seen = set(stack)
    while stack:
        for i in _needed(stack.pop(), training):
            if i not in seen:
                seen.add(i)
                stack.append(i)
    return seen


def _composed(auxiliary: Sequence[Node], new: dict[Node, Node]) -> list[tuple[Node, Node]]:
    """The new value of each variable.

    The first updates of all variables make the values that the second ones see, and so on, so the graph is gone over
    once for each round and not once for each variable.
    """
    rounds: list[dict[Node, Node]] = []
    for node in auxiliary:
        _, variable, value = node.inputs
        level = next((values for values in rounds if variable not in values), None)
        if level is None:
            level = {}
            rounds.append(level)
        level[variable] = new.get(value, value)
    values: dict[Node, Node] = {}
    for level in rounds:
        before = {variable: values[variable] for variable in level if variable in values}
        values.update(zip(level, substitute(list(level.values()), before), strict=True))
    return list(values.items())


def _refuse_conflicts(program: Program, auxiliary: Iterable[Node]) -> None:
    explicit = dict(program.updates)
    for node in auxiliary:
        variable = node.inputs[1]
        if variable in explicit:
            raise conflict(variable.display_name, _line(explicit[variable]), _line(node))


def _line(node: Node) -> str:
    site: Site | None = node.occurrence.site
    return str(site) if site else node.display_name
