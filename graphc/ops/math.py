"""Pointwise arithmetic, elementary functions, comparisons and logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.op import Sample, Samples
from graphc.operands import pointwise

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (), (0, 3), (1, 1, 2))


def reals(low: float, high: float, count: int = 1) -> Samples:
    """Samples of `count` operands of one shape, uniform in [low, high): odd, 0-d and empty shapes."""
    return lambda rng: [Sample(tuple(rng.uniform(low, high, shape) for _ in range(count))) for shape in SHAPES]


def pairs(low: float, high: float) -> Samples:
    """Samples of two operands, some broadcast against each other."""

    def samples(rng: np.random.Generator) -> list[Sample]:
        shapes = [((3, 5), (3, 5)), ((3, 1), (1, 5)), ((), (4,)), ((2, 1, 3), (5, 1)), ((0, 3), (1, 3)), ((), ())]
        return [Sample((rng.uniform(low, high, a), rng.uniform(low, high, b))) for a, b in shapes]

    return samples


def away_from(points: Callable[[np.ndarray[Any, Any]], Any], samples: Samples, gap: float = 0.05) -> Samples:
    """`samples`, with values nearer than `gap` to a kink moved away from it, so that finite differences hold."""

    def moved(rng: np.random.Generator) -> list[Sample]:
        out = []
        for sample in samples(rng):
            args = [np.where(np.abs(a - points(a)) < gap, points(a) + 2 * gap, a) for a in sample.args]
            out.append(Sample(tuple(args), sample.attrs))
        return out

    return moved


# --- arithmetic

add = pointwise(
    "add", np.add, lambda g, y, a, b: (g, g), accepts="any", commutative=True, samples=pairs(-2, 2)
)  # fmt: skip
subtract = pointwise("subtract", np.subtract, lambda g, y, a, b: (g, -g), accepts="number", samples=pairs(-2, 2))
