"""Ops that are defined by other ops: an ordinary function becomes one node with a body.

The function is traced over formal parameters when it is called; what it returned is the node's body, part of its
identity. Type, reference value, gradient and lowering follow from the body. Tensors of the surrounding graph that the
function refers to are captured: they become further operands.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

from graphc import ir
from graphc.attrs import Attrs
from graphc.errors import ArgumentError, GraphcError
from graphc.ir import Leaf, Node, Program, make, reachable, substitute
from graphc.op import Cotangents, NoGradient, Op, Samples
from graphc.operands import as_node, as_nodes, parameter, pointwise_operands, primitive
from graphc.source import here
from graphc.types import TupleType, Type

MAX_BODIES = 512  # bodies cached for one of our own composites; the oldest goes first

item_op = primitive(
    "item",
    lambda x, *, index: x.items[index],
    lambda arrays, *, index: arrays[index],
    None,  # the gradient pass gathers the cotangents of a tuple's items itself
    "tuple",
    required=("index",),
)


def items(node: Node) -> tuple[Node, ...]:
    """The results of a node that has several, each a tensor; `(node,)` for one that is a tensor."""
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
            body, captured = self.trace(types, frozen)
        except GraphcError as error:
            made = dict.fromkeys(node.made_at for node in operands)
            inside, line = f"inside {self.name}({', '.join(map(str, types))})", here()
            known = line in (error.line, *error.lines)  # of our own composites the user's line is the call itself
            raise error.within(inside if known else f"{inside}, {line}", *made)  # noqa: B904 - the same error
        node = make(self, (*operands, *captured), frozen, body)
        return items(node) if isinstance(node.type, TupleType) else node

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.fn)

    def _bind(self, args: tuple[Any, ...], attrs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
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

    def trace(self, types: tuple[Type, ...], attrs: Attrs) -> tuple[Program, tuple[Node, ...]]:
        """The body for operands of `types`, and the tensors of the surrounding graph that it captured."""
        key = (types, attrs.key)
        body = self.bodies.get(key) if self.pure else None
        if body is not None:
            return body, ()
        body, captured = trace(self.fn, types, attrs)
        if self.pure:
            if len(self.bodies) >= MAX_BODIES:
                self.bodies.pop(next(iter(self.bodies)))
            self.bodies[key] = body
        return body, captured


def trace(fn: Callable[..., Any], types: Sequence[Type], attrs: Attrs) -> tuple[Program, tuple[Node, ...]]:
    """The program of `fn` over parameters of `types`, and what it captured from the surrounding graph.

    The captured nodes are the values of the program's last parameters.
    """
    formals = tuple([parameter(k, type) for k, type in enumerate(types)])
    start = ir.next_serial()
    returned = fn(*formals, **attrs)
    if returned is None:
        raise ArgumentError(f"{fn.__name__} returned None", hint="return a tensor, or a tuple of tensors")
    outputs = tuple(map(as_node, returned if isinstance(returned, tuple | list) else (returned,)))

    def outside(node: Node) -> bool:  # existed before the call, or is a leaf: no part of the definition
        return node.graph is not None and (node.serial < start or isinstance(node, Leaf))

    captured = tuple(sorted(filter(outside, reachable(outputs, outside)), key=lambda node: node.serial))
    extra = tuple([parameter(len(types) + k, node.type) for k, node in enumerate(captured)])
    bodies = substitute(outputs, dict(zip(captured, extra, strict=True))) if captured else outputs
    return Program((*formals, *extra), bodies), captured


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
) -> Composite:
    """The composite op that `fn` defines; see `composite`."""
    attrs = [p for p in inspect.signature(fn).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return Composite(
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


def custom_gradient(fn: Callable[..., Any]) -> Composite:
    """Declare an op with its own backward rule: `fn(*inputs)` returns `(output, backward)`.

    `backward(dy)` returns the cotangent of the input, or a tuple of them (None where nothing flows); it is written
    with ops and may use what `fn` computed. Gradients of gradients differentiate the backward rule.

    Example:
        >>> import graphc as gc
        >>> @gc.custom_gradient
        ... def clip_grad(x):
        ...     return x, lambda dy: gc.clip(dy, -1, 1)
    """

    def both(*inputs: Node, **attrs: Any) -> tuple[Any, Callable[..., Any]]:
        returned = fn(*inputs, **attrs)
        if not (isinstance(returned, tuple) and len(returned) == 2 and callable(returned[1])):
            raise ArgumentError(
                f"{fn.__name__} must return its output and a function of the cotangent, got {type(returned).__name__}",
                hint="return y, lambda dy: ...",
            )
        return returned

    def forward(*inputs: Node, **attrs: Any) -> Any:
        return both(*inputs, **attrs)[0]

    def vjp(g: Any, y: Node, *inputs: Node, **attrs: Any) -> Cotangents:
        declared = inputs[: len(positional)]
        _, backward = both(*declared, **attrs)
        found = backward(*g) if isinstance(g, tuple) else backward(g)
        found = found if isinstance(found, tuple | list) else (found,)
        if len(found) != len(declared):
            raise ArgumentError(
                f"{fn.__name__}: its backward returned {len(found)} cotangents for {len(declared)} inputs",
                hint="return one for each input, None where nothing flows",
            )
        return (*found, *[None] * (len(inputs) - len(declared)))

    signature = inspect.signature(fn)
    positional = [p for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    forward.__signature__ = signature  # type: ignore[attr-defined]
    forward.__module__, forward.__doc__ = fn.__module__, fn.__doc__
    return declare(forward, vjp, name=fn.__name__)
