"""What runs of a program take besides its code: values of leaves, and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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
    """

    placeholders: tuple[Placeholder, ...]
    variables: tuple[Variable, ...]
    draws: tuple[Draw, ...]
    updated: tuple[Node, ...]
    sizes: Mapping[str, Node]

    @property
    def leaves(self) -> tuple[tuple[Node, ...], ...]:
        """All but the sizes."""
        return self[:4]


def needs_of(program: Program) -> Needs:
    """What a program needs, after its passes."""
    nodes = program.nodes()
    return Needs(
        tuple([node for node in nodes if isinstance(node, Placeholder)]),
        tuple([node for node in nodes if isinstance(node, Variable)]),
        tuple([node for node in nodes if isinstance(node, Draw)]),
        tuple([variable for variable, _ in program.updates]),
        sizes_needed(nodes, ()),
    )
