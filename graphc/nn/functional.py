"""Layers without parameters: a function of tensors, with its options set once. One line each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import new_class
from typing import Any, ClassVar, cast

from graphc.errors import ArgumentError, public
from graphc.nn.limits import require, require_windows
from graphc.nn.module import Module
from graphc.op import Op
from graphc.ops.activations import elu, gelu, leaky_relu, log_sigmoid, log_softmax, relu, silu, softmax, softplus
from graphc.ops.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from graphc.ops.math import sigmoid, tanh
from graphc.ops.nn import dropout
from graphc.ops.pooling import (
    adaptive_avg_pool2d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from graphc.ops.shape import flatten

REQUIRED = inspect.Parameter.empty
RENAMED = {"dim": "axis"}  # torch's names of options, where the functions have NumPy's
IGNORED = "inplace"  # where results are stored is the planner's to decide


class FunctionLayer(Module):
    """A layer that calls a function with the tensors it is given and its own options."""

    function: ClassVar[Callable[..., Any]]
    signature: ClassVar[inspect.Signature]
    rank: ClassVar[int]  # how many spatial axes its windows have; 0 without windows

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        kind = type(self)
        try:
            bound = self.signature.bind(*args, **options)
        except TypeError as error:
            raise ArgumentError(f"{kind.__name__}: {error}", hint=f"{kind.__name__}{self.signature}") from None
        self._given = dict(bound.arguments)
        bound.apply_defaults()
        self._options = {RENAMED.get(k, k): value for k, value in bound.arguments.items() if k != IGNORED}
        chosen = {k: value for k, value in self._given.items() if value is not self.signature.parameters[k].default}
        require(kind.__name__, **chosen)
        if self.rank:
            require_windows(self.function, self.rank, self._options)

    def forward(self, *tensors: Any) -> Any:
        """The function of the tensors."""
        return self.function(*tensors, **self._options)

    def extra_repr(self) -> str:
        """The options that were given."""
        return ", ".join(f"{name}={value!r}" for name, value in self._given.items() if name != IGNORED)


def function_layer(layer: str, function: Callable[..., Any], rank: int = 0, /, **options: Any) -> type[FunctionLayer]:
    """The layer class called `layer` that applies `function`.

    Args:
        rank: how many spatial axes the windows have that it slides; 0 if it slides none.
        options: the arguments of the constructor in order, with their defaults or `REQUIRED`; those of the function
            that torch's layer has.
    """
    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in options.items()
    ]
    signature = inspect.Signature(parameters)
    source = function.name if isinstance(function, Op) else function.__name__
    fields = {
        "function": staticmethod(public(function) if inspect.isfunction(function) else function),
        "signature": signature,
        "rank": rank,
        "__signature__": signature,
        "__doc__": f"`{source}` as a layer, with torch's options.",
        "__module__": __name__,
    }
    return cast(type[FunctionLayer], new_class(layer, (FunctionLayer,), exec_body=lambda body: body.update(fields)))


def _itself(x: Any) -> Any:
    return x


_pool = dict(kernel_size=REQUIRED, stride=None, padding=0)
_max_pool = dict(**_pool, dilation=1, return_indices=False, ceil_mode=False)
_avg_pool = dict(**_pool, ceil_mode=False, count_include_pad=True)

Identity = function_layer("Identity", _itself)
Flatten = function_layer("Flatten", flatten, start_dim=1, end_dim=-1)
Dropout = function_layer("Dropout", dropout, p=0.5, inplace=False)

ReLU = function_layer("ReLU", relu, inplace=False)
LeakyReLU = function_layer("LeakyReLU", leaky_relu, negative_slope=0.01, inplace=False)
ELU = function_layer("ELU", elu, alpha=1.0, inplace=False)
GELU = function_layer("GELU", gelu, approximate="none")
SiLU = function_layer("SiLU", silu, inplace=False)
Softplus = function_layer("Softplus", softplus, beta=1.0, threshold=20.0)
Sigmoid = function_layer("Sigmoid", sigmoid)
LogSigmoid = function_layer("LogSigmoid", log_sigmoid)
Tanh = function_layer("Tanh", tanh)
Softmax = function_layer("Softmax", softmax, dim=-1)
LogSoftmax = function_layer("LogSoftmax", log_softmax, dim=-1)

MaxPool1d = function_layer("MaxPool1d", max_pool1d, 1, **_max_pool)
MaxPool2d = function_layer("MaxPool2d", max_pool2d, 2, **_max_pool)
MaxPool3d = function_layer("MaxPool3d", max_pool3d, 3, **_max_pool)
AvgPool1d = function_layer("AvgPool1d", avg_pool1d, 1, **_avg_pool)
AvgPool2d = function_layer("AvgPool2d", avg_pool2d, 2, **_avg_pool)
AvgPool3d = function_layer("AvgPool3d", avg_pool3d, 3, **_avg_pool)
AdaptiveAvgPool2d = function_layer("AdaptiveAvgPool2d", adaptive_avg_pool2d, output_size=REQUIRED)

CrossEntropyLoss = function_layer(
    "CrossEntropyLoss", cross_entropy, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0
)
NLLLoss = function_layer("NLLLoss", nll_loss, weight=None, ignore_index=-100, reduction="mean")
BCELoss = function_layer("BCELoss", binary_cross_entropy, weight=None, reduction="mean")
BCEWithLogitsLoss = function_layer(
    "BCEWithLogitsLoss", binary_cross_entropy_with_logits, weight=None, reduction="mean", pos_weight=None
)
MSELoss = function_layer("MSELoss", mse_loss, reduction="mean")
L1Loss = function_layer("L1Loss", l1_loss, reduction="mean")
SmoothL1Loss = function_layer("SmoothL1Loss", smooth_l1_loss, reduction="mean", beta=1.0)
HuberLoss = function_layer("HuberLoss", huber_loss, reduction="mean", delta=1.0)
