"""From what a user feeds to arrays that fit: conversion, unification of symbols, and one report of all problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graphc.dims import DimExpr, Guard, Problem, shape_text, symbols_of, unify
from graphc.errors import FeedError, GraphcError, GuardError
from graphc.ir import Graph, Node, current_graph, toposort
from graphc.op import Array
from graphc.ops.state import Placeholder
from graphc.types import TupleType, Type
from graphc.values import converted

MAX_SHAPES = 256  # combinations of shapes whose sizes one program remembers
Accepts = Callable[[Any], Any]

SHOWN = 3  # names that a message lists before it says "..."


def feeds_given(feeds: Any) -> Mapping[Any, Any]:
    """`feeds` as a mapping, empty for None.

    Raises:
        FeedError: they are something else.
    """
    if feeds is not None and not isinstance(feeds, Mapping):
        raise FeedError(f"feeds must be a dict from tensors to values, got {type(feeds).__name__}")
    return feeds or {}


def resolve_feeds(feeds: Iterable[tuple[Any, Any]], graph: Graph) -> dict[Node, Any]:
    """Feeds by node, from pairs of a key and a value; keys may be names of nodes of `graph`.

    Raises:
        FeedError: keys that are no tensors, or tell one tensor twice; all are told.
    """
    found: dict[Node, Any] = {}
    problems: list[str] = []
    for key, value in feeds:
        try:
            node = graph[key] if isinstance(key, str) else key
        except GraphcError as error:
            problems.append(error.message)
            continue
        if not isinstance(node, Node):
            problems.append(f"{key!r} is no tensor of the graph, but {type(key).__name__}")
        elif node in found:
            problems.append(f"{node.display_name!r} is fed twice")
        else:
            found[node] = value
    if problems:
        raise _report(problems)
    return found


def convert_feeds(
    feeds: Mapping[Node, Any], accepts: Accepts | None = None
) -> tuple[dict[Node, Array], dict[str, int]]:
    """The arrays to run with, and the size of every symbolic dimension.

    float64 becomes float32 silently, and integers become floats or other integers where they fit exactly; anything
    else that would lose values is an error.

    Args:
        accepts: see `Intake`.

    Raises:
        FeedError: every array whose dtype or shape doesn't fit, and every symbol with two sizes.
    """
    arrays, problems = _arrays(feeds.items(), accepts)
    return arrays, _sizes(arrays, problems)


class Intake:
    """Takes what is fed to one compiled program: arrays that fit, and the sizes that they give.

    What shapes give is worked out and checked once, and remembered for when arrays of the same shapes come again.

    Args:
        fed: what every run feeds.
        defaults: values of placeholders that no run feeds.
        sizes: the symbolic dimensions that what is computed needs, each with a node that does.
        guards: what must hold of the sizes, each with a node that assumed it.
        accepts: gives what a device takes as it lies there, with its shape and the name of its dtype; None for all
            other values.
    """

    def __init__(
        self,
        fed: tuple[Node, ...],
        defaults: Mapping[Node, Array],
        sizes: Mapping[str, Node],
        guards: tuple[tuple[Guard, Node], ...],
        accepts: Accepts | None = None,
    ) -> None:
        self.fed = fed
        self.accepts = accepts
        self.defaults = defaults
        self.guards = guards
        self.sizes = {**sizes, **sizes_needed((), guards), **sizes}
        self._known: dict[tuple[tuple[int, ...], ...], dict[str, int]] = {}

    def take(self, feeds: Mapping[Node, Any]) -> tuple[dict[Node, Array], Mapping[str, int]]:
        """The array of each leaf that is fed or has a default, and the size of every symbolic dimension.

        Raises:
            FeedError: all feeds that don't fit, or all sizes that none gives. GuardError: sizes that the graph
                can't have.
        """
        arrays, problems = _arrays([(node, feeds[node]) for node in self.fed], self.accepts)
        arrays.update(self.defaults)
        shapes = tuple([array.shape for array in arrays.values()])
        dims = None if problems else self._known.get(shapes)
        if dims is None:
            dims = _sizes(arrays, problems)
            check_sizes(self.sizes, dims)
            check_guards(self.guards, dims)
            if len(self._known) >= MAX_SHAPES:
                self._known.clear()
            self._known[shapes] = dims
        return arrays, dims


def with_misfits(missing: FeedError, feeds: Mapping[Node, Any], accepts: Accepts | None = None) -> FeedError:
    """The error for missing feeds, together with all that is wrong with those that were given."""
    arrays, problems = _arrays(feeds.items(), accepts)
    problems += _unified(arrays)[1]
    if not problems:
        return missing
    return FeedError(f"{missing.message}, and others don't fit", lines=[*missing.lines, *problems], hint=missing.hint)


def _arrays(feeds: Iterable[tuple[Node, Any]], accepts: Accepts | None) -> tuple[dict[Node, Array], list[str]]:
    """The arrays that could be made, and what is wrong with the other values."""
    arrays: dict[Node, Array] = {}
    problems: list[str] = []
    for node, value in feeds:
        accepted = None if accepts is None else accepts(value)
        array, problem = _converted(node, value) if accepted is None else (accepted, _unlike(node, accepted))
        if problem:
            problems.append(problem)
        else:
            arrays[node] = array
    return arrays, problems


def _sizes(arrays: Mapping[Node, Array], problems: list[str]) -> dict[str, int]:
    """The sizes that arrays give, unless there are problems with them or already known ones."""
    dims, misfits = _unified(arrays)
    problems = problems + misfits
    if problems:
        raise _report(problems)
    return dims


def _unified(arrays: Mapping[Node, Array]) -> tuple[dict[str, int], list[str]]:
    """The sizes that arrays give, and what is wrong with their shapes."""
    dims, misfits = unify([(node.display_name, node.shape, array.shape) for node, array in arrays.items()])
    return dims, _shape_problems(arrays, misfits) if misfits else []


def _shape_problems(arrays: Mapping[Node, Array], misfits: Sequence[Problem]) -> list[str]:
    """One sentence for each feed whose shape has a likely mistake, and for each other misfit."""
    by_name = {node.display_name: node for node in arrays}
    told: dict[str, str] = {}
    for misfit in misfits:
        node = by_name[misfit.feed]
        declared, fed = node.shape, arrays[node].shape
        hint = shape_hint(declared, fed) if misfit.kind in ("rank", "size") else ""
        if hint:
            told[misfit.feed] = f"feed {misfit.feed!r} has shape {shape_text(fed)}, expected {node.type}; {hint}"
        else:
            told[misfit.message] = misfit.message
    return list(told.values())


def _report(problems: Sequence[str]) -> FeedError:
    if len(problems) == 1:
        return FeedError(problems[0])
    return FeedError(f"{len(problems)} feeds don't fit", lines=problems)


def _converted(node: Node, value: Any) -> tuple[Any, str]:
    """The value as an array of the node's dtype, or what is wrong with it."""
    if isinstance(value, Node):
        what = f"a tensor of the graph, {value!r}; run it first and feed its value"
        return None, f"{node.display_name!r} is fed {what}"
    array, problem = converted(value, node.dtype)
    return array, f"{node.display_name!r} is {node.type}, fed {problem}" if problem else ""


