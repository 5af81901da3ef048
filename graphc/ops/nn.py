"""Layers' functional forms: normalisations, dropout, attention; torch's names, arguments and conventions.

16-bit floats are computed in float32 inside each of them, and rounded once, on return.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphc.composites import composite
from graphc.dims import Dim, compare, product, require_equal, shape_text
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.ir import Node
from graphc.op import Cotangents, Sample, Samples
from graphc.operands import as_node, astype, reduce_sum, squeeze_op, unbroadcast
from graphc.ops.activations import softmax, softmax_vjp
from graphc.ops.control import stop_gradient
from graphc.ops.conv import per_channel
from graphc.ops.creation import coordinate, ones_like, zeros_like
from graphc.ops.linalg import in_one_dtype, matmul
from graphc.ops.math import equal, exp, greater_equal, maximum, rsqrt, square, where
from graphc.ops.random import bernoulli
from graphc.ops.reduce import count, mean, reduce_max, widened
from graphc.ops.shape import reshape, swapaxes
from graphc.ops.state import by_mode, tracked
from graphc.types import is_float, parse_shape

Ints = tuple[int, ...]

# Of the numbers from 1 on, by dtype.
SPACING = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def require_floats(op: str, *operands: Any) -> None:
    """Check that the operands are floats.

    Raises:
        DTypeError: one isn't.
    """
    wrong = [str(x.type) for x in operands if not is_float(x.dtype)]
    if wrong:
        raise DTypeError(f"{op}: expected floats, got {', '.join(wrong)}", hint="gc.cast(x, 'float32')")


def rounded(y: Any, dtype: str) -> Any:
    """`y`, computed from operands of `dtype`, in that dtype if it is one of floats."""
    return astype(y, dtype) if is_float(dtype) else y


# --------------------------------------------------------------------------------------------- normalisations


def _standardized_vjp(g: Node, y: Node, x: Node, *, axes: Ints, eps: float) -> Cotangents:
    """(g - mean(g) - y * mean(g * y)) / sqrt(var + eps): Ioffe and Szegedy, "Batch Normalization" (2015), section 3."""
    up, out = widened(g), widened(y)
    _, inverse = _scale(widened(x), axes, eps)
    found = inverse * (up - mean(up, axes, keepdims=True) - out * mean(up * out, axes, keepdims=True))
    return (astype(found, x.dtype),)


def _moments(x: Any, axes: Ints) -> tuple[Any, Any, Any]:
    """Mean, x - mean, and the biased variance over `axes`, which are kept."""
    centre = mean(x, axes, keepdims=True)
    centred = x - centre
    return centre, centred, mean(square(centred), axes, keepdims=True)


def _scale(x: Any, axes: Ints, eps: float) -> tuple[Any, Any]:
    """x - mean, and 1 / sqrt(variance + eps)."""
    _, centred, variance = _moments(x, axes)
    return centred, rsqrt(variance + eps)


def _standardizations(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[Ints, Ints]] = [((4, 3, 5), (0, 2)), ((2, 7), (1,)), ((3, 2, 2), (0, 1, 2)), ((0, 3), (1,))]
    return [Sample((rng.standard_normal(shape),), {"axes": axes, "eps": 1e-3}) for shape, axes in cases]


@composite(vjp=_standardized_vjp, samples=_standardizations)
def standardize(x: Any, *, axes: Ints, eps: float) -> Any:
    """(x - mean) / sqrt(var + eps), with mean and biased variance over `axes`: what all normalisations share."""
    centred, inverse = _scale(widened(x), axes, eps)
    return astype(centred * inverse, x.dtype)


def _affine(y: Any, weight: Any, bias: Any) -> Any:
    """y * weight + bias, for those that are given."""
    y = y if weight is None else y * widened(weight)
    return y if bias is None else y + widened(bias)


def _channelwise(y: Any, weight: Any, bias: Any) -> Any:
    """`_affine`, with one weight and bias for each channel of y[N, C, ...]."""
    return _affine(y, *(None if v is None else per_channel(v, y.ndim) for v in (weight, bias)))


def _all_but_channels(x: Any) -> Ints:
    return (0, *range(2, x.ndim))


def _with_channels(vectors: int, **attrs: Any) -> Samples:
    """Samples of x[N, C, ...] with so many vectors of C positive values, or without the last two of them."""

    def samples(rng: np.random.Generator) -> list[Sample]:
        def call(shape: Ints, count: int) -> Sample:
            given = [rng.uniform(0.5, 2, shape[1]) for _ in range(count)]
            return Sample((rng.standard_normal(shape), *given), attrs)

        return [call((4, 6, 2), vectors), call((3, 4, 2, 3), vectors), call((5, 2, 3), max(vectors - 2, 0))]

    return samples


@composite(samples=_with_channels(2, eps=1e-3))
def batch_norm_train(x: Any, weight: Any = None, bias: Any = None, *, eps: float) -> Any:
    """x[N, C, ...] standardised over all axes but the channels, times weight[C], plus bias[C]."""
    y = standardize(widened(x), axes=_all_but_channels(x), eps=eps)
    return astype(_channelwise(y, weight, bias), x.dtype)


@composite(samples=_with_channels(4, eps=1e-3))
def batch_norm_inference(x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, *, eps: float) -> Any:
    """(x[N, C, ...] - mean[C]) / sqrt(var[C] + eps), times weight[C], plus bias[C]."""
    scale = rsqrt(widened(var) + eps)
    centred = widened(x) - per_channel(widened(mean), x.ndim)
    y = centred * per_channel(scale, x.ndim)
    return astype(_channelwise(y, weight, bias), x.dtype)


@composite(samples=_with_channels(0))
def batch_stats(x: Any) -> tuple[Any, Any]:
    """Mean[C] and unbiased variance[C] of x[N, C, ...], in float32 or float64; of one element the variance is 0."""
    axes, full = _all_but_channels(x), widened(x)
    centre, _, variance = _moments(full, axes)
    elements = count(full, axes)
    unbiased = variance * (elements / maximum(elements - 1, 1))
    return squeeze_op(centre, axes=axes), squeeze_op(unbiased, axes=axes)


def batch_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool | None = None,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Batch normalisation, as `torch.nn.functional.batch_norm`.

    In training runs each channel is standardised with the mean and variance of the batch, and the running statistics
    move towards them (the variance unbiased); in all other runs it is with the running statistics.

    Args:
        x: [batch, C, ...], floats.
        running_mean, running_var: [C], usually variables; without them the batch's statistics always serve.
        weight, bias: [C], or None.
        training: None follows the mode of the run; True or False fixes it.
        momentum: the share of the batch in the new running statistics: a number or a scalar tensor.
        eps: added to the variance.

    Raises:
        ShapeError: a vector isn't [C]. ArgumentError: only one of the running statistics is given.
    """
    x, *vectors = [None if v is None else as_node(v) for v in (x, running_mean, running_var, weight, bias)]
    require_floats("batch_norm", x)
    if x.ndim < 2:
        raise ShapeError(f"batch_norm: the input must be [batch, channels, ...], got {x.type}")
    centre, variance, weight, bias = vectors
    _require_shapes("batch_norm", x.shape[1:2], running_mean=centre, running_var=variance, weight=weight, bias=bias)
    if (centre is None) != (variance is None):
        raise ArgumentError("batch_norm: running_mean and running_var go together")
    weight = _ones_if_only(weight, bias)
    if centre is None:
        return batch_norm_train(x, weight, bias, eps=float(eps))
    evaluated = batch_norm_inference(x, centre, variance, weight, bias, eps=float(eps))
    if training is False:
        return evaluated
    trained = batch_norm_train(x, weight, bias, eps=float(eps))
    for variable, value in zip((centre, variance), batch_stats(x), strict=True):
        moved = variable * (1 - momentum) + value * momentum
        trained = tracked(trained, variable, astype(moved, variable.dtype))
    return trained if training else by_mode(trained, evaluated)


