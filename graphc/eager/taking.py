"""The ways into a call: ops, public functions, methods and operators find the program for their operands, or make it.

A public function, such as `gc.sum` or `gc.losses.mse_loss`, is one program however many ops it consists of, as it is
one call in PyTorch. Its arguments besides tensors are part of the program, and what it draws is an operand. Where that
can't be (a float changes with every call, or Python asks for a value) it runs in Python, and each op is a program.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from types import EllipsisType, NoneType
from typing import Any, NamedTuple

import numpy as np

from graphc.composites import Composite
from graphc.eager.calling import apply, apply_one, apply_two
from graphc.eager.calls import Call, built, call_of, formals_of, is_single, results_of, traced
from graphc.eager.modes import generator, modes
from graphc.eager.tensors import Tensor, lifted, valued
from graphc.errors import TAKERS, WRONG_ARGUMENT, GraphcError
from graphc.ir import Node, Program, substitute, toposort
from graphc.op import Op
from graphc.operands import ACCEPTS
from graphc.operators import METHODS
from graphc.ops.math import power_op
from graphc.passes.modes import resolve_mode
from graphc.types import TensorType, np_dtype, promote

NUMBERS = (int, float)  # the classes of Python numbers, without bool
SCALARS = {dtype: (np_dtype(dtype), TensorType(dtype)) for dtype in ACCEPTS["float"]}
MAX_NUMBERS = 1024  # that have a tensor
MAX_CALLS = 4096  # that are remembered in each mode
MAX_FLOATS = 8  # different ones that a function's programs may have
MAX_CONSTANT = 4096  # bytes of a result of numbers that is remembered
MAX_WORDS = 8  # of a tuple in a key; a list of numbers is data
ROOMS = ("graphc.ops.", "graphc.operands", "graphc.losses", "graphc.metrics")  # of functions that make tensors only
PLAIN = frozenset({int, bool, str, NoneType, EllipsisType})  # classes whose values are part of a program

Fn = Callable[..., Any]  # an op or a public function
numbers: dict[tuple[str, float], Tensor] = {}  # recent ones beside tensors of a dtype


# ----------------------------------------------------------------------------------------------- the short ways


def one(fn: Fn, a: Tensor) -> Any:
    """What a call with one operand gives."""
    known = modes.known.get((fn, a.type))
    return apply_one(known, a) if known is not None and known.alone else at_length(fn, (a,))


def two(fn: Fn, a: Any, b: Any) -> Any:
    """What a call with two operands gives."""
    if a.__class__ is not Tensor or b.__class__ is not Tensor:
        if isinstance(fn, Op):
            tensor, other = (a, b) if a.__class__ is Tensor else (b, a)
            other = _operand(other, _weak(fn, tensor.type.dtype))
            a, b = (a, other) if tensor is a else (other, b)
        if a.__class__ is not Tensor or b.__class__ is not Tensor:
            return at_length(fn, (a, b))
    known = modes.known.get((fn, a.type, b.type))
    return apply_two(known, a, b) if known is not None and known.alone else at_length(fn, (a, b))


def at_length(fn: Fn, args: Sequence[Any]) -> Any:
    """What any call gives."""
    return call(fn, args, {}) if isinstance(fn, Op) else fn(*args)


def dispatched(first: Tensor, op: Op, args: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """`Tensor.__graphc_op__`: a tensor that is an operand takes the call."""
    if not attrs:
        if len(args) == 2:
            return two(op, *args)
        if len(args) == 1:
            return one(op, first)
    return call(op, args, attrs)


# ----------------------------------------------------------------------------------------------- ops


def call(op: Op, args: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
    """What an op gives for operands of which at least one is an eager tensor."""
    operands = [arg for arg in args if arg.__class__ is Tensor]
    if len(operands) == len(args) and not attrs:
        known = modes.known.get((op, *[operand.type for operand in operands]))
        if known is not None:
            return apply(known, operands)
    if len(operands) < len(args):
        args = _operands(op, args)
        operands = [arg for arg in args if isinstance(arg, Tensor)]
    if isinstance(op, Composite) and not op.pure:  # its function may read values that change
        return _traced_anew(op, args, operands, attrs)
    key: tuple[Any, ...] = (op, *[arg.type if arg.__class__ is Tensor else repr(arg) for arg in args])
    if attrs:
        key = (*key, op.frozen_attrs(attrs).key)
    return apply(_remembered(key, lambda: traced(op.name, *_program(op, args, attrs))), operands)


def _operands(op: Op, args: Sequence[Any]) -> list[Any]:
    """Tensors, and such Python numbers as are part of the program.

    Beside floats a number is an operand as any other, of their dtype: it may change with every call. Where its value
    says more (an exponent, an integer that has to fit), each value is a program of its own.
    """
    dtypes = {arg.type.dtype for arg in args if arg.__class__ is Tensor}
    dtype = _weak(op, promote(*dtypes)) if dtypes <= SCALARS.keys() else ""
    return [arg if arg.__class__ is Tensor else _operand(arg, dtype) for arg in args]


@lru_cache
def _weak(op: Op, dtype: str) -> str:
    """The dtype of numbers that are operands of an op beside tensors of a dtype; "" if they are part of the program."""
    takes = op.kind == "pointwise" and len(op.accepts) == 1 and op is not power_op
    return dtype if takes and dtype in SCALARS else ""


def _operand(arg: Any, dtype: str) -> Any:
    """What isn't a tensor yet; a number becomes one of `dtype`, unless that is empty."""
    if dtype and arg.__class__ in NUMBERS:
        found = numbers.get((dtype, arg))
        return found if found is not None and arg else _number(arg, dtype)  # zeros of two signs are equal
    return arg if isinstance(arg, bool | int | float) and not isinstance(arg, np.generic) else lifted(arg)


