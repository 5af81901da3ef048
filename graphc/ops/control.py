"""Ops that hand their operand on, and say something about it to passes."""

from __future__ import annotations

from graphc.op import NoGradient
from graphc.operands import pointwise
from graphc.operators import METHODS
from graphc.ops.samples import reals

identity = pointwise(
    "identity",
    lambda x: x,
    lambda g, y, x: (g,),
    accepts="any",
    samples=reals(-2, 2),
    doc="x itself, as a node of its own.",
)

stop_gradient = pointwise(
    "stop_gradient",
    lambda x: x,
    NoGradient("stop_gradient cuts it"),
    accepts="any",
    samples=reals(-2, 2),
    doc="x, through which no gradient passes; also `x.detach()`.",
)

METHODS["detach"] = stop_gradient
