"""Leaves that a user declares, and what changes variables: placeholders, variables, updates, modes.

Assigning to a variable is an *output* of a program, not a side effect: all reads of a run see the values from before
it, and all its updates are committed together after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from graphc.dims import shape_text, symbol
from graphc.errors import ArgumentError, DTypeError, ShapeError, StateError
from graphc.ir import Leaf, Node, reachable
from graphc.occurrences import current_occurrence
from graphc.op import Array, NoGradient, Op, Sample
from graphc.operands import (
    as_array,
    constant,
    expand,
    one_type,
    pointwise_operands,
    primitive,
    splat,
    zeros_like,
)
from graphc.source import assigned_name, here, user_site
from graphc.types import TensorType, dtype_name, is_float, np_dtype, parse_shape
from graphc.values import converted

# What makes a variable's first value: `(seed, name, shape, dtype) -> array`, depending on nothing else.
Initializer = Callable[[int, str, tuple[int, ...], str], Array]
Initial = Array | Initializer | Node


class Zeros:
    """An initialiser: zeros. Who makes many values at once can do without calling it."""

    def __call__(self, seed: int, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        return np.zeros(shape, np_dtype(dtype))  # of memory that nothing touches before it is used


placeholder_op = primitive("placeholder", one_type, None, NoGradient("a placeholder depends on nothing"), "placeholder")
variable_op = primitive("variable", one_type, None, NoGradient("a variable depends on nothing"), "variable")


def leaf_name(name: str | None, kind: str) -> str:
    """`name` if it can be one; without one, the name that the caller's result is being assigned to, or `kind`.

    Raises:
        ArgumentError: an empty name, or one with `/` at an end or a control character in it.
    """
    if name is None:
        return assigned_name(*user_site(2)) or kind
    if not isinstance(name, str) or not name or name.strip("/") != name or not name.isprintable():
        raise ArgumentError(f"a {kind} can't be named {name!r}", hint=f"gc.{kind}('x', ...) with a printable name")
    return name


class Placeholder(Leaf):
    """A value that every run is given; made by `placeholder`.

    Attributes:
        default: the value of runs that feed none, or None where a feed is needed.
    """

    __slots__ = ("default",)
    default: Array | None


def placeholder(
    name: str | None = None, shape: Any = (), dtype: Any = "float32", *, default: Any = None
) -> Placeholder:
    """Declare a value to be fed.

    Args:
        name: unique in the graph (numbered if it isn't); by default the name it is assigned to.
        shape: ints, names or expressions of symbolic dimensions (`"batch"`, `"2*h+1"`), or None for a dimension
            that is called after the placeholder. Equal names are equal sizes in every run.
        dtype: the dtype of the fed array; float64 data fed to float32 is converted silently.
        default: the value of runs that don't feed it.

    Raises:
        ShapeError: a dimension that is no size. DTypeError: a dtype that graphc doesn't know.
    """
    name = leaf_name(name, "placeholder")
    dims = (shape,) if isinstance(shape, int | str) or shape is None else tuple(shape)
    stem = "".join(c if c.isalnum() else "_" for c in name)
    named = [symbol(f"{stem}_dim{axis}") if dim is None else dim for axis, dim in enumerate(dims)]
    type = TensorType(dtype_name(dtype), parse_shape(named))
    leaf = Placeholder(placeholder_op, type, name)
    leaf.default = None if default is None else frozen_value(as_array(default, dtype), type, leaf.name)
    return leaf


def frozen_value(array: Array, type: TensorType, name: str) -> Array:
    """A read-only copy of `array`, which must have `type`."""
    fits = len(array.shape) == len(type.shape) and all(
        d == n for d, n in zip(type.shape, array.shape, strict=True) if isinstance(d, int)
    )
    if not fits or array.dtype != np_dtype(type.dtype):
        got = TensorType(dtype_name(array.dtype), array.shape)
        raise ShapeError(f"{name} is {type}, but the value given is {got}")
    owned = array.copy()
    owned.setflags(write=False)
    return owned


class Recipe(NamedTuple):
    """What makes the first value of a variable, checked, and the type of that value."""

    initial: Initial
    type: TensorType


def recipe(initial: Any, name: str, shape: Any = None, dtype: Any = None) -> Recipe:
    """The recipe of a variable; arguments as of `Variable`."""
    if isinstance(initial, Recipe):
        return initial
    if isinstance(initial, Node):
        type = initial.tensor_type
        fed = next((node for node in reachable([initial]) if isinstance(node, Placeholder)), None)
        if fed is not None:
            raise ArgumentError(
                f"the first value of {name!r} can't depend on {fed.name!r}, which each run is fed anew",
                hint="start from a constant, and sess.run(w.assign(value), feeds)",
            )
        if type.symbolic:
            raise ShapeError(f"a variable's size must be known, but {name!r} would be {type}")
        return Recipe(initial, type)
    if callable(initial):
        if shape is None:
            raise ArgumentError(f"the initialiser of {name!r} needs shape=")
        return Recipe(initial, TensorType("float32" if dtype is None else dtype_name(dtype), parse_shape(shape)))
    array = as_array(initial, dtype)
    type = TensorType(dtype_name(array.dtype), array.shape if shape is None else parse_shape(shape))
    return Recipe(frozen_value(array, type, name), type)


class Variable(Leaf):
    """A value that a session keeps between runs and that updates change.

    Args:
        initial: the first value (a number, list or array), an initialiser `(seed, name, shape, dtype) -> array`
            with `shape` given, or a tensor built from other variables and constants.
        name: unique in the graph; the seed of a random initialiser depends on it alone.
        trainable: whether optimisers change it by default; floats are, integers can't be.
        shape, dtype: of the value; needed for an initialiser, otherwise taken from the value.

    There is no separate initialisation: a session makes the value when it is first needed.
    """

    __slots__ = ("_trainable", "initial")
    initial: Initial

    def __init__(
        self,
        initial: Any,
        name: str | None = None,
        trainable: bool | None = None,
        *,
        shape: Any = None,
        dtype: Any = None,
    ) -> None:
        name = leaf_name(name, "variable")
        self.initial, type = recipe(initial, name, shape, dtype)
        super().__init__(variable_op, type, name)
        self.trainable = is_float(type.dtype) if trainable is None else trainable

    @property
    def trainable(self) -> bool:
        """Whether `gradients` and `minimize` consider it by default; counts when they are called."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if value and not is_float(self.dtype):
            raise DTypeError(f"{self.name!r} is {self.type}: only float variables can be trained")
        self._trainable = bool(value)

    def assign(self, value: Any, *, training: bool = False) -> Updates:
        """The update that makes `value` this variable's value after the run; `training` makes it a training one.

        Numbers, lists and arrays are converted as feeds are: float64 to float32, integers where they fit exactly.

        Raises:
            ShapeError, DTypeError: `value` has another shape (it may broadcast) or dtype.
        """
        return Updates({self: (fitted(self, value), here())}, training=training)

    def assign_add(self, value: Any, *, training: bool = False) -> Updates:
        """The update that adds `value`, which is converted as that of `assign`."""
        return Updates({self: (fitted(self, self + _term(self, value)), here())}, training=training)

    def assign_sub(self, value: Any, *, training: bool = False) -> Updates:
        """The update that subtracts `value`, which is converted as that of `assign`."""
        return Updates({self: (fitted(self, self - _term(self, value)), here())}, training=training)


def fitted(variable: Variable, value: Any) -> Node:
    """`value` as a node of the variable's type.

    Raises:
        ShapeError, DTypeError: it has another shape, which can't be broadcast, or dtype; both are told.
    """
    type = variable.tensor_type
    given, misfit, remedy = _as_given(value, type.dtype)
    try:
        expanded: Node = expand(given, type.shape)
        if not misfit:
            return expanded
        what = misfit
    except ShapeError:
        what = f"{misfit or given.type}; shape {shape_text(given.shape)} isn't {shape_text(type.shape)}"
    raise (DTypeError if misfit else ShapeError)(
        f"{variable.name!r} is {type} and can't be assigned {what}", hint=remedy, lines=[here(), variable.made_at]
    )


def _as_given(value: Any, dtype: str) -> tuple[Any, str, str | None]:
    """A value as a tensor of its shape, what about its dtype doesn't fit, and the remedy."""
    if _is_tensor(value):
        fits = value.dtype == dtype
        return value, "" if fits else str(value.type), None if fits else f"gc.cast(value, {dtype!r})"
    array, misfit = converted(value, dtype)
    if misfit:  # zeros stand for it: they have its shape
        return splat(0, TensorType(dtype, () if array is None else array.shape)), misfit, None
    return constant(array), "", None


def _term(variable: Variable, value: Any) -> Any:
    """What is added to a variable: a tensor as it is, which may be promoted, and any other value in its dtype."""
    return value if _is_tensor(value) else fitted(variable, value)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Node) or hasattr(value, "__graphc_op__")


