"""Symbolic differentiation: the backward graph, as a graph again.

Reverse accumulation (Griewank and Walther, *Evaluating Derivatives*, ch. 3) over the nodes on a path to what is asked
for. Every rule is written in ops, so the result can be differentiated, fetched and exported like anything else.

A branch that was not taken must not turn the gradient into 0 * inf. So a masked cotangent `where(c, g, 0)` passes a
pointwise op as `where(c, vjp(g), 0)`, and stays masked through ops that move or add elements, and through composites
of such ops:

- an op whose rule only moves elements (views, concatenation, sums and so means) moves the mask by the same rule;
- a broadcast, whose rule adds up a group of elements, masks the sum where the whole group is masked out.

Masks end at every other op: at products of matrices, convolutions, pooling, extremes, scans, gathers and ops with
rules of their own. Their cotangents are 0 where they are masked out, and a rule that multiplies those by inf gives nan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from numbers import Real
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from graphc.collector import paused
from graphc.errors import ArgumentError, GradientError, GraphcError, ShapeError
from graphc.ir import Node, Program, substitute, toposort
from graphc.occurrences import derived_from
from graphc.op import NoGradient
from graphc.operands import (
    as_node,
    astype,
    broadcast_op,
    constant,
    expand,
    parameter,
    splat,
    splat_value,
    unbroadcast,
    zeros_like,
)
from graphc.ops.creation import zeros
from graphc.ops.math import add, logical_and, logical_or, where
from graphc.ops.reduce import reduce_any
from graphc.ops.shape import reshape, stack
from graphc.ops.slicing import pad_op
from graphc.passes.decompose import Template
from graphc.source import here
from graphc.types import TensorType, TupleType, is_float

MAX_MESSAGE = 200  # characters of a message that shows a value
SHOWN = 5  # names that a report lists before it says "..."
RULE = "gradient"  # the rule by which backward nodes are derived; drawings colour by it


# --------------------------------------------------------------------------------------------- what users call


def gradients(
    ys: Node | Iterable[Node],
    xs: Node | Iterable[Node],
    grad_ys: Any = None,
    *,
    disconnected: str = "raise",
) -> list[Node | None]:
    """The gradient of the sum of `ys` with respect to each of `xs`, as nodes.

    Args:
        ys: float tensors of any shape.
        xs: float tensors: variables, placeholders, or anything in between; such as `module.parameters()`.
        grad_ys: weights of the elements of `ys`, of their shapes; ones by default.
        disconnected: what to return for an `x` that no gradient reaches: "raise" an error that says where the path
            was cut, "zero" for zeros, or "none" for None.

    Raises:
        GradientError: no gradient reaches an `x`, or something asked for isn't a float tensor.
    """
    ys, xs = _list(ys, "ys"), _list(xs, "xs")
    if not ys:
        raise ArgumentError("ys is empty: there is nothing to differentiate")
    if disconnected not in ("raise", "zero", "none"):
        raise ArgumentError(f"disconnected={disconnected!r} is not one of 'raise', 'zero' and 'none'")
    for role, node in [*(("ys", y) for y in ys), *(("xs", x) for x in xs)]:
        if not is_float(node.dtype):
            raise GradientError(
                f"{role} must be float tensors, got {node!r}",
                lines=[here(), node.made_at],
                hint="only functions over the reals have gradients; cast the data, not the result",
            )
    found = backpropagate(dict(_seeds(ys, grad_ys)), xs)
    missing = [x for x, g in zip(xs, found, strict=True) if g is None]
    if missing and disconnected == "raise":
        raise cut_report(ys, missing, "disconnected='zero' (or 'none') if that is meant")
    return [zeros_like(x) if g is None and disconnected == "zero" else g for x, g in zip(xs, found, strict=True)]


def vjp(y: Node, xs: Sequence[Node], dy: Any, **options: str) -> list[Node | None]:
    """The vector-Jacobian products `dy · ∂y/∂x`: `gradients` with the weights `dy` (one per y, if y is a list)."""
    return gradients(y, xs, dy, **options)


def jvp(y: Node, xs: Sequence[Node], vs: Sequence[Any]) -> Node:
    """The Jacobian-vector product `Σ ∂y/∂x · v`, of the shape of `y`.

    The vector-Jacobian product is linear in its vector, so its own vector-Jacobian product is the one wanted
    (double reverse mode; J. Townsend, 2017).
    """
    y, xs = _one(y, "y"), _list(xs, "xs")
    vs = _one_for_each(xs, "xs", vs, "vs")
    weights = parameter(-1, y.type)
    backward = gradients(y, xs, [weights], disconnected="zero")
    vectors = [_weight(x, v) for x, v in zip(xs, vs, strict=True)]
    reached = [(g, v) for g, v in zip(backward, vectors, strict=True) if g is not None]
    forward = backpropagate(dict(reached), [weights])[0]
    if forward is None:
        return zeros_like(y)
    return substitute([forward], {weights: zeros_like(y)})[0]


def hvp(loss: Node, x: Node, v: Any) -> Node:
    """The product of the Hessian of the scalar `loss` with `v`, without forming the Hessian."""
    (g,) = gradients(_scalar(loss), [x])
    return _only(gradients(_only([g]), [x], [v], disconnected="zero"))


def jacobian(y: Node, x: Node) -> Node:
    """All first derivatives: a tensor of shape `y.shape + x.shape`.

    The backward graph is built once and instantiated for each element of `y`, whose size must be known.
    """
    y = _one(y, "y")
    if not isinstance(y.size, int):
        raise ShapeError(f"the Jacobian of {y!r} needs a known size", hint="use jvp or vjp")
    weights = parameter(-1, y.type)
    (row,) = gradients(y, [x], [weights], disconnected="zero")
    flat = TensorType(y.dtype, (y.size,))
    rows = [substitute([_only([row])], {weights: reshape(_unit(k, flat), y.shape)})[0] for k in range(y.size)]
    shape = (*y.shape, *x.shape)
    full: Node = reshape(stack(rows, axis=0), shape) if rows else zeros(shape, dtype=x.dtype)
    return full


def hessian(loss: Node, x: Node) -> Node:
    """All second derivatives of the scalar `loss`: a tensor of shape `x.shape + x.shape`."""
    (g,) = gradients(_scalar(loss), [x])
    return jacobian(_only([g]), x)


# --------------------------------------------------------------------------------------------- reverse accumulation


def backpropagate(seeds: Mapping[Node, Node], xs: Sequence[Node]) -> list[Node | None]:
    """The cotangents of `xs` for the given cotangents of some nodes; None where nothing flows."""
    with paused():
        return _backpropagated(seeds, xs)


def _backpropagated(seeds: Mapping[Node, Node], xs: Sequence[Node]) -> list[Node | None]:
    order = toposort(seeds)
    wanted = _on_a_path(order, xs)
    arrived: dict[Node, list[Any]] = {node: [g] for node, g in seeds.items()}
    asked = set(xs)
    total: dict[Node, Node] = {}
    for node in reversed(order):
        contributions = arrived.pop(node, None)
        if contributions is None or node not in wanted:
            continue
        with derived_from(node, RULE):
            cotangent = _gathered(node, contributions)
            if node in asked:
                total[node] = cotangent
            if not node.inputs:
                continue
            for i, g in zip(node.inputs, _checked(node, cotangent), strict=True):
                if g is not None and i in wanted:
                    arrived.setdefault(i, []).append(g)
    return [total.get(x) for x in xs]


def _on_a_path(order: Iterable[Node], xs: Iterable[Node]) -> set[Node]:
    wanted = set(xs)
    for node in order:
        if node not in wanted and not wanted.isdisjoint(node.inputs):
            wanted.add(node)
    return wanted


class _Item(NamedTuple):
    """The cotangent of one result, number `slot`, of a node that has several."""

    slot: int
    value: Node


COTANGENTS = (Node, NoneType, _Item)  # what a rule may give as it is; anything else becomes a constant


def _gathered(node: Node, contributions: Sequence[Any]) -> Any:
    """The sum of what arrived at a node; for a tuple, item by item."""
    if not isinstance(node.type, TupleType):
        return _total(node, contributions)
    slots: list[list[Node]] = [[] for _ in node.type.items]
    for item in contributions:
        slots[item.slot].append(item.value)
    return tuple([_total(node, slot) if slot else None for slot in slots])


def _total(node: Node, terms: Sequence[Node]) -> Node:
    if len(terms) == 1:
        return terms[0]
    return _masked_sum(terms) if _takes_masks(node) else _sum(terms)


def _sum(terms: Sequence[Node]) -> Node:
    """The sum; of padded terms neighbours first, as the slices that they stem from are then joined in few rounds."""
    if all(term.op is pad_op for term in terms):
        while len(terms) > 1:
            terms = [reduce(add, terms[k : k + 2]) for k in range(0, len(terms), 2)]
    return reduce(add, terms)


def _masked_sum(terms: Sequence[Node]) -> Node:
    """The sum; if every term is masked, it is masked, too: where none of them holds, it must not be multiplied."""
    conditions = [mask for mask in (_peeled(term)[0] for term in terms) if mask is not None]
    total = _sum(terms)
    if len(conditions) < len(terms):
        return total
    masked: Node = where(reduce(logical_or, dict.fromkeys(conditions)), total, zeros_like(total))
    return masked


def _checked(node: Node, cotangent: Any) -> list[Any]:
    """What the rule of a node gives for its inputs: one cotangent for each, of its type, or None.

    Raises:
        GradientError: the rule gives something else; what goes wrong in a rule names the node's line.
    """
    try:
        found = [g if isinstance(g, COTANGENTS) else as_node(g) for g in pulled_back(node, cotangent)]
    except GraphcError as error:
        known = any(_line(node) in line for line in error.lines)
        raise error.within("" if known else f"in the gradient of {_place(node)}")  # noqa: B904 - the same error
    except Exception as error:
        error.add_note(f"in the gradient rule of {_place(node)}")
        raise
    if len(found) != len(node.inputs):
        raise GradientError(
            f"the gradient rule of {node.op.name} returned {len(found)} cotangents for {len(node.inputs)} inputs",
            lines=[_place(node)],
            hint="return one for each input, None where nothing flows",
        )
    for i, g in zip(node.inputs, found, strict=True):
        if isinstance(g, Node) and g.type is not i.type:
            raise GradientError(
                f"the gradient rule of {node.op.name} gave {g.type} for an input of {i.type}",
                lines=[_place(node)],
                hint="a cotangent has the dtype and shape of its input",
            )
    return found


def pulled_back(node: Node, g: Any) -> Sequence[Any]:
    """The cotangents of a node's inputs for its own cotangent, by its rule or through its body."""
    op = node.op
    if op.kind == "tuple":
        return (_Item(node.attrs["index"], g),)
    if isinstance(op.vjp, NoGradient):
        return (None,) * len(node.inputs)
    rule: Callable[..., Any] | None = op.vjp
    if rule is None and node.body is None:
        raise GradientError(
            f"op {op.name!r} has no gradient rule", hint="declare it with vjp=, a rule or NoGradient(reason)"
        )
    if rule is None:
        return _through_body(node, g)
    mask, inner = _peeled(g) if _takes_masks(node) else (None, g)
    if mask is None:
        return tuple(rule(g, node, *node.inputs, **node.attrs))
    if op is broadcast_op:
        found, moved = rule(g, node, *node.inputs, **node.attrs), [unbroadcast(mask, node.inputs[0], reduce_any)]
    else:
        found = rule(inner, node, *node.inputs, **node.attrs)
        moved = rule(mask, node, *node.inputs, **node.attrs) if op.injective else [mask] * len(found)
    return tuple([None if r is None else where(c, r, zeros_like(r)) for c, r in zip(moved, found, strict=True)])


