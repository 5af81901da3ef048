"""From a graph of any size to a picture that one can read: boxes and edges, as data.

What is drawn is folded in steps until it fits: constants and glue first, then repeats (isomorphic sibling scopes become
one box, `× 8`), then scopes from the innermost out, then whatever is left in order. A note says what was folded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.ir import Node, toposort
from graphc.operands import splat_value

MAX_BOXES = 150
MAX_PERIOD = 64  # nodes in one repetition of a chain without scopes
GLUE = frozenset({"broadcast_to", "cast", "expand_dims", "squeeze", "item", "identity"})
ROLES = ("forward", "gradient", "update")
LEAVES = ("placeholder", "variable", "random", "parameter")

Key = Hashable


@dataclass(frozen=True)
class Box:
    """One thing drawn: an op, a leaf, or a group of nodes.

    Attributes:
        lines: the label, from the title down.
        form: "op", "group", "output" or one of `LEAVES`.
        role: "forward", "gradient" or "update".
        scope: where it is, for grouping; empty at the top.
    """

    lines: tuple[str, ...]
    form: str
    role: str
    scope: str = ""


@dataclass(frozen=True)
class Edge:
    """Data that flows from one box to another; indices into `Picture.boxes`."""

    source: int
    target: int
    label: str


@dataclass(frozen=True)
class Picture:
    """What is drawn, and what was folded away to make it readable."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    notes: tuple[str, ...] = field(default=())


# --------------------------------------------------------------------------------------------- what is visible


class Sketch:
    """The visible nodes of a graph, with the hidden ones bridged."""

    def __init__(self, roots: Sequence[tuple[str, Node]]) -> None:
        self.roots = roots
        self.all = toposort([node for _, node in roots])
        kept = {node for _, node in roots}
        self.nodes = [n for n in self.all if n in kept or not (_is_constant(n) or n.op.name in GLUE)]
        self.constants = sum(_is_constant(n) for n in self.all)
        self.glue = len(self.all) - len(self.nodes) - self.constants
        shown = set(self.nodes)
        source: dict[Node, Node | None] = {}
        for n in self.all:
            source[n] = n if n in shown else None if _is_constant(n) or not n.inputs else source[n.inputs[0]]
        self.inputs = {n: [(i, s) for i in n.inputs if (s := source[i]) is not None] for n in self.nodes}
        self.roles = roles(self.all)


def _is_constant(node: Node) -> bool:
    return node.graph is None and node.op.kind != "parameter"


def roles(nodes: Iterable[Node]) -> dict[Node, str]:
    """Whether each node computes values, gradients, or updates, by what it was derived from."""
    found: dict[Node, str] = {}
    for start in nodes:
        chain, node = [], start
        role = ""
        while not role:
            chain.append(node)
            occurrence = node.occurrence
            role = found.get(node) or (occurrence.rule if occurrence.rule in ROLES else "")
            if not role and occurrence.origin is None:
                role = "forward"
            elif not role:
                node = occurrence.origin  # type: ignore[assignment]
        found.update(dict.fromkeys(chain, role))
    return found


# --------------------------------------------------------------------------------------------- folding


def compose(
    roots: Sequence[tuple[str, Node]],
    *,
    max_boxes: int = MAX_BOXES,
    depth: int | None = None,
    expand: Sequence[str] = (),
) -> Picture:
    """The picture of what computes `roots`, which are named.

    Args:
        max_boxes: fold until there are at most so many boxes.
        depth: show scopes no deeper than this, whatever fits.
        expand: scopes that are shown in full, however deep they are.
    """
    sketch = Sketch(roots)
    budget = max(max_boxes - len(roots), 1)
    keys: dict[Node, Key] = {}
    for fold in _foldings(sketch, depth, tuple(expand), budget):
        keys = fold()
        if len(set(keys.values())) <= budget:
            break
    return _drawn(sketch, keys)


def _foldings(
    sketch: Sketch, depth: int | None, expand: tuple[str, ...], budget: int
) -> Iterator[Callable[[], dict[Node, Key]]]:
    """Ways to group the nodes, from the most detailed on; each is worked out only when asked for."""
    deepest = max((_depth(n.scope) for n in sketch.nodes), default=0)
    start = deepest if depth is None else min(depth, deepest)
    if depth is None:
        yield lambda: dict.fromkeys(sketch.nodes) | {n: ("node", n.serial) for n in sketch.nodes}
    runs = _repeats(sketch)
    for level in range(start, 0, -1):
        yield lambda level=level: {n: _scope_key(sketch, n, runs, level, expand) for n in sketch.nodes}  # type: ignore[misc]
    coarse = {n: _scope_key(sketch, n, runs, 1, expand) for n in sketch.nodes}
    yield lambda: _periodic(sketch, coarse)
    yield lambda: _chunked(_periodic(sketch, coarse), sketch, budget)


