"""Plans on disk: a program that starts again finds how it is run, and needs neither passes nor kernels to be written.

What is kept is a plan's *outline*: its steps, in which a kernel is a number and a name, and its buffers, whose leaves
are numbered as they come in the program. The code of the kernels is kept beside it; see `packs`. An outline is found by
the program's structure before its mode is chosen, with all that passes and code depend on: names and lines aren't part
of it. Whoever wants to know more of a plan than what a run takes, such as a report, has it made anew.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from graphc.composites import Composite
from graphc.dims import Guard
from graphc.ir import Leaf, Node, Program, serial_of
from graphc.kernel import Kernel
from graphc.operands import parameter
from graphc.plan import Buffer, Role, Step, SymbolicPlan
from graphc.runtime.cache import object_cache
from graphc.runtime.cpu import packs
from graphc.runtime.cpu.jit import Code
from graphc.runtime.cpu.packs import Pack
from graphc.runtime.feeds import sizes_needed
from graphc.runtime.needs import Needs, collect_guards
from graphc.types import TensorType

NODES = range(200, 1 << 13)  # of programs whose plans are kept: few are soon made into one, many slow to describe
LOOKED_AT = ("GRAPHC_DUMP", "GRAPHC_VERIFY", "GRAPHC_DEBUG")  # who sets one of these wants to see the passes


@dataclass(frozen=True, eq=False)
class Outline(Kernel):
    """A kernel of which only that is known which a run needs; equal to itself alone."""

    name: str = ""

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    @property
    def kind(self) -> str:
        """See `Kernel.kind`."""
        return self.name


class Found(NamedTuple):
    """What was kept of a plan, in terms of the present program.

    Attributes:
        pack, code: its code, as it was kept and as it is loaded.
        needs: what its runs take.
    """

    symbolic: SymbolicPlan
    pack: Pack
    code: Sequence[Code]
    needs: Needs


class _Written(NamedTuple):
    """What a file holds. Leaves and other values are numbered as in `_known`.

    Attributes:
        pack: under which the code is kept.
        kernels: the kind of each, and what a random one draws.
        buffers: as `Buffer`; of those that hold no value of the program itself, the type.
        steps: kernel, reads, writes, in_place, steady.
        needs: placeholders, variables, draws, updated variables.
        sizes: names of symbolic dimensions.
        guards: what must hold of them.
    """

    pack: str
    kernels: tuple[tuple[str, int | None], ...]
    buffers: tuple[tuple[Role, int | TensorType, int | None], ...]
    steps: tuple[tuple[int, tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...], frozenset[int]], ...]
    outputs: tuple[int, ...]
    updates: tuple[int, ...]
    needs: tuple[tuple[int, ...], ...]
    sizes: tuple[str, ...]
    guards: tuple[Guard, ...]


def key_of(program: Program, settings: Sequence[str]) -> str | None:
    """Under which a program's plan is kept; None if it isn't.

    Args:
        program: before its mode is chosen.
        settings: what else the plan depends on, besides the versions of what makes it.
    """
    if len(program.nodes()) not in NODES or any(map(os.environ.get, LOOKED_AT)):
        return None
    versions = packs.versions()
    try:
        described = _described(program, {})
    except packs.ForeignError:
        return None
    return hashlib.sha256(repr((versions, *settings, described)).encode()).hexdigest() if versions else None


def recalled(key: str | None, program: Program, load: Callable[[Pack], Sequence[Code]]) -> Found | None:
    """What is kept of a program's plan; None if that is nothing, or nothing sound.

    Args:
        load: begins to load its code, before the rest is looked at.
    """
    data = None if key is None else object_cache().find(f"{key}-outline")
    if data is None:
        return None
    try:
        written: _Written = pickle.loads(data)  # as trustworthy as the machine code beside it: see `runtime.cache`
        return _restored(written, program, load)
    except Exception:
        return None


def keep(key: str | None, program: Program, needs: Needs, symbolic: SymbolicPlan, pack: str | None) -> None:
    """Keep the outline of a program's plan, if that is possible; all its kernels have code, kept under `pack`."""
    if key is None or pack is None:
        return
    number = {node: k for k, node in enumerate(_known(program))}
    kernels = {kernel: k for k, kernel in enumerate(dict.fromkeys(step.kernel for step in symbolic.steps))}
    draws = [kernel.core if kernel.kind == "random" else None for kernel in kernels]
    anonymous = [b.node for b in symbolic.buffers if b.role in ("given", "constant") and b.node not in number]
    if anonymous:  # a constant that the passes have made
        return
    written = _Written(
        pack,
        tuple([(k.kind, None if draw is None else number[draw]) for k, draw in zip(kernels, draws, strict=True)]),
        tuple([(b.role, number.get(b.node, b.type), b.takes) for b in symbolic.buffers]),
        tuple([(kernels[s.kernel], s.reads, s.writes, s.in_place, s.steady) for s in symbolic.steps]),
        symbolic.outputs,
        symbolic.updates,
        tuple([tuple([number[leaf] for leaf in leaves]) for leaves in needs.leaves]),
        tuple(needs.sizes),
        tuple([guard for guard, _ in needs.guards]),
    )
    object_cache().put(f"{key}-outline", pickle.dumps(written, pickle.HIGHEST_PROTOCOL))


