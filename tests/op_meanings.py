"""What each op means, written once more in NumPy or as plain loops, without looking at how the op is defined."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from graphc.types import np_dtype

Array = np.ndarray[Any, Any]
Ints = tuple[int, ...]

# Pointwise functions of one float operand, whose values at infinities, nan, both zeros and the ends of the range count.
UNARY: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in ("abs", "sign", "negative", "reciprocal", "sqrt", "floor", "ceil", "isnan")},
    **{name: getattr(np, name) for name in ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "isfinite")},
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "tanh", "isinf")},
    "round": np.round,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": np.vectorize(math.erf, otypes=[float]),
    "sigmoid": lambda x: np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x))),
    "identity": lambda x: x,
    "stop_gradient": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x, negative_slope=0.01: np.where(x > 0, x, negative_slope * x),
    "elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x))),
    "softplus": lambda x, beta=1.0, threshold=20.0: np.where(x * beta > threshold, x, np.logaddexp(0, beta * x) / beta),
    "gelu": lambda x, approximate="none": GELUS[approximate](x),
    "log_sigmoid": lambda x: -np.logaddexp(0, -x),
}

GELUS = {
    "none": np.vectorize(lambda x: x * math.erfc(-x / math.sqrt(2)) / 2, otypes=[float]),
    "tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


def along(axis: int, fn: Callable[[Array], Array], x: Array) -> Array:
    """`fn` of each vector along an axis."""
    return np.apply_along_axis(fn, axis, x) if x.size else x


def reduced(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A NumPy reduction over `axes`, which stay with size 1."""
    return lambda x, *, axes, **attrs: fn(x, axis=axes, keepdims=True, **attrs)


# --- running totals


def running(step: Callable[[float, float], float], start: float) -> Callable[..., Any]:
    """Fold along an axis, from either end, with or without the own element."""

    def fold(x: Array, *, axis: int, reverse: bool = False, exclusive: bool = False) -> Array:
        def vector(values: Array) -> Array:
            ordered = values[::-1] if reverse else values
            totals = list(itertools.accumulate(ordered, step, initial=start))
            found = np.array(totals[:-1] if exclusive else totals[1:])
            return found[::-1] if reverse else found

        return along(axis, vector, x)

    return fold


def linear_recurrence(a: Array, b: Array, *, axis: int, reverse: bool = False, initial: float = 0.0) -> Array:
    """The states before each element of s -> a s + b."""
    a, b = np.broadcast_arrays(a, b)
    out = np.empty(a.shape)
    for rest in np.ndindex(*a.shape[:axis], *a.shape[axis + 1 :]):
        state, order = initial, range(a.shape[axis])
        for k in reversed(order) if reverse else order:
            at = (*rest[:axis], k, *rest[axis:])
            out[at] = state
            state = a[at] * state + b[at]
    return out


# --- order and indices


def sort(x: Array, *, axis: int, descending: bool = False) -> Array:
    """Sorted along an axis."""
    return np.flip(np.sort(x, axis), axis) if descending else np.sort(x, axis)


def topk(x: Array, *, k: int, axis: int, largest: bool = True) -> tuple[Array, Array]:
    """The first k along an axis, and where they were."""
    order = np.argsort(-x if largest else x, axis, kind="stable")
    return np.take(sort(x, axis=axis, descending=largest), range(k), axis), np.take(order, range(k), axis)


def gather_places(shape: tuple[int, ...], indices: tuple[Array, ...], axes: tuple[int, ...]) -> Iterator[Any]:
    """For each element of a gather's result: its place there, and where in the operand it comes from."""
    indices = np.broadcast_arrays(*indices)
    others = [axis for axis in range(len(shape)) if axis not in axes]
    for rest in np.ndindex(*[shape[axis] for axis in others]):
        for place in np.ndindex(indices[0].shape):
            source = dict(zip(others, rest, strict=True)) | {a: i[place] for a, i in zip(axes, indices, strict=True)}
            yield (*rest[: axes[0]], *place, *rest[axes[0] :]), tuple(source[axis] for axis in range(len(shape)))


def gather(x: Array, *indices: Array, axes: tuple[int, ...]) -> Array:
    """x at the indices, element by element; their axes are where the first indexed one was."""
    rest = [size for axis, size in enumerate(x.shape) if axis not in axes]
    out = np.empty((*rest[: axes[0]], *np.broadcast_shapes(*[i.shape for i in indices]), *rest[axes[0] :]))
    for target, source in gather_places(x.shape, indices, axes):
        out[target] = x[source]
    return out


