"""The reference target: walks a program node by node with NumPy. The oracle, and the fallback that runs everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from graphc.errors import GraphcError
from graphc.evaluate import bind_attrs, compute
from graphc.ir import Node, Program, explain
from graphc.op import Array
from graphc.plan import Plan
from graphc.runtime.profile import Description, Recorder
from graphc.runtime.work import live_values, work_of_node
from graphc.target import TargetInfo

DrawKey = tuple[int, int, int]  # seed, stream, counter
NOWHERE: Mapping[Node, Array] = MappingProxyType({})


class Executable(Protocol):
    """A compiled program; immutable, so that one may serve many runs."""

    def run(
        self,
        values: Mapping[Node, Any],
        dims: Mapping[str, int],
        draws: Mapping[Node, DrawKey],
        into: Mapping[Node, Array] = NOWHERE,
        recorder: Recorder | None = None,
        out: Sequence[Array] = (),
    ) -> tuple[list[Array], list[Array]]:
        """Outputs and new values of variables, for the values of the leaves.

        Args:
            values: arrays of placeholders, variables and parameters; never written to.
            dims: sizes of the symbolic dimensions.
            draws: what each random leaf draws from.
            into: the arrays that are kept for all variables with new values (in `values` too, where those are read).
                A target may write all new values there, or none whatever interrupts the run, and return these arrays.
            recorder: is told what happens when; the results are the same.
            out: an array for each output, or none at all. A target may write there, and return these arrays, where they
                share no memory with `values`.
        """
        ...


@runtime_checkable
class Planned(Protocol):
    """An executable that follows a plan."""

    def plan(self, dims: Mapping[str, int]) -> Plan:
        """The plan for these sizes, with what is said of its code."""
        ...


class Target(Protocol):
    """What a session asks of a target."""

    info: TargetInfo

    def compile(self, program: Program) -> Executable:
        """Prepare a program whose passes have run."""
        ...

    def close(self) -> None:
        """Free what is kept between runs; none comes after this."""
        ...


class _Step(NamedTuple):
    node: Node
    symbolic: bool
    dead: tuple[Node, ...]  # values that nothing needs after this step


class ReferenceExecutable:
    """The nodes of a program in order, with the point at which each value is dropped."""

    def __init__(self, program: Program) -> None:
        self.roots = program.roots
        self.outputs = len(program.outputs)
        computed = [node for node in program.nodes() if node.inputs or node.op.ref is not None]
        self.steps = [
            _Step(node, node.attrs.symbolic, dead)
            for node, dead in zip(computed, _last_uses(computed, self.roots), strict=True)
        ]

    def run(
        self,
        values: Mapping[Node, Any],
        dims: Mapping[str, int],
        draws: Mapping[Node, DrawKey],
        into: Mapping[Node, Array] = NOWHERE,
        recorder: Recorder | None = None,
        out: Sequence[Array] = (),
    ) -> tuple[list[Array], list[Array]]:
        """See `Executable.run`; nothing is written `into`."""
        env = dict(values)
        if recorder is not None:
            recorder.describe = partial(self._described, dims)
        with np.errstate(all="ignore"):
            for at, (node, symbolic, dead) in enumerate(self.steps):
                args = (draws[node],) if node in draws else [env[i] for i in node.inputs]
                attrs = bind_attrs(node.attrs, dims) if symbolic else node.attrs
                try:
                    env[node] = compute(node, args, attrs, dims)
                except Exception as error:
                    locate(error, node)
                    raise
                for used in dead:
                    del env[used]
                if recorder is not None:
                    recorder.did("", at)
        found = [env[root] for root in self.roots]
        return found[: self.outputs], found[self.outputs :]

    def _described(self, dims: Mapping[str, int]) -> Description:
        works = [work_of_node(step.node, dims) for step in self.steps]
        return Description(works, live_values([(step.node, step.dead) for step in self.steps], dims))


def _last_uses(computed: Sequence[Node], roots: Sequence[Node]) -> list[tuple[Node, ...]]:
    kept = set(roots)
    dead: list[tuple[Node, ...]] = []
    for node in reversed(computed):
        last = tuple([i for i in dict.fromkeys(node.inputs) if i not in kept])
        kept.update(last)
        dead.append(last)
    return dead[::-1]


def locate(error: Exception, node: Node) -> None:
    """Tell the op at which a run failed, the user's line of it, and the composites that it is part of."""
    if not isinstance(error, GraphcError):
        error.add_note(f"in {node.op.name}, {node.occurrence.site or 'a line that is not known'}")
        return
    explain(error, node.op, node.inputs, node.where)
    origin = node.occurrence.origin
    while origin is not None:
        error.within(f"inside {origin.op.name}" if origin.body is not None else "")
        origin = origin.occurrence.origin


class ReferenceTarget:
    """Runs programs by the ops' NumPy references, one node at a time."""

    info = TargetInfo(name="reference")

    def compile(self, program: Program) -> ReferenceExecutable:
        """See `Target.compile`."""
        return ReferenceExecutable(program)

    def close(self) -> None:
        """See `Target.close`: nothing is kept."""
