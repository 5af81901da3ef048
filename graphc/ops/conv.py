"""Convolutions and transposed convolutions, of any number of spatial axes, channels first.

One trilinear form stands behind the three primitives: T(x, w, g) = sum(g * conv(x, w)). Each of them is the gradient
of T in one operand, so the rules of all three name only each other and every order of derivative exists.
A transposed convolution is `conv_input_grad`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from graphc.composites import composite
from graphc.dims import Dim, compare, require_equal
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.ir import Node
from graphc.op import Array, Cotangents, Op, Sample, Samples
from graphc.operands import as_node, astype, expand, expand_dims_op, primitive
from graphc.ops.math import add
from graphc.ops.windows import Pads, paddings, per_axis, require_spatial, span, tap, window_counts
from graphc.types import TensorType, promote

Ints = tuple[int, ...]

# Elements of the matrix of columns that a reference holds at a time: it bounds memory.
BLOCK = 1 << 22


# --------------------------------------------------------------------------------------------- type rules


def _require_operands(a: TensorType, b: TensorType) -> None:
    if a.dtype != b.dtype:
        raise DTypeError(f"operands must have one dtype, got {a} and {b}")
    if a.rank != b.rank or a.rank < 3:
        raise ShapeError(f"operands must both have a batch, channels and the same spatial axes, got {a} and {b}")


def _require_groups(side: str, channels: Dim, groups: int) -> None:
    require_equal(channels % groups, 0, f"{channels} {side} channels must divide by groups={groups}; the rest")


def _infer_conv(
    x: TensorType, w: TensorType, *, stride: Ints, padding: Pads, dilation: Ints, groups: int
) -> TensorType:
    _require_operands(x, w)
    _require_groups("output", w.shape[0], groups)
    require_equal(x.shape[1], w.shape[1] * groups, f"channels of {x} and of the weight {w} with groups={groups}")
    return x.with_shape((x.shape[0], w.shape[0], *window_counts(x.shape[2:], w.shape[2:], stride, padding, dilation)))


def _infer_input_grad(
    g: TensorType, w: TensorType, *, spatial: tuple[Dim, ...], stride: Ints, padding: Pads, dilation: Ints, groups: int
) -> TensorType:
    _require_operands(g, w)
    _require_groups("output", w.shape[0], groups)
    require_equal(g.shape[1], w.shape[0], f"channels of {g} and of the weight {w}")
    _require_windows(g, window_counts(spatial, w.shape[2:], stride, padding, dilation))
    return g.with_shape((g.shape[0], w.shape[1] * groups, *spatial))


def _infer_weight_grad(
    x: TensorType, g: TensorType, *, kernel: tuple[Dim, ...], stride: Ints, padding: Pads, dilation: Ints, groups: int
) -> TensorType:
    _require_operands(x, g)
    _require_groups("output", g.shape[1], groups)
    _require_groups("input", x.shape[1], groups)
    require_equal(x.shape[0], g.shape[0], "batch sizes")
    _require_windows(g, window_counts(x.shape[2:], kernel, stride, padding, dilation))
    return x.with_shape((g.shape[1], x.shape[1] // groups, *kernel))


def _require_windows(g: TensorType, counts: tuple[Dim, ...]) -> None:
    for size, count in zip(g.shape[2:], counts, strict=True):
        require_equal(size, count, f"spatial sizes of {g}")


# --------------------------------------------------------------------------------------------- references
#
# A sample's windows become the columns of a matrix (im2col), one for each group: [C/groups * taps, windows]. Products
# of that size stay in the cache and below the size from which BLAS starts threads.


def _blocks(batch: int, columns: int) -> Iterator[slice]:
    """The batch in blocks whose matrices of `columns` elements a sample stay within `BLOCK`."""
    step = max(1, BLOCK // max(1, columns))
    return (slice(start, start + step) for start in range(0, batch, step))


def _columns(x: Array, kernel: Ints, stride: Ints, padding: Pads, dilation: Ints, groups: int) -> Array:
    """The windows of `x`, as [N, groups, C/groups * taps, windows]."""
    axes = tuple(range(2, x.ndim))
    spans = tuple(map(span, kernel, dilation))
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), *padding)), spans, axes)
    steps = [slice(None, None, step) for step in (*stride, *dilation)]
    windows = windows[(slice(None), slice(None), *steps)]  # [N, C, *counts, *kernel]
    counts = windows.shape[2 : x.ndim]
    order = (0, 1, *range(x.ndim, windows.ndim), *axes)
    rows = x.shape[1] // groups * math.prod(kernel)
    return windows.transpose(order).reshape(x.shape[0], groups, rows, math.prod(counts))


def _grouped(w: Array, groups: int) -> Array:
    """The weights as [groups, O/groups, C/groups * taps]."""
    return w.reshape(groups, w.shape[0] // groups, math.prod(w.shape[1:]))


def _conv(x: Array, w: Array, *, stride: Ints, padding: Pads, dilation: Ints, groups: int) -> Array:
    kernel = w.shape[2:]
    counts = window_counts(x.shape[2:], kernel, stride, padding, dilation)
    y = np.empty((x.shape[0], groups, w.shape[0] // groups, math.prod(counts)), x.dtype)
    weights = _grouped(w, groups)
    for block in _blocks(x.shape[0], x.shape[1] * math.prod(kernel) * math.prod(counts)):
        np.matmul(weights, _columns(x[block], kernel, stride, padding, dilation, groups), out=y[block])
    return y.reshape(x.shape[0], w.shape[0], *counts)


def _input_grad(
    g: Array, w: Array, *, spatial: Ints, stride: Ints, padding: Pads, dilation: Ints, groups: int
) -> Array:
    batch, channels, kernel, counts = g.shape[0], w.shape[1] * groups, w.shape[2:], g.shape[2:]
    padded = np.zeros((batch, channels, *(n + sum(p) for n, p in zip(spatial, padding, strict=True))), g.dtype)
    weights = _grouped(w, groups).swapaxes(1, 2)
    for block in _blocks(batch, channels * math.prod(kernel) * math.prod(counts)):
        part = g[block]
        outputs = part.reshape(len(part), groups, g.shape[1] // groups, math.prod(counts))
        columns = np.matmul(weights, outputs).reshape(len(part), channels, *kernel, *counts)
        for position in np.ndindex(kernel):
            met = tuple(map(tap, map(int.__mul__, position, dilation), stride, counts))
            padded[(block, slice(None), *met)] += columns[(slice(None), slice(None), *position)]
    inner = (slice(before, before + n) for n, (before, _) in zip(spatial, padding, strict=True))
    return padded[(slice(None), slice(None), *inner)]


def _weight_grad(
    x: Array, g: Array, *, kernel: Ints, stride: Ints, padding: Pads, dilation: Ints, groups: int
) -> Array:
    shape = (g.shape[1], x.shape[1] // groups, *kernel)
    windows = math.prod(g.shape[2:])
    total = np.zeros((groups, shape[0] // groups, math.prod(shape[1:])), x.dtype)
    for block in _blocks(x.shape[0], x.shape[1] * math.prod(kernel) * windows):
        part = g[block]
        outputs = part.reshape(len(part), groups, shape[0] // groups, windows)
        columns = _columns(x[block], kernel, stride, padding, dilation, groups)
        total += np.matmul(outputs, columns.swapaxes(2, 3)).sum(axis=0, dtype=x.dtype)
    return total.reshape(shape)


# --------------------------------------------------------------------------------------------- gradients


def _conv_vjp(g: Node, y: Node, x: Node, w: Node, **geometry: Any) -> Cotangents:
    to_x = conv_input_grad(g, w, spatial=x.shape[2:], **geometry)
    to_w = conv_weight_grad(x, g, kernel=w.shape[2:], **geometry)
    return expand(to_x, x.shape), expand(to_w, w.shape)


def _input_grad_vjp(h: Node, y: Node, g: Node, w: Node, *, spatial: Any, **geometry: Any) -> Cotangents:
    to_w = conv_weight_grad(h, g, kernel=w.shape[2:], **geometry)
    return expand(conv_op(h, w, **geometry), g.shape), expand(to_w, w.shape)


def _weight_grad_vjp(v: Node, y: Node, x: Node, g: Node, *, kernel: Any, **geometry: Any) -> Cotangents:
    to_x = conv_input_grad(g, v, spatial=x.shape[2:], **geometry)
    return expand(to_x, x.shape), expand(conv_op(x, v, **geometry), g.shape)


# --------------------------------------------------------------------------------------------- the primitives

# (x, w, stride, padding, dilation, groups): plain, strided with uneven padding, dilated, grouped, depthwise, one
# spatial axis, three, and an empty batch. On each axis the input, the kernel and the result have one size, or the
# result has size 1: so the operands of all three primitives fit each other when their sizes are symbols, too.
_CASES: tuple[tuple[Ints, Ints, Ints, Pads, Ints, int], ...] = (
    ((2, 3, 3, 5), (4, 3, 3, 5), (1, 1), ((1, 1), (2, 2)), (1, 1), 1),
    ((1, 2, 3, 5), (3, 2, 3, 3), (2, 3), ((3, 1), (0, 0)), (1, 1), 1),
    ((2, 1, 3, 7), (1, 1, 3, 2), (1, 4), ((2, 2), (0, 0)), (2, 3), 1),
    ((2, 2, 3, 3), (4, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    ((1, 3, 2, 2), (6, 1, 2, 2), (1, 2), ((0, 1), (1, 1)), (1, 1), 3),
    ((2, 3, 4), (2, 3, 4), (1,), ((2, 1),), (1,), 1),
    ((1, 2, 2, 3, 2), (2, 2, 2, 1, 2), (1, 1, 2), ((0, 1), (0, 0), (1, 1)), (1, 1, 1), 1),
    ((0, 2, 3, 3), (3, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
)


def _samples(operands: str, extra: str = "") -> Samples:
    """Samples for a primitive of the family: which of x, w, g it takes, and the shape that is an attribute."""

    def samples(rng: np.random.Generator) -> list[Sample]:
        out = []
        for x, w, stride, padding, dilation, groups in _CASES:
            counts = window_counts(x[2:], w[2:], stride, padding, dilation)
            shapes = {"x": x, "w": w, "g": (x[0], w[0], *counts)}
            attrs: dict[str, Any] = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
            attrs |= {"spatial": {"spatial": x[2:]}, "kernel": {"kernel": w[2:]}}.get(extra, {})
            out.append(Sample(tuple(rng.standard_normal(shapes[name]) for name in operands), attrs))
        return out

    return samples


_GEOMETRY = ("stride", "padding", "dilation", "groups")

conv_op: Op = primitive(
    "conv",
    _infer_conv,
    _conv,
    _conv_vjp,
    "conv",
    required=_GEOMETRY,
    samples=_samples("xw"),
    doc="Cross-correlation of x[N, C, *spatial] with w[O, C/groups, *kernel].",
)

conv_input_grad: Op = primitive(
    "conv_input_grad",
    _infer_input_grad,
    _input_grad,
    _input_grad_vjp,
    "conv",
    required=("spatial", *_GEOMETRY),
    samples=_samples("gw", "spatial"),
    doc="The adjoint of `conv` in x: g[N, O, *counts] and w[O, C/groups, *kernel] to [N, C, *spatial].",
)

conv_weight_grad: Op = primitive(
    "conv_weight_grad",
    _infer_weight_grad,
    _weight_grad,
    _weight_grad_vjp,
    "conv",
    required=("kernel", *_GEOMETRY),
    samples=_samples("xg", "kernel"),
    doc="The adjoint of `conv` in w: x[N, C, *spatial] and g[N, O, *counts] to [O, C/groups, *kernel].",
)


# --------------------------------------------------------------------------------------------- composites


def per_channel(values: Any, rank: int) -> Any:
    """`values[C]` as [1, C, 1, ...] of `rank` dimensions, ready to meet x[N, C, *spatial]."""
    return expand_dims_op(values, axes=(0, *range(2, rank)))


def _biased(rng: np.random.Generator) -> list[Sample]:
    samples = []
    for sample in _samples("xw")(rng):
        bias = rng.standard_normal(sample.args[1].shape[0])
        samples.append(Sample((*sample.args, bias), sample.attrs))
    return samples


@composite(samples=_biased)
def conv_bias(x: Any, weight: Any, bias: Any, *, stride: Ints, padding: Pads, dilation: Ints, groups: int) -> Any:
    """`conv`, plus a bias[O] for each output channel."""
    y = conv_op(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return add(y, per_channel(bias, y.ndim))


def _transposed(rng: np.random.Generator) -> list[Sample]:
    plain: dict[str, Any] = dict(
        stride=(1, 1), padding=((0, 0), (0, 0)), output_padding=(0, 0), dilation=(1, 1), groups=1
    )
    doubled = {**plain, "stride": (2, 2), "padding": ((1, 1), (1, 1)), "output_padding": (1, 1)}
    cases: list[tuple[tuple[Ints, ...], dict[str, Any]]] = [
        (((2, 3, 4, 3), (3, 2, 3, 2)), plain),
        (((1, 2, 3, 3), (2, 2, 3, 3), (2,)), doubled),
        (((1, 4, 3, 2), (4, 1, 2, 3), (2,)), {**plain, "groups": 2, "dilation": (2, 1)}),
    ]
    return [Sample(tuple(map(rng.standard_normal, shapes)), attrs) for shapes, attrs in cases]


@composite(samples=_transposed)
def conv_transpose(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Ints,
    padding: Pads,
    output_padding: Ints,
    dilation: Ints,
    groups: int,
) -> Any:
    """The adjoint of the convolution with the same arguments, plus a bias for each output channel.

    `output_padding` chooses among the sizes that the convolution would have taken to the size of `x`.
    """
    require_spatial("conv_transpose", "the input", x.type, len(stride))
    require_spatial("conv_transpose", "the weight", weight.type, len(stride))
    axes = zip(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation, strict=True)
    spatial = tuple(
        (size - 1) * step - sum(pad) + span(taps, spread) + extra for size, taps, step, pad, extra, spread in axes
    )
    y = conv_input_grad(x, weight, spatial=spatial, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return y if bias is None else add(y, per_channel(bias, y.ndim))


# --------------------------------------------------------------------------------------------- public functions


def _operands(op: str, count: int, x: Any, weight: Any, bias: Any, channels: Callable[[Any], Dim]) -> list[Any]:
    """The operands in one dtype, their ranks checked, and the size of the bias, of which the weight has `channels`."""
    operands = [as_node(value) for value in (x, weight, bias) if value is not None]
    require_spatial(op, "the input", operands[0].type, count)
    require_spatial(op, "the weight", operands[1].type, count)
    if bias is not None:
        wanted, got = channels(operands[1].shape), operands[2].type
        if got.rank != 1 or compare(got.shape[0], wanted) == "different":
            raise ShapeError(f"{op}: the bias must be [{wanted}], one for each output channel, got {got}")
    dtype = promote(*[value.dtype for value in operands])
    return [astype(value, dtype) for value in operands]


def _padding(op: str, padding: Any, kernel: tuple[Dim, ...], stride: Ints, dilation: Ints) -> Pads:
    """`padding`, with the words "same" and "valid" worked out."""
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        if any(step != 1 for step in stride):
            raise ArgumentError(f"{op}: padding='same' needs stride=1, got {stride}")
        sizes = per_axis(op, "with padding='same' the kernel", kernel, len(kernel))
        totals = [span(size, spread) - 1 for size, spread in zip(sizes, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return paddings(op, padding, len(kernel))


def _convolution(
    op: str, count: int, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    (groups,) = per_axis(op, "groups", groups, 1)
    operands = _operands(op, count, x, weight, bias, lambda shape: shape[0])
    steps, spread = per_axis(op, "stride", stride, count), per_axis(op, "dilation", dilation, count)
    pads = _padding(op, padding, operands[1].shape[2:], steps, spread)
    apply = conv_op if bias is None else conv_bias
    return apply(*operands, stride=steps, padding=pads, dilation=spread, groups=groups)


def conv1d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Convolve along one axis: x[batch, C, length], weight[O, C/groups, k], bias[O]; see `conv2d`."""
    return _convolution("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Convolve images with a bank of filters, as `torch.nn.functional.conv2d` (a cross-correlation).

    Args:
        x: [batch, C, height, width].
        weight: [O, C/groups, kh, kw].
        bias: [O], or None.
        stride, dilation: an int, or one for each axis.
        padding: zeros around the image: an int, one int for each axis, one (before, after) pair for each axis,
            "valid" (none), or "same" (output as large as the input; needs stride 1; the odd one goes after).
        groups: input and output channels are split into so many groups, convolved separately.

    Returns:
        [batch, O, (height + padding - dilation*(kh - 1) - 1)//stride + 1, likewise for width].

    Raises:
        ShapeError: the channels don't fit, or the kernel is larger than the padded image. ArgumentError: an argument
        that has another form than said above.
    """
    return _convolution("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Convolve volumes: x[batch, C, depth, height, width], weight[O, C/groups, kd, kh, kw]; see `conv2d`."""
    return _convolution("conv3d", 3, x, weight, bias, stride, padding, dilation, groups)


def _transposed_convolution(
    op: str,
    count: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Any:
    (groups,) = per_axis(op, "groups", groups, 1)
    operands = _operands(op, count, x, weight, bias, lambda shape: shape[1] * groups)
    steps, spread = per_axis(op, "stride", stride, count), per_axis(op, "dilation", dilation, count)
    extra = per_axis(op, "output_padding", output_padding, count, least=0)
    if any(more >= step for more, step in zip(extra, steps, strict=True)):
        raise ArgumentError(f"{op}: output_padding {extra} must be smaller than stride {steps}")
    return conv_transpose(
        *operands,
        stride=steps,
        padding=paddings(op, padding, count),
        output_padding=extra,
        dilation=spread,
        groups=groups,
    )


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Transposed convolution along one axis: x[batch, C, length], weight[C, O/groups, k]; see `conv_transpose2d`."""
    return _transposed_convolution(
        "conv_transpose1d", 1, x, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The adjoint of `conv2d` with the same arguments, as `torch.nn.functional.conv_transpose2d`.

    Args:
        x: [batch, C, height, width].
        weight: [C, O/groups, kh, kw].
        bias: [O], or None.
        stride, padding, dilation, groups: those of the convolution; `padding` is an int, one int for each axis, or
            one (before, after) pair for each axis.
        output_padding: rows and columns to add at the end of the result, fewer than the stride.

    Returns:
        [batch, O, (height - 1)*stride - padding + dilation*(kh - 1) + 1 + output_padding, likewise for width].

    Raises:
        ShapeError: the channels don't fit. ArgumentError: an argument that has another form than said above.
    """
    return _transposed_convolution(
        "conv_transpose2d", 2, x, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Transposed convolution of volumes: x[batch, C, d, h, w], weight[C, O/groups, kd, kh, kw]; see
    `conv_transpose2d`."""
    return _transposed_convolution(
        "conv_transpose3d", 3, x, weight, bias, stride, padding, output_padding, groups, dilation
    )