def _number(arg: float, dtype: str) -> Tensor:
    np_type, type = SCALARS[dtype]
    if len(numbers) >= MAX_NUMBERS:
        numbers.clear()
    found = numbers[dtype, arg] = valued(np.array(arg, np_type), type)
    return found


def _program(op: Op, operands: Sequence[Any], attrs: Mapping[str, Any]) -> tuple[list[TensorType], Any, bool]:
    """What `traced` takes for a call of `op`, in which numbers stay what they are."""
    places = [k for k, operand in enumerate(operands) if isinstance(operand, Tensor)]

    def build(formals: Sequence[Node]) -> Any:
        given = list(operands)
        for k, formal in zip(places, formals, strict=True):
            given[k] = formal
        return op(*given, **attrs)

    return [operands[k].type for k in places], build, modes.training


def _traced_anew(op: Op, args: Sequence[Any], operands: Sequence[Tensor], attrs: Mapping[str, Any]) -> Any:
    """Call an op that is traced each time. Equal programs are compiled once, so what they draw is an operand."""
    types, build, _ = _program(op, args, attrs)
    formals = formals_of(types)
    made = _Traced(formals, built(build, formals))
    return apply(_remembered(made.key, lambda: made.call(op.name)), [*operands, *drawn(made.leaves)])


class _Traced:
    """What a call of parameters returned, in one mode.

    Attributes:
        leaves: random leaves that it needs in this mode; they become further parameters.
        key: equal for equal programs.
    """

    def __init__(self, formals: Sequence[Node], returned: Any) -> None:
        results = results_of(returned)
        program = resolve_mode(Program((), results), training=modes.training)
        roots = (*program.outputs, *[new for _, new in program.updates])
        self.leaves = [node for node in toposort(roots) if node.op.kind == "random"]
        self._inputs = formals_of([node.type for node in (*formals, *self.leaves)])
        given = dict(zip((*formals, *self.leaves), self._inputs, strict=True))
        self._results = substitute(results, given)
        self._single = is_single(returned)
        self.key = (self._inputs, substitute(roots, given), tuple([leaf for leaf, _ in program.updates]))

    def call(self, name: str) -> Call:
        """The program, compiled."""
        return call_of(name, self._inputs, self._results, modes.training, single=self._single)


