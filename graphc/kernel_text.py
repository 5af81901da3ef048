"""Kernels as text: their loops, what they load, the body, and what they store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphc.dims import Dim, DimExpr
from graphc.ir import Node
from graphc.kernel import Access, Kernel, Region
from graphc.operands import splat_value
from graphc.printer import text

COUNTERS = "ijklmnop"


@text.register
def _(x: Kernel, *, sources: bool = False) -> str:
    return "\n".join(kernel_lines(x))


def kernel_lines(kernel: Kernel) -> Iterator[str]:
    """The lines of a kernel: `r0` is what it reads first, `w0` what it writes first.

    The loops are `i`, `j`, ...; a value in brackets is one element, at a position counted in elements.
    """
    yield f"{kernel.kind} kernel"
    for k, region in enumerate(kernel.operands):
        yield from (f"  {line}" for line in region_lines(region, head=f"operand {k}, "))
    if kernel.core is not None:
        operands = [f"operand {k}: {i.type}" for k, i in enumerate(kernel.core.inputs)]
        attrs = [f"{name}={value}" for name, value in kernel.core.attrs.items()]
        yield f"  {kernel.core.op.name}({', '.join(operands + attrs)}): {kernel.core.type}"
    for k, region in enumerate(kernel.results):
        head = f"result {k}, " if kernel.core is not None else ""
        yield from (f"  {line}" for line in region_lines(region, head=head, core=kernel.core is not None))


def region_lines(region: Region, *, head: str = "", core: bool = False) -> Iterator[str]:
    """The lines of a region.

    Args:
        core: whether its first parameter is an element of the core's result.
    """
    loops = [
        f"{counter(k)} in {'reduce ' if loop.reduce else ''}{loop.extent}" for k, loop in enumerate(region.loops)
    ]
    yield f"{head}for {', '.join(loops)}:" if loops else f"{head}once:"
    names: dict[Node, str] = {}
    inputs = list(region.body.inputs)
    if core:
        names[inputs.pop(0)] = "core"
    for k, (node, load) in enumerate(zip(inputs, region.loads, strict=True)):
        names[node] = f"p{k}"
        at = position(load.access)
        yield f"  p{k}: {node.type} = {at if load.read is None else f'r{load.read}[{at}]'}"
    count = 0
    for node in region.values:
        if node not in names:
            number = splat_value(node)
            names[node] = f"%{count}" if number is None else str(number)
            if number is None:
                count += 1
                yield f"  {names[node]}: {node.type} = {_call(node, names)}"
    for output, store in zip(region.body.outputs, region.stores, strict=False):
        yield f"  w{store.write}[{position(store.access)}] = {names[output]}"
    if not region.stores and region.body.outputs:
        yield f"  yields {names[region.body.outputs[0]]}"


def counter(loop: int) -> str:
    """The name of a loop's counter."""
    return COUNTERS[loop] if loop < len(COUNTERS) else f"i{loop}"


def position(access: Access) -> str:
    """`10*i + j`."""
    terms = [_term(stride, counter(k)) for k, stride in enumerate(access.strides) if stride != 0]
    if access.offset != 0 or not terms:
        terms.append(str(access.offset))
    return " + ".join(terms).replace("+ -", "- ")


def _term(stride: Dim, name: str) -> str:
    if stride == 1:
        return name
    factor = f"({stride})" if isinstance(stride, DimExpr) and not str(stride).isidentifier() else str(stride)
    return f"-{name}" if stride == -1 else f"{factor}*{name}"


def _call(node: Node, names: dict[Node, str]) -> str:
    operands: Sequence[str] = [names[i] for i in node.inputs]
    attrs = [f"{name}={value}" for name, value in node.attrs.items() if node.op.kind == "pointwise" or not operands]
    return f"{node.op.name}({', '.join([*operands, *attrs])})"
