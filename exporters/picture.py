"""From a graph of any size to a picture that one can read: boxes and edges, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphc.errors import ArgumentError, did_you_mean
from graphc.exporters import labels
from graphc.exporters.folding import MIN_BOXES, Folding, Group, Key, foldings
from graphc.exporters.sketch import LEAVES, Result, Sketch
from graphc.ir import Node

MAX_BOXES = 150
MAX_RESULTS = 4  # lines of a box that names results


@dataclass(frozen=True)
class Box:
    """One thing drawn: an op, a leaf, a group of nodes, or the names of results.

    Attributes:
        lines: the label, from the title down.
        form: "op", "group", "output" or one of `LEAVES`.
        role: "forward", "gradient" or "update".
        frame: the title of the frame that it stands in; empty for none.
        tip: what is shown when the mouse rests on it, in lines.
    """

    lines: tuple[str, ...]
    form: str
    role: str
    frame: str = ""
    tip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edge:
    """Data that flows from one box to another; indices into `Picture.boxes`.

    Attributes:
        back: it leads to the next repetition of what is drawn once.
    """

    source: int
    target: int
    label: str
    back: bool = False


@dataclass(frozen=True)
class Picture:
    """What is drawn, and what was folded away to make it readable."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    notes: tuple[str, ...] = field(default=())


def compose(
    roots: Sequence[tuple[str, Node]],
    *,
    max_boxes: int = MAX_BOXES,
    depth: int | None = None,
    expand: Iterable[str] = (),
) -> Picture:
    """The picture of what computes `roots`, which are named.

    Args:
        max_boxes: fold until there are at most so many boxes, 6 or more.
        depth: show scopes no deeper than this, whatever fits.
        expand: scopes that are shown in full, however deep they are, as long as there is room.

    Raises:
        ArgumentError: too few boxes for any graph, a depth below 1, or a scope that isn't there.
    """
    if max_boxes < MIN_BOXES:
        raise ArgumentError(f"{max_boxes} boxes are too few for a picture", hint=f"allow {MIN_BOXES} or more")
    if depth is not None and depth < 1:
        raise ArgumentError(f"depth={depth} shows nothing", hint="depth=1 shows the outermost scopes")
    sketch = Sketch(roots)
    opened = frozenset(expand)
    known = {scope for path in sketch.paths.values() for scope in path}
    wrong = [f"{scope!r}{did_you_mean(scope, known)}" for scope in sorted(opened - known)]
    if wrong:
        raise ArgumentError(f"nothing that is drawn is in a scope called {' or '.join(wrong)}")
    for folding in foldings(sketch, depth, opened, max_boxes):  # the last one fits
        if folding.boxes(sketch) <= max_boxes:
            break
    return _drawn(sketch, folding)


def _drawn(sketch: Sketch, folding: Folding) -> Picture:
    keys = folding.keys
    members: dict[Key, list[Node]] = {}
    for node in sketch.nodes:
        members.setdefault(keys[node], []).append(node)
    index = {key: k for k, key in enumerate(members)}
    boxes = [_box(sketch, key, nodes, folding.frames.get(key, "")) for key, nodes in members.items()]
    flows: dict[tuple[int, int, bool], list[str]] = {}
    for node in sketch.nodes:
        for operand, source in sketch.inputs[node]:
            ends = (index[keys[source]], index[keys[node]])
            back = keys[node] in folding.frames and ends[0] >= ends[1]
            if ends[0] != ends[1] or back:
                flows.setdefault((*ends, back), []).append(labels.type_text(operand))
    for key, results in _results(sketch, keys).items():
        flows[index[key], len(boxes), False] = [labels.type_text(result.tensor) for result in results]
        names = labels.counted([result.name for result in results], MAX_RESULTS)
        boxes.append(Box(names, "output", sketch.roles[results[0].tensor]))
    edges = [Edge(a, b, _edge_label(boxes[a], kinds), back) for (a, b, back), kinds in flows.items()]
    return Picture(tuple(boxes), tuple(edges), _notes(sketch, len(members)))


def _results(sketch: Sketch, keys: Mapping[Node, Key]) -> dict[Key, list[Result]]:
    """What was asked for by the box that it comes out of."""
    found: dict[Key, list[Result]] = {}
    for result in sketch.results:
        found.setdefault(keys[result.source], []).append(result)
    return found


def _edge_label(source: Box, types: Sequence[str]) -> str:
    """What flows; nothing where the box that it comes from says it already."""
    kinds = list(dict.fromkeys(types))
    if source.form in LEAVES and kinds == [source.lines[-1]]:
        return ""
    return kinds[0] if len(kinds) == 1 else f"{kinds[0]} and {len(kinds) - 1} more"


def _box(sketch: Sketch, key: Key, nodes: Sequence[Node], frame: str) -> Box:
    role = sketch.roles[nodes[0]]
    if not isinstance(key, Group):
        form = key.op.kind if key.op.kind in LEAVES else "op"
        return Box(labels.lines(key), form, role, frame, labels.tip(key))
    counts = Counter(node.op.name for node in nodes)
    common = ", ".join(f"{name} ×{count:,}" if count > 1 else name for name, count in counts.most_common(3))
    more = ", …" if len(counts) > 3 else ""
    title = key.title if role == "forward" or set(counts) == {"variable"} else f"{role} of {key.title}"
    title = title if key.title else f"all {role}s"
    return Box((labels.shortened(title, labels.MAX_NAME), f"{len(nodes):,} nodes: {common}{more}"), "group", role)


def _notes(sketch: Sketch, boxes: int) -> tuple[str, ...]:
    total = f"{len(sketch.all):,} node{'s' if len(sketch.all) > 1 else ''}"
    if len(sketch.nodes) > boxes:
        total += f" in {boxes:,} boxes"
    folded = {"constants": sketch.constants, "casts, broadcasts and other glue": sketch.glue}
    hidden = [f"{count:,} {what}" for what, count in folded.items() if count]
    return (total, f"not shown: {', '.join(hidden)}") if hidden else (total,)
