"""An own backward rule: clip the gradient where it passes, and leave the values alone.

    python examples/custom_gradient.py

`gc.custom_gradient` is what `torch.autograd.Function` is in PyTorch. The rule is written in ops, so gradients of
gradients work, and it is exported and drawn like anything else.
"""

from __future__ import annotations

import numpy as np

import graphc as gc


@gc.custom_gradient
def clip_gradient(x, *, limit=1.0):
    """`x`; its gradient is clipped to [-limit, limit]."""
    return x, lambda dy: gc.clip(dy, -limit, limit)


@gc.custom_gradient
def round_straight_through(x):
    """`round(x)` with the gradient of the identity: the straight-through estimator of quantised networks."""
    return gc.round(x), lambda dy: dy


def main() -> dict[str, np.ndarray]:
    """Print and return the gradients of three losses, each with and without the rule."""
    x = gc.placeholder("x", shape=(3,))
    losses = {
        "sum(x**3)": gc.sum(x**3),
        "sum(clip_gradient(x)**3)": gc.sum(clip_gradient(x) ** 3),
        "sum(clip_gradient(x, limit=5)**3)": gc.sum(clip_gradient(x, limit=5.0) ** 3),
        "sum(round_straight_through(x)**2)": gc.sum(round_straight_through(x) ** 2),
    }
    slopes = {name: gc.gradients(loss, [x])[0] for name, loss in losses.items()}
    curvature = gc.hessian(losses["sum(round_straight_through(x)**2)"], x)
    with gc.Session() as sess:
        found = sess.run({**slopes, "its Hessian": curvature}, {x: [0.2, 1.4, -2.6]})
    for name, value in found.items():
        print(f"{name:36s} {np.array2string(value, precision=3).replace(chr(10), '')}")
    return found


if __name__ == "__main__":
    main()
