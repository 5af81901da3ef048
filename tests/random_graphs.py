"""Random programs over every op of the registry, with values for their leaves: what passes and targets are tested on.

A program grows from leaves one op at a time. Each new node is evaluated at once, so that the values stay finite and
of moderate size, and so that what depends on the order of additions (sums, contractions) is only ever applied to
whole numbers, whose sums are exact in any order. Every correct way to run a program then gives the same bits.

The choices come from a `Source`: random numbers, or a tape of bytes that hypothesis draws (and shrinks if it fails).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import hypothesis.strategies as st
import numpy as np
from op_testing import is_array, retyped, samples_of

from graphc.composites import items
from graphc.dims import symbol
from graphc.errors import GraphcError
from graphc.evaluate import bind_attrs, compute
from graphc.ir import Graph, Node, Program, toposort
from graphc.op import NoGradient, Op
from graphc.operands import ACCEPTS, broadcast_op, cast, constant
from graphc.ops import REGISTRY
from graphc.ops.math import clip, round_op
from graphc.ops.random import Draw, bernoulli, integers, normal, uniform
from graphc.ops.shape import broadcast_to, expand_dims, flip, reshape, squeeze, transpose
from graphc.ops.slicing import slice_op
from graphc.ops.state import Variable, by_mode, placeholder, tracked
from graphc.printer import text
from graphc.types import DTYPES, TensorType, is_float, np_dtype

T = TypeVar("T")
Array = np.ndarray[Any, Any]

LIMIT = 1e4  # the largest magnitude of a value
MANY = 20_000  # elements, at most, of a value
TRIES = 5  # moves that are tried until one works out
SEED = 7  # of the draws
TAPE = 600  # bytes of choices


class Source(Protocol):
    """Where choices come from."""

    def integer(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        ...


class Numbers:
    """Choices from a random generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        """See `Source`."""
        return int(self.rng.integers(low, high + 1))


class Tape:
    """Choices from bytes, one or two for each; the least one after their end, so that short tapes are small cases."""

    def __init__(self, tape: bytes) -> None:
        self.tape = iter(tape)

    def integer(self, low: int, high: int) -> int:
        """See `Source`."""
        count = high - low + 1
        number = next(self.tape, 0)
        if count > 256:
            number += 256 * next(self.tape, 0)
        return low + number % count


@dataclass(frozen=True)
class Case:
    """A program with values for everything that it is given.

    Attributes:
        values: arrays of placeholders and variables.
        dims: sizes of the symbolic dimensions.
        draws: what the random leaves draw from.
        exact: for each root, whether its bits don't depend on the order of additions.
        training: the mode in which the values stay finite and moderate.
    """

    program: Program
    values: Mapping[Node, Array]
    dims: Mapping[str, int]
    draws: Mapping[Node, tuple[int, int, int]]
    exact: tuple[bool, ...]
    training: bool = False

    def __repr__(self) -> str:
        given = [f"{leaf.display_name} = {array.tolist()}" for leaf, array in self.values.items()]
        mode = "training" if self.training else "evaluation"
        return "\n".join([f"a case in {mode}, {dict(self.dims)}:", text(self.program), *given])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # hypothesis shows this


@dataclass
class _Value:
    node: Node
    array: Array
    exact: bool


