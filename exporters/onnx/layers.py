"""Lines of the table: products, convolutions, pooling, normalisations, losses, random draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.dims import Dim, product, take_guards
from graphc.exporters.onnx.builder import Builder, Value, broadcast
from graphc.exporters.onnx.line import Line, exact_floats, shaped
from graphc.exporters.onnx.schema import onnx_dtype
from graphc.ir import Node
from graphc.op import Op
from graphc.ops import activations, conv, linalg, losses, nn, pooling, random, scan, slicing
from graphc.ops.windows import span, window_counts
from graphc.types import TensorType, is_float, np_dtype

# --------------------------------------------------------------------------------------------- products


def _matmul(b: Builder, node: Node, x: Value, y: Value) -> Value:
    """Leading axes broadcast."""
    lead = broadcast([x.shape[:-2], y.shape[:-2]])
    return b.op("MatMul", x, y, out=(*lead, *node.shape[-2:]))


def _of_floats(node: Node) -> bool:
    return is_float(node.dtype)


def _linear(b: Builder, node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if len(x.shape) == 2:
        return b.op("Gemm", x, weight, bias, out=node.shape, transB=1)
    y = b.op("MatMul", x, b.transpose(weight, (1, 0)), out=node.shape)
    return y if bias is None else b.op("Add", y, bias)


# --------------------------------------------------------------------------------------------- windows


def _pads(padding: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Padding in ONNX's order: all that come before, then all that come after."""
    return (*(before for before, _ in padding), *(after for _, after in padding))


def _conv_attrs(node: Node) -> dict[str, Any]:
    return {
        "strides": node.attrs["stride"],
        "pads": _pads(node.attrs["padding"]),
        "dilations": node.attrs["dilation"],
        "group": node.attrs["groups"],
    }


def _conv_transpose(b: Builder, node: Node, g: Value, w: Value, bias: Value | None = None) -> Value:
    return b.op(
        "ConvTranspose", g, w, bias, out=node.shape, output_padding=node.attrs["output_padding"], **_conv_attrs(node)
    )


def _spread(b: Builder, g: Value, w: Value, spatial: tuple[Dim, ...], channels: Dim, attrs: dict[str, Any]) -> Value:
    """The adjoint of a sliding window: what each window gives, added where it lies.

    It is computed without padding, so that the sizes follow from those of `g`, and then cut or filled up to `spatial`.
    `attrs` has stride, padding, dilation and groups.
    """
    columns = list(zip(g.shape[2:], w.shape[2:], attrs["stride"], attrs["dilation"], strict=True))
    reach = tuple((count - 1) * step + span(taps, spread) for count, taps, step, spread in columns)
    lead = (g.shape[0], channels)
    y = b.op(
        "ConvTranspose",
        g,
        w,
        out=(*lead, *reach),
        strides=attrs["stride"],
        dilations=attrs["dilation"],
        group=attrs["groups"],
    )
    before = [-first for first, _ in attrs["padding"]]
    after = [size + first - got for size, (first, _), got in zip(spatial, attrs["padding"], reach, strict=True)]
    return b.pad(y, (0, 0, *before), (0, 0, *after), (*lead, *spatial))


def _conv_input_grad(b: Builder, node: Node, g: Value, w: Value) -> Value:
    """A transposed convolution; where all sizes are known, its padding does what is to be cut."""
    spatial = node.attrs["spatial"]
    axes = zip(g.shape[2:], w.shape[2:], *(node.attrs[a] for a in ("stride", "padding", "dilation")), strict=True)
    extra = [
        size - ((count - 1) * step + span(taps, spread) - sum(pad))
        for size, (count, taps, step, pad, spread) in zip(spatial, axes, strict=True)
    ]
    if all(isinstance(more, int) for more in extra):
        return b.op("ConvTranspose", g, w, out=node.shape, output_padding=tuple(extra), **_conv_attrs(node))
    return _spread(b, g, w, spatial, node.shape[1], dict(node.attrs))


