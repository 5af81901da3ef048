"""Requests: what a run asks for, resolved, and the program that computes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from graphc.errors import ArgumentError
from graphc.ir import Node, Program, substitute
from graphc.operands import parameter
from graphc.ops.state import Placeholder, Updates, Variable, group
from graphc.passes.modes import resolve_mode
from graphc.runtime.structure import Build

FETCHES = (Node, str, Updates)
SERIAL = attrgetter("serial")


class Request(NamedTuple):
    """What a run asks for, resolved: the key of the plan cache."""

    fetches: tuple[Node, ...]
    updates: tuple[tuple[Node, Node], ...]
    losses: tuple[Node, ...]
    fed: tuple[Node, ...]  # in the order of creation
    training: bool


def is_fetch(leaf: Any) -> bool:
    """Whether something in a nest is what can be fetched."""
    return isinstance(leaf, FETCHES)


def nodes_of(resolved: Iterable[Node | Updates]) -> Iterator[Node]:
    """The nodes among what is fetched, those in updates included."""
    for leaf in resolved:
        yield from [leaf] if isinstance(leaf, Node) else [node for pair in leaf.items() for node in pair]


def builder(resolved: Sequence[Node | Updates], build: Build) -> Build:
    """What puts the values of tensors into the form of what was fetched, with None in the places of updates."""
    is_value = [isinstance(leaf, Node) for leaf in resolved]
    if all(is_value):
        return build
    return build._replace(of=lambda values: build.of(iter([next(values) if v else None for v in is_value])))


def requested(resolved: Sequence[Node | Updates], given: Mapping[Node, Any], training: bool | None) -> Request:
    """The request for what is fetched, given the feeds by node.

    Raises:
        ArgumentError: `training` is neither a bool nor None.
    """
    if not (training is None or isinstance(training, bool | np.bool_)):
        raise ArgumentError(f"training must be True, False or None, got {training!r}")
    fetches = tuple([leaf for leaf in resolved if isinstance(leaf, Node)])
    updates = [leaf for leaf in resolved if not isinstance(leaf, Node)]
    fed = tuple(sorted(given, key=SERIAL))
    if not updates:
        return Request(fetches, (), (), fed, bool(training))
    merged = updates[0] if len(updates) == 1 else group(*updates)
    return Request(fetches, merged.pairs, merged.losses, fed, merged.training if training is None else bool(training))


def program_of(request: Request) -> tuple[Program, dict[Node, Node]]:
    """The program of a request before its mode is chosen: what is fetched and then the losses, and the updates.

    Every fed tensor that isn't a leaf is replaced by a parameter.
    """
    inner = [node for node in request.fed if not isinstance(node, Placeholder | Variable)]
    overridden = {node: parameter(k, node.type) for k, node in enumerate(inner)}
    outputs = (*request.fetches, *request.losses)
    roots = (*outputs, *(new for _, new in request.updates))
    replaced = substitute(roots, overridden) if overridden else roots
    updates = tuple(zip([v for v, _ in request.updates], replaced[len(outputs) :], strict=True))
    inputs = [overridden.get(node, node) for node in request.fed]
    program = Program((), replaced[: len(outputs)], updates)
    inputs += [n for n in program.nodes() if isinstance(n, Placeholder) and n not in request.fed]
    return program.with_inputs(tuple(inputs)), overridden


def in_mode(program: Program, request: Request) -> Program:
    """The program of a request in its mode, which computes what is fetched, and the updates.

    Statistics on the way to a loss are updated even if no gradient, and so no update, depends on them.
    """
    whole = resolve_mode(program, training=request.training)
    if not request.losses:
        return whole
    return Program(whole.inputs, whole.outputs[: len(request.fetches)], whole.updates)
