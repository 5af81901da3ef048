"""Which leaves of a program are the same run after run, so that what is derived from them may be kept."""

from __future__ import annotations

from graphc.ir import Node, Program
from graphc.ops.state import Variable


def moving(program: Program) -> frozenset[Node]:
    """The leaves that a run may change, or be given anew: what is fed, and what is updated."""
    return frozenset({*program.inputs, *[variable for variable, _ in program.updates]})


def is_steady(leaf: Node, changing: frozenset[Node]) -> bool:
    """Whether a leaf is a constant, or a variable that doesn't change."""
    return leaf.op.kind == "constant" or (isinstance(leaf, Variable) and leaf not in changing)
