"""Ops that are defined by other ops: an ordinary function becomes one node with a body.

The function is traced over formal parameters when it is called; what it returned is the node's body, part of its
identity. Type, reference value, gradient and lowering follow from the body. Tensors of the surrounding graph that the
function refers to are captured: they become further operands.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

from graphc import ir
from graphc.attrs import Attrs
from graphc.cached import cached_property
from graphc.errors import ArgumentError, GraphcError
from graphc.ir import Leaf, Node, Program, make, reachable, substitute
from graphc.occurrences import on_this_line
from graphc.op import Cotangents, NoGradient, Op, Samples
from graphc.operands import as_node, as_nodes, parameter, parameter_op, pointwise_operands, primitive, splat
from graphc.source import here
from graphc.types import TupleType, Type

MAX_BODIES = 512  # bodies cached for one of our own composites; the oldest goes first
MAX_DEPTH = 100  # definitions inside each other

item_op = primitive(
    "item",
    lambda x, *, index: x.items[index],
    lambda arrays, *, index: arrays[index],
    None,  # the gradient pass gathers the cotangents of a tuple's items itself
    "tuple",
    required=("index",),
)


def items(node: Any) -> tuple[Any, ...]:
    """The results of a node that has several, each a tensor; `(node,)` for one that is a tensor.

    An eager engine has the tuple of them itself, which is returned as it is.
    """
    if isinstance(node, tuple):
        return node
    if not isinstance(node.type, TupleType):
        return (node,)
    return tuple([make(item_op, (node,), Attrs({"index": k})) for k in range(len(node.type.items))])


def _never_inferred(*types: Type, **attrs: Any) -> Type:
    raise AssertionError("a composite's type is that of its body")


@dataclass(frozen=True, eq=False, repr=False)
class Composite(Op):
    """An op with a body; made by `composite`.

    Attributes:
        fn: its definition: positional parameters are tensors (those with the default None may be left out from the
            end), keyword-only parameters are attributes.
        pure: the body depends on nothing but types and attributes, so it is cached by them.
    """

    fn: Callable[..., Any] = _never_inferred
    pure: bool = False
    bodies: dict[Any, Program] = field(default_factory=dict)

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        """Apply the op; tensors and attributes may be passed by position or name, as `fn` declares them."""
        tensors, given = self._bind(args, attrs)
        for arg in tensors:
            if not isinstance(arg, Node) and hasattr(arg, "__graphc_op__"):
                return arg.__graphc_op__(self, tensors, given)
        operands = self.operands(tensors)
        frozen = self.frozen_attrs(given)
        types = tuple([node.type for node in operands])
        try:
            traced = self.trace(types, frozen)
        except GraphcError as error:
            made = dict.fromkeys(node.made_at for node in operands)
            inside, line = f"inside {self.name}({', '.join(map(str, types))})", here()
            known = line in (error.line, *error.lines)  # of our own composites the user's line is the call itself
            raise error.within(inside if known else f"{inside}, {line}", *made)  # noqa: B904 - the same error
        node = make(self, (*operands, *traced.captured), traced.attrs, traced.body)
        return items(node) if isinstance(node.type, TupleType) else node

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.fn)

    @cached_property
    def _plain(self) -> tuple[range, frozenset[str], frozenset[str]]:
        """How many tensors a call may give, the names that are attributes, and those of them that it must give."""
        parameters = self._signature.parameters.values()
        tensors = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        attrs = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        if len(tensors) + len(attrs) < len(parameters):
            return range(0), frozenset(), frozenset()
        least = sum([p.default is p.empty for p in tensors])
        return range(least, len(tensors) + 1), frozenset(attrs), frozenset(self.required)

    def _bind(self, args: tuple[Any, ...], attrs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        counts, known, needed = self._plain
        if len(args) in counts and (needed <= attrs.keys() <= known if attrs else not needed):
            for arg in args:
                if arg is None:
                    break
            else:
                return args, attrs  # as nearly always
        try:
            bound = self._signature.bind(*args, **attrs)
        except TypeError as error:
            raise ArgumentError(f"{self.name}: {error}", hint=f"{self.name}{self._signature}") from None
        tensors = list(bound.args)
        while tensors and tensors[-1] is None:
            tensors.pop()
        if any(tensor is None for tensor in tensors):
            names = list(self._signature.parameters)
            name = names[next(k for k, tensor in enumerate(tensors) if tensor is None)]
            raise ArgumentError(f"{self.name}: {name} is missing, but later operands are given")
        return tuple(tensors), bound.kwargs

    def trace(self, types: tuple[Type, ...], attrs: Attrs) -> Traced:
        """What a call with operands of `types` makes."""
        if not self.pure:
            with _Definition(self.name) as definition:
                formals = definition.formals(types)
                outputs = _results(self.name, self.fn(*formals, **attrs))
                return Traced(*definition.closed(formals, outputs), attrs)
        key = (types, attrs.key)
        body = self.bodies.get(key)
        if body is None:
            if len(self.bodies) >= MAX_BODIES:
                self.bodies.pop(next(iter(self.bodies)))
            with on_this_line():
                formals = tuple([parameter(k, type) for k, type in enumerate(types)])
                body = self.bodies[key] = Program(formals, _results(self.name, self.fn(*formals, **attrs)))
        return Traced(body, (), attrs)


class Traced(NamedTuple):
    """One call of a composite.

    Attributes:
        body: its definition, over parameters for the operands and for what it captured.
        captured: tensors of the surrounding graph that the definition refers to.
        attrs: the attributes of the node.
    """

    body: Program
    captured: tuple[Node, ...]
    attrs: Attrs


class _Depth(threading.local):
    value = 0


_depth = _Depth()


class _Definition:
    """A user's function while it is traced; what existed before is the surrounding graph."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> _Definition:
        if _depth.value >= MAX_DEPTH:
            raise ArgumentError(f"{self.name} is defined by itself, or {MAX_DEPTH} definitions deep", lines=[here()])
        self.depth = _depth.value
        self.start = ir.next_serial()
        _depth.value += 1
        return self

    def __exit__(self, *exc: object) -> None:
        _depth.value -= 1

    def formals(self, types: Sequence[Type], first: int = 0) -> tuple[Node, ...]:
        """Parameters of `types`, numbered from `first`."""
        return tuple([parameter(first + k, type, self.depth) for k, type in enumerate(types)])

    def closed(
        self, formals: tuple[Node, ...], outputs: Sequence[Node], weights: tuple[Node, ...] = ()
    ) -> tuple[Program, tuple[Node, ...]]:
        """The program of `outputs` with a further parameter for each tensor that they captured; and those.

        Nothing of the surrounding definitions is left in it, so its parameters are those of depth 0 from here on.
        """
        captured = tuple(sorted(filter(self._outside, reachable(outputs, self._outside)), key=lambda n: n.serial))
        given = (*formals, *captured, *weights)
        numbers = (*range(len(formals) + len(captured)), *range(-len(weights), 0))
        inputs = tuple([parameter(k, node.type) for k, node in zip(numbers, given, strict=True)])
        return Program(inputs, substitute(outputs, dict(zip(given, inputs, strict=True)))), captured

    def _outside(self, node: Node) -> bool:
        """Whether a node existed before the call, or is a leaf: it is no part of the definition."""
        if node.graph is None:  # of what belongs to no graph, only the parameters of enclosing definitions
            return node.op is parameter_op and node.attrs["depth"] < self.depth
        return node.serial < self.start or isinstance(node, Leaf)