def _depth(scope: str) -> int:
    return scope.count("/") + 1 if scope else 0


def _scope_key(sketch: Sketch, node: Node, runs: dict[str, str], level: int, expand: tuple[str, ...]) -> Key:
    """The box of a node when scopes deeper than `level` are collapsed and repeats are rolled up."""
    if node.op.kind in LEAVES and node.op.kind != "variable":
        return ("node", node.serial)
    scope = node.scope
    if any(scope == e or scope.startswith(f"{e}/") for e in expand):
        return ("node", node.serial)
    parts = scope.split("/") if scope else []
    for k in range(1, len(parts) + 1):
        prefix = "/".join(parts[:k])
        if prefix in runs:
            return ("scope", sketch.roles[node], runs[prefix])
    if len(parts) >= level:
        return ("scope", sketch.roles[node], "/".join(parts[:level]))
    return ("node", node.serial)


# --- repeats


def _repeats(sketch: Sketch) -> dict[str, str]:
    """Runs of consecutive sibling scopes with isomorphic contents: each scope to the title of its run."""
    contents: dict[str, list[Node]] = {}
    for node in sketch.nodes:
        if sketch.roles[node] == "forward" and node.op.kind not in LEAVES:
            parts = node.scope.split("/") if node.scope else []
            for k in range(1, len(parts) + 1):
                contents.setdefault("/".join(parts[:k]), []).append(node)
    siblings: dict[str, list[str]] = {}
    for scope in contents:
        siblings.setdefault(scope.rpartition("/")[0], []).append(scope)
    found: dict[str, str] = {}
    for parent, scopes in siblings.items():
        if any(parent == s or parent.startswith(f"{s}/") for s in found):
            continue
        for run in _runs(sketch, scopes, contents):
            first, last = run[0], run[-1].rpartition("/")[2]
            found.update(dict.fromkeys(run, f"{first} … {last}  × {len(run)}"))
    return found


def _runs(sketch: Sketch, scopes: Sequence[str], contents: dict[str, list[Node]]) -> Iterator[list[str]]:
    """Maximal runs of two or more scopes, each isomorphic to the one before it."""
    run: list[str] = []
    for scope in scopes:
        if run and _isomorphic(sketch, contents[run[-1]], contents[scope]):
            run.append(scope)
            continue
        if len(run) > 1:
            yield run
        run = [scope]
    if len(run) > 1:
        yield run


def _isomorphic(sketch: Sketch, a: Sequence[Node], b: Sequence[Node]) -> bool:
    """Whether two sets of nodes compute the same function of their inputs, by op, type and connections."""
    import networkx

    if len(a) < 2 or Counter(map(_kind_of, a)) != Counter(map(_kind_of, b)):
        return False
    first, second = (_subgraph(sketch, nodes) for nodes in (a, b))
    return bool(networkx.is_isomorphic(first, second, node_match=lambda x, y: x["kind"] == y["kind"]))


def _subgraph(sketch: Sketch, nodes: Sequence[Node]) -> Any:
    import networkx

    graph, inside = networkx.MultiDiGraph(), set(nodes)
    graph.add_nodes_from((n, {"kind": _kind_of(n)}) for n in nodes)
    graph.add_edges_from((s, n) for n in nodes for _, s in sketch.inputs[n] if s in inside)
    return graph


def _kind_of(node: Node) -> tuple[Any, ...]:
    return (node.op, str(node.type), *[(k, str(v)) for k, v in node.attrs.items()])


# --- what has no scopes


