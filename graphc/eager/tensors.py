"""The eager tensor: a value, and the edge of the tape that it came by. How ops are called on it is in `taking.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.eager.calls import require_values
from graphc.eager.elsewhere import IN_PLACE, METHOD
from graphc.eager.modes import generator, modes, set_grad_enabled
from graphc.eager.tape import Edge, Entry, Handle, Leaf, drawn, walk
from graphc.errors import ArgumentError, GradientError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir import Node, Program, reachable
from graphc.op import Array
from graphc.operands import as_array
from graphc.operators import METHODS, Operators
from graphc.ops.control import identity
from graphc.ops.state import placeholder
from graphc.passes.modes import resolve_mode
from graphc.source import here
from graphc.types import TensorType, dtype_name, is_float, np_dtype
from graphc.values import converted

SHOWN_DTYPES = ("float32", "int64", "bool")  # those that a printed tensor doesn't name
new = object.__new__  # the constructor is for users, to be told how tensors are made


class Tensor(Operators):
    """A tensor that has its value; made by `tensor`, and by calling ops on tensors.

    Its value never changes in place: ops make new tensors, and `assign` gives a leaf another value. `==` compares
    elements, as all comparisons do; a tensor of one element is true or false, so `if` and `while` work.

    Attributes:
        type: dtype and shape.
    """

    __slots__ = ("__weakref__", "_array", "_edge", "type")
    __graphc_op__: ClassVar[Callable[..., Any]]  # from `taking.py`, which makes tensors
    __array_ufunc__: ClassVar[Callable[..., Any]]  # from `numpys.py`
    __array_function__: ClassVar[Callable[..., Any]]
    type: TensorType
    _array: Array
    _edge: Edge | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ArgumentError("Tensor is the class of tensors and makes none", hint="ge.tensor(data), ge.zeros(shape)")

    def __graphc_node__(self) -> Node:
        """What `gc.render` draws: the tape."""
        return placeholder("value", self.shape, self.dtype) if self._edge is None else drawn(self._edge)

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self.type.shape  # type: ignore[return-value]

    @property
    def dtype(self) -> str:
        """The dtype's name, such as `"float32"`."""
        return self.type.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.type.rank

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(self._array.size)

    @property
    def requires_grad(self) -> bool:
        """Whether calls on it are put on the tape."""
        return self._edge is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        self.requires_grad_(wanted)

    @property
    def is_leaf(self) -> bool:
        """Whether it is no result of a call on the tape."""
        return self._edge is None or isinstance(self._edge[0], Leaf)

    @property
    def grad_fn(self) -> Entry | None:
        """The entry on the tape that it is a result of."""
        return None if self.is_leaf or self._edge is None else self._edge[0]

    @property
    def grad(self) -> Tensor | None:
        """What backward passes have collected for this leaf; None before the first one, and for all other tensors."""
        leaf = self._leaf()
        return None if leaf is None else leaf.grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        leaf = self._leaf()
        if leaf is None:
            raise GradientError("only a leaf that requires a gradient has a .grad", hint="t.requires_grad_()")
        if value is not None and (not isinstance(value, Tensor) or value.type is not self.type):
            raise ShapeError(f"the gradient of {self.type} can't be {getattr(value, 'type', value)!s}")
        leaf.grad = value

    def _leaf(self) -> Leaf | None:
        return self._edge[0] if self._edge is not None and isinstance(self._edge[0], Leaf) else None

    # ------------------------------------------------------------------------------------------ its value

    @property
    def data(self) -> Tensor:
        """The value, without the tape; what is assigned to it becomes the value of the leaf."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        self.assign(value)

    def cpu(self) -> Tensor:
        """The tensor itself: values lie in main memory, whatever device computes."""
        return self

    def numpy(self) -> Array:
        """The value: a view that can't be written to."""
        view = self._array.view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype, copy=copy)

    def item(self) -> Any:
        """The value of a tensor of one element, as a Python number.

        Raises:
            ShapeError: it has another number of elements.
        """
        if self._array.size != 1:
            raise ShapeError(f"{self.type} isn't one number", hint="t.tolist(), or reduce it first: t.sum()")
        return self._array.item()

    def tolist(self) -> Any:
        """The value, as nested lists of Python numbers."""
        return self._array.tolist()

    def __bool__(self) -> bool:
        if self._array.size != 1:
            raise ShapeError(
                f"{self.type} is neither true nor false: it has {self._array.size} elements",
                hint="t.any() or t.all(), or gc.where(condition, a, b) to choose for each element",
            )
        return bool(self._array.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.type.rank or is_float(self.type.dtype):
            raise TypeError(f"{self.type} is no index")
        return int(self.item())

    def __len__(self) -> int:
        if not self.type.rank:
            raise ShapeError("a tensor without axes has no len()")
        return int(self._array.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __repr__(self) -> str:
        text = np.array2string(self._array, separator=", ", prefix="tensor(")
        parts = [text] if self.type.dtype in SHOWN_DTYPES else [text, f"dtype={self.type.dtype}"]
        if self.grad_fn is not None:
            parts.append(f"grad_fn={self.grad_fn!r}")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"tensor({', '.join(parts)})"

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec else str(self), spec)

    def __reduce__(self) -> Any:
        if not self.is_leaf:
            raise ArgumentError("a tensor with a tape can't be pickled or copied", hint="t.detach()")
        return tensor, (self._array, self.requires_grad)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Any:
        return NotImplemented if other is None or isinstance(other, str) else METHODS["equal"](self, other)

    def __ne__(self, other: object) -> Any:
        return NotImplemented if other is None or isinstance(other, str) else METHODS["not_equal"](self, other)

    # ------------------------------------------------------------------------------------------ gradients

    def backward(self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False) -> None:
        """Add to the `.grad` of every leaf that this tensor was computed from.

        Args:
            gradient: the weights of the elements; needed where this isn't one number.
            retain_graph: keep what another pass needs; by default where `create_graph` is.
            create_graph: put the pass on the tape, so that gradients have gradients.

        Raises:
            GradientError: it requires no gradient, or the tape was given up by an earlier pass.
        """
        before, modes.grad = modes.grad, create_graph
        try:
            walk([_seed(self, gradient)], None, create_graph if retain_graph is None else retain_graph)
        finally:
            modes.grad = before

    def detach(self) -> Tensor:
        """The value, without the tape."""
        return valued(self._array, self.type)

    def clone(self) -> Tensor:
        """The tensor, as a result of its own."""
        return identity(self)  # type: ignore[no-any-return]

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Make it a leaf that collects its gradient, or one that doesn't; returns the tensor itself.

        One that ceases to collect gives up what it has collected, and its hooks: PyTorch keeps the gradient, with which
        an optimizer still moves a weight that is meant to stay.

        Raises:
            GradientError: the result of a call can't give up its gradient, and only floats have one.
        """
        if not self.is_leaf:
            if not requires_grad:
                raise GradientError("the result of a call can't give up its gradient", hint="t.detach()")
        elif requires_grad != self.requires_grad:
            _require_float(self.type, requires_grad)
            self._edge = (Leaf(self.type), 0) if requires_grad else None
        return self

    def named(self, name: str) -> Tensor:
        """The tensor itself; a leaf that collects its gradient has this name in drawings of the tape."""
        leaf = self._leaf()
        if leaf is not None:
            leaf.title = name
        return self

    def register_hook(self, hook: Callable[[Tensor], Any]) -> Handle:
        """Let `hook(gradient)` see the gradient of this tensor in every pass, and replace it by what it returns.

        Returns:
            A handle, whose `remove()` ends it.

        Raises:
            ShapeError: in a pass, what it returns is of another type than the tensor.
        """
        if self._edge is None:
            raise GradientError("a tensor that requires no gradient has no hooks", hint="t.requires_grad_()")
        type = self.type

        def fitting(gradient: Tensor) -> Tensor | None:
            changed = hook(gradient)
            if changed is None:
                return None
            given = lifted(changed)
            if given.type is not type:
                raise ShapeError(f"a hook returned {given.type} for the gradient of {type}")
            return given

        return Handle(self._edge, fitting)

    # ------------------------------------------------------------------------------------------ new values

    def assign(self, value: Any) -> Tensor:
        """Give a leaf another value, of its shape, converted as feeds are; returns the tensor itself.

        Gradients of what was computed before are those at the old value.
        """
        if not self.is_leaf:
            raise ArgumentError("only a leaf can be given another value", hint="use the new value instead")
        array, misfit = converted(value._array if isinstance(value, Tensor) else value, self.type.dtype)
        if misfit or array.shape != self.type.shape:
            got = misfit or f"the shape {list(array.shape)}"
            raise ShapeError(f"a tensor of {self.type} can't be assigned {got}")
        self._array = array if isinstance(value, Tensor) else np.array(array, order="C", copy=True)
        return self

    def _start(self, value: Any) -> None:
        self.assign(value)

    initial = property(None, _start)  # what a module sets of the values that it holds
    trainable = requires_grad

    def __setitem__(self, index: Any, value: Any) -> None:
        raise ArgumentError(
            "the elements of a tensor can't be changed in place",
            hint="gc.where(mask, value, t) makes a changed one, and gc.scatter_add; t.assign(array) is for leaves",
        )

    def _in_place(self, name: str, other: Any) -> Any:
        """`t += x` makes a new tensor of this name; without a tape, a leaf with a gradient is given the value."""
        if self._leaf() is None:
            return METHODS[name](self, other)
        if modes.grad:
            raise ArgumentError(
                "a leaf that requires a gradient can't be changed in place while there is a tape",
                hint="with ge.no_grad(): w -= step; `w = w - step` makes a tensor that is no leaf",
            )
        return self.assign(METHODS[name](self, other))

    def __iadd__(self, other: Any) -> Any:
        return self._in_place("add", other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place("subtract", other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place("multiply", other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place("divide", other)

    def __ifloordiv__(self, other: Any) -> Any:
        return self._in_place("floor_divide", other)

    def __imod__(self, other: Any) -> Any:
        return self._in_place("remainder", other)

    def __ipow__(self, other: Any) -> Any:
        return self._in_place("power", other)

    def __imatmul__(self, other: Any) -> Any:
        return self._in_place("matmul", other)

    def __getattr__(self, name: str) -> Any:
        if name in METHOD:
            raise AttributeError(f"an eager tensor has no {name!r}: {METHOD[name]}")
        if name.endswith("_") and not name.startswith("_"):
            plain = name.rstrip("_")
            makes_new = f"t.{plain}(...) makes a new one" if plain in METHODS else "ops make new ones"
            remedy = IN_PLACE.get(name, f"{makes_new}; leaves have t.assign(value)")
            raise AttributeError(f"no tensor changes in place, so there is no {name!r}: {remedy}")
        return super().__getattr__(name)


# --------------------------------------------------------------------------------------------- making tensors


def tensor(data: Any, requires_grad: bool = False, dtype: Any = None) -> Tensor:
    """A tensor with a value of its own.

    Args:
        data: a number, a nested list of numbers, an array, or a tensor. Python floats become float32; arrays keep
            their dtype.
        requires_grad: collect the gradient in `.grad`; of floats only.
        dtype: of the result.

    Raises:
        ShapeError: a ragged list. DTypeError: no numbers. GradientError: a gradient of what isn't a float.

    Example:
        >>> from graphc import eager as ge
        >>> w = ge.tensor([1.0, 2.0], requires_grad=True)
        >>> (w * w).sum().backward()
        >>> w.grad
        tensor([2., 4.])
    """
    array = np.array(as_array(data._array if isinstance(data, Tensor) else data, dtype), order="C", copy=True)
    return wrapped(array).requires_grad_(requires_grad)


def valued(array: Array, type: TensorType, edge: Edge | None = None) -> Tensor:
    """What has all of a tensor, as one."""
    made = new(Tensor)
    made._array = array
    made.type = type
    made._edge = edge
    return made


def wrapped(array: Array) -> Tensor:
    """An array that nobody writes to, as a tensor."""
    return valued(array, TensorType(dtype_name(array.dtype), array.shape))


def lifted(value: Any) -> Tensor:
    """An operand as a tensor: arrays, numbers and nested lists; nodes by their value, if it is known.

    Raises:
        ArgumentError: a node that needs a value of a graph.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, Node):
        return wrapped(np.array(as_array(value), order="C", copy=True))  # the user may write to his array later
    (value,) = resolve_mode(Program((), (value,)), training=modes.training).outputs
    leaves = reachable([value])
    require_values(leaves)
    env = {leaf: generator.drawn(leaf) for leaf in leaves if leaf.op.kind == "random"}
    (array,) = evaluate([value], env)
    return valued(np.array(array, order="C"), value.tensor_type)


