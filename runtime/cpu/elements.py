"""Elements of arrays, as they lie in memory and as they are computed with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.pointwise import HALVES, UNSIGNED
from graphc.runtime.cpu.values import MEMORY_TYPE, Int, Value, constant, element_of, lanes_of, vector, with_element
from graphc.runtime.strided import itemsize


class Element(NamedTuple):
    """The core's element.

    Attributes:
        address: at an index over the loops.
        dtype: that lies there.
        axis: the one along which elements are contiguous.
        across: an axis that is walked vector by vector, so that what varies along `axis` alone is computed once.
    """

    address: Callable[[Sequence[Int]], Value]
    dtype: str
    axis: int = -1
    across: int | None = None


def is_signed(dtype: str) -> bool:
    """Whether integers of the dtype compare as signed numbers."""
    return dtype not in UNSIGNED


def from_memory(f: Function, value: Value, dtype: str) -> Value:
    """An element, or a vector of them, as it is computed with."""
    if dtype == "bool":
        return f.compare("icmp ne", value, constant(value.type, 0))
    return f.convert("fpext", value, with_element(value.type, "float")) if dtype in HALVES else value


def to_memory(f: Function, value: Value, dtype: str) -> Value:
    """An element, or a vector of them, as it lies in memory."""
    memory = with_element(value.type, MEMORY_TYPE[dtype])
    if dtype == "bool":
        return f.convert("zext", value, memory)
    return f.convert("fptrunc", value, memory) if dtype in HALVES else value


def put_aside(f: Function, value: Value, at: Value) -> None:
    """Store a value as it is computed with, but for booleans, which are bytes."""
    f.store(to_memory(f, value, "bool") if element_of(value.type) == "i1" else value, at, 4)


def taken_back(f: Function, type: str, at: Value) -> Value:
    """The value of a type that was put aside."""
    if element_of(type) == "i1":
        return from_memory(f, f.load(with_element(type, "i8"), at, 4), "bool")
    return f.load(type, at, 4)


def transposed(f: Function, vectors: Sequence[Value]) -> list[Value]:
    """The columns of a square of vectors, as many as their lanes (a power of 2), by exchanging ever larger blocks."""
    found, lanes, step = list(vectors), range(len(vectors)), 1
    while step < len(vectors):
        upper = [lane + len(lanes) - step if lane & step else lane for lane in lanes]
        lower = [lane + len(lanes) if lane & step else lane + step for lane in lanes]
        for k in [k for k in lanes if not k & step]:
            a, b = found[k], found[k + step]
            found[k], found[k + step] = f.shuffle(a, b, upper), f.shuffle(a, b, lower)
        step *= 2
    return found


def load_lanes(f: Function, dtype: str, at: Value, stride: Int, lanes: int, mask: Value | None = None) -> Value:
    """Elements that lie `stride` apart, as a vector as in memory; lanes where `mask` is false are not read."""
    memory, align = MEMORY_TYPE[dtype], itemsize(dtype)
    if lanes == 1 or (isinstance(stride, int) and stride == 1):
        return f.load(vector(memory, lanes), at, align, mask)
    if isinstance(stride, int) and stride == -1:
        back = f.address(at, 1 - lanes, memory)
        return turned_round(f, f.load(vector(memory, lanes), back, align, mask and turned_round(f, mask)))
    if isinstance(stride, int) and stride == 0:
        bits = f.splat(f.load(f"i{8 * align}", at, align), lanes)
        return f.convert("bitcast", bits, vector(memory, lanes))
    steps = f.binary("mul", f.counter(lanes), f.splat(f.i64(stride), lanes))
    return f.gather(vector(memory, lanes), f.addresses(at, steps, memory), align, mask)


def store_lanes(f: Function, value: Value, at: Value, stride: Int, align: int, mask: Value | None = None) -> None:
    """Store the elements of a vector `stride` apart."""
    if isinstance(stride, int) and stride == 1:
        f.store(value, at, align, mask)
        return
    lanes, element = lanes_of(value.type), element_of(value.type)
    steps = f.binary("mul", f.counter(lanes), f.splat(f.i64(stride), lanes))
    f.scatter(value, f.addresses(at, steps, element), align, mask)


def turned_round(f: Function, value: Value) -> Value:
    """A vector with its lanes the other way round."""
    return f.shuffle(value, None, range(lanes_of(value.type))[::-1])
