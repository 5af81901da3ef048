"""Losses, with torch's names, arguments and conventions.

Those of classes are composites, which ONNX knows whole and which compute 16-bit floats in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.composites import composite
from graphc.dims import naming_hint, shape_text
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.op import Cotangents, Sample
from graphc.operands import as_node, astype, expand_dims_op, squeeze_op
from graphc.ops.activations import log_softmax
from graphc.ops.conv import per_channel
from graphc.ops.indexing import take, take_along_axis
from graphc.ops.math import abs, exp, less, log, log1p, maximum, not_equal, square, where
from graphc.ops.nn import differs, require_floats, rounded
from graphc.ops.reduce import mean, sum, widened
from graphc.types import is_float, is_integer

LEAST_LOG, LEAST_VARIANCE = -100, 1e-12  # torch's bounds in the binary cross-entropy and its gradient

REDUCTIONS: dict[str, Callable[[Any], Any]] = {"none": lambda losses: losses, "mean": mean, "sum": sum}


def _classes(rng: np.random.Generator) -> list[Sample]:
    """Log-probabilities, targets (some of them ignored), and weights of the classes."""
    cases: list[tuple[tuple[int, ...], dict[str, Any], bool]] = [
        ((5, 3), {}, False),
        ((4, 3), {"reduction": "sum", "ignore_index": 0}, True),
        ((2, 3, 5), {"reduction": "none", "ignore_index": 2}, True),
        ((3, 7, 1, 2), {"ignore_index": 1}, False),
        ((0, 3), {"reduction": "sum"}, False),
    ]
    samples = []
    for shape, attrs, weighted in cases:
        target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
        target.flat[:1] = attrs.get("ignore_index", 0)
        weight = [rng.uniform(0.5, 2, shape[1])] if weighted else []
        samples.append(Sample((rng.standard_normal(shape), target, *weight), attrs))
    return samples


def _smoothed(rng: np.random.Generator) -> list[Sample]:
    """The same with label smoothing, and with probabilities as targets."""
    plain = _classes(rng)
    smooth = [Sample(s.args, {**s.attrs, "label_smoothing": 0.1}) for s in plain]
    soft = []
    for shape in ((4, 3), (2, 3, 5)):
        operands = rng.standard_normal(shape), rng.uniform(0, 1, shape), rng.uniform(0.5, 2, shape[1])
        soft.append(Sample(operands, {"label_smoothing": 0.2}))
    return [*plain, *smooth, *soft]


# --------------------------------------------------------------------------------------------- of classes


def _nll(logp: Any, target: Any, weight: Any, ignore_index: int) -> tuple[Any, Any, Any]:
    """For each target: its weighted negative log-probability, its weight (both 0 if ignored), whether it counts."""
    target = astype(target, "int64")
    counts = not_equal(target, ignore_index)
    label = where(counts, target, 0)
    taken = squeeze_op(take_along_axis(logp, expand_dims_op(label, axes=(1,)), axis=1), axes=(1,))
    share = astype(counts, logp.dtype) if weight is None else where(counts, take(weight, label, axis=0), 0)
    return where(counts, -(taken * share), 0), share, counts


def _averaged(losses: Any, total: Any, reduction: str) -> Any:
    """`losses` reduced; their mean is over a `total` of weights."""
    if reduction == "mean":
        return sum(losses) / total
    return REDUCTIONS[reduction](losses)


@composite(name="nll_loss", samples=_classes)
def nll_loss_op(
    logp: Any, target: Any, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    """The negative of logp[N, C, ...] at target[N, ...], times weight[C]; the mean is over the weights."""
    wide, scale = widened(logp), None if weight is None else astype(weight, widened(logp).dtype)
    losses, share, _ = _nll(wide, target, scale, ignore_index)
    return rounded(_averaged(losses, sum(share), reduction), logp.dtype)


@composite(name="cross_entropy", samples=_smoothed)
def cross_entropy_op(
    logits: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """-log(softmax(logits[N, C, ...])) of the classes target[N, ...], or averaged by probabilities target[N, C, ...].

    With smoothing s, a part s of each target is spread evenly over the classes.
    """
    logp = log_softmax(widened(logits), axis=1)
    scale = None if weight is None else astype(weight, logp.dtype)
    weighted = logp if scale is None else logp * per_channel(scale, logp.ndim)
    if target.ndim == logits.ndim:
        chances = astype(target, logp.dtype) * (1 - label_smoothing)
        losses = -sum(weighted * chances, axis=1) - label_smoothing * mean(weighted, axis=1)
        return rounded(REDUCTIONS[reduction](losses), logits.dtype)
    losses, share, counts = _nll(logp, target, scale, ignore_index)
    total = sum(share)
    if label_smoothing:
        spread = where(counts, -mean(weighted, axis=1), 0)
        losses = (1 - label_smoothing) * losses + label_smoothing * spread
    return rounded(_averaged(losses, total, reduction), logits.dtype)


def _checked(op: str, reduction: str, *operands: Any) -> list[Any]:
    """The operands as tensors or None, the first of them floats; the reduction must be a known one."""
    if reduction not in REDUCTIONS:
        known = ", ".join(map(repr, REDUCTIONS))
        raise ArgumentError(f"{op}: reduction must be one of {known}, got {reduction!r}")
    tensors = [None if value is None else as_node(value) for value in operands]
    require_floats(op, tensors[0])
    return tensors


def _with_class_axis(op: str, scores: Any, target: Any, weight: Any) -> tuple[Any, Any]:
    """Scores [N, C, ...] and targets that fit them, from [C] and a scalar as well.

    Raises:
        ShapeError, DTypeError: they don't fit.
    """
    soft = is_float(target.dtype)
    if not soft and not is_integer(target.dtype):
        raise DTypeError(f"{op}: the target must hold integers (classes) or floats, got {target.type}")
    axis = min(1, scores.ndim - 1)
    classes = scores.shape[axis : axis + 1]
    wanted = scores.shape if soft else (*scores.shape[: max(axis, 0)], *scores.shape[axis + 1 :])
    if not scores.ndim or differs(target.shape, wanted):
        raise ShapeError(
            f"{op}: {scores.type} has its classes on axis {max(axis, 0)} and needs a target {shape_text(wanted)}, "
            f"got {target.type}",
            hint=naming_hint(target.shape, wanted),
        )
    if weight is not None and differs(weight.shape, classes):
        raise ShapeError(f"{op}: the weight must be {shape_text(classes)}, got {weight.type}")
    if scores.ndim > 1:
        return scores, target
    return expand_dims_op(scores, axes=(0,)), expand_dims_op(target, axes=(0,))


def nll_loss(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """The negative log-likelihood of classes, as `torch.nn.functional.nll_loss`.

    Args:
        input: log-probabilities [N, C, ...], or [C].
        target: the classes, integers [N, ...], or a scalar.
        weight: of each class, [C].
        ignore_index: targets of this value count for nothing.
        reduction: "mean" (over the weights of the targets), "sum" or "none".

    Raises:
        ShapeError, DTypeError: the operands don't fit each other. ArgumentError: an unknown reduction.
    """
    logp, target, weight = _checked("nll_loss", reduction, input, target, weight)
    if is_float(target.dtype):
        raise DTypeError(f"nll_loss: the target must hold classes, integers, got {target.type}")
    rows, labels = _with_class_axis("nll_loss", logp, target, weight)
    loss = nll_loss_op(rows, labels, weight, ignore_index=int(ignore_index), reduction=reduction)
    return loss if logp.ndim > 1 or not loss.ndim else squeeze_op(loss, axes=(0,))


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """The cross-entropy of softmax(input) against the target, as `torch.nn.functional.cross_entropy`.

    Args:
        input: logits [N, C, ...], or [C].
        target: the classes, integers [N, ...]; or their probabilities, floats of the shape of the input.
        weight: of each class, [C].
        ignore_index: targets of this value count for nothing (not for probabilities).
        label_smoothing: in [0, 1]: the part of each target that is spread evenly over all classes.
        reduction: "mean" (over the weights of the targets; for probabilities over their number), "sum" or "none".

    Raises:
        ShapeError, DTypeError: the operands don't fit each other. ArgumentError: an unknown reduction, or a smoothing
        outside [0, 1].
    """
    logits, target, weight = _checked("cross_entropy", reduction, input, target, weight)
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"cross_entropy: label_smoothing is in [0, 1], got {label_smoothing!r}")
    rows, labels = _with_class_axis("cross_entropy", logits, target, weight)
    options: dict[str, Any] = dict(ignore_index=int(ignore_index), label_smoothing=float(label_smoothing))
    loss = cross_entropy_op(rows, labels, weight, **options, reduction=reduction)
    return loss if logits.ndim > 1 or not loss.ndim else squeeze_op(loss, axes=(0,))


# --------------------------------------------------------------------------------------------- of numbers


def _elementwise(
    op: str, reduction: str, input: Any, target: Any, losses: Callable[[Any, Any], Any], weight: Any = None
) -> Any:
    """`losses` of each pair of elements, weighted and reduced; the operands must have one shape.

    Raises:
        ShapeError: they have two. [n, 1] against [n] would silently broadcast to [n, n].
    """
    x, y = _checked(op, reduction, input, target)
    if y.ndim and differs(x.shape, y.shape):
        raise ShapeError(
            f"{op}: input and target must have one shape, got {x.type} and {y.type}",
            hint=naming_hint(x.shape, y.shape) or "reshape one of them",
        )
    values = losses(x, y)
    return REDUCTIONS[reduction](values if weight is None else values * weight)


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """The squared difference, (input - target)**2; the operands have one shape, or the target is a scalar.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ShapeError: the shapes differ. ArgumentError: an unknown reduction. The other losses here raise the same.
    """
    return _elementwise("mse_loss", reduction, input, target, lambda x, y: square(x - y))


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """The absolute difference, |input - target|; arguments as for `mse_loss`."""
    return _elementwise("l1_loss", reduction, input, target, lambda x, y: abs(x - y))


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """Half the squared difference up to |input - target| = `delta`, and linear from there on."""

    def losses(x: Any, y: Any) -> Any:
        difference = x - y
        size = abs(difference)
        return where(less(size, delta), 0.5 * square(difference), delta * (size - 0.5 * delta))

    return _elementwise("huber_loss", reduction, input, target, losses)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """`huber_loss` with delta = beta, divided by beta; for beta = 0 the absolute difference."""
    if beta == 0:
        return l1_loss(input, target, reduction)
    return huber_loss(input, target, reduction, beta) / beta


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """The cross-entropy of sigmoid(input) against the probabilities `target`, computed without overflow.

    Args:
        input, target: floats of one shape.
        weight: of each element; broadcasts.
        reduction: "mean", "sum" or "none".
        pos_weight: the weight of the positive part, usually one for each class; broadcasts.
    """

    def losses(x: Any, y: Any) -> Any:
        negative = (1 - y) * x
        surprise = maximum(-x, 0) + log1p(exp(-abs(x)))  # -log(sigmoid(x))
        return negative + surprise * (1 if pos_weight is None else 1 + (pos_weight - 1) * y)

    return _elementwise("binary_cross_entropy_with_logits", reduction, input, target, losses, weight)


def _surprise_vjp(g: Any, y: Any, p: Any, target: Any) -> Cotangents:
    """In `p` that of the unbounded logarithms, with a bounded denominator: a wrong certainty is corrected."""
    to_target = maximum(log1p(-p), LEAST_LOG) - maximum(log(p), LEAST_LOG)
    return g * ((p - target) / maximum(p * (1 - p), LEAST_VARIANCE)), g * to_target


def _chances(rng: np.random.Generator) -> list[Sample]:
    shapes = ((3, 5), (), (0, 2))
    certain = Sample((np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])), differentiable=False)
    return [*[Sample((rng.uniform(0.1, 0.9, s), rng.uniform(0, 1, s))) for s in shapes], certain]


@composite(name="binary_cross_entropy", accepts="float", vjp=_surprise_vjp, samples=_chances)
def surprise_op(p: Any, target: Any) -> Any:
    """-target * log(p) - (1 - target) * log(1 - p), with logarithms of at least -100."""
    return -(target * maximum(log(p), LEAST_LOG) + (1 - target) * maximum(log1p(-p), LEAST_LOG))


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """The cross-entropy of the probabilities `input` against the probabilities `target`.

    Logarithms are taken as no less than -100, as in torch, so the loss is finite for 0 and 1. So is its gradient, which
    points away from a wrong certainty: it is (input - target) / max(input * (1 - input), 1e-12).
    """
    return _elementwise("binary_cross_entropy", reduction, input, target, surprise_op, weight)
