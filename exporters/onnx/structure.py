"""Lines of the table: shapes, slices, indices, order, reductions, and tensors made of numbers alone.

What nan is worth in an order ONNX leaves to whoever runs the model: in the reference evaluator it wins, as in graphc,
but ONNX Runtime's extremes, their positions and its sort let it lose or misplace it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc import operands
from graphc.dims import Dim, ceil_div
from graphc.exporters.onnx.builder import END, Builder, Value
from graphc.exporters.onnx.line import Line, reduction, shaped, without
from graphc.ir import Node
from graphc.op import Op
from graphc.ops import creation, extent, indexing, reduce, scan, shape, slicing, sorting

BEYOND = np.iinfo(np.int64).min  # "past the first element" in a slice that runs backwards

# --------------------------------------------------------------------------------------------- shapes


def _reshape(b: Builder, node: Node, x: Value) -> Value:
    return b.reshape(x, node.shape)


def _transpose(b: Builder, node: Node, x: Value) -> Value:
    return b.transpose(x, node.attrs["axes"])


def _flip(b: Builder, node: Node, x: Value) -> Value:
    axes = node.attrs["axes"]
    if not axes:
        return x
    each = [(-1, BEYOND, -1)] * len(axes)
    starts, ends, steps = zip(*each, strict=True)
    return b.op("Slice", x, out=node.shape, starts=starts, ends=ends, axes=axes, steps=steps)


def _slice(b: Builder, node: Node, x: Value) -> Value:
    """Only the axes that are cut are named, and no end is worked out that is the axis's own."""
    starts, steps = node.attrs["starts"], node.attrs["steps"]
    cut = [k for k, dim in enumerate(node.shape) if dim != x.shape[k] or starts[k] != 0 or steps[k] != 1]
    if not cut:
        return x

    def end(k: int) -> Dim:
        whole = ceil_div(x.shape[k] - starts[k], steps[k])
        return END if node.shape[k] == whole else starts[k] + node.shape[k] * steps[k]

    return b.op(
        "Slice",
        x,
        out=node.shape,
        starts=tuple(starts[k] for k in cut),
        ends=tuple(end(k) for k in cut),
        axes=tuple(cut),
        steps=tuple(steps[k] for k in cut) if any(steps[k] != 1 for k in cut) else None,
    )


def _pad(b: Builder, node: Node, x: Value) -> Value:
    """Elements that come to lie `step` apart are given axes of their own first, which are padded to `step`."""
    starts, steps, value = node.attrs["starts"], node.attrs["steps"], node.attrs["value"]
    fill = b.like(x, value) if value else None
    for axis, step in enumerate(steps):
        if step != 1:
            x = _spread(b, x, axis, step, fill)
    ends = [dim - start - size for dim, start, size in zip(node.shape, starts, x.shape, strict=True)]
    return b.pad(x, starts, ends, node.shape, fill)


def _spread(b: Builder, x: Value, axis: int, step: int, fill: Value | None) -> Value:
    """`x` with step - 1 elements of `fill` after each of its own along an axis."""
    shape = x.shape
    apart = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    zeros = (0,) * len(apart)
    behind = slicing.replaced(zeros, axis + 1, step - 1)
    wide = slicing.replaced(apart, axis + 1, step)
    padded = b.pad(b.op("Unsqueeze", x, out=apart, axes=(axis + 1,)), zeros, behind, wide, fill)
    return b.reshape(padded, slicing.replaced(shape, axis, shape[axis] * step))


def _pad_border(b: Builder, node: Node, x: Value) -> Value:
    widths = node.attrs["widths"]
    pads = (*(before for before, _ in widths), *(after for _, after in widths))
    return b.op("Pad", x, b.vector(pads), out=node.shape, mode=node.attrs["mode"])


# --------------------------------------------------------------------------------------------- indices