def _periodic(sketch: Sketch, keys: dict[Node, Key]) -> dict[Node, Key]:
    """`keys`, with repetitions in the sequence of single nodes (an unrolled loop) grouped into one box each."""
    single = [n for n in sketch.nodes if keys[n] == ("node", n.serial) and n.op.kind not in LEAVES]
    position = {n: k for k, n in enumerate(single)}
    names: dict[Any, int] = {}

    def label(k: int, node: Node) -> int:
        near = [k - position[s] for _, s in sketch.inputs[node] if s in position]
        shape = (node.op, node.type, tuple(d if d <= MAX_PERIOD else 0 for d in near))
        return names.setdefault(shape, len(names))

    labels = np.array([label(k, node) for k, node in enumerate(single)])
    grouped = dict(keys)
    for start, stop, period in _repetitions(labels):
        key = ("period", sketch.roles[single[start]], single[start].serial, (stop - start) // period)
        grouped.update(dict.fromkeys(single[start:stop], key))
    return grouped


def _repetitions(labels: Any) -> Iterator[tuple[int, int, int]]:
    """Stretches `(start, stop, period)` of `labels` that repeat at least four times, longest first, disjoint."""
    open_ranges = [(0, len(labels))]
    while open_ranges:
        low, high = open_ranges.pop()
        best = (0, 0, 0, 0)
        for period in range(1, min(MAX_PERIOD, (high - low) // 4) + 1):
            same = labels[low : high - period] == labels[low + period : high]
            breaks = np.flatnonzero(np.concatenate(([True], ~same, [True])))
            widths = np.diff(breaks) - 1
            at = int(np.argmax(widths))
            count = (int(widths[at]) + period) // period
            if count >= 4 and count * period > best[0]:
                best = (count * period, low + int(breaks[at]), count, period)
        covered, start, _, period = best
        if covered:
            yield start, start + covered, period
            open_ranges += [(low, start), (start + covered, high)]


def _chunked(keys: dict[Node, Key], sketch: Sketch, budget: int) -> dict[Node, Key]:
    """At most `budget` boxes: neighbours in the order of creation share one."""
    order = list(dict.fromkeys(keys.values()))
    size = -(-len(order) // max(budget - len(ROLES), 1))
    chunk = {key: k // size for k, key in enumerate(order)}
    return {n: ("chunk", sketch.roles[n], chunk[key]) for n, key in keys.items()}


# --------------------------------------------------------------------------------------------- boxes and edges


def _drawn(sketch: Sketch, keys: dict[Node, Key]) -> Picture:
    members: dict[Key, list[Node]] = {}
    for node in sketch.nodes:
        members.setdefault(keys[node], []).append(node)
    index = {key: k for k, key in enumerate(members)}
    boxes = [_box(sketch, key, nodes) for key, nodes in members.items()]
    flows: dict[tuple[int, int], list[str]] = {}
    for node in sketch.nodes:
        for operand, source in sketch.inputs[node]:
            ends = (index[keys[source]], index[keys[node]])
            if ends[0] != ends[1]:
                flows.setdefault(ends, []).append(str(operand.type))
    for name, node in sketch.roots:
        boxes.append(Box((name,), "output", sketch.roles[node]))
        flows[index[keys[node]], len(boxes) - 1] = [str(node.type)]
    edges = [Edge(a, b, _edge_label(labels)) for (a, b), labels in flows.items()]
    return Picture(tuple(boxes), tuple(edges), _notes(sketch, len(members)))


def _edge_label(labels: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(labels))
    return kinds[0] if len(kinds) == 1 else f"{kinds[0]} and {len(kinds) - 1} more"


def _box(sketch: Sketch, key: Any, nodes: Sequence[Node]) -> Box:
    role = sketch.roles[nodes[0]]
    if key[0] == "node":
        (node,) = nodes
        form = node.op.kind if node.op.kind in LEAVES else "op"
        return Box(_lines(node), form, role, node.scope)
    counts = Counter(node.op.name for node in nodes)
    common = ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in counts.most_common(3))
    more = ", …" if len(counts) > 3 else ""
    title = key[2] if key[0] == "scope" else f"repeated × {key[3]:,}" if key[0] == "period" else "in sequence"
    size = f"{len(nodes):,} node{'s' if len(nodes) > 1 else ''}: {common}{more}"
    scope = key[2].rpartition("/")[0] if key[0] == "scope" else ""
    return Box((str(title), size), "group", role, scope)


def _lines(node: Node) -> tuple[str, ...]:
    if node.op.kind in LEAVES:
        return (node.display_name, str(node.type))
    operands = [_constant_text(i) for i in node.inputs]
    title = node.op.name
    if any(operands) and len(operands) > 1:
        title += f"({', '.join(text or '·' for text in operands)})"
    attrs = ", ".join(f"{k}={_plain(v)}" for k, v in node.attrs.items() if k != "shape" and not callable(v))
    return (title, attrs) if attrs and len(attrs) <= 60 else (title,)


def _constant_text(node: Node) -> str:
    """A constant operand as the label shows it; empty for anything else."""
    if not _is_constant(node):
        return ""
    value = splat_value(node)
    return (
        f"{value:.6g}" if isinstance(value, np.floating) else str(value) if value is not None else f"const {node.type}"
    )


def _plain(value: Any) -> str:
    return f"({', '.join(map(_plain, value))})" if isinstance(value, tuple) else str(value)


def _notes(sketch: Sketch, boxes: int) -> tuple[str, ...]:
    total = f"{len(sketch.all):,} nodes in {boxes:,} boxes"
    folded = {"constants": sketch.constants, "casts, broadcasts and other glue": sketch.glue}
    hidden = [f"{count:,} {what}" for what, count in folded.items() if count]
    return (total, f"not shown: {', '.join(hidden)}") if hidden else (total,)
