"""What is measured: each workload's sizes, its data and initial weights, and how far ahead graphc should be.

Weights have torch's names and layouts (Linear [out, in], Conv [out, in, height, width]) and are the same numbers for
every system, so that all compute the same losses. How a system computes a workload is in `benchmarks.systems`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]

T_C = np.array([0.5, 14.0, 15.0, 28.0, 11.0, 8.0, 3.0, -4.0, 6.0, 13.0, 21.0], np.float32)
T_U = np.array([35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4], np.float32) * np.float32(0.1)

# A worker that measures a GPU is told so by its environment: the models are built of these numbers.
SIZE = os.environ.get("GRAPHC_BENCH_SIZE", "cpu")
GPT_SIZES = {"cpu": (256, 8, 4, 128, 256), "gpu": (768, 12, 12, 1024, 50304)}
GPT_WIDTH, GPT_HEADS, GPT_LAYERS, GPT_TIME, GPT_WORDS = GPT_SIZES[SIZE]
CHAIN_NODES, LONG_CHAIN_NODES = 10_000, 100_000
LINREG_LR, ADAM_LR, SGD_LR, MOMENTUM, WEIGHT_DECAY = 1e-2, 1e-3, 1e-2, 0.9, 1e-2

# ResNet-18's blocks: channels in, channels out, stride.
RESNET_BLOCKS = (
    *((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)),
    *((128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)),
)

EMBEDDINGS = ("tokens.weight", "positions.weight")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Scale(NamedTuple):
    """What the tests make smaller: the batch, the side of images, and elements of long vectors."""

    batch: int | None = None
    side: int | None = None
    elements: int | None = None
    nodes: int = CHAIN_NODES


FULL = Scale()


class Workload(NamedTuple):
    """One row of the comparison.

    Attributes:
        title: what is computed, with its sizes.
        goal: how many times as fast as the best peer graphc should be; 0 where it isn't judged by that.
        data: what a step is fed, in order, for a scale.
        shapes: of the weights, by torch's names.
        fresh: a sample is a whole first step, in a process of its own.
        flops: floating-point operations of a step, where their rate says something.
        nbytes: that a step reads and writes, where their rate says something.
        rounds: whether it is measured with products that round their operands, too.
    """

    title: str
    goal: float
    data: Callable[[Scale], tuple[Array, ...]]
    shapes: Callable[[], Shapes] = dict
    fresh: bool = False
    flops: float = 0
    nbytes: float = 0
    rounds: bool = False

    def weights(self) -> Arrays:
        """The initial weights: normal with variance 2/fan_in, norms and variances 1, biases and means 0."""
        rng = np.random.default_rng(0)
        return {name: _initial(rng, name, shape) for name, shape in self.shapes().items()}


def _initial(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) >= 2:
        fan_in = math.prod(shape[1:])
        return (rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_in))).astype(np.float32)
    return np.full(shape, 1 if name.endswith(("weight", "running_var")) else 0, np.float32)


def trained(weights: Mapping[str, Array]) -> Arrays:
    """The weights without what batch norm tracks."""
    return {name: value for name, value in weights.items() if not name.endswith(STATISTICS)}


def inputs_first(weights: Mapping[str, Array]) -> Arrays:
    """The weights with those of linear layers as [in, out], for systems that multiply by them from the right."""
    return {
        name: np.ascontiguousarray(value.T) if value.ndim == 2 and name not in EMBEDDINGS else value
        for name, value in weights.items()
    }


# ------------------------------------------------------------------------------------------------- weights


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _conv(name: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel)}


def _norm(name: str, channels: int, statistics: bool = True) -> Shapes:
    affine: Shapes = {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}
    tracked: Shapes = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return affine | tracked | {f"{name}.num_batches_tracked": ()} if statistics else affine


def _merged(parts: Iterator[Shapes]) -> Shapes:
    return {name: shape for part in parts for name, shape in part.items()}


def mlp_shapes() -> Shapes:
    """784-256-128-10, with ReLU between."""
    return _linear("0", 784, 256) | _linear("2", 256, 128) | _linear("4", 128, 10)


def lenet_shapes() -> Shapes:
    """Two convolutions of 5x5, three linear layers."""
    convs = _conv("0", 3, 6, 5) | {"0.bias": (6,)} | _conv("3", 6, 16, 5) | {"3.bias": (16,)}
    return convs | _linear("7", 400, 120) | _linear("9", 120, 84) | _linear("11", 84, 10)


def resnet_shapes() -> Shapes:
    """ResNet-18 for 1,000 classes: 11.7 M weights."""

    def parts() -> Iterator[Shapes]:
        yield _conv("0", 3, 64, 7) | _norm("1", 64)
        for k, (inputs, outputs, stride) in enumerate(RESNET_BLOCKS, start=4):
            yield _conv(f"{k}.c1", inputs, outputs, 3) | _norm(f"{k}.b1", outputs)
            yield _conv(f"{k}.c2", outputs, outputs, 3) | _norm(f"{k}.b2", outputs)
            if (inputs, stride) != (outputs, 1):
                yield _conv(f"{k}.d.0", inputs, outputs, 1) | _norm(f"{k}.d.1", outputs)
        yield _linear("14", 512, 1000)

    return _merged(parts())


def gpt_shapes() -> Shapes:
    """Token and position embeddings, blocks with the norms before, a head of its own."""
    width = GPT_WIDTH

    def parts() -> Iterator[Shapes]:
        yield {"tokens.weight": (GPT_WORDS, width), "positions.weight": (GPT_TIME, width)}
        for k in range(GPT_LAYERS):
            name = f"blocks.{k}"
            yield _norm(f"{name}.norm1", width, False) | _linear(f"{name}.qkv", width, 3 * width)
            yield _linear(f"{name}.out", width, width) | _norm(f"{name}.norm2", width, False)
            yield _linear(f"{name}.up", width, 4 * width) | _linear(f"{name}.down", 4 * width, width)
        yield _norm("norm", width, False) | _linear("head", width, GPT_WORDS)

    return _merged(parts())


# ------------------------------------------------------------------------------------------------- data


def _normal(*shape: int, scale: float = 1.0) -> Array:
    return np.random.default_rng(shape).standard_normal(shape, np.float32) * np.float32(scale)


def _classes(count: int, *shape: int) -> Array:
    return np.random.default_rng((count, *shape)).integers(0, count, shape)


def _labelled(batch: int, classes: int, *shape: int) -> Callable[[Scale], tuple[Array, ...]]:
    """A batch of inputs with their classes; the last two of three sizes are the side of an image."""

    def data(scale: Scale) -> tuple[Array, ...]:
        count = scale.batch or batch
        sides = shape if scale.side is None or len(shape) < 3 else (shape[0], scale.side, scale.side)
        return _normal(count, *sides), _classes(classes, count)

    return data


def _images(scale: Scale) -> tuple[Array, ...]:
    side = scale.side or 224
    return (_normal(1, 3, side, side),)


def _words(scale: Scale) -> tuple[Array, ...]:
    words = _classes(GPT_WORDS, scale.batch or 8, GPT_TIME + 1)
    return np.ascontiguousarray(words[:, :-1]), np.ascontiguousarray(words[:, 1:])


def _vectors(scale: Scale) -> tuple[Array, ...]:
    size = scale.elements or 10_000_000
    return _normal(size), _normal(size, scale=1.5)


def _chain(scale: Scale) -> tuple[Array, ...]:
    return np.ones((4, 8), np.float32), _normal(8, 8, scale=0.3)


_RESNET_TRAINING = _labelled(16, 1000, 3, 64, 64)

WORKLOADS: dict[str, Workload] = {
    "linreg": Workload("linear regression, 11 points, SGD", 3, lambda scale: (T_U, T_C)),
    "tiny": Workload("x*2+1, 11 floats", 3, lambda scale: (_normal(11),)),
    "mlp": Workload("MLP 784-256-128-10, batch 64, Adam", 1.6, _labelled(64, 10, 784), mlp_shapes),
    # LeNet's linear layers fix the side of its images.
    "lenet": Workload(
        "LeNet, 64x3x32x32, SGD momentum",
        2,
        lambda scale: _labelled(64, 10, 3, 32, 32)(scale._replace(side=None)),
        lenet_shapes,
    ),
    "resnet18": Workload("ResNet-18 training, 16x3x64x64, SGD momentum", 2, _RESNET_TRAINING, resnet_shapes),
    "resnet18_infer": Workload("ResNet-18 inference, 1x3x224x224", 1.7, _images, resnet_shapes),
    "gpt": Workload("GPT, 4 layers, width 256, batch 8x128, AdamW", 1.25, _words, gpt_shapes),
    "elementwise": Workload("tanh(x*a+1)*x + gelu(a), 10 M floats", 1.75, _vectors),
    "normsoftmax": Workload(
        "softmax(2*layer_norm(x)), 4096x1024", 1.75, lambda scale: (_normal(scale.batch or 4096, 1024),)
    ),
    "matmul": Workload(
        "matmul, 1024x1024x1024",
        0.97,
        lambda scale: (_normal(n := scale.side or 1024, n), _normal(n, n, scale=0.05)),
        flops=2 * 1024**3,
    ),
    "first_step": Workload(
        "first step of ResNet-18 training: build to loss", 0, _RESNET_TRAINING, resnet_shapes, fresh=True
    ),
    "chain": Workload(f"chain of {CHAIN_NODES:,} nodes: build to gradient", 0, _chain, fresh=True),
}

# What is measured of eager execution, against torch's; the goal is how many times as fast it should be.
EAGER: dict[str, Workload] = {
    "tracked_add": Workload("a + b on the tape, 11 floats", 1, lambda scale: (_normal(11), _normal(11))),
    **{name: WORKLOADS[name]._replace(goal=0) for name in ("linreg", "mlp", "lenet")},
}

# What is measured of graphc alone.
LONG: dict[str, Workload] = {
    "long_chain": Workload(f"chain of {LONG_CHAIN_NODES:,} nodes: build to gradient", 0, _chain, fresh=True),
}


# ------------------------------------------------------------------------------------------------- on a GPU

GIGA = 1 << 30


def _one(size: int) -> Callable[[Scale], tuple[Array, ...]]:
    return lambda scale: (_normal(scale.elements or size),)


COPIED_BYTES = 8 * GIGA  # read and written by a copy, by whose rate that of others is judged

# What is measured on a GPU; `benchmarks.gpu` says what the goals are. Small graphs show what a launch costs, large
# vectors what memory can do.
GPU: dict[str, Workload] = {
    **{name: WORKLOADS[name]._replace(goal=0) for name in ("linreg", "tiny")},
    "mlp": Workload("MLP 784-256-128-10, batch 4096, Adam", 0, _labelled(4096, 10, 784), mlp_shapes, rounds=True),
    "lenet": Workload(
        "LeNet, 4096x3x32x32, SGD momentum",
        0,
        lambda scale: _labelled(4096, 10, 3, 32, 32)(scale._replace(side=None)),
        lenet_shapes,
        rounds=True,
    ),
    "resnet18": Workload(
        "ResNet-18 training, 256x3x224x224, SGD momentum",
        0,
        _labelled(256, 1000, 3, 224, 224),
        resnet_shapes,
        rounds=True,
    ),
    "gpt": Workload("GPT, 12 layers, width 768, batch 8x1024, AdamW", 0, _words, gpt_shapes, rounds=True),
    "matmul": Workload(
        "matmul, 8192x8192x8192",
        0,
        lambda scale: (_normal(n := scale.side or 8192, n), _normal(n, n, scale=0.05)),
        flops=2 * 8192**3,
        rounds=True,
    ),
    "copy": Workload("a copy of 1 G floats, scaled", 0, _one(GIGA), nbytes=8 * GIGA),
    "sum": Workload("the sum of 1 G floats", 0, _one(GIGA), nbytes=4 * GIGA),
    "elementwise": Workload(
        "tanh(x*a+1)*x + gelu(a), 1 G floats",
        0,
        lambda scale: (_normal(size := scale.elements or GIGA), _normal(size, scale=1.5)),
        nbytes=12 * GIGA,
    ),
    "normsoftmax": Workload(
        "softmax(2*layer_norm(x)), 262144x1024",
        0,
        lambda scale: (_normal(scale.batch or 1 << 18, 1024),),
        nbytes=2 * GIGA,
    ),
}


def workload_of(name: str) -> Workload | None:
    """The workload of this name, at the sizes of this process."""
    return ({**WORKLOADS, **GPU} if SIZE == "gpu" else {**WORKLOADS, **EAGER, **LONG}).get(name)
