"""What an operation *means*, in one value: its type rule, its NumPy reference, its symbolic gradient, its samples.

How a target runs an op lives in that target's table. Operand handling (promotion, broadcasting) is `operands.py`;
ops that are defined by other ops are `composites.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc import ir
from graphc.attrs import Attrs, normalise
from graphc.cached import cached_property
from graphc.dims import Dim, take_guards
from graphc.errors import ArgumentError, GraphcError, did_you_mean
from graphc.ir import Node, make
from graphc.occurrences import current_occurrence
from graphc.types import Type

Array = np.ndarray[Any, Any]
MAX_FROZEN = 1024  # sets of attributes that an op remembers
MAX_RESULTS = 1024  # calls whose result's type it remembers
Cotangents = tuple[Node | None, ...]


@dataclass(frozen=True)
class Sample:
    """One valid call of an op for the generated tests: operands, and attributes.

    Operands are NumPy arrays (float ones are float64 and are cast to each dtype under test). `differentiable` is
    False at points where a finite difference means nothing (kinks, ties).
    """

    args: tuple[Any, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    differentiable: bool = True


Samples = Callable[[np.random.Generator], Iterable[Sample]]


@dataclass(frozen=True)
class NoGradient:
    """The decision that an op passes no gradient, with the reason that a report on a cut path gives."""

    reason: str


@dataclass(frozen=True, eq=False)
class Op:
    """An operation; ops are compared by identity, so a user's own `softmax` is not ours.

    Attributes:
        name: as shown in messages and pictures.
        infer: `(*operand types, **attrs) -> Type`, a pure function, whose results are remembered; raises ShapeError or
            DTypeError for what doesn't fit.
        coerce: `(op, args) -> operands`: turns what the user passed into nodes (see `operands.py`).
        ref: `(*arrays, **attrs) -> array(s)`, the NumPy meaning and the oracle of every test. Composites have none:
            their body is evaluated. 16-bit floats arrive as float32, and results are rounded once, on return.
        vjp: `(g, y, *inputs, **attrs) -> one cotangent for each input (None: nothing flows)`, written with ops, or
            `NoGradient(reason)`. A composite without one is differentiated through its body.
        kind: the trait that passes ask: parameter, placeholder, variable, constant, iota (counts), pointwise,
            view, concat (assembled from regions), reduce, contract, conv, window, index, sort, scan, random, extent,
            opaque, mode, auxiliary, tuple, composite.
        accepts: for pointwise ops, the dtype class of each operand (see `ACCEPTS`; the last one repeats).
        injective: no element of an operand counts twice in the result, and `vjp` only moves elements, of bools too: so
            the mask of a cotangent may be moved through it.
        commutative: operands may be swapped; patterns match both orders.
        positions: of an op whose results are positions, `node -> in how many elements`.
        indexed: the last operands are indices into the first, one for each of the attribute `axes`.
        required, defaults: names of attributes that must be given, and those with a default value.
        samples: calls for the generated tests.
    """

    name: str
    infer: Callable[..., Type]
    coerce: Callable[[Op, Sequence[Any]], tuple[Node, ...]]
    ref: Callable[..., Any] | None = None
    vjp: Callable[..., Cotangents] | NoGradient | None = None
    kind: str = "opaque"
    accepts: tuple[str, ...] = ("any",)
    injective: bool = False
    commutative: bool = False
    positions: Callable[[Node], Dim] | None = None
    indexed: bool = False
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    samples: Samples | None = None
    doc: str = ""

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        """Apply the op: operands are tensors, arrays, numbers or nested lists; attributes go by name.

        An operand that has `__graphc_op__(op, args, attrs)` takes the call: eager tensors and rewrite patterns do.
        """
        for arg in args:
            if not isinstance(arg, Node) and hasattr(arg, "__graphc_op__"):
                return arg.__graphc_op__(self, args, attrs)
        frozen = self.frozen_attrs(attrs) if attrs else self._default_attrs
        return make(self, self.operands(args), frozen)

    def operands(self, args: Sequence[Any]) -> tuple[Node, ...]:
        """The nodes that the op takes for what the user passed; an error names the op and the user's lines."""
        try:
            return self.coerce(self, args)
        except GraphcError as error:
            take_guards()
            nodes = [arg for arg in args if isinstance(arg, Node)]
            raise ir.explain(error, self, nodes, current_occurrence())  # noqa: B904 - the same error, with lines

    @cached_property
    def _default_attrs(self) -> Attrs:
        return self.frozen_attrs({})

    def frozen_attrs(self, attrs: Mapping[str, Any]) -> Attrs:
        """`attrs` with the defaults filled in, normalised.

        Raises:
            ArgumentError: an unknown attribute (near names are offered) or a missing one; all are told.
        """
        key = _plain_key(attrs)
        found = None if key is None else self._frozen.get(key)
        if found is None:
            found = self._checked_attrs(attrs)
            if key is not None:
                if len(self._frozen) >= MAX_FROZEN:
                    self._frozen.clear()
                self._frozen[key] = found
        return found

    @cached_property
    def _frozen(self) -> dict[Any, Attrs]:
        return {}

    @cached_property
    def results(self) -> dict[tuple[Any, ...], Type]:
        """The types of results of recent calls that recorded no guard.

        A call without attributes is known by the types of its operands, another by those and the key of its attributes.
        """
        return {}

    def remember(self, call: tuple[Any, ...], result: Type) -> None:
        """Add to `results`, which stays bounded."""
        if len(self.results) >= MAX_RESULTS:
            self.results.clear()
        self.results[call] = result

    def _checked_attrs(self, attrs: Mapping[str, Any]) -> Attrs:
        known = (*self.required, *self.defaults)
        wrong = [f"has no argument {n!r}{did_you_mean(n, known)}" for n in attrs if n not in known]
        wrong += [f"needs the argument {n!r}" for n in self.required if n not in attrs]
        if wrong:
            raise ArgumentError(f"{self.name}: {' and '.join(wrong)}")
        return Attrs({name: normalise(value) for name, value in {**self.defaults, **attrs}.items()})


def _plain_key(attrs: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """A type-exact key of attributes that are ints, strings or tuples of ints, as nearly all are; else None."""
    parts = []
    for name, value in attrs.items():
        kind = value.__class__
        if kind is tuple:
            for entry in value:
                if entry.__class__ is not int:
                    return None
        elif kind not in (int, str, bool):
            return None
        parts.append((name, kind, value))
    return tuple(parts)


def collect(modules: Iterable[Any]) -> dict[str, Op]:
    """The ops that `modules` define, by name; a name that is defined twice is an error.

    The registry is worked out from the modules instead of being filled at declaration, so a user's own ops (and a
    notebook cell that declares one again) can't collide with ours.
    """
    found: dict[str, Op] = {}
    for module in modules:
        for op in vars(module).values():
            if isinstance(op, Op) and found.setdefault(op.name, op) is not op:
                raise ArgumentError(f"two ops are named {op.name!r}; the second is in {module.__name__}")
    return found