def _require_float(type: TensorType, wanted: bool) -> None:
    if wanted and not is_float(type.dtype):
        raise GradientError(f"only floats have gradients, and this is {type}", hint="ge.tensor(x, dtype='float32')")


def zeros(type: TensorType) -> Tensor:
    """Zeros of a type."""
    return valued(np.zeros(type.shape, np_dtype(type.dtype)), type)


# --------------------------------------------------------------------------------------------- gradients


def _seed(y: Tensor, gradient: Any) -> tuple[Edge, Tensor]:
    """Where a pass starts, and with what."""
    if y._edge is None:
        raise GradientError(
            f"this tensor, {y.type}, requires no gradient: nothing that it was computed from does",
            lines=[here()],
            hint="ge.tensor(..., requires_grad=True); under no_grad nothing is put on the tape",
        )
    if gradient is None:
        if y._array.size != 1:
            raise ShapeError(f"expected a scalar, got {y.type}", hint="reduce it: loss.mean(); or backward(gradient)")
        return y._edge, valued(np.ones(y.shape, np_dtype(y.dtype)), y.type)
    weights = lifted(gradient)
    if weights.shape != y.shape:
        raise ShapeError(f"the gradient of {y.type} can't be {weights.type}")
    return y._edge, weights if weights.type is y.type else weights.astype(y.dtype)