def _first(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """The permutation that brings `axes` to the front."""
    return (*axes, *(k for k in range(rank) if k not in axes))


def _gather(b: Builder, node: Node, x: Value, *indices: Value) -> Value:
    axes = node.attrs["axes"]
    if len(axes) == 1:
        return b.op("Gather", x, *indices, out=node.shape, axis=axes[0])
    front = b.transpose(x, _first(axes, len(x.shape)))
    rank = len(indices[0].shape)
    found = b.op("GatherND", front, _coordinates(b, indices), out=(*indices[0].shape, *front.shape[len(axes) :]))
    return b.transpose(found, _inverse(_first(range(axes[0], axes[0] + rank), len(node.shape))))


def _scatter_add(b: Builder, node: Node, x: Value, updates: Value, *indices: Value) -> Value:
    axes = node.attrs["axes"]
    rank = len(indices[0].shape)
    order = _first(axes, len(x.shape))
    front = b.transpose(b.wide(x), order)
    rows = b.transpose(b.wide(updates), _first(range(axes[0], axes[0] + rank), len(updates.shape)))
    total = b.op("ScatterND", front, _coordinates(b, indices), rows, out=front.shape, reduction="add")
    return b.cast(b.transpose(total, _inverse(order)), x.dtype)


def _scatter_add_along_axis(b: Builder, node: Node, x: Value, i: Value, updates: Value) -> Value:
    attrs = {"axis": node.attrs["axis"], "reduction": "add"}
    wide, rows = b.wide(x), b.wide(updates)
    return b.cast(b.op("ScatterElements", wide, i, rows, out=node.shape, **attrs), x.dtype)


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(order.index(k) for k in range(len(order)))


def _coordinates(b: Builder, indices: Sequence[Value]) -> Value:
    """Indices as the last axis of one int64 tensor."""
    axis = len(indices[0].shape)
    rows = [b.op("Unsqueeze", b.cast(i, "int64"), out=(*i.shape, 1), axes=(axis,)) for i in indices]
    return b.op("Concat", *rows, out=(*indices[0].shape, len(rows)), axis=axis) if len(rows) > 1 else rows[0]


# --------------------------------------------------------------------------------------------- order


def _top(b: Builder, node: Node, x: Value, k: Dim, *, largest: bool) -> tuple[Value, Value]:
    axis = node.attrs["axis"]
    shape = slicing.replaced(x.shape, axis, k)
    values, indices = b.ops("TopK", x, b.size(k), outs=(shape, shape), axis=axis, largest=int(largest), sorted=1)
    return values, indices


def _argsort(b: Builder, node: Node, x: Value) -> Value:
    return _top(b, node, x, x.shape[node.attrs["axis"]], largest=node.attrs["descending"])[1]


def _sort(b: Builder, node: Node, x: Value) -> Value:
    return _top(b, node, x, x.shape[node.attrs["axis"]], largest=node.attrs["descending"])[0]


def _topk(b: Builder, node: Node, x: Value) -> tuple[Value, Value]:
    return _top(b, node, x, node.attrs["k"], largest=node.attrs["largest"])


def _position(kind: str) -> Line:
    def emit(b: Builder, node: Node, x: Value, keepdims: int = 1) -> Value:
        (axis,) = node.attrs["axes"]
        shape = node.shape if keepdims else slicing.replaced(node.shape, axis)
        return b.op(kind, x, out=shape, axis=axis, keepdims=keepdims)

    return Line(emit, keepdims=True)


def _quantifier(kind: str, empty: bool) -> Line:
    """ONNX's extremes of bools; none is defined over nothing by all who run it, so that is said outright."""
    over_some = reduction(kind)

    def emit(b: Builder, node: Node, x: Value, keepdims: int = 1) -> Value | tuple[Value, ...]:
        if 0 not in [x.shape[axis] for axis in node.attrs["axes"]]:
            return over_some.emit(b, node, x, keepdims)
        shape = node.shape if keepdims else without(node.shape, node.attrs["axes"])
        return b.expand(b.constant(empty, "bool"), shape)

    return Line(emit, keepdims=True)


def _scan(kind: str, since: int = 0) -> Line:
    def emit(b: Builder, node: Node, x: Value) -> Value:
        flags = {name: int(node.attrs[name]) for name in ("reverse", "exclusive")}
        return b.op(kind, x, b.constant(node.attrs["axis"]), out=node.shape, **flags)

    return Line(emit, since=since)


# --------------------------------------------------------------------------------------------- numbers


def _extent(b: Builder, node: Node) -> Value:
    return b.cast(b.scalar(node.attrs["dim"]), node.dtype)


LINES: dict[Op, Line] = {
    operands.constant_op: Line(lambda b, node: b.constant(node.attrs["value"].array)),
    operands.broadcast_op: Line(lambda b, node, x: x, trailing=0),
    operands.expand_dims_op: shaped("Unsqueeze", lambda node: {"axes": node.attrs["axes"]}),
    operands.squeeze_op: shaped("Squeeze", lambda node: {"axes": node.attrs["axes"]}),
    operands.reduce_sum: reduction("ReduceSum"),
    shape.reshape_op: Line(_reshape),
    shape.transpose_op: Line(_transpose),
    shape.flip_op: Line(_flip),
    shape.concat_op: shaped("Concat", lambda node: {"axis": node.attrs["axis"]}),
    shape.pad_border_op: Line(_pad_border, when=lambda node: node.attrs["mode"] in ("edge", "reflect")),
    slicing.slice_op: Line(_slice),
    slicing.pad_op: Line(_pad),
    indexing.gather_op: Line(_gather),
    indexing.scatter_add_op: Line(_scatter_add),
    indexing.take_along_axis_op: shaped("GatherElements", lambda node: {"axis": node.attrs["axis"]}),
    indexing.scatter_add_along_axis_op: Line(_scatter_add_along_axis),
    indexing.embedding_op: Line(lambda b, node, i, w: b.op("Gather", w, i, out=node.shape, axis=0)),
    indexing.tril_op: Line(lambda b, node, x: b.op("Trilu", x, b.constant(node.attrs["k"]), out=node.shape, upper=0)),
    indexing.triu_op: Line(lambda b, node, x: b.op("Trilu", x, b.constant(node.attrs["k"]), out=node.shape, upper=1)),
    sorting.argsort_op: Line(_argsort),
    sorting.sort_op: Line(_sort),
    sorting.topk_op: Line(_topk),
    scan.cumsum_op: _scan("CumSum"),
    scan.cumprod_op: _scan("CumProd", since=26),
    reduce.reduce_max: reduction("ReduceMax"),
    reduce.reduce_min: reduction("ReduceMin"),
    reduce.reduce_prod: reduction("ReduceProd"),
    reduce.reduce_any: _quantifier("ReduceMax", empty=False),
    reduce.reduce_all: _quantifier("ReduceMin", empty=True),
    reduce.argmax_op: _position("ArgMax"),
    reduce.argmin_op: _position("ArgMin"),
    reduce.mean_op: reduction("ReduceMean"),
    reduce.logsumexp_op: reduction("ReduceLogSumExp"),
    extent.extent_op: Line(_extent),
    creation.iota: Line(lambda b, node: b.counter(node.attrs["length"])),
}
