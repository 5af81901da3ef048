"""Pictures as DOT text and `graphviz.Digraph`. Text from users never reaches DOT unescaped."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from graphc.exporters.images import svg_of
from graphc.exporters.picture import Box, Picture
from graphc.exporters.sketch import ROLES

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
FONT = '"Helvetica,sans-serif"'
MEANINGS = {
    "forward": "computes a value",
    "gradient": "computes a gradient",
    "update": "updates a variable",
    "placeholder": "fed",
    "variable": "variable",
    "random": "random draw",
    "group": "several nodes",
}


def quoted(text: str) -> str:
    """`text` as a DOT string that shows it literally, whatever it contains."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _label(lines: tuple[str, ...]) -> str:
    return '"' + "\\n".join(quoted(line)[1:-1] for line in lines) + '"'


def body(picture: Picture) -> Iterator[str]:
    """The statements of the DOT graph, a line each."""
    notes = _label(picture.notes)
    yield f"\tgraph [rankdir=TB nodesep=0.25 ranksep=0.35 fontname={FONT} fontsize=10 labelloc=b label={notes}]\n"
    yield f'\tnode [fontname={FONT} fontsize=11 style=filled penwidth=1.1 margin="0.12,0.06"]\n'
    yield f'\tedge [fontname={FONT} fontsize=8 fontcolor="#555555" color="#777777" arrowsize=0.6]\n'
    frames: dict[str, list[str]] = {}
    for k, box in enumerate(picture.boxes):
        frames.setdefault(box.frame, []).append(f"\tn{k} [label={_label(box.lines)} {_style(box.form, box.role)}]\n")
    yield from frames.pop("", [])
    for k, (title, inside) in enumerate(frames.items()):
        yield f"\tsubgraph cluster_{k} {{\n"
        yield f'\t\tlabel={quoted(title)} labelloc=t color="{LINES["forward"]}" style="rounded,dashed"\n'
        yield from inside
        yield "\t}\n"
    for edge in picture.edges:
        back = " style=dashed constraint=false" if edge.back else ""
        yield f"\tn{edge.source} -> n{edge.target} [label={quoted(edge.label)}{back}]\n"
    yield from _legend(picture)


def _style(form: str, role: str) -> str:
    shape = FORMS.get(form) or SHAPES[role]
    style = '"rounded,filled"' if shape == "box" else "filled"
    fill = "#ffffff" if form == "output" else FILLS[role]
    return f'shape={shape} style={style} fillcolor="{fill}" color="{LINES[role]}"'


def _legend(picture: Picture) -> Iterator[str]:
    """A sample of each role and form that occurs, stacked in a cluster."""
    present = [role for role in ROLES if any(box.role == role and box.form == "op" for box in picture.boxes)]
    forms = [form for form in FORMS if form in MEANINGS and any(box.form == form for box in picture.boxes)]
    samples = [Box((MEANINGS[role],), "op", role) for role in present]
    samples += [Box((MEANINGS[form],), form, "forward") for form in forms]
    yield '\tsubgraph cluster_legend {\n\t\tlabel="legend" fontsize=9 color="#bbbbbb" style=rounded\n'
    for k, box in enumerate(samples):
        yield f"\t\tlegend{k} [label={_label(box.lines)} {_style(box.form, box.role)} fontsize=9 height=0.3]\n"
    for k in range(len(samples) - 1):
        yield f"\t\tlegend{k} -> legend{k + 1} [style=invis]\n"
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
