"""Reductions on vectors: what an accumulator starts as, and how two of them become one.

An accumulator is a list of values, so that the position of an extreme can travel with it. Sums of 16-bit floats are
kept in float32, as everything is computed for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from graphc.op import Op
from graphc.operands import reduce_sum
from graphc.ops import reduce
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.values import I64, Value, constant, element_of, with_element

Accumulator = list[Value]
FLOATS = ("float", "double")
_LEAST = {"i1": 0, "i8": -128, "i16": -(2**15), "i32": -(2**31), "i64": -(2**63)}
_GREATEST = {"i1": 1, "i8": 127, "i16": 2**15 - 1, "i32": 2**31 - 1, "i64": 2**63 - 1}


class Reduction(NamedTuple):
    """How an op reduces.

    Attributes:
        start: the accumulator of nothing, of a vector type; `signed` says how integers compare.
        join: one accumulator of two, the first of which holds what comes earlier.
        positions: whether an accumulator has the positions of its elements, too, which are the result.
    """

    start: Callable[[str, bool], Value]
    join: Callable[[Function, Accumulator, Accumulator, bool], Accumulator]
    positions: bool = False


def _start(float_number: float, integer: Mapping[str, int], unsigned: int) -> Callable[[str, bool], Value]:
    def start(type: str, signed: bool) -> Value:
        element = element_of(type)
        if element in FLOATS:
            return constant(type, float_number)
        return constant(type, integer[element] if signed else unsigned)

    return start


def _number(number: int) -> Callable[[str, bool], Value]:
    return lambda type, signed: constant(type, number)


def _both(floats: str, integers: str) -> Callable[[Function, Accumulator, Accumulator, bool], Accumulator]:
    def join(f: Function, a: Accumulator, b: Accumulator, signed: bool) -> Accumulator:
        return [f.binary(floats if element_of(a[0].type) in FLOATS else integers, a[0], b[0])]

    return join


def _beats(f: Function, a: Value, b: Value, signed: bool, greater: bool) -> Value:
    """Whether `b` takes the place of `a`, which comes first: it is more extreme, or the first nan."""
    word = "gt" if greater else "lt"
    if element_of(a.type) not in FLOATS:
        return f.compare(f"icmp {'s' if signed else 'u'}{word}", b, a)
    # b > a, or b is nan and a isn't: `ult a b` holds for both, and for a nan in `a`, which stays.
    unordered = f.compare(f"fcmp u{'lt' if greater else 'gt'}", a, b)
    return f.binary("and", unordered, f.compare("fcmp ord", a, a))


def _extreme(greater: bool) -> Callable[[Function, Accumulator, Accumulator, bool], Accumulator]:
    word = "gt" if greater else "lt"

    def join(f: Function, a: Accumulator, b: Accumulator, signed: bool) -> Accumulator:
        old, new = a[0], b[0]
        if element_of(old.type) not in FLOATS:
            return [f.select(_beats(f, old, new, signed, greater), new, old)]
        # One instruction, which keeps a nan in `old`; whether `new` is one doesn't wait for what came before.
        best = f.select(f.compare(f"fcmp o{word}", new, old), new, old)
        return [f.select(f.compare("fcmp uno", new, new), new, best)]

    return join


def _arg_extreme(greater: bool) -> Callable[[Function, Accumulator, Accumulator, bool], Accumulator]:
    def join(f: Function, a: Accumulator, b: Accumulator, signed: bool) -> Accumulator:
        beats = _beats(f, a[0], b[0], signed, greater)
        beaten = _beats(f, b[0], a[0], signed, greater)
        earlier = f.compare("icmp slt", b[1], a[1])  # lanes hold positions in no order
        tie = f.binary("and", earlier, f.binary("xor", beaten, constant(beaten.type, True)))
        takes = f.binary("or", beats, tie)
        return [f.select(takes, b[0], a[0]), f.select(takes, b[1], a[1])]

    return join


_lowest = _start(float("-inf"), _LEAST, 0)
_highest = _start(float("inf"), _GREATEST, -1)

REDUCTIONS: Mapping[Op, Reduction] = {
    reduce_sum: Reduction(_number(0), _both("fadd", "add")),
    reduce.reduce_prod: Reduction(_number(1), _both("fmul", "mul")),
    reduce.reduce_max: Reduction(_lowest, _extreme(True)),
    reduce.reduce_min: Reduction(_highest, _extreme(False)),
    reduce.reduce_any: Reduction(_number(0), _both("", "or")),
    reduce.reduce_all: Reduction(_number(1), _both("", "and")),
    reduce.argmax_op: Reduction(_lowest, _arg_extreme(True), positions=True),
    reduce.argmin_op: Reduction(_highest, _arg_extreme(False), positions=True),
}


def starting(reduction: Reduction, type: str, signed: bool) -> Accumulator:
    """The accumulator of nothing; positions begin after all that exist."""
    first = [reduction.start(type, signed)]
    return [*first, constant(with_element(type, I64), 2**62)] if reduction.positions else first


def across(f: Function, reduction: Reduction, parts: Sequence[Accumulator], signed: bool) -> Accumulator:
    """The accumulators of several vectors as one, in a fixed tree."""
    level = list(parts)
    while len(level) > 1:
        pairs = [reduction.join(f, a, b, signed) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = [*pairs, *level[len(pairs) * 2 :]]
    return level[0]


def horizontal(f: Function, reduction: Reduction, whole: Accumulator, lanes: int, signed: bool) -> Accumulator:
    """The accumulator of all lanes of a vector, as scalars."""
    while lanes > 2:
        lanes //= 2
        low = [f.shuffle(value, None, range(lanes)) for value in whole]
        high = [f.shuffle(value, None, range(lanes, 2 * lanes)) for value in whole]
        whole = reduction.join(f, low, high, signed)
    if lanes == 1:
        return whole
    first, second = ([f.extract(value, k) for value in whole] for k in range(2))
    return reduction.join(f, first, second, signed)


def grouped(values: Sequence[Value], like: Sequence[Accumulator]) -> list[Accumulator]:
    """Values one after the other as accumulators, of as many each as those in `like`."""
    rest = iter(values)
    return [[next(rest) for _ in accumulator] for accumulator in like]


def flat(accumulators: Iterable[Accumulator]) -> list[Value]:
    """The inverse of `grouped`."""
    return [value for accumulator in accumulators for value in accumulator]