def _several(values: Any) -> list[Any]:
    """A list or tuple as a list; one value needs none."""
    return list(values) if isinstance(values, list | tuple) else [values]


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of `outputs` with respect to `inputs`; no `.grad` changes.

    Args:
        inputs: tensors that require a gradient, leaves or not.
        grad_outputs: the weights of each output's elements, in a list for several; needed where one isn't a scalar.
        retain_graph, create_graph: see `Tensor.backward`.
        allow_unused: give None for an input that no gradient reaches.

    Raises:
        GradientError: an input requires no gradient, or none reaches it.
    """
    ys, xs = _several(outputs), _several(inputs)
    weights = [None] * len(ys) if grad_outputs is None else _several(grad_outputs)
    if len(weights) != len(ys):
        raise ArgumentError(f"{len(ys)} outputs but {len(weights)} grad_outputs")
    edges = [x._edge for x in xs]
    with set_grad_enabled(create_graph):
        seeds = [_seed(y, weight) for y, weight in zip(ys, weights, strict=True)]
        asked = {edge for edge in edges if edge is not None}
        found = walk(seeds, asked, create_graph if retain_graph is None else retain_graph)
    missing = [x.type for x, edge in zip(xs, edges, strict=True) if edge is None or edge not in found]
    if missing and not allow_unused:
        raise GradientError(
            f"no gradient reaches an input of {', '.join(map(str, missing))}",
            lines=[here()],
            hint="allow_unused=True gives None for it; an input must require a gradient before it is used",
        )
    return tuple([None if edge is None else found.get(edge) for edge in edges])
