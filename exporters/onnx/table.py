"""The table: what each op is called in ONNX. An op without a line is decomposed, or named in `NOT_EXPRESSIBLE`."""

from __future__ import annotations

from graphc.composites import Composite
from graphc.exporters.onnx import layers, pointwise, structure
from graphc.exporters.onnx.line import Line
from graphc.ir import Node
from graphc.op import Op
from graphc.target import TargetInfo

TABLE: dict[Op, Line] = {**pointwise.LINES, **structure.LINES, **layers.LINES}

# Primitives that ONNX has no words for: why, and what to do instead.
NOT_EXPRESSIBLE: dict[Op, str] = {}


def line_for(node: Node, opset: int) -> Line | None:
    """The line that says `node` at `opset`; None where there is none, so that a composite is decomposed."""
    line = TABLE.get(node.op)
    if line is None or (isinstance(node.op, Composite) and (line.since > opset or not line.when(node))):
        return None
    return line


def onnx_target(opset: int) -> TargetInfo:
    """What the passes must know: the composites that are kept whole at `opset`."""
    whole = {op for op, line in TABLE.items() if isinstance(op, Composite) and line.since <= opset}
    return TargetInfo(name="onnx", whole=frozenset(whole))
