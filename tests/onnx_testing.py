"""What the tests of the ONNX export share: programs of single ops, and models run by ONNX Runtime or the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from op_testing import Call

from graphc.exporters.onnx.export import Exported, to_onnx
from graphc.exporters.onnx.model import check
from graphc.exporters.onnx.verify import run_all
from graphc.ir import Node, Program
from graphc.ops.state import Variable

Array = np.ndarray[Any, Any]

TOLERANCE = {"float64": 1e-9, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}  # of the largest element


def exported(outputs: Sequence[Node] | Node, inputs: Sequence[Node], **options: Any) -> Exported:
    """`outputs`, called y0, y1, ..., over `inputs` under their own names or x0, x1, ...; checked."""
    roots = (outputs,) if isinstance(outputs, Node) else tuple(outputs)
    program = Program(tuple(inputs), roots)
    variables = {node: node.initial for node in program.nodes() if isinstance(node, Variable) and node not in inputs}
    names = [f"x{k}" for k in range(len(inputs))]
    found = to_onnx(program, names, [f"y{k}" for k in range(len(roots))], variables, **options)
    check(found.model)
    return found


def of_call(made: Call, opset: int | None = None) -> Exported:
    """The model of an op that was applied to leaves."""
    return exported(made.results, list(made.feeds), opset=opset)


def run(found: Exported, *arrays: Any) -> list[Array]:
    """The model's outputs for these inputs."""
    feeds = {name: np.asarray(array) for name, array in zip(found.inputs, arrays, strict=True)}
    return run_all(found.model, [feeds])[2][0]


def kinds(found: Exported) -> list[str]:
    """The operators of the model, in order."""
    return [node.op_type for node in found.model.graph.node]


def stored(found: Exported) -> Mapping[str, Array]:
    """The values that are stored in the model."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in found.model.graph.initializer}


def agrees(theirs: Array, ours: Array, absolute: float | None = None) -> bool:
    """Whether a result is the one wanted: its type, and its elements up to rounding.

    Args:
        absolute: how far an element may be off beyond its own rounding; None allows that of the largest.
    """
    if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        return False
    if ours.dtype.kind in "iub":
        return bool(np.array_equal(theirs, ours))
    a, b = np.asarray(theirs, np.float64), np.asarray(ours, np.float64)
    tolerance = TOLERANCE[ours.dtype.name]
    if absolute is None:
        absolute = tolerance * float(np.abs(b[np.isfinite(b)]).max(initial=1))
    return bool(np.isclose(a, b, rtol=tolerance, atol=absolute, equal_nan=True).all())
