"""Metrics: what is reported beside a loss and never differentiated."""

from __future__ import annotations

from typing import Any

from graphc.dims import naming_hint, shape_text
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.operands import as_node, cast, expand_dims_op
from graphc.ops.indexing import take_along_axis
from graphc.ops.math import equal, less, less_equal, logical_not
from graphc.ops.nn import differs
from graphc.ops.reduce import argmax, mean, sum
from graphc.types import is_integer

__all__ = ["accuracy", "top_k_accuracy"]


def _checked(metric: str, logits: Any, labels: Any) -> tuple[Any, Any]:
    """Scores [N, C, ...] and the classes [N, ...] that fit them."""
    scores, classes = as_node(logits), as_node(labels)
    if not is_integer(classes.dtype):
        raise DTypeError(f"{metric}: the labels must be integers, got {classes.type}")
    wanted = (*scores.shape[:1], *scores.shape[2:])
    if scores.ndim < 2 or differs(classes.shape, wanted):
        raise ShapeError(
            f"{metric}: expected logits [N, C, ...] and labels {shape_text(wanted)}, "
            f"got {scores.type} and {classes.type}",
            hint=naming_hint(classes.shape, wanted),
        )
    return scores, classes


def accuracy(logits: Any, labels: Any) -> Any:
    """The part of the samples whose greatest score is that of their label, a float32 scalar.

    Args:
        logits: scores [N, C, ...]; of equal ones the first counts.
        labels: the classes, integers [N, ...].

    Raises:
        ShapeError, DTypeError: they don't fit each other.
    """
    scores, classes = _checked("accuracy", logits, labels)
    return mean(cast(equal(argmax(scores, axis=1), classes), "float32"))


def top_k_accuracy(logits: Any, labels: Any, k: int = 5) -> Any:
    """The part of the samples of whose label fewer than `k` scores are greater, a float32 scalar.

    Args:
        logits: scores [N, C, ...]; nan counts as greater than all others.
        labels: the classes, integers [N, ...].
        k: at least 1.

    Raises:
        ShapeError, DTypeError: they don't fit each other. ArgumentError: k is less than 1.
    """
    if k < 1:
        raise ArgumentError(f"top_k_accuracy: k must be at least 1, got {k!r}")
    scores, classes = _checked("top_k_accuracy", logits, labels)
    own = take_along_axis(scores, expand_dims_op(classes, axes=(1,)), axis=1)
    greater = sum(logical_not(less_equal(scores, own)), axis=1)
    return mean(cast(less(greater, k), "float32"))
