"""Ways to group the nodes of a picture into fewer boxes, from the most detailed on.

Repeats first: consecutive sibling scopes that compute the same thing are drawn once, in a frame titled `× 8`. Then
gradients and updates collapse, then scopes, from the innermost out. What has no scopes is searched for repetitions,
and what is left of a huge graph is cut into stretches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from graphc.exporters.sketch import LEAVES, ROLES, Sketch, path_of
from graphc.ir import Node

MAX_PERIOD = 64  # nodes in one repetition of a chain without scopes
MIN_COUNT = 4  # repetitions from which on such a chain is rolled up
MIN_BOXES = 2 * len(ROLES)  # into how few boxes any graph can be folded: one for each role, and what comes out of it


class Group(NamedTuple):
    """A box for several nodes: their role, a title (empty for all of the role), and a number to tell equals apart."""

    role: str
    title: str
    number: int = 0


Key: TypeAlias = Node | Group
Levels: TypeAlias = Mapping[str, int | None]


@dataclass(frozen=True)
class Folding:
    """Which box each node is in, and which boxes stand in a frame.

    Attributes:
        keys: the box of each node: a node for the box of that node, else a group.
        frames: the title of the frame that a box stands in.
    """

    keys: dict[Node, Key]
    frames: Mapping[Key, str] = field(default_factory=dict)

    def boxes(self, sketch: Sketch) -> int:
        """How many boxes are drawn, with one for the results of each box that has some."""
        return len(set(self.keys.values())) + len({self.keys[result.source] for result in sketch.results})


@dataclass(frozen=True)
class Run:
    """Consecutive sibling scopes that compute the same thing.

    Attributes:
        title: as drawn.
        scopes: in order.
        twins: each node inside to its counterpart in the first scope.
    """

    title: str
    scopes: tuple[str, ...]
    twins: dict[Node, Node]


def foldings(sketch: Sketch, depth: int | None, expand: Collection[str], max_boxes: int) -> Iterator[Folding]:
    """Ways to group the nodes, each coarser than the one before; the last has at most `max_boxes` boxes.

    Args:
        depth: show scopes no deeper than this.
        expand: scopes whose nodes get a box each, except in the last two ways.
    """
    runs = _repeats(sketch, expand)
    deepest = max([1, *map(len, sketch.paths.values())])
    if depth is None:
        yield Folding({n: n for n in sketch.nodes})
        yield _grouped(sketch, _needed(sketch, runs, max_boxes), dict.fromkeys(ROLES), expand, framed=True)
        yield _grouped(sketch, runs, {"forward": None, "gradient": 1, "update": 1}, expand, framed=True)
    for level in range(min(depth or deepest, deepest), 0, -1):
        yield _grouped(sketch, runs, dict.fromkeys(ROLES, level), expand)
    periodic = _periodic(sketch, _grouped(sketch, runs, dict.fromkeys(ROLES, 1), expand).keys)
    yield periodic
    roles = _roles_apart(sketch, periodic.keys)
    yield roles
    yield _stretches(sketch, roles.keys, max_boxes)


def _roles_apart(sketch: Sketch, keys: Mapping[Node, Key]) -> Folding:
    """`keys`, with all gradients in one box and all updates in another."""
    return _tidy({n: k if (role := sketch.roles[n]) == "forward" else Group(role, "") for n, k in keys.items()})


def _tidy(keys: dict[Node, Key], frames: Mapping[Key, str] = {}) -> Folding:
    """A folding in which a group of one node is that node."""
    members = Counter(keys.values())
    single = {n: n if isinstance(key, Group) and members[key] == 1 else key for n, key in keys.items()}
    return Folding(single, frames)


def _grouped(
    sketch: Sketch, runs: Sequence[Run], levels: Levels, expand: Collection[str], *, framed: bool = False
) -> Folding:
    """Scopes deeper than the level of their role collapsed, and each run rolled up into one box or one frame."""
    keys: dict[Node, Key] = {}
    frames: dict[Key, str] = {}
    titles = {scope: run.title for run in runs for scope in run.scopes}
    twins = {node: twin for run in runs for node, twin in run.twins.items()} if framed else {}
    for node in sketch.nodes:
        path, role = sketch.paths[node.scope], sketch.roles[node]
        level = levels[role]
        title = next((titles[scope] for scope in path if scope in titles), None)
        keys[node] = node
        if (node.op.kind in LEAVES and node.op.kind != "variable") or not set(path).isdisjoint(expand):
            continue
        if node in twins:
            keys[node] = twins[node]
            frames[twins[node]] = str(title)
        elif title is not None:
            keys[node] = Group(role, title)
        elif level is not None and len(path) >= level:
            keys[node] = Group(role, path[level - 1])
    return _tidy(keys, frames)


# --------------------------------------------------------------------------------------------- repeats


def _repeats(sketch: Sketch, expand: Collection[str]) -> list[Run]:
    """The outermost runs of sibling scopes that follow each other directly and are isomorphic."""
    contents: dict[str, list[Node]] = {}
    children: dict[str, dict[str | Node, None]] = {}  # of each scope, in order: scopes, and the ops between them
    for node in sketch.nodes:
        if sketch.roles[node] != "forward" or (node.op.kind in LEAVES and node.op.kind != "variable"):
            continue
        path = sketch.paths[node.scope]
        for scope in path:
            contents.setdefault(scope, []).append(node)
        if node.op.kind != "variable":
            below: tuple[str | Node, ...] = (*path, node)
            for parent, child in zip(("", *path), below, strict=True):
                children.setdefault(parent, {})[child] = None
    found: list[Run] = []
    inside: set[str] = set()
    for parent in sorted(children, key=lambda scope: len(path_of(scope))):
        if inside.isdisjoint(path_of(parent)):
            runs = list(_runs(sketch, children[parent], contents, expand))
            found += runs
            inside.update(scope for run in runs for scope in run.scopes)
    return found


def _runs(
    sketch: Sketch, children: Iterable[str | Node], contents: Mapping[str, list[Node]], expand: Collection[str]
) -> Iterator[Run]:
    """Maximal runs of two or more scopes with one signature."""
    orders: dict[str, list[Node]] = {}

    def signature(child: str | Node) -> Any:
        if isinstance(child, Node) or len(contents[child]) < 2 or _touches(child, expand):
            return child
        orders[child] = _canonical(sketch, contents[child])
        return _signature(sketch, orders[child])

    for _, group in groupby(children, signature):
        scopes = tuple(map(str, group))
        if len(scopes) > 1:
            twins = {n: twin for scope in scopes for n, twin in zip(orders[scope], orders[scopes[0]], strict=True)}
            last = scopes[-1].rpartition("/")[2]
            yield Run(f"{scopes[0]} … {last} × {len(scopes)}", scopes, twins)


def _touches(scope: str, others: Iterable[str]) -> bool:
    """Whether a scope is inside one of `others`, or around it."""
    return any(f"{scope}/".startswith(f"{other}/") or other.startswith(f"{scope}/") for other in others)


def _canonical(sketch: Sketch, nodes: Sequence[Node]) -> list[Node]:
    """The nodes of a scope depth first from its results, so that the order tells nothing but what is computed."""
    inside = set(nodes)
    used = {source for node in nodes for _, source in sketch.inputs[node]}
    order: dict[Node, None] = {}
    stack = [node for node in reversed(nodes) if node not in used]
    while stack:
        node = stack.pop()
        if node not in order:
            order[node] = None
            stack += [source for _, source in reversed(sketch.inputs[node]) if source in inside]
    return list(order)


def _signature(sketch: Sketch, order: Sequence[Node]) -> Any:
    """Equal for two scopes if and only if they are isomorphic: ops, types, attributes, and which operand is which."""
    position = {node: k for k, node in enumerate(order)}
    return [
        (n.op, n.type, n.attrs.key, n.body, [position.get(source) for _, source in sketch.inputs[n]]) for n in order
    ]


def _needed(sketch: Sketch, runs: Sequence[Run], max_boxes: int) -> list[Run]:
    """The runs that save most, as few as it takes to draw everything else in full; all, if that doesn't fit."""
    title = {scope: k for k, run in enumerate(runs) for scope in run.scopes}
    derived = Counter(
        (next(k for scope in sketch.paths[n.scope] if (k := title.get(scope)) is not None), sketch.roles[n])
        for n in sketch.nodes
        if sketch.roles[n] != "forward" and not title.keys().isdisjoint(sketch.paths[n.scope])
    )
    saved = [len(run.twins) - len(set(run.twins.values())) for run in runs]
    for (k, _), count in derived.items():
        saved[k] += count - 1
    boxes = Folding({n: n for n in sketch.nodes}).boxes(sketch)
    chosen: list[Run] = []
    for k in sorted(range(len(runs)), key=lambda k: -saved[k]):
        if boxes <= max_boxes:
            break
        chosen.append(runs[k])
        boxes -= saved[k]
    return chosen