def _ones_if_only(weight: Any, bias: Any) -> Any:
    """The weight; ones if there is a bias but no weight."""
    return ones_like(bias) if weight is None and bias is not None else weight


def differs(shape: tuple[Dim, ...], wanted: tuple[Dim, ...]) -> bool:
    """Whether two shapes provably differ."""
    pairs = zip(shape, wanted, strict=False)
    return len(shape) != len(wanted) or any(compare(size, other) == "different" for size, other in pairs)


def _require_shapes(op: str, shape: tuple[Dim, ...], **operands: Any) -> None:
    """Check that those of the named operands that are given have `shape`; all that haven't are told."""
    wrong = [f"{name} is {x.type}" for name, x in operands.items() if x is not None and differs(x.shape, shape)]
    if wrong:
        raise ShapeError(f"{op}: expected {shape_text(shape)}, but {' and '.join(wrong)}")


def _layers(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[Ints, int, int]] = [((3, 4, 5), 2, 2), ((2, 3, 4), 1, 2), ((4, 7), 1, 0), ((2, 5), 1, 1)]
    samples = []
    for shape, axis, vectors in cases:
        affine = [rng.standard_normal(shape[axis:]) for _ in range(vectors)]
        samples.append(Sample((rng.standard_normal(shape), *affine), {"axis": axis, "eps": 1e-3}))
    return samples


