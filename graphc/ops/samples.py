"""Operands for the generated tests of ops: odd, 0-d, empty and broadcast shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.op import Array, Sample, Samples

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (), (0, 3), (1, 1, 2))

PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((3, 5), (3, 5)),
    ((3, 1), (1, 5)),
    ((), (4,)),
    ((2, 1, 3), (5, 1)),
    ((0, 3), (1, 3)),
    ((), ()),
)


def reals(low: float, high: float, **attrs: Any) -> Samples:
    """Samples of one operand, uniform in [low, high)."""
    return lambda rng: [Sample((rng.uniform(low, high, shape),), attrs) for shape in SHAPES]


def pairs(first: tuple[float, float], second: tuple[float, float] | None = None) -> Samples:
    """Samples of two operands, some broadcast against each other, each uniform in its interval [low, high)."""
    other = second or first
    return lambda rng: [Sample((rng.uniform(*first, a), rng.uniform(*other, b))) for a, b in PAIRS]


def masks(count: int) -> Samples:
    """Samples of `count` bool operands of one shape."""
    return lambda rng: [Sample(tuple([np.asarray(rng.random(shape) < 0.5) for _ in range(count)])) for shape in SHAPES]


def away_from(kinks: Callable[[Array], Any], samples: Samples, gap: float = 0.05) -> Samples:
    """`samples`, with values nearer than `gap` to a kink moved away from it, so that finite differences hold."""

    def moved(rng: np.random.Generator) -> list[Sample]:
        out = []
        for sample in samples(rng):
            args = [np.where(np.abs(a - kinks(a)) < gap, kinks(a) + 2 * gap, a) for a in sample.args]
            out.append(Sample(tuple(args), sample.attrs, sample.differentiable))
        return out

    return moved


def also(samples: Samples, *more: Sample) -> Samples:
    """`samples`, and fixed ones at points where a finite difference means nothing."""
    return lambda rng: [*samples(rng), *[Sample(s.args, s.attrs, differentiable=False) for s in more]]
