"""`gc.render`: a graph as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphc.errors import ArgumentError, ExportError
from graphc.exporters import graphviz, images
from graphc.exporters.picture import MAX_BOXES, compose
from graphc.files import write_atomically
from graphc.ir import Node, Program
from graphc.ops.state import Updates
from graphc.passes.modes import resolve_mode
from graphc.source import here


def render(
    what: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    max_nodes: int = MAX_BOXES,
    depth: int | None = None,
    expand: Sequence[str] = (),
    training: bool | None = None,
) -> Any:
    """Draw what computes `what`.

    Args:
        what: tensors or updates, or a list or dict of them.
        path: a file ending in .dot, .svg, .png or .pdf; None returns the drawing instead.
        max_nodes: at most so many boxes: scopes are collapsed, repeats rolled up and constants folded to get there.
        depth: show scopes no deeper than this.
        expand: scopes to show in full.
        training: the mode; by default training if a training update is drawn.

    Returns:
        A `graphviz.Digraph` if `path` is None, else None.

    Raises:
        ArgumentError: an unknown format, or something that can't be drawn.
        MissingExtra: no program `dot`, and the packages of the extra `viz` aren't installed.
    """
    roots, updates = _named_roots(what)
    mode = any(update.training for update in updates) if training is None else training
    program = resolve_mode(Program((), tuple(roots.values())), training=mode)
    named = list(zip(roots, program.outputs, strict=False))
    picture = compose(named, max_boxes=max_nodes, depth=depth, expand=expand)
    if path is None:
        return graphviz.digraph(picture)
    target = Path(path)
    kind = target.suffix.lstrip(".").lower()
    known = ("dot", *images.FORMATS)
    if kind not in known:
        raise ArgumentError(f"can't draw {str(target)!r}: the name must end in .{', .'.join(known)}", lines=[here()])
    dot = graphviz.dot(picture)
    write_atomically(target, dot.encode() if kind == "dot" else images.image(dot, kind), ExportError)
    return None


def _named_roots(what: Any) -> tuple[dict[str, Node], list[Updates]]:
    """What to draw by the names to show, and the updates among it."""
    roots: dict[str, Node] = {}
    updates: list[Updates] = []
    pending: list[tuple[str, Any]] = [("", what)]
    while pending:
        name, item = pending.pop(0)
        match item:
            case Node():
                roots[name or item.display_name] = item
            case Updates():
                updates.append(item)
                roots.update((f"new {variable.name}", new) for variable, new in item.items())
            case Mapping():
                pending = [(str(key), value) for key, value in item.items()] + pending
            case list() | tuple():
                pending = [(name and f"{name}[{k}]", value) for k, value in enumerate(item)] + pending
            case _:
                raise ArgumentError(
                    f"can't draw {type(item).__name__} {item!r}"[:200],
                    hint="give tensors or updates, or a list or dict of them",
                    lines=[here()],
                )
    return roots, updates

