"""Bodies of regions at one point, as CUDA C: what a core takes element by element, and what is made of its results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.ir import Node
from graphc.runtime.cuda import pointwise
from graphc.runtime.cuda.launches import Frame
from graphc.runtime.cuda.scalars import REGISTER, loaded, number, stored
from graphc.runtime.regions import Port, loading, stored_in

Known = dict[Node, str]  # the expression of each value that is known


def settled(frame: Frame, nodes: Iterable[Node], known: Known) -> None:
    """Make known the values of nodes whose operands are; those that are computed get a name."""
    for node in nodes:
        if node in known:
            continue
        kind = node.op.kind
        if kind == "constant":
            known[node] = number(node.attrs["value"].array.reshape(()).item(), node.dtype)
        elif kind == "extent":
            known[node] = f"({REGISTER[node.dtype]}){frame.number(node.attrs['dim'])}"
        elif kind == "view":  # a broadcast along the row
            known[node] = known[node.inputs[0]]
        else:
            text = pointwise.expression(node, [known[i] for i in node.inputs])
            known[node] = text if text == known.get(node.inputs[0]) else frame.value(REGISTER[node.dtype], text)


def element(frame: Frame, k: int, index: Sequence[str]) -> str:
    """The expression of an element of the core's k-th operand, in registers, after lines that compute it.

    Args:
        index: names or numbers, one for each axis.
    """
    region = frame.code.kernel.operands[k]
    known: Known = {}
    for formal, load in zip(region.body.inputs, region.loads, strict=True):
        known[formal] = loaded_at(frame, loading(load, formal.dtype), index)
    settled(frame, region.values, known)
    return known[region.body.outputs[0]]


def finish_at(frame: Frame, k: int, index: Sequence[str], value: str) -> None:
    """Lines that compute and store what is made of one element of the core's k-th result.

    Args:
        index: names or numbers, one for each axis.
        value: the element in registers.
    """
    region = frame.code.kernel.results[k]
    if not region.stores:
        return
    core, *formals = region.body.inputs
    known: Known = {core: value}
    for formal, load in zip(formals, region.loads, strict=True):
        known[formal] = loaded_at(frame, loading(load, formal.dtype), index)
    settled(frame, region.values, known)
    for output, array in zip(region.body.outputs, stored_in(region), strict=True):
        frame.line(f"{frame.at(array, index)} = {stored(array.dtype, known[output])};")


def loaded_at(frame: Frame, port: Port, index: Sequence[str]) -> str:
    """The expression of what a region loads at an index, in registers."""
    array = port.array
    if port.counter:
        return frame.value("i64", frame.counted(array.offset, array.strides, index))
    return frame.value(REGISTER[array.dtype], loaded(array.dtype, frame.at(array, index)), "x")
