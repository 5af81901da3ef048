"""Ways to group the nodes of a picture into fewer boxes, from the most detailed on.

Repeats first: consecutive sibling scopes whose contents are isomorphic are drawn once, in a frame titled `× 8`. Then
scopes collapse, from the innermost out. What has no scopes is searched for repetitions, and the rest is cut into
stretches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.exporters.sketch import LEAVES, ROLES, Sketch
from graphc.ir import Node

MAX_PERIOD = 64  # nodes in one repetition of a chain without scopes
MAX_MATCHED = 200  # nodes of a scope up to which isomorphism is searched for, beyond the order of creation

Key = Hashable


@dataclass(frozen=True)
class Folding:
    """Which box each node is in, and which boxes stand in a frame.

    Attributes:
        keys: the box of each node: `("node", serial)` for one of its own, else a group.
        frames: the title of the frame that a box stands in.
    """

    keys: dict[Node, Key]
    frames: Mapping[Key, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(set(self.keys.values()))


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


def foldings(sketch: Sketch, depth: int | None, expand: tuple[str, ...], budget: int) -> Iterator[Folding]:
    """Ways to group the nodes, each coarser than the one before; the last has at most `budget` boxes."""
    single: dict[Node, Key] = {n: ("node", n.serial) for n in sketch.nodes}
    deepest = max((_depth(n.scope) for n in sketch.nodes), default=0)
    if depth is None:
        yield Folding(single)
    runs = _repeats(sketch)
    if depth is None and runs:
        yield _drawn_once(sketch, runs)
    rolled = {scope: run.title for run in runs for scope in run.scopes}
    for level in range(deepest if depth is None else min(depth, deepest), 0, -1):
        yield Folding({n: _scope_key(sketch, n, rolled, level, expand) for n in sketch.nodes})
    coarse = {n: _scope_key(sketch, n, rolled, 1, expand) for n in sketch.nodes}
    periodic = _periodic(sketch, coarse)
    yield Folding(periodic)
    yield Folding(_chunked(periodic, sketch, budget))


def _depth(scope: str) -> int:
    return scope.count("/") + 1 if scope else 0


def _prefixes(scope: str) -> list[str]:
    parts = scope.split("/") if scope else []
    return ["/".join(parts[:k]) for k in range(1, len(parts) + 1)]


def _scope_key(sketch: Sketch, node: Node, rolled: Mapping[str, str], level: int, expand: tuple[str, ...]) -> Key:
    """The box of a node when scopes deeper than `level` are collapsed and repeats are rolled up."""
    if node.op.kind in LEAVES and node.op.kind != "variable":
        return ("node", node.serial)
    prefixes = _prefixes(node.scope)
    if any(prefix in expand for prefix in prefixes):
        return ("node", node.serial)
    run = next((rolled[prefix] for prefix in prefixes if prefix in rolled), None)
    if run is not None:
        return ("scope", sketch.roles[node], run)
    return ("scope", sketch.roles[node], prefixes[level - 1]) if len(prefixes) >= level else ("node", node.serial)


# --------------------------------------------------------------------------------------------- repeats


def _drawn_once(sketch: Sketch, runs: Sequence[Run]) -> Folding:
    """Every repeat drawn once, in a frame; gradients and updates of its scopes are one box each."""
    keys: dict[Node, Key] = {}
    frames: dict[Key, str] = {}
    twins = {node: twin for run in runs for node, twin in run.twins.items()}
    titles = {scope: run.title for run in runs for scope in run.scopes}
    for node in sketch.nodes:
        title = next((titles[p] for p in _prefixes(node.scope) if p in titles), None)
        if node in twins:
            keys[node] = ("node", twins[node].serial)
            frames[keys[node]] = str(title)
        else:
            keys[node] = ("node", node.serial) if title is None else ("scope", sketch.roles[node], title)
    return Folding(keys, frames)


def _repeats(sketch: Sketch) -> list[Run]:
    """The outermost runs of consecutive sibling scopes with isomorphic contents."""
    contents: dict[str, list[Node]] = {}
    for node in sketch.nodes:
        if sketch.roles[node] == "forward" and (node.op.kind == "variable" or node.op.kind not in LEAVES):
            for prefix in _prefixes(node.scope):
                contents.setdefault(prefix, []).append(node)
    siblings: dict[str, list[str]] = {}
    for scope in contents:
        siblings.setdefault(scope.rpartition("/")[0], []).append(scope)
    found: list[Run] = []
    inside: set[str] = set()
    for parent in sorted(siblings, key=_depth):
        if inside.isdisjoint(_prefixes(parent)):
            runs = list(_runs(sketch, siblings[parent], contents))
            found += runs
            inside.update(scope for run in runs for scope in run.scopes)
    return found


def _runs(sketch: Sketch, scopes: Sequence[str], contents: Mapping[str, list[Node]]) -> Iterator[Run]:
    """Maximal runs of two or more scopes that are isomorphic to the first of them."""
    at = 0
    while at < len(scopes):
        first = contents[scopes[at]]
        twins = {node: node for node in first}
        stop = at + 1
        while stop < len(scopes) and (match := _isomorphism(sketch, contents[scopes[stop]], first)) is not None:
            twins.update(match)
            stop += 1
        if stop - at > 1:
            last = scopes[stop - 1].rpartition("/")[2]
            yield Run(f"{scopes[at]} … {last}  × {stop - at}", tuple(scopes[at:stop]), twins)
        at = stop


def _isomorphism(sketch: Sketch, nodes: Sequence[Node], pattern: Sequence[Node]) -> dict[Node, Node] | None:
    """A mapping from `nodes` to `pattern` that keeps ops, types and connections, or None.

    Repeats come from the same code, so the order of creation nearly always is one; networkx searches for others.
    """
    if len(pattern) < 2 or Counter(map(_kind_of, nodes)) != Counter(map(_kind_of, pattern)):
        return None
    import networkx

    first, second = _subgraph(sketch, nodes), _subgraph(sketch, pattern)
    in_order = dict(zip(nodes, pattern, strict=True))
    if all(_kind_of(a) == _kind_of(b) for a, b in in_order.items()):
        moved = Counter((in_order[a], in_order[b]) for a, b in first.edges())
        if moved == Counter(second.edges()):
            return in_order
    if len(pattern) > MAX_MATCHED:
        return None
    matcher = networkx.isomorphism.MultiDiGraphMatcher(first, second, lambda x, y: x["kind"] == y["kind"])
    return dict(matcher.mapping) if matcher.is_isomorphic() else None


def _subgraph(sketch: Sketch, nodes: Sequence[Node]) -> Any:
    import networkx

    graph, inside = networkx.MultiDiGraph(), set(nodes)
    graph.add_nodes_from((n, {"kind": _kind_of(n)}) for n in nodes)
    graph.add_edges_from((s, n) for n in nodes for _, s in sketch.inputs[n] if s in inside)
    return graph


def _kind_of(node: Node) -> tuple[Any, ...]:
    return (node.op, node.type, node.attrs.key)


# --------------------------------------------------------------------------------------------- what has no scopes


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
