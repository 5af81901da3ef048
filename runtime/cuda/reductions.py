"""Reductions in CUDA C: which of the prelude's joins each op is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from graphc.ir import Node
from graphc.op import Op
from graphc.operands import reduce_sum
from graphc.ops import reduce
from graphc.runtime.cuda.scalars import REGISTER
from graphc.runtime.strided import itemsize


class Reduction(NamedTuple):
    """How an op reduces.

    Attributes:
        join: the template that has the accumulator's type, how it starts, and how two become one.
        positions: whether an accumulator has the position of its element, too, which is the result.
    """

    join: str
    positions: bool = False


REDUCTIONS: Mapping[Op, Reduction] = {
    reduce_sum: Reduction("Sum"),
    reduce.reduce_prod: Reduction("Product"),
    reduce.reduce_max: Reduction("Greatest"),
    reduce.reduce_min: Reduction("Smallest"),
    reduce.reduce_any: Reduction("Any"),
    reduce.reduce_all: Reduction("All"),
    reduce.argmax_op: Reduction("GreatestPlace", positions=True),
    reduce.argmin_op: Reduction("SmallestPlace", positions=True),
}


def join_of(node: Node) -> str:
    """The class of the prelude that joins what a reduction takes."""
    return f"{REDUCTIONS[node.op].join}<{REGISTER[node.inputs[0].dtype]}>"


def has_positions(node: Node) -> bool:
    """Whether a reduction's accumulators have positions."""
    return REDUCTIONS[node.op].positions


def accumulator_bytes(node: Node) -> int:
    """Bytes of an accumulator, at most."""
    return 16 if has_positions(node) else max(4, itemsize(node.inputs[0].dtype))