def _conv_weight_grad(b: Builder, node: Node, x: Value, g: Value) -> Value:
    """A convolution of x with g over the batch: samples and channels change places, strides and dilations too."""
    groups, kernel = node.attrs["groups"], node.attrs["kernel"]
    batch, channels = x.shape[:2]
    stride, dilation = node.attrs["stride"], node.attrs["dilation"]
    swapped = (1, 0, *range(2, len(x.shape)))
    each = channels // groups
    if batch == 0:  # ONNX Runtime doesn't return from a convolution over no channels
        return b.expand(b.like(x, 0), node.shape)
    if groups == 1:
        images = b.transpose(x, swapped)
    else:  # [N, groups, C/groups, ...] to [C/groups, groups * N, ...]: ONNX's groups are the groups again
        parts = b.reshape(x, (batch, groups, each, *x.shape[2:]))
        turned = b.transpose(parts, (2, 1, 0, *range(3, len(parts.shape))))
        images = b.reshape(turned, (each, groups * batch, *x.shape[2:]))
    filters = b.transpose(g, swapped)
    met = window_counts(x.shape[2:], g.shape[2:], dilation, node.attrs["padding"], stride)
    take_guards()  # the sizes were checked when the node was made
    full = b.op(
        "Conv",
        images,
        filters,
        out=(each, g.shape[1], *met),
        strides=dilation,
        dilations=stride,
        pads=_pads(node.attrs["padding"]),
        group=groups,
    )
    inside = (each, g.shape[1], *kernel)
    if met != kernel:  # what is left over of a stride
        axes = tuple(range(2, len(x.shape)))
        full = b.op("Slice", full, out=inside, starts=(0,) * len(axes), ends=kernel, axes=axes)
    return b.transpose(full, swapped)


# --------------------------------------------------------------------------------------------- pooling


def _pool_attrs(node: Node) -> dict[str, Any]:
    """The geometry of a pooling op. Windows that hang over the end are said by padding where the sizes are known:
    ONNX's opsets differ in how many of them `ceil_mode` gives."""
    kernel, stride, padding, dilation = (node.attrs[name] for name in ("kernel", "stride", "padding", "dilation"))
    ceil_mode = node.attrs["ceil_mode"]
    sizes = (node.inputs[0].shape[2:], node.shape[2:])
    if ceil_mode and all(isinstance(size, int) for size in (*sizes[0], *sizes[1])):
        columns = zip(kernel, stride, padding, dilation, *sizes, strict=True)
        padding = tuple(
            (before, max((count - 1) * step + span(taps, spread) - before - size, 0))
            for taps, step, (before, _), spread, size, count in columns
        )
        ceil_mode = False
    return {
        "kernel_shape": kernel,
        "strides": stride,
        "pads": _pads(padding),
        "ceil_mode": int(ceil_mode),
        "dilations": dilation if any(step != 1 for step in dilation) else None,
    }


# Floats that hold each integer of a dtype, in which maxima can be taken.
FLOATS = {"bool": "float32", "int16": "float32", "int32": "float64"}


def _max_pool(b: Builder, node: Node, x: Value) -> Value:
    (y,) = b.ops("MaxPool", b.cast(x, FLOATS.get(x.dtype, x.dtype)), outs=(node.shape,), **_pool_attrs(node))
    return b.cast(y, x.dtype)


def _max_pool_indices(b: Builder, node: Node, x: Value) -> Value:
    """ONNX counts over the whole tensor; we count within a channel's plane."""
    wide = b.cast(x, FLOATS.get(x.dtype, x.dtype))
    _, places = b.ops("MaxPool", wide, outs=(node.shape, node.shape), **_pool_attrs(node))
    return b.op("Mod", places, b.scalar(product(x.shape[2:])))


