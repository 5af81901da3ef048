"""The workloads in TensorFlow 1's style: graphs and sessions of `tf.compat.v1`, called through `make_callable`.

Images are [batch, height, width, channels], as its CPU kernels want them.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
import tensorflow

from benchmarks.systems import Prepared, Table
from benchmarks.workloads import ADAM_LR, CHAIN_NODES, LINREG_LR, MOMENTUM, RESNET_BLOCKS, SGD_LR, Array, inputs_first

tf = tensorflow.compat.v1
tf.disable_eager_execution()

Arrays = dict[str, Array]
Data = tuple[Array, ...]
NORM_EPS = 1e-5


class Model:
    """Layers on the weights of a workload."""

    def __init__(self, weights: Arrays, training: bool = True) -> None:
        self.weights, self.training = inputs_first(weights), training

    def variable(self, name: str, axes: tuple[int, ...] | None = None) -> Any:
        """The variable of a weight, with its axes in this order."""
        value = self.weights[name]
        return tf.Variable(value if axes is None else np.ascontiguousarray(value.transpose(axes)))

    def linear(self, name: str, x: Any) -> Any:
        """[batch, in] to [batch, out]."""
        return tf.matmul(x, self.variable(f"{name}.weight")) + self.variable(f"{name}.bias")

    def mlp(self, names: tuple[str, ...], x: Any) -> Any:
        """Linear layers with ReLU between."""
        for name in names[:-1]:
            x = tf.nn.relu(self.linear(name, x))
        return self.linear(names[-1], x)

    def conv(self, name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
        """A convolution without bias."""
        around = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
        kernel = self.variable(f"{name}.weight", (2, 3, 1, 0))
        return tf.nn.conv2d(x, kernel, [1, stride, stride, 1], around if padding else "VALID")

    def norm(self, name: str, x: Any) -> Any:
        """Batch norm."""
        fixed = [None if self.training else tf.constant(self.weights[f"{name}.running_{k}"]) for k in ("mean", "var")]
        scale, offset = self.variable(f"{name}.weight"), self.variable(f"{name}.bias")
        return tf.nn.fused_batch_norm(x, scale, offset, *fixed, epsilon=NORM_EPS, is_training=self.training)[0]

    def residual(self, name: str, x: Any, stride: int) -> Any:
        """One of ResNet's blocks."""
        y = tf.nn.relu(self.norm(f"{name}.b1", self.conv(f"{name}.c1", x, stride, 1)))
        y = self.norm(f"{name}.b2", self.conv(f"{name}.c2", y, 1, 1))
        if f"{name}.d.0.weight" in self.weights:
            x = self.norm(f"{name}.d.1", self.conv(f"{name}.d.0", x, stride))
        return tf.nn.relu(y + x)


def lenet(weights: Arrays, x: Any) -> Any:
    """Scores of images."""
    model = Model(weights)
    for name in ("0", "3"):
        x = tf.nn.relu(model.conv(name, x) + model.variable(f"{name}.bias"))
        x = tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], "VALID")
    flat = tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (x.shape[0], 400))  # channels first, as the weights expect
    return model.mlp(("7", "9", "11"), flat)


def resnet18(weights: Arrays, x: Any, training: bool = True) -> Any:
    """Scores of images."""
    model = Model(weights, training)
    x = tf.nn.relu(model.norm("1", model.conv("0", x, 2, 3)))
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])  # what ReLU leaves is at least 0
    x = tf.nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], "VALID")
    for k, (_, _, stride) in enumerate(RESNET_BLOCKS, start=4):
        x = model.residual(str(k), x, stride)
    return model.linear("14", tf.reduce_mean(x, [1, 2]))


