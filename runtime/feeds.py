"""From what a user feeds to arrays that fit: conversion, unification of symbols, and one report of all problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.dims import Guard, unify
from graphc.errors import FeedError, GraphcError, GuardError
from graphc.ir import Graph, Node
from graphc.op import Array
from graphc.source import here
from graphc.types import DTYPES, dtype_name, is_float, np_dtype

_KNOWN = frozenset(map(np_dtype, DTYPES))


def resolve_feeds(feeds: Mapping[Any, Any] | None, graph: Graph | None) -> dict[Node, Any]:
    """Feeds by node; keys may be names.

    Raises:
        FeedError: keys that are no tensors, or tensors of another graph; all are told.
    """
    if feeds is None:
        return {}
    if not isinstance(feeds, Mapping):
        raise FeedError(f"feeds must be a dict from tensors to values, got {type(feeds).__name__}", lines=[here()])
    found: dict[Node, Any] = {}
    problems: list[str] = []
    for key, value in feeds.items():
        try:
            node = graph[key] if isinstance(key, str) and graph is not None else key
        except GraphcError as error:
            problems.append(error.message)
            continue
        if not isinstance(node, Node):
            problems.append(f"{key!r} is no tensor of the graph, but {type(key).__name__}")
        elif node.graph is not None and graph is not None and node.graph is not graph:
            problems.append(f"{node.display_name!r} belongs to graph {node.graph.name!r}, not to {graph.name!r}")
        elif node in found:
            problems.append(f"{node.display_name!r} is fed twice, by name and as a tensor")
        else:
            found[node] = value
    if problems:
        raise _report(problems)
    return found


def convert_feeds(feeds: Mapping[Node, Any]) -> tuple[dict[Node, Array], dict[str, int]]:
    """The arrays to run with, and the size of every symbolic dimension.

    float64 becomes float32 silently, and integers become floats or other integers where they fit exactly; anything
    else that would lose values is an error.

    Raises:
        FeedError: every array whose dtype or shape doesn't fit, and every symbol with two sizes.
    """
    arrays: dict[Node, Array] = {}
    problems: list[str] = []
    for node, value in feeds.items():
        array, problem = _converted(node, value)
        if problem:
            problems.append(problem)
        else:
            arrays[node] = array
    shapes = [(node.display_name, node.shape, array.shape) for node, array in arrays.items()]
    dims, misfits = unify(shapes)
    by_name = {node.display_name: node for node in arrays}
    for misfit in misfits:
        node = by_name[misfit.feed]
        hint = shape_hint(node.shape, arrays[node].shape) if misfit.kind in ("rank", "size") else ""
        problems.append(f"{misfit.message}{hint}")
    if problems:
        raise _report(problems)
    return arrays, dims


def _report(problems: Sequence[str]) -> FeedError:
    if len(problems) == 1:
        return FeedError(problems[0], lines=[here()])
    return FeedError(f"{len(problems)} feeds don't fit", lines=[*problems, here()])


def _converted(node: Node, value: Any) -> tuple[Any, str]:
    """The value as an array of the node's dtype, or what is wrong with it."""
    name, wanted = node.display_name, np_dtype(node.dtype)
    if isinstance(value, Node):
        return None, f"{name!r} is fed a tensor of the graph; run it first and feed its value"
    try:
        array = np.asarray(value)
    except ValueError:
        return None, f"{name!r} is fed a ragged list: its rows differ in length"
    if array.dtype == wanted:
        return array, ""
    if array.dtype not in _KNOWN:
        return None, f"{name!r} is {node.type}, fed {_described(value, array)}"
    given = dtype_name(array.dtype)
    if is_float(node.dtype) and is_float(given):
        python_numbers = not hasattr(value, "dtype")
        if python_numbers or node.dtype in ("float32", "float64"):  # float64 data is float64 by accident
            return array.astype(wanted), ""
    elif array.dtype.kind in "iub" and (wanted.kind in "iu" or is_float(node.dtype)):
        with np.errstate(all="ignore"):
            cast = array.astype(wanted)
            if array.size == 0 or np.array_equal(cast.astype(array.dtype), array):
                return cast, ""
        return None, f"{name!r} is {node.type}, fed {given} values that don't fit {node.dtype} exactly"
    elif array.size == 0:
        return array.astype(wanted), ""
    return None, f"{name!r} is {node.type}, fed {given}; convert it: value.astype({str(wanted)!r})"


def _described(value: Any, array: Array) -> str:
    if value is None:
        return "None"
    return type(value).__name__ if array.dtype == object else f"{type(value).__name__} of {array.dtype}"


# ------------------------------------------------------------------------------------------- the likely mistake


def shape_hint(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    """The likely mistake behind a shape that doesn't fit, as `"; ..."`, or the empty string."""
    return next((f"; {text}" for rule in _HINTS if (text := rule(declared, fed))), "")


def _matches(declared: Sequence[Any], fed: Sequence[int]) -> bool:
    return len(declared) == len(fed) and all(
        not isinstance(d, int) or d == n for d, n in zip(declared, fed, strict=True)
    )


def _empty(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    return "the array is empty: did a file pattern match nothing?" if fed == (0,) and declared != (0,) else ""


def _missing_batch(declared: tuple[Any, ...], fed: tuple[int, ...]) -> str:
    return "the batch axis is missing: value[None]" if _matches(declared[1:], fed) and declared else ""


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
    if len(declared) < 2 or len(fed) < 2 or not isinstance(declared[-1], int):
        return ""
    wanted = int(np.prod([d for d in declared[1:] if isinstance(d, int)]))
    given = int(np.prod(fed[1:]))
    if given == wanted:
        return f"the sizes agree once it is reshaped: value.reshape(-1, {', '.join(map(str, declared[1:]))})"
    if wanted and given % wanted == 0:
        times = given // wanted
        colour = ": colour images?" if times == 3 else ""
        return f"{given} = {times} * {wanted}{colour}"
    return ""


_HINTS = (_empty, _missing_batch, _extra_axis, _channels_last, _transposed, _flattened)


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
            lines=[f"{guard}: {_guard_place(node)}" for guard, node in broken],
        )


def _guard_place(node: Node) -> str:
    site = node.occurrence.site
    return f"{node.op.name}, {site}" if site else node.op.name


def missing_feeds(missing: Sequence[Node], fetched: Sequence[tuple[str, Node]]) -> FeedError:
    """The error for placeholders without a value: who needs each, and along which path."""
    lines = []
    for leaf in missing:
        users = [(name, path) for name, root in fetched if (path := path_to(root, leaf))]
        names = ", ".join(repr(name) for name, _ in users[:3])
        only = "only " if len(users) < len(fetched) else ""
        lines.append(f"{leaf.display_name!r}, {leaf.type}, is needed {only}by {names}: {_abridged(users[0][1])}")
    names = ", ".join(repr(leaf.display_name) for leaf in missing)
    what = "a value for the placeholder" if len(missing) == 1 else "values for the placeholders"
    feeds = ", ".join(f"{leaf.display_name}: ..." for leaf in missing)
    return FeedError(f"this run needs {what} {names}", lines=[*lines, here()], hint=f"sess.run(..., {{{feeds}}})")


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
