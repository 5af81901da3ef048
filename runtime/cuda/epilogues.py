"""What follows from a product of matrices, as cublasLt can compute it: its epilogues, found in regions of kernels.

An epilogue means what NVIDIA's documentation of `cublasLtEpilogue_t` says (cuBLAS library, 3.3.2):

    BIAS    a bias is added, one number for each row of what cublasLt calls D, by columns: each column of ours
    RELU    x := max(x, 0)
    GELU    0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), so `gelu(approximate="tanh")`, and not the exact one

It doesn't say how exactly GELU computes, so that is only for products whose operands are rounded anyway. Nor does it
say what RELU makes of nan, for which ours is nan: see `cublaslt.CublasLt`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from graphc.ir import Node
from graphc.kernel import Load, Region, postorder
from graphc.ops.activations import GELUS
from graphc.ops.math import maximum
from graphc.runtime.contraction import Contraction
from graphc.runtime.cuda.launches import Precision
from graphc.runtime.cuda.scalars import HALVES
from graphc.runtime.strided import Strided

DTYPES = ("float32", *HALVES)  # of products that have epilogues

# What each makes of a product, or of its sum with a bias.
ACTIVATIONS: Mapping[str, Callable[[Node], Node]] = {
    "": lambda x: x,
    "RELU": lambda x: maximum(x, 0),
    "GELU": GELUS["tanh"],
}
ROUNDED = ("GELU",)  # those of which it isn't known how exact they are


class Epilogue(NamedTuple):
    """What follows from a product.

    Attributes:
        name: cublasLt's, without CUBLASLT_EPILOGUE_.
        bias: of shape [n], contiguous; None if nothing is added.
    """

    name: str
    bias: Strided | None


def epilogue_of(region: Region, problem: Contraction, precision: Precision) -> Epilogue | None:
    """The epilogue that computes what a region makes of a product; None if there is none, or nothing to compute."""
    if problem.dtype not in DTYPES or len(region.body.outputs) != 1 or len(region.loads) > 1:
        return None
    element, *others = region.body.inputs
    bias = _bias(region.loads[0], problem) if others else None
    if others and (bias is None or others[0].dtype != problem.dtype):
        return None
    exact = precision == "float32" and problem.dtype == "float32"
    numbers: dict[Any, int] = {}
    wanted = _number(region.body.outputs[0], numbers)
    for name, formula in ACTIVATIONS.items():
        full = "_".join([*([name] if name else []), *(["BIAS"] if others else [])])
        value = formula(element + others[0] if others else element)
        if full and not (exact and name in ROUNDED) and _number(value, numbers) == wanted:
            return Epilogue(full, bias)
    return None


def _number(root: Node, numbers: dict[Any, int]) -> int:
    """What stands for the value of a node: the same for the same ops, whichever comes first where that is the same."""
    found: dict[Node, int] = {}
    for node in postorder([root]):
        inputs = [found[i] for i in node.inputs]
        inputs = sorted(inputs) if node.op.commutative else inputs
        key = node if node.attrs else (node.op, *inputs)  # nodes are interned
        found[node] = numbers.setdefault(key, len(numbers))
    return found[root]


def _bias(load: Load, problem: Contraction) -> Strided | None:
    """What is loaded, if it is one number for each column of the product, side by side."""
    *batch, row, column = load.access.strides
    row, column = (column, row) if problem.swapped else (row, column)
    if load.read is None or any(batch) or row != 0 or column != 1:
        return None
    return Strided("read", load.read, load.access.offset, (1,), problem.dtype)
