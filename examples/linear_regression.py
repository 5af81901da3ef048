"""Linear regression four ways: a gradient by hand, a symbolic gradient, SGD, and Adam.

    python examples/linear_regression.py [--out .]

Eleven readings of an unknown thermometer against known temperatures in Celsius; the model `w * t_u + b` learns to
convert. Every way prints its losses, and `linear_regression.png` shows data and fit (where matplotlib is installed).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import graphc as gc

T_C = np.array([0.5, 14, 15, 28, 11, 8, 3, -4, 6, 13, 21], "float32")
T_U = np.array([35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4], "float32")


RULES = {"sgd": lambda: gc.optim.SGD(lr=1e-2), "adam": lambda: gc.optim.Adam(lr=1e-1)}


def predict(t_u, w, b):
    """The temperatures in Celsius that readings `t_u[n]` stand for."""
    return w * t_u + b


def slope_by_hand(t_u, t_c, w, b):
    """The gradient of the mean squared error with respect to (w, b), derived on paper."""
    error = 2 * (predict(t_u, w, b) - t_c)
    return (error * t_u).mean(), error.mean()


class Regression:
    """The graph of one regression, with its own variables `w` and `b`, starting at (1, 0)."""

    def __init__(self, name: str) -> None:
        with gc.scope(name):
            self.t_u = gc.placeholder("t_u", shape=("n",))
            self.t_c = gc.placeholder("t_c", shape=("n",))
            self.w = gc.Variable(1.0, name="w")
            self.b = gc.Variable(0.0, name="b")
            self.loss = gc.losses.mse_loss(predict(self.t_u, self.w, self.b), self.t_c)

    def by_hand(self) -> tuple[gc.Node, gc.Node]:
        """The gradient with respect to (w, b), derived on paper."""
        return slope_by_hand(self.t_u, self.t_c, self.w, self.b)

    def symbolic(self) -> tuple[gc.Node, gc.Node]:
        """The same gradient, derived by graphc."""
        dw, db = gc.gradients(self.loss, [self.w, self.b])
        return dw, db

    def descend(self, gradient: tuple[gc.Node, gc.Node], rate: float) -> gc.Updates:
        """Gradient descent, spelled out as assignments."""
        return gc.group(
            *(v.assign(v - rate * g, training=True) for v, g in zip((self.w, self.b), gradient, strict=True))
        )


def at_the_start() -> tuple[float, float, float]:
    """Loss and gradient at (w, b) = (1, 0) on the raw readings."""
    model = Regression("start")
    with gc.Session() as sess:
        loss, hand, symbolic = sess.run(
            [model.loss, model.by_hand(), model.symbolic()], {model.t_u: T_U, model.t_c: T_C}
        )
    np.testing.assert_allclose(hand, symbolic, rtol=1e-5)
    return float(loss), float(symbolic[0]), float(symbolic[1])


def train(name: str, steps: int = 1000) -> tuple[list[float], float, float]:
    """Train one way for `steps` epochs; the loss at every hundredth, and the final (w, b)."""
    model = Regression(name)
    update = {
        "by_hand": lambda: model.descend(model.by_hand(), 1e-2),
        "symbolic": lambda: model.descend(model.symbolic(), 1e-2),
        "sgd": lambda: RULES["sgd"]().minimize(model.loss),
        "adam": lambda: RULES["adam"]().minimize(model.loss),
    }[name]()
    with gc.Session() as sess:
        step = sess.compile([model.loss, update], feeds=[model.t_u, model.t_c])
        losses = [float(step(0.1 * T_U, T_C)[0]) for _ in range(steps)]
        return losses[99::100], float(sess[model.w]), float(sess[model.b])


def plot(fits: dict[str, tuple[float, float]], path: Path) -> bool:
    """Draw data and fits; False where matplotlib isn't installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(T_U, T_C, "o", color="black", label="measured")
    line = np.linspace(T_U.min(), T_U.max(), 2)
    for (name, (w, b)), style in zip(fits.items(), ("-", "--"), strict=True):
        axes.plot(line, w * 0.1 * line + b, style, label=f"{name}: {w:.3f} * 0.1 t_u {b:+.3f}")
    axes.set_xlabel("reading $t_u$")
    axes.set_ylabel("temperature $t_c$ in °C")
    axes.legend()
    figure.savefig(path, dpi=120)
    return True


def main(out: Path) -> None:
    """Print every way's losses and final parameters, and plot the fits."""
    loss, dw, db = at_the_start()
    print(f"at the start: loss {loss:.4f}, gradient ({dw:.4f}, {db:.4f})")
    fits = {}
    for name in ("by_hand", "symbolic", "sgd", "adam"):
        losses, w, b = train(name)
        print(f"{name:9s}", " ".join(f"{value:.6f}" for value in losses), f" (w, b) = ({w:.4f}, {b:.4f})")
        fits[name] = (w, b)
    path = out / "linear_regression.png"
    if plot({name: fits[name] for name in ("sgd", "adam")}, path):
        print(f"wrote {path.resolve()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(), help="the folder to write to")
    main(parser.parse_args().out)