class Updates(Mapping[Variable, Node]):
    """New values of variables, to be fetched; fetching it returns None and commits them all after the run.

    `updates[w]` is the new value of `w`, itself fetchable.

    Attributes:
        pairs: each variable with its new value.
        training: whether a run that fetches it is a training run.
        losses: what is minimised: statistics tracked on the way to it are updated too, even where no gradient
            depends on them.
    """

    def __init__(
        self, new: Mapping[Variable, tuple[Node, str]], *, training: bool = False, losses: tuple[Node, ...] = ()
    ) -> None:
        self.new = dict(new)
        self.pairs = tuple([(variable, value) for variable, (value, _) in self.new.items()])
        self.training = training
        self.losses = losses
        self.occurrence = current_occurrence(2)

    def __getitem__(self, variable: Variable) -> Node:
        return self.new[variable][0]

    def __iter__(self) -> Iterator[Variable]:
        return iter(self.new)

    def __len__(self) -> int:
        return len(self.new)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"<Updates of {', '.join(v.name for v in self.new) or 'nothing'}>"


def group(*updates: Updates) -> Updates:
    """All of `updates` as one; it is a training update if one of them is.

    Raises:
        StateError: two different new values for one variable, with both lines.
    """
    merged: dict[Variable, tuple[Node, str]] = {}
    for update in updates:
        for variable, (value, line) in update.new.items():
            known = merged.setdefault(variable, (value, line))
            if known[0] is not value:
                raise conflict(variable.name, known[1], line)
    losses = dict.fromkeys(loss for update in updates for loss in update.losses)
    return Updates(merged, training=any(update.training for update in updates), losses=tuple(losses))


