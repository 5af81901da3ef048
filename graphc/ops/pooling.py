"""Pooling: the maximum or the mean of each window, channels first, for any number of spatial axes.

The maximum over a box is one of maxima over its axes in turn, and so is the mean: the references work axis by axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from graphc.composites import composite
from graphc.dims import Dim, product, require_equal
from graphc.errors import ArgumentError, ShapeError
from graphc.ir import Node
from graphc.op import Array, Cotangents, NoGradient, Op, Sample, Samples
from graphc.operands import as_node, as_nodes, astype, constant, expand, primitive
from graphc.ops.creation import zeros
from graphc.ops.indexing import scatter_add_along_axis
from graphc.ops.linalg import matmul
from graphc.ops.reduce import mean, widened
from graphc.ops.shape import reshape, swapaxes
from graphc.ops.windows import AXES, Pads, paddings, per_axis, require_spatial, span, taps, window_counts
from graphc.types import TensorType, is_float

Ints = tuple[int, ...]


# --------------------------------------------------------------------------------------------- references


class _Axis(NamedTuple):
    """The windows along one axis of an array."""

    axis: int
    size: int
    kernel: int
    stride: int
    pad: tuple[int, int]
    dilation: int
    windows: int

    @property
    def length(self) -> int:
        """Elements with the padding, and with what a last window meets beyond it."""
        reach = (self.windows - 1) * self.stride + span(self.kernel, self.dilation)
        return max(reach, self.size + sum(self.pad))

    def taps(self, padded: Array) -> Iterator[Array]:
        """Views: what each position of the window meets."""
        return taps(padded, self.axis, self.kernel, self.stride, self.dilation, self.windows)

    def padded(self, x: Array, fill: Any) -> Array:
        """`x` with `fill` around it along this axis."""
        widths = [(0, 0)] * x.ndim
        widths[self.axis] = (self.pad[0], self.length - self.pad[0] - self.size)
        return np.pad(x, widths, constant_values=fill)

    def divisors(self, like: Array, include_pad: bool) -> Array:
        """How many elements each window counts, ready to divide `like`; beyond the padding nothing counts."""
        start = np.arange(self.windows)[:, None] * self.stride - self.pad[0]
        met = start + np.arange(self.kernel) * self.dilation
        before, after = self.pad if include_pad else (0, 0)
        inside: Array = (met >= -before) & (met < self.size + after)
        others = tuple(k for k in range(like.ndim) if k != self.axis)
        return np.asarray(np.expand_dims(inside.sum(axis=1).astype(like.dtype), others))


def _axes(
    spatial: tuple[int, ...], *, kernel: Ints, stride: Ints, padding: Pads, dilation: Ints, ceil_mode: bool
) -> list[_Axis]:
    """The spatial axes, the last one first: so the first of equal maxima is the first in memory, too."""
    counts = window_counts(spatial, kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    columns = zip(spatial, kernel, stride, padding, dilation, counts, strict=True)
    return [_Axis(k + 2, *column) for k, column in enumerate(columns)][::-1]


def _lowest(dtype: np.dtype[Any]) -> Any:
    """What is below every other value."""
    if dtype.kind == "b":
        return False
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _max_pool(x: Array, **geometry: Any) -> Array:
    for axis in _axes(x.shape[2:], **geometry):
        x = reduce(np.maximum, axis.taps(axis.padded(x, _lowest(x.dtype))))
    return x


def _max_pool_indices(x: Array, **geometry: Any) -> Array:
    spatial = x.shape[2:]
    at = np.broadcast_to(np.arange(math.prod(spatial)).reshape(spatial), x.shape)
    for axis in _axes(spatial, **geometry):
        values, places = axis.padded(x, _lowest(x.dtype)), axis.padded(at, -1)
        x, at = reduce(_first_maximum, zip(axis.taps(values), axis.taps(places), strict=True))
    return np.asarray(np.maximum(at, 0))


def _first_maximum(best: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """The greater of two (value, place); of equal ones the first, and a nan before all; place -1 is padding."""
    (value, place), (v, p) = best, other
    better = (p >= 0) & ((place < 0) | (v > value) | (v != v))
    return np.where(better, v, value), np.where(better, p, place)


def _avg_pool(x: Array, *, count_include_pad: bool, **geometry: Any) -> Array:
    for axis in _axes(x.shape[2:], **geometry):
        x = reduce(np.add, axis.taps(axis.padded(x, 0))) / axis.divisors(x, count_include_pad)
    return x


def _avg_pool_input_grad(g: Array, *, spatial: Ints, count_include_pad: bool, **geometry: Any) -> Array:
    for axis in _axes(spatial, **geometry):
        share = g / axis.divisors(g, count_include_pad)
        total = np.zeros((*g.shape[: axis.axis], axis.length, *g.shape[axis.axis + 1 :]), g.dtype)
        for met in axis.taps(total):
            met += share
        g = total[(*[slice(None)] * axis.axis, slice(axis.pad[0], axis.pad[0] + axis.size))]
    return g


# --------------------------------------------------------------------------------------------- type rules, gradients


def _floats(op: Op, args: Sequence[Any]) -> tuple[Node, ...]:
    """The operands, integers as float32."""
    return tuple([x if is_float(x.dtype) else astype(x, "float32") for x in as_nodes(op, args)])


_GEOMETRY = ("kernel", "stride", "padding", "dilation", "ceil_mode")


def _infer(x: TensorType, *, kernel: tuple[Dim, ...], **geometry: Any) -> TensorType:
    if x.rank != len(kernel) + 2:
        raise ShapeError(f"expected [batch, channels, ...] with {len(kernel)} spatial axes, got {x}")
    return x.with_shape((*x.shape[:2], *window_counts(x.shape[2:], kernel, **geometry)))


def _infer_avg(x: TensorType, *, count_include_pad: bool, **geometry: Any) -> TensorType:
    return _infer(x, **geometry)


def _infer_avg_input_grad(g: TensorType, *, spatial: tuple[Dim, ...], **geometry: Any) -> TensorType:
    if g.rank != len(spatial) + 2:
        raise ShapeError(f"expected [batch, channels, ...] with {len(spatial)} spatial axes, got {g}")
    x = g.with_shape((*g.shape[:2], *spatial))
    for size, count in zip(g.shape, _infer_avg(x, **geometry).shape, strict=True):
        require_equal(size, count, f"sizes of {g}, the pooled {x}")
    return x


def _flat(x: Any) -> Any:
    """[N, C, *spatial] as [N, C, elements]."""
    return reshape(x, (*x.shape[:2], product(x.shape[2:])))


def _max_pool_vjp(g: Node, y: Node, x: Node, **geometry: Any) -> Cotangents:
    return (max_pool_input_grad(g, x, **geometry),)


def _avg_pool_vjp(g: Node, y: Node, x: Node, **geometry: Any) -> Cotangents:
    return (avg_pool_input_grad(g, spatial=x.shape[2:], **geometry),)


def _avg_pool_input_grad_vjp(h: Node, y: Node, g: Node, *, spatial: Any, **geometry: Any) -> Cotangents:
    return (expand(avg_pool_op(h, **geometry), g.shape),)


# --------------------------------------------------------------------------------------------- samples

# (x, kernel, stride, padding, dilation, ceil_mode): overlapping with padding, hanging over the end, dilated, with one
# and three spatial axes, and without channels. On each axis the result is as large as the operand, or has size 1: so
# the operands of the gradients fit each other when their sizes are symbols, too.
_PAIRED: tuple[tuple[Ints, Ints, Ints, Pads, Ints, bool], ...] = (
    ((2, 3, 5, 4), (3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), False),
    ((1, 2, 4, 3), (3, 3), (2, 2), ((0, 0), (0, 0)), (1, 1), False),
    ((2, 1, 2, 5), (4, 2), (3, 3), ((1, 1), (0, 0)), (1, 2), True),
    ((1, 2, 5, 3), (2, 2), (1, 1), ((1, 1), (1, 1)), (2, 2), False),
    ((2, 3, 7), (3,), (1,), ((1, 1),), (1,), False),
    ((1, 2, 3, 2, 2), (2, 1, 2), (1, 1, 2), ((1, 0), (0, 0), (0, 0)), (1, 1, 1), False),
    ((2, 0, 4, 4), (4, 4), (2, 2), ((0, 0), (0, 0)), (1, 1), False),
)
# And where only a forward op is asked: plain, with uneven strides and padding, hanging over the end with and without
# padding there.
_CASES = (
    *_PAIRED,
    ((2, 3, 4, 6), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), False),
    ((1, 2, 5, 5), (3, 3), (1, 2), ((1, 1), (1, 0)), (1, 1), False),
    ((1, 2, 6, 5), (3, 2), (2, 3), ((1, 1), (0, 0)), (1, 1), True),
    ((1, 1, 5, 5), (2, 2), (3, 3), ((1, 1), (0, 1)), (1, 1), True),
)


def _geometries(cases: Any = _CASES) -> Iterator[tuple[Ints, Any, dict[str, Any]]]:
    """For each case the shapes of the operand and the result, and the attributes."""
    for x, *values in cases:
        attrs: dict[str, Any] = dict(zip(_GEOMETRY, values, strict=True))
        yield x, _infer(TensorType("float64", x), **attrs).shape, attrs


def _distinct(rng: np.random.Generator, shape: Ints) -> Array:
    """Values in random order, none nearer than 0.1 to another: finite differences don't change which is the maximum."""
    return (rng.permutation(math.prod(shape)).reshape(shape) - 0.5 * math.prod(shape)) * 0.1


