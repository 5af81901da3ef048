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
from graphc.ops.state import Updates, group
from graphc.passes.modes import resolve_mode


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
        what: tensors or updates, or a list or dict of them; of an eager tensor the tape.
        path: a file ending in .dot, .svg, .png or .pdf; None returns the drawing instead.
        max_nodes: at most so many boxes, 6 or more: scopes are collapsed, repeats rolled up and constants folded to
            get there.
        depth: show scopes no deeper than this.
        expand: scopes to show in full, as far as there is room.
        training: the mode; by default training if a training update is drawn.

    Returns:
        A `graphviz.Digraph` if `path` is None, else None.

    Raises:
        ArgumentError: an unknown format, something that can't be drawn, or a scope that isn't there.
        ExportError: the layout failed, or the file can't be written.
        MissingExtra: no program `dot`, and the packages of the extra `viz` aren't installed.
    """
    target = None if path is None else Path(path)
    kind = target.suffix.lstrip(".").lower() if target else ""
    known = ("dot", *images.FORMATS)
    if target and kind not in known:
        raise ArgumentError(f"can't draw {str(target)!r}: the name must end in .{', .'.join(known)}")
    picture = compose(_resolved(what, training), max_boxes=max_nodes, depth=depth, expand=expand)
    if target is None:
        return graphviz.digraph(picture)
    dot = graphviz.dot(picture)
    write_atomically(target, dot.encode() if kind == "dot" else images.image(dot, kind), ExportError)
    return None


def _resolved(what: Any, training: bool | None) -> list[tuple[str, Node]]:
    """What to draw by name, in one mode: with the losses that updates minimise, and in training the new statistics."""
    roots, updates = _named_roots(what)
    if not roots:
        raise ArgumentError("there is nothing to draw", hint="give tensors or updates")
    whole = group(*updates)
    known = {node for _, node in roots}
    roots += [("loss", loss) for loss in whole.losses if loss not in known]
    mode = whole.training if training is None else training
    names = [name for name, _ in roots]
    program = resolve_mode(Program((), tuple([node for _, node in roots])), training=mode)
    tracked = [(f"new {variable.display_name}", new) for variable, new in program.updates]
    return [*zip(names, program.outputs, strict=True), *tracked]


def _named_roots(what: Any) -> tuple[list[tuple[str, Node]], list[Updates]]:
    """What to draw with the names to show, and the updates among it."""
    roots: list[tuple[str, Node]] = []
    updates: list[Updates] = []
    pending: list[tuple[str, Any]] = [("", what)]
    while pending:
        name, item = pending.pop()
        match item:
            case Node():
                roots.append((name or item.display_name, item))
            case Updates():
                updates.append(item)
                roots += [(f"new {variable.name}", new) for variable, new in item.items()]
            case Mapping():
                pending += reversed([(str(key), value) for key, value in item.items()])
            case list() | tuple():
                pending += reversed([(name and f"{name}[{k}]", value) for k, value in enumerate(item)])
            case _ if hasattr(item, "__graphc_node__"):  # the tape of an eager tensor
                roots.append((name or "result", item.__graphc_node__()))
            case _:
                raise ArgumentError(
                    f"can't draw {type(item).__name__} {item!r}"[:200],
                    hint="give tensors or updates, or a list or dict of them",
                )
    return roots, updates