# --------------------------------------------------------------------------------------------- what has no scopes


def _periodic(sketch: Sketch, keys: Mapping[Node, Key]) -> Folding:
    """`keys`, with repetitions in the sequence of single nodes (an unrolled loop) grouped into one box each."""
    single = [n for n in sketch.nodes if keys[n] is n and n.op.kind not in LEAVES]
    position = {n: k for k, n in enumerate(single)}
    numbers: dict[Any, int] = {}

    def label(k: int, node: Node) -> int:
        near = [k - position[source] for _, source in sketch.inputs[node] if source in position]
        shape = (node.op, node.type, sketch.roles[node], tuple([d if d <= MAX_PERIOD else 0 for d in near]))
        return numbers.setdefault(shape, len(numbers))

    labels = np.array([label(k, node) for k, node in enumerate(single)], dtype=np.int64)
    grouped = dict(keys)
    for start, stop, period in _repetitions(labels):
        first = single[start]
        group = Group(sketch.roles[first], f"repeated × {(stop - start) // period:,}", first.serial)
        grouped.update(dict.fromkeys(single[start:stop], group))
    return Folding(grouped)


def _repetitions(labels: Any) -> Iterator[tuple[int, int, int]]:
    """Disjoint stretches `(start, stop, period)` of `labels` that repeat at least `MIN_COUNT` times, longest first.

    Linear: the repetitions of one period don't overlap by more than it, and there are `MAX_PERIOD` periods.
    """
    found: list[tuple[int, int, int]] = []
    for period in range(1, min(MAX_PERIOD, len(labels) // MIN_COUNT) + 1):
        same = labels[:-period] == labels[period:]
        bounds = np.flatnonzero(np.diff(np.concatenate(([False], same, [False]))))
        starts, widths = bounds[::2], bounds[1::2] - bounds[::2]
        counts = widths // period + 1
        often = counts >= MIN_COUNT
        found += [(int(c) * period, period, int(s)) for c, s in zip(counts[often], starts[often], strict=True)]
    free = np.ones(len(labels), dtype=bool)
    for covered, period, start in sorted(found, key=lambda f: (-f[0], f[1:])):
        left = start + np.flatnonzero(free[start : start + covered])
        if len(left) >= MIN_COUNT * period and left[-1] - left[0] + 1 == len(left):
            stop = int(left[0]) + len(left) // period * period
            free[left[0] : stop] = False
            yield int(left[0]), stop, period


def _stretches(sketch: Sketch, keys: Mapping[Node, Key], max_boxes: int) -> Folding:
    """At most `max_boxes` boxes: neighbours of one role, in the order of creation, share one."""
    order: dict[str, dict[Key, list[Node]]] = {}
    for node in sketch.nodes:
        order.setdefault(sketch.roles[node], {}).setdefault(keys[node], []).append(node)
    total = sum(map(len, order.values()))
    room = max_boxes // 2 - len(order)  # as many boxes may be needed for the results
    grouped: dict[Node, Key] = {}
    for role, boxes in order.items():
        count = 1 + room * len(boxes) // total
        size = -(-len(boxes) // count)
        listed = list(boxes.items())
        for k in range(0, len(listed), size):
            stretch = listed[k : k + size]
            nodes = [node for _, members in stretch for node in members]
            title = " … ".join(dict.fromkeys([_called(nodes[0]), _called(nodes[-1])]))
            grouped.update(dict.fromkeys(nodes, stretch[0][0] if len(stretch) == 1 else Group(role, title, k)))
    return _tidy(grouped)


def _called(node: Node) -> str:
    return node.scope.partition("/")[0] or node.display_name