def _max_samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((_distinct(rng, x),), attrs) for x, _, attrs in _geometries()]


def _max_grad_samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((rng.standard_normal(y), _distinct(rng, x)), attrs) for x, y, attrs in _geometries(_PAIRED)]


def _avg_samples(transposed: bool) -> Samples:
    def samples(rng: np.random.Generator) -> list[Sample]:
        out = []
        for number, (x, y, attrs) in enumerate(_geometries()):
            attrs = {**attrs, "count_include_pad": number % 2 == 0}
            attrs |= {"spatial": x[2:]} if transposed else {}
            out.append(Sample((rng.standard_normal(y if transposed else x),), attrs))
        return out

    return samples


# --------------------------------------------------------------------------------------------- the ops

max_pool_op: Op = primitive(
    "max_pool",
    _infer,
    _max_pool,
    _max_pool_vjp,
    "window",
    required=_GEOMETRY,
    samples=_max_samples,
    doc="The maximum of each window of x[N, C, *spatial]; a nan in it wins, and padding never does.",
)

max_pool_indices: Op = primitive(
    "max_pool_indices",
    lambda x, **geometry: _infer(x, **geometry).with_dtype("int64"),
    _max_pool_indices,
    NoGradient("the place of a maximum is an integer"),
    "window",
    positions=lambda node: product(node.inputs[0].shape[2:]),
    required=_GEOMETRY,
    samples=_max_samples,
    doc="Where `max_pool` found each maximum, the first of equal ones, counted over the flattened spatial axes.",
)

