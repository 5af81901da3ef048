"""What hand-written tests of ops share: the value of an expression, and its gradient at a point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.evaluate import evaluate
from graphc.ir import Graph, Node
from graphc.operands import constant
from graphc.ops.state import placeholder
from graphc.passes.gradients import gradients


def value(node: Node) -> np.ndarray[Any, Any]:
    """The value of a node that is built from constants."""
    return evaluate([node], {})[0]


def apply(function: Callable[..., Node], *arrays: Any) -> np.ndarray[Any, Any]:
    """The value of `function` of constants."""
    return value(function(*map(constant, arrays)))


def gradient(function: Callable[..., Node], *arrays: Any, order: int = 1) -> list[np.ndarray[Any, Any]]:
    """The derivatives of the sum of `function` in each operand, at `arrays`; of higher order, of their sum in turn."""
    points = [np.asarray(array, np.float64) for array in arrays]
    with Graph():
        leaves = [placeholder("x", point.shape, "float64") for point in points]
        found = [function(*leaves)]
        for _ in range(order):
            found = gradients(found, leaves, disconnected="zero")
        return evaluate(found, dict(zip(leaves, points, strict=True)))
