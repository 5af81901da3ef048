"""`Function`: a call on the tape with its own forward and backward, in Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from graphc.composites import items
from graphc.eager.modes import modes, no_grad
from graphc.eager.tape import Edge, Entry, numbers
from graphc.eager.tensors import Tensor, lifted, valued, zeros
from graphc.errors import ArgumentError, GradientError, ShapeError
from graphc.ir import Node, make
from graphc.operands import primitive
from graphc.source import here
from graphc.types import TensorType, TupleType, is_float


class Context:
    """What `forward` leaves for `backward`; any attribute may be set on it.

    Attributes:
        needs_input_grad: for each argument, whether a gradient is wanted.
    """

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._kept: tuple[Any, ...] = ()
        self._own: tuple[int | None, ...] = ()  # which results they are
        self._present: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._kept)

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep arguments, results or other tensors until a gradient has passed; None is kept as None."""
        self._kept = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` was given; in `backward`."""
        return self._present

    def results(self, made: Sequence[Tensor]) -> None:
        """Find the results of `forward` among what is kept, and keep the values of now: leaves may be given others."""
        self._own = tuple([next((k for k, y in enumerate(made) if y is kept), None) for kept in self._kept])
        self._kept = tuple([
            valued(kept._array, kept.type, kept._edge) if isinstance(kept, Tensor) else kept for kept in self._kept
        ])

    def present(self, entry: Entry | None) -> None:
        """Show what is kept, results as those of `entry`; or nothing any more.

        A result is kept without its edge: it would keep the entry alive that keeps the context.
        """
        pairs = zip(self._kept, self._own, strict=True) if entry is not None else ()
        self._present = tuple([
            kept if slot is None or entry is None else valued(kept._array, kept.type, (entry, slot))
            for kept, slot in pairs
        ])


class _Applied(Entry):
    """A call of a `Function`; what is saved is its context."""

    __slots__ = ("function", "outputs")

    def __init__(self, function: type[Function], parents: Sequence[Edge | None], context: Context) -> None:
        self.function = function
        self.parents = parents
        self.saved = context
        self.hooks = None
        self.number = next(numbers)
        self.outputs: Sequence[TensorType] = ()

    @property
    def label(self) -> str:
        """See `Entry.label`."""
        return self.function.__name__

    def types(self) -> Sequence[TensorType]:
        """See `Entry.types`."""
        return self.outputs

    def nodes(self, operands: Sequence[Node | None]) -> Sequence[Node]:
        """See `Entry.nodes`."""
        types = TupleType(self.outputs)
        opaque = primitive(self.label, lambda *operands: types, None, None, "opaque")
        return items(make(opaque, tuple([operand for operand in operands if operand is not None])))

    def pull(self, cotangents: Sequence[Any]) -> Iterable[tuple[Edge, Any]]:
        """Call `backward`, which gives a cotangent for each argument."""
        given = [zeros(type) if g is None else g for g, type in zip(cotangents, self.outputs, strict=True)]
        self.saved.present(self)
        returned = self.function.backward(self.saved, *given)
        self.saved.present(None)
        found = returned if isinstance(returned, tuple) else (returned,)
        if len(found) != len(self.parents):
            raise GradientError(
                f"{self.label}.backward returned {len(found)} gradients for {len(self.parents)} arguments",
                hint="return one for each, None where there is none",
            )
        for edge, g in zip(self.parents, found, strict=True):
            if edge is not None and g is not None:
                entry, slot = edge
                yield edge, _fitting(self.label, lifted(g), entry.types()[slot])


def _fitting(name: str, g: Tensor, type: TensorType) -> Tensor:
    if g.type is not type:
        raise ShapeError(f"{name}.backward gave a gradient of {g.type} for an argument of {type}")
    return g


class Function:
    """An operation with its own gradient, as torch's: subclass it and call `apply`.

    `forward(ctx, *args)` computes without a tape; `backward(ctx, *gradients)` takes a gradient for each result and
    returns one for each argument, or None. Written with ops, it can be differentiated again.

    Example:
        >>> from graphc import eager as ge
        >>> class Double(ge.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         return x * 2
        ...     @staticmethod
        ...     def backward(ctx, g):
        ...         return g * 2
        >>> x = ge.tensor(3.0, requires_grad=True)
        >>> Double.apply(x).backward()
        >>> x.grad
        tensor(2.)
    """

    @staticmethod
    def forward(ctx: Context, *args: Any) -> Any:
        """The result, or a tuple of several."""
        raise ArgumentError("a Function defines forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Context, *gradients: Any) -> Any:
        """The gradient of each argument."""
        raise ArgumentError("a Function defines backward(ctx, *gradients)", lines=[here()])

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Call `forward`, and put that on the tape."""
        edges = [arg._edge if isinstance(arg, Tensor) else None for arg in args]
        context = Context(tuple([edge is not None for edge in edges]))
        with no_grad():
            returned = cls.forward(context, *args)
        found = [lifted(y) for y in (returned if isinstance(returned, tuple) else (returned,))]
        if not (modes.grad and any(edges)):
            return returned
        context.results(found)
        entry = _Applied(cls, edges, context)
        entry.outputs = [y.type for y in found]
        made = tuple([
            valued(y._array, y.type, (entry, k) if is_float(y.dtype) else None) for k, y in enumerate(found)
        ])
        return made if isinstance(returned, tuple) else made[0]