def _unlike(node: Node, accepted: Any) -> str:
    """What is wrong with the dtype of something on a device, where nothing is converted."""
    fits = accepted.dtype == node.dtype
    remedy = "convert it there, or feed an array of NumPy's"
    return "" if fits else f"{node.display_name!r} is {node.type}, fed {accepted.dtype} on the device; {remedy}"


# ------------------------------------------------------------------------------------------- the likely mistake


def shape_hint(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    """The likely mistake behind a shape that doesn't fit, or the empty string."""
    if _matches(declared, fed):  # what doesn't fit is the size of a symbol
        return ""
    return next((text for rule in _HINTS if (text := rule(declared, fed))), "")


def _matches(declared: Sequence[Any], fed: Sequence[int]) -> bool:
    return len(declared) == len(fed) and all(
        not isinstance(d, int) or d == n for d, n in zip(declared, fed, strict=True)
    )


def _empty(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    return "the array is empty: did a file pattern match nothing?" if fed == (0,) and declared != (0,) else ""


def _missing_axis(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    """An axis of size 1, or the batch, that a single sample lacks."""
    lacking = [k for k, d in enumerate(declared) if d == 1 or (k == 0 and not isinstance(d, int))]
    axis = next((k for k in lacking if _matches(declared[:k] + declared[k + 1 :], fed)), None)
    if axis is None:
        return ""
    if axis == 0:
        return "the batch axis is missing: value[None]"
    return f"axis {axis} of size 1 is missing: np.expand_dims(value, {axis})"


def _extra_axis(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    axes = [k for k, n in enumerate(fed) if n == 1 and _matches(declared, fed[:k] + fed[k + 1 :])]
    return f"axis {axes[0]} of size 1 is too many: value.squeeze({axes[0]})" if axes else ""


def _channels_last(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    moved = (fed[0], fed[-1], *fed[1:-1]) if len(fed) >= 3 else fed
    if moved != fed and _matches(declared, moved):
        return "channels come last in it, but graphc takes them second: np.moveaxis(value, -1, 1)"
    return ""


def _transposed(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    return "it looks transposed: value.T" if len(fed) >= 2 and _matches(declared, fed[::-1]) else ""


def _flattened(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    sizes = declared[1:]
    if not sizes or len(fed) < 2 or not _matches(declared[:1], fed[:1]) or not all(isinstance(d, int) for d in sizes):
        return ""
    wanted, given = math.prod(sizes), math.prod(fed[1:])
    if given == wanted:
        return f"the sizes agree once it is reshaped: value.reshape(-1, {', '.join(map(str, sizes))})"
    if wanted > 1 and given and given % wanted == 0:
        times = given // wanted
        return f"{given} = {times} * {wanted}{': colour images?' if times == 3 else ''}"
    return ""


_HINTS = (_empty, _missing_axis, _extra_axis, _channels_last, _transposed, _flattened)


# --------------------------------------------------------------------------------------------- sizes


def sizes_needed(nodes: Iterable[Node], guards: Iterable[tuple[Guard, Node]]) -> dict[str, Node]:
    """The symbolic dimensions that computing `nodes` and checking `guards` needs, each with the first that does."""
    found: dict[str, Node] = {}
    kinds: dict[tuple[Type, object], Node] = {}  # the first of those that are alike: few in a large program
    for node in nodes:
        kinds.setdefault((node.type, node.attrs.key), node)
    for node in kinds.values():
        types = node.type.items if isinstance(node.type, TupleType) else (node.type,)
        for dim in (*(dim for type in types for dim in type.shape), *_dims_in(tuple(node.attrs.values()))):
            for name in symbols_of(dim):
                found.setdefault(name, node)
    for guard, node in guards:
        for name in symbols_of(guard.left) | symbols_of(guard.right):
            found.setdefault(name, node)
    return found


def _dims_in(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return [dim for entry in value for dim in _dims_in(entry)]
    return [value] if isinstance(value, DimExpr) else []


def check_sizes(needed: Mapping[str, Node], dims: Mapping[str, int]) -> None:
    """Make sure that every size that a run needs is known.

    Raises:
        FeedError: all that no feed gives, what needs them, and the placeholders that would give them.
    """
    unknown = [name for name in needed if name not in dims]
    if unknown:
        graphs = {node.graph for node in needed.values() if node.graph is not None} or {current_graph()}
        leaves = [leaf for graph in graphs for leaf in graph.nodes() if isinstance(leaf, Placeholder)]
        giving = [leaf.name for leaf in leaves if not leaf.tensor_type.symbols.isdisjoint(unknown)]
        raise FeedError(
            f"no feed gives the size{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}",
            lines=[f"{name} is needed by {_place(needed[name])}" for name in unknown],
            hint=f"feed {' or '.join(giving)}, whose shape has it" if giving else None,
        )


# --------------------------------------------------------------------------------------------- guards


def check_guards(guards: Sequence[tuple[Guard, Node]], dims: Mapping[str, int]) -> None:
    """Check the sizes that the graph had to assume.

    Raises:
        GuardError: the assumptions that the feeds contradict, with the user's lines.
    """
    broken = [(guard, node) for guard, node in guards if not guard.holds(dims)]
    if broken:
        given = ", ".join(f"{name} = {size}" for name, size in sorted(dims.items()))
        raise GuardError(
            f"the graph assumes {broken[0][0]}, but the feeds give {given}",
            lines=[f"{guard}: {_place(node)}" for guard, node in broken],
        )


def _place(node: Node) -> str:
    site = node.occurrence.site
    return f"{node.op.name}, {site}" if site else node.op.name


def missing_feeds(missing: Sequence[Node], fetched: Sequence[tuple[str, Node]]) -> FeedError:
    """The error for placeholders without a value: who needs each, and along which path."""
    order = toposort([root for _, root in fetched])
    lines = []
    for leaf in missing:
        dependent = {leaf}
        dependent.update(node for node in order if not dependent.isdisjoint(node.inputs))
        users = [(name, root) for name, root in fetched if root in dependent]
        only = "only " if len(users) < len(fetched) else ""
        names = ", ".join([*(repr(name) for name, _ in users[:SHOWN]), *["..."][: len(users) - SHOWN]])
        path = _abridged(path_to(users[0][1], leaf))
        lines.append(f"{leaf.display_name!r}, {leaf.type}, is needed {only}by {names}: {path}")
    names = ", ".join(repr(leaf.display_name) for leaf in missing)
    what = "a value for the placeholder" if len(missing) == 1 else "values for the placeholders"
    feeds = ", ".join(f"{leaf.display_name}: ..." for leaf in missing)
    return FeedError(f"this run needs {what} {names}", lines=lines, hint=f"sess.run(..., {{{feeds}}})")


def path_to(root: Node, leaf: Node) -> list[Node]:
    """A shortest path of users from `root` down to `leaf`; empty if there is none."""
    parents: dict[Node, Node | None] = {root: None}
    queue = [root]
    for node in queue:
        if node is leaf:
            path: list[Node] = []
            at: Node | None = node
            while at is not None:
                path.append(at)
                at = parents[at]
            return path[::-1]
        for i in node.inputs:
            if i not in parents:
                parents[i] = node
                queue.append(i)
    return []


def _abridged(path: list[Node]) -> str:
    names = [node.display_name for node in path]
    return " <- ".join(names if len(names) <= 5 else [*names[:2], "...", *names[-2:]])
