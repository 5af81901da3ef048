"""NumPy's functions on eager tensors are graphc's of the same name, so they are on the tape: `np.exp(t)`, `np.sum(t)`.

A function that graphc lacks sees the values of tensors that require no gradient, and refuses others: it would leave the
tape unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import graphc
from graphc.eager.modes import modes
from graphc.eager.taking import ROOMS
from graphc.eager.tensors import Tensor
from graphc.errors import GradientError
from graphc.op import Op
from graphc.operators import METHODS

OTHERWISE = {"absolute": "abs", "concatenate": "concat", "amax": "max", "amin": "min"}  # names in graphc
# Functions whose results have no gradient, whatever they are of.
HARMLESS = frozenset({"allclose", "isclose", "array_equal", "array_equiv", "array_repr", "array_str", "array2string"})
HARMLESS |= {"shape", "size", "ndim", "shares_memory", "may_share_memory"}


def _array_ufunc(self: Tensor, ufunc: np.ufunc, method: str, *operands: Any, **options: Any) -> Any:
    fn = _namesake(ufunc.__name__) if method == "__call__" and not options else None
    return fn(*operands) if fn is not None else _of_values(getattr(ufunc, method), ufunc.__name__, operands, options)


def _array_function(
    self: Tensor, fn: Callable[..., Any], types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    ours = _namesake(fn.__name__)
    return ours(*args, **kwargs) if ours is not None else _of_values(fn, fn.__name__, args, kwargs)


def _namesake(name: str) -> Callable[..., Any] | None:
    """graphc's function of this name: of tensors, and so of no file or graph."""
    name = OTHERWISE.get(name, name)
    fn = METHODS.get(name) or getattr(graphc, name, None)
    known = isinstance(fn, Op) or str(getattr(fn, "__module__", "")).startswith(ROOMS)
    return fn if known else None


def _of_values(fn: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return fn(*[_value(arg, name) for arg in args], **{key: _value(arg, name) for key, arg in kwargs.items()})


def _value(arg: Any, name: str) -> Any:
    """An argument with arrays in the place of tensors."""
    if isinstance(arg, Tensor):
        if arg.requires_grad and modes.grad and name not in HARMLESS:
            raise GradientError(
                f"np.{name} is none of graphc's functions: it has no gradient, and this tensor requires one",
                hint=f"np.{name}(t.numpy()) computes it of the value",
            )
        return arg.numpy()
    return type(arg)([_value(item, name) for item in arg]) if arg.__class__ in (list, tuple) else arg


def install() -> None:
    """Let NumPy ask tensors."""
    Tensor.__array_ufunc__ = _array_ufunc
    Tensor.__array_function__ = _array_function