def _results(name: str, returned: Any) -> tuple[Node, ...]:
    """What a definition returned, as nodes."""
    found = tuple(returned) if isinstance(returned, tuple | list) else (returned,)
    if returned is None or not found or isinstance(returned, dict):
        got = "nothing" if not found else "None" if returned is None else "a dict"
        raise ArgumentError(f"{name} returned {got}", hint="return a tensor, or a tuple of tensors")
    return tuple(map(as_node, found))


@overload
def composite(fn: Callable[..., Any], /) -> Composite: ...
@overload
def composite(
    *,
    vjp: Callable[..., Cotangents] | NoGradient | None = None,
    accepts: str | tuple[str, ...] | None = None,
    samples: Samples | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Composite]: ...
def composite(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    vjp: Callable[..., Cotangents] | NoGradient | None = None,
    accepts: str | tuple[str, ...] | None = None,
    samples: Samples | None = None,
    name: str | None = None,
) -> Any:
    """Declare an op by its definition in other ops; it is one node in the graph, with everything else derived.

    Args:
        fn: positional parameters are tensors, keyword-only parameters are attributes; returns a tensor or a tuple.
        vjp: `(g, y, *inputs, **attrs) -> cotangents`; derived from the definition where it isn't given.
        accepts: the dtype class of the operands, or one for each: they are promoted to one dtype of it and broadcast
            to one shape before the definition sees them, as a pointwise op's are. By default they come as they are.
        samples: calls for the generated tests.
        name: what the op is called; the name of `fn` by default.

    Example:
        >>> import graphc as gc
        >>> @gc.composite
        ... def swish(x, *, beta=1.0):
        ...     return x * gc.sigmoid(beta * x)
        >>> x = gc.placeholder("x", shape=(3,))
        >>> swish(x, beta=2.0)
        <swish: float32[3]>
    """
    if fn is None:
        return lambda f: declare(f, vjp, samples, name, accepts)
    return declare(fn, vjp)


