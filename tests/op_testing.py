"""What the tests of ops share: samples in any dtype, calls of ops on leaves, special values, finite differences."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from graphc.composites import item_op, items
from graphc.dims import symbol
from graphc.evaluate import evaluate
from graphc.ir import Graph, Node, rebuild, substitute, toposort
from graphc.op import Op, Sample
from graphc.ops.state import placeholder
from graphc.types import DTYPES, is_float, np_dtype

FLOATS = tuple(d for d, info in DTYPES.items() if info.kind == "float")
HALVES = ("float16", "bfloat16")
INTEGERS = tuple(d for d, info in DTYPES.items() if info.kind == "int")


# --- samples


@cache
def samples_of(op: Op) -> tuple[Sample, ...]:
    """The op's samples; the same in every run, whatever other ops exist."""
    return () if op.samples is None else tuple(op.samples(np.random.default_rng(zlib.crc32(op.name.encode()))))


def convert(array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """`array` in `dtype`; for the unsigned dtype the magnitudes."""
    with np.errstate(invalid="ignore", over="ignore"):
        return (np.abs(array) if dtype == "uint8" else array).astype(np_dtype(dtype))


def retyped(sample: Sample, floats: str = "float64", integers: str = "int64") -> Sample:
    """`sample` with its float operands in the dtype `floats` and its integer operands in `integers`; masks stay."""
    wanted = {"f": floats, "i": integers}

    def cast(arg: Any) -> Any:
        return convert(arg, wanted[arg.dtype.kind]) if is_array(arg) and arg.dtype.kind in wanted else arg

    return Sample(tuple(map(cast, sample.args)), sample.attrs, sample.differentiable)


def doubled(sample: Sample) -> Sample:
    """`sample` with its float operands, of whatever precision, as float64."""
    args = [arg.astype(np.float64) if is_array(arg) and is_float(arg.dtype.name) else arg for arg in sample.args]
    return Sample(tuple(args), sample.attrs, sample.differentiable)


def is_array(arg: Any) -> bool:
    """Whether an operand of a sample is an array; anything else is passed as it is."""
    return isinstance(arg, np.ndarray)


def has_kind(sample: Sample, kind: str) -> bool:
    """Whether an operand is an array of NumPy's dtype kind `"f"`, `"i"` or `"b"`."""
    return any(is_array(arg) and arg.dtype.kind == kind for arg in sample.args)


# --- calls


@dataclass(frozen=True)
class Call:
    """An op applied to leaves.

    Attributes:
        results: what it returned, one tensor each.
        feeds: the leaves, with the arrays that they stand for.
        dims: the sizes of the symbols in the shapes of the leaves.
    """

    results: tuple[Node, ...]
    feeds: Mapping[Node, np.ndarray[Any, Any]]
    dims: Mapping[str, int] = field(default_factory=dict)

    def evaluate(self, nodes: Iterable[Node]) -> list[Any]:
        """The values of `nodes`, which are computed from the leaves."""
        return evaluate(nodes, self.feeds, self.dims)

    def values(self) -> list[np.ndarray[Any, Any]]:
        """The values of the results."""
        return self.evaluate(self.results)

    @property
    def float_leaves(self) -> list[Node]:
        """The leaves that have a gradient."""
        return [node for node in self.feeds if is_float(node.dtype)]


def call(op: Op, sample: Sample, *, symbolic: bool = False, graph: Graph | None = None) -> Call:
    """`op` applied to leaves.

    Args:
        graph: that they belong to; by default one of their own.
        symbolic: the leaves are declared with a symbol for each size other than 1, the same one for equal sizes.
    """
    dims: dict[str, int] = {}
    feeds: dict[Node, np.ndarray[Any, Any]] = {}

    def operand(arg: Any) -> Any:
        if not is_array(arg):
            return arg
        shape = tuple(_symbolic_dim(size, dims) for size in arg.shape) if symbolic else arg.shape
        node = placeholder("x", shape, arg.dtype.name)
        feeds[node] = arg
        return node

    with Graph() if graph is None else graph:
        returned = op(*map(operand, sample.args), **sample.attrs)
    results = returned if isinstance(returned, tuple) else items(returned)
    return Call(results, feeds, dims)


def _symbolic_dim(size: int, dims: dict[str, int]) -> Any:
    if size == 1:  # broadcasts, which no symbol does
        return 1
    dims[f"n{size}"] = size
    return symbol(f"n{size}")


def decomposed(roots: Iterable[Node]) -> tuple[Node, ...]:
    """`roots` computed by primitives only: every composite is replaced by its body, with what it holds."""
    roots = tuple(roots)
    new: dict[Node, Any] = {}  # a composite of several results stands for the tuple of them
    for node in toposort(roots):
        inputs = tuple(new[i] for i in node.inputs)
        if node.body is not None:
            outputs = substitute(decomposed(node.body.outputs), dict(zip(node.body.inputs, inputs, strict=True)))
            new[node] = outputs[0] if len(outputs) == 1 else outputs
        elif node.op is item_op and isinstance(inputs[0], tuple):
            new[node] = inputs[0][node.attrs["index"]]
        else:
            new[node] = rebuild(node, inputs)
    return tuple(new[root] for root in roots)


# --- values where floating point is special


def special_values(dtype: str) -> np.ndarray[Any, Any]:
    """Zeros of both signs, infinities, nan, the ends of the normal and subnormal ranges, ties of rounding, and
    arguments where elementary functions overflow or lose everything; for integers the ends of the range."""
    if dtype == "bool":
        return np.array([False, True])
    kind = np_dtype(dtype)
    if not is_float(dtype):
        info = np.iinfo(kind)
        middle = [v for v in (-3, -2, -1, 0, 1, 2, 3, 7) if v >= info.min]
        return np.array([info.min, info.min + 1, *middle, info.max - 1, info.max], kind)
    limits = ml_dtypes.finfo(kind)
    one = [float(limits.smallest_subnormal), float(limits.tiny), float(limits.eps), 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    one += [1 + float(limits.eps), 1 - float(limits.epsneg), 10.0, 88.75, 100.0, 1e4, float(limits.max)]
    positive = np.array([0.0, *one, np.inf, np.pi], np.float64)
    with np.errstate(over="ignore"):
        return np.concatenate([positive, -positive, [np.nan]]).astype(kind)


def special_pairs(dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Every pair of special values."""
    values = special_values(dtype)
    left, right = np.meshgrid(values, values, indexing="ij")
    return left.ravel(), right.ravel()


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Whether two arrays have one dtype, one shape and equal elements: nan equals nan, 0.0 differs from -0.0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind in "biu":
        return bool(np.array_equal(a, b))
    wide, other = a.astype(np.float64), b.astype(np.float64)
    nan = np.isnan(wide)
    equal = (wide == other) & (np.signbit(wide) == np.signbit(other))
    return bool(np.all(np.where(nan, np.isnan(other), equal)))


def close(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], tolerance: float) -> bool:
    """Whether two results agree: integers exactly, floats up to `tolerance` of the largest magnitude (at least 1).

    Where `b` is nan or infinite, so is `a`; an `a` of lower precision may overflow where `b` exceeds its range.
    """
    if b.dtype.kind in "biu":
        return bool(np.array_equal(a, b))
    if a.shape != b.shape:
        return False
    limit = float(ml_dtypes.finfo(a.dtype).max)
    low, high = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(high) & (np.abs(high) < limit)
    special = np.where(np.isfinite(high), np.copysign(np.inf, high), high)
    scale = max(1.0, float(np.max(np.abs(high), where=finite, initial=0)))
    near = np.abs(np.where(finite, low - high, 0)) <= tolerance * scale
    return bool(np.all(np.where(finite, near, (low == special) | (np.isnan(low) & np.isnan(high)))))


# --- derivatives


def derivative(f: Callable[[float], float], step: float = 0.02) -> tuple[float, float]:
    """f'(0) by extrapolated central differences, and an estimate of its error.

    Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Advances in Engineering Software 4 (1982): the step is
    halved, each column of the tableau cancels the next even power of it, and the entry that agrees best with its
    neighbours is taken.
    """
    best, error = np.nan, np.inf
    previous: list[float] = []
    for k in range(6):
        h = step / 2**k
        row = [(f(h) - f(-h)) / (2 * h)]
        for j, above in enumerate(previous):
            row.append((4 ** (j + 1) * row[j] - above) / (4 ** (j + 1) - 1))
            change = max(abs(row[-1] - row[-2]), abs(row[-1] - above))
            if change <= error:
                best, error = row[-1], change
        previous = row
    return best, error