def _takes_masks(node: Node) -> bool:
    """Whether the mask of the node's cotangent passes it."""
    if node.op is broadcast_op:
        return not _is_leaf(node.inputs[0])
    return node.op.kind == "pointwise" or node.op.injective or (node.body is not None and _all_take_masks(node.body))


def _is_leaf(node: Node) -> bool:
    """Whether it is a leaf or a view of one, such as a bias: no rule behind it multiplies, so a mask is of no use."""
    return not (node.inputs[0].inputs if node.op.kind == "view" else node.inputs)


@lru_cache(maxsize=1024)
def _all_take_masks(body: Program) -> bool:
    computed = [node for node in body.nodes() if node.inputs and splat_value(node) is None]
    return all(node.op is broadcast_op or _takes_masks(node) for node in computed)


def _peeled(g: Any) -> tuple[Node | None, Any]:
    """`where(c, where(d, g, 0), 0)` as `(c & d, g)`: one mask, so that what a chain of them passes stays linear."""
    mask: Node | None = None
    while isinstance(g, Node) and g.op is where:
        condition, taken, other = g.inputs
        if splat_value(other) == 0:
            g = taken
        elif splat_value(taken) == 0:
            condition, g = ~condition, other
        else:
            break
        mask = condition if mask is None else logical_and(mask, condition)
    return mask, g