def conflict(name: str, first: str, second: str) -> StateError:
    """Two different new values for one variable in one run."""
    return StateError(
        f"variable {name!r} is given two different values in one run",
        lines=[f"at {first}", f"at {second}"],
        hint="run the updates one after the other, or combine the values into one assign",
    )


# --------------------------------------------------------------------------------------------- modes


def _same_operands(rng: np.random.Generator) -> list[Sample]:
    return [Sample((rng.standard_normal(s), rng.standard_normal(s))) for s in ((3, 5), (), (0, 2))]


by_mode: Op = primitive(
    "by_mode",
    one_type,
    lambda train, evaluation: evaluation,
    lambda g, y, train, evaluation: (by_mode(g, zeros_like(g)), by_mode(zeros_like(g), g)),
    "mode",
    coerce=pointwise_operands,
    samples=_same_operands,
    doc="`train` in training runs and `evaluation` in all others; the other branch is not computed.",
)


def _infer_tracked(x: TensorType, variable: TensorType, new: TensorType) -> TensorType:
    if variable is not new:
        raise ShapeError(f"a variable of type {variable} can't be given {new}")
    return x


tracked = primitive(
    "tracked",
    _infer_tracked,
    lambda x, variable, new: x,
    lambda g, y, x, variable, new: (g, None, None),
    "auxiliary",
    samples=lambda rng: [Sample(tuple(rng.standard_normal(s) for s in ((3, 5), (5,), (5,))))],
    doc="`x`; in a training run that computes it, the variable gets the new value (batch-norm statistics).",
)
