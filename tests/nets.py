"""The networks that plans are measured on: each a training step with its feeds, in the current graph."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from checkout import ROOT

import graphc as gc
from graphc import nn
from graphc.ir import Node
from graphc.optim import SGD, Adam, AdamW, Optimizer

Array = np.ndarray[Any, Any]


class Net(NamedTuple):
    """A model with its training step.

    Attributes:
        predicted: what it computes in evaluation.
        loss: a scalar.
        train: the updates of one step.
        feeds: values of all placeholders.
    """

    predicted: Node
    loss: Node
    train: gc.Updates
    feeds: Mapping[Node, Array]


def classifier(model: nn.Module, shape: tuple[int, ...], classes: int, batch: int, optimizer: Optimizer) -> Net:
    """A model of images (or vectors) of `shape`, trained on cross-entropy; the batch size is symbolic."""
    x = gc.placeholder("x", ("batch", *shape))
    labels = gc.placeholder("labels", ("batch",), "int64")
    logits = model(x)
    loss = gc.losses.cross_entropy(logits, labels)
    rng = np.random.default_rng(0)
    feeds = {x: rng.standard_normal((batch, *shape)).astype(np.float32), labels: rng.integers(0, classes, batch)}
    return Net(logits, loss, optimizer.minimize(loss), feeds)


def linear_regression() -> Net:
    """The model of examples/linear_regression.py, by Adam."""
    example = runpy.run_path(str(ROOT / "examples" / "linear_regression.py"), run_name="linear_regression")
    model = example["Regression"]("regression")
    feeds = {model.t_u: example["T_U"], model.t_c: example["T_C"]}
    predicted = example["predict"](model.t_u, model.w, model.b)
    return Net(predicted, model.loss, Adam(lr=0.1).minimize(model.loss), feeds)


def digits() -> Net:
    """The net of examples/digits.py: convolutions, batch norms, dropout, by Adam."""
    example = runpy.run_path(str(ROOT / "examples" / "digits.py"), run_name="digits")
    images, labels, logits, loss, _, train = example["declare"](rate=2e-3)
    rng = np.random.default_rng(0)
    feeds = {images: rng.random((64, 1, 8, 8), np.float32), labels: rng.integers(0, 10, 64)}
    return Net(logits, loss, train, feeds)


def mlp() -> Net:
    """784-256-128-10 by Adam."""
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    return classifier(model, (784,), 10, 64, Adam(lr=1e-3))


def lenet() -> Net:
    """LeCun et al., "Gradient-based learning applied to document recognition" (1998), with ReLU and max pooling."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    return classifier(model, (1, 28, 28), 10, 16, SGD(lr=0.01, momentum=0.9))


class Residual(nn.Module):
    """The basic block of He et al., "Deep residual learning for image recognition" (2016)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        shortcut = (nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Sequential(*(shortcut if stride != 1 or channels != out else ()))

    def forward(self, x: Node) -> Node:
        """The sum of both ways."""
        return gc.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet() -> Net:
    """ResNet-18's layers with an eighth of the channels, on images of 16 x 16, by SGD with momentum."""
    widths = (8, 16, 32, 64)
    blocks: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    channels = widths[0]
    for k, width in enumerate(widths):
        blocks += [Residual(channels, width, 2 if k else 1), Residual(width, width, 1)]
        channels = width
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return classifier(model, (3, 16, 16), 10, 4, SGD(lr=0.1, momentum=0.9, weight_decay=5e-4))


class Block(nn.Module):
    """A transformer's block with the norms before (Radford et al., 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Node) -> Node:
        """[batch, time, width] to the same."""
        batch, time, width = x.shape
        split = gc.reshape(self.qkv(self.norm(x)), (batch, time, 3, self.heads, width // self.heads))
        query, key, value = gc.unstack(gc.transpose(split, (2, 0, 3, 1, 4)), 0)
        seen = gc.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(gc.reshape(gc.transpose(seen, (0, 2, 1, 3)), (batch, time, width)))
        return x + self.mlp(self.norm2(x))


def gpt() -> Net:
    """A small language model of four blocks, by AdamW."""
    vocabulary, width, time = 61, 32, 24
    tokens = gc.placeholder("tokens", ("batch", time), "int64")
    targets = gc.placeholder("targets", ("batch", time), "int64")
    embedding, position = nn.Embedding(vocabulary, width), nn.Embedding(time, width)
    body = nn.Sequential(*[Block(width, 4) for _ in range(4)], nn.LayerNorm(width), nn.Linear(width, vocabulary))
    logits = body(embedding(tokens) + position(gc.arange(time)))
    loss = gc.losses.cross_entropy(gc.reshape(logits, (-1, vocabulary)), gc.reshape(targets, (-1,)))
    words = np.random.default_rng(0).integers(0, vocabulary, (3, time + 1))
    return Net(logits, loss, AdamW(lr=1e-3).minimize(loss), {tokens: words[:, :-1], targets: words[:, 1:]})


NETS: dict[str, Callable[[], Net]] = {net.__name__: net for net in (linear_regression, digits, mlp, lenet, resnet, gpt)}