def _through_body(node: Node, g: Any) -> Sequence[Node | None]:
    """The cotangents of a composite's inputs, by differentiating its definition.

    The masks of its own cotangents become parameters of the backward program, so that they pass its ops.
    """
    assert node.body is not None
    cotangents = g if isinstance(g, tuple) else (g,)
    peeled = [_peeled(c) if _takes_masks(node) else (None, c) for c in cotangents]
    masked = tuple([None if value is None else mask is not None for mask, value in peeled])
    backward, reached = _backward_body(node.body, masked)
    given = [part for mask, value in peeled for part in (value, mask) if part is not None]
    with derived_from(node, RULE):
        found = iter(backward.instantiate([*node.inputs, *given]))
    return tuple([next(found) if r else None for r in reached])


@lru_cache(maxsize=1024)
def _backward_body(body: Program, masked: tuple[bool | None, ...]) -> tuple[Template, tuple[bool, ...]]:
    """What leads from a body's parameters and its outputs' cotangents to its inputs' cotangents.

    Args:
        masked: for each output, whether its cotangent has a mask, which is the next parameter; None for no cotangent.
    """
    parameters = list(body.inputs)
    seeds: dict[Node, Node] = {}

    def new(type: Any) -> Node:
        parameters.append(parameter(len(parameters), type))
        return parameters[-1]

    for output, has_mask in zip(body.outputs, masked, strict=True):
        if has_mask is None:
            continue
        seed = new(output.type)
        if has_mask:
            seed = where(new(output.tensor_type.with_dtype("bool")), seed, zeros_like(seed))
        seeds[output] = seeds[output] + seed if output in seeds else seed
    found = backpropagate(seeds, body.inputs)
    program = Program(tuple(parameters), tuple([g for g in found if g is not None]))
    return Template.of(program), tuple([g is not None for g in found])


