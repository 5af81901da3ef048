"""From a graph of any size to a picture that one can read: boxes and edges, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.exporters.folding import Folding, foldings
from graphc.exporters.sketch import LEAVES, Sketch, is_constant
from graphc.ir import Node
from graphc.operands import splat_value

MAX_BOXES = 150


@dataclass(frozen=True)
class Box:
    """One thing drawn: an op, a leaf, or a group of nodes.

    Attributes:
        lines: the label, from the title down.
        form: "op", "group", "output" or one of `LEAVES`.
        role: "forward", "gradient" or "update".
        frame: the title of the frame that it stands in; empty for none.
    """

    lines: tuple[str, ...]
    form: str
    role: str
    frame: str = ""


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
    folding = Folding({})
    for folding in foldings(sketch, depth, tuple(expand), budget):
        if len(folding) <= budget:
            break
    return _drawn(sketch, folding)


def _drawn(sketch: Sketch, folding: Folding) -> Picture:
    keys = folding.keys
    members: dict[Any, list[Node]] = {}
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
                flows.setdefault((*ends, back), []).append(str(operand.type))
    for name, node in sketch.roots:
        boxes.append(Box((name,), "output", sketch.roles[node]))
        flows[index[keys[node]], len(boxes) - 1, False] = [str(node.type)]
    edges = [Edge(a, b, _edge_label(labels), back) for (a, b, back), labels in flows.items()]
    return Picture(tuple(boxes), tuple(edges), _notes(sketch, len(members)))


def _edge_label(labels: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(labels))
    return kinds[0] if len(kinds) == 1 else f"{kinds[0]} and {len(kinds) - 1} more"


def _box(sketch: Sketch, key: Any, nodes: Sequence[Node], frame: str) -> Box:
    role = sketch.roles[nodes[0]]
    if key[0] == "node":
        form = nodes[0].op.kind if nodes[0].op.kind in LEAVES else "op"
        return Box(_lines(nodes[0]), form, role, frame)
    counts = Counter(node.op.name for node in nodes)
    common = ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in counts.most_common(3))
    more = ", …" if len(counts) > 3 else ""
    title = str(key[2]) if key[0] == "scope" else f"repeated × {key[3]:,}" if key[0] == "period" else "in sequence"
    title = title if role == "forward" else f"{role} of {title}"
    size = f"{len(nodes):,} node{'s' if len(nodes) > 1 else ''}: {common}{more}"
    return Box((title, size), "group", role)


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
    if not is_constant(node):
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