@composite(name="layer_norm", samples=_layers)
def layer_norm_op(x: Any, weight: Any = None, bias: Any = None, *, axis: int, eps: float) -> Any:
    """`x` standardised over the axes from `axis` on, times weight, plus bias, which have these axes."""
    y = standardize(widened(x), axes=tuple(range(axis, x.ndim)), eps=eps)
    return astype(_affine(y, weight, bias), x.dtype)


@composite(name="rms_norm", samples=lambda rng: [s for s in _layers(rng) if len(s.args) < 3])
def rms_norm_op(x: Any, weight: Any = None, *, axis: int, eps: float) -> Any:
    """`x` divided by the root of its mean square over the axes from `axis` on, times weight, which has these axes."""
    full = widened(x)
    scale = rsqrt(mean(square(full), tuple(range(axis, x.ndim)), keepdims=True) + eps)
    return astype(_affine(full * scale, weight, None), x.dtype)


def _first_axis(op: str, x: Any, normalized_shape: Any, **affine: Any) -> int:
    """The axis from which on `x` is normalised; checks the operands."""
    require_floats(op, x)
    wanted = parse_shape(normalized_shape)
    tail = x.shape[max(x.ndim - len(wanted), 0) :]
    if not wanted or differs(tail, wanted):
        raise ShapeError(f"{op}: {x.type} does not end in {shape_text(wanted)}")
    _require_shapes(op, tail, **affine)
    return int(x.ndim - len(wanted))


def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Standardise over the last axes, as `torch.nn.functional.layer_norm`.

    Args:
        x: floats of shape [..., *normalized_shape].
        normalized_shape: the sizes of the last axes, or the size of the last one.
        weight, bias: of that shape, or None.
        eps: added to the biased variance.
    """
    x, weight, bias = (None if v is None else as_node(v) for v in (x, weight, bias))
    axis = _first_axis("layer_norm", x, normalized_shape, weight=weight, bias=bias)
    return layer_norm_op(x, _ones_if_only(weight, bias), bias, axis=axis, eps=float(eps))


def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Divide by the root of the mean square over the last axes, as `torch.nn.functional.rms_norm`.

    Args:
        eps: added to the mean square; by default the spacing of the dtype's numbers at 1.
        x, normalized_shape, weight: as for `layer_norm`.
    """
    x, weight = (None if v is None else as_node(v) for v in (x, weight))
    axis = _first_axis("rms_norm", x, normalized_shape, weight=weight)
    return rms_norm_op(x, weight, axis=axis, eps=SPACING[x.dtype] if eps is None else float(eps))