# --------------------------------------------------------------------------------------------- seeds and arguments


def _seeds(ys: Sequence[Node], grad_ys: Any) -> Iterable[tuple[Node, Node]]:
    weights = [None] * len(ys) if grad_ys is None else _one_for_each(ys, "ys", grad_ys, "grad_ys")
    seeds: dict[Node, Node] = {}
    for y, weight in zip(ys, weights, strict=True):
        with derived_from(y, RULE):
            seed = splat(1, y.tensor_type) if weight is None else _weight(y, weight)
            seeds[y] = seeds[y] + seed if y in seeds else seed
    return seeds.items()


def _weight(like: Node, value: Any) -> Any:
    try:
        return expand(astype(as_node(value), like.dtype), like.shape)
    except ShapeError as error:
        raise ShapeError(f"the weights of {like!r} have the wrong shape: {as_node(value).type}") from error


def _list(nodes: Any, role: str) -> list[Node]:
    found = list(nodes) if isinstance(nodes, list | tuple | Iterator) else [nodes]
    for node in found:
        if not isinstance(node, Node):
            raise ArgumentError(f"{role} must be tensors of a graph, got {type(node).__name__} {node!r}"[:MAX_MESSAGE])
    return found


def _one(node: Any, role: str) -> Node:
    found = _list(node, role)
    if len(found) != 1:
        raise ArgumentError(f"{role} must be one tensor, got {len(found)}")
    return found[0]