def declare(
    fn: Callable[..., Any],
    vjp: Any = None,
    samples: Samples | None = None,
    name: str | None = None,
    accepts: str | tuple[str, ...] | None = None,
    kind: type[Composite] = Composite,
) -> Composite:
    """The composite op that `fn` defines; see `composite`."""
    attrs = [p for p in inspect.signature(fn).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return kind(
        name or fn.__name__,
        _never_inferred,
        as_nodes if accepts is None else pointwise_operands,
        None,
        vjp,
        "composite",
        accepts=("any",) if accepts is None else (accepts,) if isinstance(accepts, str) else accepts,
        required=tuple([p.name for p in attrs if p.default is p.empty]),
        defaults={p.name: p.default for p in attrs if p.default is not p.empty},
        samples=samples,
        doc=inspect.getdoc(fn) or "",
        fn=fn,
        pure=fn.__module__.startswith("graphc."),  # a user's function may read values that change
    )


# --------------------------------------------------------------------------------------------- own backward rules


@dataclass(frozen=True)
class Backward:
    """The backward rule of one call of a `custom_gradient` op.

    Attributes:
        program: from the node's inputs and the cotangents of its outputs to those of its inputs.
        reached: which of the inputs have one.
    """

    program: Program
    reached: tuple[bool, ...]

    def __str__(self) -> str:
        return "own"


@dataclass(frozen=True, eq=False, repr=False)
class CustomGradient(Composite):
    """A composite whose definition also returns its backward rule; made by `custom_gradient`."""

    def trace(self, types: tuple[Type, ...], attrs: Attrs) -> Traced:
        """Trace both together: what the rule uses of the definition, such as a random mask, is the very same."""
        with _Definition(self.name) as definition:
            formals = definition.formals(types)
            returned = self.fn(*formals, **attrs)
            if not (isinstance(returned, tuple) and len(returned) == 2 and callable(returned[1])):
                raise ArgumentError(
                    f"{self.name} must return its output and a function of the cotangent, "
                    f"got {type(returned).__name__}",
                    hint="return y, lambda dy: ...",
                )
            outputs = _results(self.name, returned[0])
            weights = definition.formals([y.type for y in outputs], first=-len(outputs))
            found = self._cotangents(returned[1], weights, len(types))
            reached = [as_node(g) for g in found if g is not None]
            both, captured = definition.closed(formals, (*outputs, *reached), weights)
        count = len(outputs)
        body = Program(both.inputs[:-count], both.outputs[:count])
        passes = (*[g is not None for g in found], *[False] * len(captured))
        rule = Backward(Program(both.inputs, both.outputs[count:]), passes)
        return Traced(body, captured, Attrs({**attrs, "backward": rule}))

    def _cotangents(self, rule: Callable[..., Any], weights: Sequence[Node], count: int) -> Sequence[Any]:
        try:
            returned = rule(*weights)
        except GraphcError:
            raise
        except Exception as error:
            error.add_note(f"in the gradient rule of {self.name}, {here()}")
            raise
        found = returned if isinstance(returned, tuple | list) else (returned,)
        if len(found) != count:
            raise ArgumentError(
                f"{self.name}: its backward returned {len(found)} cotangents for {count} inputs",
                hint="return one for each input, None where nothing flows",
            )
        return found


def custom_gradient(fn: Callable[..., Any]) -> Composite:
    """Declare an op with its own backward rule: `fn(*inputs)` returns `(output, backward)`.

    `backward(dy)` returns the cotangent of the input, or a tuple of them (None where nothing flows); it is written
    with ops and may use what `fn` computed. Both are traced together, when the op is called. Gradients of gradients
    differentiate the backward rule.

    Example:
        >>> import graphc as gc
        >>> @gc.custom_gradient
        ... def clip_grad(x):
        ...     return x, lambda dy: gc.clip(dy, -1, 1)
    """

    def vjp(g: Any, y: Node, *inputs: Node, backward: Backward, **attrs: Any) -> Cotangents:
        types = y.type.items if isinstance(y.type, TupleType) else (y.tensor_type,)
        given = g if isinstance(g, tuple) else (g,)
        cotangents = [splat(0, type) if c is None else c for c, type in zip(given, types, strict=True)]
        values = dict(zip(backward.program.inputs, (*inputs, *cotangents), strict=True))
        found = iter(substitute(backward.program.outputs, values, origin=(y, "gradient")))
        return tuple([next(found) if passes else None for passes in backward.reached])

    return declare(fn, vjp, kind=CustomGradient)