def scatter_add(x: Array, updates: Array, *indices: Array, axes: tuple[int, ...]) -> Array:
    """x with the updates added where `gather` would read, element by element."""
    out = x.copy()
    for target, source in gather_places(x.shape, indices, axes):
        out[source] += updates[target]
    return out


def scatter_add_along_axis(x: Array, indices: Array, updates: Array, *, axis: int) -> Array:
    """x with the updates added where `np.take_along_axis` would read."""
    out = x.copy()
    for place in np.ndindex(indices.shape):
        out[(*place[:axis], indices[place], *place[axis + 1 :])] += updates[place]
    return out


def one_hot(x: Array, *, depth: int, dtype: str) -> Array:
    """Rows of the unit matrix; none for what is no index."""
    out = np.zeros((*x.shape, depth), np_dtype(dtype))
    for place in np.ndindex(x.shape):
        if 0 <= x[place] < depth:
            out[place][x[place]] = 1
    return out


def slice_of(x: Array, *, starts: Any, steps: Any, shape: Any) -> Array:
    """The elements starts + k * steps."""
    out = np.empty(shape)
    for place in np.ndindex(*shape):
        out[place] = x[tuple(s + k * d for s, k, d in zip(starts, place, steps, strict=True))]
    return out


def pad(x: Array, *, starts: Any, steps: Any, shape: Any, value: float = 0) -> Array:
    """x put at starts + k * steps."""
    out = np.full(shape, float(value))
    for place in np.ndindex(x.shape):
        out[tuple(s + k * d for s, k, d in zip(starts, place, steps, strict=True))] = x[place]
    return out


# --- windows