def _one_for_each(nodes: Sequence[Node], role: str, values: Any, name: str) -> list[Any]:
    """`values` as a list of one for each node; one value needs no list."""
    found = list(values) if isinstance(values, list | tuple) else [values]
    if len(found) != len(nodes):
        is_vector = len(nodes) == 1 and all(isinstance(value, Real) for value in found)
        hint = f"a list has one entry for each of {role}; one vector is [np.array([...])]" if is_vector else None
        raise ArgumentError(f"{len(nodes)} {role} but {len(found)} {name}", hint=hint)
    return found


def _scalar(loss: Any) -> Node:
    node = _one(loss, "the loss")
    if node.ndim:
        raise ShapeError(f"expected a scalar, got {node!r}", hint="reduce it first: loss.mean()")
    return node


def _only(found: Sequence[Node | None]) -> Node:
    (node,) = found
    assert node is not None
    return node


def _unit(index: int, type: TensorType) -> Node:
    """The unit vector along `index`."""
    row = np.zeros(type.shape, np.float64)
    row[index] = 1
    return constant(row, type.dtype)


# --------------------------------------------------------------------------------------------- why nothing flows


def cut_report(ys: Sequence[Node], missing: Sequence[Node], hint: str = "") -> GradientError:
    """The error for `xs` that no gradient reaches: for each, the ops that cut its paths, and their lines."""
    order = toposort(ys)
    unused = not set(order).issuperset(missing)
    refed = "a value that another run computed carries no gradient, use the tensor itself" if unused else ""
    return GradientError(
        f"no gradient reaches {', '.join(repr(x.display_name) for x in missing)}",
        lines=[line for x in missing for line in _cuts(order, ys, x)],
        hint="; ".join(filter(None, (hint, refed))) or None,
    )


def _cuts(order: Sequence[Node], ys: Sequence[Node], x: Node) -> list[str]:
    """Where the paths from `x` to `ys` are cut: the first op on each that passes nothing back."""
    depends = _on_a_path(order, [x])
    if depends.isdisjoint(ys):
        leaves = [node.display_name for node in order if node.graph is not None and not node.inputs]
        of = f", which depends on {_some(leaves)}" if leaves else ""
        return [f"{x.display_name}: not used in computing {_some([y.display_name for y in ys])}{of}"]
    connected = {x}
    lines = []
    for node in order:
        last = next((i for i in node.inputs if i in connected), None)
        if node in connected or last is None:
            continue
        if any(passes and i in connected for i, passes in zip(node.inputs, _passing(node), strict=True)):
            connected.add(node)
        else:
            behind = "" if last is x else f" behind {last.display_name}"
            lines.append(f"{x.display_name}: cut{behind} by {node.op.name} ({_reason(node)}): {_line(node)}")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= SHOWN else [*names[:SHOWN], "..."])


def _passing(node: Node) -> Sequence[bool]:
    """Which inputs a node hands a cotangent to if one arrives for each of its float results."""
    types = node.type.items if isinstance(node.type, TupleType) else (node.type,)
    weights = tuple([parameter(-1 - k, type) if is_float(type.dtype) else None for k, type in enumerate(types)])
    if weights.count(None) == len(weights):
        return [False] * len(node.inputs)
    with derived_from(node, RULE):
        return [g is not None for g in _checked(node, weights if isinstance(node.type, TupleType) else weights[0])]


def _place(node: Node) -> str:
    return f"{node.op.name}, {_line(node)}"


def _line(node: Node) -> str:
    return str(node.occurrence.site or "a line that isn't known")


def _reason(node: Node) -> str:
    if isinstance(node.op.vjp, NoGradient):
        return node.op.vjp.reason
    if isinstance(node.type, TensorType) and not is_float(node.type.dtype):
        return f"it is {node.type}"
    return "its rule passes none"
