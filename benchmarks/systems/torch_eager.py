"""The workloads in PyTorch: eager, and with the forward computation under `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks import models
from benchmarks.systems import Prepared, Table, on_gpu
from benchmarks.workloads import ADAM_LR, CHAIN_NODES, LINREG_LR, MOMENTUM, SGD_LR, WEIGHT_DECAY, Array

LIBRARY = models.Library(torch.nn, functional.scaled_dot_product_attention, torch.unbind)

Arrays = dict[str, Array]
Data = tuple[Array, ...]
Compiler = Callable[[Any], Any]


def model_of(make: Callable[[models.Library], Any], weights: Arrays) -> Any:
    """A model that starts with these weights, and spends no time on others."""
    with torch.device("meta"):
        model = make(LIBRARY)
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()}, assign=True)
    return model


def tensors(data: Data) -> list[torch.Tensor]:
    """The data as tensors of their own."""
    return [torch.tensor(array) for array in data]


def training_step(compiler: Compiler, loss_of: Callable[..., Any], optimizer: Any, data: Data) -> Prepared:
    """Forward, backward and update."""
    inputs = tensors(data)
    forward = compiler(loss_of)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(*inputs)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Prepared(step)


def training(
    compiler: Compiler, make: Callable[[models.Library], Any], optimizer: Callable[[Any], Any]
) -> Callable[[Arrays, Data], Prepared]:
    """A classifier's training step: cross-entropy of the scores [..., classes] and the targets [...]."""

    def prepare(weights: Arrays, data: Data) -> Prepared:
        model = model_of(make, weights)

        def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            scores = model(inputs)
            return functional.cross_entropy(scores.flatten(0, -2), targets.flatten())

        return training_step(compiler, loss_of, optimizer(model.parameters()), data)

    return prepare


def function(compiler: Compiler, fn: Callable[..., Any]) -> Callable[[Arrays, Data], Prepared]:
    """Inference: a function of the data."""

    def prepare(weights: Arrays, data: Data) -> Prepared:
        inputs = tensors(data)
        compiled = torch.no_grad()(compiler(fn))
        return Prepared(lambda: compiled(*inputs))

    return prepare


def inference(compiler: Compiler, make: Callable[[models.Library], Any]) -> Callable[[Arrays, Data], Prepared]:
    """A model's values in evaluation."""
    return lambda weights, data: function(compiler, model_of(make, weights).eval())(weights, data)


def first_step(prepare: Callable[[Arrays, Data], Prepared]) -> Callable[[Arrays, Data], Prepared]:
    """Everything from the model's declaration to the first loss."""
    return lambda weights, data: Prepared(lambda: prepare(weights, data).step())


def linreg(compiler: Compiler) -> Callable[[Arrays, Data], Prepared]:
    """w*t_u + b to t_c."""

    def prepare(weights: Arrays, data: Data) -> Prepared:
        w, b = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
        optimizer = torch.optim.SGD([w, b], lr=LINREG_LR)
        return training_step(compiler, lambda t_u, t_c: ((w * t_u + b - t_c) ** 2).mean(), optimizer, data)

    return prepare


def tracked_add(weights: Arrays, data: Data) -> Prepared:
    """One small op whose gradient can be asked for."""
    a, b = (torch.tensor(array, requires_grad=True) for array in data)
    return Prepared(lambda: a + b, lambda y: y.detach().numpy())


def chain(weights: Arrays, data: Data) -> Prepared:
    """A deep chain and its gradient."""

    def step() -> Any:
        x, w = torch.tensor(data[0]), torch.tensor(data[1], requires_grad=True)
        h = x
        for _ in range(CHAIN_NODES // 4):
            h = torch.tanh(h @ w) * 0.5 + x
        h.sum().backward()
        return w.grad

    return Prepared(step)


def sgd(parameters: Any) -> Any:
    """With momentum."""
    return torch.optim.SGD(parameters, lr=SGD_LR, momentum=MOMENTUM)


def adam(parameters: Any) -> Any:
    """Without weight decay."""
    return torch.optim.Adam(parameters, lr=ADAM_LR)


def adamw(parameters: Any) -> Any:
    """With decoupled weight decay."""
    return torch.optim.AdamW(parameters, lr=ADAM_LR, weight_decay=WEIGHT_DECAY)


def on_device(prepare: Callable[[Arrays, Data], Prepared], precision: str) -> Callable[[Arrays, Data], Prepared]:
    """Steps that end when the GPU has done them; in bfloat16 with what `torch.autocast` makes of them."""

    def waiting(weights: Arrays, data: Data) -> Prepared:
        prepared = prepare(weights, data)

        def step() -> Any:
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
                found = prepared.step()
            torch.cuda.synchronize()
            return found

        return Prepared(step, lambda found: found.float().cpu().numpy())

    return waiting


def prepare(variant: str, threads: int) -> Table:
    """The table of a variant; a chain of thousands of operations isn't what `torch.compile` is for."""
    torch.set_num_threads(threads)
    precision = on_gpu(variant)
    if precision is not None:
        torch.set_default_device("cuda")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    compiler: Compiler = torch.compile if variant.startswith("compile") else lambda fn: fn
    resnet = training(compiler, models.resnet18, sgd)
    table: dict[str, Any] = {
        "linreg": linreg(compiler),
        "tiny": function(compiler, lambda x: x * 2.0 + 1.0),
        "mlp": training(compiler, models.mlp, adam),
        "lenet": training(compiler, models.lenet, sgd),
        "resnet18": resnet,
        "resnet18_infer": inference(compiler, models.resnet18),
        "gpt": training(compiler, models.gpt, adamw),
        "elementwise": function(compiler, lambda x, a: torch.tanh(x * a + 1.0) * x + functional.gelu(a)),
        "normsoftmax": function(
            compiler, lambda x: functional.softmax(functional.layer_norm(x, x.shape[-1:]) * 2.0, -1)
        ),
        "matmul": function(compiler, torch.matmul),
        "copy": function(compiler, lambda x: x * 1.0000001),
        "sum": function(compiler, torch.sum),
        "first_step": first_step(resnet),
    }
    if precision is not None:
        return {name: on_device(each, precision) for name, each in table.items()}
    return table if variant == "compile" else {**table, "chain": chain, "tracked_add": tracked_add}
