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


LOSSES = {
    "sum(x**3)": lambda x: gc.sum(x**3),
    "sum(clip_gradient(x)**3)": lambda x: gc.sum(clip_gradient(x) ** 3),
    "sum(clip_gradient(x, limit=5)**3)": lambda x: gc.sum(clip_gradient(x, limit=5.0) ** 3),
    "sum(round_straight_through(x)**2)": lambda x: gc.sum(round_straight_through(x) ** 2),
}
POINT = [0.2, 1.4, -2.6]


def main() -> dict[str, np.ndarray]:
    """Print and return the gradients of losses with and without the rules."""
    x = gc.placeholder("x", shape=(3,))
    losses = {name: loss(x) for name, loss in LOSSES.items()}
    slopes = {name: gc.gradients(loss, [x])[0] for name, loss in losses.items()}
    curvature = gc.hessian(losses["sum(round_straight_through(x)**2)"], x)
    with gc.Session() as sess:
        found = sess.run({**slopes, "its Hessian": curvature}, {x: POINT})
    for name, value in found.items():
        print(f"{name:36s} {np.array2string(value, precision=3).replace(chr(10), '')}")
    return found


if __name__ == "__main__":
    main()
