"""The workloads in graphc: `sess.run`, and the step that `sess.compile` returns."""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import graphc as gc
from benchmarks import models
from benchmarks.systems import Prepared, Table, on_gpu
from benchmarks.workloads import (
    ADAM_LR,
    CHAIN_NODES,
    LINREG_LR,
    LONG_CHAIN_NODES,
    MOMENTUM,
    SGD_LR,
    WEIGHT_DECAY,
    Array,
)

LIBRARY = models.Library(gc.nn, gc.scaled_dot_product_attention, gc.unstack)

Arrays = dict[str, Array]
Data = tuple[Array, ...]
CONVOLUTIONS = ("lenet", "resnet18", "resnet18_infer")


def placeholders(data: Data) -> list[gc.Placeholder]:
    """One for each array, of its shape and dtype."""
    return [gc.placeholder(f"x{k}", array.shape, array.dtype) for k, array in enumerate(data)]


def model_of(make: Callable[[models.Library], Any], weights: Arrays) -> Any:
    """A model that starts with these weights."""
    model = make(LIBRARY)
    model.load_state_dict(weights)
    return model


class Ways:
    """How programs are run: in sessions with these options, by `sess.run` or by a compiled step."""

    def __init__(self, variant: str, threads: int) -> None:
        self.by_run = variant == "run"
        self.precision = on_gpu(variant)
        exact = {"conv_precision": "exact"} if variant == "exact" else {}
        self.options: dict[str, Any] = {"device": "cpu", "threads": threads, **exact}
        if self.precision is not None:
            disable = ("cudnn",) if variant.startswith("own ") else ()
            on_device = {"matmul_precision": self.precision, "results": "device"}
            self.options = {"device": "cuda", "disable": disable, **on_device}

    def prepared(
        self,
        fetches: Any,
        feeds: list[gc.Placeholder],
        data: Data,
        weights: Sequence[Any] = (),
        session: gc.Session | None = None,
    ) -> Prepared:
        """A step that fetches a list, whose first value is the one that counts; in a new session if none is given."""
        session = session or gc.Session(**self.options)
        materialise = partial(store, session, weights)
        if self.by_run:
            given = dict(zip(feeds, data, strict=True))
            return Prepared(lambda: session.run(fetches, given), itemgetter(0), materialise)
        step = session.compile(fetches, feeds)
        if self.precision is not None:
            import cupy

            there = [cupy.asarray(array) for array in data]  # as the peers have theirs
            return Prepared(lambda: waited(step(*there)), itemgetter(0), materialise)
        return Prepared(lambda: step(*data), itemgetter(0), materialise)

    def function(self, fn: Callable[..., Any]) -> Callable[[Arrays, Data], Prepared]:
        """Inference: a function of the data."""

        def prepare(weights: Arrays, data: Data) -> Prepared:
            with gc.Graph():
                feeds = placeholders(data)
                return self.prepared([fn(*feeds)], feeds, data)

        return prepare

    def training(
        self, make: Callable[[models.Library], Any], optimizer: gc.optim.Optimizer
    ) -> Callable[[Arrays, Data], Prepared]:
        """A classifier's training step."""

        def prepare(weights: Arrays, data: Data) -> Prepared:
            with gc.Graph():
                model = model_of(make, weights)
                fetches, feeds = training_step(model, optimizer, data)
                return self.prepared(fetches, feeds, data, list(model.state_dict().values()))

        return prepare

    def inference(self, make: Callable[[models.Library], Any]) -> Callable[[Arrays, Data], Prepared]:
        """A model's values in evaluation."""
        return lambda weights, data: self.function(model_of(make, weights))(weights, data)

    def first_step(
        self, make: Callable[[models.Library], Any], optimizer: gc.optim.Optimizer
    ) -> Callable[[Arrays, Data], Prepared]:
        """Everything from the model's declaration to the first loss."""

        def prepare(weights: Arrays, data: Data) -> Prepared:
            aside: list[float] = []

            def step() -> Any:
                aside.append(seconds_of(partial(importlib.import_module, "llvmlite.binding")))
                with gc.Graph():
                    model = make(LIBRARY)
                    aside.append(seconds_of(partial(model.load_state_dict, weights)))
                    fetches, feeds = training_step(model, optimizer, data)
                    session = gc.Session(**self.options)
                    # Before anything is compiled: threads that go on meanwhile would have their time taken off, too.
                    aside.append(seconds_of(partial(store, session, list(model.state_dict().values()))))
                    return self.prepared(fetches, feeds, data, session=session).step()

            return Prepared(step, itemgetter(0), aside=lambda: sum(aside))

        return prepare

    def linreg(self, weights: Arrays, data: Data) -> Prepared:
        """w*t_u + b to t_c."""
        with gc.Graph():
            t_u, t_c = placeholders(data)
            w, b = gc.Variable(1.0, name="w"), gc.Variable(0.0, name="b")
            loss = gc.losses.mse_loss(w * t_u + b, t_c)
            return self.prepared([loss, gc.optim.SGD(lr=LINREG_LR).minimize(loss)], [t_u, t_c], data)

    def chain(self, weights: Arrays, data: Data, nodes: int = CHAIN_NODES) -> Prepared:
        """Build a deep chain, differentiate it in its weights, and run that once."""
        x_value, w_value = data

        def step() -> Any:
            with gc.Graph():
                x, w = gc.placeholder("x", x_value.shape), gc.Variable(w_value, name="w")
                h: Any = x
                for _ in range(nodes // 4):
                    h = gc.tanh(h @ w) * 0.5 + x
                gradient = gc.gradients(gc.sum(h), [w])
                return self.prepared(gradient, [x], (x_value,)).step()

        return Prepared(step, itemgetter(0))


def store(session: gc.Session, weights: Sequence[Any]) -> None:
    """Have a session keep the values of weights in storage of its own: the first values are arrays."""
    for variable in weights:
        session[variable] = session[variable]


def seconds_of(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def waited(found: list[Any]) -> list[Any]:
    """Results, when the GPU has them."""
    import cupy

    cupy.cuda.Device().synchronize()
    return found


def training_step(model: Any, optimizer: gc.optim.Optimizer, data: Data) -> tuple[list[Any], list[gc.Placeholder]]:
    """What a training step fetches and is fed: cross-entropy of the scores [..., classes] and the targets [...]."""
    inputs, targets = placeholders(data)
    scores = model(inputs)
    loss = gc.losses.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1))
    return [loss, optimizer.minimize(loss)], [inputs, targets]