@dataclass
class Builder:
    """A program in the making."""

    source: Source
    pool: list[_Value] = field(default_factory=list)
    values: dict[Node, Array] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    draws: dict[Node, tuple[int, int, int]] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    tracked: list[Variable] = field(default_factory=list)
    training: bool = False

    # ------------------------------------------------------------------------------------------ choices

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[self.source.integer(0, len(choices) - 1)]

    def chance(self, percent: int) -> bool:
        """True so often; False, the simpler case, for the least choice."""
        return self.source.integer(0, 99) >= 100 - percent

    def recent(self, wanted: Callable[[_Value], bool] = lambda value: True) -> _Value | None:
        """A value of the pool, one of the last ones more often."""
        found = [value for value in self.pool if wanted(value)]
        if not found:
            return None
        return self.pick(found[-4:] if self.chance(60) else found)

    # ------------------------------------------------------------------------------------------ values

    def add(self, node: Any, *, exact: bool = True) -> bool:
        """Put a node, with whatever it was built from, into the pool, unless its values are of no use."""
        try:
            array = self.evaluate(node)
        except (GraphcError, ValueError, IndexError, ZeroDivisionError, OverflowError):
            return False  # values that the op refuses, such as an empty maximum
        with np.errstate(all="ignore"):
            wide = array.astype(np.float64)
        if array.size > MANY or not np.all(np.isfinite(wide)) or (wide.size and np.max(np.abs(wide)) > LIMIT):
            return False
        self.pool.append(_Value(node, array, exact))
        return True

    def evaluate(self, node: Node) -> Array:
        """The value of a node over what is known, with every array contiguous."""
        known: dict[Node, Any] = {**self.values, **{value.node: value.array for value in self.pool}}
        stack = [node]
        with np.errstate(all="ignore"):
            while stack:
                top = stack[-1]
                missing = [i for i in top.inputs if i not in known]
                if top in known or not missing:
                    stack.pop()
                    if top not in known:
                        args = [known[i] for i in top.inputs]
                        known[top] = evaluate_contiguous(top, args, self.dims, self.draws, self.training)
                stack += missing
        found: Array = known[node]
        return found

    def leaf(self, shape: tuple[int, ...], dtype: str, array: Array | None = None, *, low: int = -8) -> Node:
        """A placeholder, variable or constant; given no array, with small whole numbers and quarters from `low` up."""
        if array is None:
            low = 0 if dtype in ("uint8", "bool") else low
            flat = [self.source.integer(low, 8) for _ in range(min(int(np.prod(shape)), 24))]
            whole = np.resize(np.array(flat or [0]), shape)
            array = np.asarray(whole / (4 if is_float(dtype) and self.chance(50) else 1)).astype(np_dtype(dtype))
        kind = self.source.integer(0, 9)
        node: Node
        if kind == 0:
            node = constant(array)
        elif kind <= 2:
            node = Variable(array, f"v{len(self.variables)}")
            self.variables.append(node)
        else:
            node = placeholder("x", tuple(map(self.dim, shape)), dtype)
        if kind:
            self.values[node] = array
        self.pool.append(_Value(node, array, True))
        return node

    def dim(self, size: int) -> Any:
        """A size, or a symbol that has it."""
        if size <= 1 or not self.chance(30):
            return size
        self.dims[f"n{size}"] = size
        return symbol(f"n{size}")

    def shape(self) -> tuple[int, ...]:
        """A shape: often of small odd sizes, sometimes 0-d or empty."""
        rank = self.pick((0, 1, 2, 2, 2, 3, 3, 4))
        return tuple(self.pick((1, 2, 3, 3, 4, 5, 7, 0 if self.chance(10) else 6)) for _ in range(rank))

    def dtype(self) -> str:
        """A dtype, float32 most often."""
        return self.pick(("float32",) * 6 + tuple(DTYPES))

    # ------------------------------------------------------------------------------------------ moves

    def grow(self, move: Move | None = None) -> bool:
        """Add something; False if what was tried doesn't work out."""
        try:
            return (move or self.pick(MOVES))(self)
        except (GraphcError, ZeroDivisionError):
            return False  # shapes or dtypes that don't fit, or sizes that can't be proven to

    def pointwise(self) -> bool:
        """A pointwise op, on values whose shapes meet."""
        op = self.pick(POINTWISE)
        first = self.recent(_accepted(op, 0))
        if first is None:
            return False
        operands = [first]
        while len(operands) < _arity(op):
            operands.append(self._meeting(first, _accepted(op, len(operands))) or first)
        if self.chance(10) and len(operands) == 2 and is_float(first.node.dtype):
            return self.add(op(first.node, self.pick((0.5, 2.0, -1.0))), exact=self._stays(op, operands))
        return self.add(op(*[value.node for value in operands]), exact=self._stays(op, operands))

    def _meeting(self, first: _Value, accepted: Callable[[_Value], bool]) -> _Value | None:
        return self.recent(lambda value: accepted(value) and _meet(value.node, first.node))

    def _stays(self, op: Op, operands: Sequence[_Value]) -> bool:
        """Whether the result is exact; refuses to put inexact operands where a rounding makes a jump."""
        exact = all(value.exact for value in operands)
        if not exact and (isinstance(op.vjp, NoGradient) or op.name in JUMPS):
            raise GraphcError("a jump of what isn't exact")
        return exact

    def cast(self) -> bool:
        """A cast between dtypes that hold the values."""
        value = self.recent(lambda value: value.exact)
        if value is None:
            return False
        dtype = self.dtype()
        low, high = (0, 200) if dtype == "uint8" else (-120, 120)
        wide = value.array.astype(np.float64)
        inside = bool(np.all((wide >= low) & (wide <= high)))
        return (is_float(dtype) or dtype == "bool" or inside) and self.add(cast(value.node, dtype))

    def view(self) -> bool:
        """A reshape, transpose, slice, flip, broadcast, or a change of axes of size 1."""
        value = self.recent()
        if value is None:
            return False
        x, rank = value.node, value.node.ndim
        which = self.source.integer(0, 6)
        if which == 0:
            node = reshape(x, self._other_shape(value.array.shape, x))
        elif which == 1:
            order = list(range(rank))
            for k in range(rank):
                j = self.source.integer(k, rank - 1)
                order[k], order[j] = order[j], order[k]
            node = transpose(x, order)
        elif which == 2:
            starts = [self.source.integer(0, n // 2) for n in value.array.shape]
            steps = [self.source.integer(1, 2) for _ in range(rank)]
            sizes = zip(value.array.shape, starts, steps, strict=True)
            known = [self.source.integer(0 if self.chance(5) else min(1, n), -(-(n - a) // s)) for n, a, s in sizes]
            node = slice_op(x, starts=tuple(starts), steps=tuple(steps), shape=tuple(known))
        elif which == 3:
            node = flip(x, [k for k in range(rank) if self.chance(50)])
        elif which == 4:
            node = expand_dims(x, self.source.integer(0, rank))
        elif which == 5:
            node = squeeze(x)
        else:
            lead = tuple(self.pick((1, 2, 3)) for _ in range(self.source.integer(0, 1)))
            node = broadcast_to(x, (*lead, *[self.pick((2, 3, 5)) if dim == 1 else dim for dim in x.shape]))
        return self.add(node, exact=value.exact)

    def _other_shape(self, shape: tuple[int, ...], x: Node) -> tuple[Any, ...]:
        """Two neighbouring axes joined, or one split, or all of them flattened."""
        if not shape or self.chance(20):
            return (-1,)
        axis = self.source.integer(0, len(shape) - 1)
        if self.chance(50) and axis + 1 < len(shape):
            return (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
        divisors = [d for d in range(1, shape[axis] + 1) if shape[axis] % d == 0] or [1]
        inner = self.pick(divisors)
        return (*x.shape[:axis], x.shape[axis] // inner, inner, *x.shape[axis + 1 :])

    def reduce(self) -> bool:
        """A reduction over some axes."""
        op = self.pick(REDUCTIONS)
        value = self.recent(lambda value: value.exact and (value.node.dtype == "bool") == (op.name in QUANTIFIERS))
        if value is None:
            return False
        axes = tuple(k for k in range(value.node.ndim) if self.chance(50))
        if op.name in POSITIONS:
            axes = axes[:1] or (0,)
        x = value if op.name in POSITIONS or _whole(value.array) else self._rounded(value)
        return self.add(op(x.node, axes=axes))

    def normalise(self) -> bool:
        """A value centred or scaled by a reduction over its rows, as softmax and layer norm do."""
        value = self.recent(lambda value: value.exact and is_float(value.node.dtype) and value.node.ndim > 0)
        if value is None:
            return False
        axes = (value.node.ndim - 1,) if self.chance(70) else (0,)
        x = self._rounded(value).node
        top = REGISTRY["reduce_max"](x, axes=axes)
        total = REGISTRY["reduce_sum"](x - top, axes=axes)
        return self.add(total) and self.add((x - top) * 0.5 + total)

    def _rounded(self, value: _Value) -> _Value:
        """Whole numbers of small size, whose sums are exact."""
        if _whole(value.array):
            return value
        node = clip(round_op(value.node), -4.0, 4.0)
        if not self.add(node):
            raise GraphcError("no whole numbers")
        return self.pool[-1]

    def sample(self, op: Op | None = None) -> bool:
        """One of the calls that an op brings for its tests, on leaves or on values of the pool."""
        op = op or self.pick(SAMPLED)
        samples = samples_of(op)
        if not samples:
            return False
        floats = self.pick(("float32", "float32", "float64", "float16", "bfloat16"))
        sample = retyped(self.pick(samples), floats, self.pick(("int64", "int32")))
        whole = op.kind in ACCUMULATING
        exact = op.kind not in ("composite",)
        operands = [self._operand(arg, whole, exact) if is_array(arg) else arg for arg in sample.args]
        found = op(*operands, **sample.attrs)
        results = found if isinstance(found, tuple) else items(found)
        added = [self.add(node, exact=exact) for node in results if self.chance(80)]
        return any(added)

    def _operand(self, arg: Array, whole: bool, exact: bool) -> Node:
        """A leaf with the sample's values, or a value of the pool in its shape."""
        if is_float(arg.dtype.name) and whole:
            arg = np.clip(np.round(arg * 2), -4, 4).astype(arg.dtype)
        if arg.ndim and exact and is_float(arg.dtype.name) and self.chance(50):
            fitting = self.recent(lambda v: v.exact and v.array.size == arg.size and v.node.dtype == arg.dtype.name)
            if fitting is not None:
                fitting = self._rounded(fitting) if whole else fitting
                return reshape(fitting.node, arg.shape)
        return self.leaf(arg.shape, arg.dtype.name, arg)

    def new_leaf(self) -> bool:
        """A new leaf; often of the shape and dtype of a value that exists."""
        like = self.recent() if self.chance(60) else None
        dtype = self.dtype() if like is None else like.node.dtype
        self.leaf(self.shape() if like is None else like.array.shape, dtype)
        return True

    def random(self) -> bool:
        """A random draw."""
        shape = tuple(map(self.dim, self.shape()))
        node = self.pick(
            (
                lambda: uniform(shape),
                lambda: normal(shape, dtype="float64"),
                lambda: bernoulli(0.5, shape),
                lambda: integers(-3, 4, shape),
            )
        )()
        assert isinstance(node, Draw)
        self.draws[node] = (SEED, node.stream, 0)
        return self.add(node)

    def mode(self) -> bool:
        """A choice by mode."""
        first = self.recent(lambda value: value.exact)
        if first is None:
            return False
        other = self.recent(lambda value: value.exact and value.node.type is first.node.type) or first
        return self.add(by_mode(first.node, other.node))

    def track(self) -> bool:
        """A variable that follows a value, as the statistics of a batch norm do."""
        value = self.recent(lambda value: value.exact and not value.node.tensor_type.symbolic)
        if value is None:
            return False
        variable = Variable(value.array, f"v{len(self.variables)}")
        self.variables.append(variable)
        self.tracked.append(variable)
        self.values[variable] = value.array
        self.pool.append(_Value(variable, value.array, True))
        new = variable * 2 if value.node.dtype != "bool" and self.chance(50) else value.node
        through = self.recent(lambda value: value.exact) or value
        return self.add(tracked(through.node, variable, new))

    def again(self) -> bool:
        """The same layer once more: equal kernels over other buffers."""
        value = self.recent(lambda value: value.exact and is_float(value.node.dtype))
        if value is None:
            return False
        return self.add(clip(value.node * 0.5 + 0.25, -2.0, 2.0))

    # ------------------------------------------------------------------------------------------ programs

    def case(self, *, whole: bool = False) -> Case:
        """What was built, as a program: several outputs, some twice, and updates; if it is `whole`, with all values."""
        outputs = [self.pick(self.pool[-8:]) for _ in range(self.source.integer(1, 4))]
        if self.chance(10):
            outputs.append(self.pick(self.pool))
        if whole or self.chance(40):
            outputs += self.unused()
        updates: list[tuple[Node, _Value]] = []
        for variable in self.variables:
            if variable in self.tracked:
                continue
            fitting = self.recent(lambda value: value.node.type is variable.type)  # noqa: B023 - called at once
            if fitting is not None and self.chance(60):
                updates.append((variable, fitting))
        return self.finished(
            [value.node for value in outputs],
            [(variable, value.node) for variable, value in updates],
            tuple(value.exact for value in (*outputs, *(value for _, value in updates))),
        )

    def finished(
        self, outputs: Sequence[Node], updates: Sequence[tuple[Node, Node]], exact: tuple[bool, ...] = ()
    ) -> Case:
        """The case of these results; unless told otherwise, none of them is exact."""
        inputs = tuple(node for node in self.values if not isinstance(node, Variable))
        program = Program(inputs, tuple(outputs), tuple(updates))
        exact = exact or (False,) * len(program.roots)
        return Case(program, self.values, self.dims, self.draws, exact, self.training)

    def unused(self) -> list[_Value]:
        """The values that no other is computed from."""
        used = {i for node in toposort([value.node for value in self.pool]) for i in node.inputs}
        return [value for value in self.pool if value.node not in used]


Move = Callable[[Builder], bool]  # adds something, if it works out
Finish = Callable[[Builder], Case]  # what becomes of what was built


def random_case(
    source: Source, size: int, start: Move = Builder.new_leaf, finish: Finish = Builder.case
) -> Case:
    """A program of about `size` ops."""
    with Graph():
        builder = Builder(source)
        builder.training = builder.chance(50)
        for _ in range(source.integer(1, 3)):
            builder.new_leaf()
        any(builder.grow(start) for _ in range(TRIES))
        for _ in range(size):
            any(builder.grow() for _ in range(TRIES))
        return finish(builder)


@st.composite
def cases(draw: st.DrawFn, size: int = 12, finish: Finish = Builder.case) -> Case:
    """A strategy for programs of up to about `size` ops."""
    source = Tape(draw(st.binary(min_size=TAPE, max_size=2 * TAPE)))
    return random_case(source, source.integer(1, size), finish=finish)


def evaluate_contiguous(
    node: Node,
    args: Sequence[Any],
    dims: Mapping[str, int],
    draws: Mapping[Node, tuple[int, int, int]],
    training: bool = False,
) -> Any:
    """The value of one node, in contiguous memory but for what is broadcast.

    NumPy's order of additions, and the last bits of its elementary functions, depend on how the operands lie.
    """
    if node.op is by_mode:
        return args[0 if training else 1]
    attrs = bind_attrs(node.attrs, dims) if node.attrs.symbolic else node.attrs
    if node.op is broadcast_op:
        return compute(node, args, attrs, dims)
    found = compute(node, [draws[node]] if node in draws else args, attrs, dims)
    return tuple(map(_contiguous, found)) if isinstance(found, tuple) else _contiguous(found)


def _contiguous(array: Array) -> Array:
    return np.asarray(array, order="C")


def expected(case: Case) -> list[Array]:
    """The values of the roots, each node evaluated by its op's reference in contiguous memory."""
    known: dict[Node, Any] = dict(case.values)
    with np.errstate(all="ignore"):
        for node in case.program.nodes():
            if node not in known:
                args = [known[i] for i in node.inputs]
                known[node] = evaluate_contiguous(node, args, case.dims, case.draws, case.training)
    return [known[root] for root in case.program.roots]


# --------------------------------------------------------------------------------------------- which ops


def _accepted(op: Op, operand: int) -> Callable[[_Value], bool]:
    accepts = ACCEPTS[op.accepts[min(operand, len(op.accepts) - 1)]]
    return lambda value: value.node.dtype in accepts


@functools.cache
def _arity(op: Op) -> int:
    """How many operands a pointwise op takes, from its samples."""
    return len(samples_of(op)[0].args)


def _meet(a: Node, b: Node) -> bool:
    """Whether two shapes broadcast, and dtypes are the same."""
    pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
    return a.dtype == b.dtype and all(m == n or 1 in (m, n) for m, n in pairs)


def _whole(array: Array) -> bool:
    """Whether the sum of all elements is exact in any order, and in float16."""
    wide = array.astype(np.float64)
    return bool(np.all(wide == np.round(wide)) and np.abs(wide).sum() < 1000)


POINTWISE = [op for op in REGISTRY.values() if op.kind == "pointwise" and not op.required]
REDUCTIONS = [op for op in REGISTRY.values() if op.kind == "reduce"]
POSITIONS = ("argmax", "argmin")
QUANTIFIERS = ("reduce_any", "reduce_all")
JUMPS = ("remainder", "cast")  # jump although they have a gradient
ACCUMULATING = frozenset({"contract", "conv", "window", "scan", "index", "reduce"})  # kinds whose ops add elements up
LEAVES = frozenset({"parameter", "placeholder", "variable", "constant", "random", "tuple", "mode", "auxiliary"})
SAMPLED = [op for op in REGISTRY.values() if op.kind not in LEAVES and op.samples is not None]

MOVES: tuple[Move, ...] = (
    *(Builder.pointwise,) * 9,
    *(Builder.view,) * 6,
    *(Builder.reduce,) * 3,
    *(Builder.sample,) * 3,
    *(Builder.new_leaf,) * 2,
    *(Builder.normalise,) * 2,
    Builder.cast,
    Builder.random,
    Builder.again,
    Builder.mode,
    Builder.track,
)


def same_type(array: Array, type: TensorType, dims: Mapping[str, int]) -> bool:
    """Whether an array has this dtype and shape."""
    bound = type.bind(dims)
    return array.dtype == np_dtype(type.dtype) and array.shape == bound.shape
