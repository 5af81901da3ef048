"""The workloads in PyTensor: `pytensor.function` with updates of shared variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from benchmarks.systems import Prepared, Table
from benchmarks.workloads import ADAM_LR, LINREG_LR, Array, inputs_first

pytensor.config.floatX = "float32"

Arrays = dict[str, Array]
Data = tuple[Array, ...]
F32 = np.float32


def inputs_of(data: Data) -> list[Any]:
    """A symbolic input for each array, of its rank and dtype."""
    return [pt.TensorType(str(array.dtype), (None,) * array.ndim)() for array in data]


def function(fn: Callable[..., Any]) -> Callable[[Arrays, Data], Prepared]:
    """Inference: a function of the data."""

    def prepare(weights: Arrays, data: Data) -> Prepared:
        inputs = inputs_of(data)
        compiled = pytensor.function(inputs, fn(*inputs))
        return Prepared(lambda: compiled(*data))

    return prepare


def training_step(inputs: list[Any], loss: Any, updates: Iterable[tuple[Any, Any]], data: Data) -> Prepared:
    """A step that returns the loss and updates the weights."""
    step = pytensor.function(inputs, loss, updates=list(updates))
    return Prepared(lambda: step(*data))


def linreg(weights: Arrays, data: Data) -> Prepared:
    """w*t_u + b to t_c."""
    t_u, t_c = inputs = inputs_of(data)
    line = [pytensor.shared(F32(1)), pytensor.shared(F32(0))]
    loss = ((line[0] * t_u + line[1] - t_c) ** 2).mean()
    gradients = pytensor.grad(loss, line)
    updates = [(w, w - F32(LINREG_LR) * g) for w, g in zip(line, gradients, strict=True)]
    return training_step(inputs, loss, updates, data)


def mlp(weights: Arrays, data: Data) -> Prepared:
    """784-256-128-10 by Adam."""
    x, y = inputs = inputs_of(data)
    shared = {name: pytensor.shared(value) for name, value in inputs_first(weights).items()}
    h = x
    for name in ("0", "2", "4"):
        h = (h if name == "0" else pt.maximum(h, 0)) @ shared[f"{name}.weight"] + shared[f"{name}.bias"]
    loss = -pt.special.log_softmax(h, axis=-1)[pt.arange(len(data[1])), y].mean()
    return training_step(inputs, loss, adam(loss, list(shared.values())), data)


def adam(loss: Any, weights: list[Any]) -> Iterable[tuple[Any, Any]]:
    """The updates of one step of Adam, those of its slots included."""
    count = pytensor.shared(F32(0))
    t = count + F32(1)
    yield count, t
    for w, g in zip(weights, pytensor.grad(loss, weights), strict=True):
        mean, square = (pytensor.shared(np.zeros_like(w.get_value())) for _ in range(2))
        new_mean = F32(0.9) * mean + F32(0.1) * g
        new_square = F32(0.999) * square + F32(0.001) * g * g
        size = new_mean / (F32(1) - F32(0.9) ** t)
        yield mean, new_mean
        yield square, new_square
        yield w, w - F32(ADAM_LR) * size / (pt.sqrt(new_square / (F32(1) - F32(0.999) ** t)) + F32(1e-8))


def elementwise(x: Any, a: Any) -> Any:
    """tanh(x*a+1)*x + gelu(a)."""
    return pt.tanh(x * a + F32(1)) * x + a * F32(0.5) * (F32(1) + pt.erf(a * F32(0.5**0.5)))


def normsoftmax(x: Any) -> Any:
    """softmax(2*layer_norm(x))."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return pt.special.softmax((x - mean) / pt.sqrt(variance + F32(1e-5)) * F32(2), axis=-1)


def prepare(variant: str, threads: int) -> Table:
    """The table; it has no convolutional networks worth comparing, and compiling the chain takes it minutes."""
    return {
        "linreg": linreg,
        "tiny": function(lambda x: x * F32(2) + F32(1)),
        "mlp": mlp,
        "elementwise": function(elementwise),
        "normsoftmax": function(normsoftmax),
        "matmul": function(pt.matmul),
    }