def sgd() -> gc.optim.Optimizer:
    """With momentum."""
    return gc.optim.SGD(lr=SGD_LR, momentum=MOMENTUM)


def prepare(variant: str, threads: int) -> Table:
    """The table; that of the variant `exact` has what convolves, where sessions know `conv_precision`."""
    ways = Ways(variant, threads)
    table: dict[str, Any] = {
        "linreg": ways.linreg,
        "tiny": ways.function(lambda x: x * 2.0 + 1.0),
        "mlp": ways.training(models.mlp, gc.optim.Adam(lr=ADAM_LR)),
        "lenet": ways.training(models.lenet, sgd()),
        "resnet18": ways.training(models.resnet18, sgd()),
        "resnet18_infer": ways.inference(models.resnet18),
        "gpt": ways.training(models.gpt, gc.optim.AdamW(lr=ADAM_LR, weight_decay=WEIGHT_DECAY)),
        "elementwise": ways.function(lambda x, a: gc.tanh(x * a + 1.0) * x + gc.gelu(a)),
        "normsoftmax": ways.function(lambda x: gc.softmax(gc.layer_norm(x, x.shape[-1:]) * 2.0, axis=-1)),
        "matmul": ways.function(gc.matmul),
        "copy": ways.function(lambda x: x * 1.0000001),
        "sum": ways.function(gc.sum),
        "first_step": ways.first_step(models.resnet18, sgd()),
        "chain": ways.chain,
        "long_chain": partial(ways.chain, nodes=LONG_CHAIN_NODES),
    }
    if variant != "exact":
        return table
    known = "conv_precision" in inspect.signature(gc.Session).parameters
    return {name: table[name] for name in CONVOLUTIONS if known}
