"""Likely sizes of symbolic dimensions, where a pass that runs before they are known only needs a guess."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from graphc.dims import Dim
from graphc.dims import evaluate as evaluate_dim
from graphc.errors import ShapeError

NOMINAL: Mapping[str, int] = defaultdict(lambda: 64)


def guess(dim: Dim, sizes: Mapping[str, int] = NOMINAL) -> int:
    """A likely value of `dim`, from sizes of 64 for all symbols, or other `sizes`."""
    try:
        return max(evaluate_dim(dim, sizes), 0)
    except ShapeError:  # it divides by what isn't positive at these sizes
        return sizes[""]
