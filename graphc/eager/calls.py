"""What runs one op: a program over parameters, compiled, and its backward program, derived when it is first needed.

A call of an op is traced once for the types of its operands and its attributes: what the op's own coercion makes of
parameters of these types is the program, casts and broadcasts included. Its gradient is what symbolic differentiation
makes of that program: a program again, so gradients of gradients are no case of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple
from weakref import WeakSet

from graphc.composites import items
from graphc.eager.modes import KNOWN
from graphc.eager.moves import moved
from graphc.errors import ArgumentError, GraphcError
from graphc.ir import Node, Program, reachable, substitute
from graphc.occurrences import unwritten
from graphc.op import Array
from graphc.operands import parameter
from graphc.ops.math import add
from graphc.passes.gradients import backpropagate
from graphc.passes.modes import resolve_mode
from graphc.runtime.session import Session
from graphc.source import here
from graphc.types import TensorType, Type, is_float


class Backward(NamedTuple):
    """How a call passes gradients back.

    Attributes:
        call: from saved values and the cotangents of the float outputs to cotangents of inputs.
        saved: which of the call's inputs and outputs, in this order, it takes.
        chosen: gives those of all of them.
        reached: for which inputs it gives a cotangent.
    """

    call: Call
    saved: tuple[int, ...]
    chosen: Callable[[Sequence[Array]], Sequence[Array]]
    reached: tuple[int, ...]


class Call:
    """A program over parameters that is run on arrays.

    Args:
        inputs: parameters or other leaves, each an operand of the call.
        outputs: what is computed from them.
        updates: inputs that get new values with each run, and those.
        single: the call gives its one output, not a tuple.

    Attributes:
        name: of the op.
        types_in: of the inputs.
        types: of the outputs, and of the new values behind them.
        type: of the first output.
        floats: which of these are floats.
        fresh: how many outputs there are.
        updated: which inputs get the new values.
        alone: one output that isn't an input is all there is.
        entry: what computes those outputs that aren't inputs.
        moves: no more than that elements take other places, so that there is no native code.
        backwards: how gradients are passed back, by which inputs need one; None where none is. Made at first need.

    Raises:
        ArgumentError: the outputs need a value that no operand gives: one of a graph.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[Node],
        outputs: Sequence[Node],
        updates: Sequence[tuple[Node, Node]] = (),
        *,
        single: bool,
    ) -> None:
        self.name = name
        self.single = single
        self.fresh = len(outputs)
        self.updated = tuple([inputs.index(leaf) for leaf, _ in updates])
        roots = (*outputs, *[new for _, new in updates])
        require_values(reachable(roots).difference(inputs))
        self.inputs = formals_of([node.type for node in inputs])
        self.outputs = substitute(roots, dict(zip(inputs, self.inputs, strict=True)))
        self.types_in = [node.tensor_type for node in self.inputs]
        self.types = [node.tensor_type for node in self.outputs]
        self.type = self.types[0]
        self.floats = [k for k, type in enumerate(self.types) if is_float(type.dtype)]
        self.backwards = _Backwards(self)
        self.alone = single and len(roots) == 1 and roots[0] not in inputs
        made = [node for node in dict.fromkeys(self.outputs) if node not in self.inputs]
        known = [*self.inputs, *made]
        self._sources = [known.index(node) for node in self.outputs]
        entry = moved(self.inputs, made, self.alone)
        self.moves = entry is not None
        self.entry = entry or _compiled(self.inputs, made, self.alone)
        CALLS.add(self)

    def run(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """The outputs for the values of the inputs; an output that is an input is the same array."""
        if self.alone:
            return (self.entry(*arrays),)
        known = [*arrays, *self.entry(*arrays)]
        return [known[source] for source in self._sources]

    def derived(self, needed: tuple[bool, ...]) -> Backward | None:
        """What `backwards` holds."""
        count = len(self.inputs)
        wanted = [k for k, need in enumerate(needed) if need]
        seeds: dict[Node, Node] = {}
        cotangents = [parameter(count + len(self.outputs) + k, self.types[k]) for k in self.floats]
        for k, g in zip(self.floats, cotangents, strict=True):
            y = self.outputs[k]
            seeds[y] = add(seeds[y], g) if y in seeds else g
        found = backpropagate(seeds, [self.inputs[k] for k in wanted])
        reached = tuple([k for k, g in zip(wanted, found, strict=True) if g is not None])
        if not reached:
            return None
        computed = {y: parameter(count + k, y.type) for k, y in enumerate(self.outputs) if y.inputs}
        roots = substitute([g for g in found if g is not None], computed)
        held = (*self.inputs, *[computed.get(y, y) for y in self.outputs])
        needs = reachable(roots)
        saved = tuple([k for k, node in enumerate(held) if node in needs and held.index(node) == k])
        call = Call(self.name, [*[held[k] for k in saved], *cotangents], roots, single=len(roots) == 1)
        return Backward(call, saved, _chooser(saved), reached)


class _Backwards(dict[tuple[bool, ...], Backward | None]):
    """See `Call.backwards`; a dict, because what is in it is found without a call in Python."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __missing__(self, needed: tuple[bool, ...]) -> Backward | None:
        found = self[needed] = self._call.derived(needed)
        return found


CALLS: WeakSet[Call] = WeakSet()  # all that there are, for counting what they do


def _chooser(places: Sequence[int]) -> Callable[[Sequence[Array]], Sequence[Array]]:
    """What takes the items at these places; it is called with every call of an op, so it is none of Python."""
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))


class _Settings:
    device: str | None = None


def set_device(device: str | None = None) -> None:
    """Run calls on a device of `gc.Session` from now on; None takes the best that works here.

    Raises:
        ArgumentError: there is no such device.
    """
    Session(device=device).close()
    _Settings.device = device
    for known in KNOWN.values():
        known.clear()


def _compiled(inputs: Sequence[Node], made: Sequence[Node], alone: bool) -> Callable[..., Any]:
    """What computes `made`, in a list unless `alone`.

    Each program has a session of its own, so nothing but its own runs ever moves its memory.
    """
    if not made:
        return lambda *arrays: ()
    fetches = made[0] if alone else list(made)
    return Session(device=_Settings.device).compile(fetches, inputs, training=False)


def formals_of(types: Sequence[Type]) -> tuple[Node, ...]:
    """Parameters of these types."""
    return tuple([parameter(k, type) for k, type in enumerate(types)])


def results_of(returned: Any) -> tuple[Node, ...]:
    """The tensors that a call of an op on nodes returned."""
    return tuple(returned) if isinstance(returned, tuple) else items(returned)


def built(build: Callable[[Sequence[Node]], Any], formals: Sequence[Node]) -> Any:
    """What `build` makes of parameters. It is on no line, since calls on other lines find it; errors tell theirs."""
    try:
        with unwritten():
            return build(formals)
    except GraphcError:
        return build(formals)


def traced(name: str, types: Sequence[Type], build: Callable[[Sequence[Node]], Any], training: bool) -> Call:
    """The call of what `build` makes of parameters of these types, in one mode."""
    formals = formals_of(types)
    returned = built(build, formals)
    return call_of(name, formals, results_of(returned), training, single=is_single(returned))


def is_single(returned: Any) -> bool:
    """Whether a call of an op on nodes returned a tensor, not a tuple of them."""
    return isinstance(returned, Node) and isinstance(returned.type, TensorType)


def call_of(name: str, inputs: Sequence[Node], results: Sequence[Node], training: bool, *, single: bool) -> Call:
    """The call that computes `results` in one mode; what is tracked on the way is updated in training."""
    program = resolve_mode(Program((), tuple(results)), training=training)
    return Call(name, inputs, program.outputs, program.updates, single=single)


def require_values(nodes: Iterable[Node]) -> None:
    """Make sure that none of `nodes` is a leaf whose value only a run knows.

    Raises:
        ArgumentError: some are; all are named.
    """
    leaves = [node for node in nodes if node.op.kind in ("placeholder", "variable", "parameter")]
    if leaves:
        names = ", ".join(node.display_name for node in leaves)
        raise ArgumentError(
            f"an eager tensor meets the graph of {names}, which has no values until a session runs it",
            lines=[here(), *dict.fromkeys(node.made_at for node in leaves if node.made_at)],
            hint="ge.tensor(sess.run(x)) takes a value over; ge.module(m) makes the eager twin of a module",
        )