avg_pool_op: Op = primitive(
    "avg_pool",
    _infer_avg,
    _avg_pool,
    _avg_pool_vjp,
    "window",
    coerce=_floats,
    required=(*_GEOMETRY, "count_include_pad"),
    samples=_avg_samples(transposed=False),
    doc="The mean of each window of x[N, C, *spatial], over its padding too if `count_include_pad`.",
)

avg_pool_input_grad: Op = primitive(
    "avg_pool_input_grad",
    _infer_avg_input_grad,
    _avg_pool_input_grad,
    _avg_pool_input_grad_vjp,
    "window",
    coerce=_floats,
    required=("spatial", *_GEOMETRY, "count_include_pad"),
    samples=_avg_samples(transposed=True),
    doc="The adjoint of `avg_pool`: g[N, C, *counts] to [N, C, *spatial].",
)


@composite(samples=_max_grad_samples)
def max_pool_input_grad(
    g: Any, x: Any, *, kernel: Ints, stride: Ints, padding: Pads, dilation: Ints, ceil_mode: bool
) -> Any:
    """The gradient of `max_pool(x)`: each window's g is added where its maximum is, the first of equal ones."""
    indices = max_pool_indices(x, kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    nothing = _flat(zeros(x.shape, x.dtype))
    return reshape(scatter_add_along_axis(nothing, _flat(indices), _flat(g), axis=2), x.shape)


def _planes(rng: np.random.Generator) -> list[Sample]:
    return [Sample((_distinct(rng, shape),)) for shape in ((2, 3, 5, 4), (1, 2, 7), (0, 1, 2, 2), (1, 1, 1, 1))]


@composite(samples=_planes)
def global_avg_pool(x: Any) -> Any:
    """The mean of each channel's plane: [N, C, *spatial] to [N, C, 1, ...]."""
    return mean(x, tuple(range(2, x.ndim)), keepdims=True)


@composite(samples=_planes)
def global_max_pool(x: Any) -> Any:
    """The maximum of each channel's plane: [N, C, *spatial] to [N, C, 1, ...]; the first of equal ones has the
    gradient."""
    if x.ndim < 3:
        raise ShapeError(f"global_max_pool: the input must be [batch, channels, *spatial], got {x.type}")
    return max_pool_op(x, **_geometry("global_max_pool", x.shape[2:], None, 0, 1, ceil_mode=False))


# --------------------------------------------------------------------------------------------- public functions


def _geometry(
    op: str, kernel: tuple[Dim, ...], stride: Any, padding: Any, dilation: Any, *, ceil_mode: bool
) -> dict[str, Any]:
    """The attributes of a pooling op; windows don't overlap unless a stride is given."""
    count = len(kernel)
    return dict(
        kernel=kernel,
        stride=kernel if stride is None else per_axis(op, "stride", stride, count),
        padding=paddings(op, padding, count),
        dilation=per_axis(op, "dilation", dilation, count),
        ceil_mode=bool(ceil_mode),
    )


def _checked(
    op: str, count: int, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Any, dict[str, Any]]:
    """The operand and the attributes of a pooling op over `count` spatial axes."""
    x = as_node(x)
    require_spatial(op, "the input", x.type, count)
    kernel = per_axis(op, "kernel_size", kernel_size, count)
    geometry = _geometry(op, kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    spans = map(span, kernel, geometry["dilation"])
    if any(max(pad) >= width for pad, width in zip(geometry["padding"], spans, strict=True)):
        raise ArgumentError(
            f"{op}: padding {padding!r} must be smaller than the window {kernel_size!r}, or one would see nothing else",
        )
    return x, geometry


def _max_pooling(op: str, count: int, return_indices: bool, *arguments: Any) -> Any:
    x, geometry = _checked(op, count, *arguments)
    values = max_pool_op(x, **geometry)
    return (values, max_pool_indices(x, **geometry)) if return_indices else values


def max_pool1d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window of x[batch, C, length]; see `max_pool2d`."""
    return _max_pooling("max_pool1d", 1, return_indices, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window of an image, as `torch.nn.functional.max_pool2d`.

    Args:
        x: [batch, C, height, width].
        kernel_size, dilation: the window: an int, or one for each axis.
        stride: from one window to the next; that of the kernel by default.
        padding: around the image; never a maximum: an int, one for each axis, or one (before, after) pair for each.
        ceil_mode: a last window may hang over the end, if it starts inside the image or the padding before it.
        return_indices: return also where each maximum is, as int64 indices into the flattened plane.

    Returns:
        The maxima, [batch, C, h, w]; of a window with a nan, nan. The gradient goes to the first of equal maxima.

    Raises:
        ShapeError: no window fits. ArgumentError: a padding as large as the window.
    """
    return _max_pooling("max_pool2d", 2, return_indices, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window of x[batch, C, depth, height, width]; see `max_pool2d`."""
    return _max_pooling("max_pool3d", 3, return_indices, x, kernel_size, stride, padding, dilation, ceil_mode)


def _avg_pooling(
    op: str, count: int, x: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool
) -> Any:
    x, geometry = _checked(op, count, x, kernel_size, stride, padding, 1, ceil_mode)
    return avg_pool_op(x, **geometry, count_include_pad=bool(count_include_pad))


def avg_pool1d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of each window of x[batch, C, length]; see `avg_pool2d`."""
    return _avg_pooling("avg_pool1d", 1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of each window of an image, as `torch.nn.functional.avg_pool2d`.

    Args:
        x: [batch, C, height, width]; integers are taken as float32.
        count_include_pad: zeros of the padding count as elements (what hangs over its end never does).
        kernel_size, stride, padding, ceil_mode: as for `max_pool2d`.

    Raises:
        ShapeError: no window fits. ArgumentError: a padding as large as the window.
    """
    return _avg_pooling("avg_pool2d", 2, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool3d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of each window of x[batch, C, depth, height, width]; see `avg_pool2d`."""
    return _avg_pooling("avg_pool3d", 3, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def global_avg_pool2d(x: Any) -> Any:
    """The mean of each plane: [batch, C, height, width] to [batch, C, 1, 1]."""
    x = as_node(x)
    require_spatial("global_avg_pool2d", "the input", x.type, 2)
    return global_avg_pool(x)


def global_max_pool2d(x: Any) -> Any:
    """The maximum of each plane: [batch, C, height, width] to [batch, C, 1, 1]."""
    x = as_node(x)
    require_spatial("global_max_pool2d", "the input", x.type, 2)
    return global_max_pool(x)


def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """The means of a grid of `output_size` windows, as `torch.nn.functional.adaptive_avg_pool2d`.

    Window k of n covers the elements from floor(k * size / n) to ceil((k + 1) * size / n): all have one size, and
    don't overlap, where n divides the size.

    Args:
        x: [batch, C, height, width].
        output_size: an int, or one for each axis; None keeps the axis.

    Raises:
        ShapeError: a size that isn't known yet, unless the output is 1x1 or keeps the axis.
        ArgumentError: an output size that isn't a positive int or None.
    """
    op = "adaptive_avg_pool2d"
    x = as_node(x)
    require_spatial(op, "the input", x.type, 2)
    given = output_size if isinstance(output_size, tuple | list) else (output_size,) * 2
    sizes = per_axis(op, "output_size", [1 if out is None else out for out in given], 2)
    wanted = [size if out is None else n for size, out, n in zip(x.shape[2:], given, sizes, strict=True)]
    if wanted == [1, 1]:
        return global_avg_pool(x)
    pairs = list(zip(x.shape[2:], wanted, strict=True))
    if not all(out == size or isinstance(size, int) for size, out in pairs):
        raise ShapeError(f"{op}: the {AXES[2]} of {x.type} must be known for output_size {output_size!r}")
    if all(out == size or size % out == 0 for size, out in pairs):
        return avg_pool2d(x, tuple(1 if out == size else size // out for size, out in pairs))
    y = widened(x)
    for axis, (size, out) in enumerate(pairs, start=2):
        if out != size:
            y = swapaxes(matmul(swapaxes(y, axis, 3), constant(_averages(size, out).T, y.dtype)), axis, 3)
    return astype(y, x.dtype)


def _averages(size: int, windows: int) -> Array:
    """The matrix [windows, size] that averages each window of adaptive pooling."""
    edges = np.arange(windows + 1) * size
    at = np.arange(size)
    inside = (at >= edges[:-1, None] // windows) & (at < -(-edges[1:, None] // windows))
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))
