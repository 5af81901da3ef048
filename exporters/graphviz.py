"""Pictures as DOT text and `graphviz.Digraph`. Text from users never reaches DOT unescaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from graphc.exporters.images import svg_of
from graphc.exporters.picture import Picture

# Told apart by colour and by shape: fills are light tints of the colour-blind safe palette of Okabe and Ito.
FILLS = {"forward": "#d6e8f5", "gradient": "#fbe3c6", "update": "#d3ecdd"}
LINES = {"forward": "#0072b2", "gradient": "#b45f06", "update": "#007a5e"}
SHAPES = {"forward": "box", "gradient": "octagon", "update": "house"}
FORMS = {
    "placeholder": "ellipse",
    "variable": "cylinder",
    "random": "diamond",
    "parameter": "ellipse",
    "group": "box3d",
    "output": "plaintext",
}
FONT = "Helvetica"  # the layout has its metrics, and viewers have it or one as wide
# What the legend says of the boxes that occur, in its order.
MEANINGS = {
    ("placeholder", "forward"): "fed",
    ("variable", "forward"): "variable",
    ("variable", "gradient"): "variable of gradients",
    ("variable", "update"): "variable of updates",
    ("random", "forward"): "random draw",
    ("parameter", "forward"): "parameter",
    ("op", "forward"): "computes a value",
    ("op", "gradient"): "computes a gradient",
    ("op", "update"): "computes an update",
    ("group", "forward"): "several nodes",
    ("group", "gradient"): "several for gradients",
    ("group", "update"): "several for updates",
}


def escaped(text: str) -> str:
    """`text` as a part of a DOT string that shows it literally, whatever it contains."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return plain.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')


def quoted(*lines: str) -> str:
    """A DOT string of lines that are shown literally."""
    return '"' + "\\n".join(map(escaped, lines)) + '"'


def _tip(lines: Sequence[str]) -> str:
    """A DOT string for a tooltip, in which Graphviz resolves escapes twice."""
    return '"' + "\\n".join(escaped(line).replace("\\\\", 4 * "\\") for line in lines) + '"'


def body(picture: Picture) -> Iterator[str]:
    """The statements of the DOT graph, a line each."""
    notes = quoted(*picture.notes)
    yield f"\tgraph [rankdir=TB nodesep=0.25 ranksep=0.35 fontname={FONT} fontsize=10 labelloc=b label={notes}]\n"
    yield f'\tnode [fontname={FONT} fontsize=11 style=filled penwidth=1.1 margin="0.12,0.06"]\n'
    yield f'\tedge [fontname={FONT} fontsize=8 fontcolor="#555555" color="#777777" arrowsize=0.6]\n'
    yield from _legend(picture)
    frames: dict[str, list[str]] = {}
    for k, box in enumerate(picture.boxes):
        tip = f" tooltip={_tip(box.tip)}" if box.tip else ""
        statement = f"\tn{k} [label={quoted(*box.lines)} {_style(box.form, box.role)}{tip}]\n"
        frames.setdefault(box.frame, []).append(statement)
    yield from frames.pop("", [])
    for k, (title, inside) in enumerate(frames.items()):
        yield f"\tsubgraph cluster_{k} {{\n"
        yield f'\t\tlabel={quoted(title)} labelloc=t color="{LINES["forward"]}" style="rounded,dashed"\n'
        yield from inside
        yield "\t}\n"
    for edge in picture.edges:
        style = "style=dashed constraint=false" if edge.back else "weight=4"  # the main line goes straight down
        if picture.boxes[edge.source].form == "variable":
            style = "weight=1"
        label = f" label={quoted(' ' + edge.label)}" if edge.label else ""  # the space keeps it off the line
        yield f"\tn{edge.source} -> n{edge.target} [{style}{label}]\n"


def _style(form: str, role: str) -> str:
    shape = FORMS.get(form) or SHAPES[role]
    style = '"rounded,filled"' if shape == "box" else "filled"
    fill = "#ffffff" if form == "output" else FILLS[role]
    return f'shape={shape} style={style} fillcolor="{fill}" color="{LINES[role]}"'


def _legend(picture: Picture) -> Iterator[str]:
    """A sample of each kind of box that occurs, side by side in a cluster."""
    present = {(box.form, box.role) for box in picture.boxes}
    yield '\tsubgraph cluster_legend {\n\t\tlabel="legend" labelloc=t fontsize=9 color="#bbbbbb" style=rounded\n'
    for k, (form, role) in enumerate(kind for kind in MEANINGS if kind in present):
        label = quoted(MEANINGS[form, role])
        yield f"\t\tlegend{k} [label={label} {_style(form, role)} fontsize=9 height=0.3]\n"
    yield "\t}\n"


def dot(picture: Picture) -> str:
    """The picture as a DOT document."""
    return "digraph {\n" + "".join(body(picture)) + "}\n"


def digraph(picture: Picture) -> Any:
    """The picture as a `graphviz.Digraph`, which notebooks show even where no `dot` program is installed."""
    return _digraph_class()(body=list(body(picture)))


@cache
def _digraph_class() -> Any:
    import graphviz

    class Drawing(graphviz.Digraph):  # type: ignore[misc]
        """A `graphviz.Digraph` that finds a way to be shown on a bare machine."""

        def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **_: Any) -> dict[str, str]:
            return {"image/svg+xml": svg_of(self.source)}

    return Drawing
