"""What layers refuse when they are made, rather than when they are first called."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

from graphc.errors import ArgumentError, GraphcError
from graphc.ir import Graph, Node
from graphc.ops.activations import GELUS
from graphc.ops.losses import REDUCTIONS
from graphc.ops.state import placeholder
from graphc.ops.windows import AXES

Limit = tuple[Callable[[Any], bool], str]  # whether a value is accepted, and what it must be


def _at_least(least: int) -> Limit:
    def holds(value: Any) -> bool:
        try:
            return operator.index(value) >= least
        except (TypeError, GraphcError):
            return False

    return holds, f"an int that is at least {least}"


def _each(limit: Limit, text: str) -> Limit:
    """One value or several."""
    return lambda value: all(map(limit[0], value if isinstance(value, tuple | list) else (value,))), text


def _or(other: Callable[[Any], bool], limit: Limit) -> Limit:
    return lambda value: other(value) or limit[0](value), limit[1]


def _is_none(value: Any) -> bool:
    return value is None


def _between(least: float, most: float, text: str) -> Limit:
    return lambda value: isinstance(value, Real) and least <= float(value) <= most, text


def _one_of(known: Iterable[str]) -> Limit:
    names = tuple(known)
    return lambda value: value in names, f"one of {', '.join(map(repr, names))}"


_SIZE, _COUNT = _at_least(0), _at_least(1)
_SHARE = _between(0, 1, "a number in [0, 1]")
_NUMBER = _between(-math.inf, math.inf, "a number")
_NOT_NEGATIVE = _between(0, math.inf, "a number that is at least 0")

# What an argument must be, by its name: the same in every layer that has it.
LIMITS: dict[str, Limit] = {
    "in_features": _SIZE,
    "out_features": _SIZE,
    "num_features": _SIZE,
    "in_channels": _SIZE,
    "out_channels": _SIZE,
    "num_channels": _SIZE,
    "num_embeddings": _SIZE,
    "embedding_dim": _SIZE,
    "num_groups": _COUNT,
    "normalized_shape": _each(_SIZE, "an int or several that are at least 0"),
    "output_size": _each(_or(_is_none, _COUNT), "an int that is at least 1, or one or None for each spatial axis"),
    "p": _between(0, 1, "a probability, in [0, 1]"),
    "label_smoothing": _SHARE,
    "momentum": _or(lambda value: value is None or isinstance(value, Node), _SHARE),
    "eps": _NOT_NEGATIVE,
    "delta": _NOT_NEGATIVE,
    "beta": _NOT_NEGATIVE,
    "negative_slope": _NUMBER,
    "alpha": _NUMBER,
    "threshold": _NUMBER,
    "approximate": _one_of(GELUS),
    "reduction": _one_of(REDUCTIONS),
}


def require(layer: str, **given: Any) -> None:
    """Check arguments of a layer against `LIMITS`; those that it doesn't name may be anything.

    Raises:
        ArgumentError: some don't hold; all are told.
    """
    unlimited: Limit = (lambda value: True, "")
    checked = [(name, value, *LIMITS.get(name, unlimited)) for name, value in given.items()]
    wrong = [f"{name} must be {wanted}, got {value!r}" for name, value, holds, wanted in checked if not holds(value)]
    if wrong:
        raise ArgumentError(f"{layer}: {'; '.join(wrong)}")


def require_windows(
    function: Callable[..., Any], rank: int, options: Mapping[str, Any], *more: tuple[int, ...]
) -> None:
    """Call a convolution or pooling on an input of any size, in a graph of its own: it tells what it refuses.

    Args:
        rank: how many spatial axes it has.
        more: the shapes of its further operands, such as the weight [O, C, *kernel].
    """
    with Graph():
        spatial = AXES[rank].split(", ")
        operands = [
            placeholder(f"operand{k}", shape) for k, shape in enumerate([("batch", "channels", *spatial), *more])
        ]
        function(*operands, **options)
