"""Functions of the library that a program will most likely need, as its ops tell before any pass has run.

The passes of a large program take longer than LLVM needs for these: other threads compile them meanwhile. They are
those whose code depends on no size, or on sizes that no pass changes. Whatever is wrong here costs time alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from graphc.ir import Node, Program
from graphc.op import Op
from graphc.ops.conv import conv_input_grad, conv_weight_grad
from graphc.ops.linalg import matmul_op
from graphc.runtime.conv_geometry import described
from graphc.runtime.cpu.conv_winograd import is_profitable
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.winograd import FOUR

PRODUCTS = "gemm.rows", "gemm.columns"
WEIGHT_GRADIENTS = "source.pad.near", "source.turn", "rows.clear", "product.tiles"
WINOGRAD = (
    f"winograd.sources.{FOUR.name}",
    "winograd.weights.channels.whole",
    "winograd.results",
    "winograd.line.source",
    "winograd.line.gradients",
    "winograd.sums",
)


def functions(program: Program, host: Host) -> list[str]:
    """Their names; where all float32 convolutions are trained, as nearly all are."""
    found = [name for node in program.nodes() if node.op in _LIKELY for name in _LIKELY[node.op](node, host)]
    return list(dict.fromkeys(found))


def _product(node: Node, host: Host) -> Iterator[str]:
    yield from [f"{name}.{node.dtype}" for name in PRODUCTS if node.dtype in ("float32", "float64")]


def _weight_gradient(node: Node, host: Host) -> Iterator[str]:
    convolution = described(node)
    if node.dtype != "float32" or not convolution.is_static or len(convolution.axes) != 2:
        return
    yield from WEIGHT_GRADIENTS
    yield from WINOGRAD if is_profitable(convolution, host) else ()
    yield f"rows.weights.{math.prod(int(axis.kernel) for axis in convolution.axes)}"
    yield f"rows.copy.{convolution.axes[-1].stride}"


def _input_gradient(node: Node, host: Host) -> Iterator[str]:
    convolution = described(node)
    if node.dtype != "float32":
        return
    if any(axis.stride > 1 for axis in convolution.axes):
        yield "rows.join"
    if is_profitable(convolution, host):
        yield "winograd.weights.rows.whole"


_LIKELY: Mapping[Op, Callable[[Node, Host], Iterator[str]]] = {
    conv_input_grad: _input_gradient,
    conv_weight_grad: _weight_gradient,
    matmul_op: _product,
}
