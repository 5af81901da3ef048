"""The table: what each op is called in ONNX. An op without a line is decomposed, or named in `NOT_EXPRESSIBLE`."""

from __future__ import annotations

from graphc.composites import Composite
from graphc.exporters.onnx import layers, pointwise, structure
from graphc.exporters.onnx.line import Line
from graphc.ir import Node
from graphc.op import Op
from graphc.ops import state
from graphc.target import TargetInfo

TABLE: dict[Op, Line] = {**pointwise.LINES, **structure.LINES, **layers.LINES}

MODAL = "it depends on the mode, which is decided before a program is exported (resolve_mode)"

# Primitives that are never said, and why.
NOT_EXPRESSIBLE: dict[Op, str] = {state.by_mode: MODAL, state.tracked: MODAL}

# Kinds of ops that need no line: what stands for a value, and an item of several results.
GIVEN = frozenset({"parameter", "placeholder", "variable", "tuple"})


def line_for(node: Node, opset: int) -> Line | None:
    """The line that says `node` at `opset`; None where there is none, so that a composite is decomposed."""
    line = TABLE.get(node.op)
    if line is None or (isinstance(node.op, Composite) and (line.since > opset or not line.when(node))):
        return None
    return line


def lacks(op: Op) -> str | None:
    """What the export of `op` lacks; None if nothing, or if it can't be said for a reason that is written down."""
    if op in TABLE or op in NOT_EXPRESSIBLE or isinstance(op, Composite) or op.kind in GIVEN:
        return None
    return "it has neither a line in exporters/onnx nor a reason in NOT_EXPRESSIBLE, and is not composed of others"


def onnx_target(opset: int) -> TargetInfo:
    """What the passes must know: the composites that are kept whole at `opset`."""
    whole = {op for op, line in TABLE.items() if isinstance(op, Composite) and line.since <= opset}
    return TargetInfo(name="onnx", whole=frozenset(whole))