def _avg_pool(b: Builder, node: Node, x: Value) -> Value:
    """ONNX's counts what hangs over the end where that is said by padding, so its mean is scaled up then."""
    attrs = _pool_attrs(node)
    include = node.attrs["count_include_pad"]
    y = b.op("AveragePool", x, out=node.shape, count_include_pad=int(include), **attrs)
    declared = _pads(node.attrs["padding"])
    if not include or all(said <= wanted for said, wanted in zip(attrs["pads"], declared, strict=True)):
        return y
    taps = b.like(x, math.prod(node.attrs["kernel"]))
    return b.op("Mul", y, b.op("Div", taps, _divisors(b, node, node.inputs[0].shape[2:], y)))


def _avg_pool_input_grad(b: Builder, node: Node, g: Value) -> Value:
    """Each window's share, spread over the window: channels become samples, so that one filter of ones serves."""
    spatial, kernel = node.attrs["spatial"], node.attrs["kernel"]
    rows = g.shape[0] * g.shape[1]
    ones = b.constant(np.ones((1, 1, *kernel), np_dtype(g.dtype)))
    shares = b.op("Div", g, _divisors(b, node, spatial, g))
    planes = b.reshape(shares, (rows, 1, *g.shape[2:]))
    return b.reshape(_spread(b, planes, ones, spatial, 1, {**node.attrs, "groups": 1}), node.shape)


def _divisors(b: Builder, node: Node, spatial: tuple[Dim, ...], y: Value) -> Value:
    """How many elements each window of an average over `spatial` counts, ready to meet `y`, which has its result."""
    kernel, include = node.attrs["kernel"], node.attrs["count_include_pad"]
    plain = include or not any(map(any, node.attrs["padding"]))
    if plain and not node.attrs["ceil_mode"]:
        return b.like(y, math.prod(kernel))
    total = b.constant(1)
    for k, (size, taps, count) in enumerate(zip(spatial, kernel, y.shape[2:], strict=True)):
        before, after = node.attrs["padding"][k]
        starts = _plus(b, _times(b, b.counter(count), node.attrs["stride"][k]), -before)
        first, last = (-before, size + after) if include else (0, size)
        met = b.op(
            "Sub",
            _taps_before(b, starts, last, taps, node.attrs["dilation"][k]),
            _taps_before(b, starts, first, taps, node.attrs["dilation"][k]),
        )
        total = b.op("Mul", total, b.reshape(met, (*(1,) * k, count, *(1,) * (len(spatial) - 1 - k))))
    return b.cast(total, y.dtype)


def _taps_before(b: Builder, starts: Value, end: Dim, taps: int, dilation: int) -> Value:
    """For windows that start at `starts`, how many of their `taps` lie before the element `end`."""
    room = _plus(b, b.op("Sub", b.scalar(end), starts), dilation - 1)
    if dilation != 1:
        step = b.constant(dilation)
        room = b.op("Div", b.op("Sub", room, b.op("Mod", room, step)), step)
    return b.op("Clip", room, b.constant(0), b.constant(taps))


def _plus(b: Builder, x: Value, number: int) -> Value:
    return b.op("Add", x, b.constant(number)) if number else x


def _times(b: Builder, x: Value, number: int) -> Value:
    return b.op("Mul", x, b.constant(number)) if number != 1 else x


def _global_pool(kind: str) -> Line:
    return shaped(kind, when=lambda node: _of_floats(node) and node.ndim > 2)


# --------------------------------------------------------------------------------------------- normalisations


def _vector(b: Builder, x: Value | None, number: float, type: TensorType) -> Value:
    """`x`, or a tensor of `type` filled with a number, for an operand that ONNX insists on."""
    if x is not None:
        return x
    if type.symbolic:
        return b.expand(b.constant(number, type.dtype), type.shape)
    return b.constant(np.full(type.shape, number, np_dtype(type.dtype)))


def _batch_norm(
    b: Builder, node: Node, x: Value, mean: Value, var: Value, weight: Value | None = None, bias: Value | None = None
) -> Value:
    scale, shift = _vector(b, weight, 1, mean.type), _vector(b, bias, 0, mean.type)
    return b.op("BatchNormalization", x, scale, shift, mean, var, out=node.shape, epsilon=node.attrs["eps"])


