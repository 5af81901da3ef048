"""The workloads in JAX: pure functions under `jax.jit`; a training step returns the new weights and slots."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.workloads import SIZE

os.environ.setdefault("JAX_PLATFORMS", {"cpu": "cpu", "gpu": "cuda"}[SIZE])
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the other systems have their data on the GPU, too

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.systems import Prepared, Table, on_gpu
from benchmarks.workloads import (
    ADAM_LR,
    CHAIN_NODES,
    GPT_HEADS,
    GPT_LAYERS,
    LINREG_LR,
    MOMENTUM,
    RESNET_BLOCKS,
    SGD_LR,
    WEIGHT_DECAY,
    Array,
    inputs_first,
    trained,
)

Arrays = dict[str, Array]
Data = tuple[Array, ...]
Tree = Any
Optimizer = Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]  # weights, gradients, slots -> new weights and slots
EPS = 1e-5
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}  # JAX's names


# ------------------------------------------------------------------------------------------------- layers


def linear(w: Tree, name: str, x: Any) -> Any:
    """[..., in] to [..., out]."""
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def perceptron(w: Tree, names: tuple[str, ...], x: Any) -> Any:
    """Linear layers with ReLU between."""
    for name in names[:-1]:
        x = jax.nn.relu(linear(w, name, x))
    return linear(w, names[-1], x)


def conv(w: Tree, name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
    """A convolution without bias."""
    around = [(padding, padding)] * 2
    layout = ("NCHW", "OIHW", "NCHW")
    return lax.conv_general_dilated(x, w[f"{name}.weight"], (stride, stride), around, dimension_numbers=layout)


def channels(values: Any) -> Any:
    """[C] as [C, 1, 1]."""
    return values[:, None, None]


def max_pool(x: Any, kernel: int, stride: int, padding: int = 0) -> Any:
    """Over squares."""
    around = [(0, 0)] * 2 + [(padding, padding)] * 2
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, kernel, kernel), (1, 1, stride, stride), around)


def batch_norm(w: Tree, name: str, x: Any, training: bool) -> Any:
    """By the batch's statistics, or by those that are tracked, which start as 0 and 1."""
    scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    else:
        mean, variance = jnp.zeros_like(scale), jnp.ones_like(scale)
    return (x - channels(mean)) * channels(lax.rsqrt(variance + EPS) * scale) + channels(shift)


def standardized(x: Any) -> Any:
    """Mean 0 and variance 1 along the last axis."""
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + EPS)


def cross_entropy(scores: Any, targets: Any) -> Any:
    """The mean over a batch."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(scores), targets[:, None], 1))


# ------------------------------------------------------------------------------------------------- models


def mlp(w: Tree, x: Any) -> Any:
    """784-256-128-10."""
    return perceptron(w, ("0", "2", "4"), x)


def lenet(w: Tree, x: Any) -> Any:
    """Scores of images."""
    for name in ("0", "3"):
        x = max_pool(jax.nn.relu(conv(w, name, x) + channels(w[f"{name}.bias"])), 2, 2)
    return perceptron(w, ("7", "9", "11"), x.reshape(x.shape[0], -1))


def resnet18(w: Tree, x: Any, training: bool = True) -> Any:
    """Scores of images."""
    x = jax.nn.relu(batch_norm(w, "1", conv(w, "0", x, 2, 3), training))
    x = max_pool(x, 3, 2, 1)
    for k, (_, _, stride) in enumerate(RESNET_BLOCKS, start=4):
        y = jax.nn.relu(batch_norm(w, f"{k}.b1", conv(w, f"{k}.c1", x, stride, 1), training))
        y = batch_norm(w, f"{k}.b2", conv(w, f"{k}.c2", y, 1, 1), training)
        if f"{k}.d.0.weight" in w:
            x = batch_norm(w, f"{k}.d.1", conv(w, f"{k}.d.0", x, stride), training)
        x = jax.nn.relu(y + x)
    return linear(w, "14", x.mean((2, 3)))


def layer_norm(w: Tree, name: str, x: Any) -> Any:
    """Along the last axis."""
    return standardized(x) * w[f"{name}.weight"] + w[f"{name}.bias"]


def gpt(w: Tree, words: Any) -> Any:
    """Scores of each word."""
    x = w["tokens.weight"][words] + w["positions.weight"]
    batch, time, width = x.shape
    seen = jnp.tril(jnp.ones((time, time), bool))
    for k in range(GPT_LAYERS):
        name = f"blocks.{k}"
        split = linear(w, f"{name}.qkv", layer_norm(w, f"{name}.norm1", x))
        split = split.reshape(batch, time, 3, GPT_HEADS, width // GPT_HEADS)
        query, key, value = jnp.moveaxis(split, 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(width // GPT_HEADS)
        attention = jax.nn.softmax(jnp.where(seen, scores, -1e30))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", attention, value).reshape(batch, time, width)
        x = x + linear(w, f"{name}.out", mixed)
        up = jax.nn.gelu(linear(w, f"{name}.up", layer_norm(w, f"{name}.norm2", x)), approximate=True)
        x = x + linear(w, f"{name}.down", up)
    return linear(w, "head", layer_norm(w, "norm", x))


# ------------------------------------------------------------------------------------------------- optimisers


def sgd(lr: float, momentum: float) -> Optimizer:
    """The slots are the velocities."""

    def update(weights: Tree, gradients: Tree, velocities: Tree) -> tuple[Tree, Tree]:
        velocities = jax.tree.map(lambda v, g: momentum * v + g, velocities, gradients)
        return jax.tree.map(lambda w, v: w - lr * v, weights, velocities), velocities

    return update


def adamw(lr: float, decay: float = 0.0) -> Optimizer:
    """The slots are the means of gradients and of their squares, and the number of steps; Adam without decay."""

    def update(weights: Tree, gradients: Tree, slots: Tree) -> tuple[Tree, Tree]:
        means, squares, count = slots
        count = count + 1
        means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, gradients)
        squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, squares, gradients)

        def moved(w: Any, m: Any, v: Any) -> Any:
            return w * (1 - lr * decay) - lr * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)

        return jax.tree.map(moved, weights, means, squares), (means, squares, count)

    return update


def zeros(weights: Tree) -> Tree:
    """Slots for SGD."""
    return jax.tree.map(jnp.zeros_like, weights)


def adam_slots(weights: Tree) -> Tree:
    """Slots for Adam."""
    return zeros(weights), zeros(weights), jnp.array(0.0)


# ------------------------------------------------------------------------------------------------- workloads


def tree_of(weights: Arrays) -> Tree:
    """What is trained, linear layers as [in, out]."""
    return jax.tree.map(jnp.asarray, inputs_first(trained(weights)))


def training_step(
    loss_of: Callable[..., Any], weights: Tree, optimizer: Optimizer, slots: Tree, data: Data
) -> Prepared:
    """Forward, backward and update as one function; waits for the loss."""

    def both(weights: Tree, slots: Tree, *data: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(weights, *data)
        return loss, *optimizer(weights, gradients, slots)

    compiled = jax.jit(both)
    arrays = [jnp.asarray(array) for array in data]
    state = [weights, slots]

    def step() -> Any:
        loss, state[0], state[1] = compiled(*state, *arrays)
        return loss.block_until_ready()

    return Prepared(step)


def training(
    model: Callable[..., Any], optimizer: Optimizer, slots: Callable[[Tree], Tree]
) -> Callable[[Arrays, Data], Prepared]:
    """A classifier's training step: cross-entropy of the scores [..., classes] and the targets [...]."""

    def loss_of(weights: Tree, inputs: Any, targets: Any) -> Any:
        scores = model(weights, inputs)
        return cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1))

    def prepare(weights: Arrays, data: Data) -> Prepared:
        tree = tree_of(weights)
        return training_step(loss_of, tree, optimizer, slots(tree), data)

    return prepare


