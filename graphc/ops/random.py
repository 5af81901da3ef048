"""Random draws: leaves of the graph, each a stream of its own.

A draw is Philox(seed, hash of the stream's name, the stream's counter, element), so its bits depend on nothing else
in the graph. Two streams are never one node, however equal they look.
"""

from __future__ import annotations

from typing import Any

from graphc import philox
from graphc.errors import ArgumentError
from graphc.ir import Leaf, Node
from graphc.op import NoGradient, Op
from graphc.operands import as_node, primitive
from graphc.ops.math import less
from graphc.types import TensorType, dtype_name, is_float, parse_shape

RANDOM = NoGradient("a random draw depends on nothing")


def _declare(name: str, draw: Any, required: tuple[str, ...], dtype: str | None = None) -> Op:
    """A random leaf: `ref` takes `(seed, stream, counter)` as its one operand."""

    def infer(*, shape: Any, **attrs: Any) -> TensorType:
        return TensorType(dtype or attrs["dtype"], shape)

    return primitive(name, infer, lambda key, **attrs: draw(*key, **attrs), RANDOM, "random", required=required)


uniform_op = _declare("random_uniform", philox.uniform, ("shape", "dtype", "low", "high"))
normal_op = _declare("random_normal", philox.normal, ("shape", "dtype", "mean", "std"))
bernoulli_op = _declare("random_bernoulli", philox.bernoulli, ("shape", "p"), "bool")
integers_op = _declare("random_integers", philox.integers, ("shape", "low", "high", "dtype"))


class Draw(Leaf):
    """One random draw a run, from the stream that carries its name."""

    __slots__ = ("stream",)
    stream: int


def _draw(op: Op, name: str | None, shape: Any, **attrs: Any) -> Draw:
    frozen = op.frozen_attrs({"shape": parse_shape(shape), **attrs})
    leaf = Draw(op, op.infer(**frozen), name or op.name.removeprefix("random_"), frozen)
    leaf.stream = philox.stream_key(leaf.name)
    return leaf


def _float(dtype: Any) -> str:
    name = dtype_name(dtype)
    if not is_float(name):
        raise ArgumentError(f"this distribution is over floats, got dtype {name!r}")
    return name


def uniform(
    shape: Any = (), low: float = 0.0, high: float = 1.0, dtype: Any = "float32", *, name: str | None = None
) -> Node:
    """Uniform draws in [low, high), a new one each run.

    Args:
        shape: ints or symbolic dimensions.
        name: names the stream; by default streams are numbered within their scope.
    """
    return _draw(uniform_op, name, shape, low=float(low), high=float(high), dtype=_float(dtype))


def normal(
    shape: Any = (), mean: float = 0.0, std: float = 1.0, dtype: Any = "float32", *, name: str | None = None
) -> Node:
    """Normal draws of the given mean and standard deviation, a new one each run; arguments as for `uniform`."""
    return _draw(normal_op, name, shape, mean=float(mean), std=float(std), dtype=_float(dtype))


def bernoulli(p: Any = 0.5, shape: Any = None, *, name: str | None = None) -> Node:
    """Booleans that are True with probability `p`: a number in [0, 1] with a `shape`, or a tensor of probabilities."""
    if isinstance(p, int | float):
        if not 0 <= p <= 1:
            raise ArgumentError(f"a probability is in [0, 1], got {p!r}")
        return _draw(bernoulli_op, name, () if shape is None else shape, p=float(p))
    probabilities = as_node(p)
    drawn: Node = less(uniform(probabilities.shape, dtype="float32", name=name or "bernoulli"), probabilities)
    return drawn


def integers(low: int, high: int, shape: Any = (), dtype: Any = "int64", *, name: str | None = None) -> Node:
    """Integers uniform in [low, high), a new draw each run; arguments as for `uniform`."""
    if low >= high:
        raise ArgumentError(f"there is no integer in [{low}, {high})")
    return _draw(integers_op, name, shape, low=int(low), high=int(high), dtype=dtype_name(dtype))
