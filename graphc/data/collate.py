"""How samples become a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, ShapeError

REMEDY = "give the loader a collate_fn that makes a batch of such samples"


def default_collate(samples: Sequence[Any]) -> Any:
    """One batch of a non-empty list of samples, with torch's rules.

    Arrays and numbers (int → int64, float → float64, bool) are stacked along a new first axis; tuples, named
    tuples, lists and dicts keep their form and are collated entry by entry; strings and bytes become a list.

    Raises:
        ShapeError: arrays of different shapes, or tuples, lists and dicts of different sizes or keys.
        DTypeError: samples of a type that no rule covers.
    """
    first = samples[0]
    if isinstance(first, (str, bytes)):
        return list(samples)
    if isinstance(first, Mapping):
        keys = list(first)
        _require_same("dicts with the same keys", [set(sample) for sample in samples])
        return {key: default_collate([sample[key] for sample in samples]) for key in keys}
    if isinstance(first, (tuple, list)):
        _require_same(f"{type(first).__name__}s of one length", [len(sample) for sample in samples])
        entries = [default_collate(entry) for entry in zip(*samples, strict=True)]
        return type(first)(*entries) if hasattr(first, "_fields") else type(first)(entries)
    arrays = [np.asarray(sample) for sample in samples]
    if any(array.dtype == object for array in arrays):
        raise DTypeError(
            f"samples of type {type(first).__name__} cannot be stacked into an array", hint=REMEDY
        )
    _require_same("arrays of one shape", [array.shape for array in arrays])
    return np.stack(arrays)


def _require_same(what: str, traits: Sequence[object]) -> None:
    other = next((trait for trait in traits if trait != traits[0]), None)
    if other is not None:
        raise ShapeError(f"a batch needs {what}, got {traits[0]} and {other}", hint=REMEDY)