def _instance_norm(b: Builder, node: Node, x: Value, weight: Value | None = None, bias: Value | None = None) -> Value:
    channels = TensorType(x.dtype, x.shape[1:2])
    scale, shift = _vector(b, weight, 1, channels), _vector(b, bias, 0, channels)
    return b.op("InstanceNormalization", x, scale, shift, out=node.shape, epsilon=node.attrs["eps"])


def _layer_norm(b: Builder, node: Node, x: Value, weight: Value | None = None, bias: Value | None = None) -> Value:
    axis = node.attrs["axis"]
    scale = _vector(b, weight, 1, x.type.with_shape(x.shape[axis:]))
    return b.op("LayerNormalization", x, scale, bias, out=node.shape, axis=axis, epsilon=node.attrs["eps"])


def _rms_norm(b: Builder, node: Node, x: Value, weight: Value | None = None) -> Value:
    axis = node.attrs["axis"]
    scale = _vector(b, weight, 1, x.type.with_shape(x.shape[axis:]))
    return b.op("RMSNormalization", x, scale, out=node.shape, axis=axis, epsilon=node.attrs["eps"])


def _group_norm(b: Builder, node: Node, x: Value, weight: Value | None = None, bias: Value | None = None) -> Value:
    channels = TensorType(x.dtype, x.shape[1:2])
    scale, shift = _vector(b, weight, 1, channels), _vector(b, bias, 0, channels)
    attrs = {"num_groups": node.attrs["groups"], "epsilon": node.attrs["eps"]}
    return b.op("GroupNormalization", x, scale, shift, out=node.shape, **attrs)