def drawn(leaves: Iterable[Node]) -> list[Tensor]:
    """A new value of each random leaf."""
    return [valued(generator.draw(leaf), leaf.tensor_type) for leaf in leaves]


def _remembered(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What is known in this mode under a key, made if it isn't."""
    known = modes.known
    found = known.get(key)
    if found is None:
        if len(known) >= MAX_CALLS:
            _forget(known)
        found = known[key] = make()
    return found


def _forget(known: dict[Any, Any]) -> None:
    """Make room: what was cheap to make goes first."""
    kept = {key: found for key, found in list(known.items()) if not found.moves}  # other threads may add some
    known.clear()
    if len(kept) < MAX_CALLS // 2:
        known.update(kept)


# ----------------------------------------------------------------------------------------------- functions


class _InPython:
    """Remembered of calls that aren't one program."""

    alone, moves = False, True


class _Drawing(NamedTuple):
    """Remembered of a call whose last operands are drawn each time."""

    call: Call
    leaves: Sequence[Node]
    alone: bool = False
    moves: bool = False


IN_PYTHON = _InPython()
floats_of: defaultdict[Fn, set[tuple[float, ...]]] = defaultdict(set)  # that a function was given with programs of it


def taken(public: Fn, fn: Fn, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a public function, which runs `fn`, gives for a tensor and other arguments."""
    if len(args) == 1 and not kwargs:
        known = modes.known.get((public, getattr(args[0], "type", None)))
        if known is not None and known.alone:
            return apply_one(known, args[0])
    if not _makes_tensors(fn):
        return fn(*args, **kwargs)
    operands: list[Tensor] = []
    floats: list[float] = []
    key: list[Any] = [public]
    _spell(args, key, operands, floats)
    if kwargs:
        key += kwargs
        _spell(kwargs.values(), key, operands, floats)
    word = tuple(key)
    found = modes.known.get(word)
    if found is None:
        if None in word or (floats and not _steady(public, tuple(floats))):
            return fn(*args, **kwargs)
        found = _remembered(word, lambda: _whole(fn, args, kwargs, [operand.type for operand in operands]))
    if found is IN_PYTHON:
        return fn(*args, **kwargs)
    return apply(found.call, operands + drawn(found.leaves)) if found.__class__ is _Drawing else apply(found, operands)


class _Constant(NamedTuple):
    """Remembered of a call that has no tensor to work on."""

    value: Tensor
    alone: bool = False
    moves: bool = True


def of_numbers(fn: Fn, args: Sequence[Any], kwargs: Mapping[str, Any], evaluate: Callable[[], Any]) -> Any:
    """What a function of no tensors gives, and the same each time: tensors share small values, which never change."""
    key: list[Any] = [fn, *kwargs]
    operands: list[Tensor] = []
    _spell((*args, *kwargs.values()), key, operands, [])
    if operands or None in key:
        return evaluate()
    found = modes.known.get(tuple(key))
    if found is None:
        draws, value = generator.count, evaluate()
        if generator.count != draws or not isinstance(value, Tensor) or value._array.nbytes > MAX_CONSTANT:
            return value
        found = _remembered(tuple(key), lambda: _Constant(value))
    return valued(found.value._array, found.value.type)


@cache
def _makes_tensors(fn: Fn) -> bool:
    """Whether all that a function does is to return tensors, so that trying it on others harms nothing."""
    return fn.__module__.startswith(ROOMS)


def _steady(public: Fn, floats: tuple[float, ...]) -> bool:
    """Whether floats may be part of a program: not those of a function that is given others again and again."""
    given = floats_of[public]
    if floats in given:
        return True
    if len(given) < MAX_FLOATS:
        given.add(floats)
        return True
    return False


def _spell(args: Iterable[Any], key: list[Any], operands: list[Tensor], floats: list[float]) -> None:
    """Write arguments into a key: the types of tensors, the classes and values of others; None for what can't be."""
    for arg in args:
        kind = arg.__class__
        if kind is Tensor:
            operands.append(arg)
            key.append(arg.type)
        elif kind in PLAIN:
            key += (kind, arg) if arg is not None else (kind,)
        elif kind is float:
            floats.append(arg)
            key += (kind, repr(arg))  # which tells zeros apart
        elif kind is slice:
            key.append(kind)
            _spell((arg.start, arg.stop, arg.step), key, operands, floats)
        elif (kind is tuple and len(arg) <= MAX_WORDS) or (kind is list and all(x.__class__ is Tensor for x in arg)):
            key += (kind, len(arg))
            _spell(arg, key, operands, floats)
        elif kind is np.ndarray and arg.dtype.kind in "biuf":
            operands.append(lifted(arg))
            key.append(operands[-1].type)
        else:
            key.append(None)


def _whole(fn: Fn, args: Sequence[Any], kwargs: Mapping[str, Any], types: Sequence[TensorType]) -> Any:
    """The program of a call with tensors of these types, or `IN_PYTHON`."""
    formals = formals_of(types)

    def build(formals: Sequence[Node]) -> Any:
        rest = iter(formals)
        given = [_formal(arg, rest) for arg in args]
        return fn(*given, **{name: _formal(arg, rest) for name, arg in kwargs.items()})

    try:
        returned = built(build, formals)
        tensors = returned if isinstance(returned, tuple) else (returned,)
        if not all(isinstance(y, Node) for y in tensors):
            return IN_PYTHON
        made = _Traced(formals, returned)
        call = made.call(fn.__name__)
        return _Drawing(call, made.leaves) if made.leaves else call
    except (GraphcError, *WRONG_ARGUMENT):
        return IN_PYTHON  # where an error is told as everywhere


def _formal(arg: Any, formals: Iterator[Node]) -> Any:
    """An argument with parameters in the places of tensors and arrays."""
    kind = arg.__class__
    if kind is Tensor or kind is np.ndarray:
        return next(formals)
    if kind in (tuple, list):
        return kind([_formal(item, formals) for item in arg])
    return slice(*[_formal(item, formals) for item in (arg.start, arg.stop, arg.step)]) if kind is slice else arg


# ----------------------------------------------------------------------------------------------- methods, operators


UNARY = {"neg": "negative", "abs": "abs", "invert": "logical_not"}
BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "matmul": "matmul",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
COMPARISONS = ("lt", "le", "gt", "ge")  # they are reflected by each other


def _method(name: str, fn: Fn) -> Callable[..., Any]:
    """A method of tensors: `fn` with the tensor as its first argument."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return fn(self, *args, **kwargs) if args or kwargs else one(fn, self)

    method.__name__, method.__doc__ = name, fn.__doc__
    return method


def _operators(name: str, fn: Fn) -> dict[str, Callable[[Any, Any], Any]]:
    found = {f"__{name}__": lambda a, b: two(fn, a, b)}
    return found if name in COMPARISONS else {**found, f"__r{name}__": lambda b, a: two(fn, a, b)}


def install() -> None:
    """Give tensors their methods and operators, and public functions on tensors their programs."""
    for name, fn in METHODS.items():
        if not hasattr(Tensor, name):
            setattr(Tensor, name, _method(name, fn))
    for name in ("T", "mT"):
        setattr(Tensor, name, property(_method(name, METHODS[name])))
    for name, meaning in UNARY.items():
        setattr(Tensor, f"__{name}__", _method(f"__{name}__", METHODS[meaning]))
    for name, meaning in BINARY.items():
        for operator, call_of_two in _operators(name, METHODS[meaning]).items():
            setattr(Tensor, operator, call_of_two)
    Tensor.__graphc_op__ = dispatched
    TAKERS[Tensor] = taken