class Windows:
    """The windows of a convolution or pooling over the spatial axes."""

    def __init__(
        self, spatial: Ints, *, kernel: Ints, stride: Ints, padding: Any, dilation: Ints, ceil_mode: bool = False
    ) -> None:
        self.spatial, self.kernel = spatial, kernel
        self.axes = list(zip(spatial, stride, dilation, padding, strict=True))
        free = [n + sum(p) - d * (k - 1) - 1 for (n, _, d, p), k in zip(self.axes, kernel, strict=True)]
        self.counts = tuple(
            min(-(-f // s) + 1, -(-(n + p[0]) // s)) if ceil_mode else f // s + 1  # all start inside or before
            for f, (n, s, _, p) in zip(free, self.axes, strict=True)
        )

    def met(self, place: Ints, tap: Ints) -> Ints:
        """Where a tap of the window at `place` is; in the padding, outside of [0, size)."""
        return tuple(w * s + t * d - p[0] for w, t, (_, s, d, p) in zip(place, tap, self.axes, strict=True))

    def inside(self, place: Ints) -> list[tuple[Ints, Ints]]:
        """The taps of a window that are inside the operand, and where."""
        taps = [(tap, self.met(place, tap)) for tap in np.ndindex(*self.kernel)]
        return [(tap, at) for tap, at in taps if all(0 <= a < n for a, n in zip(at, self.spatial, strict=True))]

    def padded(self, place: Ints) -> int:
        """How many taps of a window are inside the operand or its padding."""
        ends = [n + p[1] for n, _, _, p in self.axes]
        return sum(all(map(int.__lt__, self.met(place, tap), ends)) for tap in np.ndindex(*self.kernel))


def conv(x: Array, w: Array, bias: Array | None = None, *, groups: int, **geometry: Any) -> Array:
    """Cross-correlation, one product at a time."""
    found = Windows(x.shape[2:], kernel=w.shape[2:], **geometry)
    out = np.zeros((x.shape[0], w.shape[0], *found.counts))
    outputs, inputs = w.shape[0] // groups, w.shape[1]
    for n, o, *place in np.ndindex(out.shape):
        first = o // outputs * inputs
        for tap, at in found.inside(tuple(place)):
            out[(n, o, *place)] += sum(x[(n, first + c, *at)] * w[(o, c, *tap)] for c in range(inputs))
    return out if bias is None else out + per_channel(bias, 0, out)


def conv_transpose(
    x: Array, w: Array, bias: Array | None = None, *, output_padding: Ints, groups: int, **geometry: Any
) -> Array:
    """Each element of x adds its multiple of the kernel to the result."""
    columns = (x.shape[2:], w.shape[2:], geometry["stride"], geometry["padding"], output_padding, geometry["dilation"])
    sizes = [(n - 1) * s - sum(p) + d * (k - 1) + 1 + extra for n, k, s, p, extra, d in zip(*columns, strict=True)]
    found = Windows(tuple(sizes), kernel=w.shape[2:], **geometry)
    out = np.zeros((x.shape[0], w.shape[1] * groups, *sizes))
    inputs, outputs = w.shape[0] // groups, w.shape[1]
    for n, c, *place in np.ndindex(x.shape):
        for tap, at in found.inside(tuple(place)):
            for o in range(outputs):
                out[(n, c // inputs * outputs + o, *at)] += x[(n, c, *place)] * w[(c, o, *tap)]
    return out if bias is None else out + per_channel(bias, 0, out)


def pooled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Pooling, where `fn` takes a window's elements, their flat places, and the number of its taps with the padding."""

    def pool(x: Array, *, count_include_pad: bool = False, **geometry: Any) -> Array:
        found = Windows(x.shape[2:], **geometry)
        out = np.zeros((*x.shape[:2], *found.counts))
        for n, c, *place in np.ndindex(out.shape):
            flat = [int(np.ravel_multi_index(at, x.shape[2:])) for _, at in found.inside(tuple(place))]
            taps = found.padded(tuple(place)) if count_include_pad else len(flat)
            out[(n, c, *place)] = fn(x[n, c].ravel()[flat], flat, taps)
        return out

    return pool


# --- normalisation, attention, losses


def standardized(x: Array, axes: Any, eps: float) -> Array:
    """Mean 0 and variance 1 over the axes."""
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def per_channel(values: Array | None, default: float, x: Array) -> Any:
    """values[C] as [C, 1, ...]."""
    return default if values is None else values.reshape(-1, *[1] * (x.ndim - 2))


def affine(y: Array, weight: Array | None, bias: Array | None) -> Array:
    """y weight + bias for each channel."""
    return y * per_channel(weight, 1, y) + per_channel(bias, 0, y)


def all_but_channels(x: Array) -> tuple[int, ...]:
    """The axes that batch normalisation reduces."""
    return (0, *range(2, x.ndim))


def group_norm(x: Array, weight: Any = None, bias: Any = None, *, groups: int, eps: float) -> Array:
    """Standardised over each set of channels."""
    parts = np.split(x, groups, axis=1)
    whole = tuple(range(1, x.ndim))
    return affine(np.concatenate([standardized(part, whole, eps) for part in parts], axis=1), weight, bias)


def attention(q: Array, k: Array, v: Array, mask: Any = None, *, is_causal: bool, scale: float) -> Array:
    """softmax(q k^T scale + mask) v."""
    scores = q @ np.swapaxes(k, -1, -2) * scale
    if is_causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True) @ v


def bounded_log(p: Array) -> Array:
    """log(p), but at least -100."""
    return np.maximum(np.log(p), -100)


def cross_entropy(
    logits: Array,
    target: Array,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalise: bool = True,
) -> Array:
    """One element of the batch after the other."""
    classes = logits.shape[1]
    scale = np.ones(classes) if weight is None else weight
    rows = np.moveaxis(logits, 1, -1)
    soft = target.ndim == logits.ndim
    losses, total = np.zeros(rows.shape[:-1]), 0.0
    for place in np.ndindex(losses.shape):
        row = rows[place]
        logp = row - np.log(np.sum(np.exp(row))) if normalise else row
        if soft:
            chances, total = np.moveaxis(target, 1, -1)[place], total + 1
        elif target[place] == ignore_index:
            continue
        else:
            chances, total = np.eye(classes)[target[place]], total + scale[target[place]]
        smooth = (1 - label_smoothing) * chances + label_smoothing / classes
        losses[place] = -np.sum(smooth * scale * logp)
    return {"none": lambda: losses, "sum": losses.sum, "mean": lambda: losses.sum() / total}[reduction]()


# Ops whose meaning is to be another op's gradient, which finite differences of that op establish.
ADJOINTS = {
    "avg_pool_input_grad": "avg_pool",
    "conv_input_grad": "conv",
    "conv_weight_grad": "conv",
    "max_pool_input_grad": "max_pool",
    "scaled_dot_product_attention_grad": "scaled_dot_product_attention",
}

MEANINGS: dict[str, Callable[..., Any]] = {
    **UNARY,
    **{name: getattr(np, name) for name in ("add", "subtract", "multiply", "divide", "floor_divide", "remainder")},
    **{name: getattr(np, name) for name in ("maximum", "minimum", "clip", "where", "matmul", "logical_not")},
    **{name: getattr(np, name) for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")},
    **{name: getattr(np, name) for name in ("logical_and", "logical_or", "logical_xor", "take_along_axis")},
    **{name: getattr(np, name) for name in ("tril", "triu")},
    "power": np.power,
    "xlogy": lambda x, y: np.where((x == 0) & ~np.isnan(y), 0, x * np.log(y)),
    "by_mode": lambda train, evaluation: evaluation,
    "tracked": lambda x, variable, new: x,
    "cast": lambda x, *, dtype: x.astype(np_dtype(dtype)),
    # views and joins
    "expand_dims": lambda x, *, axes: np.expand_dims(x, axes),
    "squeeze": lambda x, *, axes: np.squeeze(x, axes),
    "broadcast_to": lambda x, *, shape: x + np.zeros(shape),
    "reshape": lambda x, *, shape: x.reshape(shape),
    "transpose": lambda x, *, axes: np.transpose(x, axes),
    "flip": lambda x, *, axes: np.flip(x, axes),
    "slice": slice_of,
    "pad": pad,
    "pad_border": lambda x, *, widths, mode: np.pad(x, widths, mode),
    "concat": lambda *xs, axis: np.concatenate(xs, axis),
    "iota": lambda *, length: np.arange(length),
    # reductions, scans
    "reduce_sum": reduced(np.sum),
    "reduce_prod": reduced(np.prod),
    "reduce_max": reduced(np.max),
    "reduce_min": reduced(np.min),
    "reduce_any": reduced(np.any),
    "reduce_all": reduced(np.all),
    "argmax": lambda x, *, axes: np.argmax(x, *axes, keepdims=True),
    "argmin": lambda x, *, axes: np.argmin(x, *axes, keepdims=True),
    "mean": reduced(np.mean),
    "var": reduced(np.var),
    "std": reduced(np.std),
    "logsumexp": lambda x, *, axes: np.log(np.sum(np.exp(x), axes, keepdims=True)),
    "cumsum": running(lambda total, x: total + x, 0.0),
    "cumprod": running(lambda total, x: total * x, 1.0),
    "linear_recurrence": linear_recurrence,
    "softmax": lambda x, *, axis: np.exp(x) / np.sum(np.exp(x), axis, keepdims=True),
    "log_softmax": lambda x, *, axis: x - np.log(np.sum(np.exp(x), axis, keepdims=True)),
    # order and indices
    "argsort": lambda x, *, axis, descending=False: np.argsort(-x if descending else x, axis, kind="stable"),
    "sort": sort,
    "topk": topk,
    "gather": gather,
    "scatter_add": scatter_add,
    "scatter_add_along_axis": scatter_add_along_axis,
    "one_hot": one_hot,
    "embedding": lambda indices, weight, *, padding_idx=None: weight[indices],
    # products and layers
    "linear": lambda x, weight, bias=0: x @ weight.T + bias,
    "einsum": lambda *operands, equation: np.einsum(equation, *operands),
    "conv": conv,
    "conv_bias": conv,
    "conv_transpose": conv_transpose,
    "max_pool": pooled(lambda values, flat, taps: values.max()),
    "max_pool_indices": pooled(lambda values, flat, taps: flat[int(np.argmax(values))]),
    "avg_pool": pooled(lambda values, flat, taps: values.sum() / taps),
    "global_avg_pool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdims=True),
    "global_max_pool": lambda x: x.max(tuple(range(2, x.ndim)), keepdims=True),
    "standardize": lambda x, *, axes, eps: standardized(x, axes, eps),
    "layer_norm": lambda x, w=1, b=0, *, axis, eps: standardized(x, tuple(range(axis, x.ndim)), eps) * w + b,
    "rms_norm": lambda x, w=1, *, axis, eps: (
        x / np.sqrt(np.mean(x * x, tuple(range(axis, x.ndim)), keepdims=True) + eps) * w
    ),
    "group_norm": group_norm,
    "instance_norm": lambda x, w=None, b=None, *, eps: affine(standardized(x, tuple(range(2, x.ndim)), eps), w, b),
    "batch_norm_train": lambda x, w=None, b=None, *, eps: affine(standardized(x, all_but_channels(x), eps), w, b),
    "batch_norm_inference": lambda x, mean, var, w=None, b=None, *, eps: affine(
        (x - per_channel(mean, 0, x)) / np.sqrt(per_channel(var, 1, x) + eps), w, b
    ),
    "batch_stats": lambda x: (x.mean(all_but_channels(x)), x.var(all_but_channels(x), ddof=1)),
    "masked_softmax": lambda x, *, axis: np.nan_to_num(np.exp(x) / np.sum(np.exp(x), axis, keepdims=True)),
    "scaled_dot_product_attention": attention,
    "binary_cross_entropy": lambda p, y: -y * bounded_log(p) - (1 - y) * bounded_log(1 - p),
    "cross_entropy": cross_entropy,
    "nll_loss": lambda logp, *args, **attrs: cross_entropy(logp, *args, **attrs, normalise=False),
}