def _restored(written: _Written, program: Program, load: Callable[[Pack], Sequence[Code]]) -> Found | None:
    pack = packs.recalled(written.pack)
    if pack is packs.EMPTY:
        return None
    code = load(pack)
    known = _known(program)
    kernels = [Outline(None if draw is None else known[draw], (), (), kind) for kind, draw in written.kernels]
    values = {type: parameter(0, type) for type in {v for _, v, _ in written.buffers if not isinstance(v, int)}}
    buffers = [
        Buffer(role, known[value] if isinstance(value, int) else values[value], takes)
        for role, value, takes in written.buffers
    ]
    steps = [
        Step(kernels[kernel], reads, writes, (), in_place, steady)
        for kernel, reads, writes, in_place, steady in written.steps
    ]
    placeholders, variables, draws, updated = (_chosen(known, numbers) for numbers in written.needs)
    sizes = sizes_needed(program.nodes(), ()) if written.sizes else {}
    guards = dict(collect_guards(program)) if written.guards else {}
    needs = Needs(
        *(placeholders, variables, draws, updated),
        {name: sizes[name] for name in written.sizes},
        tuple([(guard, guards[guard]) for guard in written.guards]),
    )
    symbolic = SymbolicPlan(
        Program(program.inputs, (), tuple([(variable, variable) for variable in needs.updated])),
        tuple(buffers),
        tuple(steps),
        {buffer.node: k for k, buffer in enumerate(buffers) if buffer.role == "given"},
        written.outputs,
        written.updates,
    )
    return Found(symbolic, pack, code, needs)


def _chosen(known: Sequence[Node], numbers: Iterable[int]) -> tuple[Any, ...]:
    return tuple([known[k] for k in numbers])


def _known(program: Program) -> list[Node]:
    """The nodes of a program, in an order that depends on nothing else, as that of creation does."""
    found: dict[Node, None] = {}
    stack = [*[variable for variable, _ in program.updates], *program.inputs, *program.roots]
    while stack:
        node = stack.pop()
        if node not in found:
            found[node] = None
            stack += node.inputs
    return list(found)


# --------------------------------------------------------------------------------------------- structure


def _described(program: Program, bodies: dict[Program, int]) -> tuple[object, ...]:
    """A program as nested tuples and lists of texts and numbers.

    Args:
        bodies: numbers those of composites that were met before.
    """
    known = _known(program)
    number = {node: k for k, node in enumerate(known)}
    alike: dict[object, int] = {}  # few nodes differ in more than their operands
    kinds: list[object] = []
    nodes: list[int] = []
    for node in known:
        inputs = node.inputs
        key = node.op, node.type, node.attrs.key, node.body, len(inputs)
        kind = alike.get(key)
        if kind is None:
            kind = alike[key] = len(alike)
            kinds.append((*packs.described_node(node), _body(node, bodies), isinstance(node, Leaf), len(inputs)))
        nodes.append(kind)
        nodes += [number[i] for i in inputs]
    # What several auxiliary updates make of a variable depends on the order of their creation.
    ordered = sorted([n for n in known if n.op.kind == "auxiliary" or n.body is not None], key=serial_of)
    return kinds, nodes, *_numbers(number, program.inputs, program.outputs, ordered, *program.updates)


def _body(node: Node, bodies: dict[Program, int]) -> object:
    """The definition of a composite, if more than types and attributes decide it; of one met before, its number."""
    body, op = node.body, node.op
    if body is None or (isinstance(op, Composite) and op.pure):
        return None
    if body in bodies:
        return bodies[body]
    described = _described(body, bodies)
    bodies[body] = len(bodies)
    return described


def _numbers(number: Mapping[Node, int], *groups: Iterable[Node]) -> list[list[int]]:
    return [[number[node] for node in group] for group in groups]
