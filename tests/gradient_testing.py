"""What tests of gradients share: variables, values, and slopes by finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphc as gc


def variable(value: Any = (1.0, 2.0, 3.0), name: str = "w", dtype: str = "float64") -> gc.Variable:
    """A variable of 1, 2, 3, or of another value."""
    return gc.Variable(np.asarray(value, dtype), name=name)


def run(fetches: Any, feeds: Any = None) -> Any:
    """The values of `fetches`, computed without optimisation."""
    with gc.Session() as session:
        return session.run(fetches, feeds)


def grad(y: Any, x: gc.Node, **options: Any) -> Any:
    """The value of the gradient of y with respect to x."""
    return run(gc.gradients(y, [x], **options))[0]


def slope(y: gc.Node, x: gc.Node, at: Any, direction: Any, h: float = 1e-5) -> float:
    """The derivative of the sum of y along a direction of x, by central differences."""
    with gc.Session() as session:
        ahead, behind = (session.run(y, {x: at + sign * h * direction}).sum() for sign in (1, -1))
    return float(ahead - behind) / (2 * h)
