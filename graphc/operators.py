"""What `x + y`, `x[1:]` and `x.sum()` mean, for everything that stands for a tensor.

Nodes, rewrite patterns and eager tensors share this mixin. The meanings live with the ops, which sit above this
module: an op's room registers them here with `@method`, so no import runs uphill.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import isfunction
from typing import Any, TypeVar

from graphc.errors import did_you_mean, public

METHODS: dict[str, Callable[..., Any]] = {}

_VALUE = "its value belongs to a run: sess.run(x)"
_CAST = "gc.cast(x, dtype) converts, and x.astype(dtype)"
_DEVICE = "the device belongs to the session: gc.Session(device=...)"

# Where to find what torch's tensors have and these don't.
ELSEWHERE = {
    **dict.fromkeys(("item", "numpy", "tolist", "data", "eval"), _VALUE),
    **dict.fromkeys(("float", "double", "half", "int", "long", "bool", "type"), _CAST),
    **dict.fromkeys(("cuda", "cpu", "device"), _DEVICE),
    "to": f"{_CAST}; {_DEVICE}",
    "backward": "gc.gradients(loss, variables) makes gradients, optimizer.minimize(loss) a step; gc.eager has it",
    "grad": "gc.gradients(loss, [x]) makes the gradient, a tensor",
    "requires_grad": "a variable's `trainable` says whether minimize trains it",
    "dim": "x.ndim",
    "t": "x.T",
}

F = TypeVar("F", bound=Callable[..., Any])


def method(*names: str) -> Callable[[F], F]:
    """Register a function as the meaning of the named methods of every tensor."""

    def register(fn: F) -> F:
        METHODS.update(dict.fromkeys(names, public(fn) if isfunction(fn) else fn))
        return fn

    return register


class Operators:
    """Arithmetic, comparison and indexing operators, and NumPy's methods, by way of `METHODS`."""

    __slots__ = ()
    __array_priority__ = 1000  # ndarray + tensor is left to the tensor; np.tanh(tensor) asks it for an array

    def __add__(self, other: Any) -> Any:
        return METHODS["add"](self, other)

    def __radd__(self, other: Any) -> Any:
        return METHODS["add"](other, self)

    def __sub__(self, other: Any) -> Any:
        return METHODS["subtract"](self, other)

    def __rsub__(self, other: Any) -> Any:
        return METHODS["subtract"](other, self)

    def __mul__(self, other: Any) -> Any:
        return METHODS["multiply"](self, other)

    def __rmul__(self, other: Any) -> Any:
        return METHODS["multiply"](other, self)

    def __truediv__(self, other: Any) -> Any:
        return METHODS["divide"](self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return METHODS["divide"](other, self)

    def __floordiv__(self, other: Any) -> Any:
        return METHODS["floor_divide"](self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return METHODS["floor_divide"](other, self)

    def __mod__(self, other: Any) -> Any:
        return METHODS["remainder"](self, other)

    def __rmod__(self, other: Any) -> Any:
        return METHODS["remainder"](other, self)

    def __pow__(self, other: Any) -> Any:
        return METHODS["power"](self, other)

    def __rpow__(self, other: Any) -> Any:
        return METHODS["power"](other, self)

    def __matmul__(self, other: Any) -> Any:
        return METHODS["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return METHODS["matmul"](other, self)

    def __neg__(self) -> Any:
        return METHODS["negative"](self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return METHODS["abs"](self)

    def __invert__(self) -> Any:
        return METHODS["logical_not"](self)

    def __and__(self, other: Any) -> Any:
        return METHODS["logical_and"](self, other)

    def __rand__(self, other: Any) -> Any:
        return METHODS["logical_and"](other, self)

    def __or__(self, other: Any) -> Any:
        return METHODS["logical_or"](self, other)

    def __ror__(self, other: Any) -> Any:
        return METHODS["logical_or"](other, self)

    def __lt__(self, other: Any) -> Any:
        return METHODS["less"](self, other)

    def __le__(self, other: Any) -> Any:
        return METHODS["less_equal"](self, other)

    def __gt__(self, other: Any) -> Any:
        return METHODS["greater"](self, other)

    def __ge__(self, other: Any) -> Any:
        return METHODS["greater_equal"](self, other)

    def __getitem__(self, index: Any) -> Any:
        return METHODS["getitem"](self, index)

    @property
    def T(self) -> Any:  # noqa: N802 - NumPy's name
        """The axes in reverse order."""
        return METHODS["T"](self)

    @property
    def mT(self) -> Any:  # noqa: N802
        """The last two axes exchanged."""
        return METHODS["mT"](self)

    def __getattr__(self, name: str) -> Any:
        fn = METHODS.get(name)
        if fn is None:
            known = {} if name.startswith("_") else dict.fromkeys((*METHODS, *dir(type(self))))  # Python asks for those
            remedy = f"; {ELSEWHERE[name]}" if name in ELSEWHERE else did_you_mean(name, known)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{remedy}")
        return partial(fn, self)