class Ways:
    """How programs are run: in sessions of this many threads."""

    def __init__(self, threads: int) -> None:
        self.config = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)

    def prepared(self, fetches: list[Any], feeds: list[Any], data: Data) -> Prepared:
        """A step that fetches a list, whose first value is the one that counts."""
        session = tf.Session(config=self.config)
        session.run(tf.global_variables_initializer())
        step = session.make_callable(fetches, feed_list=feeds)
        return Prepared(lambda: step(*data), itemgetter(0))

    def function(self, fn: Callable[..., Any]) -> Callable[[Arrays, Data], Prepared]:
        """Inference: a function of the weights and the data."""

        def prepare(weights: Arrays, data: Data) -> Prepared:
            data = tuple(channels_last(array) for array in data)
            with tf.Graph().as_default():
                feeds = placeholders(data)
                return self.prepared([fn(weights, *feeds)], feeds, data)

        return prepare

    def training(self, model: Callable[..., Any], optimizer: Callable[[], Any]) -> Callable[[Arrays, Data], Prepared]:
        """A classifier's training step."""

        def prepare(weights: Arrays, data: Data) -> Prepared:
            data = tuple(channels_last(array) for array in data)
            with tf.Graph().as_default():
                feeds = placeholders(data)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels=feeds[1], logits=model(weights, feeds[0])
                )
                loss = tf.reduce_mean(losses)
                return self.prepared([loss, optimizer().minimize(loss)], feeds, data)

        return prepare

    def first_step(self, prepare: Callable[[Arrays, Data], Prepared]) -> Callable[[Arrays, Data], Prepared]:
        """Everything from the model's declaration to the first loss."""
        return lambda weights, data: Prepared(lambda: prepare(weights, data).step(), itemgetter(0))

    def linreg(self, weights: Arrays, data: Data) -> Prepared:
        """w*t_u + b to t_c."""
        with tf.Graph().as_default():
            t_u, t_c = placeholders(data)
            w, b = tf.Variable(1.0), tf.Variable(0.0)
            loss = tf.reduce_mean((w * t_u + b - t_c) ** 2)
            train = tf.train.GradientDescentOptimizer(LINREG_LR).minimize(loss)
            return self.prepared([loss, train], [t_u, t_c], data)

    def chain(self, weights: Arrays, data: Data) -> Prepared:
        """Build a deep chain, differentiate it in its weights, and run that once."""

        def step() -> Any:
            with tf.Graph().as_default():
                x, w = tf.placeholder(tf.float32, data[0].shape), tf.Variable(data[1])
                h = x
                for _ in range(CHAIN_NODES // 4):
                    h = tf.tanh(tf.matmul(h, w)) * 0.5 + x
                return self.prepared(tf.gradients(tf.reduce_sum(h), [w]), [x], data[:1]).step()

        return Prepared(step, itemgetter(0))


def channels_last(array: Array) -> Array:
    """Images with their channels last; anything else as it is."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array


def placeholders(data: Data) -> list[Any]:
    """One for each array, of its shape and dtype."""
    return [tf.placeholder(array.dtype, array.shape) for array in data]


def momentum() -> Any:
    """SGD with momentum."""
    return tf.train.MomentumOptimizer(SGD_LR, MOMENTUM)


def elementwise(weights: Arrays, x: Any, a: Any) -> Any:
    """tanh(x*a+1)*x + gelu(a)."""
    return tf.tanh(x * a + 1.0) * x + a * 0.5 * (1.0 + tf.erf(a * np.float32(0.5**0.5)))


def normsoftmax(weights: Arrays, x: Any) -> Any:
    """softmax(2*layer_norm(x))."""
    mean, variance = tf.nn.moments(x, [-1], keep_dims=True)
    return tf.nn.softmax((x - mean) * tf.rsqrt(variance + NORM_EPS) * 2.0)


def prepare(variant: str, threads: int) -> Table:
    """The table; a GPT has no established form in this style."""
    ways = Ways(threads)
    resnet = ways.training(resnet18, momentum)
    return {
        "linreg": ways.linreg,
        "tiny": ways.function(lambda weights, x: x * 2.0 + 1.0),
        "mlp": ways.training(
            lambda weights, x: Model(weights).mlp(("0", "2", "4"), x), lambda: tf.train.AdamOptimizer(ADAM_LR)
        ),
        "lenet": ways.training(lenet, momentum),
        "resnet18": resnet,
        "resnet18_infer": ways.function(lambda weights, x: resnet18(weights, x, training=False)),
        "elementwise": ways.function(elementwise),
        "normsoftmax": ways.function(normsoftmax),
        "matmul": ways.function(lambda weights, x, y: tf.matmul(x, y)),
        "first_step": ways.first_step(resnet),
        "chain": ways.chain,
    }
