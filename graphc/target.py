"""What passes may know of a target: a value, so that no pass imports one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from graphc.ir import Node
from graphc.op import Op
from graphc.ops import math

LIGHT = frozenset(
    {math.add, math.subtract, math.multiply, math.negative, math.abs, math.maximum, math.minimum, math.where}
    | {math.equal, math.not_equal, math.less, math.less_equal, math.greater, math.greater_equal}
    | {math.logical_and, math.logical_or, math.logical_xor, math.logical_not}
)
HEAVY: Mapping[Op, int] = MappingProxyType({math.tanh: 12, math.erf: 16})

Order = tuple[int, ...]  # the axes of an array as they lie in memory, outermost first


class Preference(NamedTuple):
    """The orders that a core likes; it takes row-major operands, too, and no others.

    Attributes:
        operands: of its operands, by number.
    """

    operands: Mapping[int, Order]
    result: Order | None


NO_PREFERENCE = Preference(MappingProxyType({}), None)


@dataclass(frozen=True)
class TargetInfo:
    """A target, as passes see it.

    Attributes:
        name: as in `Session(device=...)`.
        whole: the composites that it takes as they are; all others are decomposed.
        suits: of those, whether it takes one of such operands and attributes.
        fuses: whether it runs fused kernels; if not, every kernel computes one value.
        epilogues: kinds of kernels whose result pointwise ops may go on computing with before it is stored.
        prologues: kinds of kernels whose operands may be computed, point by point, while they are read.
        views: kinds of kernels whose operands may be strided views; those of others lie contiguous in a buffer.
        light: ops that cost no more than reading their result would, so that each kernel computes it for itself. They
            must give the same bits every time: none may be contracted with its neighbours (a fused multiply-add).
        heavy: ops that cost no more than reading a result from beyond the cache, each with the light ops that it costs.
            As the light ones they must give the same bits every time.
        max_live: values that a kernel keeps at a time, one vector register each.
        max_ops: ops in one kernel.
        max_reductions: reductions in one kernel.
        orders: what a core prefers of whose operands these (by number) are steady; asked for the kinds in `prepares`.
        prepares: kinds of kernels that keep from run to run what they derive from operands that stay the same.
        hosts: whether nodes may be left to the host (`gc.device`), which then has kernels of its own.
        row_bytes: bytes up to which a row may be read by several passes of one kernel (softmax); beyond, it would be
            read from memory each time. A symbolic size counts as 64.
    """

    name: str
    whole: frozenset[Op] = field(default=frozenset())
    suits: Callable[[Node], bool] = lambda node: True
    fuses: bool = True
    epilogues: frozenset[str] = frozenset({"contract", "conv", "window"})
    prologues: frozenset[str] = frozenset({"concat"})
    views: frozenset[str] = frozenset({"contract"})
    prepares: frozenset[str] = frozenset()
    orders: Callable[[Node, frozenset[int]], Preference] | None = None
    light: frozenset[Op] = LIGHT
    heavy: Mapping[Op, int] = field(default_factory=lambda: HEAVY)
    max_live: int = 24
    max_ops: int = 96
    max_reductions: int = 5
    hosts: bool = False
    row_bytes: int = 1 << 18

    def takes(self, node: Node) -> bool:
        """Whether a composite is left as it is."""
        return node.op in self.whole and self.suits(node)