def _attention(b: Builder, node: Node, q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
    causal = int(node.attrs["is_causal"])
    return b.op("Attention", q, k, v, mask, out=node.shape, is_causal=causal, scale=node.attrs["scale"])


def _masked_softmax(b: Builder, node: Node, x: Value) -> Value:
    """The softmax, and zeros in place of the nan of a row of -inf only."""
    axis = node.attrs["axis"]
    top = b.op("ReduceMax", x, out=slicing.replaced(x.shape, axis, 1), axes=(axis,), keepdims=1)
    nothing = b.op("Equal", top, b.like(x, -np.inf))
    return b.op("Where", nothing, b.like(x, 0), b.op("Softmax", x, axis=axis))


def _with_heads(node: Node) -> bool:
    """The condition that queries, keys and values are [batch, heads, length, size] of one batch and as many heads."""
    shapes = [i.shape for i in node.inputs[:3]]
    return exact_floats("scale")(node) and all(len(shape) == 4 and shape[:2] == shapes[0][:2] for shape in shapes)


# --------------------------------------------------------------------------------------------- losses


def _loss(kind: str) -> Line:
    def plain(node: Node) -> bool:
        hard = not is_float(node.inputs[1].dtype)
        return hard and not node.attrs.get("label_smoothing") and 0 not in node.inputs[0].shape

    return shaped(kind, lambda node: {name: node.attrs[name] for name in ("ignore_index", "reduction")}, when=plain)


# --------------------------------------------------------------------------------------------- recurrences


def _recurrence(b: Builder, node: Node, factors: Value, terms: Value) -> Value:
    """A Scan whose body makes the next state, and hands on the one before it."""
    axis, backwards = node.attrs["axis"], int(node.attrs["reverse"])
    factors, terms = (b.expand(b.wide(x), node.shape) for x in (factors, terms))
    row = factors.type.with_shape(slicing.replaced(node.shape, axis))
    body = b.nested([row] * 3)
    state, factor, term = body.inputs
    after = body.op("Add", body.op("Mul", factor, state), term)
    start = b.expand(b.like(factors, node.attrs["initial"]), row.shape)
    _, before = b.ops(
        "Scan",
        start,
        factors,
        terms,
        outs=(row, factors.type),
        body=body.closed([after, body.copy(state)]),
        num_scan_inputs=2,
        scan_input_axes=(axis, axis),
        scan_input_directions=(backwards, backwards),
        scan_output_axes=(axis,),
        scan_output_directions=(backwards,),
    )
    return b.cast(before, node.dtype)


# --------------------------------------------------------------------------------------------- random draws


def _drawn(b: Builder, node: Node, kind: str, dtype: str, **attrs: float) -> Value:
    """A draw of ONNX's: other numbers than ours, of the same distribution."""
    if isinstance(product(node.shape), int):
        shape = {"shape": node.shape}
        return b.op(kind, out=TensorType(dtype, node.shape), dtype=onnx_dtype(dtype), **shape, **attrs)
    like = b.expand(b.constant(0.0, dtype), node.shape)
    return b.op(f"{kind}Like", like, out=TensorType(dtype, node.shape), dtype=onnx_dtype(dtype), **attrs)


def _float_draw(kind: str, **theirs: str) -> Line:
    def emit(b: Builder, node: Node) -> Value:
        wide = "float32" if node.dtype == "bfloat16" else node.dtype
        return b.cast(
            _drawn(b, node, kind, wide, **{new: node.attrs[ours] for new, ours in theirs.items()}), node.dtype
        )

    return Line(emit)


def _bernoulli(b: Builder, node: Node) -> Value:
    return b.op(
        "Less", _drawn(b, node, "RandomUniform", "float32", low=0.0, high=1.0), b.constant(node.attrs["p"], "float32")
    )


def _integers(b: Builder, node: Node) -> Value:
    low, high = node.attrs["low"], node.attrs["high"]
    drawn = _drawn(b, node, "RandomUniform", "float64", low=float(low), high=float(high))
    return b.cast(b.op("Floor", drawn), node.dtype)


LINES: dict[Op, Line] = {
    linalg.matmul_op: Line(_matmul, trailing=2),
    linalg.linear_op: Line(_linear, when=_of_floats),
    linalg.einsum_op: shaped("Einsum", lambda node: {"equation": node.attrs["equation"]}, when=_of_floats),
    conv.conv_op: shaped("Conv", _conv_attrs),
    conv.conv_bias: shaped("Conv", _conv_attrs),
    conv.conv_transpose: Line(_conv_transpose),
    conv.conv_input_grad: Line(_conv_input_grad),
    conv.conv_weight_grad: Line(_conv_weight_grad),
    pooling.max_pool_op: Line(_max_pool),
    pooling.max_pool_indices: Line(_max_pool_indices),
    pooling.avg_pool_op: Line(_avg_pool),
    pooling.avg_pool_input_grad: Line(_avg_pool_input_grad),
    pooling.global_avg_pool: _global_pool("GlobalAveragePool"),
    pooling.global_max_pool: _global_pool("GlobalMaxPool"),
    activations.softmax_op: shaped("Softmax", lambda node: {"axis": node.attrs["axis"]}),
    activations.log_softmax_op: shaped("LogSoftmax", lambda node: {"axis": node.attrs["axis"]}),
    nn.batch_norm_inference: Line(_batch_norm, when=exact_floats("eps")),
    nn.instance_norm_op: Line(_instance_norm, when=exact_floats("eps")),
    nn.layer_norm_op: Line(_layer_norm, when=exact_floats("eps")),
    nn.rms_norm_op: Line(_rms_norm, since=23, when=exact_floats("eps")),
    nn.group_norm_op: Line(_group_norm, since=21, when=exact_floats("eps")),
    nn.masked_softmax: Line(_masked_softmax),
    nn.attention_op: Line(_attention, since=23, when=_with_heads),
    losses.nll_loss_op: _loss("NegativeLogLikelihoodLoss"),
    losses.cross_entropy_op: _loss("SoftmaxCrossEntropyLoss"),
    scan.recurrence_op: Line(_recurrence, trailing=0),
    random.uniform_op: _float_draw("RandomUniform", low="low", high="high"),
    random.normal_op: _float_draw("RandomNormal", mean="mean", scale="std"),
    random.bernoulli_op: Line(_bernoulli),
    random.integers_op: Line(_integers),
}
