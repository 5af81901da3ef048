"""The eager twin: the same ops, gradient rules and kernels, one call at a time over a tape.

    from graphc import eager as ge
    w = ge.tensor(1.0, requires_grad=True)
    loss = ((w * x - y) ** 2).mean()
    loss.backward()
    w.grad

Every function of graphc takes eager tensors: `gc.softmax(t)`, `t.sum()`, `gc.losses.cross_entropy(t, labels)`. Those
that take none are here under their names, such as `ge.zeros((3,))` and `ge.random.normal((3,))`. `ge.module` and
`ge.optimizer` make the twins of modules and optimisers. The program of one op is compiled when it is first called on
operands of its types; a number beside floats is an operand, so another one costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

import graphc
import graphc.random
from graphc.eager import numpys, taking
from graphc.eager.calls import set_device
from graphc.eager.elsewhere import ROOM
from graphc.eager.function import Context, Function
from graphc.eager.models import Optimizer, module, optimizer
from graphc.eager.modes import enable_grad, is_grad_enabled, manual_seed, no_grad, set_grad_enabled, set_training
from graphc.eager.taking import ROOMS
from graphc.eager.tensors import Tensor, grad, lifted, tensor
from graphc.errors import did_you_mean, publish
from graphc.ir import Node
from graphc.op import Op
from graphc.printer import text

__all__ = [
    "Context",
    "Function",
    "Optimizer",
    "Tensor",
    "enable_grad",
    "grad",
    "is_grad_enabled",
    "manual_seed",
    "module",
    "no_grad",
    "optimizer",
    "random",
    "set_device",
    "set_grad_enabled",
    "set_training",
    "tensor",
]


def _evaluated(value: Any) -> Any:
    """What a function returned, with tensors in the place of nodes."""
    if isinstance(value, Node):
        return lifted(value)
    return type(value)(map(_evaluated, value)) if isinstance(value, list | tuple) else value


class _Room:
    """The functions of a module of graphc, which give eager tensors whatever they are called on."""

    def __init__(self, module: ModuleType, draws: bool = False) -> None:
        self.__module = module
        self.__draws = draws

    def __getattr__(self, name: str) -> Callable[..., Any]:
        fn = getattr(self.__module, name, None)
        known = isinstance(fn, Op) or str(getattr(fn, "__module__", "")).startswith(ROOMS)
        if fn is None or not known or isinstance(fn, type):
            near = did_you_mean(name, dict.fromkeys((*__all__, *self.__module.__all__)))
            raise AttributeError(f"graphc.eager has no {name!r}{f': {ROOM[name]}' if name in ROOM else near}")

        @wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            def evaluate() -> Any:
                return _evaluated(fn(*args, **kwargs))

            return evaluate() if self.__draws else taking.of_numbers(fn, args, kwargs, evaluate)

        return call


random = _Room(graphc.random, draws=True)
__getattr__ = _Room(graphc).__getattr__
publish(globals())
taking.install()
numpys.install()


@text.register
def _(x: Tensor, *, sources: bool = False) -> str:
    return text(x.__graphc_node__(), sources=sources)  # the tape, as it is drawn
