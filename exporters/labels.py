"""What a picture writes on a node: short enough to read at a glance, however long names and shapes are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from graphc.exporters.sketch import LEAVES, is_constant
from graphc.ir import Node
from graphc.operands import splat_value

MAX_NAME = 40  # characters of a name, a title or a line of attributes
MAX_TYPE = 32  # characters of a type beside an edge
MAX_TIP = 200  # characters of a line that is shown when the mouse rests on a box

HIDDEN = frozenset({"shape", "value"})  # attributes that the type or the title shows already
# Attributes that hold a value for each axis: shown as one where all are equal, and not at all where it is this one.
PER_AXIS = {"kernel": None, "stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}
STANDARD = {"groups": 1}  # further values that go without saying, besides None, False and the op's own defaults


def shortened(text: str, limit: int) -> str:
    """`text`, its middle replaced by `…` where it is longer than `limit`: both ends of a path tell something."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def lines(node: Node) -> tuple[str, ...]:
    """The label of a node: name and type of a leaf, op and attributes of anything else."""
    if node.op.kind in LEAVES:
        return (shortened(node.display_name, MAX_NAME), type_text(node))
    operands = [_constant_text(i) for i in node.inputs]
    title = node.op.name
    if "value" in node.attrs:
        title += f" {node.attrs['value']}"
    elif any(operands) and len(operands) > 1:
        title += f"({', '.join(text or '·' for text in operands)})"
    found = (_attribute_text(node, name, value) for name, value in node.attrs.items())
    attrs = ", ".join(filter(None, found))
    return tuple([shortened(line, MAX_NAME) for line in (title, attrs) if line])


def type_text(node: Node) -> str:
    """The type of a node, short enough to stand beside an edge."""
    return shortened(str(node.type), MAX_TYPE)


def tip(node: Node) -> tuple[str, ...]:
    """What is shown when the mouse rests on the node: its full name and type, and the user's line."""
    site = node.occurrence.site
    shown = (f"{node.display_name}: {node.type}", str(site) if site else "")
    return tuple([shortened(line, MAX_TIP) for line in shown if line])


def counted(names: Iterable[str], limit: int) -> tuple[str, ...]:
    """The first of `names`, and how many more there are where they are more than `limit`."""
    listed = [shortened(name, MAX_NAME) for name in names]
    return tuple(listed) if len(listed) <= limit else (*listed[: limit - 1], f"and {len(listed) - limit + 1:,} more")


def _attribute_text(node: Node, name: str, value: Any) -> str:
    """`name=value`, or the empty string for what goes without saying."""
    if name in HIDDEN or value is None or value is False or callable(value):
        return ""
    if name in PER_AXIS:
        one = _common(value)
        value = value if one is None else one
    standard = (STANDARD.get(name), PER_AXIS.get(name), node.op.defaults.get(name))
    return "" if value in standard else f"{name}={_plain(value)}"


def _common(value: Any) -> Any:
    """The one value that all items of a nested tuple have, or None."""
    if not isinstance(value, tuple):
        return value
    found = {_common(item) for item in value}
    return found.pop() if len(found) == 1 else None


def _plain(value: Any) -> str:
    return f"({', '.join(map(_plain, value))})" if isinstance(value, tuple) else str(value)


def _constant_text(node: Node) -> str:
    """A constant operand as the label shows it; empty for anything else."""
    if not is_constant(node):
        return ""
    value = splat_value(node)
    if value is None:
        return f"constant {node.type}"
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)
