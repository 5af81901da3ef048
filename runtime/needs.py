"""What runs of a program take besides its code: values of leaves, and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from graphc.dims import Guard
from graphc.ir import Node, Program
from graphc.ops.random import Draw
from graphc.ops.state import Placeholder, Variable
from graphc.runtime.feeds import sizes_needed


class Needs(NamedTuple):
    """What is needed to run a program.

    Attributes:
        placeholders, variables, draws: leaves that are read.
        updated: variables that get new values.
        sizes: symbolic dimensions, each with the first node that needs it.
        guards: the assumptions about them, each with a node that made it.
    """

    placeholders: tuple[Placeholder, ...]
    variables: tuple[Variable, ...]
    draws: tuple[Draw, ...]
    updated: tuple[Node, ...]
    sizes: Mapping[str, Node]
    guards: tuple[tuple[Guard, Node], ...]

    @property
    def leaves(self) -> tuple[tuple[Node, ...], ...]:
        """All but what is to be known of sizes."""
        return self[:4]


def needs_of(written: Program, optimised: Program) -> Needs:
    """What a program needs, before and after its passes."""
    nodes = optimised.nodes()
    leaves = [node for node in nodes if not node.inputs]
    return Needs(
        tuple([node for node in leaves if isinstance(node, Placeholder)]),
        tuple([node for node in leaves if isinstance(node, Variable)]),
        tuple([node for node in leaves if isinstance(node, Draw)]),
        tuple([variable for variable, _ in optimised.updates]),
        sizes_needed(nodes, ()),
        collect_guards(written),
    )


def collect_guards(program: Program) -> tuple[tuple[Guard, Node], ...]:
    """The assumptions of all nodes of a program, those inside composites included, each with a node that made it."""
    found: dict[Guard, Node] = {}
    for node in program.nodes():
        if node.guards or node.body is not None:  # few have any
            inner = () if node.body is None else [guard for guard, _ in collect_guards(node.body)]
            for guard in (*node.guards, *inner):
                found.setdefault(guard, node)
    return tuple(found.items())