def function(fn: Callable[..., Any]) -> Callable[[Arrays, Data], Prepared]:
    """Inference: a function of the weights and the data."""

    def prepare(weights: Arrays, data: Data) -> Prepared:
        tree, arrays = tree_of(weights), [jnp.asarray(array) for array in data]
        compiled = jax.jit(fn)
        return Prepared(lambda: compiled(tree, *arrays).block_until_ready())

    return prepare


def first_step(prepare: Callable[[Arrays, Data], Prepared]) -> Callable[[Arrays, Data], Prepared]:
    """Everything from the model's declaration to the first loss."""
    return lambda weights, data: Prepared(lambda: prepare(weights, data).step())


def linreg(weights: Arrays, data: Data) -> Prepared:
    """w*t_u + b to t_c."""
    line = {"w": jnp.array(1.0), "b": jnp.array(0.0)}

    def loss_of(line: Tree, t_u: Any, t_c: Any) -> Any:
        return jnp.mean((line["w"] * t_u + line["b"] - t_c) ** 2)

    def plain(weights: Tree, gradients: Tree, slots: Tree) -> tuple[Tree, Tree]:
        return jax.tree.map(lambda w, g: w - LINREG_LR * g, weights, gradients), slots

    return training_step(loss_of, line, plain, (), data)


def chain(weights: Arrays, data: Data) -> Prepared:
    """Trace, differentiate, compile and run a deep chain."""

    def total(w: Any, x: Any) -> Any:
        h = x
        for _ in range(CHAIN_NODES // 4):
            h = jnp.tanh(h @ w) * 0.5 + x
        return jnp.sum(h)

    return Prepared(lambda: jax.jit(jax.grad(total))(data[1], data[0]).block_until_ready())


def prepare(variant: str, threads: int) -> Table:
    """The table; JAX takes as many threads as the process may use cores."""
    precision = on_gpu(variant)
    if precision is not None:
        jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    momentum = sgd(SGD_LR, MOMENTUM)
    resnet = training(resnet18, momentum, zeros)
    return {
        "linreg": linreg,
        "tiny": function(lambda w, x: x * 2.0 + 1.0),
        "mlp": training(mlp, adamw(ADAM_LR), adam_slots),
        "lenet": training(lenet, momentum, zeros),
        "resnet18": resnet,
        "resnet18_infer": function(lambda w, x: resnet18(w, x, training=False)),
        "gpt": training(gpt, adamw(ADAM_LR, WEIGHT_DECAY), adam_slots),
        "elementwise": function(lambda w, x, a: jnp.tanh(x * a + 1.0) * x + jax.nn.gelu(a, approximate=False)),
        "normsoftmax": function(lambda w, x: jax.nn.softmax(standardized(x) * 2.0)),
        "matmul": function(lambda w, x, y: x @ y),
        "copy": function(lambda w, x: x * 1.0000001),
        "sum": function(lambda w, x: x.sum()),
        "first_step": first_step(resnet),
        "chain": chain,
    }