@composite(name="group_norm", samples=_with_channels(2, groups=2, eps=1e-3))
def group_norm_op(x: Any, weight: Any = None, bias: Any = None, *, groups: int, eps: float) -> Any:
    """x[N, C, ...] standardised over each of `groups` sets of channels, times weight[C], plus bias[C]."""
    if x.ndim < 2 or groups < 1 or (isinstance(x.shape[1], int) and x.shape[1] % groups):
        raise ShapeError(f"group_norm: num_groups={groups} must divide the channels of {x.type}")
    require_equal(x.shape[1] % groups, 0, f"num_groups={groups} must divide the channels of {x.type}; the rest")
    channels = (groups, x.shape[1] // groups)
    y = standardize(reshape(widened(x), (x.shape[0], *channels, product(x.shape[2:]))), axes=(2, 3), eps=eps)
    weight, bias = (None if v is None else reshape(v, (*channels, 1)) for v in (weight, bias))
    return astype(reshape(_affine(y, weight, bias), x.shape), x.dtype)


def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Standardise over groups of channels, as `torch.nn.functional.group_norm`.

    Args:
        x: [batch, C, ...], floats.
        num_groups: how many groups of C / num_groups channels.
        weight, bias: [C], or None.
    """
    x, weight, bias = (None if v is None else as_node(v) for v in (x, weight, bias))
    require_floats("group_norm", x)
    _require_shapes("group_norm", x.shape[1:2], weight=weight, bias=bias)
    return group_norm_op(x, _ones_if_only(weight, bias), bias, groups=int(num_groups), eps=float(eps))


@composite(name="instance_norm", samples=_with_channels(2, eps=1e-3))
def instance_norm_op(x: Any, weight: Any = None, bias: Any = None, *, eps: float) -> Any:
    """x[N, C, ...] standardised over the axes behind the channels, times weight[C], plus bias[C]."""
    y = standardize(widened(x), axes=tuple(range(2, x.ndim)), eps=eps)
    return astype(_channelwise(y, weight, bias), x.dtype)


def instance_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Standardise each channel of each sample, as torch's `instance_norm` does without running statistics.

    Args:
        x: [batch, C, ...], floats, with at least one axis behind the channels.
        weight, bias: [C], or None.
    """
    x, weight, bias = (None if v is None else as_node(v) for v in (x, weight, bias))
    require_floats("instance_norm", x)
    if x.ndim < 3:
        raise ShapeError(f"instance_norm: the input must be [batch, channels, *spatial], got {x.type}")
    _require_shapes("instance_norm", x.shape[1:2], weight=weight, bias=bias)
    return instance_norm_op(x, _ones_if_only(weight, bias), bias, eps=float(eps))


# --------------------------------------------------------------------------------------------- dropout


def dropout(x: Any, p: float = 0.5, training: bool | None = None) -> Any:
    """Zero each element with probability `p` and scale the others by 1 / (1 - p), in training runs only.

    Args:
        x: floats of any shape.
        p: in [0, 1].
        training: None follows the mode of the run; True or False fixes it.

    Raises:
        ArgumentError: `p` is no probability.
    """
    x = as_node(x)
    require_floats("dropout", x)
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout: p is a probability, in [0, 1], got {p!r}")
    if p == 0 or training is False:
        return x
    dropped = zeros_like(x) if p == 1 else where(bernoulli(1 - p, x.shape, name="dropout"), x * (1 / (1 - p)), 0)
    return dropped if training else by_mode(dropped, x)


# --------------------------------------------------------------------------------------------- attention


def _scores(rng: np.random.Generator) -> list[Sample]:
    """Some elements are -inf, and all of a row."""
    x = rng.standard_normal((4, 3, 5))
    x[rng.random(x.shape) < 0.3] = -math.inf
    x[1, 2] = -math.inf
    return [Sample((x,), {"axis": 2}), Sample((x,), {"axis": 0})]


@composite(accepts="float", vjp=softmax_vjp, samples=_scores)
def masked_softmax(x: Any, *, axis: int) -> Any:
    """The softmax along an axis; zeros where all elements are -inf, of which the softmax is nan."""
    top = reduce_max(stop_gradient(x), axes=(axis,))
    e = exp(x - where(equal(top, -math.inf), 0, top))
    return e / maximum(reduce_sum(e, axes=(axis,)), 1)  # a sum with the maximum's 1 in it, or 0


def _seen(scores: Any) -> Any:
    """Which keys a causal query sees: those up to its own place."""
    query, key = (coordinate(scores.shape, scores.ndim - back) for back in (2, 1))
    return greater_equal(query, key)


def _shares(q: Any, k: Any, mask: Any, is_causal: bool, scale: float) -> Any:
    """The shares of the keys in what each query gets, in at least float32."""
    scores = matmul(widened(q), swapaxes(widened(k), -2, -1)) * scale
    if is_causal:
        scores = where(_seen(scores), scores, -math.inf)
    if mask is not None:
        scores = where(mask, scores, -math.inf) if mask.dtype == "bool" else scores + mask
    return softmax(scores, axis=-1) if mask is None else masked_softmax(scores, axis=scores.ndim - 1)


def _attended(q: Any, k: Any, v: Any, mask: Any, is_causal: bool, scale: float, dropout_p: float = 0.0) -> Any:
    """The values, weighted for each query by a softmax over the keys; `dropout_p` drops weights."""
    weights = dropout(_shares(q, k, mask, is_causal, scale), dropout_p, training=True)
    return rounded(matmul(weights, widened(v)), v.dtype)


def _cotangents(g: Any, q: Any, k: Any, v: Any, mask: Any, is_causal: bool, scale: float) -> list[Any]:
    """The cotangents of attention's operands, that of a float mask included."""
    shares, up = _shares(q, k, mask, is_causal, scale), widened(g)
    to_shares = matmul(up, swapaxes(widened(v), -2, -1))
    to_scores: Any
    (to_scores,) = softmax_vjp(to_shares, shares, shares, axis=shares.ndim - 1)
    to_mask = to_scores
    if mask is not None and mask.dtype == "bool":
        to_scores = where(mask, to_scores, 0)
    if is_causal:
        to_scores = where(_seen(to_scores), to_scores, 0)
    to_product = to_scores * scale
    found = [
        (matmul(to_product, widened(k)), q),
        (matmul(swapaxes(to_product, -2, -1), widened(q)), k),
        (matmul(swapaxes(shares, -2, -1), up), v),
    ]
    if mask is not None and mask.dtype != "bool":
        found.append((to_mask, mask))
    return [rounded(unbroadcast(to, x, reduce_sum), x.dtype) for to, x in found]


def _attentions(rng: np.random.Generator) -> list[Sample]:
    def call(batch: Ints, queries: int, keys: int, mask: Any = None, is_causal: bool = False) -> Sample:
        shapes = ((*batch, queries, 4), (*batch, keys, 4), (*batch, keys, 3))
        given = () if mask is None else (mask,)
        return Sample((*map(rng.standard_normal, shapes), *given), {"is_causal": is_causal, "scale": 0.5})

    visible = rng.random((5, 6)) < 0.6
    visible[:, 2] = True  # every query sees a key
    return [
        call((2, 3), 5, 6),
        call((), 3, 3, is_causal=True),
        call((2,), 5, 6, visible),
        call((2,), 5, 6, rng.standard_normal((2, 1, 6))),
        call((0,), 2, 3),
    ]


def _attention_grads(rng: np.random.Generator) -> list[Sample]:
    samples = [sample for sample in _attentions(rng) if len(sample.args) < 4 or sample.args[3].dtype == bool]
    return [
        Sample((rng.standard_normal((*q.shape[:-1], v.shape[-1])), q, k, v, *mask), sample.attrs)
        for sample in samples
        for q, k, v, *mask in [sample.args]
    ]


@composite(name="scaled_dot_product_attention_grad", samples=_attention_grads)
def attention_grad(g: Any, q: Any, k: Any, v: Any, mask: Any = None, *, is_causal: bool, scale: float) -> Any:
    """The gradient of attention in q, k and v, for a mask of bools or none; it needs no shares from before."""
    return tuple(_cotangents(g, q, k, v, mask, is_causal, scale))


def _attention_vjp(
    g: Any, y: Any, q: Any, k: Any, v: Any, mask: Any = None, *, is_causal: bool, scale: float
) -> Cotangents:
    if mask is None:
        return tuple(attention_grad(g, q, k, v, is_causal=is_causal, scale=scale))
    if mask.dtype == "bool":
        return (*attention_grad(g, q, k, v, mask, is_causal=is_causal, scale=scale), None)
    return tuple(_cotangents(g, q, k, v, mask, is_causal, scale))


@composite(name="scaled_dot_product_attention", samples=_attentions, vjp=_attention_vjp)
def attention_op(q: Any, k: Any, v: Any, mask: Any = None, *, is_causal: bool, scale: float) -> Any:
    """softmax(q @ k.mT * scale + mask) @ v, where a bool mask is True for what is seen."""
    return _attended(q, k, v, mask, is_causal, scale)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    """Attention, as `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        query: [..., L, E].
        key: [..., S, E].
        value: [..., S, V].
        attn_mask: broadcastable to [..., L, S]: bools, True for the keys that a query sees, or floats to add to the
            scores. A query that sees no key gets zeros.
        dropout_p: the probability with which a weight is dropped, in training runs only.
        is_causal: a query sees no key with a greater index than its own.
        scale: factor of the scores; 1 / sqrt(E) by default.

    Returns:
        [..., L, V].

    Raises:
        ShapeError: the sizes don't fit. ArgumentError: E is symbolic and no scale is given.
    """
    q, k, v = in_one_dtype(query, key, value)
    require_floats("scaled_dot_product_attention", q)
    if min(q.ndim, k.ndim, v.ndim) < 2 or compare(k.shape[-2], v.shape[-2]) == "different":
        raise ShapeError(
            f"scaled_dot_product_attention: expected query [..., L, E], key [..., S, E] and value [..., S, V], "
            f"got {q.type}, {k.type} and {v.type}",
        )
    if scale is None:
        if not isinstance(q.shape[-1], int):
            what = f"scaled_dot_product_attention: the last size of {q.type} isn't known"
            raise ArgumentError(what, hint="give scale=")
        scale = 1 / math.sqrt(max(q.shape[-1], 1))
    mask = None if attn_mask is None else as_node(attn_mask)
    if mask is not None and mask.dtype != "bool":
        mask = astype(mask, q.dtype)
    options: dict[str, Any] = dict(is_causal=bool(is_causal), scale=float(scale))
    whole = attention_op(q, k, v, mask, **options)
    return by_mode(_attended(q, k, v, mask, **options, dropout_p=dropout_p), whole) if dropout_p else whole
